"""What to give up first when not everything fits, and how to get it back.

The ladder is one total order of small sacrifices (rungs). Class by class, the least important first:
accuracy from target to floor, always the application that would lose least; then the rate to 1/2, 1/3, 1/4.
When all of that is not enough: the deadline, again the least important first. Power cap and temperature are
on no rung.

Each rung only takes load away, so feasibility is monotone in the number of rungs and a binary search finds
the least number. Rungs that turn out not to matter are then undone, the most important first. For one
application the result is the lexicographic best: rate before accuracy, accuracy before power.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynofa_ros.manager.allocator import Point, Rules, solve
from dynofa_ros.manager.problem import App, Demand, Problem

DIVIDERS = (2, 3, 4)
ACCURACY, RATE, DEADLINE = "accuracy", "rate", "deadline"


@dataclass(frozen=True)
class Rung:
    """One sacrifice of one application (its index in the problem)."""

    app: int
    kind: str


@dataclass(frozen=True)
class Outcome:
    """Where the ladder ended. ``within_limits`` False = even the last rung breaks the power limit."""

    demands: tuple[Demand, ...]
    point: Point
    rungs: tuple[Rung, ...]
    within_limits: bool = True

    @property
    def feasible(self) -> bool:
        """Whether deadlines, rates and limits all hold."""
        return self.within_limits and all(rung.kind == ACCURACY for rung in self.rungs)


def ladder(problem: Problem) -> tuple[Rung, ...]:
    """All rungs in the order in which they are given up."""
    order: list[Rung] = []
    deadlines: list[Rung] = []
    for priority in sorted({app.priority for app in problem.apps}, reverse=True):
        members = [i for i, app in enumerate(problem.apps) if app.priority == priority]
        losses = [(loss, i) for i in members for loss in _losses(problem.apps[i])]
        order += [Rung(i, ACCURACY) for _, i in sorted(losses)]
        order += [Rung(i, RATE) for _ in DIVIDERS for i in members]
        deadlines += [Rung(i, DEADLINE) for i in members]
    return tuple(order + deadlines)


def demands_after(problem: Problem, rungs: Sequence[Rung]) -> tuple[Demand, ...]:
    """Demands of all applications when these rungs are given up."""
    count = Counter((rung.app, rung.kind) for rung in rungs)
    dividers = (1, *DIVIDERS)
    return tuple(
        Demand(count[i, ACCURACY], dividers[count[i, RATE]], count[i, DEADLINE] > 0)
        for i in range(len(problem.apps))
    )


def allocate(problem: Problem, headroom: float = 1.0) -> Outcome:
    """Best operating point of a problem by the objective; always returns one.

    Raises ValueError if there are applications but no processor for them.
    """
    rules = Rules(headroom=headroom)
    order = ladder(problem)
    count = _least_count(problem, order, rules)
    if count is None:
        return _least_bad(problem, order)
    rungs = _climb_back(problem, order[:count], rules) if count else ()
    return _finish(problem, rungs, rules)


def feasible(problem: Problem, rungs: Sequence[Rung], rules: Rules) -> bool:
    """Whether an operating point exists after these rungs."""
    return solve(problem, demands_after(problem, rungs), rules) is not None


def _losses(app: App) -> list[float]:
    return [app.accuracies[0] - accuracy for accuracy in app.accuracies[1:]]


def _least_count(problem: Problem, order: Sequence[Rung], rules: Rules) -> int | None:
    """Least number of rungs that makes the problem feasible, None if all of them do not."""
    if feasible(problem, (), rules):
        return 0
    if not feasible(problem, order, rules):
        return None
    low, high = 0, len(order)  # infeasible at low, feasible at high
    while high - low > 1:
        middle = (low + high) // 2
        if feasible(problem, order[:middle], rules):
            high = middle
        else:
            low = middle
    return high


def _climb_back(problem: Problem, taken: Sequence[Rung], rules: Rules) -> tuple[Rung, ...]:
    """Undoes rungs from the last one on; where one must stay, so must the like ones of its application.

    An application that keeps missing its deadline stays at its floor too: a larger network would be later.
    """
    kept: list[Rung] = []
    candidates = list(taken)
    while candidates:
        low, high = 0, len(candidates) + 1  # rungs undone from the end: feasible at low, not at high
        while high - low > 1:
            middle = (low + high) // 2
            if feasible(problem, kept + candidates[: len(candidates) - middle], rules):
                low = middle
            else:
                high = middle
        candidates = candidates[: len(candidates) - low]
        if candidates:
            blocked = {candidates[-1]}
            if candidates[-1].kind == DEADLINE:
                blocked.add(Rung(candidates[-1].app, ACCURACY))
            kept += [rung for rung in candidates if rung in blocked]
            candidates = [rung for rung in candidates if rung not in blocked]
    remaining = Counter(kept)
    result = []
    for rung in taken:  # rungs of one application and kind are interchangeable: keep the first ones
        if remaining[rung] > 0:
            remaining[rung] -= 1
            result.append(rung)
    return tuple(result)


def _finish(problem: Problem, rungs: tuple[Rung, ...], rules: Rules) -> Outcome:
    """Least power at these demands; others' load is spared, late applications get the clocks there are."""
    demands = demands_after(problem, rungs)
    point = solve(problem, demands, replace(rules, background=True)) or solve(problem, demands, rules)
    if point is None:
        raise ValueError("no processor can run the applications")
    hurried = {point.mapping[rung.app] for rung in rungs if rung.kind == DEADLINE}
    if hurried:
        point = _raise_clocks(problem, demands, point, hurried, rules)
    return Outcome(demands, point, rungs)


def _raise_clocks(
    problem: Problem, demands: tuple[Demand, ...], point: Point, names: set[str], rules: Rules
) -> Point:
    """Same mapping with the highest clocks of some processors that the power limit allows."""
    apps = tuple(
        replace(app, options={name: app.options[name]})
        for app, name in zip(problem.apps, point.mapping, strict=True)
    )
    pinned = replace(problem, apps=apps)
    for name in sorted(names):
        low, high = point.levels[name], problem.processor(name).levels
        while high - low > 1:
            middle = (low + high) // 2
            floors = {**(rules.floor_level or {}), name: middle}
            raised = solve(pinned, demands, replace(rules, floor_level=floors))
            if raised is None:
                high = middle
            else:
                low, point = middle, raised
        rules = replace(rules, floor_level={**(rules.floor_level or {}), name: low})
    return point


def _least_bad(problem: Problem, order: tuple[Rung, ...]) -> Outcome:
    """All is given up and still not enough: too much load, or too much power even at the lowest clocks."""
    saturated = Rules(load=False)
    if feasible(problem, order, saturated):
        return _finish(problem, order, saturated)
    demands = demands_after(problem, order)
    point = solve(problem, demands, Rules(load=False, power=False))
    if point is None:
        raise ValueError("no processor can run the applications")
    return Outcome(demands, point, order, within_limits=False)
