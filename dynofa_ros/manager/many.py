"""Allocation for any number of applications: exact up to `MAX_FREE_APPS`, beyond by exact parts.

With more applications a few at a time may choose their processor while the others stay where they are, the
most important first, until each has had its turn; every part is solved exactly and the best result counts.
It begins with the mapping in force, or spreads the load where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynofa_ros.manager.ladder import COLD, Outcome, Trace, allocate, fits
from dynofa_ros.manager.plan import forecast, make_plan, quality
from dynofa_ros.manager.problem import App, Option, Problem
from dynofa_ros.manager.solver import MAX_FREE_APPS


def allocate_any(
    problem: Problem,
    headroom: float = 1.0,
    guess: Trace = COLD,
    mapping: Sequence[str] = (),
    *,
    most: int = MAX_FREE_APPS,
) -> Outcome:
    """Operating point of a problem by its objective.

    ``mapping``: processor of each application now, if all are known. ``most``: applications that may choose
    at a time.
    Raises ValueError if there are applications but no processor for them.
    """
    if len(problem.apps) <= most:
        return allocate(problem, headroom, guess)
    return _in_parts(problem, headroom, guess, mapping, most)


def fits_any(problem: Problem, headroom: float, guess: Trace, mapping: Sequence[str]) -> bool:
    """Whether `allocate_any` would find a feasible point."""
    if len(problem.apps) <= MAX_FREE_APPS:
        return fits(problem, headroom)
    return allocate_any(problem, headroom, guess, mapping).feasible


def pins_of(problem: Problem, mapping: Sequence[str], most: int = MAX_FREE_APPS) -> tuple[int, ...]:
    """Everyone where the mapping says, if there are too many to choose all at once; else no pins."""
    if len(problem.apps) <= most:
        return ()
    names = [p.name for p in problem.processors]
    return tuple(names.index(name) for name in mapping)


def _in_parts(problem: Problem, headroom: float, guess: Trace, mapping: Sequence[str], most: int) -> Outcome:
    ranked = sorted(range(len(problem.apps)), key=lambda i: (problem.apps[i].priority, i))
    usable = len(mapping) == len(ranked) and all(
        name in _able(app) for app, name in zip(problem.apps, mapping, strict=True)
    )
    places = tuple(mapping) if usable else _spread(problem, ranked)
    best: Outcome | None = None
    for start in range(0, len(ranked), most):
        free = set(ranked[start : start + most])
        pins = [-1 if i in free else pin for i, pin in enumerate(pins_of(problem, places, most))]
        outcome = allocate(problem, headroom, guess, tuple(pins))
        if best is None or _worth(problem, outcome) < _worth(problem, best):
            best, places, guess = outcome, outcome.point.mapping, outcome.trace
    assert best is not None  # there are applications
    return best


def _worth(problem: Problem, outcome: Outcome) -> tuple[tuple[float, ...], float]:
    expected = forecast(problem, make_plan(problem, outcome))
    return quality(problem, expected), expected.power_w


def _spread(problem: Problem, ranked: Sequence[int]) -> tuple[str, ...]:
    """Each application, the most important first, where the load is then the least at the top clock."""
    load = {p.name: 0.0 for p in problem.processors}
    places = [""] * len(problem.apps)
    for index in ranked:
        app = problem.apps[index]
        after = {
            name: load[name]
            + 1e-3 * app.rate_hz * option.slowdown * float(option.menu.unit_ms[..., -1, -1].min())
            for name, option in _able(app).items()
        }
        name = min(after, key=lambda n: (after[n], n))
        places[index], load[name] = name, after[name]
    return tuple(places)


def _able(app: App) -> dict[str, Option]:
    """Processors on which it can have the least accuracy that it may be given."""
    return {name: o for name, o in app.options.items() if o.menu.first[-1] < len(o.entries)}
