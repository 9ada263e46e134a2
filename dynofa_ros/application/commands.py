"""The command in force: what the manager, the user or the default says, and whether it can be followed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dynofa_ros.application.networks import Libraries, SubnetKey
from dynofa_ros.application.threads import TaskMapping
from dynofa_ros.application.worker import RateGate
from dynofa_ros.messages import AppTargets, SubnetCommand, SubnetCondition, SubnetEntry, SubnetState
from dynofa_ros.supernet.switching import Switched, Switcher

LONGEST_VALIDITY_S = 86400.0
DEFAULT_MARGIN = 1.25  # between library latency and target when nobody manages


@dataclass(frozen=True)
class Order:
    """What the application follows now: a command of the manager, the user's pin, or its own default."""

    key: SubnetKey
    decision_id: int = 0
    rate_hz: float = 0.0  # 0 or NaN = the application's own
    expires_ns: int | None = None
    affinity: frozenset[int] = frozenset()  # CPU numbers of the threads that compute; empty = all allowed
    cluster: str = ""  # that those CPUs are, where the command said so
    granted: tuple[SubnetEntry, ...] = ()  # what may be taken instead, with the time that is expected

    def allows(self, key: SubnetKey) -> bool:
        """Whether a sub-network is the commanded one, or granted in its place."""
        granted = any(entry.id == key.subnet_id for entry in self.granted)
        return key == self.key or (granted and replace(key, subnet_id=self.key.subnet_id) == self.key)


def default_order(networks: Libraries, processor: str, pinned: str, latency_target_ms: float) -> Order:
    """The pinned sub-network, else the most accurate one that should hold the target by itself.

    With the threads of its library entry, on no CPUs in particular: which CPUs a cluster has only a command
    says. latency_target_ms: on the machine of the library.
    """
    if pinned:
        processors = networks.processors_of(pinned)
        processor = processor if processor in processors else processors[0]
        entry = networks.entry(processor, pinned)
    else:
        entry = networks.libraries[processor].best_within(latency_target_ms / DEFAULT_MARGIN)
    assert entry is not None
    return Order(SubnetKey(processor, entry.id, entry.threads or 1))


def commanded(command: SubnetCommand, before: Order, now_ns: int, *, emulated: bool = False) -> Order:
    """What ``command`` asks for; what it leaves open is as ``before``. now_ns: of the clock of commands.

    CPUs that were bound for a cluster are free again once a command names none. ``emulated``: the CPUs are
    those of another computer, nothing is bound.
    """
    kept = frozenset() if before.cluster else before.affinity
    cpus = frozenset(command.cpu_affinity) or kept
    key = SubnetKey(
        command.processor or before.key.processor,
        command.subnet_id,
        command.threads or before.key.threads,
    )
    return Order(
        key,
        command.decision_id,
        command.rate_hz,
        now_ns + int(command.valid_for_s * 1e9) if command.valid_for_s > 0 else None,
        frozenset() if emulated else cpus,
        command.cluster,
    )


def granted(command: SubnetCommand, key: SubnetKey, networks: Libraries) -> tuple[SubnetEntry, ...]:
    """What a command leaves to the application to choose, with the times that it expects; those that the
    library has not are left out."""
    found = []
    for subnet_id, expected_ms in zip(command.granted_subnet_ids, command.granted_ms, strict=False):
        entry = networks.entry(key.processor, subnet_id, command.cluster, key.threads)
        if entry is not None and expected_ms > 0:
            known = networks.libraries[key.processor].subnet_entry(entry)
            found.append(replace(known, latency_ms=expected_ms))
    return tuple(found)


