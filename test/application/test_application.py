"""An application without ROS: tasks of several kinds, failures, and what its diagnostics say."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynofa_ros.application import application as room
from dynofa_ros.application import task as task_module
from dynofa_ros.application.application import Application, Settings, loaded
from dynofa_ros.application.task import IMAGE, TEXT, Answer, Option, Output, Task, register_task, tasks
from dynofa_ros.application.worker import Canceled, MalformedRequest, OrderedQueue, Outcome
from dynofa_ros.messages import (
    AppTargets,
    Classification,
    Header,
    InferenceMonitor,
    SubnetCommand,
    SubnetCondition,
)
from dynofa_ros.topics import Topic

WAIT_S = 10.0
SENT = Header(12, "lens")
TEXT_TOPIC = Topic("perception/{app}/text", "dynofa_ros/msg/Classification")
LENGTH_TOPIC = Topic("perception/{app}/length", "dynofa_ros/msg/Classification", latched=True)
IMAGE_PX = np.full((90, 160, 3), 127, np.uint8)


class Words(Task):
    """A task as unlike images as can be: text in, one message per word, then all of them, in two topics."""

    name, request = "words", TEXT
    outputs = (Output(TEXT_TOPIC), Output(LENGTH_TOPIC))
    options = (Option("separator", " ", "between two words"),)

    def __init__(self, weights: Any) -> None:
        self._classes = len(weights.labels)

    def announcements(self) -> Mapping[str, Any]:
        return {LENGTH_TOPIC: Classification(results=())}

    def preprocess(self, request: Any, network: Any) -> Any:
        return request.split(" "), np.zeros((1, *network.input_shape), np.float32)

    def infer(self, run: Callable[[Any], Any], tensors: Any, emit: Any) -> Any:
        words, tensor = tensors
        for _ in words:
            assert run(tensor).shape == (1, self._classes)
            emit({TEXT_TOPIC: Classification(results=())})
        return words

    def postprocess(self, outputs: Any, request: Any, network: Any, options: Mapping[str, Any]) -> Answer:
        assert options["separator"].join(outputs) == request
        return Answer({TEXT_TOPIC: Classification(results=())}, 1.0 / len(outputs))


class Running:
    """An application, and everything that it published."""

    def __init__(self, task: type[Task], **options: Any) -> None:
        self.published: list[tuple[Topic, Any]] = []
        self.warnings: list[str] = []
        self.unanswered: list[tuple[Any, Outcome, str]] = []
        settings = Settings("", "", "cpu", "onnxruntime", options.pop("cache_mb", 32.0), False, 1.0)
        options = {o.name: o.default for o in task.options} | options
        self.application = Application(
            "front",
            *loaded(task, settings, options),
            settings,
            AppTargets(app="front", latency_target_ms=1000.0, rate_hz=200.0),
            "",
            options=options,
            decode=self.decode,
            publish=lambda topic, message: self.published.append((topic, message)),
            clock_ns=time.time_ns,
            warn=self.warnings.append,
            unanswered=lambda *what: self.unanswered.append(what),
        )
        self.application.start()

    def decode(self, message: Any) -> tuple[Header, Any]:
        if message is None:
            raise MalformedRequest("there is nothing in it")
        return SENT, message

    def of(self, name: str) -> list[Any]:
        return [message for topic, message in list(self.published) if topic.name.endswith(f"/{name}")]

    def send(self, message: Any) -> None:
        assert self.application.accept(message)

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < end, self.published
            time.sleep(0.002)
        return found

    def answer(self, message: Any) -> InferenceMonitor:
        """Send a request; its monitor."""
        before = len(self.of("monitor"))
        time.sleep(0.006)  # a period of rate_hz
        self.send(message)
        return self.until(lambda: self.of("monitor")[before:])[0]


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(task: type[Task], **options: Any) -> Running:
        made.append(Running(task, **options))
        return made[-1]

    yield start
    for one in made:
        one.application.stop("the test is over")
        one.application.close()


def test_the_whole_library_is_held_where_there_is_room(running: Callable[..., Running]) -> None:
    one, small = running(Words), running(Words, cache_mb=0.0)
    every = {entry.id for entry in one.application.networks.libraries["cpu"]}
    one.until(lambda: {p.key.subnet_id for p in one.application.resident} == every)
    assert one.application.current is not None
    assert [p.key for p in small.application.resident] == [small.application.command.order.key]
    wanted = one.application.networks.libraries["cpu"].entries[-1].id
    one.application.command.take(SubnetCommand(7, wanted, "cpu"))
    assert one.application.current.key.subnet_id == wanted, "at once"
    assert SubnetCondition.PENDING not in [state.status for state in one.of("subnet_state")]


def test_every_task_is_known_by_its_name_and_has_parameters_of_its_own() -> None:
    known = tasks(IMAGE) | tasks(TEXT)
    assert "classification" in tasks(IMAGE)
    assert all(name == task.name for name, task in known.items())
    options = [option.name for task in known.values() for option in task.options]
    assert len(options) == len(set(options))
    for task in known.values():
        topics = [output.topic for output in task.outputs]
        assert len(topics) == len(set(topics))


def test_the_first_task_of_images_is_the_same_whichever_was_imported_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the default of the parameter `task`."""
    known = {**tasks(IMAGE), **tasks(TEXT)}
    registered = {name: known[name] for name in ("translation", "detection", "classification")}
    monkeypatch.setattr(task_module, "_TASKS", registered)
    assert list(tasks(IMAGE))[:2] == ["classification", "detection"]


