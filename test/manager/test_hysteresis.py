"""What is done when a plan fails, and what is not worth a change; on problems made by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from dynofa_ros.manager.hysteresis import (
    HOLD,
    REPAIR,
    REPAIRED_S,
    Hysteresis,
    is_better,
    quick_downgrade,
    repairs,
)
from dynofa_ros.manager.plan import AppForecast, Choice, Forecast, Plan, forecast
from dynofa_ros.manager.problem import App, Option, Problem, Processor, make_menu, make_table
from dynofa_ros.messages import SubnetEntry

ACCURACIES = (0.9, 0.8, 0.7)
TIMES_MS = (60.0, 45.0, 40.0)  # at the top clock, in the order of the accuracies
LOW_HZ, TOP_HZ = 8e8, 1e9
LOW_W, TOP_W = 2.0, 6.0


def processor(*clocks_hz: float) -> Processor:
    hz = np.array(clocks_hz)
    return Processor(
        name="gpu",
        domains=("gpu",),
        clocks_hz=hz[:, None],
        speed_hz=hz,
        reference_hz=TOP_HZ,
        base_w=np.where(hz < TOP_HZ, LOW_W, TOP_W),
        slope_w=np.full(len(hz), 0.5),
        background=np.zeros(len(hz)),
        idle_w=0.0,
        idle_level=0,
        contention=0.0,
    )


def app(name: str, on: Processor, margin: float, *, target_ms: float = 50.0, rate_hz: float = 5.0) -> App:
    entries = [
        SubnetEntry(f"s{n}", "gpu", accuracy, total, 0.0, total)
        for n, (accuracy, total) in enumerate(zip(ACCURACIES, TIMES_MS, strict=True))
    ]
    menu = make_menu(make_table(entries, on), ACCURACIES)
    return App(name, 0, rate_hz, target_ms, 0.0, ACCURACIES, False, {"gpu": Option(menu, 1.0, margin)})


def problem_of(*apps: App, on: Processor, limit_w: float = inf) -> Problem:
    return Problem(apps, (on,), 0.0, limit_w)


def choose(problem: Problem, current: Plan | None, hysteresis: Hysteresis | None = None) -> Plan:
    return (hysteresis or Hysteresis()).choose(
        0,
        problem,
        current,
        at_once=False,
        event=True,
        alarm=False,
        upgrades=True,
        min_dwell_s=0.5,
        release_limit_w=problem.power_limit_w,
    )


def plan_of(problem: Problem, *subnets: int, hz: float = TOP_HZ, step: int = 0) -> Plan:
    choices = []
    for one, number in zip(problem.apps, subnets, strict=True):
        entry = next(e for e in one.options["gpu"].entries if e.id == f"s{number}")
        choices.append(Choice(one.name, entry))
    return Plan(tuple(choices), (("gpu", (hz,)),), step)


# --- a deadline that cannot be held -----------------------------------------------------------------


def test_narrower_margins_come_before_frames_are_left_out() -> None:
    """At the low clock 50 ms and a margin of 1.1 do not fit in 53 ms; the power limit forbids the top one."""
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.1, target_ms=53.0), on=gpu, limit_w=4.0)
    plan = choose(problem, None)
    assert [(c.entry.id, c.divider) for c in plan.choices] == [("s2", 1)]
    assert plan.clocks == (("gpu", (LOW_HZ,)),)


def test_what_cannot_be_held_at_all_is_held_as_nearly_as_possible() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 2.0), on=gpu)
    plan = choose(problem, None)
    assert [(c.entry.id, c.divider) for c in plan.choices] == [("s2", 1)]
    assert plan.clocks == (("gpu", (TOP_HZ,)),) and not plan.feasible


def test_a_late_plan_gives_way_to_one_that_is_clearly_less_late() -> None:
    """Both are late: only the degree of it can tell them apart."""
    gpu = processor(TOP_HZ)
    problem = problem_of(app("a", gpu, 1.6), on=gpu)
    assert choose(problem, plan_of(problem, 0)).choices[0].entry.id == "s2"
    assert choose(problem, plan_of(problem, 2)) == plan_of(problem, 2)


def late_by(share: float, margin: float = 1.2) -> Forecast:
    one = AppForecast(50.0, 1.0, margin, 0.5, 1, share > HOLD, 0.0, share)
    return Forecast(True, (one,), 5.0)


@pytest.mark.parametrize(
    ("new", "present", "wanted"),
    [
        (late_by(1.0), late_by(1.1), True),
        (late_by(1.3), late_by(1.3 + 3 * REPAIR), True),
        (late_by(1.3), late_by(1.3 + 0.5 * REPAIR), False),
        (late_by(1.3), late_by(1.2), False),
        (replace(late_by(1.0), excess_w=0.5), late_by(1.4), False),  # the power limit comes first
    ],
)
def test_a_failing_plan_is_replaced_only_by_one_that_fails_clearly_less(
    new: Forecast, present: Forecast, wanted: bool
) -> None:
    assert repairs(new, present) == wanted


# --- one late application among many ----------------------------------------------------------------


def test_one_that_is_late_gives_up_accuracy_alone() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.05), app("b", gpu, 1.2), on=gpu)
    plan = plan_of(problem, 1, 1, step=1)
    downgraded = quick_downgrade(problem, plan, forecast(problem, plan, None, HOLD))
    assert downgraded is not None
    assert [c.entry.id for c in downgraded.choices] == ["s1", "s2"] and downgraded.clocks == plan.clocks


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"step": 0}, "nobody gives up accuracy: a higher clock or another processor may help"),
        ({"step": 1, "hz": LOW_HZ}, "the clock can go up"),
    ],
)
def test_where_something_else_may_help_all_is_planned_anew(plan: dict[str, float], why: str) -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.2), on=gpu)
    current = plan_of(problem, 1, **plan)  # type: ignore[arg-type]
    assert quick_downgrade(problem, current, forecast(problem, current, None, HOLD)) is None, why


def test_one_that_nothing_smaller_can_save_is_planned_anew() -> None:
    gpu = processor(TOP_HZ)
    problem = problem_of(app("a", gpu, 1.3), on=gpu)
    current = plan_of(problem, 1, step=1)
    assert quick_downgrade(problem, current, forecast(problem, current, None, HOLD)) is None


# --- what is worth a change -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "power_w", "wanted"),
    [(0.001, 5.0, False), (0.001, 4.0, True), (0.01, 9.0, True), (-0.01, 2.0, False)],
)
def test_small_gains_are_not_worth_a_change(gain: float, power_w: float, wanted: bool) -> None:
    gpu = processor(TOP_HZ)
    problem = problem_of(app("a", gpu, 1.0), on=gpu)
    present = AppForecast(40.0, 1.0, 1.0, 0.5, 1, False, 0.05, 0.8)
    new = replace(present, shortfall=0.05 - gain)
    assert is_better(problem, Forecast(True, (new,), power_w), Forecast(True, (present,), 5.0)) == wanted


def test_a_better_plan_waits_for_the_dwell_time() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.0, target_ms=200.0), on=gpu)
    hysteresis, current = Hysteresis(changed_ns=0), plan_of(problem, 0)
    taken = []
    for number in range(6):
        current = hysteresis.choose(
            number * 200_000_000,
            problem,
            current,
            at_once=False,
            event=True,
            alarm=False,
            upgrades=True,
            min_dwell_s=0.5,
            release_limit_w=inf,
        )
        taken.append(current.clocks[0][1][0])
    assert taken == [TOP_HZ] * 3 + [LOW_HZ] * 3


def test_power_is_not_saved_soon_after_a_plan_has_failed() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    late = problem_of(app("a", gpu, 1.5, target_ms=80.0), on=gpu)
    calm = problem_of(app("a", gpu, 1.0, target_ms=80.0), on=gpu)
    hysteresis, current = Hysteresis(changed_ns=0), plan_of(late, 0, hz=LOW_HZ)
    clocks = []
    for number in range(16):
        current = hysteresis.choose(
            number * 200_000_000,
            calm if number else late,
            current,
            at_once=False,
            event=True,
            alarm=False,
            upgrades=True,
            min_dwell_s=0.5,
            release_limit_w=inf,
        )
        current = replace(current, ladder_step=0)
        clocks.append(current.clocks[0][1][0])
    waits = round(REPAIRED_S / 0.2)
    assert clocks[:waits] == [TOP_HZ] * waits and clocks[-1] == LOW_HZ


def test_nothing_known_is_no_better_plan() -> None:
    gpu = processor(TOP_HZ)
    problem = problem_of(app("a", gpu, 1.0), on=gpu)
    assert not is_better(problem, Forecast(False, power_w=nan), late_by(0.9))
