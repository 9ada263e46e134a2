"""B10: POET, one controller per application.

Imes et al., "POET: A Portable Approach to Minimizing Energy Under Soft Real-time Constraints", RTAS 2015.

Source: github.com/libpoet/poet at 30e69b3, src/poet.c and poet_constants.h: FAST poles p1 = p2 = z1 = 0; a
scalar Kalman filter on the base rate (Q = 1e-5, R = 1e-2, P0 = 1, x0 = 0.2); the deadbeat law
u_k = clamp(u_{k-1} + (goal - rate) / base rate, 1, u_max); then the cheapest of all pairs (lower, upper)
around u, and how many of the period's frames run in the lower one.

POET has no accuracy and a rate for a goal. Interpretations, in its favour:

- The rate is 1 / (mean inference of the period), the goal 1 / budget, budget = (min(latency_target, frame
  period) - overhead) / margin, margin = 1.15 (1.35 under contended noise): a controller of the mean needs
  one, and these are usual for a manager without samples.
- Configurations are all (sub-network, clock level) pairs at or above the accuracy floor (all, if there are
  none); cost is the energy of one frame period by the board's power model, plus 1000 J per unit of accuracy
  below the one wanted: accuracy before energy, as the objective says. Dominated pairs (another is as fast
  and costs no more) are left out: the law would never take them.
- A pair's lower configuration may miss the deadline by itself as in the source: that is its method.
- Period: 10 frames at rates of 5 Hz and more, 5 below. A change of targets restarts nothing but the goal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, isnan, nan

import numpy as np

from dynofa_ros.evaluation.policies.constants import (
    BASE_START,
    BASE_VARIANCE_START,
    MARGIN,
    MARGIN_CONTENDED,
    MEASUREMENT_NOISE,
    OVERHEAD_MS,
    PENALTY_J,
    PERIOD,
    PROCESS_NOISE,
    SLOW_HZ,
    SLOW_PERIOD,
)
from dynofa_ros.evaluation.policies.per_app import (
    Instance,
    PerAppPolicy,
    Profile,
    accuracy_wanted,
    time_to_answer_ms,
)
from dynofa_ros.evaluation.policies.profile import Array
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import AppTargets, InferenceMonitor
from dynofa_ros.simulation.scene import CONTENDED


@dataclass(frozen=True, eq=False)
class States:
    """Control states by rising speedup; ``places`` = (entry, level) of each."""

    speedups: Array
    costs: Array  # of one frame period x speedup, so that cost / speedup is that of a frame
    places: tuple[tuple[int, int], ...]


@dataclass
class Law:
    """The controller: rates are in frames per second."""

    speedup: float
    top: float
    base: float = BASE_START
    variance: float = BASE_VARIANCE_START

    def control(self, rate: float, goal: float) -> float:
        """Takes the rate of the last period; the speedup for the next."""
        widened = self.variance + PROCESS_NOISE
        used = self.speedup
        gain = widened * used / (used * widened * used + MEASUREMENT_NOISE)
        self.base += gain * (rate - used * self.base)
        self.variance = (1.0 - gain * used) * widened
        self.speedup = min(max(used + (goal - rate) / self.base, 1.0), self.top)
        return self.speedup


def share(states: States, speedup: float, period: int) -> tuple[int, int, int]:
    """Lower state, upper state and the number of frames in the lower one, of the cheapest pair."""
    s, c = states.speedups, states.costs
    upper, lower = np.flatnonzero(s >= speedup), np.flatnonzero(s <= speedup)
    if not len(upper) or not len(lower):  # rounding at either end
        only = len(s) - 1 if not len(upper) else 0
        return only, only, 0
    high, low = s[upper][:, None], s[lower][None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (high * low - speedup * low) / (high * speedup - speedup * low)
    slow = np.floor(period * np.where(high == low, 0.0, part) + 0.5)
    cost = slow / low * c[lower][None, :] + (period - slow) / high * c[upper][:, None]
    i, j = np.unravel_index(int(cost.argmin()), cost.shape)
    return int(lower[j]), int(upper[i]), int(slow[i, j])


def make_states(profile: Profile, targets: AppTargets, parameters: Parameters) -> States:
    """Control states of an application."""
    wanted = min(accuracy_wanted(targets, parameters), float(profile.accuracies.max()))
    allowed = profile.accuracies >= targets.accuracy_floor
    if not allowed.any():
        allowed[:] = True
    period_ms = 1e3 / targets.rate_hz
    times = profile.times_ms
    joules = 1e-3 * (profile.busy_w * times + profile.idle_w * np.maximum(period_ms - times, 0.0))
    joules = joules + PENALTY_J * np.maximum(0.0, wanted - profile.accuracies)[:, None]
    points = [
        (float(times[e, f]), float(joules[e, f]), (int(e), f))
        for e in np.flatnonzero(allowed)
        for f in range(times.shape[1])
    ]
    kept: list[tuple[float, float, tuple[int, int]]] = []
    for point in sorted(points):  # from the fastest on: a slower one must be cheaper
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    kept.reverse()
    speedups = np.array([kept[0][0] / ms for ms, _, _ in kept])
    return States(speedups, np.array([j for _, j, _ in kept]) * speedups, tuple(p for _, _, p in kept))


@dataclass
class Poet(Instance):
    """POET for one application."""

    margin: float
    _inference_ms: list[float] = field(default_factory=list)
    _overhead_ms: float = OVERHEAD_MS
    _plan: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        self._states = make_states(self.profile, self.targets, self.parameters)
        top = float(self._states.speedups[-1])
        self._law = Law(top, top)  # as the source: it starts in the last state
        last = len(self._states.places) - 1
        self._plan = (last, last, 0)
        self.place = self._states.places[last]

    def retarget(self, profile: Profile, targets: AppTargets, parameters: Parameters) -> None:
        """New states or a new goal; the base rate goes over to the new slowest state."""
        before_ms = self._slowest_ms()
        super().retarget(profile, targets, parameters)
        self._states = make_states(profile, targets, parameters)
        ratio = before_ms / self._slowest_ms()
        law = self._law
        law.base *= ratio
        law.top = float(self._states.speedups[-1])
        law.speedup = min(max(law.speedup / ratio, 1.0), law.top)
        self._replan()

    def observe(self, monitor: InferenceMonitor, entry: int, level: int) -> None:
        """Counts a frame; every period the law runs."""
        self._inference_ms.append(monitor.inference_ms)
        overhead = monitor.latency_ms - monitor.inference_ms - monitor.queue_wait_ms
        if isfinite(overhead):
            self._overhead_ms += 0.1 * (max(0.0, overhead) - self._overhead_ms)
        if len(self._inference_ms) >= self._period():
            rate = 1e3 * len(self._inference_ms) / sum(self._inference_ms)
            budget_ms = max(1.0, time_to_answer_ms(self.targets) - self._overhead_ms) / self.margin
            self._law.control(rate, 1e3 / budget_ms)
            self._replan()
        lower, upper, slow = self._plan
        self.place = self._states.places[lower if len(self._inference_ms) < slow else upper]

    def _replan(self) -> None:
        self._inference_ms.clear()
        self._plan = share(self._states, self._law.speedup, self._period())
        lower, upper, slow = self._plan
        self.place = self._states.places[lower if slow else upper]

    def _period(self) -> int:
        return PERIOD if self.targets.rate_hz >= SLOW_HZ else SLOW_PERIOD

    def _slowest_ms(self) -> float:
        return float(self.profile.times_ms[self._states.places[0]])


@dataclass
class PoetPolicy(PerAppPolicy):
    """One POET per application. ``margin``: NaN = that for the noise of the scene."""

    name: str = "B10"
    margin: float = nan

    def make(self, profile: Profile, targets: AppTargets, parameters: Parameters) -> Instance:
        """A POET with the margin for the scene."""
        usual = MARGIN_CONTENDED if self.scene.noise == CONTENDED else MARGIN
        return Poet(profile, targets, parameters, usual if isnan(self.margin) else self.margin)