def test_a_registered_task_is_found_by_the_kind_of_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynofa_ros.application import task as seam

    monkeypatch.setattr(seam, "_TASKS", dict(seam._TASKS))
    register_task(Words)
    assert tasks(TEXT)["words"] is Words and "words" not in tasks(IMAGE)


def test_classification_answers_an_image_with_the_header_of_its_request(running) -> None:
    front = running(tasks(IMAGE)["classification"], top_k=3)
    monitor = front.answer(IMAGE_PX)
    result = front.of("classification")[0]
    assert result.header == monitor.header == SENT
    scores = [r.score for r in result.results]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and monitor.top1_score == scores[0]
    assert front.of("vision_classification") == [result]
    assert set(r.class_id for r in result.results) <= set(front.application.networks.weights.labels)


def test_another_task_needs_nothing_but_its_class(running) -> None:
    """Text in, several outputs, partial results while it runs, something latched from the start."""
    front = running(Words)
    assert len(front.of("length")) == 1 and front.of("length")[0].header.stamp_ns > 0
    monitor = front.answer("turn left here")
    assert len(front.of("text")) == 4 and {m.header for m in front.of("text")} == {SENT}
    assert monitor.top1_score == pytest.approx(1 / 3)
    assert monitor.latency_ms == pytest.approx(
        monitor.queue_wait_ms + monitor.preprocess_ms + monitor.inference_ms + monitor.postprocess_ms
    )


def test_a_view_is_made_for_whoever_looks_and_its_failure_is_no_failure_of_the_request(running) -> None:
    made: list[Header] = []

    class Seen(Words):
        def postprocess(self, *given: Any) -> Answer:
            view = {LENGTH_TOPIC: lambda header: made.append(header) or 1 / (2 - len(made))}
            return replace(super().postprocess(*given), views=view)

    front = running(Seen)
    front.answer("nobody looks")
    assert not made
    shown: list[Any] = []
    front.application._show = lambda topic, make: shown.append((topic, front.of("monitor")[-1], make()))
    monitor = front.answer("now somebody does")
    front.until(lambda: shown)
    assert shown == [(LENGTH_TOPIC, monitor, 1.0)] and made == [SENT], "after the monitor"
    front.answer("and it fails")
    counters = front.application.counters
    problem = front.until(lambda: counters.problems.get(False))
    assert problem.reason == "its monitor or a view was not published: ZeroDivisionError: division by zero"
    assert (counters.answered, counters.failed) == (3, 0)


def test_nothing_but_a_task_knows_what_is_answered() -> None:
    package = Path(room.__file__).parents[1]
    tasks_files = ("task.py", "classification.py", "detection.py")
    files = [p for p in (package / "application").glob("*.py") if p.name not in tasks_files]
    files += [package / "nodes" / f"perception_{name}.py" for name in ("node", "status", "parameters")]
    words = re.compile(r"\b(softmax|logits?|labels?|class_id|classes|top_k|resolution|crop|ndarray)\b")
    found = {p.name: sorted(set(words.findall(p.read_text()))) for p in files}
    found["networks.py"] = [w for w in found["networks.py"] if w != "ndarray"]  # statistics of the weights
    assert {name: own for name, own in found.items() if own} == {}


