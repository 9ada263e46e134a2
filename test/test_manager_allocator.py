"""The allocator and the ladder against brute force that shares no code with them."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest

from dynofa_ros.manager import allocator
from dynofa_ros.manager.allocator import Rules, solve
from dynofa_ros.manager.explain import binding_constraint
from dynofa_ros.manager.ladder import ACCURACY, DEADLINE, RATE, allocate, demands_after, feasible, ladder
from dynofa_ros.manager.plan import forecast, make_plan
from dynofa_ros.manager.problem import (
    LOAD_CEILING,
    App,
    Demand,
    Problem,
    Processor,
    demand_accuracies,
    make_option,
)
from dynofa_ros.manager.types import LibraryEntry


def make_processor(rng: np.random.Generator, name: str, levels: int) -> Processor:
    hz = np.sort(rng.uniform(2e8, 2e9, levels))
    volts = 0.6 + 0.4 * hz / 2e9
    return Processor(
        name=name,
        domains=(name,),
        clocks_hz=hz[:, None],
        speed_hz=hz,
        reference_hz=float(hz[-1]),
        base_w=rng.uniform(0.0, 0.5) * volts**2,
        slope_w=rng.uniform(1.0, 8.0) * volts**2 * hz / 2e9,
        background=rng.uniform(0.0, 0.5) * hz[0] / hz,
        idle_w=float(rng.uniform(0.0, 0.1)),
        idle_level=0,
        contention=float(rng.choice([0.0, 0.3, 0.6])),
    )


def make_app(
    rng: np.random.Generator, name: str, processors: tuple[Processor, ...], entries: int, demanding: float
) -> App:
    """``demanding`` 0..1: how tight the deadline is."""
    priority = int(rng.integers(0, 3))
    chosen = [p for p in processors if rng.random() < 0.7] or [processors[int(rng.integers(len(processors)))]]
    libraries = {}
    for processor in chosen:
        accuracy = np.sort(rng.choice(np.arange(60, 90), entries, replace=False)) / 100.0
        total = np.sort(rng.uniform(5.0, 80.0, entries))
        share = rng.uniform(0.1, 0.9)
        libraries[processor.name] = [
            LibraryEntry(
                f"{name}{n}", processor.name, float(a), float(t), float(share * t), float((1 - share) * t)
            )
            for n, (a, t) in enumerate(zip(accuracy, total, strict=True))
        ]
    available = [e.accuracy for library in libraries.values() for e in library]
    floor = float(rng.choice([0.0, np.median(available)]))
    target = float(rng.choice([1.0, floor, np.median(available)]))
    accuracies, below = demand_accuracies(available, target, floor)
    options = {
        p.name: make_option(
            libraries[p.name], accuracies, p, float(rng.uniform(0.8, 1.5)), float(rng.uniform(1.02, 1.3))
        )
        for p in chosen
    }
    latency = float(rng.uniform(20.0, 60.0) / (0.2 + demanding))
    return App(name, priority, float(rng.uniform(1.0, 20.0)), latency, 2.0, accuracies, below, options)


def make_problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    names = ("cpu", "gpu", "npu")[: int(rng.integers(1, 4))]
    processors = tuple(make_processor(rng, name, int(rng.integers(2, 5))) for name in names)
    demanding = float(rng.random())
    apps = tuple(
        make_app(rng, f"app{n}", processors, int(rng.integers(1, 4)), demanding)
        for n in range(int(rng.integers(1, 4)))
    )
    limit = float(rng.choice([inf, rng.uniform(1.0, 8.0)]))
    return Problem(apps, processors, constant_w=float(rng.uniform(0.0, 2.0)), power_limit_w=limit)


def brute_force(problem: Problem, demands: tuple[Demand, ...], rules: Rules) -> float:
    """Least power over every mapping, sub-network and level; inf if nothing fits."""
    best = inf
    per_app = [
        [
            (p.name, e)
            for p in problem.processors
            if p.name in app.options
            for e in app.options[p.name].entries
        ]
        for app in problem.apps
    ]
    for levels in product(*(range(p.levels) for p in problem.processors)):
        level = {p.name: f for p, f in zip(problem.processors, levels, strict=True)}
        for chosen in product(*per_app):
            best = min(best, _power(problem, demands, rules, level, chosen))
    return best if not (rules.power and best > problem.power_limit_w) else inf


def _power(problem, demands, rules, level, chosen) -> float:
    times, loads = [], []
    for app, demand, (name, entry) in zip(problem.apps, demands, chosen, strict=True):
        if entry.accuracy < app.accuracies[demand.level]:
            return inf
        option = app.options[name]
        times.append(float(option.entry_ms[option.entries.index(entry), level[name]]))
        loads.append(app.rate_hz / demand.divider * 1e-3 * times[-1])
    total = {p.name: 0.0 for p in problem.processors}
    for (name, _), load in zip(chosen, loads, strict=True):
        total[name] += load
    for app, demand, (name, _), time, load in zip(problem.apps, demands, chosen, times, loads, strict=True):
        shared = 1.0 + problem.processor(name).contention * (total[name] - load)
        guarded = app.options[name].margin * time * shared + app.overhead_ms
        if not demand.relaxed and guarded > rules.headroom * app.latency_target_ms + 1e-9:
            return inf
    power = problem.constant_w
    for processor in problem.processors:
        f, load = level[processor.name], total[processor.name]
        used = any(name == processor.name for name, _ in chosen)
        if used and rules.load and load > LOAD_CEILING + 1e-12:
            return inf
        short = load + processor.background[f] > LOAD_CEILING
        if used and rules.background and short and f < processor.levels - 1:
            return inf
        power += processor.base_w[f] + processor.slope_w[f] * load if used else processor.idle_w
    return float(power)


def test_kernel_equals_brute_force() -> None:
    outcomes = {"feasible": 0, "infeasible": 0}
    for seed in range(400):
        problem = make_problem(seed)
        rng = np.random.default_rng(10_000 + seed)
        demands = tuple(
            Demand(int(rng.integers(len(a.accuracies))), int(rng.integers(1, 5)), bool(rng.random() < 0.1))
            for a in problem.apps
        )
        rules = Rules(
            headroom=float(rng.choice([1.0, 0.9])),
            power=bool(rng.random() < 0.8),
            load=bool(rng.random() < 0.9),
            background=bool(rng.random() < 0.5),
        )
        expected = brute_force(problem, demands, rules)
        point = solve(problem, demands, rules)
        outcomes["feasible" if expected < inf else "infeasible"] += 1
        assert (point is None) == (expected == inf), seed
        if point is not None:
            assert point.power_w == pytest.approx(expected, rel=1e-12), seed
    assert min(outcomes.values()) > 60, outcomes


def lexicographic_best(problem: Problem) -> tuple[float, ...]:
    """(rate loss, shortfall, power) of the best operating point of ONE application, by enumeration."""
    (app,) = problem.apps
    best = (inf, inf, inf)
    for divider in (1, 2, 3, 4):
        for level in range(len(app.accuracies)):
            power = brute_force(problem, (Demand(level, divider),), Rules())
            if power < inf:
                best = min(best, (divider - 1, app.accuracies[0] - app.accuracies[level], power))
    return best


def test_ladder_is_the_lexicographic_best_for_one_application() -> None:
    degraded = late = 0
    for seed in range(300):
        problem = make_problem(seed)
        calm = tuple(  # others' load is a preference of its own, tested below
            Processor(**{**vars(p), "background": np.zeros(p.levels)}) for p in problem.processors
        )
        problem = Problem(problem.apps[:1], calm, problem.constant_w, problem.power_limit_w)
        expected = lexicographic_best(problem)
        outcome = allocate(problem)
        if expected[0] == inf:
            late += 1
            assert not outcome.feasible, seed
            continue
        (demand,) = outcome.demands
        app = problem.apps[0]
        found = (demand.divider - 1, app.accuracies[0] - app.accuracies[demand.level], outcome.point.power_w)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), seed
        degraded += bool(outcome.rungs)
    assert degraded > 20 and late > 20


def test_ladder_is_monotone_and_starts_with_the_least_important() -> None:
    for seed in range(60):
        problem = make_problem(seed)
        order = ladder(problem)
        flags = [feasible(problem, order[:n], Rules()) for n in range(len(order) + 1)]
        assert flags == sorted(flags), seed
        early = [rung for rung in order if rung.kind != DEADLINE]
        priorities = [problem.apps[rung.app].priority for rung in early]
        assert priorities == sorted(priorities, reverse=True)
        for index in range(len(problem.apps)):
            kinds = [rung.kind for rung in early if rung.app == index]
            assert kinds == sorted(kinds)  # accuracy before rate
            assert kinds.count(RATE) == 3
            assert kinds.count(ACCURACY) == len(problem.apps[index].accuracies) - 1


def test_no_single_sacrifice_can_be_taken_back() -> None:
    checked = 0
    for seed in range(300):
        problem = make_problem(seed)
        outcome = allocate(problem)
        if not outcome.rungs or not feasible(problem, outcome.rungs, Rules()):
            continue
        late = {rung.app for rung in outcome.rungs if rung.kind == DEADLINE}
        for rung in set(outcome.rungs):
            if rung.kind == ACCURACY and rung.app in late:
                continue  # stays at its floor on purpose
            rest = list(outcome.rungs)
            rest.remove(rung)
            assert not feasible(problem, rest, Rules()), (seed, rung)
            checked += 1
    assert checked > 50


def test_power_limit_is_never_relaxed() -> None:
    below = 0
    for seed in range(300):
        problem = make_problem(seed)
        outcome = allocate(problem)
        if outcome.within_limits:
            assert outcome.point.power_w <= problem.power_limit_w
            continue
        below += 1
        everything = demands_after(problem, ladder(problem))
        least = brute_force(problem, everything, Rules(power=False, load=False))
        assert outcome.point.power_w == pytest.approx(least)
        assert least > problem.power_limit_w
    assert below > 10


def test_hopeless_deadline_gets_the_smallest_network_and_the_top_clock() -> None:
    rng = np.random.default_rng(1)
    cpu = make_processor(rng, "cpu", 5)
    app = make_app(rng, "front", (cpu,), 3, 0.5)
    hopeless = App(**{**vars(app), "latency_target_ms": 1.0})
    free = Problem((hopeless,), (cpu,), 1.0)
    plan = make_plan(free, allocate(free))
    assert not plan.feasible
    assert plan.choices[0].entry.accuracy == app.accuracies[-1]
    assert plan.clocks[0][1] == (cpu.speed_hz[-1],)
    power_at_top = forecast(free, plan).power_w
    capped = Problem((hopeless,), (cpu,), 1.0, power_limit_w=power_at_top - 1e-3)
    capped_plan = make_plan(capped, allocate(capped))
    assert forecast(capped, capped_plan).power_w <= capped.power_limit_w
    assert capped_plan.clocks[0][1] == (cpu.speed_hz[-2],)
    assert binding_constraint(capped, capped_plan, "quality", "power_cap") == "latency"


def test_others_are_spared_where_it_costs_no_accuracy() -> None:
    rng = np.random.default_rng(2)
    cpu = make_processor(rng, "cpu", 5)
    app = make_app(rng, "front", (cpu,), 1, 0.0)
    busy = Processor(**{**vars(cpu), "background": np.array([2.0, 1.2, 0.85, 0.8, 0.7])})
    outcome = allocate(Problem((app,), (busy,), 1.0))
    level = outcome.point.levels["cpu"]
    load = app.rate_hz * 1e-3 * float(app.options["cpu"].time_ms[0, level])
    assert level == 4 or load + busy.background[level] <= LOAD_CEILING
    assert level > allocate(Problem((app,), (cpu,), 1.0)).point.levels["cpu"]


def test_forecast_agrees_with_the_allocator() -> None:
    agreed = 0
    for seed in range(200):
        problem = make_problem(seed)
        outcome = allocate(problem)
        expected = forecast(problem, make_plan(problem, outcome))
        assert expected.power_w == pytest.approx(outcome.point.power_w)
        if outcome.feasible:
            assert not any(expected.violations[:3]), seed
            agreed += 1
    assert agreed > 60


@pytest.mark.parametrize("count", [0, 1, 9, 20])
def test_any_number_of_applications_gets_a_plan(count: int) -> None:
    rng = np.random.default_rng(count)
    processors = tuple(make_processor(rng, name, 6) for name in ("cpu", "gpu", "npu"))
    apps = tuple(make_app(rng, f"app{n:02}", processors, 4, 0.3) for n in range(count))
    problem = Problem(apps, processors, 1.0)
    plan = make_plan(problem, allocate(problem))
    assert [c.app for c in plan.choices] == [a.name for a in apps]
    assert forecast(problem, plan).applicable


def test_heuristic_beyond_the_table_is_close_to_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    processors = tuple(make_processor(rng, name, 6) for name in ("cpu", "gpu", "npu"))
    apps = tuple(make_app(rng, f"app{n}", processors, 4, 0.1) for n in range(6))
    calm = tuple(App(**{**vars(a), "rate_hz": 1.0}) for a in apps)
    problem = Problem(calm, processors, 1.0)
    exact = solve(problem, [Demand(len(a.accuracies) - 1) for a in calm])
    monkeypatch.setattr(allocator, "MAX_FREE_APPS", 3)
    greedy = solve(problem, [Demand(len(a.accuracies) - 1) for a in calm])
    assert exact is not None and greedy is not None
    assert exact.power_w <= greedy.power_w < 2.0 * exact.power_w


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
