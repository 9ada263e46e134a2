"""Power at which a temperature limit would be reached, by one thermal RC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf, isfinite, isnan, nan

TEMPERATURE_SMOOTHING_S = 3.0
TEMPERATURE_TREND_S = 10.0
THERMAL_HORIZON_S = 30.0
LEAST_C, MOST_C = -60.0, 150.0  # outside, a thermometer is broken
EMERGENCY_C = 3.0  # above the limit: lowest clocks, whatever is missed
RESISTANCE_C_PER_W = 2.5  # boards without a description: the Xavier NX guess
TIME_CONSTANT_S = 90.0
MOST_C_PER_W, MOST_S = 1e3, 1e5  # outside, a description is damaged


@dataclass
class ThermalGuard:
    """Power at which the temperature limit would be reached within the horizon (one RC).

    The ambient term is taken from the present power, temperature and rise, so a wrong resistance only changes
    how fast the limit is approached, not where it lies.
    """

    resistance_c_per_w: float = RESISTANCE_C_PER_W
    time_constant_s: float = TIME_CONSTANT_S
    temperature_c: float = nan
    read_c: float = nan  # the same when a thermometer last gave a value
    _slow_c: float = nan
    _ambient_c: float = nan  # temperature without any power, when it was last read

    def describe(self, resistance_c_per_w: float, time_constant_s: float) -> None:
        """Takes the RC of a board; a guess where it is unknown (NaN) or none."""
        known = 0.0 < resistance_c_per_w < MOST_C_PER_W and 0.0 < time_constant_s < MOST_S
        self.resistance_c_per_w = resistance_c_per_w if known else RESISTANCE_C_PER_W
        self.time_constant_s = time_constant_s if known else TIME_CONSTANT_S

    def observe(
        self, temperatures_c: Iterable[float], dt_s: float, measured_w: float = nan, limit_c: float = inf
    ) -> bool:
        """Takes the hottest known sensor of one sample; False = there is none.

        What was measured last counts then. Above the limit it cools as the RC does at the measured power, but
        not below the limit: a thermometer that falls silent while it is hot is no reason to stand still.
        """
        known = [t for t in temperatures_c if LEAST_C < t < MOST_C]
        if not known:
            end_c = max(limit_c, self._ambient_c + self.resistance_c_per_w * measured_w)
            if self.temperature_c > end_c:
                self.temperature_c += (1.0 - exp(-dt_s / self.time_constant_s)) * (end_c - self.temperature_c)
                self._slow_c = self.temperature_c
            return False
        hottest = max(known)
        if isnan(self.temperature_c):
            self.temperature_c = self._slow_c = hottest
        fast = 1.0 - exp(-dt_s / TEMPERATURE_SMOOTHING_S)
        slow = 1.0 - exp(-dt_s / TEMPERATURE_TREND_S)
        self.temperature_c += fast * (hottest - self.temperature_c)
        self._slow_c += slow * (hottest - self._slow_c)
        self.read_c = self.temperature_c
        if isfinite(measured_w):
            self._ambient_c = self.temperature_c - self.resistance_c_per_w * measured_w
        return True

    @property
    def rise_c_per_s(self) -> float:
        """Trend: two averages of a ramp lie as far apart as their time constants differ."""
        return (self.temperature_c - self._slow_c) / (TEMPERATURE_TREND_S - TEMPERATURE_SMOOTHING_S)

    def limit_w(self, limit_c: float, measured_w: float) -> float:
        """Power budget for the limit; inf while nothing is known, 0 = cool down at any price."""
        if isnan(self.temperature_c) or isnan(measured_w):
            return inf
        if self.temperature_c >= limit_c + EMERGENCY_C:
            return 0.0
        reached = 1.0 - exp(-THERMAL_HORIZON_S / self.time_constant_s)
        step_c = (limit_c - self.temperature_c) / reached - self.time_constant_s * max(0.0, self.rise_c_per_s)
        return max(0.0, measured_w + step_c / self.resistance_c_per_w)