def test_a_command_changes_the_network_between_two_requests(running) -> None:
    front = running(Words)
    smallest = front.application.networks.libraries["cpu"].entries[0].id
    front.application.command.take(SubnetCommand(decision_id=7, subnet_id=smallest))
    front.until(lambda: front.of("subnet_state")[-1].status == SubnetCondition.APPLIED)
    front.until(lambda: front.application.current.key.subnet_id == smallest)
    monitor = front.answer("go")
    assert (monitor.subnet_id, monitor.decision_id) == (smallest, 7)
    front.application.command.take(SubnetCommand(decision_id=8, subnet_id="none"))
    assert front.of("subnet_state")[-1].status == SubnetCondition.REJECTED
    assert "'none' is not in the library" in front.warnings[-1]


# --- the command in force ------------------------------------------------------------------------


def states(front: Running) -> list[tuple[SubnetCondition, str, int]]:
    return [(s.status, s.subnet_id, s.decision_id) for s in front.of("subnet_state")]


def ends(front: Running) -> tuple[str, str]:
    """The least and the most accurate sub-network."""
    entries = front.application.networks.libraries["cpu"].entries
    return entries[0].id, entries[-1].id


def test_a_pin_wins_until_it_is_released(running) -> None:
    front = running(Words)
    application, (small, large) = front.application, ends(front)
    application.change(application.targets, small)
    front.until(lambda: states(front)[-1] == (SubnetCondition.PINNED, small, 0))
    application.command.take(SubnetCommand(decision_id=3, subnet_id=large))
    assert states(front)[-1] == (SubnetCondition.PINNED, small, 3), "answered, not followed"
    application.change(application.targets, "")
    front.until(lambda: states(front)[-1] == (SubnetCondition.APPLIED, large, 3))
    assert application.networks.pin_refusal("none").startswith("subnet_id must be empty or one of ")


def test_a_command_that_is_not_renewed_lapses_and_a_new_manager_may_count_anew(running) -> None:
    front = running(Words)
    command, (small, large) = front.application.command, ends(front)
    command.take(SubnetCommand(decision_id=900, subnet_id=small, valid_for_s=0.05, rate_hz=20.0))
    front.until(lambda: states(front)[-1] == (SubnetCondition.APPLIED, small, 900))
    assert command.gate is not None and command.gate.rate_hz == 20.0
    front.until(lambda: command.watch() or states(front)[-1] == (SubnetCondition.APPLIED, large, 0))
    assert command.gate is None and front.warnings == [
        "the manager is silent: back to the default sub-network"
    ]
    command.take(SubnetCommand(decision_id=1, subnet_id=small))
    front.until(lambda: states(front)[-1] == (SubnetCondition.APPLIED, small, 1))
    command.take(SubnetCommand(decision_id=1, subnet_id=large))
    assert command.order.key.subnet_id == small, "not newer"


def test_the_rate_of_a_command_thins_and_is_no_new_phase_when_renewed(running) -> None:
    front = running(Words)
    command = front.application.command
    small, _ = ends(front)
    command.take(SubnetCommand(decision_id=1, subnet_id=small, rate_hz=2.0))
    gate = command.gate
    assert not front.application.accept("go")  # thinning begins with a request that is left out
    time.sleep(0.02)
    assert front.application.accept("go") and not front.application.accept("go")
    time.sleep(0.006)
    assert not front.application.accept("go") and front.application.counters.dropped == 2
    command.take(SubnetCommand(decision_id=2, subnet_id=small, rate_hz=2.0))
    assert command.gate is gate
    command.take(SubnetCommand(decision_id=3, subnet_id=small))
    assert command.gate is None


