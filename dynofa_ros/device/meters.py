"""Energy as the integral of sampled power."""

from __future__ import annotations

import math


class EnergyMeter:
    """Trapezoidal integral of power samples; a gap of unknown (NaN) samples is bridged by a straight line."""

    def __init__(self) -> None:
        self._energy_j = 0.0
        self._last: tuple[float, float] | None = None

    @property
    def energy_j(self) -> float:
        """Energy since the first known sample; NaN before there is one."""
        return math.nan if self._last is None else self._energy_j

    def add(self, power_w: float, now_s: float) -> None:
        """A power sample taken at ``now_s`` (steady clock, seconds)."""
        if math.isnan(power_w):
            return
        if self._last is not None:
            last_s, last_w = self._last
            self._energy_j += 0.5 * (last_w + power_w) * (now_s - last_s)
        self._last = (now_s, power_w)
