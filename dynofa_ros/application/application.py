"""One application: its requests answered by the sub-network that the command in force names."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dynofa_ros import topics
from dynofa_ros.application.commands import CommandInForce, Order, placement
from dynofa_ros.application.emulation import run_stretched
from dynofa_ros.application.networks import Libraries, Networks, SubnetKey
from dynofa_ros.application.request_controller import RequestController, expected_ms
from dynofa_ros.application.task import Emit, Task, Views
from dynofa_ros.application.threads import TaskMapping
from dynofa_ros.application.worker import (
    Canceled,
    Counters,
    MalformedRequest,
    Outcome,
    Problem,
    Queue,
    RateGate,
    Request,
    Worker,
    stages_ms,
)
from dynofa_ros.errors import one_line
from dynofa_ros.latency import size_factor
from dynofa_ros.messages import (
    AppTargets,
    DomainState,
    Header,
    InferenceMonitor,
    SubnetCondition,
    SubnetLibrary,
    SubnetState,
)
from dynofa_ros.supernet.switching import Prepared, Switcher
from dynofa_ros.topics import Topic

COMPARABLE_MS = 10_000.0  # a request older than this was recorded, or its sender has another clock


@dataclass(frozen=True)
class Settings:
    """What holds from the start of an application to its end; as the parameters of the same names."""

    weights: str = ""
    library: str = ""
    processor: str = "cpu"
    engine: str = "onnxruntime"
    cache_mb: float = 0.0
    emulate_dvfs: bool = False
    emulated_slowdown: float = 1.0

    @property
    def slowdown(self) -> float | None:
        """How much slower the emulated device is than this machine; None = this machine is the device."""
        return self.emulated_slowdown if self.emulate_dvfs else None


def loaded(task: type[Task], settings: Settings, options: Mapping[str, Any]) -> tuple[Task, Networks]:
    """A task on the weights of the settings, and the networks of its libraries.

    Raises LibraryError, WeightsError, EngineError or ValueError, in one line.
    """
    networks = Networks.load(settings.weights, settings.library, settings.engine, task.demo(options))
    return task(networks.weights), networks


class Application:
    """Loaded by its constructor, it answers requests from ``start`` to ``stop``, and any number of times.

    networks: what its task runs. decode: header and request of a received message; raises MalformedRequest.
    publish: called with a topic of the application and a message of `messages`; stream: the same for results
    that are not finished, None = as publish; show: with the topic of a view and what makes its message, which
    is for subscribers alone. unanswered: called with every message that gets no answer, what became of it and
    the reason in one line, in any thread; not with images that give way to newer ones. options: of the task,
    by name. clock_ns: of the stamps. command_clock_ns: by which commands lapse. warn: a line for the log.
    Raises LibraryError, WeightsError, EngineError or ValueError, in one line.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        networks: Libraries,
        settings: Settings,
        targets: AppTargets,
        pinned: str,
        *,
        options: Mapping[str, Any],
        decode: Callable[[Any], tuple[Header, Any]],
        publish: Callable[[Topic, Any], None],
        clock_ns: Callable[[], int],
        warn: Callable[[str], None],
        command_clock_ns: Callable[[], int] = time.perf_counter_ns,
        stream: Callable[[Topic, Any], None] | None = None,
        show: Callable[[Topic, Callable[[], Any]], None] = lambda topic, make: None,
        unanswered: Callable[[Any, Outcome, str], None] = lambda message, outcome, reason: None,
    ) -> None:
        self.name, self.settings, self.targets = name, settings, targets
        self._decode, self._publish, self._clock_ns = decode, publish, clock_ns
        self._stream, self._show, self._unanswered = stream or publish, show, unanswered
        self._controller = RequestController()
        self.task, self.networks = task, networks
        if not settings.emulate_dvfs:  # emulation has only this machine, whatever it stands for
            networks.keep_reached()
        if reason := networks.without(settings.processor) or networks.pin_refusal(pinned):
            raise ValueError(reason)
        for reason in networks.unreached.values():
            warn(f"one library is left out: {reason}")
        self.options = options
        self.clocks: tuple[DomainState, ...] = ()  # of the emulated device
        self.counters = Counters()
        self.mapping = TaskMapping()
        self._switcher = Switcher(self._prepare, int(settings.cache_mb * 2**20), networks.pauses.wait)
        self.command = CommandInForce(
            networks,
            self._switcher,
            self.mapping,
            settings.processor,
            settings.slowdown,
            self._report,
            warn,
            command_clock_ns,
        )
        self.command.reset(targets, pinned)
        self._worker: Worker | None = None
        try:
            self._switcher.activate(self.command.order.key)
        except BaseException:
            self._switcher.close()
            raise
        self._switcher.hold(networks.worth_holding(settings.processor))

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the task, by name. A set raises ValueError for one that does not fit the weights."""
        return self._options

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self.task.configure(options)
        self._options = options

    def start(self) -> None:
        """Answer requests, and announce what the manager must know."""
        self.counters = counters = Counters()
        self._queue: Queue = self.task.queue()
        self._gate = RateGate(self.targets.rate_hz)
        self._worker = Worker(self._queue, partial(self._answer_or_count, counters))
        self.mapping.add(self._worker.tid)
        self.command.reset(self.targets, self.command.pinned)
        self._send(topics.TARGETS, self.targets)
        entries = tuple(
            entry
            for library in self.networks.libraries.values()
            for entry in library.subnet_entries(self.settings.slowdown or 1.0)
        )
        metric = self.networks.accuracy_metric
        self._send(topics.LIBRARY, SubnetLibrary(self.name, entries, self.task.queued, metric))
        for topic, message in self.task.announcements().items():
            self._send(topic, message)
        self.command.follow(self.command.order)

    def stop(self, message: str) -> bool:
        """Answer no more. message: of the last SubnetState. Returns whether that took less than 1 s."""
        ended = self._worker is None or self._worker.stop()
        for request in self._worker.left_over if self._worker and self.task.queued else ():
            self._unanswered(request.message, Outcome.FAILED, message)
        self._worker = None
        if not ended:
            self.counters = Counters()  # the result of a thread that hangs is dropped, see `_answer_or_count`
        self.command.report(SubnetCondition.DISABLED, message)
        return ended

    def close(self) -> None:
        """Drop the networks. No other call may follow."""
        self._switcher.close()

    def change(self, targets: AppTargets, pinned: str) -> None:
        """Follow new wishes of the user."""
        changed, self.targets = targets != self.targets, targets
        if self._worker is None:
            self.command.reset(targets, pinned)
            return
        if changed:
            self._gate.rate_hz = targets.rate_hz
            self._send(topics.TARGETS, targets)
        self.command.change(targets, pinned)

    def accept(self, message: Any, target_ms: float = math.nan) -> bool:
        """A request came. Returns whether it will be answered unless a newer one comes.

        target_ms: of this request; as of all unless it is positive and finite.
        """
        now_ns = time.perf_counter_ns()
        self.counters.arrive(now_ns)
        if self.targets.paused:
            self.counters.rest()
            self._unanswered(message, Outcome.REFUSED, "the application is paused")
            return False
        if self.task.queued:
            return self._enqueue(Request(message, now_ns, target_ms))
        if not self._gate.accepts(now_ns):
            return False
        if self.command.gate is not None and not self.command.gate.accepts(now_ns):
            self.counters.drop()
            return False
        self.counters.wait(now_ns)
        if self._queue.put(Request(message, now_ns)):
            self.counters.drop()
        return True

    def _enqueue(self, request: Request) -> bool:
        """Let a request wait for its turn, or refuse it: none is dropped silently."""
        self._controller.arrive(1e-6 * request.received_ns)
        if self._queue.put(request):
            self.counters.drop()
            reason = f"the queue is full: {self._queue.limit} requests wait"
            self._unanswered(request.message, Outcome.REFUSED, reason)
            return False
        self.counters.wait(request.received_ns)
        return True

    @property
    def current(self) -> Prepared[SubnetKey] | None:
        """The sub-network that answers now."""
        return self._switcher.current

    @property
    def resident(self) -> tuple[Prepared[SubnetKey], ...]:
        """Every prepared sub-network that is held; on two processors the same one is two copies."""
        return self._switcher.held

    def _prepare(self, key: SubnetKey) -> Prepared[SubnetKey]:
        with self.mapping.preparing(self.settings.engine, key.threads):
            return self.networks.prepare(key)

    def _answer_or_count(self, counters: Counters, request: Request) -> None:
        """counters: of the start that the worker belongs to; a worker that outlived it publishes nothing."""
        try:
            with self.networks.pauses:
                monitor, views = self._answer(counters, request)
        except Canceled:
            counters.cancel()
            self._unanswered(request.message, Outcome.CANCELED, "canceled")
            return
        except MalformedRequest as error:
            self._fail(counters, request, str(error), malformed=True)
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one that fails must not end the stream
            self._fail(counters, request, _reason(error), malformed=False)
            return
        if counters is not self.counters:
            reason = "the application was stopped before the answer came"
            self._unanswered(request.message, Outcome.FAILED, reason)
            return
        try:
            self._publish(topics.MONITOR, monitor)
            for topic, make in views.items():
                self._show(topic, partial(make, monitor.header))
        except Exception as error:  # noqa: BLE001 - as above; the request is counted already
            reason = f"its monitor or a view was not published: {_reason(error)}"
            counters.note(Problem(reason, time.perf_counter_ns(), malformed=False))

    def _fail(self, counters: Counters, request: Request, reason: str, *, malformed: bool) -> None:
        counters.fail(Problem(reason, time.perf_counter_ns(), malformed=malformed))
        self._unanswered(request.message, Outcome.FAILED, reason)

    def _answer(self, counters: Counters, received: Request) -> tuple[InferenceMonitor, Views]:
        started_ns = time.perf_counter_ns()
        order, target_ms = self.command.order, self._target_ms(received)
        header, request = self._decode(received.message)
        network, predicted_ms = self._choose(request, order, received)
        tensors = self.task.preprocess(request, network)
        prepared_ns = time.perf_counter_ns()
        outputs_ns: list[int] = []

        def send(publish: Callable[[Topic, Any], None], results: Mapping[Topic, Any]) -> None:
            for topic, message in results.items():
                if counters is self.counters:  # not of a worker that outlived its start
                    publish(topic, replace(message, header=header))

        def emit(results: Mapping[Topic, Any]) -> None:
            self._check_wanted(request)
            outputs_ns.append(time.perf_counter_ns())
            send(self._stream, results)

        self._check_wanted(request)
        outputs = self._infer(network, tensors, emit)
        inferred_ns = time.perf_counter_ns()
        answer = self.task.postprocess(outputs, request, network, self.options)
        send(self._publish, answer.results)
        published_ns = time.perf_counter_ns()
        stages = stages_ms(received.received_ns, started_ns, prepared_ns, inferred_ns, published_ns)
        self._controller.observe(predicted_ms, stages["inference_ms"])
        missed = stages["latency_ms"] > target_ms
        number, dropped, malformed = counters.answer(missed)
        cluster, threads = placement(order, network.key, self.networks)
        monitor = InferenceMonitor(
            header=header,
            app=self.name,
            frame_sequence=number,
            decision_id=order.decision_id if order.allows(network.key) else 0,
            subnet_id=network.key.subnet_id,
            processor=network.key.processor,
            threads=threads,
            cluster=cluster,
            **stages,
            end_to_end_ms=_age_ms(header.stamp_ns, self._clock_ns()),
            latency_target_ms=target_ms,
            deadline_missed=missed,
            dropped_frames=dropped,
            malformed_frames=malformed,
            top1_score=answer.score,
            **self._size_fields(network.key, answer.size, stages["inference_ms"]),
            **_stream_ms(received.received_ns, outputs_ns),
        )
        return monitor, answer.views

    def _choose(self, request: Any, order: Order, received: Request) -> tuple[Prepared[SubnetKey], float]:
        """What answers a request, and its expected time: NaN where there is no choice.

        The sub-network of the command, or of those that it grants and that are held the one for this request.
        """
        current = self._switcher.current
        assert current is not None
        held = {e: self._switcher.get(replace(order.key, subnet_id=e.id)) for e in order.granted}
        granted = tuple(e for e, network in held.items() if network is not None)
        if not granted or self.command.pinned:
            return current, math.nan
        size, following = self.task.size(request), self._queue.first()
        chosen = self._controller.choose(
            granted,
            size,
            self._left_ms(received),
            self._left_ms(following) if following is not None else math.inf,
            self.targets.latency_target_ms,
            self.targets.miss_tolerance,
        )
        return held[chosen] or current, expected_ms(chosen, size)

    def _target_ms(self, request: Request) -> float:
        asked_ms = request.target_ms
        return asked_ms if 0 < asked_ms < math.inf else self.targets.latency_target_ms

    def _left_ms(self, request: Request) -> float:
        """Time until the deadline of a request."""
        return self._target_ms(request) - 1e-6 * (time.perf_counter_ns() - request.received_ns)

    def _size_fields(self, key: SubnetKey, size: float, inference_ms: float) -> dict[str, float]:
        """Size of a request, and its time brought to the reference size of the library."""
        entry = self.networks.entry(key.processor, key.subnet_id, threads=key.threads)
        if not size > 0 or entry is None or entry.fixed_share is None or entry.reference_size is None:
            return {"request_size": size}
        factor = size_factor(entry.fixed_share, entry.reference_size, size)
        return {"request_size": size, "normalized_ms": inference_ms / factor}

    def _check_wanted(self, request: Any) -> None:
        if not self.task.wanted(request):
            raise Canceled

    def _infer(self, network: Prepared[SubnetKey], tensors: Any, emit: Emit) -> Any:
        """Outputs of the network; with emulation they take as long as they would on the simulated device."""
        infer, slowdown = partial(self.task.infer, network.run, tensors), self.settings.slowdown
        if slowdown is None:
            return infer(emit)
        cluster, _ = placement(self.command.order, network.key, self.networks)
        factor = self.networks.stretch_factor(network.key, self.clocks, slowdown, cluster)
        return run_stretched(infer, emit, factor, network.key.threads)

    def _report(self, state: SubnetState) -> None:
        self._send(topics.SUBNET_STATE, state)

    def _send(self, topic: Topic, message: Any) -> None:
        self._publish(topic, replace(message, header=Header(self._clock_ns())))


def _stream_ms(received_ns: int, outputs_ns: list[int]) -> dict[str, float]:
    """When the first output came, and the time of each further one; nothing where it came in one piece."""
    if len(outputs_ns) < 2:
        return {}
    first_ns, last_ns, more = outputs_ns[0], outputs_ns[-1], len(outputs_ns) - 1
    return {"first_output_ms": (first_ns - received_ns) / 1e6, "unit_ms": (last_ns - first_ns) / more / 1e6}


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _age_ms(stamp_ns: int, now_ns: int) -> float:
    """Age of a request by the node's clock; NaN where the two clocks cannot be compared."""
    age_ms = (now_ns - stamp_ns) / 1e6
    return age_ms if stamp_ns > 0 and 0 <= age_ms < COMPARABLE_MS else math.nan