def refusal(command: SubnetCommand, before: Order, networks: Libraries, *, emulated: bool = False) -> str:
    """Why ``command`` cannot be followed, in one line; empty if it can. ``emulated``: see `commanded`."""
    processor = command.processor or before.key.processor
    if reason := networks.without(processor):
        return reason
    if networks.entry(processor, command.subnet_id) is None:
        return f"sub-network {command.subnet_id!r} is not in the library of processor {processor!r}"
    if networks.entry(processor, command.subnet_id, command.cluster) is None:
        known = sorted({e.placement[0] or "none" for e in networks.libraries[processor]})
        return (
            f"sub-network {command.subnet_id!r} has no library entry for cluster {command.cluster!r}: "
            f"the library names {', '.join(known)}"
        )
    if command.cluster and not command.cpu_affinity and not emulated:
        return f"cluster {command.cluster!r} needs cpu_affinity, the numbers of its CPUs"
    if command.rate_hz < 0 or math.isinf(command.rate_hz):
        return f"rate_hz = {command.rate_hz} must be positive, or 0 for the application's own"
    if not 0 <= command.valid_for_s <= LONGEST_VALIDITY_S:
        return f"valid_for_s = {command.valid_for_s} must be 0 (no end) to {LONGEST_VALIDITY_S}"
    return ""


def hinted(hints: Iterable[str], key: SubnetKey, networks: Libraries) -> list[SubnetKey]:
    """Keys of prefetch hints, each "id" or "processor/id"; those that no library has are left out.

    A bare id is of the library of the command's processor, else of the first other that has it.
    """
    keys = []
    for hint in hints:
        named, _, subnet_id = hint.rpartition("/")
        processors = networks.processors_of(subnet_id)
        wanted = named or (key.processor if key.processor in processors else "".join(processors[:1]))
        if wanted in processors:
            keys.append(SubnetKey(wanted, subnet_id, key.threads))
    return keys


def placement(order: Order, key: SubnetKey, networks: Libraries) -> tuple[str, int]:
    """Cluster and threads that a network runs with, as library entries name them.

    The cluster is the one whose CPUs the threads are bound to, whatever the network. Threads are 0 where the
    library names none: they are then whatever the engine takes.
    """
    entry = networks.entry(key.processor, key.subnet_id, order.cluster, key.threads)
    cluster = order.cluster if key.processor == order.key.processor else ""
    return cluster, key.threads if entry is not None and entry.threads is not None else 0


