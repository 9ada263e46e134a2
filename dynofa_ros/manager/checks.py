"""Messages that the manager refuses: each check returns the reason in one line, None = sound."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import isnan, nan

from dynofa_ros.latency import processor_of
from dynofa_ros.manager.clocks import MOST_HZ
from dynofa_ros.manager.inputs import Message
from dynofa_ros.manager.placement import CLUSTERED, Key, entry_key, place_of
from dynofa_ros.manager.power_guard import MOST_W
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainTelemetry,
    InferenceMonitor,
    SubnetEntry,
    SubnetLibrary,
)

LEAST_MS, MOST_MS = 1e-6, 1e8  # outside, a time is damaged; 1e8 ms is a day
LEAST_RATE_HZ, MOST_RATE_HZ = 1e-5, 1e5
MOST_THREADS = 4096
MOST_UTILIZATION = 100.0  # a sum over cores may be above 1


def check_targets(targets: AppTargets) -> str | None:
    """Why targets are refused."""
    if not LEAST_MS <= targets.latency_target_ms <= MOST_MS:
        wanted = f"a number above 0, at most {MOST_MS:g}"
        return f"latency_target_ms must be {wanted}, not {targets.latency_target_ms}"
    if not LEAST_RATE_HZ <= targets.rate_hz <= MOST_RATE_HZ:
        return f"rate_hz must be a number above 0, at most {MOST_RATE_HZ:g}, not {targets.rate_hz}"
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
        if not 0.0 <= value <= MOST_MS:
            return f"{name} must be a number >= 0, at most {MOST_MS:g}, not {value}"
    if entry.alpha_ms + entry.beta_ms < LEAST_MS:
        return "alpha_ms + beta_ms must be above 0"
    if not 0 <= entry.threads <= MOST_THREADS:
        return f"threads must be from 0 to {MOST_THREADS}, not {entry.threads}"
    for reference in entry.reference_frequencies:
        if not 0.0 < reference.frequency_hz <= MOST_HZ:
            where = f"the reference frequency of {reference.domain}"
            return f"{where} must be above 0, at most {MOST_HZ:g}, not {reference.frequency_hz}"
    return None


def check_library(library: SubnetLibrary) -> tuple[tuple[SubnetEntry, ...], tuple[str, ...]]:
    """The sound entries of a library, and the reasons why the others are refused."""
    sound: dict[Key, SubnetEntry] = {}
    reasons = []
    for entry in library.entries:
        key = entry_key(entry)
        reason = "listed twice" if key in sound else check_entry(entry)
        if reason is None:
            sound[key] = _comparable(entry)
        else:
            reasons.append(f"library of {library.app}, entry {entry.id!r} on {place_of(entry)!r}: {reason}")
    if not sound:
        reasons.append(f"library of {library.app}: no usable entry")
    return tuple(sound.values()), tuple(reasons)


def _comparable(entry: SubnetEntry) -> SubnetEntry:
    """An entry that is equal to itself when it comes once more: what is unknown is one and the same NaN."""
    if not (isnan(entry.latency_ms) or isnan(entry.energy_j)):
        return entry
    latency_ms, energy_j = (nan if isnan(v) else v for v in (entry.latency_ms, entry.energy_j))
    return replace(entry, latency_ms=latency_ms, energy_j=energy_j)


def check_frame(frame: InferenceMonitor) -> str | None:
    """Why the measurement of a frame is refused."""
    for name, value in (("inference_ms", frame.inference_ms), ("latency_ms", frame.latency_ms)):
        if not LEAST_MS <= value <= MOST_MS:
            return f"{name} must be a number above 0, at most {MOST_MS:g}, not {value}"
    if frame.latency_ms < frame.inference_ms * (1.0 - 1e-3) - 1e-3:
        return f"latency_ms {frame.latency_ms} is below inference_ms {frame.inference_ms}"
    return None


def sift(message: Message) -> tuple[Message, str | None]:
    """What the device says without what cannot be, and what that is; None = all is sound."""
    if isinstance(message, DeviceTelemetry):
        return check_telemetry(message)
    return check_capabilities(message) if isinstance(message, DeviceCapabilities) else (message, None)


def check_capabilities(capabilities: DeviceCapabilities) -> tuple[DeviceCapabilities, str | None]:
    """A device without the clocks that cannot be, and which they are."""
    names = [d.domain for d in capabilities.domains]
    twice = sorted({name for name in names if names.count(name) > 1})
    bad = [d.domain for d in capabilities.domains if not _ascending(d.frequencies_hz)]
    if not (bad or twice):
        return capabilities, None
    sound: dict[str, DomainCapability] = {}
    for d in capabilities.domains:
        if d.domain not in bad:
            sound.setdefault(d.domain, d)
    reason = (
        f"frequencies_hz of {', '.join(bad)} must be ascending, above 0, at most {MOST_HZ:g}"
        if bad
        else f"{', '.join(twice)} is listed twice, the first counts"
    )
    return replace(capabilities, domains=tuple(sound.values())), f"capabilities: {reason}"


def _ascending(frequencies_hz: tuple[int, ...]) -> bool:
    rising = all(low < high for low, high in pairwise(frequencies_hz))
    return not frequencies_hz or (rising and 0 < frequencies_hz[0] and frequencies_hz[-1] <= MOST_HZ)


def check_telemetry(telemetry: DeviceTelemetry) -> tuple[DeviceTelemetry, str | None]:
    """A sample where what cannot be is unknown (NaN), and what that is. `ThermalGuard` sees to the rest."""
    bad = [reading for reading in telemetry.domains if not _possible(reading)]
    power_w = telemetry.total_power_w
    # What feeds the computer cannot be 0 while it runs.
    named = [f"total_power_w {power_w}"] if not (isnan(power_w) or 0.0 < power_w < MOST_W) else []
    if not bad and not named:
        return telemetry, None
    named += [f"{r.domain} at {r.frequency_hz} Hz and a utilization of {r.utilization}" for r in bad]
    domains = tuple(
        replace(r, frequency_hz=nan, utilization_percent=nan) if r in bad else r for r in telemetry.domains
    )
    power_w = power_w if 0.0 < power_w < MOST_W else nan
    sound = replace(telemetry, domains=domains, total_power_w=power_w)
    return sound, f"telemetry: ignored as impossible: {', '.join(named)}"


def _possible(reading: DomainTelemetry) -> bool:
    clock, used = reading.frequency_hz, reading.utilization
    return (isnan(clock) or 0.0 <= clock <= MOST_HZ) and (isnan(used) or -0.01 <= used <= MOST_UTILIZATION)
