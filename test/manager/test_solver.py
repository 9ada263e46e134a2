"""The allocator against brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import inf

import numpy as np
import pytest
from manager_problems import brute_force, crowd, make_problem, random_demands, solved

from dynofa_ros.manager.alone import Alone
from dynofa_ros.manager.few import Few
from dynofa_ros.manager.grid import asked, make_grid
from dynofa_ros.manager.ladder import Trace, allocate
from dynofa_ros.manager.problem import DIVIDERS, Demand, Problem, demand_accuracies, make_table
from dynofa_ros.manager.solver import best_for, known_mappings, solve

INSTANCES = 600


def test_the_allocator_equals_brute_force() -> None:
    outcomes = {"feasible": 0, "infeasible": 0}
    for seed in range(INSTANCES):
        problem = make_problem(seed)
        rng = np.random.default_rng(10_000 + seed)
        demands = random_demands(problem, rng)
        headroom = float(rng.choice([1.0, 0.9]))
        rules = {
            "power": bool(rng.random() < 0.8),
            "load": bool(rng.random() < 0.9),
            "background": bool(rng.random() < 0.5),
        }
        expected = brute_force(problem, demands, headroom=headroom, **rules)
        point = solved(problem, demands, headroom, **rules)
        outcomes["feasible" if expected < inf else "infeasible"] += 1
        assert (point is None) == (expected == inf), seed
        if point is not None:
            assert point.power_w == pytest.approx(expected, rel=1e-12), seed
    assert min(outcomes.values()) > 90, outcomes


def brute_best(
    problem: Problem, demands: tuple[Demand, ...], app: int, relaxed: bool
) -> tuple[int, int] | None:
    """Least divider, then best level, of one application, by trying them all."""
    for divider in DIVIDERS:
        for level in range(len(problem.apps[app].accuracies)):
            tried = list(demands)
            tried[app] = Demand(level, divider, relaxed)
            if brute_force(problem, tuple(tried)) < inf:
                return divider, level
    return None


def test_the_most_for_one_application_equals_brute_force() -> None:
    some = 0
    for seed in range(120):
        problem = make_problem(seed)
        rng = np.random.default_rng(30_000 + seed)
        demands = random_demands(problem, rng)
        app = int(rng.integers(len(problem.apps)))
        relaxed = bool(rng.random() < 0.2)
        with np.errstate(all="ignore"):
            found = best_for(make_grid(problem, 1.0), asked(demands), app, DIVIDERS, relaxed=relaxed)
        assert found == brute_best(problem, demands, app, relaxed), seed
        some += found is not None
    assert 30 < some < 115


def test_the_most_for_one_application_among_known_mappings_is_that_of_all_mappings() -> None:
    known = 0
    for seed in range(40):
        problem = replace(crowd(seed, 6), power_limit_w=4.0)
        names = [p.name for p in problem.processors]
        pins = (-1,) * 6
        if seed % 2:
            pins = (*pins[:3], *map(names.index, allocate(problem).point.mapping[3:]))
        grid = make_grid(problem, 1.0, pins)
        wanted = asked([Demand(len(a.accuracies) - 1, 1 + seed % 3) for a in problem.apps])
        with np.errstate(all="ignore"):
            few = known_mappings(grid, wanted) if solve(grid, wanted) else None
            if few is None:
                continue
            assert few.point(wanted) == solve(grid, wanted), seed
            assert few.point(wanted, background=True) == solve(grid, wanted, background=True), seed
            dividers = DIVIDERS[: 1 + seed % 3]
            for app in range(6):
                expected = best_for(grid, wanted, app, dividers)
                assert few.best(wanted, app, dividers) == expected, (seed, app)
                known += 1
    assert known > 30


@pytest.mark.parametrize("limit_w", [8.0, inf])
def test_a_single_mapping_at_the_top_clocks_follows_demands_that_change(limit_w: float) -> None:
    found = Counter[bool]()
    for seed in range(30):
        problem, rng = replace(crowd(seed, 6), power_limit_w=limit_w), np.random.default_rng(seed)
        grid = make_grid(problem, 1.0).top
        few = Few(grid, np.array([[grid.names.index(name) for name in allocate(problem).point.mapping]]))
        with np.errstate(all="ignore"):
            only = Alone(few, asked(random_demands(problem, rng)))
            for n in range(5):
                wanted = asked(random_demands(problem, rng))
                for app, relaxed in product(range(6), (False, True)):
                    expected = few.best(wanted, app, DIVIDERS, relaxed=relaxed)
                    assert only.best(wanted, app, DIVIDERS, relaxed=relaxed) == expected, (seed, n, app)
                    found[expected is None] += 1
    assert min(found.values()) > 30, found


def test_without_a_limit_the_top_clocks_alone_say_what_can_be_given() -> None:
    outcomes = {True: 0, False: 0}
    for seed in range(60):
        problem = replace(crowd(seed, 6), power_limit_w=inf)
        grid = make_grid(problem, 1.0)
        top = grid.top
        assert grid.unlimited and len(top.base_w) == len(problem.processors)
        wanted = asked(random_demands(problem, np.random.default_rng(seed)))
        with np.errstate(all="ignore"):
            found = solve(grid, wanted) is not None
            assert (solve(top, wanted) is not None) == found, seed
        outcomes[found] += 1
    assert min(outcomes.values()) > 5, outcomes
    limited = replace(problem, power_limit_w=problem.constant_w + 1.0)
    assert not make_grid(limited, 1.0).unlimited


@pytest.mark.parametrize("free", [(), (0, 1, 2), range(6)])
def test_the_start_of_a_search_changes_no_result(free: Sequence[int]) -> None:
    for seed in range(40):
        problem = replace(crowd(seed, 6), power_limit_w=float(5.0 if seed % 2 else inf))
        mapping = allocate(problem).point.mapping
        pins = tuple(-1 if n in free else "cpu gpu npu".split().index(p) for n, p in enumerate(mapping))
        cold = allocate(problem, pins=pins)
        for guess in (Trace(1, 0.01), Trace(9, 1e4), Trace(30, 2.5e4)):
            warm = allocate(problem, guess=guess, pins=pins, mapping=mapping)
            assert (warm.demands, warm.point, warm.trace) == (cold.demands, cold.point, cold.trace), seed


def test_pins_hold() -> None:
    for seed in range(60):
        problem = make_problem(seed)
        names = [p.name for p in problem.processors]
        able = [
            sorted(name for name in app.tables if np.isfinite(app.menu.unit_ms(name)[-1]).all())
            for app in problem.apps
        ]
        pins = tuple(names.index(places[-1]) for places in able)
        outcome = allocate(problem, pins=pins)
        assert outcome.point.mapping == tuple(names[pin] for pin in pins)


@pytest.mark.parametrize(
    ("target", "floor", "expected", "below"),
    [
        (1.0, 0.0, (0.8, 0.7, 0.6), False),
        (0.65, 0.0, (0.7, 0.6), False),
        (0.5, 0.0, (0.6,), False),
        (0.7, 0.7, (0.7,), False),
        (0.6, 0.75, (0.8,), False),
        (1.0, 0.9, (0.8,), True),
    ],
)
def test_demand_accuracies(target: float, floor: float, expected: tuple[float, ...], below: bool) -> None:
    assert demand_accuracies([0.6, 0.8, 0.7, 0.7], target, floor) == (expected, below)


def test_an_empty_library_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one library entry"):
        demand_accuracies([], 1.0, 0.0)
    with pytest.raises(ValueError, match="at least one library entry"):
        make_table([], make_problem(0).processors[0])
