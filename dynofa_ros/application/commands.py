"""Orders of a perception node: what a command asks for, and whether it can be followed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dynofa_ros.application.networks import Networks, SubnetKey
from dynofa_ros.messages import SubnetCommand

LONGEST_VALIDITY_S = 86400.0
DEFAULT_MARGIN = 1.25  # between library latency and target when nobody manages


@dataclass(frozen=True)
class Order:
    """What the node follows now: a command of the manager, the user's pin, or the node's own default."""

    key: SubnetKey
    decision_id: int = 0
    rate_hz: float = 0.0  # 0 or NaN = the application's own
    expires_ns: int | None = None
    affinity: frozenset[int] = frozenset()  # CPU numbers of the threads that compute; empty = all allowed
    cluster: str = ""  # that those CPUs are, where the command said so


def default_order(networks: Networks, processor: str, pinned: str, latency_target_ms: float) -> Order:
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
    """What ``command`` asks for; what it leaves open is as ``before``. now_ns: steady clock.

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


def refusal(command: SubnetCommand, before: Order, networks: Networks, *, emulated: bool = False) -> str:
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


def hinted(hints: Iterable[str], key: SubnetKey, networks: Networks) -> list[SubnetKey]:
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


def placement(order: Order, key: SubnetKey, networks: Networks) -> tuple[str, int]:
    """Cluster and threads that a network runs with, as library entries name them.

    The cluster is the one whose CPUs the threads are bound to, whatever the network. Threads are 0 where the
    library names none: they are then whatever the engine takes.
    """
    entry = networks.entry(key.processor, key.subnet_id, order.cluster, key.threads)
    cluster = order.cluster if key.processor == order.key.processor else ""
    return cluster, key.threads if entry is not None and entry.threads is not None else 0
