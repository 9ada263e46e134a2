"""What keeps a better operating point away (ManagerDecision.binding_constraint)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynofa_ros.manager.grid import asked, make_grid
from dynofa_ros.manager.hysteresis import patient_share
from dynofa_ros.manager.ladder import Trace
from dynofa_ros.manager.many import pins_of
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Forecast, Plan, forecast
from dynofa_ros.manager.problem import DIVIDERS, Demand, Problem
from dynofa_ros.manager.solver import solve


def binding_constraint(
    problem: Problem, plan: Plan | None, present: Forecast, objective: str, limit_name: str, trace: Trace
) -> str:
    """Name of the constraint that binds; ``limit_name`` says what the power limit stands for.

    ``present``: what is expected of the plan. ``trace``: how the search for the best plan ended.
    """
    if plan is None or not problem.apps or not plan.choices:
        return "no_data"
    if any(app.menu.below_floor for app in problem.apps):
        return "accuracy_floor"
    if plan.ladder_step > 0 or not plan.feasible:
        return _degraded(problem, plan, present, limit_name, trace)
    return _undegraded(problem, plan, objective)


def _degraded(problem: Problem, plan: Plan, present: Forecast, limit_name: str, trace: Trace) -> str:
    """Which constraint keeps back what the most important application lacks."""
    if trace.power:
        return limit_name
    demands = _one_step_up(problem, plan, present)
    if demands is None or trace.rungs == 0:
        return _broken(present, limit_name)
    pins = pins_of(problem, [place_of(choice.entry) for choice in plan.choices])
    wanted, grid = asked(demands), make_grid(problem, patient_share(problem, plan), pins).top
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if solve(grid, wanted, power=False) is not None:
            return _broken(present, limit_name)
        unhurried = solve(grid, wanted, load=False, power=False) is not None
    return "utilization" if unhurried else "latency"


def _broken(present: Forecast, limit_name: str) -> str:
    """What a plan breaks that only its dwell time keeps in force; "none" if nothing."""
    if present.excess_w:
        return limit_name
    if any(app.late for app in present.apps):
        return "latency"
    return "utilization" if present.overload else "none"


def _one_step_up(problem: Problem, plan: Plan, present: Forecast) -> list[Demand] | None:
    """What the plan gives, with one thing more for the most important application that lacks something."""
    if not present.applicable:
        return None
    demands = []
    for app, choice, price in zip(problem.apps, plan.choices, present.apps, strict=True):
        demands.append(Demand(app.menu.level_of(choice.entry.accuracy), choice.divider, price.late))
    for index in sorted(range(len(demands)), key=lambda i: (problem.apps[i].priority, i)):
        demand = demands[index]
        if demand.relaxed:
            demands[index] = replace(demand, relaxed=False)
        elif demand.divider > 1:
            demands[index] = replace(demand, divider=max(d for d in DIVIDERS if d < demand.divider))
        elif demand.level > 0:
            demands[index] = replace(demand, level=demand.level - 1)
        else:
            continue
        return demands
    return None


def _undegraded(problem: Problem, plan: Plan, objective: str) -> str:
    """All targets are met: what keeps the clocks, then the sub-networks, from being smaller."""
    for name, clocks in plan.clocks:
        processor = problem.processor(name)
        level = processor.level_of(clocks)
        if not level:
            continue
        below_hz = tuple(float(hz) for hz in processor.clocks_hz[level - 1])
        lower = tuple((n, below_hz if n == name else c) for n, c in plan.clocks)
        below = forecast(problem, replace(plan, clocks=lower), headroom=patient_share(problem, plan))
        if any(app.late for app in below.apps):
            return "latency"
        if below.overload or below.starving:
            return "utilization"
    smaller = any(
        entry.accuracy < choice.entry.accuracy
        for app, choice in zip(problem.apps, plan.choices, strict=True)
        for table in app.tables.values()
        for entry in table.entries
    )
    if not smaller:
        return "none"
    return "accuracy_floor" if objective == "energy" else "accuracy_target"
