"""The language node as a real process over DDS: two applications of one backbone, topics and action."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers", reason="texts need the package tokenizers")

from dynofa_ros.action import Translate
from dynofa_ros.msg import AppTargets, InferenceMonitor, SubnetCommand, SubnetLibrary, Translation
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from ros_client import TIMEOUT_S, RosClient
from ros_domain import own_domain
from std_msgs.msg import Header, String
from text_backbone import write_backbone, write_library

from dynofa_ros import topics
from dynofa_ros.application.worker import OrderedQueue

pytestmark = pytest.mark.live

DOMAIN_ID = own_domain()
NAMESPACE, APPS = "/robot2/language", {"translator": "de", "parser": "intent"}
RESULT = Translate.Result
LONG = "Where did you put the keys of the old red car that we saw in the garage?"


def start(folder: Path, namespace: str = NAMESPACE) -> subprocess.Popen:
    weights = write_backbone(folder)
    sections = "".join(
        f"/**/{app}:\n  ros__parameters:\n    weights: {weights}\n    target: {target}\n"
        f"    library: {write_library(folder, target)}\n    latency_target_ms: 9000\n"
        for app, target in APPS.items()
    )
    (folder / "parameters.yaml").write_text(sections)
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(DOMAIN_ID),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    command = [sys.executable, "-m", "dynofa_ros.nodes.language_node", *APPS, "--ros-args"]
    command += ["-r", f"__ns:={namespace}", "--params-file", str(folder / "parameters.yaml")]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


class Client(RosClient):
    """User and manager of one application of the process."""

    def __init__(self, app: str, namespace: str = NAMESPACE, process: subprocess.Popen | None = None) -> None:
        super().__init__(f"client_of_{app}", DOMAIN_ID, namespace, f"{namespace}/{app}")
        self.process = process
        self.translations: list[Translation] = []
        self.monitors: list[InferenceMonitor] = []
        self.targets: list[AppTargets] = []
        self.libraries: list[SubnetLibrary] = []
        for topic, kept in (
            (topics.TRANSLATION, self.translations),
            (topics.MONITOR, self.monitors),
            (topics.TARGETS, self.targets),
            (topics.LIBRARY, self.libraries),
        ):
            self.subscribe(topic, kept.append, app)
        self.text = self.publisher(topics.TEXT, app)
        self.command = self.publisher(topics.SUBNET_COMMAND, app)
        self.action = ActionClient(self.node, Translate, f"{namespace}/{app}/translate")

    def wait_for_node(self) -> None:
        self.wait(lambda: self.libraries and self.targets, "the node's latched topics")
        self.wait(lambda: self.text.get_subscription_count() and self.action.server_is_ready(), "discovery")
        handle = self.again(lambda: self.action.send_goal_async(Translate.Goal()), "answer to a goal")
        self.again(handle.get_result_async, "result of a goal")
        self.again(handle.cancel_goal_async, "answer to a cancel")

    def of(self, text: str) -> list[Translation]:
        """Answers to a text: those to an earlier one may still come, on a topic of their own."""
        return [translation for translation in self.translations if translation.source == text]

    def ask(self, text: str, feedback: list[Any] | None = None, **goal: Any) -> Any:
        """Handle of a goal that was accepted."""
        request = Translate.Goal(text=text, header=Header(frame_id="mic"), **goal)
        kept = None if feedback is None else lambda message: feedback.append(message.feedback)
        sent = self.action.send_goal_async(request, feedback_callback=kept)
        self.wait(sent.done, "acceptance of the goal")
        return sent.result()

    def result(self, handle: Any) -> Any:
        found = handle.get_result_async()
        self.wait(found.done, "result of the goal")
        return found.result().result


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    process = start(tmp_path_factory.mktemp("backbone"))
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0, process.stderr and process.stderr.read()


@pytest.fixture(scope="module", params=list(APPS))
def client(process: subprocess.Popen, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client(request.param, process=process)
    made.wait_for_node()
    yield made
    made.close()


def test_each_application_has_targets_and_a_library_of_its_own(client: Client) -> None:
    app = client.target.rpartition("/")[2]
    assert (client.targets[-1].app, client.libraries[-1].app) == (app, app)
    assert client.libraries[-1].queued
    assert [e.id for e in client.libraries[-1].entries] == [f"{APPS[app]}{n}" for n in range(3)]
    assert all(e.reference_size == 10.0 for e in client.libraries[-1].entries)


def test_a_plain_text_is_answered(client: Client) -> None:
    client.monitors.clear()
    client.text.publish(String(data="Tom winked."))
    client.wait(lambda: client.of("Tom winked.") and client.monitors, "an answer")
    (translation,), (monitor,) = client.of("Tom winked."), client.monitors
    assert translation.reason == ""
    assert monitor.request_size == translation.output_size > 0
    assert 0.0 <= monitor.end_to_end_ms < 60_000


def test_a_goal_streams_and_ends_with_the_answer(client: Client) -> None:
    client.translations.clear()
    feedback: list[Any] = []
    result = client.result(client.ask("Tom smiled.", feedback, stream=True))
    assert result.outcome == RESULT.COMPLETE and result.reason == ""
    assert result.latency_ms > 0.0 and 0.0 < result.score < 1.0
    client.wait(lambda: client.of("Tom smiled."), "the same on the topic")
    assert client.of("Tom smiled.")[0].text == result.text
    assert client.of("Tom smiled.")[0].header.frame_id == "mic"
    client.wait(lambda: feedback, "feedback")
    sizes = [f.output_size for f in feedback]  # a client that is slower than the network misses some
    assert sizes == sorted(set(sizes)) and 0 < sizes[0] and sizes[-1] < result.output_size


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("a" * 10_000, "10000 characters"), ("a\x07", "U+0007"), ("Привет", "unknown script")],
)
def test_a_text_that_cannot_be_answered_is_named(client: Client, text: str, reason: str) -> None:
    result = client.result(client.ask(text))
    assert result.outcome == RESULT.FAILED and reason in result.reason
    client.wait(lambda: client.of(text), "the same on the topic")
    client.translations.clear()
    client.text.publish(String(data=text))
    client.wait(lambda: client.of(text), "a reason")
    assert reason in client.of(text)[0].reason and client.of(text)[0].text == ""


def test_a_deadline_of_its_own(client: Client) -> None:
    client.monitors.clear()
    client.result(client.ask("Tom winked.", latency_target_ms=0.5))
    client.wait(lambda: [m for m in client.monitors if m.latency_target_ms == 0.5], "a monitor")
    assert client.monitors[-1].deadline_missed


def test_a_full_queue_refuses_at_once_and_a_cancel_ends_what_waits(client: Client) -> None:
    handles, found = [], []
    for _ in range(3 * OrderedQueue.limit):
        handles.append(client.ask(LONG))
        assert handles[-1].accepted
        found.append(handles[-1].get_result_async())  # a server keeps a result for a few seconds
    canceled = handles[-1].cancel_goal_async()
    client.wait(canceled.done, "the cancel")
    client.wait(lambda: all(future.done() for future in found), "results of the goals")
    results = [future.result().result for future in found]
    refused = [r for r in results if r.outcome == RESULT.REFUSED]
    for result in refused:
        assert result.reason == f"the queue is full: {OrderedQueue.limit} requests wait"
    outcomes = {RESULT.COMPLETE, RESULT.REFUSED, RESULT.CANCELED}
    assert {r.outcome for r in results} <= outcomes
    assert sum(r.outcome == RESULT.COMPLETE for r in results) >= OrderedQueue.limit


def test_a_cancel_during_the_first_token(client: Client) -> None:
    for _ in range(20):
        handle = client.ask(LONG)
        client.wait(handle.cancel_goal_async().done, "the cancel")
        result = client.result(handle)
        if result.outcome == RESULT.CANCELED:
            assert result.text == "" and result.reason == "canceled" and math.isnan(result.latency_ms)
            break
    else:
        pytest.fail("none was canceled in time")
    assert client.result(client.ask("It goes on.")).outcome == RESULT.COMPLETE


def test_a_grant_is_followed(client: Client) -> None:
    ids = [e.id for e in client.libraries[-1].entries]
    command = SubnetCommand(decision_id=9, subnet_id=ids[0], processor="cpu", rate_hz=math.nan)
    command.granted_subnet_ids, command.granted_ms, command.prefetch_subnet_ids = ids, [1.0, 2.0, 4.0], ids
    client.command.publish(command)

    def granted() -> bool:
        client.monitors.clear()
        client.result(client.ask("No."))
        client.wait(lambda: client.monitors, "a monitor")
        return client.monitors[0].subnet_id == ids[2] and client.monitors[0].decision_id == 9

    client.wait(granted, "the largest of the grant")


def test_an_inactive_node_rejects_and_answers_again_later(client: Client) -> None:
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert not client.ask("Tom winked.").accepted
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait_for_node()
    assert client.result(client.ask("Tom winked.")).outcome == RESULT.COMPLETE


def test_diagnostics_say_what_was_refused(client: Client) -> None:
    client.diagnostics.clear()

    def warned() -> bool:
        """It is said for three seconds: where this machine stood still for longer the next one is."""
        client.result(client.ask(""))
        client.spin(1.5)
        return "malformed texts" in client.diagnostics.get("input", (0, ""))[1]

    client.wait(warned, "a warning")
    client.wait(lambda: client.diagnostics["input"] == (0, "texts are taken"), "the end of it")


def test_a_reader_that_goes_away_stops_nobody(client: Client) -> None:
    other = Client(client.target.rpartition("/")[2])
    other.wait_for_node()
    for _ in range(3):
        other.ask(LONG, stream=True)
    other.close()
    assert client.result(client.ask("It goes on.")).outcome == RESULT.COMPLETE


def test_a_node_that_is_killed_is_seen_and_answers_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    """A kill leaves no time for a result. The client sees the server go, so that it knows what is open."""
    namespace, app = "/robot3/language", next(iter(APPS))
    first = start(tmp_path, namespace)
    client = Client(app, namespace)
    try:
        client.wait_for_node()
        streamed: list[Any] = []
        handles = [client.ask(LONG, streamed, stream=True) for _ in range(OrderedQueue.limit)]
        open_results = [handle.get_result_async() for handle in handles]
        client.wait(lambda: streamed, "the first token")
        first.kill()
        client.wait(lambda: not client.action.server_is_ready(), "the end of the action server")
        answered = [future.result().result.outcome for future in open_results if future.done()]
        assert len(answered) < len(handles) and set(answered) <= {RESULT.COMPLETE}
        client.libraries.clear()
        client.targets.clear()
        second = start(tmp_path, namespace)
        try:
            client.wait_for_node()
            assert client.result(client.ask("It goes on.")).outcome == RESULT.COMPLETE
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait(TIMEOUT_S) == 0
    finally:
        client.close()
        first.kill()
        first.wait(10)
