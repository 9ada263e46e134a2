"""Diagnostics of the device node as plain functions of what it knows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.linux.inventory import Inventory, PowerMode
from dynofa_ros.device.linux.sysfs import OFF
from dynofa_ros.device.power_model import differences
from dynofa_ros.messages import (
    DeviceCapabilities,
    DomainCapability,
    DomainState,
    DomainStatus,
    PowerModel,
    ThrottleFlag,
)
from dynofa_ros.nodes.device_standard import hottest
from dynofa_ros.ros.diagnostics import Level, Status

RECENT_S = 10.0  # how long a refusal stays a warning
NO_CLOCKS = (
    "; sub-networks are managed, clocks are not (a simulated board must be asked for: backend: simulated)"
)
SHOWN = 3  # reasons in a message; all of them are among its values


def backend_status(
    capabilities: DeviceCapabilities,
    inventory: Inventory | None,
    guesses: tuple[str, ...],
    model: PowerModel | None,
) -> Status:
    """``inventory``: None of a simulated board, which has ``guesses``, keys of its file. ``model``: the power
    model that is published.
    """
    values: dict[str, object] = {
        "board": capabilities.board,
        "source": capabilities.source,
        "processors": ", ".join(capabilities.processors),
        "description": capabilities.description or "none matches this computer",
        **power_model_values(model, [domain.domain for domain in capabilities.domains]),
    }
    text = f"{capabilities.source} {capabilities.board}"
    if inventory is None:
        values["guesses"] = f"{len(guesses)} values of the board file: {', '.join(guesses)}"
        return Status(Level.OK, text, values)
    values["notes"] = "; ".join(inventory.notes)
    values["unsupported"] = "; ".join(inventory.unsupported)
    text += f": {len(inventory.domains)} clocks, {len(inventory.rails)} power sensors"
    return (
        Status(Level.OK, text, values) if inventory.domains else Status(Level.WARN, text + NO_CLOCKS, values)
    )


def power_model_values(model: PowerModel | None, domains: Sequence[str]) -> dict[str, object]:
    """Where the power model comes from, and how its clock domains differ from the device's."""
    if model is None:
        return {"power_model": "none: characterise this board, and name the file as power_file"}
    lacks, excess = differences(model, domains)
    values: dict[str, object] = {"power_model": model.origin}
    if lacks:
        values["power_model_lacks"] = ", ".join(lacks)
    if excess:
        values["power_model_in_excess"] = ", ".join(excess)
    return values


def clock_status(
    capabilities: DeviceCapabilities,
    states: Iterable[DomainState],
    *,
    read_only: str,
    pinned: bool,
    mode: PowerMode | None,
) -> Status:
    """Every clock: what can be done with it, what was asked for, and what became of it.

    ``read_only``: why no clock may be set at all, else empty. ``pinned``: found as jetson_clocks leaves them.
    ``mode``: nvpmodel's in force.
    """
    by_name = {state.domain: state for state in states}
    values: dict[str, object] = {
        d.domain: _clock_text(d, by_name.get(d.domain)) for d in capabilities.domains
    }
    if mode is not None:
        caps = (f"{cap.domain} {cap.max_hz / 1e6:g} MHz" for cap in mode.caps if cap.max_hz)
        values["nvpmodel"] = f"mode {mode.number} {mode.name}; caps: {', '.join(caps) or 'none'}"
    if pinned:
        values["jetson_clocks"] = "every clock was found pinned (min = max)"
    troubles = [s.reason for s in by_name.values() if s.reason and s.status is not DomainStatus.APPLIED]
    if troubles:
        return Status(Level.WARN, _joined(troubles), values)
    if read_only:
        return Status(Level.OK, f"read only: {read_only}", values)
    closed = [f"{d.domain}: {d.reason}" for d in capabilities.domains if not d.can_write]
    if closed:
        return Status(Level.WARN, f"cannot be set: {_joined(closed)}", values)
    return Status(Level.OK, f"{len(capabilities.domains)} clocks can be set", values)


