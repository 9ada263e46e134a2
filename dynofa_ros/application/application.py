"""One application: its requests answered by the sub-network that the command in force names."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dynofa_ros import topics
from dynofa_ros.application.commands import CommandInForce, placement
from dynofa_ros.application.emulation import run_stretched
from dynofa_ros.application.networks import Networks, SubnetKey
from dynofa_ros.application.task import Task
from dynofa_ros.application.threads import TaskMapping
from dynofa_ros.application.worker import (
    Counters,
    MalformedRequest,
    Problem,
    Queue,
    RateGate,
    Request,
    Worker,
    stages_ms,
)
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

    weights: str
    library: str
    processor: str
    engine: str
    cache_mb: float
    emulate_dvfs: bool
    emulated_slowdown: float

    @property
    def slowdown(self) -> float | None:
        """How much slower the emulated device is than this machine; None = this machine is the device."""
        return self.emulated_slowdown if self.emulate_dvfs else None


class Application:
    """Loaded by its constructor, it answers requests from ``start`` to ``stop``, and any number of times.

    decode: header and request of a received message; raises MalformedRequest. publish: called with a topic
    of the application and a message of `messages`. clock_ns: of the stamps. command_clock_ns: by which
    commands lapse. warn: one line for the log.
    Raises LibraryError, WeightsError, EngineError or ValueError, in one line.
    """

    def __init__(
        self,
        name: str,
        task: type[Task],
        settings: Settings,
        targets: AppTargets,
        pinned: str,
        *,
        decode: Callable[[Any], tuple[Header, Any]],
        publish: Callable[[Topic, Any], None],
        clock_ns: Callable[[], int],
        warn: Callable[[str], None],
        command_clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.name, self.settings, self.targets = name, settings, targets
        self._decode, self._publish, self._clock_ns = decode, publish, clock_ns
        self.networks = networks = Networks.load(settings.weights, settings.library, settings.engine)
        if not settings.emulate_dvfs:  # emulation has only this machine, whatever it stands for
            networks.keep_reached()
        if reason := networks.without(settings.processor) or networks.pin_refusal(pinned):
            raise ValueError(reason)
        for reason in networks.unreached.values():
            warn(f"one library is left out: {reason}")
        self.task = task(networks.weights)
        self.options: Mapping[str, Any] = {}  # of the task
        self.clocks: tuple[DomainState, ...] = ()  # of the emulated device
        self.counters = Counters()
        self.mapping = TaskMapping()
        self._switcher = Switcher(self._prepare, int(settings.cache_mb * 2**20))
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

    def start(self) -> None:
        """Answer requests, and announce what the manager must know."""
        self.counters = Counters()
        self._queue: Queue = type(self.task).queue()
        self._gate = RateGate(self.targets.rate_hz)
        self._worker = Worker(self._queue, self._answer_or_count)
        self.mapping.add(self._worker.tid)
        self.command.reset(self.targets, self.command.pinned)
        self._send(topics.TARGETS, self.targets)
        entries = tuple(
            entry
            for library in self.networks.libraries.values()
            for entry in library.subnet_entries(self.settings.slowdown or 1.0)
        )
        self._send(topics.LIBRARY, SubnetLibrary(app=self.name, entries=entries))
        for topic, message in self.task.announcements().items():
            self._send(topic, message)
        self.command.follow(self.command.order)

    def stop(self, message: str) -> bool:
        """Answer no more. message: of the last SubnetState. Returns whether that took less than 1 s."""
        ended = self._worker is None or self._worker.stop()
        self._worker = None
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

    def accept(self, message: Any) -> bool:
        """A request came. Returns whether it will be answered unless a newer one comes."""
        now_ns = time.perf_counter_ns()
        self.counters.arrive(now_ns)
        if self.targets.paused:
            self.counters.rest()
            return False
        if not self._gate.accepts(now_ns):
            return False
        if self.command.gate is not None and not self.command.gate.accepts(now_ns):
            self.counters.drop()
            return False
        self.counters.wait(now_ns)
        if self._queue.put(Request(message, now_ns)):
            self.counters.drop()
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
        with self.mapping.preparing(self.settings.engine):
            return self.networks.prepare(key, self.task.warm_up_input)

    def _answer_or_count(self, request: Request) -> None:
        try:
            self._answer(request)
        except MalformedRequest as error:
            self.counters.fail(Problem(str(error), time.perf_counter_ns(), malformed=True))
        except Exception as error:  # noqa: BLE001 - one request that fails must not end the stream
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.counters.fail(Problem(reason, time.perf_counter_ns(), malformed=False))

    def _answer(self, received: Request) -> None:
        started_ns = time.perf_counter_ns()
        network, order, target_ms = self._switcher.current, self.command.order, self.targets.latency_target_ms
        assert network is not None
        header, request = self._decode(received.message)
        tensors = self.task.preprocess(request, network)
        prepared_ns = time.perf_counter_ns()
        emit = partial(self._send_results, header)
        outputs = self.task.infer(self._runner(network), tensors, emit)
        inferred_ns = time.perf_counter_ns()
        answer = self.task.postprocess(outputs, request, network, self.options)
        emit(answer.results)
        published_ns = time.perf_counter_ns()
        stages = stages_ms(received.received_ns, started_ns, prepared_ns, inferred_ns, published_ns)
        missed = stages["latency_ms"] > target_ms
        number, dropped, malformed = self.counters.answer(missed)
        cluster, threads = placement(order, network.key, self.networks)
        monitor = InferenceMonitor(
            header=header,
            app=self.name,
            frame_sequence=number,
            decision_id=order.decision_id if order.key == network.key else 0,
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
        )
        self._publish(topics.MONITOR, monitor)

    def _runner(self, network: Prepared[SubnetKey]) -> Callable[[Any], Any]:
        """The network; with emulation a call takes as long as it would on the simulated device."""
        slowdown = self.settings.slowdown
        if slowdown is None:
            return network.run
        cluster, _ = placement(self.command.order, network.key, self.networks)
        factor = self.networks.stretch_factor(network.key, self.clocks, slowdown, cluster)
        return partial(run_stretched, network.run, factor=factor, threads=network.key.threads)

    def _send_results(self, header: Header, results: Mapping[Topic, Any]) -> None:
        for topic, message in results.items():
            self._publish(topic, replace(message, header=header))

    def _report(self, state: SubnetState) -> None:
        self._send(topics.SUBNET_STATE, state)

    def _send(self, topic: Topic, message: Any) -> None:
        self._publish(topic, replace(message, header=Header(self._clock_ns())))


def _age_ms(stamp_ns: int, now_ns: int) -> float:
    """Age of a request by the node's clock; NaN where the two clocks cannot be compared."""
    age_ms = (now_ns - stamp_ns) / 1e6
    return age_ms if stamp_ns > 0 and 0 <= age_ms < COMPARABLE_MS else math.nan
