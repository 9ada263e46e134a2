"""Degradation ladder: what is given up first when not everything fits.

The ladder is one total order of small losses (rungs): accuracies from target to floor, class by class,
the least important first, within a class always the application that would lose least; then rates, to 15/16
at first and at last to 1/4, and then deadlines, the least important application first. Objective `throughput`
gives up first the frames that take longest, weighted by priority. Power cap and temperature are on no rung.

Each rung only takes load away, so feasibility is monotone in the number of rungs. The least number is found
by search, from a guess that changes the time it takes and not the result. Rungs that turn out not to be
needed are then reclaimed (`reclaim`), the most important application first: deadlines, then rates, then
accuracies, one application after the other, each as far as the demands of all others allow. For one
application the result is the lexicographic best: rate before accuracy, accuracy before power.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf, isfinite
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.few import Few, known_rungs
from dynofa_ros.manager.grid import Asked, Grid, Indices, Point, asked, make_grid
from dynofa_ros.manager.problem import DIVIDERS, Demand, Problem
from dynofa_ros.manager.reclaim import Reclaim
from dynofa_ros.manager.solver import known_mappings, solve

ACCURACY, RATE, DEADLINE = 0, 1, 2
PERCENT = 100
FAR = 50  # rungs; beyond it the power is not what binds
RUNG_SHARE = 0.01  # of the power limit: what a rung saves, for the first stride of a search


@dataclass(frozen=True, eq=False)
class Ladder:
    """All rungs in the order in which they are given up: ``apps[n]`` gives up ``kinds[n]``.

    ``places``: ascending, comparable from ladder to ladder. ``first``: levels asked for at its start.
    """

    first: NDArray[np.int64]
    apps: NDArray[np.int64]
    kinds: NDArray[np.int64]
    places: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.apps)

    @cached_property
    def _given(self) -> Indices:
        """Rungs x kinds x applications: how many of each are given up after so many rungs."""
        given = np.zeros((len(self) + 1, 3, len(self.first)), dtype=np.int64)
        given[np.arange(1, len(self) + 1), self.kinds, self.apps] = 1
        return np.add.accumulate(given, axis=0)

    def asked(self, rungs: int | Sequence[int]) -> Asked:
        """What is asked after so many rungs; of several numbers of rungs with a first axis for them."""
        given = self._given[rungs]
        accuracy, rate, deadline = given[..., ACCURACY, :], given[..., RATE, :], given[..., DEADLINE, :]
        return Asked(self.first + accuracy, np.array(DIVIDERS)[rate], deadline > 0)


@dataclass(frozen=True)
class Trace:
    """How far a search had to go: rungs given up, the place of the last one, whether for the power limit."""

    rungs: int = 0
    place: float = -inf
    power: bool = False


COLD = Trace()  # nothing is known of an earlier search


Loss: TypeAlias = tuple[int, float]  # deadlines and frames that are given up


def _loss(given: Iterable[tuple[float, bool]]) -> Loss:
    """By divider, and whether the deadline is given up, of each application."""
    dividers, relaxed = zip(*given, strict=True)
    return sum(relaxed), sum([divider - 1.0 for divider in dividers])


@dataclass(frozen=True)
class Outcome:
    """Where the ladder ended. ``within_limits`` False = even the last rung breaks the power limit.

    ``trace``: how the search ended, where the next one may begin.
    """

    demands: tuple[Demand, ...]
    point: Point
    trace: Trace = COLD
    within_limits: bool = True

    @property
    def rungs(self) -> int:
        """Rungs in force."""
        return sum(d.level + DIVIDERS.index(d.divider) + d.relaxed for d in self.demands)

    @property
    def loss(self) -> Loss:
        """Of demands, at least one."""
        return _loss((d.divider, d.relaxed) for d in self.demands)

    @property
    def feasible(self) -> bool:
        """Whether deadlines, rates and limits all hold."""
        return self.within_limits and not any(d.relaxed or d.divider > 1 for d in self.demands)


NOTHING = Outcome((), Point((), {}, inf))
Instead: TypeAlias = Callable[[Loss, Trace, Sequence[str]], Outcome | None]


def or_instead(outcome: Outcome, instead: Instead | None) -> Outcome:
    """An outcome, or what is to be had instead: see `allocate`."""
    if instead is None or outcome.feasible or not outcome.within_limits:
        return outcome
    other = instead(outcome.loss, outcome.trace, outcome.point.mapping)
    return outcome if other is None else replace(other, trace=outcome.trace)


def ladder(problem: Problem, least: tuple[int, ...] = ()) -> Ladder:
    """The ladder of a problem; ``least``: see `allocate`."""
    costs = tuple(app.frame_cost_ms for app in problem.apps) if problem.most_frames else None
    apps = tuple((a.priority, a.accuracies, 0 if a.keeps_rate else len(DIVIDERS) - 1) for a in problem.apps)
    return _ladder(apps, costs, least or (0,) * len(apps))


def allocate(
    problem: Problem,
    headroom: float = 1.0,
    guess: Trace = COLD,
    pins: tuple[int, ...] = (),
    least: tuple[int, ...] = (),
    mapping: Sequence[str] = (),
    instead: Instead | None = None,
) -> Outcome:
    """Best operating point of a problem by the objective; always returns one.

    ``guess``: how the last search ended. ``pins``: processors of applications that may not move, -1 = may.
    ``least``: demand levels of which no application gets a better one; empty = all begin at their target.
    ``mapping``: processors that may do, from where the search begins. ``instead``: asked where deadlines or
    frames have to be given up, with how many, how the search ended and a mapping; what it returns is the
    outcome then, unless that is None.
    Raises ValueError if there are applications but no processor for them.
    """
    if not problem.apps:
        return Outcome((), Point((), {}, problem.constant_w + sum(p.idle_w for p in problem.processors)))
    grid = make_grid(problem, headroom, pins)
    homes = [grid.names.index(name) for name in mapping if name in grid.names]
    if grid.pinned:
        homes = list(pins)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if not (guess.rungs or problem.least_latency):  # nothing was given up: perhaps nothing has to be now
            first = asked([Demand(level) for level in least or (0,) * len(problem.apps)])
            few = Few(grid, np.array([pins])) if grid.pinned and grid.plain else None
            outcome = _outcome(problem, grid, first, COLD, few)
            if outcome is not None:
                return outcome
        order = ladder(problem, least)
        outcome = _within_limits(problem, grid, order, guess, homes, instead)
        return outcome or or_instead(_least_bad(problem, grid, order), instead)


def fits(problem: Problem, headroom: float = 1.0, pins: tuple[int, ...] = ()) -> bool:
    """Whether limits, rates and deadlines can hold with every application at its least accuracy.

    The same as ``allocate(problem, headroom, pins=pins).feasible``, at the price of one solution.
    """
    floors = tuple(Demand(len(app.accuracies) - 1) for app in problem.apps)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return solve(make_grid(problem, headroom, pins), asked(floors)) is not None


def _within_limits(
    problem: Problem,
    grid: Grid,
    order: Ladder,
    guess: Trace,
    homes: Sequence[int],
    instead: Instead | None,
) -> Outcome | None:
    """The outcome within the power limit, or instead of it; None if even the last rung breaks the limit."""
    limits = grid.top if guess.rungs and grid.unlimited else grid
    found, few = _search(limits, order, guess.place, homes)
    if found is None:
        return None
    wanted = order.asked(found.rungs)
    if found.rungs:
        more = Reclaim(problem, limits, wanted, few)
        more.frames()
        lost = _loss(zip(wanted.divider.tolist(), wanted.relaxed.tolist(), strict=True))
        if instead and any(lost):  # whose accuracies are not looked for then
            other = instead(lost, found, [grid.names[home] for home in homes])
            if other is not None:
                return replace(other, trace=found)
        more.accuracies(order.first)
        few = more.few
    return _outcome(problem, grid, wanted, found, Few(grid, few.homes) if few else None)


def _search(grid: Grid, order: Ladder, place: float, homes: Sequence[int]) -> tuple[Trace | None, Few | None]:
    """Least number of rungs that keeps deadlines, loads and the power limit, None if all do not; and the
    mappings that can give what is asked then, if they are known.

    From the place of the last search in growing strides, as far as the missing power says; between two
    known powers the limit is crossed about where the straight line between them crosses it. Where a known
    mapping, such as ``homes``, needs so many rungs, no more are needed; once the mappings that will do are
    few, the rest is looked up among them.
    """
    low, high = -1, len(order) + 1  # infeasible at low, feasible at high
    low_w, high_w, known = inf, -inf, None
    guess = int(np.searchsorted(order.places, place, side="right"))
    if grid.plain and len(homes) == len(order.first) and (guess > 0 or grid.pinned):
        few = Few(grid, np.array([homes]))
        high, low_w, few = known_rungs(few, order.asked, low, len(order), guess)
        if grid.pinned:
            low, known = high - 1, few
    probe, stride = min(guess, max(high - 1, 0)), 1
    while high - low > 1:
        wanted = order.asked(probe)
        point = solve(grid, wanted, power=False)
        power_w = point.power_w if point is not None else inf
        if point is not None and power_w <= grid.limit_w:
            high, high_w = probe, power_w
            if grid.plain and high - low > 1:
                known = known_mappings(grid, wanted)
                few = known or Few(grid, np.array([[grid.names.index(name) for name in point.mapping]]))
                high, few_w, few = known_rungs(few, order.asked, low, probe, probe - 1)
                if known:
                    low, known = high - 1, few
                    if high > 0:
                        low_w = few_w
                        if few_w == inf and (point := solve(grid.top, order.asked(low), power=False)):
                            low_w = point.power_w
        else:
            low, low_w = probe, power_w
        missing = abs(power_w - grid.limit_w) / (RUNG_SHARE * power_w) if isfinite(power_w) else inf
        stride = max(2 * stride, round(missing)) if missing < FAR else 4 * stride
        if high > len(order):
            probe = min(low + stride, len(order))
        elif low < 0:
            probe = max(high - (stride if high < guess else 1), 0)
        else:
            probe = _between(low, high, low_w, high_w, grid.limit_w)
    # With one rung less there is a point, but above the limit: it is the power that binds.
    return (_trace(order, high, power=isfinite(low_w)) if high <= len(order) else None), known


def _trace(order: Ladder, rungs: int, *, power: bool) -> Trace:
    return Trace(rungs, float(order.places[rungs - 1]) if rungs else -inf, power)


def _between(low: int, high: int, low_w: float, high_w: float, limit_w: float) -> int:
    share = (low_w - limit_w) / (low_w - high_w) if isfinite(low_w) and isfinite(high_w) else 0.5
    share = min(max(share, 0.25), 0.75)  # the line may be far off
    return min(max(low + round(share * (high - low)), low + 1), high - 1)


def _outcome(
    problem: Problem, grid: Grid, wanted: Asked, trace: Trace, few: Few | None = None
) -> Outcome | None:
    """Least power at these demands; others' load is spared, late applications get the clocks there are.

    ``few``: the mappings that can give them, if these are known.
    """
    if problem.least_latency:
        grid, few = _least_share(problem, grid, wanted), None
    point = None
    if np.count_nonzero(grid.background):
        point = few.point(wanted, background=True) if few else solve(grid, wanted, background=True)
    point = point or (few.point(wanted) if few else solve(grid, wanted))
    if point is None:
        return None
    if np.count_nonzero(wanted.relaxed):
        point = _raise_clocks(grid, wanted, point)
    return Outcome(wanted.demands(), point, trace)


def _least_share(problem: Problem, grid: Grid, wanted: Asked) -> Grid:
    """The grid with every deadline cut to the least common share, in percent, that can be held."""
    targets = np.array([app.latency_target_ms for app in problem.apps])

    def cut(percent: int) -> Grid:
        budget_ms = grid.budget_ms - (1.0 - percent / PERCENT) * targets
        parts = tuple(replace(part, budget_ms=budget_ms) for part in grid.parts)
        return replace(grid, budget_ms=budget_ms, parts=parts)

    held = bisect_left(range(1, PERCENT), True, key=lambda percent: solve(cut(percent), wanted) is not None)
    return cut(1 + held)


def _raise_clocks(grid: Grid, wanted: Asked, point: Point) -> Point:
    """Same mapping with the highest clocks that the power limit allows where an application is late."""
    grid = grid.part(point.levels)
    own, limit = map(point.of_modes, grid.loads(wanted))
    levels, power_w = dict(point.levels), point.power_w
    homes = [grid.names.index(name) for name in point.mapping]
    for k in sorted({k for k, late in zip(homes, wanted.relaxed.tolist(), strict=True) if late}):
        place, name = grid.slices[k], grid.names[k]
        hosted = [app for app, home in enumerate(homes) if home == k]
        total = np.add.reduce(own[hosted, place], axis=0)
        cost_w = grid.base_w[place] + grid.slope_w[place] * np.minimum(total, 1.0)
        row = levels[name] - grid.first[k]
        rest_w = power_w - float(cost_w[row])
        holds = (total <= np.minimum.reduce(limit[hosted, place], axis=0)) & (rest_w + cost_w <= grid.limit_w)
        highest = max([int(n) for n in np.flatnonzero(holds)], default=row)
        if highest > row:
            levels[name], power_w = grid.first[k] + highest, rest_w + float(cost_w[highest])
    return replace(point, levels=levels, power_w=power_w)


def _least_bad(problem: Problem, grid: Grid, order: Ladder) -> Outcome:
    """All is given up and still not enough: too much load, or too much power even at the lowest clocks."""
    everything = order.asked(len(order))
    demands = everything.demands()
    point = solve(grid, everything, load=False)
    if point is not None:
        point = _raise_clocks(grid, everything, point)
        return Outcome(demands, point, _trace(order, len(order), power=False))
    point = solve(grid, everything, load=False, power=False)
    if point is None:
        raise ValueError("no processor can run the applications")
    return Outcome(demands, point, _trace(order, len(order), power=True), within_limits=False)


@lru_cache(maxsize=16)
def _ladder(
    apps: tuple[tuple[int, tuple[float, ...], int], ...],
    frame_costs_ms: tuple[float, ...] | None,
    least: tuple[int, ...],
) -> Ladder:
    """Sorts all rungs at once: kind, class or cost of a frame, loss, application.

    ``apps``: priority, accuracies, and number of steps by which the rate may be lowered.
    """
    asked = [accuracies[first:] for (_, accuracies, _), first in zip(apps, least, strict=True)]
    steps = [len(accuracies) - 1 for accuracies in asked]
    everyone, rates = np.arange(len(apps)), [rates for *_, rates in apps]
    owners = np.concatenate([np.repeat(everyone, steps), np.repeat(everyone, rates), everyone])
    kinds = np.repeat([ACCURACY, RATE, DEADLINE], [sum(steps), sum(rates), len(apps)])
    accuracies = np.concatenate([levels[1:] for levels in asked])
    first = np.repeat([levels[0] for levels in asked], steps)
    dividers = np.concatenate([DIVIDERS[1 : 1 + count] for count in rates])
    loss = np.concatenate([first - accuracies, dividers, np.zeros(len(apps))])
    classes = (255 - np.array([priority for priority, *_ in apps]))[owners]
    if frame_costs_ms is not None:
        dearest_first = np.argsort(-np.array(frame_costs_ms), kind="stable")
        classes = np.where(kinds == RATE, np.argsort(dearest_first)[owners], classes)
    # Digits of one number: losses are below 10, classes below 1000.
    places = 1e4 * kinds + 10.0 * classes + loss
    order = np.lexsort((owners, places))
    owners, kinds = owners[order], kinds[order]
    return Ladder(np.array(least), owners, kinds, places[order])
