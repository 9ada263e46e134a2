"""Trials: sub-networks that may be quicker than the library says are run for a few frames each.

What a library says wrongly about an entry is known only once it has run. While a plan holds, the entry with
the largest expected improvement (Mockus 1975) of the time of a frame takes the place of another, at a clock
at which it is in time even if it is slower than expected. When its error is known the next one follows, until
no other is worth a trial; then the solver chooses with what was learned.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import erf, erfc, exp, inf, log, pi, sqrt
from typing import NamedTuple

import numpy as np

from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.hysteresis import HOLD, Hysteresis, patient_share
from dynofa_ros.manager.library_error import factors
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Choice, Plan, forecast
from dynofa_ros.manager.problem import App, Problem
from dynofa_ros.manager.reversal_budget import WINDOW_S
from dynofa_ros.manager.state import State

LEAST_GAIN = 0.005  # of the time of a frame: less is not worth a trial
SLOWER = 0.5  # standard deviations that an entry on trial may be
HORIZON_S = 60.0  # within which a trial is to save more energy than it costs, as far as can be expected
TOP_SHARE = 0.93  # of the latency target at the top clock: what a late frame adds to the margin must fit
REACH = 2.5  # standard deviations: what is slower by more has hardly a chance
LOOK_S = 1.0  # after which another is looked for
LEAST_FRAMES, MOST_FRAMES, MOST_S = 6, 24, 20.0  # before a trial, and of one
LEAST_PER_MIN = 1.0  # frames that may be late: else a single one of a trial is too many
KNOWN_SHARE = 0.3  # of the variance of errors: then an entry is known
MOST_NOISE = 3.0  # times that variance: more hides the errors
USUAL = 0.1  # of the log-ratio around its usual level: a load that comes or goes would be taken for an error


class Candidate(NamedTuple):
    """``deviation``: of the log of its time. ``caution``: log of the time that plans assume over it."""

    choice: Choice
    deviation: float
    caution: float = 0.0


@dataclass
class Trials:
    """One application after the other. ``home``: what it ran before; ``choice``: on trial, None = none.

    ``left``: the plan that was in force before.
    """

    left: Plan | None = None
    home: Choice | None = None
    choice: Choice | None = None
    _since_ns: int = 0
    _looked_ns: int = 0
    _turn: int = 0
    _known: bool = False  # what is on trial, well enough
    _last: bool = False  # nothing is worth a trial after it

    def running(self, now_ns: int, state: State, plan: Plan | None) -> bool:
        """Whether an entry is on trial: until it is known, and so long that to go back is no reversal."""
        app = state.apps.get(self.choice.app) if self.choice else None
        if self.choice is None or app is None or plan is None or self.choice not in plan.choices:
            self.choice = self.left = None
            return False
        entry, lasted_s = self.choice.entry, 1e-9 * (now_ns - self._since_ns)
        errors = app.estimator.filter(place_of(entry)).errors
        tried = errors.known((entry.id, entry.threads))
        self._known = tried.frames >= LEAST_FRAMES and tried.variance < KNOWN_SHARE * errors.spread
        self._known |= tried.frames >= MOST_FRAMES or lasted_s > MOST_S
        if self._known and lasted_s > WINDOW_S:
            self.choice = None
        return self.choice is not None

    def end(
        self, now_ns: int, state: State, problem: Problem, plan: Plan, hysteresis: Hysteresis, limit_w: float
    ) -> Plan | None:
        """When trials are over: of the plan that was left for them and the best one, with what was learned,
        the one that takes less power; None if neither takes less than the last trial, or not yet, because it
        would reverse a knob."""
        left = self.left
        if left is None or not _of(problem, left):
            self.left = None
            return None

        def power_w(plan: Plan) -> float:
            expected = forecast(problem, plan, limit_w, HOLD)
            return expected.power_w if expected.sound and not plan.ladder_step else inf

        least = min(plan, left, hysteresis.best(now_ns, problem, plan), key=power_w)
        if hysteresis.budget.reverses(plan, least):
            return None
        self.left = None
        return None if least is plan else hysteresis.adopt(now_ns, plan, least)

    def begin(
        self, now_ns: int, state: State, problem: Problem, plan: Plan, hysteresis: Hysteresis, limit_w: float
    ) -> Plan | None:
        """The plan in force with an entry on trial; None if none is worth it, or it is not the time."""
        waits = 0 <= now_ns - self._looked_ns < LOOK_S * 1e9 or not hysteresis.calm(now_ns)
        if waits or not plan.choices or not _of(problem, plan):
            return None
        self._looked_ns = now_ns
        self._turn += 1
        number = self._turn % len(plan.choices)
        trial = self._next(now_ns, state, problem, plan, number, plan.choices[number], hysteresis, limit_w)
        self.left = plan if trial else None
        return trial

    def go_on(
        self, now_ns: int, state: State, problem: Problem, plan: Plan, hysteresis: Hysteresis, limit_w: float
    ) -> Plan | None:
        """While an entry is on trial: the next one if it is known, or a higher clock if it would be late, so
        that no late frame ends a trial; else None.
        """
        if self.choice is None or self.home is None or not _of(problem, plan):
            return None
        number = plan.choices.index(self.choice)
        if self._known and not self._last:
            found = self._next(now_ns, state, problem, plan, number, self.home, hysteresis, limit_w)
            if found is not None:
                return found
            self._last = True
        trial = _in_time(problem, plan, number, Candidate(self.choice, 0.0), limit_w, HOLD)
        return hysteresis.adopt(now_ns, plan, trial) if trial and not trial.same_knobs(plan) else None

    def _next(
        self,
        now_ns: int,
        state: State,
        problem: Problem,
        plan: Plan,
        number: int,
        home: Choice,
        hysteresis: Hysteresis,
        limit_w: float,
    ) -> Plan | None:
        if plan.ladder_step or problem.least_latency:  # there a quicker entry lowers no clock
            return None
        best = _candidate(state.apps[home.app], problem.apps[number], home, problem, plan)
        if best is None:
            return None
        top = _with(problem, plan, best.choice, problem.processor(place_of(best.choice.entry)).levels - 1)
        if forecast(problem, top).apps[number].share > TOP_SHARE:
            return None
        trial = _in_time(problem, plan, number, best, limit_w)
        if trial is None or hysteresis.budget.reverses(plan, trial):
            return None
        if not _worth(problem, self.left or plan, number, best, trial):
            return None
        self.home, self.choice, self._since_ns, self._last = home, best.choice, now_ns, False
        return hysteresis.adopt(now_ns, plan, trial)


def _candidate(known: AppState, app: App, home: Choice, problem: Problem, plan: Plan) -> Candidate | None:
    """The most promising entry of an application on the processor that it is on."""
    place, estimator = place_of(home.entry), known.estimator
    filter_, table = estimator.filters.get(place), app.tables.get(place)
    level = problem.processor(place).level_of(dict(plan.clocks).get(place, ()))
    now = table.index(home.entry) if table else None
    if filter_ is None or table is None or level is None or now is None or known.queued or known.sized:
        return None
    errors, tolerated = filter_.errors, known.targets.miss_tolerance if known.targets else 0.0
    if (
        60.0 * app.rate_hz * tolerated < LEAST_PER_MIN
        or estimator.processor != place
        or estimator.steady_frames < LEAST_FRAMES
        or abs(filter_.log_level - filter_.usual_level) > USUAL
        or filter_.acquiring
        or filter_.noise() > MOST_NOISE * (spread := errors.spread)
    ):
        return None
    deviation, keys = sqrt(spread), [(entry.id, entry.threads) for entry in table.entries]
    entries, planned = list(map(errors.known, keys)), np.log(factors(errors.rounded, keys)[1])
    cautions = planned - np.array([entry.log_error for entry in entries])
    times_ms = table.unit_ms[:, level] * np.exp(-cautions)
    enough = bisect_left(table.accuracies, home.entry.accuracy)
    near = np.flatnonzero(times_ms[enough:] <= times_ms[now] * exp(REACH * deviation)).tolist()
    alike = [enough + n for n in near if table.modes[enough + n] == table.modes[now]]
    least_ms = min(times_ms[n] for n in alike if n == now or entries[n].frames)
    best, most = None, LEAST_GAIN
    for n in alike:
        if n != now and entries[n].variance >= KNOWN_SHARE * spread:
            u = log(times_ms[n] / least_ms) / deviation
            gain = deviation * (exp(-0.5 * u * u) / sqrt(2.0 * pi) - 0.5 * u * (1.0 - erf(u / sqrt(2.0))))
            if gain > most:
                best, most = n, gain
    if best is None:
        return None
    return Candidate(replace(home, entry=table.entries[best]), deviation, float(cautions[best]))


def _of(problem: Problem, plan: Plan) -> bool:
    """Whether a plan is for the applications of a problem: one may have left and another come."""
    return [choice.app for choice in plan.choices] == [app.name for app in problem.apps]


def _with(problem: Problem, plan: Plan, choice: Choice, level: int) -> Plan:
    """A plan with another choice for its application, and another clock level of the processor of that."""
    name = place_of(choice.entry)
    clocks_hz = tuple(problem.processor(name).clocks_hz[level].tolist())
    return replace(
        plan,
        choices=tuple(choice if c.app == choice.app else c for c in plan.choices),
        clocks=tuple((n, clocks_hz if n == name else hz) for n, hz in plan.clocks),
    )


def _worth(problem: Problem, plan: Plan, number: int, candidate: Candidate, trial: Plan) -> bool:
    """Whether a trial can be expected to save more energy than it costs: with some chance the candidate is so
    quick that the processor can take the next lower clock than in the plan that is left for trials."""
    processor, app = problem.processor(place_of(candidate.choice.entry)), problem.apps[number]
    level = processor.level_of(dict(plan.clocks)[processor.name])
    if not level:
        return False
    lower = forecast(problem, _with(problem, plan, candidate.choice, level - 1))
    own, most = lower.apps[number], patient_share(problem, plan)
    if any(other.share > most for other in lower.apps if other is not own):
        return False
    quicker = min(1.0, most / own.share)
    now_w, trial_w = forecast(problem, plan).power_w, forecast(problem, trial).power_w
    lower_w = lower.power_w - float(processor.slope_w[level - 1]) * own.load * (1.0 - quicker)
    chance = 0.5 * erfc((-log(quicker) - candidate.caution) / candidate.deviation / sqrt(2.0))
    saves_j = chance * (now_w - lower_w) * HORIZON_S
    return saves_j > (trial_w - now_w) * max(WINDOW_S, LEAST_FRAMES / app.rate_hz)


def _in_time(
    problem: Problem, plan: Plan, number: int, candidate: Candidate, limit_w: float, most: float = 1.0
) -> Plan | None:
    """The plan with a candidate at the least clock, not below the present one, at which all are in time.

    ``most``: share of its latency target that one may fill.
    """
    processor = problem.processor(place_of(candidate.choice.entry))
    level = processor.level_of(dict(plan.clocks)[processor.name]) or 0
    longer = max(0.0, SLOWER * candidate.deviation - candidate.caution)
    for higher in range(level, processor.levels):
        trial = _with(problem, plan, candidate.choice, higher)
        expected = forecast(problem, trial, limit_w, most)
        if expected.sound and expected.apps[number].share * exp(longer) <= most:
            return trial
    return None
