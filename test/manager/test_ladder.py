"""The ladder, and what is given back, against brute force; what happens where nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from manager_problems import (
    brute_force,
    calm,
    crowd,
    make_app,
    make_problem,
    make_processor,
    replace_floor,
    solved,
)

from dynofa_ros.manager.explain import binding_constraint
from dynofa_ros.manager.ladder import (
    ACCURACY,
    DEADLINE,
    NOTHING,
    RATE,
    Loss,
    Trace,
    allocate,
    fits,
    ladder,
)
from dynofa_ros.manager.many import allocate_any
from dynofa_ros.manager.plan import forecast, make_plan, quality
from dynofa_ros.manager.problem import DIVIDERS, LOAD_CEILING, Demand, Problem


def brute_outcome(problem: Problem) -> tuple[Demand, ...] | None:
    """The demands of the ladder's definition: the least prefix that fits, then given back one by one."""
    order = ladder(problem)
    start = next(
        (
            order.asked(n).demands()
            for n in range(len(order) + 1)
            if brute_force(problem, order.asked(n).demands()) < inf
        ),
        None,
    )
    if start is None:
        return None
    demands = list(start)
    ranked = sorted(range(len(demands)), key=lambda i: (problem.apps[i].priority, i))

    def try_(app: int, *tries: Demand) -> None:
        for wish in tries:
            tried = tuple(wish if n == app else d for n, d in enumerate(demands))
            if brute_force(problem, tried) < inf:
                demands[app] = wish
                return

    for app in ranked:
        if demands[app].relaxed:
            given = demands[app]
            try_(app, replace(given, relaxed=False))
            if demands[app].relaxed:
                try_(app, *(replace(given, divider=d) for d in DIVIDERS if d <= given.divider))
    due = [app for app in ranked if not demands[app].relaxed]
    for app in sorted(due, key=lambda i: problem.apps[i].frame_cost_ms) if problem.most_frames else due:
        try_(app, *(replace(demands[app], divider=d) for d in DIVIDERS if d <= demands[app].divider))
    for app in due:
        levels = range(len(problem.apps[app].accuracies))
        try_(app, *(replace(demands[app], level=j) for j in levels if j <= demands[app].level))
    return tuple(demands)


@pytest.mark.parametrize("most_frames", [False, True])
def test_the_outcome_is_what_the_ladder_says_whatever_the_guess(most_frames: bool) -> None:
    """So the objectives that differ in targets only (quality, energy, power, battery) and throughput."""
    seen = {"met": 0, "degraded": 0, "late": 0, "hopeless": 0}
    for seed in range(60 if most_frames else 140):
        problem = replace(calm(make_problem(seed, most_levels=3)), most_frames=most_frames)
        expected = brute_outcome(problem)
        for guess in (-np.inf, 2_540.0, 12_510.5, 1e9):
            outcome = allocate(problem, guess=Trace(place=guess))
            if expected is None:
                assert not outcome.feasible, seed
                continue
            assert outcome.demands == expected, (seed, guess)
            if not any(d.relaxed for d in expected):
                least = brute_force(problem, expected)
                assert outcome.point.power_w == pytest.approx(least, rel=1e-12), seed
        late = expected is not None and any(d.relaxed for d in expected)
        degraded = expected is not None and any(d != Demand() for d in expected)
        seen["hopeless" if expected is None else "late" if late else "degraded" if degraded else "met"] += 1
    assert min(seen.values()) >= 1, seen


def test_least_latency_equals_brute_force() -> None:
    compared = 0
    for seed in range(60):
        problem = replace(calm(make_problem(seed, most_levels=3)), least_latency=True)
        floors = tuple(Demand(len(a.accuracies) - 1) for a in problem.apps)
        at_floor = tuple(replace_floor(a) for a in problem.apps)
        problem = replace(problem, apps=at_floor)
        floors = tuple(Demand() for _ in at_floor)
        if brute_force(problem, floors) == inf:
            continue
        outcome = allocate(problem)
        least = next(p for p in range(1, 101) if brute_force(problem, floors, headroom=0.01 * p) < inf)
        share = forecast(problem, make_plan(problem, outcome)).share
        assert 0.01 * (least - 1) < share <= 0.01 * least + 1e-9, seed
        power_w = brute_force(problem, floors, headroom=0.01 * least)
        assert outcome.point.power_w == pytest.approx(power_w, rel=1e-9), seed
        compared += 1
    assert compared > 20