def test_targets_change_while_it_runs(running) -> None:
    front = running(Words)
    application, (small, _) = front.application, ends(front)
    tight = replace(application.targets, latency_target_ms=0.5)
    application.change(tight, "")  # nobody manages: the default follows the target
    front.until(lambda: states(front)[-1][:2] == (SubnetCondition.APPLIED, small))
    assert replace(front.of("targets")[-1], header=Header()) == tight
    application.change(replace(tight, paused=True), "")
    assert states(front)[-1][0] == SubnetCondition.DISABLED
    assert not application.accept("go") and application.counters.unanswered_ns is None
    application.change(tight, "")
    assert states(front)[-1][0] == SubnetCondition.APPLIED
    front.answer("go")


def test_stopped_it_says_so_and_starts_again_without_the_old_command(running) -> None:
    front = running(Words)
    application, (small, large) = front.application, ends(front)
    application.command.take(SubnetCommand(decision_id=5, subnet_id=small))
    front.answer("go")
    assert application.stop("the node is inactive")
    assert states(front)[-1][0] == SubnetCondition.DISABLED
    application.start()
    front.until(lambda: states(front)[-1] == (SubnetCondition.APPLIED, large, 0))
    assert front.answer("go").frame_sequence == 1
    application.command.take(SubnetCommand(decision_id=3, subnet_id=small))  # a new manager
    front.until(lambda: states(front)[-1] == (SubnetCondition.APPLIED, small, 3))


# --- queues --------------------------------------------------------------------------------------


class Two(OrderedQueue[Any]):
    limit = 2


class Sentences(Words):
    queue = Two
    queued = True
    held = threading.Event()

    def size(self, request: Any) -> float:
        return float(len(request.split(" ")))

    def infer(self, run: Callable[[Any], Any], tensors: Any, emit: Any) -> Any:
        assert self.held.wait(WAIT_S)
        return super().infer(run, tensors, emit)

    def postprocess(self, outputs: Any, request: Any, network: Any, options: Mapping[str, Any]) -> Answer:
        return replace(super().postprocess(outputs, request, network, options), size=float(len(outputs)))


@pytest.fixture
def sentences(running) -> Iterator[Running]:
    Sentences.held.clear()
    yield running(Sentences)
    Sentences.held.set()


ONE_TO_FOUR = ("one", "one two", "one two three", "one two three four")


def test_a_task_may_answer_in_order_and_refuse(sentences: Running) -> None:
    accepted = []
    for sentence in ONE_TO_FOUR:
        accepted.append(sentences.application.accept(sentence))
        time.sleep(0.006)
    assert accepted == [True, True, True, False]
    assert sentences.unanswered == [(ONE_TO_FOUR[3], Outcome.REFUSED, "the queue is full: 2 requests wait")]
    Sentences.held.set()
    monitors = sentences.until(lambda: len(sentences.of("monitor")) == 3 and sentences.of("monitor"))
    assert [round(1 / m.top1_score) for m in monitors] == [1, 2, 3] == [m.request_size for m in monitors]
    assert monitors[0].dropped_frames == 1
    assert [library.queued for library in sentences.of("library")] == [True]


def test_requests_that_come_faster_than_the_rate_wait_too(sentences: Running) -> None:
    Sentences.held.set()
    for _ in range(10):  # one every 2 ms, where 200 Hz are asked for
        sentences.until(lambda: sentences.application.accept("one"))
        time.sleep(0.002)
    sentences.until(lambda: len(sentences.of("monitor")) == 10)


def test_who_waits_when_the_application_ends_hears_it(sentences: Running) -> None:
    for sentence in ONE_TO_FOUR[:3]:
        sentences.send(sentence)
        time.sleep(0.01)
    threading.Timer(0.1, Sentences.held.set).start()
    assert sentences.application.stop("the node is inactive")
    assert sentences.unanswered == [
        (sentence, Outcome.FAILED, "the node is inactive") for sentence in ONE_TO_FOUR[1:3]
    ]
    assert len(sentences.of("monitor")) == 1  # the one in work is finished


def test_a_paused_application_refuses(sentences: Running) -> None:
    sentences.application.change(replace(sentences.application.targets, paused=True), "")
    assert not sentences.application.accept("one")
    assert sentences.unanswered == [("one", Outcome.REFUSED, "the application is paused")]


