"""What each objective aims for, in a closed loop and in the account of the battery."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from manager_bench import settled
from simulated_robot import SECOND, Plant, PlantApp, make_library, miss_share

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.budgets import GAP_MAX_S, LAST_SECONDS_S, Battery
from dynofa_ros.manager.inputs import OBJECTIVES, Parameters
from dynofa_ros.messages import AppTargets

BATTERY = Parameters(objective="battery", battery_energy_j=600.0, battery_time_s=100.0)


def test_every_objective_holds_the_deadline_and_names_itself() -> None:
    for objective in OBJECTIVES:
        parameters = replace(BATTERY, objective=objective, battery_energy_j=1e5)
        decision, plant = settled(AppTargets("front", 60.0, accuracy_floor=0.75), parameters=parameters)
        assert decision.objective == objective
        assert decision.feasible and decision.apps[0].predicted_accuracy >= 0.75
        assert miss_share(plant.frames, plant.now_ns - 3 * SECOND, plant.now_ns) < 0.05


def test_accuracy_under_power_wants_the_best_whatever_the_target() -> None:
    targets = AppTargets("front", 60.0, accuracy_target=0.75)
    quality, _ = settled(targets, parameters=Parameters())
    best, _ = settled(targets, parameters=Parameters(objective="accuracy_under_power"))
    assert quality.apps[0].predicted_accuracy < 0.77 < best.apps[0].predicted_accuracy
    capped, plant = settled(targets, parameters=Parameters(objective="accuracy_under_power", power_cap_w=6.0))
    assert quality.apps[0].predicted_accuracy < capped.apps[0].predicted_accuracy
    assert capped.predicted_power_w <= 6.0 and capped.binding_constraint == "power_cap"
    assert np.mean([w > 6.0 for t, w in plant.power if t > plant.now_ns - 4 * SECOND]) < 0.05


@pytest.mark.parametrize("objective", ["quality", "throughput"])
def test_accuracy_is_given_up_before_frames_across_priorities(objective: str) -> None:
    """The first application is more important; only giving up its accuracy saves the frames of the other."""
    targets = (
        AppTargets("front", 60.0, rate_hz=22.0, priority=0),
        AppTargets("rear", 60.0, rate_hz=22.0, priority=1),
    )
    alone, _ = settled(targets[0], parameters=Parameters(objective=objective), seconds=8.0)
    frames, _ = settled(*targets, parameters=Parameters(objective=objective), seconds=8.0)
    assert sum(a.rate_hz for a in frames.apps) == 44.0 and frames.feasible
    assert frames.apps[0].predicted_accuracy < alone.apps[0].predicted_accuracy


def test_latency_is_as_low_as_it_can_be_at_the_floor() -> None:
    targets = AppTargets("front", 60.0, accuracy_floor=0.75)
    low, _ = settled(targets, parameters=Parameters(objective="latency"))
    energy, _ = settled(targets, parameters=Parameters(objective="energy"))
    assert low.apps[0].predicted_latency_ms < 0.8 * energy.apps[0].predicted_latency_ms
    assert low.apps[0].subnet_id == energy.apps[0].subnet_id
    assert low.bands[0].max_hz > 1_850_000_000  # to one percent of the target
    capped, _ = settled(targets, parameters=Parameters(objective="latency", power_cap_w=6.0))
    assert low.apps[0].predicted_latency_ms < capped.apps[0].predicted_latency_ms
    assert capped.predicted_power_w <= 6.0


def test_a_battery_lasts_and_is_used() -> None:
    parameters = replace(BATTERY, battery_energy_j=6.0 * 40.0, battery_time_s=40.0)
    _, plant = settled(AppTargets("front", 60.0), parameters=parameters, seconds=40.0)
    used_j = sum(watts for _, watts in plant.power) * 0.1
    assert 0.9 * 240.0 < used_j < 1.01 * 240.0
    assert miss_share(plant.frames, plant.now_ns - 30 * SECOND, plant.now_ns) < 0.03
    accuracies = {round(d.apps[0].predicted_accuracy, 2) for d in plant.decisions[50:] if d.apps}
    assert max(accuracies) < 0.80
    free, _ = settled(AppTargets("front", 60.0), parameters=Parameters())
    assert free.apps[0].subnet_id == "s9"


def test_a_smaller_budget_acts_in_the_same_step_and_no_budget_gives_everything_back() -> None:
    app = PlantApp(AppTargets("front", 60.0), make_library("front"))
    plant = Plant(RuntimeManager(), [app], parameters=replace(BATTERY, battery_energy_j=900.0))
    plant.run(6.0)
    before = plant.decisions[-1]
    plant.set_parameters(replace(BATTERY, battery_energy_j=550.0))
    after = plant.decisions[-1]
    assert after.trigger == "parameter"
    assert after.predicted_power_w <= 5.5 < before.predicted_power_w
    plant.set_parameters(Parameters())
    assert plant.decisions[-1].predicted_power_w > after.predicted_power_w


def test_an_empty_battery_takes_the_least_and_says_why() -> None:
    decision, _ = settled(AppTargets("front", 60.0), parameters=replace(BATTERY, battery_energy_j=0.0))
    assert not decision.feasible and decision.binding_constraint == "power_cap"
    assert decision.apps[0].subnet_id == "s0"


# --- the account ---------------------------------------------------------------------------------


def account() -> Battery:
    battery = Battery()
    battery.start(BATTERY)
    return battery


def test_the_cap_is_what_is_left_per_second() -> None:
    battery = account()
    assert battery.cap_w == 6.0
    for _ in range(100):  # ten seconds at 8 W
        battery.elapse(0.1)
        battery.start(BATTERY)
        battery.use(8.0, 0.1)
    assert battery.left_j == pytest.approx(520.0) and battery.left_s == pytest.approx(90.0)
    assert battery.cap_w == pytest.approx(520.0 / 90.0, rel=0.02)


def test_a_new_budget_begins_a_new_account_and_other_parameters_do_not() -> None:
    battery = account()
    battery.elapse(10.0)
    battery.use(10.0, 1.0)
    battery.start(replace(BATTERY, power_cap_w=5.0))
    assert battery.left_j == 590.0
    battery.start(replace(BATTERY, battery_time_s=50.0))
    assert (battery.left_j, battery.left_s, battery.cap_w) == (600.0, 50.0, 12.0)
    battery.start(Parameters())
    assert battery.cap_w == inf
    battery.start(BATTERY)
    assert battery.left_j == 600.0


def test_the_end_of_the_time_is_the_end_of_the_cap() -> None:
    battery = account()
    battery.elapse(98.0)
    assert battery.cap_w == pytest.approx(600.0 / LAST_SECONDS_S)
    battery.elapse(2.0)
    assert battery.cap_w == inf
    battery.use(nan, 1.0)
    assert battery.left_j == 600.0


@pytest.mark.parametrize("power_w", [nan, inf, -3.0])
def test_what_is_no_power_counts_as_the_cap(power_w: float) -> None:
    battery = account()
    battery.use(power_w, 1.0)
    assert battery.left_j == 594.0
    battery.use(6.0, 1000.0)  # telemetry was away
    assert battery.left_j == 594.0 - 6.0 * GAP_MAX_S
    battery.use(6.0, -5.0)
    assert battery.left_j == 594.0 - 6.0 * GAP_MAX_S


def test_an_overdrawn_account_leaves_nothing() -> None:
    battery = account()
    battery.use(500.0, 2.0)
    battery.elapse(1.0)
    assert battery.left_j < 0.0 and battery.cap_w == 0.0