def command_status(control: ClockControl, now_s: float, last_stale_s: float) -> Status:
    """What became of the commands; ``last_stale_s``: when the last stale one came."""
    counts, state = control.counts, control.state()
    values = {
        "decision_id": state.decision_id,
        "taken": counts.taken,
        "repeated": counts.repeated,
        "stale": counts.stale,
        "refused": counts.refused,
        "fallbacks": counts.fallbacks,
        "last_refusal": control.last_refusal,
        "last_stale": control.last_stale,
    }
    if control.fallen_back:
        return Status(Level.WARN, state.message, values)
    if now_s - control.last_refusal_s < RECENT_S:
        return Status(Level.WARN, f"refused: {control.last_refusal}", values)
    if now_s - last_stale_s < RECENT_S:
        return Status(Level.WARN, f"stale: {control.last_stale}", values)
    return Status(Level.OK, f"last decision {state.decision_id}", values)


def sensor_status(sample: DeviceSample, total_rails: Collection[str] = ()) -> Status:
    """What can be read. A sensor that has stopped is a warning; one that never had a value or is powered off
    for now is only listed, unless it is one of those that make up the power of the module.
    """
    name, hottest_c = hottest(sample)
    failed = failed_sensors(sample)
    values: dict[str, object] = {
        "total_power_w": sample.total_power_w,
        "hottest": f"{name} {hottest_c:.1f} C" if name else "unknown",
        "oldest_value_s": _oldest_s(sample),
        **{sensor: reason for sensor, reason, _ in failed},
    }
    stopped = [
        f"{sensor}: {reason}" for sensor, reason, had_value in failed if had_value and OFF not in reason
    ]
    if sample.throttle_flags & ThrottleFlag.THERMAL:
        return Status(Level.WARN, f"clocks are held down by temperature ({hottest_c:.1f} C)", values)
    if sample.throttle_flags & ThrottleFlag.POWER:
        return Status(Level.WARN, "clocks are held down by an electrical limit", values)
    if stopped:
        return Status(Level.WARN, f"{len(stopped)} stopped: {_joined(stopped)}", values)
    no_total = [reason for sensor, reason, _ in failed if sensor.removeprefix("power of ") in total_rails]
    if no_total:
        return Status(Level.WARN, f"power unknown: {_joined(no_total)}", values)
    power = "power unknown" if math.isnan(sample.total_power_w) else f"{sample.total_power_w:.1f} W"
    heat = f"{hottest_c:.1f} C" if name else "temperature unknown"
    return Status(Level.OK, f"{power}, {heat}", values)


def failed_sensors(sample: DeviceSample) -> list[tuple[str, str, bool]]:
    """Sensors without a value now: name, reason, whether they ever had one."""
    origins = sample.origins.items()
    return [(name, reason, not math.isnan(taken_s)) for name, (taken_s, reason) in origins if reason]


def _oldest_s(sample: DeviceSample) -> float:
    """Age of the oldest value that is known."""
    if not sample.origins:
        return 0.0
    taken = [origin.taken_s for origin in sample.origins.values() if not origin.reason]
    return sample.taken_s - min(taken, default=math.nan)


def _clock_text(domain: DomainCapability, state: DomainState | None) -> str:
    table = domain.frequencies_hz
    parts = [f"{_mhz(table[0])} to {_mhz(table[-1])}"] if table else ["no table"]
    if state is not None:
        parts.append(f"now {_mhz(state.actual_hz)}")
        if state.requested_max_hz:
            wanted = f"{_mhz(state.requested_min_hz)} to {_mhz(state.requested_max_hz)}"
            parts.append(f"asked for {wanted}: {state.status.name.lower()}")
    parts.append("can be set" if domain.can_write else "read only")
    reasons = [domain.reason, state.reason if state else ""]
    return "; ".join([", ".join(parts), *filter(None, reasons)])


def _mhz(hz: float) -> str:
    return "unknown" if math.isnan(hz) else f"{hz / 1e6:g} MHz"


def _joined(reasons: list[str]) -> str:
    more = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
    return "; ".join([*reasons[:SHOWN], *more])
