"""When to act on a better plan: at once if the one in force fails, patiently if it only could be better.

A plan that breaks a limit, or a deadline by more than ``HOLD``, is replaced in the same step. A plan that
holds is replaced only by one that fills deadlines to ``PATIENT``, that has been better for the whole dwell
time, and not sooner than the dwell time after the last change; an upgrade that had to be taken back doubles
the dwell. A change asked for by a user waits for nothing. With the gap between ``PATIENT`` and ``HOLD``
this is a Schmitt trigger: noise inside the gap moves no knob.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf, log
from typing import Any, TypeAlias

from dynofa_ros.manager.ladder import COLD, NOTHING, Instead, Loss, Outcome, Trace, allocate
from dynofa_ros.manager.many import allocate_any, fits_any
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import REDUCED_SHARE, Forecast, Plan, forecast, make_plan, quality
from dynofa_ros.manager.problem import SATURATION, Problem
from dynofa_ros.manager.reversal_budget import ReversalBudget
from dynofa_ros.manager.solver import MAX_FREE_APPS

HEADROOM = 1.0  # share of the latency target that a new plan may fill
PATIENT = 0.98  # the same for one that only would be better, where frames vary
WIDE = 0.1  # log of a margin from which they do; where they hardly vary nor do estimates
HOLD = 1.03  # share at which a plan in force is given up
GAIN_SHARE = 0.02  # of the power: less is not worth a change
GAIN_QUALITY = 0.002  # of an accuracy: less is not worth a change
STRETCHES = tuple(1.05**n for n in range(1, 25))  # of a deadline that cannot be held
BACKOFF_MAX = 16.0
DWELL_MAX_S = 8.0
FAILED_WITHIN_S = 4.0  # an upgrade taken back sooner than this has failed
REPAIRED_S = 2.0  # after a plan failed power is not saved that soon
BACKOFF_RESET_S = 30.0
SOLVE_PERIOD_S = 1.0
CALM_S = 2.0  # in which nothing was changed: what a plan takes is well known then
REPAIR = 0.02  # of a latency target, or W: less is not worth a change of a plan that fails anyway
MOVED_SHARE = 0.02  # of a latency or a power: alternatives are looked at again before the second is over


@dataclass
class Hysteresis:
    """Memory of the last changes. All times are step times in nanoseconds."""

    changed_ns: int | None = None
    upgraded_ns: int | None = None
    failed_ns: int | None = None
    repaired_ns: int | None = None
    better_since_ns: int | None = None
    backoff: float = 1.0
    solved: bool = False  # the last choice looked at all alternatives
    solved_ns: int = 0
    trace: Trace = Trace()  # of the last solution
    conceded: Trace | None = None  # of the last concession to a plan that failed
    seen: tuple[float, ...] | None = None  # what the plan was worth when all alternatives were looked at
    present: Forecast | None = None  # of the plan that was in force, as the last choice saw it
    budget: ReversalBudget = field(default_factory=ReversalBudget)

    def choose(
        self,
        now_ns: int,
        problem: Problem,
        current: Plan | None,
        *,
        by_user: bool = False,
        at_once: bool,
        event: bool,
        alarm: bool,
        upgrades: bool,
        min_dwell_s: float,
        release_limit_w: float,
    ) -> Plan:
        """The plan to be in force from now on.

        ``by_user``: the user changed a target. ``at_once``: a change after which no hysteresis may delay.
        ``event``: another change after which the plan is solved again. ``alarm``: the load has changed, so
        that a plan that fails now was no mistake.
        ``upgrades``: the monitors can be trusted enough to do more than hold on. ``release_limit_w``: power
        above which a plan in force is given up.
        """
        present = Forecast(False)
        if current is not None and not at_once:
            present = forecast(problem, current, release_limit_w, HOLD)
        self.solved = False
        self.budget.elapse(now_ns)
        if by_user:
            self.budget.renew()
        if current is None or not present.applicable:
            self._reset_backoff()
            self.present = None
            return self._change(now_ns, current, self._solve(now_ns, problem, current))
        self.present = present
        if not present.sound:
            plan = self._repair(now_ns, problem, current, present, release_limit_w)
            if plan is not current:
                self._note_failure(now_ns, alarm)
            return plan
        if not upgrades:
            self.better_since_ns = None
            return current
        if not (event or self._due(now_ns, problem, present)):
            return current
        patient = self.best(now_ns, problem, current)
        if not is_better(problem, forecast(problem, patient), present):
            self.better_since_ns = None
            return current
        self.better_since_ns = now_ns if self.better_since_ns is None else self.better_since_ns
        if not self._dwelt(now_ns, min_dwell_s, only_power=not current.ladder_step):
            return current
        if not self.budget.left:
            patient, _ = concede(problem, current, patient_share(problem, current), self.trace, stay=False)
            if not is_better(problem, forecast(problem, patient), present):
                return current
        if self.budget.reverses(current, patient):
            return current
        self.upgraded_ns = now_ns
        return self._change(now_ns, current, patient)

    def _repair(
        self, now_ns: int, problem: Problem, current: Plan, present: Forecast, release_limit_w: float
    ) -> Plan:
        """What replaces a plan that breaks something, itself if nothing breaks clearly less.

        The same with less asked of it, if that costs nothing, or in overload, where something is given up
        anyway: the next solution that can be afforded puts right who gives up how much. Else the best plan.
        """
        less, self.conceded = concede(problem, current, guess=self.conceded or self.trace)
        conceded = forecast(problem, less, release_limit_w, HOLD)
        waits = not (present.excess_w > 0.0 or self.budget.left)
        if waits and self.budget.reverses(current, less, unpaid=True):
            return current
        cheap = (current.ladder_step or not less.ladder_step) and conceded.left_out <= present.left_out
        if conceded.sound and cheap:
            return self._change(now_ns, current, less)
        exceeded = conceded.excess_w > 0.0
        if exceeded or self.budget.left:
            best = self._solve(now_ns, problem, current)
        else:
            best, _ = concede(problem, current, guess=self.trace, stay=False)
        expected = forecast(problem, best, release_limit_w, HOLD)
        allowed = exceeded or not self.budget.reverses(current, best)
        if allowed and repairs(expected, present) and not repairs(conceded, expected):
            return self._change(now_ns, current, best)
        return self._change(now_ns, current, less) if repairs(conceded, present) else current

    def best(self, now_ns: int, problem: Problem, current: Plan) -> Plan:
        """The best plan with so much headroom that it is likely to stay."""
        headroom = patient_share(problem, current) if self._held(now_ns) else PATIENT
        return self._solve(now_ns, problem, current, headroom=headroom)

    def _solve(
        self,
        now_ns: int,
        problem: Problem,
        current: Plan | None,
        *,
        headroom: float = HEADROOM,
    ) -> Plan:
        """The best plan with headroom."""
        places = [place_of(choice.entry) for choice in current.choices] if current else []

        def search(narrow: Problem, guess: Trace, mapping: Sequence[str], instead: Instead) -> Outcome:
            return allocate_any(narrow, HEADROOM, guess, mapping, turns=1, instead=instead)

        instead = _reduced_margin(problem, search)
        outcome = allocate_any(problem, headroom, self.trace, places, instead=instead)
        self.trace = outcome.trace
        if outcome.within_limits and any(d.relaxed for d in outcome.demands):
            outcome = _least_late(problem, outcome)
        self.solved, self.solved_ns, self.seen = True, now_ns, None
        plan = make_plan(problem, outcome)
        return _staying(problem, current, plan, outcome, headroom) if current else plan

    def _due(self, now_ns: int, problem: Problem, present: Forecast) -> bool:
        """Whether all alternatives are worth a look: once a second, or when the estimates have moved."""
        seen = (problem.power_limit_w, present.power_w, *(app.share for app in present.apps))
        if self.seen is None or len(self.seen) != len(seen):
            self.seen = seen
        moved = any(abs(new - old) > MOVED_SHARE * old for new, old in zip(seen, self.seen, strict=True))
        waiting = self.better_since_ns is not None
        return moved or waiting or now_ns - self.solved_ns >= SOLVE_PERIOD_S * 1e9

    def calm(self, now_ns: int) -> bool:
        """Whether the plan in force has held for a while, and nothing better waits."""
        sound = self.present is not None and self.present.sound
        return self._held(now_ns) and sound and self.better_since_ns is None and self.budget.left

    def _held(self, now_ns: int) -> bool:
        return self.changed_ns is None or now_ns - self.changed_ns >= CALM_S * 1e9

    def adopt(self, now_ns: int, current: Plan, plan: Plan) -> Plan:
        """Takes a plan that was made elsewhere."""
        self.solved, self.present = False, None
        return self._change(now_ns, current, plan)

    def rebase(self, now_ns: int) -> None:
        """Starts all waiting times anew: the clock was set back."""
        self.changed_ns = self.solved_ns = now_ns
        self.upgraded_ns = self.failed_ns = self.repaired_ns = self.better_since_ns = None

    def _change(self, now_ns: int, current: Plan | None, plan: Plan) -> Plan:
        if current is not None:
            forced = self.present is not None and self.present.excess_w > 0.0
            self.budget.change(current, plan, forced=forced)
        if not plan.same_knobs(current):
            self.changed_ns = now_ns
            self.better_since_ns = None
        return plan

    def _reset_backoff(self) -> None:
        self.upgraded_ns = self.failed_ns = self.repaired_ns = None
        self.backoff = 1.0

    def _note_failure(self, now_ns: int, alarm: bool) -> None:
        recent = self.upgraded_ns is not None and now_ns - self.upgraded_ns < FAILED_WITHIN_S * 1e9
        self.repaired_ns = now_ns
        if recent and not alarm:
            self.backoff = min(BACKOFF_MAX, 2.0 * self.backoff)
            self.failed_ns = now_ns
        self.upgraded_ns = None

    def _dwelt(self, now_ns: int, min_dwell_s: float, *, only_power: bool) -> bool:
        if self.failed_ns is not None and now_ns - self.failed_ns > BACKOFF_RESET_S * 1e9:
            self._reset_backoff()
        dwell_ns = max(min_dwell_s, min(min_dwell_s * self.backoff, DWELL_MAX_S)) * 1e9
        if only_power and self.repaired_ns is not None and now_ns - self.repaired_ns < REPAIRED_S * 1e9:
            return False
        since_change = self.changed_ns is None or now_ns - self.changed_ns >= dwell_ns
        better = self.better_since_ns is not None and now_ns - self.better_since_ns >= dwell_ns
        return since_change and better


def patient_share(problem: Problem, plan: Plan) -> float:
    """Share of the latency target that a plan may fill which only would be better than this one."""
    pairs = zip(problem.apps, plan.choices, strict=False)
    widest = max((app.margin.get(place_of(choice.entry), inf) for app, choice in pairs), default=inf)
    return 1.0 - (1.0 - PATIENT) * min(1.0, log(widest) / WIDE)


def _staying(problem: Problem, current: Plan, plan: Plan, outcome: Outcome, headroom: float) -> Plan:
    """A plan, or one as good with everybody on the cluster that it is on.

    Clusters are often alike. What is measured on each differs by chance, and that is not worth a move.
    """
    before = {c.app: place_of(c.entry) for c in current.choices if c.entry.cluster}
    moved = any(before.get(c.app, place_of(c.entry)) != place_of(c.entry) for c in plan.choices)
    names = [p.name for p in problem.processors]
    if not moved or not outcome.feasible or len(problem.apps) > MAX_FREE_APPS:
        return plan
    homes = [before.get(app.name, "") for app in problem.apps]
    if any(home and home not in app.tables for app, home in zip(problem.apps, homes, strict=True)):
        return plan
    pins = tuple(names.index(home) if home else -1 for home in homes)
    stay = allocate(problem, headroom, outcome.trace, pins)
    kept = make_plan(problem, stay)
    worse = is_better(problem, forecast(problem, plan), forecast(problem, kept))
    return plan if worse or not stay.feasible else kept


def concede(
    problem: Problem, current: Plan, headroom: float = HEADROOM, guess: Trace = COLD, *, stay: bool = True
) -> tuple[Plan, Trace]:
    """The plan in force with less asked of it: no sub-network grows, and clocks only rise; with ``stay``
    nobody moves. And how the search ended.

    Clocks fall where the power limit asks for it. ``guess``: how the last search ended.
    """
    homes = [place_of(choice.entry) for choice in current.choices]
    pairs = zip(problem.apps, current.choices, strict=True)
    least = tuple(app.menu.level_of(choice.entry.accuracy) for app, choice in pairs)
    pins = tuple([p.name for p in problem.processors].index(home) for home in homes)

    def search(problem: Problem, guess: Trace, _: Sequence[str], instead: Instead) -> Outcome:
        if stay:
            return allocate(problem, headroom, guess, pins, least, instead=instead)
        return allocate_any(problem, headroom, guess, homes, least=least, instead=instead)

    outcome = search(problem, guess, (), _reduced_margin(problem, search))
    less = make_plan(problem, outcome)
    before = dict(current.clocks)
    clocks = tuple((name, max(hz, before.get(name, hz))) for name, hz in less.clocks)
    risen = replace(less, clocks=clocks)
    return less if forecast(problem, risen).excess_w else risen, outcome.trace


Search: TypeAlias = Callable[[Problem, Trace, Sequence[str], Instead], Outcome]


def _reduced_margin(problem: Problem, search: Search) -> Instead:
    """Where frames or deadlines have to be given up: narrower margins and less spare load save some.

    ``search``: for the outcome of a problem, from the end of an earlier search and a mapping.
    """
    alone = len(problem.apps) <= len(problem.processors)  # can each be

    def instead(lost: Loss, trace: Trace, mapping: Sequence[str]) -> Outcome | None:
        def no_less(reduced: Loss, *_: Any) -> Outcome | None:
            return None if alone or reduced < lost else NOTHING

        for ceiling in (SATURATION, problem.load_ceiling) if alone else (problem.load_ceiling,):
            reduced = search(_with_reduced_margin(problem, ceiling), trace, mapping, no_less)
            # Spare load is what those that share a processor need. Requests are prepared between two
            # inferences, which the load of the processor does not show.
            shared = len(set(reduced.point.mapping)) < len(problem.apps)
            if not (shared or forecast(problem, make_plan(problem, reduced)).backlog):
                break
        return reduced if reduced.demands and reduced.loss < lost else None

    return instead


@lru_cache(maxsize=4)  # asked for more than once in a step
def _with_reduced_margin(problem: Problem, ceiling: float) -> Problem:
    apps = tuple(
        replace(app, margin={name: margin ** (1.0 - REDUCED_SHARE) for name, margin in app.margin.items()})
        for app in problem.apps
    )
    return replace(problem, apps=apps, load_ceiling=ceiling)


def _least_late(problem: Problem, outcome: Outcome) -> Outcome:
    """Where deadlines had to be given up: those applications' deadlines stretched as little as will do.

    So as many of their frames as possible are in time.
    """
    late = [demand.relaxed for demand in outcome.demands]

    def stretched(number: int) -> Problem:
        apps = tuple(
            replace(app, latency_target_ms=STRETCHES[number] * app.latency_target_ms) if relaxed else app
            for app, relaxed in zip(problem.apps, late, strict=True)
        )
        return replace(problem, apps=apps)

    mapping = outcome.point.mapping
    low = bisect_left(range(len(STRETCHES)), True, key=lambda n: fits_any(stretched(n), HEADROOM, mapping))
    if low == len(STRETCHES):
        return outcome
    least = tuple(
        len(app.accuracies) - 1 if relaxed else 0 for app, relaxed in zip(problem.apps, late, strict=True)
    )
    found = allocate_any(stretched(low), HEADROOM, outcome.trace, mapping, least=least)
    demands = tuple(
        replace(demand, relaxed=True) if relaxed else demand
        for demand, relaxed in zip(found.demands, late, strict=True)
    )
    return replace(found, demands=demands)


def repairs(new: Forecast, present: Forecast) -> bool:
    """Whether a plan breaks clearly less than the one in force: the gravest difference decides."""
    for less, more in zip(new.violations, present.violations, strict=True):
        if abs(more - less) > REPAIR:
            return less < more
    return False


def is_better(problem: Problem, new: Forecast, present: Forecast) -> bool:
    if not new.applicable or new.violations > present.violations:
        return False
    for gained, had in zip(quality(problem, new), quality(problem, present), strict=True):
        if abs(gained - had) > GAIN_QUALITY:
            return gained < had
    if problem.least_latency and abs(present.share - new.share) > GAIN_SHARE:
        return new.share < present.share
    return present.power_w - new.power_w > GAIN_SHARE * abs(present.power_w)