def test_a_canceled_request_is_no_failure(sentences: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    Sentences.held.set()

    def infer(self: Any, run: Any, tensors: Any, emit: Any) -> Any:
        raise Canceled

    monkeypatch.setattr(Sentences, "infer", infer)
    sentences.send("one")
    sentences.until(lambda: sentences.unanswered)
    assert sentences.unanswered == [("one", Outcome.CANCELED, "canceled")]
    counters = sentences.application.counters
    assert (counters.failed, counters.malformed, counters.unanswered_ns) == (0, 0, None)


def test_a_stream_is_timed(sentences: Running) -> None:
    Sentences.held.set()
    monitor = sentences.answer("one two three")
    assert 0.0 < monitor.first_output_ms < monitor.latency_ms
    assert 0.0 < monitor.unit_ms < monitor.inference_ms
    assert math.isnan(monitor.normalized_ms)  # the library has no law


def test_of_a_grant_each_request_gets_what_fits(sentences: Running) -> None:
    Sentences.held.set()
    entries = sentences.application.networks.libraries["cpu"].entries[:3]
    command = SubnetCommand(
        7,
        entries[0].id,
        "cpu",
        prefetch_subnet_ids=tuple(e.id for e in entries),
        granted_subnet_ids=(*(e.id for e in entries), "unknown"),
        granted_ms=(10.0, 20.0, 5000.0, 1.0),
    )
    sentences.application.command.take(command)
    ids = {entry.id for entry in entries}
    sentences.until(lambda: {p.key.subnet_id for p in sentences.application.resident} >= ids)
    monitor = sentences.answer("one")
    assert (monitor.subnet_id, monitor.decision_id) == (entries[1].id, 7)
    sentences.application.accept("one", target_ms=15.0)
    own = sentences.until(lambda: sentences.of("monitor")[1:])[0]
    assert (own.subnet_id, own.decision_id, own.latency_target_ms) == (entries[0].id, 7, 15.0)


def test_a_request_that_outlives_its_start_is_answered_to_nobody(running, monkeypatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(Sentences, "held", held)
    monkeypatch.setattr(Sentences, "queue", Words.queue)
    front = running(Sentences)
    application = front.application
    front.send("old")
    front.until(lambda: application.counters.unanswered_ns)
    front.until(lambda: front.application._queue.first() is None)  # the worker has it
    old = application._worker._thread
    assert not application.stop("the node is inactive"), "it hangs"
    application.start()
    published = len(front.published)
    held.set()
    old.join(WAIT_S)
    assert not old.is_alive()
    assert [topic.name for topic, _ in front.published[published:]] == []
    assert application.counters.answered == 0
    monitor = front.answer("new")
    assert (monitor.frame_sequence, monitor.dropped_frames) == (1, 0)


def test_a_frame_whose_monitor_is_not_published_counts_once(running, monkeypatch) -> None:
    front = running(Words)
    application, publish = front.application, front.application._publish

    def refuse(topic: Topic, message: Any) -> None:
        if isinstance(message, InferenceMonitor):
            raise RuntimeError("no publisher")
        publish(topic, message)

    monkeypatch.setattr(application, "_publish", refuse)
    front.send("go")
    problem = front.until(lambda: application.counters.problems.get(False))
    counters = application.counters
    assert problem.reason == "its monitor or a view was not published: RuntimeError: no publisher"
    assert (counters.answered, counters.failed, len(counters.recent_misses)) == (1, 0, 1)
    monkeypatch.setattr(application, "_publish", publish)
    assert front.answer("again").dropped_frames == 0


# --- diagnostics ---------------------------------------------------------------------------------

rclpy = pytest.importorskip("rclpy", reason="needs rclpy")

from dynofa_ros.nodes import perception_status as status  # noqa: E402
from dynofa_ros.ros.arrivals import Arrivals  # noqa: E402
from dynofa_ros.ros.diagnostics import Level  # noqa: E402


class Faulty(Words):
    """Fails while `broken`, hangs while not `held`."""

    broken = False
    held = threading.Event()

    def infer(self, run: Callable[[Any], Any], tensors: Any, emit: Any) -> Any:
        if self.broken:
            raise RuntimeError("the accelerator\nis gone")
        assert self.held.wait(WAIT_S)
        return super().infer(run, tensors, emit)


@pytest.fixture
def faulty(running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(status, "RECENT_S", 0.3)
    monkeypatch.setattr(status, "SILENT_S", 0.6)
    Faulty.held.set()
    yield running(Faulty)
    Faulty.held.set()


def test_requests_that_fail_are_an_error_until_they_no_longer_do(faulty, monkeypatch) -> None:
    application = faulty.application
    monkeypatch.setattr(Faulty, "broken", True)
    faulty.send("go")
    faulty.until(lambda: application.counters.failed)
    found = status.answers(application)
    assert (found.level, found.message) == (
        Level.ERROR,
        "1 texts failed, last: RuntimeError: the accelerator is gone",
    )
    assert found.values["failed"] == 1 and found.values["answered"] == 0
    assert status.deadlines(application).level == Level.ERROR, "counted though none was answered"
    monkeypatch.setattr(Faulty, "broken", False)
    assert faulty.answer("go").dropped_frames == 1
    faulty.until(lambda: status.answers(application).level == Level.OK)


def test_an_engine_that_hangs_is_an_error(faulty) -> None:
    Faulty.held.clear()
    application = faulty.application
    end = time.monotonic() + WAIT_S
    while status.answers(application).level == Level.OK:
        application.accept("go")
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "texts arrive, but none was answered for" in status.answers(application).message
    assert status.images(application, str).level == Level.OK
    Faulty.held.set()
    faulty.until(lambda: status.answers(application).level == Level.OK)


def test_a_pause_after_a_failure_is_no_error(faulty, monkeypatch) -> None:
    application = faulty.application
    monkeypatch.setattr(Faulty, "broken", True)
    faulty.send("go")
    faulty.until(lambda: application.counters.failed)
    application.change(replace(application.targets, paused=True, latency_target_ms=1.0), "")
    time.sleep(0.7)  # longer than an image may wait for its answer
    assert not application.accept("go")
    found = status.answers(application)
    assert (found.level, found.message) == (Level.OK, "no texts yet")


def test_a_slow_camera_and_a_long_target_are_no_fault(faulty) -> None:
    application = faulty.application
    application.change(replace(application.targets, rate_hz=0.1, latency_target_ms=10_000.0), "")
    Faulty.held.clear()
    faulty.send("go")
    time.sleep(0.7)  # longer than SILENT_S here
    assert status.images(application, str).level == Level.OK
    assert status.answers(application).level == Level.OK


def test_a_malformed_request_is_a_warning_that_ends(faulty) -> None:
    """Three bad frames, then good ones: OK again (pr2_mechanism#205)."""
    application = faulty.application
    for number in range(1, 4):
        time.sleep(0.006)
        faulty.send(None)
        faulty.until(lambda n=number: application.counters.malformed == n)
    found = status.images(application, str)
    assert found.level == Level.WARN
    assert found.message == "3 malformed texts dropped, last: there is nothing in it"
    assert faulty.answer("go").malformed_frames == 3

    def recovered() -> bool:
        faulty.answer("go")
        return status.images(application, str).level == Level.OK

    faulty.until(recovered)
    assert status.images(application, str).values["malformed"] == 3, "the total stays"


@pytest.mark.parametrize(("lost", "level"), [(0, Level.OK), (1, Level.OK), (50, Level.WARN)])
def test_images_that_are_lost_on_the_way_are_a_warning_with_their_share(
    faulty, lost: int, level: Level
) -> None:
    faulty.answer("go")
    arrivals = Arrivals()
    for n in (n for n in range(75) if n >= lost or n % 2):
        arrivals.add(n / 25.0, 10.0 + n / 25.0, {"publication_sequence_number": n + 1})
    faulty.application.targets = replace(faulty.application.targets, rate_hz=25.0)
    found = status.images(faulty.application, str, arrivals)
    assert found.level == level
    if level is Level.WARN:
        assert "33% of the due images never reach this node (24 of 73, best effort)" in found.message
        assert "config/fastdds_camera.xml" in found.message and "shared memory" in found.message


def test_the_library_and_the_status_say_what_accuracy_is_by(faulty) -> None:
    assert faulty.of("library")[-1].accuracy_metric == "top-1"
    found = status.subnet(faulty.application)
    assert found.level == Level.OK and found.values["expected top-1"] == pytest.approx(0.937)