def lexicographic_best(problem: Problem) -> tuple[float, ...]:
    """(rate loss, shortfall, power) of the best operating point of ONE application, by enumeration."""
    (app,) = problem.apps
    best = (inf, inf, inf)
    for divider in DIVIDERS:
        for level in range(len(app.accuracies)):
            power = brute_force(problem, (Demand(level, divider),))
            if power < inf:
                best = min(best, (divider - 1, app.accuracies[0] - app.accuracies[level], power))
    return best


def test_ladder_is_the_lexicographic_best_for_one_application() -> None:
    degraded = late = 0
    for seed in range(200):
        problem = calm(make_problem(seed))
        problem = replace(problem, apps=problem.apps[:1])
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
    assert degraded > 12 and late > 12


def _rank(problem: Problem, app: int, kind: int) -> float:
    if problem.most_frames and kind == RATE:
        return -problem.apps[app].frame_cost_ms
    return -problem.apps[app].priority


@pytest.mark.parametrize("most_frames", [False, True])
def test_ladder_is_monotone_and_starts_with_the_least_important(most_frames: bool) -> None:
    for seed in range(60):
        problem = replace(make_problem(seed), most_frames=most_frames)
        order = ladder(problem)
        prefixes = [order.asked(n).demands() for n in range(len(order) + 1)]
        flags = [solved(problem, demands) is not None for demands in prefixes]
        assert flags == sorted(flags), seed
        rungs = list(zip(order.apps.tolist(), order.kinds.tolist(), strict=True))
        early = [rung for rung in rungs if rung[1] != DEADLINE]
        ranks = [(kind, _rank(problem, app, kind)) for app, kind in early]
        assert ranks == sorted(ranks)
        for index, app in enumerate(problem.apps):
            kinds = [kind for owner, kind in early if owner == index]
            assert kinds == sorted(kinds)  # accuracy before rate
            assert kinds.count(RATE) == len(DIVIDERS) - 1
            assert kinds.count(ACCURACY) == len(app.accuracies) - 1
        for before, after in zip(prefixes, prefixes[1:], strict=False):
            changed = [(b, a) for b, a in zip(before, after, strict=True) if a != b]
            assert len(changed) == 1
            (lower, higher) = changed[0]
            assert (higher.level, higher.divider, higher.relaxed) > (
                lower.level,
                lower.divider,
                lower.relaxed,
            )


def test_no_single_sacrifice_can_be_taken_back() -> None:
    checked = 0
    for seed in range(300):
        problem = make_problem(seed)
        demands = allocate(problem).demands
        if solved(problem, demands) is None:
            continue
        for n, demand in enumerate(demands):
            more = [replace(demand, level=demand.level - 1)] if demand.level and not demand.relaxed else []
            more += [replace(demand, divider=d) for d in DIVIDERS if d < demand.divider]
            more += [replace(demand, relaxed=False)] if demand.relaxed else []
            for wish in more:
                tried = tuple(wish if k == n else d for k, d in enumerate(demands))
                assert solved(problem, tried) is None, (seed, wish)
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
        order = ladder(problem)
        everything = order.asked(len(order)).demands()
        least = brute_force(problem, everything, power=False, load=False)
        assert outcome.point.power_w == pytest.approx(least)
        assert least > problem.power_limit_w
    assert below > 10


def test_what_fits_is_what_the_ladder_finds_feasible() -> None:
    found = {True: 0, False: 0}
    for seed in range(200):
        problem = make_problem(seed)
        assert fits(problem) == allocate(problem).feasible, seed
        found[fits(problem)] += 1
    assert min(found.values()) > 30, found


def test_an_outcome_instead_is_asked_for_where_frames_are_lost_with_what_is_lost_in_the_end() -> None:
    """Although it is asked for before the accuracies are known."""
    asked = {True: 0, False: 0}
    for seed in range(200):
        problem = make_problem(seed)
        plain = allocate(problem)
        lost: list[tuple[Loss, Trace]] = []

        def note(
            loss: Loss, trace: Trace, mapping: Sequence[str], lost: list[tuple[Loss, Trace]] = lost
        ) -> None:
            lost.append((loss, trace))

        assert allocate(problem, instead=note) == plain, seed
        asks = plain.within_limits and not plain.feasible
        assert lost == [(plain.loss, plain.trace)] * asks, seed
        asked[asks] += 1
        another = allocate(problem, instead=lambda *_: NOTHING)
        assert another == (replace(NOTHING, trace=plain.trace) if asks else plain), seed
    assert min(asked.values()) > 30, asked


