"""Diagnostics of the perception node: plain functions from what it knows to a status."""

from __future__ import annotations

from collections.abc import Sequence

from dynofa_ros.nodes.frame_worker import Counters
from dynofa_ros.nodes.perception_model import SubnetKey
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


def subnet(key: SubnetKey, decision_id: int, cached_bytes: int, message: str, *, rejected: bool) -> Status:
    """message: of the last SubnetState; rejected: whether that was a refusal."""
    facts = {
        "sub-network": key.subnet_id,
        "processor": key.processor,
        "decision": decision_id,
        "cached, MB": cached_bytes / 1e6,
    }
    if rejected:
        return Status(Level.ERROR, message, facts)
    return Status(Level.OK, message or "as commanded", facts)
