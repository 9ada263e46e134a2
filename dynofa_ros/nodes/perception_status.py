"""Diagnostics of the perception node: plain functions from what it knows to a status."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dynofa_ros.application.networks import Copy, SubnetKey
from dynofa_ros.application.threads import ThreadState, cpu_list
from dynofa_ros.application.worker import Counters
from dynofa_ros.ros.diagnostics import Level, Status

SILENT_S = 2.0  # without an image for so long something is wrong with the camera, the topic or its QoS
MISS_WARN, MISS_ERROR = 0.05, 0.20
INACTIVE = Status(Level.OK, "inactive")


def images(age_s: float, counters: Counters, malformed_reason: str) -> Status:
    """age_s: since the last image, NaN if there was none."""
    facts = {
        "age of the last image, s": age_s,
        "answered": counters.total_answered,
        "dropped": counters.total_dropped,
        "malformed": counters.total_malformed,
        "last malformed": malformed_reason or "none",
    }
    if not age_s < SILENT_S:
        return Status(Level.WARN, "no images: check the topic and its QoS", facts)
    if counters.total_malformed:
        text = f"{counters.total_malformed} malformed images dropped, last: {malformed_reason}"
        return Status(Level.WARN, text, facts)
    return Status(Level.OK, "images arrive", facts)


def deadlines(misses: Sequence[bool]) -> Status:
    """misses: of the recent due frames, whether each missed its target."""
    if not misses:
        return Status(Level.OK, "no frames yet")
    share = sum(misses) / len(misses)
    level = Level.ERROR if share > MISS_ERROR else Level.WARN if share > MISS_WARN else Level.OK
    return Status(level, f"{share:.1%} of the last {len(misses)} due frames missed the target")


def subnet(
    key: SubnetKey,
    decision_id: int,
    message: str,
    *,
    rejected: bool,
    strayed: str,
    facts: Mapping[str, object],
) -> Status:
    """message: of the last SubnetState; rejected: whether that was a refusal.

    strayed: why the threads do not run on the CPUs asked for; facts: of `placement` and `mapping`.
    """
    named = {"sub-network": key.subnet_id, "processor": key.processor, "decision": decision_id, **facts}
    if rejected:
        return Status(Level.ERROR, message, named)
    if strayed:
        return Status(Level.WARN, strayed, named)
    return Status(Level.OK, message or "as commanded", named)


def placement(current: SubnetKey, copies: Sequence[Copy], budget_bytes: int) -> dict[str, object]:
    """Facts: the prepared sub-networks that are resident, the one in use among them."""
    elsewhere = sorted(
        {c.key.processor for c in copies if c.key.subnet_id == current.subnet_id} - {current.processor}
    )
    return {
        "placement": f"on {current.processor}"
        + (f", a copy stays on {', '.join(elsewhere)}" if elsewhere else ", no copy elsewhere"),
        "cached, MB": sum(c.nbytes for c in copies) / 1e6,
        "cache budget, MB": budget_bytes / 1e6,
    } | {
        f"copy on {c.key.processor}: {c.key.subnet_id}, threads {c.key.threads}": f"{c.nbytes / 1e6:.3g} MB"
        for c in copies
    }


def mapping(threads: int, asked: Collection[int], states: Sequence[ThreadState]) -> dict[str, object]:
    """Facts: what was asked for, and where the kernel has every thread that computes."""
    return {"threads asked for": threads, "CPUs asked for": cpu_list(asked) or "any"} | {
        f"thread {s.tid}, {s.name}": f"CPUs {cpu_list(s.cpus)}, last on {s.last_cpu}" for s in states
    }