class CommandInForce:
    """Follows the newest command while it is valid, with the sub-network, the CPUs and the rate it names.

    publish: called with every SubnetState, its header left out, in the thread that changed it. warn: called
    with one line for the log. clock_ns: by which commands lapse. slowdown: of the emulated device, None =
    this machine is the device.
    """

    def __init__(
        self,
        networks: Libraries,
        switcher: Switcher[SubnetKey],
        mapping: TaskMapping,
        processor: str,
        slowdown: float | None,
        publish: Callable[[SubnetState], None],
        warn: Callable[[str], None],
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._clock_ns = clock_ns
        self._networks, self._switcher, self._mapping = networks, switcher, mapping
        self._processor, self._slowdown = processor, slowdown
        self._publish, self._warn = publish, warn
        self._lock = threading.Lock()
        self._last_id = 0
        self._managed: Order | None = None  # of the manager, in force or not
        self.gate: RateGate | None = None  # None = every request that is due
        self.condition, self.message = SubnetCondition.APPLIED, ""

    def reset(self, targets: AppTargets, pinned: str) -> None:
        """The user's pin or the default, without any command; nothing is prepared yet.

        Any id is taken next, as by the device: a manager that starts meanwhile may count anew.
        """
        self.targets, self.pinned = targets, pinned
        self._managed, self.gate, self._last_id = None, None, 0
        self.order = self._default()

    def change(self, targets: AppTargets, pinned: str) -> None:
        """Follow new wishes of the user."""
        before, self.targets = self.targets, targets
        retargeted = self.order.decision_id == 0 and targets.latency_target_ms != before.latency_target_ms
        if pinned != self.pinned or retargeted:
            self.pinned = pinned
            self.follow(self._default() if pinned or self._managed is None else self._managed)
        if targets.paused != before.paused:
            self.report(*self._standing())

    def take(self, command: SubnetCommand) -> None:
        """Follow a command of the manager if it is newer than the last one and can be followed."""
        if command.decision_id <= self._last_id:
            return
        self._last_id = command.decision_id
        before = self._managed or self.order
        emulated = self._slowdown is not None
        order = commanded(command, before, self._clock_ns(), emulated=emulated)
        order = replace(order, granted=granted(command, order.key, self._networks))
        reason = refusal(command, before, self._networks, emulated=emulated)
        cpus = () if emulated else command.cpu_affinity
        reason = reason or self._mapping.refusal(cpus, command.threads, command.cluster)
        binds = bool(cpus) and not self.pinned
        if not reason and binds and (reason := self._mapping.assign(order.affinity)):
            self._mapping.assign(self.order.affinity)
        if reason:
            self._warn(f"command {command.decision_id} refused: {reason}")
            self.report(SubnetCondition.REJECTED, reason, command.decision_id)
            return
        self._managed = order
        if self.pinned:
            self.report(*self._standing(), decision_id=command.decision_id)
            return
        self.follow(order)
        if command.prefetch_subnet_ids:
            self._switcher.prefetch(hinted(command.prefetch_subnet_ids, order.key, self._networks))

    def follow(self, order: Order) -> None:
        """Make ``order`` the one in force; its sub-network answers as soon as it is ready."""
        self.order = order
        if not 0 < order.rate_hz < self.targets.rate_hz:
            self.gate = None
        elif self.gate is None or self.gate.rate_hz != order.rate_hz:  # a renewed command begins no new phase
            self.gate = RateGate(order.rate_hz, skip_first=self.gate is None)
        self._mapping.assign(order.affinity)
        if not self._switcher.holds(order.key):
            self.report(SubnetCondition.PENDING, f"preparing {order.key.subnet_id}")
        self._switcher.request(order.key, self._on_switched)

    def watch(self) -> None:
        """Keep the CPUs asked for, and the command only while it is valid; call it several times a second."""
        before = self._mapping.reason
        if (reason := self._mapping.keep()) != before:
            self._warn(reason or "the threads run where they should again")
            if self.condition == SubnetCondition.APPLIED:
                self.report(*self._standing())
        expires = self.order.expires_ns
        if expires is not None and self._clock_ns() > expires:
            self._warn("the manager is silent: back to the default sub-network")
            self._last_id = 0  # a manager that starts again may count anew
            self._managed = None
            self.follow(self._default())

    def report(
        self,
        condition: SubnetCondition,
        message: str,
        decision_id: int | None = None,
        duration_ms: float = math.nan,
    ) -> None:
        """Publish what runs now. decision_id: of the command that this answers, None = the one in force."""
        with self._lock:
            self.condition, self.message = condition, message
            current = self._switcher.current
            key = current.key if current is not None else self.order.key
            cluster, threads = placement(self.order, key, self._networks)
            entry = self._networks.entry(key.processor, key.subnet_id, cluster, threads)
            state = SubnetState(
                decision_id=self.order.decision_id if decision_id is None else decision_id,
                subnet_id=key.subnet_id,
                processor=key.processor,
                threads=threads,
                cluster=cluster,
                status=condition,
                message=message,
                switch_duration_ms=duration_ms,
                expected_accuracy=entry.accuracy if entry else math.nan,
            )
            self._publish(state)

    def _default(self) -> Order:
        target_ms = self.targets.latency_target_ms / (self._slowdown or 1.0)
        return default_order(self._networks, self._processor, self.pinned, target_ms)

    def _standing(self) -> tuple[SubnetCondition, str]:
        """Condition and message while nothing is being changed."""
        if self.targets.paused:
            return SubnetCondition.DISABLED, "paused"
        if self.pinned:
            return SubnetCondition.PINNED, "pinned by the parameter subnet_id"
        return SubnetCondition.APPLIED, self._mapping.reason

    def _on_switched(self, outcome: Switched[SubnetKey]) -> None:
        """Runs in the preparation thread, or in the caller's when the sub-network was ready."""
        if outcome.error is not None:
            self._warn(f"{outcome.key.subnet_id} could not be prepared: {outcome.error}")
            self.report(SubnetCondition.REJECTED, outcome.error)
            return
        self.report(*self._standing(), duration_ms=outcome.duration_ms)
