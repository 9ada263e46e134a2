"""Allocation for any number of applications: exact up to `MAX_FREE_APPS`, beyond by exact parts.

With more applications a few at a time may choose their processor while the others stay where they are, the
most important first, until each has had its turn; every part is solved exactly and the best result counts.
It begins with the mapping in force, or spreads the load where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynofa_ros.manager.ladder import COLD, Instead, Outcome, Trace, allocate, fits, or_instead
from dynofa_ros.manager.plan import forecast, make_plan, quality
from dynofa_ros.manager.problem import App, Problem
from dynofa_ros.manager.solver import MAX_FREE_APPS


def allocate_any(
    problem: Problem,
    headroom: float = 1.0,
    guess: Trace = COLD,
    mapping: Sequence[str] = (),
    *,
    most: int = MAX_FREE_APPS,
    turns: int | None = None,
    least: tuple[int, ...] = (),
    instead: Instead | None = None,
) -> Outcome:
    """Operating point of a problem by its objective.

    ``mapping``: processor of each application now, if all are known. ``most``: applications that may choose
    at a time. ``turns``: how many times, from the most important on; None = until each has chosen. ``least``,
    ``instead``: see `ladder.allocate`.
    Raises ValueError if there are applications but no processor for them.
    """
    if len(problem.apps) <= most:
        return allocate(problem, headroom, guess, (), least, mapping, instead)
    places, best = _places(problem, mapping), None
    for free in _turns(problem, most)[:turns]:
        outcome = allocate(problem, headroom, guess, _pins(problem, places, free), least, places)
        if best is None or _worth(problem, outcome) < _worth(problem, best):
            best, places, guess = outcome, outcome.point.mapping, outcome.trace
    assert best is not None  # there are applications
    return or_instead(best, instead)


def fits_any(problem: Problem, headroom: float, mapping: Sequence[str]) -> bool:
    """Whether a feasible point is found when each chooses in its turn, the others staying as mapped."""
    if len(problem.apps) <= MAX_FREE_APPS:
        return fits(problem, headroom)
    turns = _turns(problem, MAX_FREE_APPS)
    return any(fits(problem, headroom, _pins(problem, mapping, free)) for free in turns)


def pins_of(problem: Problem, mapping: Sequence[str], most: int = MAX_FREE_APPS) -> tuple[int, ...]:
    """Everyone where the mapping says, if there are too many to choose all at once; else no pins."""
    if len(problem.apps) <= most:
        return ()
    return _pins(problem, mapping, set())


def _turns(problem: Problem, most: int) -> list[set[int]]:
    """Applications that choose together, the most important first."""
    ranked = sorted(range(len(problem.apps)), key=lambda i: (problem.apps[i].priority, i))
    return [set(ranked[start : start + most]) for start in range(0, len(ranked), most)]


def _pins(problem: Problem, mapping: Sequence[str], free: set[int]) -> tuple[int, ...]:
    names = [p.name for p in problem.processors]
    return tuple(-1 if i in free else names.index(name) for i, name in enumerate(mapping))


def _places(problem: Problem, mapping: Sequence[str]) -> Sequence[str]:
    """Where each application is, or where it may begin."""
    usable = len(mapping) == len(problem.apps) and all(
        name in _able(app) for app, name in zip(problem.apps, mapping, strict=True)
    )
    return mapping if usable else _spread(problem)


def _worth(problem: Problem, outcome: Outcome) -> tuple[tuple[float, ...], float]:
    expected = forecast(problem, make_plan(problem, outcome))
    return quality(problem, expected), expected.power_w


def _spread(problem: Problem) -> tuple[str, ...]:
    """Each application, the most important first, where the load is then the least at the top clock."""
    load = {p.name: 0.0 for p in problem.processors}
    places = [""] * len(problem.apps)
    for index in sorted(range(len(places)), key=lambda i: (problem.apps[i].priority, i)):
        app = problem.apps[index]
        after = {
            name: load[name]
            + 1e-3 * app.rate_hz * app.slowdown[name] * float(app.menu.unit_ms(name)[..., -1, -1].min())
            for name in _able(app)
        }
        name = min(after, key=lambda n: (after[n], n))
        places[index], load[name] = name, after[name]
    return tuple(places)


def _able(app: App) -> list[str]:
    """Processors on which it can have the least accuracy that it may be given."""
    return [n for n, table in app.tables.items() if app.menu.first[n][-1] < len(table.entries)]
