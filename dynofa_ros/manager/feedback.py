"""Power and temperature held by feedback on what is measured, for computers without a power model.

Without a model `build_problem` prices a plan in relative power: per processor the cube of the clock times
the load. The controllers here turn what is measured into a budget of relative power, which the solver keeps
like any other power limit: with lower clocks where the deadlines allow it, else with smaller sub-networks
and at last with fewer frames.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from typing import Protocol

from dynofa_ros.manager.power_guard import SETTLE_S
from dynofa_ros.manager.thermal_guard import EMERGENCY_C

OVER_CAP_S = 0.4  # above the cap for longer than this: the budget is lowered
ALLOWED_SHARE = 0.02  # of the samples may lie above the cap for ever
MEAN_SAMPLES = 60  # of telemetry, 6 s at 10 Hz
RAISE_S = 3.0  # of measurement before a budget is raised
RAISE_SHARE = 0.05  # a smaller change of the budget is not worth one
LEAST_STEP, MOST_STEP = 0.05, 0.7  # down, of the relative power in force
STEP_GAIN = 1.3
LEAST_SLOPE = 0.1  # of the usual slope
RETRY_S, RETRY_MAX_S = 60.0, 600.0  # after which half of what a failed plan has shown is believed
TINY = 1e-9
NEW_CAP_SHARE = 0.02  # a smaller change of the cap is drift of a battery budget, not a wish

LOOK_AHEAD_S = 10.0
FALLING_C_PER_S = -0.02
COOLING_S, COOLING_STEP = 4.0, 0.15  # time between two steps down, and their share of the relative power
BAND_C, FAR_C = 2.0, 10.0  # below the limit: the budget is raised, and raised faster
WARMING_S, WARMING_STEP, FAR_STEP = 10.0, 0.15, 0.5
WARMING_MAX_S = 160.0
FAILED_WITHIN_S = 60.0  # a step down this soon after a step up: the next one waits twice as long


@dataclass
class PowerFeedback:
    """Budget of relative power that keeps the measured power at or below a cap.

    Lowering and raising are secant steps: watts per unit of relative power come from the last plan that was
    above the cap and the one in force. So a plan that was above the cap is not tried again before the
    difference fits, which keeps discrete clocks from a limit cycle; since loads may have changed meanwhile,
    the memory of it fades, each time more slowly.
    """

    budget: float = inf
    measured_w: float = nan  # mean since the plan in force has settled
    _plan: float = nan  # relative power of the plan in force
    _failing: bool = False  # it does not hold what it must
    _samples: deque[float] = field(default_factory=lambda: deque(maxlen=MEAN_SAMPLES))
    _settling_s: float = 0.0
    _held_s: float = 0.0  # measured time since the last change
    _over_s: float = 0.0
    # Relative power of the last plan above the cap, and its measured mean with the ripple that it had: peaks
    # differ from plan to plan, so that means alone would say that it fits the target of a calmer one.
    _failed: tuple[float, float] | None = None
    _ripple_w: float = 0.0  # between the cap and the mean that keeps to it
    _failed_s: float = 0.0
    _usual: float = nan  # watts per unit of relative power between the last two plans above the cap
    _retry_s: float = RETRY_S
    _cap_w: float = inf

    def apply(self, plan: float, *, changed: bool, feasible: bool) -> None:
        """Takes the relative power of the plan that is in force from now on."""
        self._plan, self._failing = plan, not feasible
        if changed:
            self._restart()

    def observe(self, measured_w: float, dt_s: float, cap_w: float, target_w: float) -> bool:
        """Takes one sample, ``dt_s`` after the last; True = plan again at once.

        ``target_w``: mean power whose peaks stay below the cap.
        """
        known = isfinite(measured_w) and measured_w >= 0.0
        wish = cap_w != self._cap_w and not abs(cap_w - self._cap_w) <= NEW_CAP_SHARE * cap_w
        if self._samples or not self._cap_w < cap_w < inf:
            self._cap_w = cap_w  # a higher one stays a wish until the plan in force has been measured
        self._ripple_w = cap_w - target_w if isfinite(cap_w) else 0.0
        if cap_w == inf:
            self.budget, self._failed, self._usual, self._retry_s = inf, None, nan, RETRY_S
        if wish and isfinite(self._plan) and self._samples and isfinite(cap_w):
            self._retry_s = RETRY_S
            return self._follow(target_w)
        if not known:
            return False
        self._failed_s += dt_s
        if self._settling_s < SETTLE_S:
            self._settling_s += dt_s
            return False
        self._held_s += dt_s
        self._samples.append(measured_w)
        self.measured_w = sum(self._samples) / len(self._samples)
        if cap_w == inf or not isfinite(self._plan):
            return False
        over = measured_w > cap_w
        self._over_s = max(0.0, self._over_s + dt_s * ((1.0 if over else 0.0) - ALLOWED_SHARE))
        if self._over_s >= OVER_CAP_S:
            self._lower(target_w)
            return True
        if self.measured_w > cap_w:
            return False
        if self.budget < self._plan:  # but what is in force is measured to fit
            self.budget = (1.0 + RAISE_SHARE) * self._plan
            return self._failing
        self._raise(target_w)
        return False

    def _follow(self, target_w: float) -> bool:
        """A new cap: the budget that the last measurements stand for."""
        if self._failed is not None and self._failed[1] - self._ripple_w <= target_w:
            self._failed = None  # what was above the old cap fits the new one
        if self.measured_w <= target_w and self._failed is None:
            self.budget = inf
            return False
        self.budget = max(0.0, self._plan + (target_w - self.measured_w) / self._slope())
        if self.budget < self._plan:
            self._failed, self._failed_s = (self._plan, self.measured_w + self._ripple_w), 0.0
        self._restart()
        return self.budget < self._plan

    def _lower(self, target_w: float) -> None:
        excess_w = max(0.0, self.measured_w - target_w)
        slope = self._slope()
        step = min(max(LEAST_STEP * self._plan, STEP_GAIN * excess_w / slope), MOST_STEP * self._plan)
        if self._higher():
            self._usual = slope
        if self._failed is not None and self._plan >= self._failed[0] * (1.0 - LEAST_STEP):
            self._retry_s = min(RETRY_MAX_S, 2.0 * self._retry_s)
        self._failed, self._failed_s = (self._plan, self.measured_w + self._ripple_w), 0.0
        self.budget = self._plan - step
        self._restart()

    def _raise(self, target_w: float) -> None:
        if self._held_s < RAISE_S or self.budget == inf:
            return
        slope = self._slope() * 0.5 ** (self._failed_s / self._retry_s)
        budget = self._plan + max(0.0, target_w - self.measured_w) / slope
        if self._failing and self._plan < self.budget and self.measured_w <= target_w:
            # The next plan up takes more than the budget: only a larger one shows what it costs.
            budget = max(budget, min((1.0 + FAR_STEP) * self.budget, self._known_failure()))
        if budget > (1.0 + RAISE_SHARE) * self.budget:
            self.budget = budget
            self._restart()

    def _slope(self) -> float:
        """Watts per unit of relative power around the plan in force, above 0."""
        mean = self.measured_w / max(self._plan, TINY)
        usual = self._usual if isfinite(self._usual) else mean
        if self._failed is None or not self._higher():
            return max(usual, TINY)
        slope = (self._failed[1] - self._ripple_w - self.measured_w) / (self._failed[0] - self._plan)
        return max(slope, LEAST_SLOPE * usual, TINY)

    def _known_failure(self) -> float:
        """Relative power just below the last plan above the cap, inf without one."""
        return inf if self._failed is None else (1.0 - LEAST_STEP) * self._failed[0]

    def _higher(self) -> bool:
        """Whether the last plan above the cap was clearly above the one in force."""
        return self._failed is not None and self._failed[0] > (1.0 + LEAST_STEP) * self._plan

    def _restart(self) -> None:
        """Power on its way to another plan says nothing about either."""
        self._samples.clear()
        self._settling_s = self._held_s = self._over_s = 0.0


class Thermometer(Protocol):
    """The hottest sensor, smoothed."""

    @property
    def temperature_c(self) -> float: ...
    @property
    def rise_c_per_s(self) -> float: ...


@dataclass
class TemperatureFeedback:
    """Budget of relative power that keeps the hottest sensor at or below a limit: steps with a dead band."""

    budget: float = inf
    _plan: float = nan
    _failing: bool = False
    _waited_s: float = inf  # since the last step
    _raised_s: float = inf  # since the last step up
    _warming_s: float = WARMING_S

    def apply(self, plan: float, *, feasible: bool) -> None:
        """Takes the relative power of the plan that is in force from now on."""
        self._plan, self._failing = plan, not feasible

    def observe(self, sensor: Thermometer, dt_s: float, limit_c: float) -> bool:
        """Takes one sample, ``dt_s`` after the last; True = plan again at once."""
        temperature_c, rise_c_per_s = sensor.temperature_c, sensor.rise_c_per_s
        if not (isfinite(temperature_c) and isfinite(self._plan)):
            return False
        self._waited_s += dt_s
        self._raised_s += dt_s
        if temperature_c >= limit_c + EMERGENCY_C:
            lowered, self.budget, self._waited_s = self.budget > 0.0, 0.0, 0.0
            return lowered
        if temperature_c + LOOK_AHEAD_S * max(0.0, rise_c_per_s) > limit_c:
            return rise_c_per_s > FALLING_C_PER_S and self._lower()
        if self.budget < self._plan and rise_c_per_s <= -FALLING_C_PER_S:
            self.budget = (1.0 + RAISE_SHARE) * self._plan  # what is in force is measured to fit
            return self._failing
        if self.budget != inf:
            self._raise(limit_c - temperature_c, rise_c_per_s)
        return False

    def _lower(self) -> bool:
        if self._waited_s < COOLING_S:
            return False
        if self._raised_s < FAILED_WITHIN_S:
            self._warming_s = min(WARMING_MAX_S, 2.0 * self._warming_s)
        self.budget = (1.0 - COOLING_STEP) * self._plan
        self._waited_s = 0.0
        return True

    def _raise(self, below_c: float, rise_c_per_s: float) -> None:
        if below_c < BAND_C or rise_c_per_s > -FALLING_C_PER_S or self._waited_s < self._warming_s:
            return
        self.budget *= 1.0 + (FAR_STEP if below_c > FAR_C else WARMING_STEP)
        self._waited_s = self._raised_s = 0.0
        if below_c > FAR_C:
            self._warming_s = WARMING_S


@dataclass
class Feedback:
    """Both controllers; the lower budget counts."""

    power: PowerFeedback = field(default_factory=PowerFeedback)
    temperature: TemperatureFeedback = field(default_factory=TemperatureFeedback)

    def apply(self, plan: float, *, changed: bool, feasible: bool) -> None:
        """Takes the relative power of the plan that is in force from now on."""
        self.power.apply(plan, changed=changed, feasible=feasible)
        self.temperature.apply(plan, feasible=feasible)

    def limit(self) -> tuple[float, str]:
        """Relative power that a plan may take, and the limit that it stands for."""
        if self.power.budget <= self.temperature.budget:
            return self.power.budget, "power_cap"
        return self.temperature.budget, "temperature"
