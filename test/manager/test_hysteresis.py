"""What is done when a plan fails, and what is not worth a change; on problems made by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dynofa_ros.manager.hysteresis import (
    HOLD,
    PATIENT,
    REPAIR,
    REPAIRED_S,
    Hysteresis,
    concede,
    is_better,
    patient_share,
    repairs,
)
from dynofa_ros.manager.plan import AppForecast, Choice, Forecast, Plan, forecast
from dynofa_ros.manager.problem import App, Problem, Processor, make_menu, make_table
from dynofa_ros.manager.reversal_budget import CAPACITY, PER_S, WINDOW_S, ReversalBudget
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
    menu = make_menu({"gpu": make_table(entries, on)}, max(ACCURACIES), min(ACCURACIES))
    return App(name, 0, rate_hz, target_ms, 0.0, menu, {"gpu": 1.0}, {"gpu": margin})


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
        entry = next(e for e in one.tables["gpu"].entries if e.id == f"s{number}")
        choices.append(Choice(one.name, entry))
    return Plan(tuple(choices), (("gpu", (hz,)),), step)


# --- a deadline that cannot be held -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_hz", "divider"), [(21.0, 1.0), (24.0, 1.0), (26.0, 16 / 15), (30.0, 1.25), (46.0, 2.0)]
)
def test_a_frame_must_be_answered_before_the_next_one_comes(rate_hz: float, divider: float) -> None:
    """The deadline of 200 ms is far away; 40 ms at the top clock fill 84 to 184 % of the period, and 50 ms at
    the clock in force more than all of it. No more frames are left out than must be."""
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.1, target_ms=200.0, rate_hz=rate_hz), on=gpu)
    current = plan_of(problem, 2, hz=LOW_HZ)
    present = forecast(problem, current)
    assert not present.apps[0].late and present.overload > 0.0 and present.backlog > 0.0
    plan = choose(problem, current)
    assert [c.divider for c in plan.choices] == [divider] and forecast(problem, plan).backlog == 0.0
    assert divider > 1.0 or plan.clocks == (("gpu", (TOP_HZ,)),)


def test_preparing_an_image_counts_where_frames_come_quickly() -> None:
    """Inference alone fills 96 % of the period, with 3 ms around it 103 %."""
    gpu = processor(LOW_HZ, TOP_HZ)
    one = replace(app("a", gpu, 1.1, target_ms=200.0, rate_hz=24.0), overhead_ms=3.0)
    assert [c.divider for c in choose(problem_of(one, on=gpu), None).choices] == [16 / 15]


def test_narrower_margins_come_before_frames_are_left_out() -> None:
    """At the low clock 50 ms and a margin of 1.1 do not fit in 53 ms; the power limit forbids the top one."""
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.1, target_ms=53.0), on=gpu, limit_w=4.0)
    plan = choose(problem, None)
    assert [(c.entry.id, c.divider) for c in plan.choices] == [("s2", 1)]
    assert plan.clocks == (("gpu", (LOW_HZ,)),)


def test_narrower_margins_come_before_frames_are_left_out_where_nobody_may_move() -> None:
    """The same, with less asked of the plan in force."""
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.3, target_ms=55.0), on=gpu, limit_w=4.0)
    less, _ = concede(problem, plan_of(problem, 2, hz=LOW_HZ))
    assert [(c.entry.id, c.divider) for c in less.choices] == [("s2", 1.0)]


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


# --- less is asked of the plan in force -------------------------------------------------------------


def test_the_clock_rises_before_accuracy_is_given_up() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.05, target_ms=48.0), on=gpu)
    less, _ = concede(problem, plan_of(problem, 1, hz=LOW_HZ))
    assert [c.entry.id for c in less.choices] == ["s1"] and less.clocks == (("gpu", (TOP_HZ,)),)


def test_one_that_is_late_gives_up_accuracy_alone_and_nobody_gets_more() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.05), app("b", gpu, 1.2), on=gpu)
    less, _ = concede(problem, plan_of(problem, 2, 1, step=1))
    assert [c.entry.id for c in less.choices] == ["s2", "s2"] and less.clocks == (("gpu", (TOP_HZ,)),)
    assert less.ladder_step == 4


def test_a_clock_falls_only_for_a_power_limit() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    calm = problem_of(app("a", gpu, 1.0, target_ms=200.0), on=gpu)
    assert concede(calm, plan_of(calm, 0))[0].clocks == (("gpu", (TOP_HZ,)),)
    capped = replace(calm, power_limit_w=4.0)
    assert concede(capped, plan_of(capped, 0))[0].clocks == (("gpu", (LOW_HZ,)),)


# --- bounded switching ------------------------------------------------------------------------------


def test_a_change_that_holds_costs_nothing_and_one_that_does_not_a_token() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.0), on=gpu)
    small, large = plan_of(problem, 2), plan_of(problem, 0)
    budget = ReversalBudget()
    budget.change(small, large, forced=False)
    assert budget.tokens == CAPACITY - 1.0 and budget.reverses(large, small)
    budget.elapse(round(1e9 * (WINDOW_S + 0.1)))
    assert budget.tokens == CAPACITY and not budget.reverses(large, small)
    budget.change(small, large, forced=False)
    budget.change(large, small, forced=False)
    budget.elapse(round(2e9 * (WINDOW_S + 0.1)))
    assert budget.tokens == pytest.approx(CAPACITY - 1.0 + PER_S * (WINDOW_S + 0.1))


def test_a_smaller_network_that_is_not_the_last_one_is_no_reversal() -> None:
    gpu = processor(LOW_HZ, TOP_HZ)
    problem = problem_of(app("a", gpu, 1.0), on=gpu)
    middle, large, small = plan_of(problem, 1), plan_of(problem, 0), plan_of(problem, 2)
    budget = ReversalBudget()
    budget.change(middle, large, forced=False)
    assert not budget.reverses(large, small)
    budget.change(large, small, forced=False)
    assert budget.tokens == CAPACITY


@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000), st.floats(0.2, 0.6))
def test_reversals_are_bounded_whatever_the_estimates_do(seed: int, noise: float) -> None:
    """Five applications on two processors, with margins and loads drawn anew in every step."""
    rng = np.random.default_rng(seed)
    chips = tuple(replace(processor(LOW_HZ, TOP_HZ), name=name, domains=(name,)) for name in ("gpu", "npu"))
    changes: dict[str, list[tuple[int, object]]] = {}
    hysteresis, plan, seconds, step_ns = Hysteresis(), None, 60, 200_000_000
    for number in range(seconds * 5):
        apps = []
        for n in range(5):
            one = app(f"a{n}", chips[0], 1.0, target_ms=70.0, rate_hz=6.0)
            tables, slowdown = {}, {}
            for chip in chips:
                entries = [replace(e, processor=chip.name) for e in one.tables["gpu"].entries]
                tables[chip.name] = make_table(entries, chip)
                slowdown[chip.name] = float(np.exp(rng.normal(0.0, noise)))
            menu, margin = make_menu(tables, max(ACCURACIES), min(ACCURACIES)), dict.fromkeys(tables, 1.05)
            apps.append(replace(one, priority=n % 2, menu=menu, slowdown=slowdown, margin=margin))
        problem = Problem(tuple(apps), chips, 0.0)
        plan = hysteresis.choose(
            number * step_ns,
            problem,
            plan,
            at_once=False,
            event=True,
            alarm=False,
            upgrades=True,
            min_dwell_s=0.5,
            release_limit_w=inf,
        )
        values: dict[str, object] = {f"clock {name}": hz for name, hz in plan.clocks}
        values |= {f"subnet {c.app}": c.entry.id for c in plan.choices}
        values |= {f"place {c.app}": c.entry.processor for c in plan.choices}
        for knob, value in values.items():
            track = changes.setdefault(knob, [])
            if not track or track[-1][1] != value:
                track.append((number * step_ns, value))
    reversals = sum(
        first[1] == third[1] and third[0] - second[0] <= 2_000_000_000
        for track in changes.values()
        for first, second, third in zip(track, track[1:], track[2:], strict=False)
    )
    assert sum(map(len, changes.values())) > 20  # it does change its plans
    assert reversals <= CAPACITY + PER_S * seconds + 7  # the last plan may cost a token for each knob


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


def test_where_frames_hardly_vary_a_better_plan_needs_no_headroom() -> None:
    gpu = processor(TOP_HZ)

    def share(*margins: float) -> float:
        problem = problem_of(*(app(f"a{n}", gpu, margin) for n, margin in enumerate(margins)), on=gpu)
        return patient_share(problem, plan_of(problem, *(0 for _ in margins)))

    assert share(1.2) == share(1.5) == PATIENT
    assert 0.999 < share(1.002) < 1.0 and PATIENT < share(1.05) < share(1.02)
    assert share(1.002, 1.2) == PATIENT  # whoever varies most
