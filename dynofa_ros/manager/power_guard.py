"""Bias of the power model and the power that a plan may be predicted to take under a cap."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import exp, inf, isfinite, isnan, nan

CAP_GUARD = 0.03  # of the cap, kept free for what the model does not see
CAP_RELEASE = 0.015  # a plan in force may use this much of the guard before it is replaced
RIPPLE_SAMPLES, RIPPLE_FIRST = 60, 20  # of telemetry: 6 s, 2 s
BIAS_PER_S = 0.1
BIAS_LIMIT = 0.2  # of the predicted power
OVER_CAP_S = 0.2  # longer above the cap than this is answered at once
SETTLE_S = 0.3  # power needs this long to follow a new clock
TRIM_DECAY_S, TRIM_DECAY_MAX_S = 3.0, 600.0  # doubled each time that what was given up had to go again
TRIM_HELD = 8.0  # decay times without a breach: it has held
RETRY_S = 6.0  # before a plan whose peaks were above the cap is tried again, doubled as TRIM_DECAY_S
CLEARLY_LESS = 0.98  # of its power, which others may take until then
POWER_SMOOTHING_S = 1.0
MOST_W = 10_000.0


@dataclass
class Ripple:
    """How far the power of single samples lies above its mean while no clock changes.

    A processor that hosts one job after the other is busy or not; a cap holds for the peaks too.
    """

    peak_w: float = 0.0
    mean_w: float = 0.0
    _window_w: deque[float] = field(default_factory=lambda: deque(maxlen=RIPPLE_SAMPLES))

    def observe(self, measured_w: float, settled: bool) -> None:
        """Takes one sample; what was known stays until there are enough new ones."""
        if not settled:
            self._window_w.clear()
            return
        self._window_w.append(measured_w)
        if len(self._window_w) >= RIPPLE_FIRST:
            self.mean_w = sum(self._window_w) / len(self._window_w)
            self.peak_w = max(self._window_w) - self.mean_w

    def above(self, cap_w: float) -> bool:
        """Whether peaks of the clocks in force are known to be above a cap."""
        return len(self._window_w) >= RIPPLE_FIRST and max(self._window_w) > cap_w

    def under(self, cap_w: float) -> float:
        """Peaks to expect under a cap: smaller in proportion at less power than they were seen at."""
        return self.peak_w * min(1.0, cap_w / self.mean_w) if self.peak_w > 0.0 else 0.0


@dataclass
class PowerGuard:
    """Bias of the power model, and a trim for what stays above the cap in spite of it.

    The trim decays; where the model is far off, that leads back to the plan that was above the cap, so it
    decays more and more slowly: discrete clocks must not make a limit cycle of it.
    """

    bias_w: float = 0.0
    trim_w: float = 0.0
    measured_w: float = nan
    ripple: Ripple = field(default_factory=lambda: Ripple())
    _over_s: float = 0.0
    _decay_s: float = TRIM_DECAY_S
    _held_s: float = inf  # since the trim was last raised
    _cap_w: float = inf
    _refused_w: float = inf  # power of the last plan whose peaks were above the cap, without bias
    _refused_s: float = inf  # since then
    _retry_s: float = RETRY_S

    def observe(
        self, measured_w: float, predicted_w: float, dt_s: float, cap_w: float, settled: bool
    ) -> bool:
        """Takes one sample, ``dt_s`` after the last; True = above the cap for too long: plan again.

        ``predicted_w`` is the model at the clocks and utilisation of the same sample, without bias; NaN =
        unknown.
        """
        if not 0.0 <= measured_w < MOST_W:
            return False
        weight = 1.0 if isnan(self.measured_w) else 1.0 - exp(-dt_s / POWER_SMOOTHING_S)
        self.measured_w = measured_w if isnan(self.measured_w) else self._smooth(measured_w, weight)
        self.ripple.observe(measured_w, settled)
        if isfinite(predicted_w):
            step = BIAS_PER_S * min(dt_s, 1.0) * (measured_w - predicted_w - self.bias_w)
            limit = BIAS_LIMIT * predicted_w
            self.bias_w = min(max(self.bias_w + step, -limit), limit)
        return self._trim(measured_w, dt_s, cap_w, settled)

    def limit_w(self, cap_w: float) -> float:
        """Power that a new plan may be predicted to take; inf without a cap."""
        limit_w = cap_w * (1.0 - CAP_GUARD) - self.ripple.under(cap_w) - self.trim_w
        if self._refused_s < self._retry_s:
            return min(limit_w, CLEARLY_LESS * (self._refused_w + self.bias_w))
        return limit_w

    def refuse(self, predicted_w: float, cap_w: float) -> None:
        """Takes the predicted power of a plan that is given up: peaks above the cap that were measured under
        it must not be forgotten as soon as other clocks have other peaks."""
        if self.ripple.above(cap_w) and predicted_w <= cap_w * (1.0 - CAP_GUARD):
            again = self._refused_s < TRIM_HELD * self._retry_s
            self._retry_s = min(2.0 * self._retry_s, TRIM_DECAY_MAX_S) if again else RETRY_S
            self._refused_w, self._refused_s = predicted_w - self.bias_w, 0.0

    def _smooth(self, value: float, weight: float) -> float:
        return self.measured_w + weight * (value - self.measured_w)

    def _trim(self, measured_w: float, dt_s: float, cap_w: float, settled: bool) -> bool:
        if cap_w != self._cap_w:
            self._cap_w, self._decay_s, self._held_s, self._refused_s = cap_w, TRIM_DECAY_S, inf, inf
        if cap_w == inf:
            self.trim_w, self._over_s = 0.0, 0.0
            return False
        self._held_s += dt_s
        self._refused_s += dt_s
        over = measured_w > cap_w
        self._over_s = self._over_s + dt_s if over and settled else 0.0
        if not over:
            self.trim_w *= exp(-dt_s / self._decay_s)
        if self._over_s < OVER_CAP_S:
            return False
        self._over_s = 0.0
        again = self._held_s < TRIM_HELD * self._decay_s
        self._decay_s = min(2.0 * self._decay_s, TRIM_DECAY_MAX_S) if again else TRIM_DECAY_S
        self._held_s = 0.0
        self.trim_w = min(self.trim_w + (measured_w - cap_w), cap_w)
        return True
