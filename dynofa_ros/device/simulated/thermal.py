"""Temperature of a board: one thermal RC, and thermal throttling. Pure functions."""

from __future__ import annotations

import math

import msgspec

from dynofa_ros.device.board_sections import Thermal


def steady_temperature_c(thermal: Thermal, power_w: float, ambient_c: float) -> float:
    """Temperature that a constant power leads to."""
    return ambient_c + thermal.resistance_c_per_w * power_w


def next_temperature_c(
    thermal: Thermal, temperature_c: float, power_w: float, ambient_c: float, duration_s: float
) -> float:
    """Temperature after ``duration_s`` of constant power; exact for any duration."""
    steady_c = steady_temperature_c(thermal, power_w, ambient_c)
    return steady_c + (temperature_c - steady_c) * math.exp(-duration_s / thermal.time_constant_s)


def with_resistance(thermal: Thermal, resistance_c_per_w: float) -> Thermal:
    """The same mass with another way out for the heat, such as a stuck fan.

    The time constant is resistance times heat capacity, so it grows with the resistance.
    Raises ValueError for a resistance that is not positive.
    """
    if not 0.0 < resistance_c_per_w < math.inf:
        raise ValueError(f"the thermal resistance must be > 0 C/W, not {resistance_c_per_w}")
    ratio = resistance_c_per_w / thermal.resistance_c_per_w
    return msgspec.structs.replace(
        thermal, resistance_c_per_w=resistance_c_per_w, time_constant_s=thermal.time_constant_s * ratio
    )


def next_throttle_step(thermal: Thermal, step: int, temperature_c: float, deepest: int) -> int:
    """Clock steps that throttling takes away from the top of the table, once per ``throttle_period_s``.

    One more at or above the trip, one less below trip - hysteresis, unchanged between, 0..deepest
    (the step_wise law of the kernel's thermal governor, without its trend term).
    """
    if temperature_c >= thermal.trip_c:
        return min(step + 1, deepest)
    if temperature_c < thermal.trip_c - thermal.hysteresis_c:
        return max(step - 1, 0)
    return step
