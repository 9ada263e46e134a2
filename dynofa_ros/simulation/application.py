"""One simulated application: its requests, those that wait, what runs now and what comes next."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import replace
from math import inf, isfinite, nan

from dynofa_ros.application.request_controller import RequestController, expected_ms
from dynofa_ros.application.worker import RateGate
from dynofa_ros.latency import size_factor
from dynofa_ros.manager.placement import Placed, entry_key, subnet_key
from dynofa_ros.messages import (
    AppTargets,
    InferenceMonitor,
    SubnetCommand,
    SubnetCondition,
    SubnetEntry,
    SubnetState,
)
from dynofa_ros.simulation.log import FrameRecord
from dynofa_ros.simulation.noise import Trace
from dynofa_ros.simulation.scene import App

PREPARE_S, MIGRATE_S = 0.06, 0.15  # a sub-network that is not held: same processor, another one
HELD = 8  # sub-networks that stay prepared
QUEUE = 16  # requests that wait; one more is refused
DEFAULT_MARGIN = 1.25  # of perception without a manager


def default_entry(app: App) -> SubnetEntry:
    """What the perception node runs before anybody commands it (`application.commands`).

    The named one, or the most accurate that should hold the target by itself, else the fastest. Raises
    ValueError for a library without an entry for the processor.
    """
    own = [e for e in app.usable if app.mapping in (e.processor, e.cluster)]
    if not own:
        raise ValueError(f"{app.name}: its library has nothing for '{app.mapping}'")
    named = [e for e in own if e.id == app.start]
    fitting = [e for e in own if e.latency_ms <= app.targets.latency_target_ms / DEFAULT_MARGIN]
    best = max(fitting, key=lambda e: e.accuracy) if fitting else min(own, key=lambda e: e.latency_ms)
    return named[0] if named else best


def knob_of(entry: SubnetEntry) -> SubnetCommand:
    """The knob that runs an entry on every due frame."""
    return SubnetCommand(0, entry.id, entry.processor, entry.cluster, entry.threads)


def _prepared(subnet_id: str, placed: Placed) -> tuple[str, str, int]:
    """What a prepared sub-network is good for: any cluster, but only this number of threads."""
    return subnet_id, placed.processor, placed.threads


class SimulatedApplication:
    """State of one application; the simulation says when things happen."""

    def __init__(self, app: App, trace: Trace) -> None:
        self.spec = app
        self.trace = trace
        self.targets: AppTargets = app.targets
        self.library: tuple[SubnetEntry, ...] = app.usable
        self.present = False
        first = default_entry(app)
        self.current = knob_of(first)
        self.wanted: tuple[SubnetCommand, int, float] | None = None  # on its way: knob, decision, ready at
        self.decision_id = 0
        self._queue: deque[int] = deque()
        self._controller = RequestController()
        self._expected_ms = nan  # of the request in work, where it was chosen for
        self.serving: int | None = None  # request that is being answered
        self.serving_target_ms = nan
        self.started_s = nan
        self.next_request = 0
        self._sequence = self._dropped = 0
        self._gate: RateGate | None = None
        self._held: OrderedDict[tuple[str, str, int], float] = OrderedDict()  # ready at
        self._entries = {entry_key(e): e for e in app.library}
        self._prepared = {_prepared(e.id, e) for e in app.library}
        self._held[_prepared(first.id, first)] = 0.0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def entry(self) -> SubnetEntry:
        """What runs now."""
        return self._entries[subnet_key(self.current)]

    @property
    def waiting(self) -> int | None:
        """The request that is answered next, None if none waits."""
        return self._queue[0] if self._queue else None

    def arrive(self, now_s: float) -> FrameRecord | None:
        """The next request comes; returns the record of one that is dropped or refused now."""
        index = self.next_request
        self.next_request += 1
        self._controller.arrive(1e3 * now_s)
        if self._gate is not None and not self._gate.accepts(round(now_s * 1e9)):
            return self._drop(index, thinned=True)
        if self.spec.queued and len(self._queue) == QUEUE:
            return self._drop(index)
        replaced = self._queue.popleft() if self._queue and not self.spec.queued else None
        self._queue.append(index)
        return None if replaced is None else self._drop(replaced)

    def take(self, now_s: float) -> int | None:
        """Begin with the first in the queue, if the application is free; returns its number."""
        if self.serving is not None or not self._queue:
            return None
        self.serving = self._queue.popleft()
        self.started_s, self.serving_target_ms = now_s, self.targets.latency_target_ms
        return self.serving

    def choose(self, now_s: float) -> SubnetEntry:
        """What answers the request in work: the current sub-network, or one that it may choose."""
        assert self.serving is not None
        self._expected_ms = nan
        now, granted = self.current, {}
        for subnet_id, known_ms in zip(now.granted_subnet_ids, now.granted_ms, strict=True):
            knob = replace(now, subnet_id=subnet_id)
            entry = self._entries.get(subnet_key(knob))
            if entry is not None and self._held.get(_prepared(subnet_id, knob), now_s + 1.0) <= now_s:
                granted[replace(entry, latency_ms=known_ms)] = entry
        if not granted:
            return self.entry
        size, targets = self.trace.guesses[self.serving], self.targets
        chosen = self._controller.choose(
            tuple(granted),
            size,
            self._left_ms(self.serving, now_s),
            self._left_ms(self.waiting, now_s) if self.waiting is not None else inf,
            targets.latency_target_ms - self.spec.overhead_ms,
            targets.miss_tolerance,
        )
        self._expected_ms = expected_ms(chosen, size)
        return granted[chosen]

    def _left_ms(self, index: int, now_s: float) -> float:
        return self.targets.latency_target_ms - 1e3 * (now_s - self.trace.arrivals_s[index])

    def factor(self, entry: SubnetEntry) -> float:
        """True time of the request in work over that of the library: bias, noise and size."""
        assert self.serving is not None
        size = size_factor(entry.fixed_share, entry.reference_size, self.trace.sizes[self.serving])
        return self.trace.bias[entry.processor] * self.trace.noise[self.serving] * size

    def answer(self, now_s: float, entry: SubnetEntry, inference_s: float) -> FrameRecord:
        """The frame in work is answered now by ``entry``."""
        index = self.serving
        assert index is not None
        self.serving = None
        arrived_s = self.trace.arrivals_s[index]
        latency_ms, overhead_ms = 1e3 * (now_s - arrived_s), self.trace.overhead_ms[index]
        missed = latency_ms > self.serving_target_ms
        self._sequence += 1
        self._controller.observe(self._expected_ms, 1e3 * inference_s)
        size = self.trace.sizes[index]
        factor = size_factor(entry.fixed_share, entry.reference_size, size)
        monitor = InferenceMonitor(
            app=self.name,
            frame_sequence=self._sequence,
            decision_id=self.decision_id,
            subnet_id=entry.id,
            processor=entry.processor,
            queue_wait_ms=1e3 * (self.started_s - arrived_s),
            preprocess_ms=0.5 * overhead_ms,
            inference_ms=1e3 * inference_s,
            postprocess_ms=0.5 * overhead_ms,
            latency_ms=latency_ms,
            latency_target_ms=self.serving_target_ms,
            deadline_missed=missed,
            dropped_frames=self._dropped,
            threads=entry.threads,
            cluster=entry.cluster,
            request_size=size,
            normalized_ms=1e3 * inference_s / factor,
        )
        self._dropped = 0
        return FrameRecord(
            self.name, index, arrived_s, now_s, entry.id, entry.processor, entry.accuracy,
            latency_ms, 1e3 * inference_s, self.serving_target_ms, missed, False, monitor,
        )  # fmt: skip

    def late(self, now_s: float) -> list[FrameRecord]:
        """Forget the frames in queue and work; those whose deadline is over count as dropped."""
        left = [index for index in (self.serving, *self._queue) if index is not None]
        self._queue.clear()
        self.serving = None
        due_ms = self.targets.latency_target_ms
        return [self._drop(i) for i in left if 1e3 * (now_s - self.trace.arrivals_s[i]) > due_ms]

    def command(self, knob: SubnetCommand, decision_id: int, now_s: float, free: bool) -> SubnetState:
        """A new knob; returns the state that the node publishes at once. ``free``: it acts at once."""
        if subnet_key(knob) not in self._entries:
            return self.status(SubnetCondition.REJECTED, decision_id)
        self._thin(knob.rate_hz)
        ready_s = now_s if free else self._prepare(_prepared(knob.subnet_id, knob), now_s)
        self.wanted = (knob, decision_id, ready_s)
        if ready_s <= now_s:
            self.switch(now_s)
            return self.status(SubnetCondition.APPLIED)
        for subnet_id in knob.prefetch_subnet_ids:
            self._prepare(_prepared(subnet_id, knob), ready_s)
        return self.status(SubnetCondition.PENDING, decision_id)

    def switch(self, now_s: float) -> bool:
        """Takes over the knob that is ready; False if it has been replaced by another."""
        if self.wanted is None or self.wanted[2] > now_s:
            return False
        self.current, self.decision_id, _ = self.wanted
        self.wanted = None
        for subnet_id in self.current.prefetch_subnet_ids:
            self._prepare(_prepared(subnet_id, self.current), now_s)
        return True

    def status(self, condition: SubnetCondition, decision_id: int | None = None) -> SubnetState:
        """Message of the node's state."""
        known = self.decision_id if decision_id is None else decision_id
        now = self.current
        return SubnetState(
            known,
            now.subnet_id,
            now.processor,
            condition,
            threads=now.threads,
            cluster=now.cluster,
        )

    def _prepare(self, key: tuple[str, str, int], now_s: float) -> float:
        """When a sub-network is ready, if it is wanted now."""
        if key not in self._prepared:
            return now_s
        if key not in self._held:
            moved = key[1] != self.current.processor
            self._held[key] = now_s + (MIGRATE_S if moved else PREPARE_S)
        self._held.move_to_end(key)
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return max(now_s, self._held[key])

    def _thin(self, rate_hz: float) -> None:
        if not (isfinite(rate_hz) and 0.0 < rate_hz < self.targets.rate_hz):
            self._gate = None
        elif self._gate is None or self._gate.rate_hz != rate_hz:
            self._gate = RateGate(rate_hz, skip_first=self._gate is None)

    def _drop(self, index: int, thinned: bool = False) -> FrameRecord:
        self._dropped += 1
        return FrameRecord(
            self.name, index, self.trace.arrivals_s[index], nan, self.current.subnet_id,
            self.current.processor, self.entry.accuracy, nan, nan, self.targets.latency_target_ms,
            True, thinned,
        )  # fmt: skip
