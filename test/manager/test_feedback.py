"""Limits on a computer without a power model: held by feedback on what is measured, or refused aloud."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, nan
from typing import NamedTuple

import numpy as np
import pytest
from manager_bench import one_app
from simulated_robot import CPU, MODEL, SECOND, Plant, miss_share

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.feedback import EMERGENCY_C, PowerFeedback, TemperatureFeedback
from dynofa_ros.manager.inputs import Input, Monitors, Parameters
from dynofa_ros.manager.limits import FIRST_READING_S, LOST_S, thermometer_remark
from dynofa_ros.messages import (
    DeviceCapabilities,
    DeviceTelemetry,
    PowerModel,
    TemperatureReading,
)


@dataclass
class UnknownBoard:
    """Messages of a board that nobody has described, with few clock levels and sensors of its own."""

    levels: int = 4
    power: bool = True
    temperature: Callable[[float], float] | None = None  # of the power, sample by sample

    def __call__(self, item: Input) -> Input:
        message = item.message
        if isinstance(message, DeviceCapabilities):
            domains = tuple(replace(d, frequencies_hz=self._few(d.frequencies_hz)) for d in message.domains)
            message = replace(message, board="Some Computer", domains=domains)
        elif isinstance(message, DeviceTelemetry):
            hottest = (
                (TemperatureReading("soc", self.temperature(message.total_power_w)),)
                if self.temperature
                else ()
            )
            power_w = message.total_power_w if self.power else nan
            message = replace(message, total_power_w=power_w, temperatures=hottest)
        return replace(item, message=message)

    def _few(self, table: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(table[round(n)] for n in np.linspace(0, len(table) - 1, self.levels))


class Reading(NamedTuple):
    """Of a thermometer."""

    temperature_c: float
    rise_c_per_s: float


@dataclass
class HeatSink:
    """A thermometer: one RC with a time constant of 20 s."""

    resistance_c_per_w: float
    ambient_c: float = 45.0
    celsius: float = 60.0

    def __call__(self, power_w: float) -> float:
        steady_c = self.ambient_c + self.resistance_c_per_w * power_w
        self.celsius += 0.1 / 20.0 * (steady_c - self.celsius)
        return self.celsius


def make_plant(
    board: Callable[[Input], Input],
    parameters: Parameters | None = None,
    *,
    seed: int = 0,
    model: PowerModel | None = None,
) -> Plant:
    return one_app(parameters=parameters or Parameters(), tamper=board, seed=seed, model=model)[0]


def share_above(plant: Plant, cap_w: float, since_ns: int) -> float:
    return float(np.mean([watts > cap_w for when, watts in plant.power if when >= since_ns]))


# --- power ---------------------------------------------------------------------------------------


# At 6 W the peaks of s3 at 1.3 GHz are above the cap, its mean of 5.3 W is not.
@pytest.mark.parametrize(("cap_w", "least"), [(6.0, "s1"), (7.0, "s3"), (8.0, "s3")])
def test_a_cap_is_held_without_a_limit_cycle(cap_w: float, least: str) -> None:
    plant = make_plant(UnknownBoard(levels=4), seed=int(cap_w))
    plant.run(5.0)
    assert np.mean([watts for _, watts in plant.power][-20:]) > 9.0
    plant.set_parameters(Parameters(power_cap_w=cap_w))
    plant.run(5.0)
    start = plant.now_ns
    plant.run(60.0)
    assert share_above(plant, cap_w, start) <= 0.02
    settled = [d for d in plant.decisions if d.step_time > start]
    assert settled[-1].apps[0].subnet_id >= least
    assert sum(a.bands != b.bands for a, b in zip(settled, settled[1:], strict=False)) <= 4
    assert {d.binding_constraint for d in settled} == {"power_cap"}
    assert all(d.feasible for d in settled)
    assert miss_share(plant.frames, start, plant.now_ns) < 0.03


# Known defect: frames that are left out lower the mean power of a clock, and are believed to lower its peaks.
PEAKS = pytest.mark.xfail(strict=True, reason="a clock with peaks above the cap returns with fewer frames")


@pytest.mark.parametrize("cap_w", [pytest.param(4.5, marks=PEAKS), 5.0, 6.0, 7.0, 8.0])
def test_two_clocks_with_the_cap_between_them_are_no_limit_cycle_under_a_wrong_model(cap_w: float) -> None:
    """The model knows half of the dynamic power: what it says fits is measured above the cap."""
    domains = [replace(d, dynamic_w_per_ghz_v2=0.5 * d.dynamic_w_per_ghz_v2) for d in MODEL.domains]
    model = replace(MODEL, domains=tuple(domains))
    plant = make_plant(UnknownBoard(levels=2), Parameters(power_cap_w=cap_w), seed=1, model=model)
    plant.run(20.0)
    start = plant.now_ns
    plant.run(40.0)
    settled = [d for d in plant.decisions if d.step_time > start]
    assert sum(a.bands != b.bands for a, b in zip(settled, settled[1:], strict=False)) <= 6
    assert settled[-1].binding_constraint == "power_cap"
    assert share_above(plant, cap_w, start) <= 0.03


def test_a_budget_that_no_larger_plan_fits_grows_until_one_does() -> None:
    """The lowest plan takes 3.4 W at 0.02 of relative power, the next needs 0.5; the cap rises to 9 W."""
    feedback = PowerFeedback()
    feedback.apply(1.0, changed=True, feasible=True)
    for _ in range(100):
        feedback.observe(8.0, 0.1, 2.0, 2.0)
    feedback.apply(0.02, changed=True, feasible=False)
    for _ in range(100):
        feedback.observe(3.4, 0.1, 2.0, 2.0)
        feedback.apply(0.02, changed=False, feasible=False)
    for _ in range(300):
        feedback.observe(3.4, 0.1, 9.0, 8.7)
        feedback.apply(0.02, changed=False, feasible=False)
    assert feedback.budget >= 0.5


def test_a_cap_that_rises_before_the_plan_in_force_is_measured_is_followed() -> None:
    feedback = PowerFeedback()
    feedback.apply(1.0, changed=True, feasible=True)
    for _ in range(100):
        feedback.observe(8.0, 0.1, 2.0, 2.0)
    feedback.apply(0.02, changed=True, feasible=False)
    for _ in range(20):
        feedback.observe(3.4, 0.1, 9.0, 8.7)
    assert feedback.budget == inf


def test_a_plan_whose_peaks_were_above_the_cap_is_not_tried_again_for_its_mean() -> None:
    """It takes 5.3 W with peaks of 6.2 W; the calmer one in force would leave 5.5 W of the 6 W for a mean."""
    feedback = PowerFeedback()
    for plan, watts, target_w in ((12.3, (9.9, 9.9), 4.4), (4.5, (6.3, 6.3), 4.4), (3.36, (4.4, 6.2), 4.7)):
        feedback.apply(plan, changed=True, feasible=True)
        assert any(feedback.observe(watts[n % 2], 0.1, 6.0, target_w) for n in range(100))
    feedback.apply(0.65, changed=True, feasible=True)
    for _ in range(100):
        feedback.observe(4.4, 0.1, 6.0, 5.5)
    assert 0.65 < feedback.budget < 3.36


@pytest.mark.parametrize("least_w", [2.0, 4.0])
@pytest.mark.parametrize("levels", [4, 12])
def test_what_a_low_cap_took_comes_back_with_a_higher_one(least_w: float, levels: int) -> None:
    plant = make_plant(UnknownBoard(levels=levels))
    plant.run(5.0)
    plant.set_parameters(Parameters(power_cap_w=least_w))
    plant.run(20.0)
    assert not plant.decisions[-1].feasible
    plant.set_parameters(Parameters(power_cap_w=9.0))
    plant.run(30.0)
    assert plant.decisions[-1].feasible
    assert np.mean([watts for _, watts in plant.power][-50:]) > 5.0
    assert share_above(plant, 9.0, plant.now_ns - 25 * SECOND) <= 0.05  # now and then more is tried


def test_a_cap_is_left_again_when_it_is_lifted_and_when_load_goes() -> None:
    plant = make_plant(UnknownBoard(levels=8))
    plant.background = 0.7
    plant.run(5.0)
    plant.set_parameters(Parameters(power_cap_w=8.0))
    plant.run(20.0)
    burdened = plant.decisions[-1].apps[0].predicted_accuracy
    plant.background = 0.0
    plant.run(40.0)
    relieved = plant.decisions[-1].apps[0].predicted_accuracy
    assert relieved > burdened
    plant.set_parameters(Parameters())
    plant.run(5.0)
    assert plant.decisions[-1].apps[0].subnet_id == "s9"


def test_a_cap_below_everything_is_infeasible() -> None:
    plant = make_plant(UnknownBoard(), Parameters(power_cap_w=2.0))
    plant.run(15.0)
    decision = plant.decisions[-1]
    assert not decision.feasible and decision.binding_constraint == "power_cap"
    lowest = {d.domain: d.frequencies_hz[0] for d in plant.manager.state.capabilities.domains}  # type: ignore[union-attr]
    assert all(plant.hz[name] == lowest[name] for name in CPU)
    assert decision.apps[0].subnet_id == "s0"
    fault = plant.manager.limit_fault
    assert fault is not None and "power_cap_w = 2 W is not held" in fault.text
    plant.set_parameters(Parameters(power_cap_w=9.0))
    plant.run(20.0)
    assert plant.decisions[-1].feasible and plant.manager.limit_fault is None


def test_clocks_that_cannot_be_written_leave_the_sub_networks() -> None:
    board = UnknownBoard()

    def fixed(item: Input) -> Input:
        item = board(item)
        if isinstance(item.message, DeviceCapabilities):
            domains = tuple(replace(d, can_write=False) for d in item.message.domains)
            return replace(item, message=replace(item.message, domains=domains))
        return item

    plant = make_plant(fixed)
    plant.run(5.0)
    plant.set_parameters(Parameters(power_cap_w=8.0))
    plant.run(5.0)
    start = plant.now_ns
    plant.run(30.0)
    assert share_above(plant, 8.0, start) <= 0.02
    assert plant.apps[0].running < "s9" and not plant.decisions[-1].bands


def test_a_battery_lasts() -> None:
    budget = Parameters(objective="battery", battery_energy_j=7.0 * 60.0, battery_time_s=60.0)
    plant = make_plant(UnknownBoard(levels=8), budget)
    plant.run(60.0)
    used_j = 0.1 * sum(watts for _, watts in plant.power)
    assert 0.9 * 420.0 < used_j <= 1.02 * 420.0
    plant = make_plant(UnknownBoard(), replace(budget, battery_energy_j=60.0, battery_time_s=30.0))
    plant.run(15.0)
    decision = plant.decisions[-1]
    assert not decision.feasible and decision.binding_constraint == "power_cap"
    assert "battery_energy_j" in plant.manager.limit_fault.text  # type: ignore[union-attr]


def test_a_failed_plan_is_tried_again_ever_more_rarely() -> None:
    """Two plans, one above the cap: 9 W and 7 W at a cap of 8 W."""
    feedback, plan, tries = PowerFeedback(), 4.0, []
    feedback.apply(plan, changed=True, feasible=True)
    for n in range(20_000):
        feedback.observe(9.0 if plan == 4.0 else 7.0, 0.1, 8.0, 7.76)
        wanted = 4.0 if feedback.budget >= 4.0 else 1.0
        if wanted != plan:
            plan = wanted
            tries += [0.1 * n] if plan == 4.0 else []
            feedback.apply(plan, changed=True, feasible=True)
    gaps = np.diff(tries)
    assert len(tries) >= 2 and gaps[0] > 40.0 and all(gaps[1:] > 1.2 * gaps[:-1])


@pytest.mark.parametrize("measured_w", [nan, -1.0, inf])
def test_what_is_no_power_changes_no_budget(measured_w: float) -> None:
    feedback = PowerFeedback()
    feedback.apply(4.0, changed=True, feasible=True)
    assert not any(feedback.observe(measured_w, 0.1, 8.0, 7.8) for _ in range(50))
    assert feedback.budget == inf


# --- temperature ---------------------------------------------------------------------------------


def test_a_temperature_limit_is_held() -> None:
    sink = HeatSink(5.0)  # 97 degrees at full power
    plant = make_plant(UnknownBoard(levels=25, temperature=sink), Parameters(temperature_limit_c=80.0))
    hottest = 0.0
    for _ in range(120):
        plant.run(1.0)
        hottest = max(hottest, sink.celsius)
    assert hottest < 80.0 + EMERGENCY_C
    start = plant.now_ns
    over = []
    for _ in range(120):
        plant.run(1.0)
        over.append(sink.celsius)
    assert np.mean(np.array(over) > 80.5) < 0.05 and max(over) > 74.0
    settled = [d for d in plant.decisions if d.step_time > start]
    changes = sum(a.bands != b.bands for a, b in zip(settled, settled[1:], strict=False))
    assert changes <= 8  # 4 a minute
    assert settled[-1].binding_constraint == "temperature" and settled[-1].feasible


def test_heat_that_does_not_go_is_infeasible() -> None:
    plant = make_plant(UnknownBoard(temperature=lambda power_w: 97.0))
    plant.run(5.0)
    decision = plant.decisions[-1]
    assert not decision.feasible and decision.binding_constraint == "temperature"
    assert decision.apps[0].subnet_id == "s0"
    assert all(plant.hz[name] == 115_200_000 for name in CPU)
    assert "97.0 C measured" in plant.manager.limit_fault.text  # type: ignore[union-attr]


def test_heat_just_above_the_limit_is_answered_step_by_step() -> None:
    feedback = TemperatureFeedback()
    feedback.apply(8.0, feasible=True)
    lowered = [feedback.observe(Reading(86.0, 0.0), 0.1, 85.0) for _ in range(100)]
    assert sum(lowered) == 3 and 0.0 < feedback.budget < 8.0
    assert not any(feedback.observe(Reading(86.0, -0.1), 0.1, 85.0) for _ in range(100))  # it falls: enough


def test_a_thermometer_that_falls_silent_while_it_is_hot_changes_no_budget() -> None:
    plant = make_plant(UnknownBoard(temperature=lambda power_w: 80.0 + 0.015 * len(plant.power)))
    feedback = plant.manager.state.feedback.temperature
    plant.run(36.0)  # above the limit and rising
    lowered = feedback.budget
    assert lowered < inf
    plant.tamper = UnknownBoard(temperature=lambda power_w: nan)
    plant.run(3.0)
    assert thermometer_remark(plant.manager.state, plant.now_ns) == ""
    plant.run(57.0)
    assert feedback.budget == lowered
    remark = thermometer_remark(plant.manager.state, plant.now_ns)
    assert remark.startswith("no temperature for 6") and "measured last" in remark


# --- sensors that are not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "constraint", "words"),
    [
        (Parameters(power_cap_w=8.0), "power_cap", ("power_cap_w = 8 W", "no total power", "power_file")),
        (
            Parameters(objective="battery", battery_energy_j=600.0, battery_time_s=60.0),
            "power_cap",
            ("battery_energy_j = 600 J", "no total power"),
        ),
        (
            Parameters(temperature_limit_c=70.0),
            "temperature",
            ("temperature_limit_c = 70 C", "no temperature", "start without setting it"),
        ),
        (Parameters(temperature_asked=True), "temperature", ("temperature_limit_c = 85 C", "no temperature")),
    ],
)
def test_a_limit_without_its_sensor_is_refused_aloud(
    parameters: Parameters, constraint: str, words: tuple[str, ...]
) -> None:
    plant = make_plant(UnknownBoard(power=False), parameters)
    plant.run(FIRST_READING_S + 1.0)
    decision, fault = plant.decisions[-1], plant.manager.limit_fault
    assert (decision.feasible, decision.binding_constraint) == (False, constraint)
    assert fault is not None and all(word in fault.text for word in words)
    plant.set_parameters(Parameters())  # the default temperature limit is nobody's wish
    plant.run(1.0)
    assert plant.decisions[-1].feasible and plant.manager.limit_fault is None


def test_a_device_that_falls_silent_holds_no_cap() -> None:
    plant = make_plant(UnknownBoard(), Parameters(power_cap_w=12.0))
    plant.run(5.0)
    assert plant.decisions[-1].feasible
    plant.telemetry_on = False
    plant.run(LOST_S - 1.0)
    assert plant.decisions[-1].feasible
    plant.run(2.0)
    assert (plant.decisions[-1].feasible, plant.decisions[-1].binding_constraint) == (False, "power_cap")
    plant.telemetry_on = True
    plant.run(1.0)
    assert plant.decisions[-1].feasible


def test_a_power_model_needs_no_power_sensor() -> None:
    def blind(item: Input) -> Input:
        if isinstance(item.message, DeviceTelemetry):
            return replace(item, message=replace(item.message, total_power_w=nan))
        return item

    plant = make_plant(blind, Parameters(power_cap_w=8.0), model=MODEL)
    plant.run(10.0)
    assert plant.decisions[-1].feasible and plant.decisions[-1].predicted_power_w <= 8.0


def test_time_of_the_robot_without_a_device_counts_from_the_first_step() -> None:
    manager = RuntimeManager()
    first = manager.step(SECOND, Monitors(parameters=Parameters(power_cap_w=8.0)))
    later = manager.step(10 * SECOND, Monitors(parameters=Parameters(power_cap_w=8.0)))
    assert first.feasible and not later.feasible and later.binding_constraint == "power_cap"
