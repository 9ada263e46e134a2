"""What the alternatives of a plan would cost, against a forecast of the plan that takes them."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan

import numpy as np
import pytest
from manager_problems import calm, make_problem
from simulated_robot import Plant, PlantApp, make_library

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.alternatives import BETTER, CHEAPER, ELSEWHERE, alternatives
from dynofa_ros.manager.hysteresis import HEADROOM
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.many import allocate_any
from dynofa_ros.manager.plan import Plan, forecast, make_plan
from dynofa_ros.manager.problem import Problem
from dynofa_ros.messages import Alternative, AppTargets


def brute_cost(problem: Problem, plan: Plan, other: Alternative) -> tuple[float, bool]:
    """Least power of the plan with the alternative over all clocks of the two processors; deadlines hold."""
    present = forecast(problem, plan, headroom=HEADROOM)
    number = [c.app for c in plan.choices].index(other.app)
    home = plan.choices[number].entry.processor
    entry = next(e for e in problem.apps[number].tables[other.processor].entries if e.id == other.subnet_id)
    choices = list(plan.choices)
    choices[number] = replace(choices[number], entry=entry)
    used = {c.entry.processor for c in choices}
    best = inf
    rows = [plan.clocks]
    for name in {home, other.processor}:
        left = [tuple(c for c in clocks if c[0] != name) for clocks in rows]
        levels = problem.processor(name).clocks_hz if name in used else [None]
        rows = [
            (*clocks, *(() if hz is None else ((name, tuple(float(f) for f in hz)),)))
            for clocks in left
            for hz in levels
        ]
    for clocks in rows:
        found = forecast(problem, Plan(tuple(choices), clocks), power_limit_w=inf, headroom=HEADROOM)
        late = any(
            new.late and (n == number or not old.late)
            for n, (new, old) in enumerate(zip(found.apps, present.apps, strict=True))
        )
        loads = {
            name: sum(a.load for a, c in zip(found.apps, choices, strict=True) if c.entry.processor == name)
            for name in used
        }
        if not late and all(load <= 0.92 for load in loads.values()):
            best = min(best, found.power_w)
    return best, best < inf


def test_costs_are_those_of_the_plan_that_takes_the_alternative() -> None:
    seen = {"none": 0, "latency": 0, "utilization": 0, "power_cap": 0}
    kinds = set()
    for seed in range(150):
        problem = calm(make_problem(seed))
        plan = make_plan(problem, allocate_any(problem, HEADROOM))
        present = forecast(problem, plan, headroom=HEADROOM)
        for other in alternatives(problem, plan, present, "power_cap"):
            least_w, possible = brute_cost(problem, plan, other)
            assert isnan(other.power_change_w) == (not possible), (seed, other)
            if possible:
                assert present.power_w + other.power_change_w == pytest.approx(least_w, rel=1e-9), (
                    seed,
                    other,
                )
                assert other.feasible == (least_w <= problem.power_limit_w), (seed, other)
            seen[other.binding_constraint] += 1
            kinds.add(other.kind)
    assert min(seen.values()) > 3, seen
    assert kinds == {BETTER, CHEAPER, ELSEWHERE}


def test_neighbours_and_other_processors_are_named_in_the_order_of_the_applications() -> None:
    problem = calm(make_problem(7))
    plan = make_plan(problem, allocate_any(problem))
    others = alternatives(problem, plan, forecast(problem, plan), "power_cap")
    names = [app.name for app in problem.apps]
    assert [names.index(o.app) for o in others] == sorted(names.index(o.app) for o in others)
    for other in others:
        choice = next(c for c in plan.choices if c.app == other.app)
        assert choice is not None and (other.processor == choice.entry.processor) == (other.kind != ELSEWHERE)
        if other.kind == BETTER:
            assert other.accuracy > choice.entry.accuracy
        elif other.kind == CHEAPER:
            assert other.accuracy < choice.entry.accuracy
        else:
            assert other.accuracy >= choice.entry.accuracy


def test_a_gone_plan_has_none() -> None:
    problem = make_problem(3)
    plan = make_plan(problem, allocate_any(problem))
    gone = replace(problem, processors=())
    assert alternatives(gone, plan, forecast(gone, plan), "power_cap") == ()
    assert alternatives(problem, None, forecast(problem, plan), "power_cap") == ()
    empty, nothing = replace(problem, apps=()), Plan((), ())
    assert alternatives(empty, nothing, forecast(empty, nothing), "power_cap") == ()


def test_decisions_carry_them_when_the_plan_changes_and_once_a_second() -> None:
    targets = AppTargets("front", 60.0)
    app = PlantApp(targets, make_library("front"), camera_hz=targets.rate_hz)
    plant = Plant(RuntimeManager(), [app], parameters=Parameters(power_cap_w=6.0))
    plant.run(8.0)
    quiet = plant.decisions[-10:]
    assert 1 <= sum(bool(d.alternatives) for d in quiet) <= 3
    first = next(d for d in plant.decisions if d.apps)
    assert {o.kind for o in first.alternatives} <= {BETTER, CHEAPER, ELSEWHERE} and first.alternatives
    last = [d for d in quiet if d.alternatives][-1]
    better = next(o for o in last.alternatives if o.kind == BETTER)
    assert better.accuracy > last.apps[0].predicted_accuracy
    assert better.binding_constraint in ("power_cap", "latency") or better.power_change_w > -0.2
    assert np.isfinite([o.power_change_w for o in last.alternatives if o.feasible]).all()
