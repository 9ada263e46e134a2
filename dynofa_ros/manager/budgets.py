"""Objective `battery`: an energy budget until a time, as a power cap that follows what was really used."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

from dynofa_ros.manager.inputs import Parameters

PLAN_PERIOD_S = 1.0  # between two looks at what is left; in between the cap stands still
LAST_SECONDS_S = 5.0  # the budget is never spread over less: one bad sample must not stop everything
GAP_MAX_S = 2.0  # longer without a sample: what was used in the meantime is reckoned at this most


@dataclass
class Battery:
    """Budget in force: ``battery_energy_j``, to last ``battery_time_s`` from the step that set either.

    Energy is the integral of the measured power, over the device's own time stamps.
    """

    cap_w: float = inf
    left_j: float = inf
    left_s: float = inf
    _asked: tuple[float, float] | None = None
    _planned_s: float = 0.0

    def start(self, parameters: Parameters) -> None:
        """Takes the parameters of a step; a new budget or another time begins a new account."""
        asked = (parameters.battery_energy_j, parameters.battery_time_s)
        if parameters.objective != "battery":
            self._asked, self.cap_w, self.left_j, self.left_s = None, inf, inf, inf
        elif asked != self._asked:
            self._asked = asked
            self.left_j, self.left_s = asked
            self._plan()

    def elapse(self, seconds: float) -> None:
        """Lets time of the manager's clock go by."""
        if self._asked is None:
            return
        self.left_s -= seconds
        self._planned_s += seconds
        if self._planned_s >= PLAN_PERIOD_S:
            self._plan()

    def use(self, power_w: float, seconds: float) -> None:
        """Takes one sample of the total power; what is no power is taken for the cap itself."""
        if self._asked is None:
            return
        used_w = power_w if isfinite(power_w) and power_w >= 0.0 else self.cap_w
        if isfinite(used_w):
            self.left_j -= used_w * min(max(seconds, 0.0), GAP_MAX_S)

    def _plan(self) -> None:
        self._planned_s = 0.0
        if self.left_s <= 0.0:  # the time is over, and the budget with it
            self.cap_w = inf
        else:
            self.cap_w = max(0.0, self.left_j) / max(self.left_s, LAST_SECONDS_S)