def test_throughput_answers_more_frames() -> None:
    def lost_hz(problem: Problem) -> float:
        demands = allocate(problem).demands
        return sum(a.rate_hz * (1.0 - 1.0 / d.divider) for a, d in zip(problem.apps, demands, strict=True))

    quality_hz, throughput_hz = [], []
    for seed in range(150):
        problem = calm(make_problem(seed))
        problem = replace(problem, apps=tuple(replace(a, priority=0) for a in problem.apps))
        if any(d.divider > 1 for d in allocate(problem).demands):
            quality_hz.append(lost_hz(problem))
            throughput_hz.append(lost_hz(replace(problem, most_frames=True)))
    assert len(quality_hz) > 10 and quality_hz != throughput_hz
    assert sum(throughput_hz) < sum(quality_hz)


def test_hopeless_deadline_gets_the_smallest_network_and_the_top_clock() -> None:
    rng = np.random.default_rng(1)
    cpu = make_processor(rng, "cpu", 5)
    app = make_app(rng, "front", (cpu,), 3, 0.5)
    hopeless = replace(app, latency_target_ms=1.0)
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
    present = forecast(capped, capped_plan)
    for rungs in (4, 0):  # 0: the plan is only held by its dwell time
        trace = Trace(rungs)
        named = binding_constraint(capped, capped_plan, present, "quality", "power_cap", trace)
        assert named == "latency"


def test_where_nothing_is_in_time_the_clock_is_the_highest_within_the_power_limit() -> None:
    """A processor with more work than time draws no more than a busy one: its lowest clock is no way out."""
    rng = np.random.default_rng(1)
    cpu = make_processor(rng, "cpu", 5)
    app = replace(make_app(rng, "front", (cpu,), 3, 0.5), latency_target_ms=1.0, keeps_rate=True)
    busy = replace(
        app, rate_hz=3e3 / (app.slowdown["cpu"] * app.tables["cpu"].unit_ms[0, 4])
    )  # more than the top clock can do
    full_w = 1.0 + cpu.base_w + cpu.slope_w
    assert (np.diff(full_w) > 0.0).all()
    for level in range(5):
        capped = Problem((busy,), (cpu,), 1.0, power_limit_w=float(full_w[level]) + 1e-6)
        outcome = allocate(capped)
        assert outcome.within_limits
        assert outcome.point.levels == {"cpu": level}
        assert forecast(capped, make_plan(capped, outcome)).power_w == pytest.approx(full_w[level])
    below = allocate(Problem((busy,), (cpu,), 1.0, power_limit_w=float(full_w[0]) - 1e-3))
    assert not below.within_limits and below.point.levels == {"cpu": 0}


def test_others_are_spared_where_it_costs_no_accuracy() -> None:
    rng = np.random.default_rng(2)
    cpu = make_processor(rng, "cpu", 5)
    app = make_app(rng, "front", (cpu,), 1, 0.0)
    busy = replace(cpu, background=np.array([2.0, 1.2, 0.85, 0.8, 0.7]))
    outcome = allocate(Problem((app,), (busy,), 1.0))
    level = outcome.point.levels["cpu"]
    load = app.rate_hz * 1e-3 * app.slowdown["cpu"] * float(app.menu.unit_ms("cpu")[0, level])
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
    outcome = allocate_any(problem)
    plan = make_plan(problem, outcome)
    assert [c.app for c in plan.choices] == [a.name for a in apps]
    assert forecast(problem, plan).applicable
    again = allocate_any(problem, guess=outcome.trace, mapping=outcome.point.mapping)
    assert again.rungs <= outcome.rungs or again.feasible == outcome.feasible


def test_parts_are_close_to_exact_where_exact_is_possible() -> None:
    """Half of the applications choose at a time: what they get, and the power where that is the same."""
    gaps, less = [], 0
    for seed in range(40):
        problem = crowd(seed, 6)
        exact, parts = allocate(problem), allocate_any(problem, most=3)
        again = allocate_any(problem, mapping=parts.point.mapping, most=3)
        worth, best = (quality(problem, forecast(problem, make_plan(problem, o))) for o in (again, exact))
        less += worth > best
        if exact.demands == parts.demands and not any(d.relaxed for d in exact.demands):
            assert parts.point.power_w >= exact.point.power_w * (1.0 - 1e-9)
            gaps.append(again.point.power_w / exact.point.power_w - 1.0)
    assert less <= 2, less
    assert len(gaps) >= 30, len(gaps)
    assert np.mean(gaps) < 0.005 and max(gaps) < 0.05, (np.mean(gaps), max(gaps))
