"""Limits that are not held, or that no sensor watches: which one, and what a user can do about it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.state import State

FIRST_READING_S = 2.0  # a sensor that has never spoken is missing after this long
LOST_S = 6.0  # one that has spoken may be silent for this long
DEFAULT = Parameters()


@dataclass(frozen=True)
class LimitFault:
    """A limit that cannot be held. ``constraint``: its name as a binding constraint."""

    constraint: str
    text: str


def missing_sensor(state: State, parameters: Parameters, now_ns: int) -> LimitFault | None:
    """The limit that was asked for and that no sensor watches, None = all are watched.

    A power cap or battery budget needs a total power, or a power model. A ``temperature_limit_c`` that no
    user has set is a default: it is not refused without a thermometer.
    """
    if state.power_model is None and _missing(state, state.sensors.power_ns, now_ns):
        advice = "give the device a power sensor or a power model (its parameter power_file)"
        if isfinite(parameters.power_cap_w):
            asked = f"power_cap_w = {parameters.power_cap_w:g} W"
            text = f"{asked} cannot be held: the device reports no total power; {advice}, or unset the cap"
            return LimitFault("power_cap", text)
        if isfinite(state.battery.cap_w):
            asked = f"battery_energy_j = {parameters.battery_energy_j:g} J"
            text = f"{asked} cannot be held: the device reports no total power; {advice}, or unset the budget"
            return LimitFault("power_cap", text)
    asked_for = temperature_asked(parameters) or state.thermal.read_c >= parameters.temperature_limit_c
    if asked_for and _missing(state, state.sensors.temperature_ns, now_ns):
        asked = f"temperature_limit_c = {parameters.temperature_limit_c:g} C"
        advice = "connect one, or start without setting it"
        return LimitFault(
            "temperature", f"{asked} cannot be held: the device reports no temperature; {advice}"
        )
    return None


def broken_limit(state: State, parameters: Parameters, constraint: str) -> LimitFault | None:
    """The limit that an infeasible plan does not hold; ``constraint`` is what binds."""
    if constraint == "temperature":
        measured = f"{state.thermal.temperature_c:.1f} C measured"
        asked = f"temperature_limit_c = {parameters.temperature_limit_c:g} C"
    elif constraint == "power_cap":
        measured = f"{state.power.measured_w:.1f} W measured"
        cap_w = min(parameters.power_cap_w, state.battery.cap_w)
        asked = f"power_cap_w = {cap_w:g} W"
        if cap_w < parameters.power_cap_w:
            asked = f"battery_energy_j = {parameters.battery_energy_j:g} J ({cap_w:.1f} W from now on)"
    else:
        return None
    return LimitFault(constraint, f"{asked} is not held even by the least bad choice: {measured}")


def temperature_asked(parameters: Parameters) -> bool:
    """Whether a user has asked for the temperature limit."""
    return parameters.temperature_asked or parameters.temperature_limit_c != DEFAULT.temperature_limit_c


def thermometer_remark(state: State, now_ns: int) -> str:
    """Why the temperature is not limited as it should be, "" = it is."""
    read_ns = state.sensors.temperature_ns
    if read_ns is None:
        return "no thermometer: the temperature is not limited"
    if not _missing(state, read_ns, now_ns):
        return ""
    return f"no temperature for {(now_ns - read_ns) * 1e-9:.0f} s: what was measured last counts"


def _missing(state: State, read_ns: int | None, now_ns: int) -> bool:
    since_ns, patience_s = (
        (state.sensors.started_ns, FIRST_READING_S) if read_ns is None else (read_ns, LOST_S)
    )
    return since_ns is not None and now_ns - since_ns > patience_s * 1e9
