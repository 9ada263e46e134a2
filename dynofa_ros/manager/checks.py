"""Messages that the manager refuses: each check returns the reason in one line, None = sound."""

from __future__ import annotations

from math import isfinite

from dynofa_ros.latency import processor_of
from dynofa_ros.manager.placement import CLUSTERED, Key, entry_key, place_of
from dynofa_ros.messages import AppTargets, InferenceMonitor, SubnetEntry, SubnetLibrary


def check_targets(targets: AppTargets) -> str | None:
    """Why targets are refused."""
    if not (isfinite(targets.latency_target_ms) and targets.latency_target_ms > 0.0):
        return f"latency_target_ms must be a number above 0, not {targets.latency_target_ms}"
    if not (isfinite(targets.rate_hz) and targets.rate_hz > 0.0):
        return f"rate_hz must be a number above 0, not {targets.rate_hz}"
    for name in ("accuracy_target", "accuracy_floor", "miss_tolerance"):
        value = getattr(targets, name)
        if not 0.0 <= value <= 1.0:
            return f"{name} must be from 0 to 1, not {value}"
    return None


def check_entry(entry: SubnetEntry) -> str | None:
    """Why one entry of a library is refused."""
    if not entry.id or not entry.processor:
        return "id and processor must not be empty"
    if entry.cluster and not (entry.processor == CLUSTERED and processor_of(entry.cluster) == CLUSTERED):
        return f"cluster {entry.cluster!r} is no cluster of the CPU"
    if not 0.0 <= entry.accuracy <= 1.0:
        return f"accuracy must be from 0 to 1, not {entry.accuracy}"
    for name in ("alpha_ms", "beta_ms"):
        value = getattr(entry, name)
        if not (isfinite(value) and value >= 0.0):
            return f"{name} must be a number >= 0, not {value}"
    if entry.alpha_ms + entry.beta_ms <= 0.0:
        return "alpha_ms + beta_ms must be above 0"
    return None


def check_library(library: SubnetLibrary) -> tuple[tuple[SubnetEntry, ...], tuple[str, ...]]:
    """The sound entries of a library, and the reasons why the others are refused."""
    sound: dict[Key, SubnetEntry] = {}
    reasons = []
    for entry in library.entries:
        key = entry_key(entry)
        reason = "listed twice" if key in sound else check_entry(entry)
        if reason is None:
            sound[key] = entry
        else:
            reasons.append(f"library of {library.app}, entry {entry.id!r} on {place_of(entry)!r}: {reason}")
    if not sound:
        reasons.append(f"library of {library.app}: no usable entry")
    return tuple(sound.values()), tuple(reasons)


def check_frame(frame: InferenceMonitor) -> str | None:
    """Why the measurement of a frame is refused."""
    for name in ("inference_ms", "latency_ms"):
        value = getattr(frame, name)
        if not (isfinite(value) and value > 0.0):
            return f"{name} must be a number above 0, not {value}"
    if frame.latency_ms < frame.inference_ms * (1.0 - 1e-3) - 1e-3:
        return f"latency_ms {frame.latency_ms} is below inference_ms {frame.inference_ms}"
    return None
