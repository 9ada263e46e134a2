"""Power that an oracle may use: the cap, what a battery leaves, and what the heat path lets out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf

from dynofa_ros.device.board_sections import Thermal
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.simulation.scene import Event, Surroundings

THERMAL_HORIZON_S = 10.0
LAST_SECONDS_S = 5.0
PLAN_PERIOD_S = 1.0


@dataclass
class Battery:
    """Objective `battery`: the rest of the energy budget over the rest of its time, by the true energy."""

    _asked: tuple[float, float] | None = None
    _end: tuple[float, float] = (inf, inf)  # energy at which it is used up, time at which it is over
    _limit_w: float = inf
    _due_s: float = -inf

    def limit_w(self, parameters: Parameters, now_s: float, used_j: float) -> float:
        """Power that is left, reckoned every second; inf without a budget, or when its time is over."""
        if parameters.objective != "battery":
            self._asked = None
            return inf
        asked = (parameters.battery_energy_j, parameters.battery_time_s)
        if asked != self._asked:
            self._asked, self._end = asked, (used_j + asked[0], now_s + asked[1])
            self._due_s = now_s
        end_j, end_s = self._end
        if now_s >= end_s:
            return inf
        if now_s >= self._due_s:
            self._due_s = now_s + PLAN_PERIOD_S
            self._limit_w = max(0.0, end_j - used_j) / max(end_s - now_s, LAST_SECONDS_S)
        return self._limit_w


def surroundings(thermal: Thermal, timeline: Sequence[Event], now_s: float) -> tuple[float, float]:
    """True ambient temperature and thermal resistance at a time."""
    ambient_c, factor = thermal.ambient_c, 1.0
    for event in timeline:
        if isinstance(event, Surroundings) and event.at_s <= now_s:
            ambient_c, factor = event.ambient_c, event.resistance_factor
    return ambient_c, thermal.resistance_c_per_w * factor


def thermal_limit_w(
    thermal: Thermal, timeline: Sequence[Event], now_s: float, temperature_c: float, limit_c: float
) -> float:
    """Power that reaches the limit within the horizon: one RC, P = (T_steady - T_ambient) / R."""
    ambient_c, resistance = surroundings(thermal, timeline, now_s)
    kept = exp(-THERMAL_HORIZON_S / thermal.time_constant_s)
    steady_c = (limit_c - temperature_c * kept) / (1.0 - kept)
    return max(0.0, (steady_c - ambient_c) / resistance)


def constant_limit_w(
    thermal: Thermal, timeline: Sequence[Event], duration_s: float, temperature_c: float, limit_c: float
) -> float:
    """Most power that, drawn all the time, never exceeds the limit; 0 if it starts above."""
    times = [0.0, *sorted(e.at_s for e in timeline if isinstance(e, Surroundings)), duration_s]

    def hottest_c(power_w: float) -> float:
        now_c = most_c = temperature_c
        for begin_s, end_s in zip(times, times[1:], strict=False):
            ambient_c, resistance = surroundings(thermal, timeline, begin_s)
            steady_c = ambient_c + resistance * power_w
            now_c = steady_c + (now_c - steady_c) * exp((begin_s - end_s) / thermal.time_constant_s)
            most_c = max(most_c, now_c)
        return most_c

    low, high = 0.0, 200.0
    if hottest_c(high) <= limit_c:
        return inf
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if hottest_c(middle) <= limit_c else (low, middle)
    return low
