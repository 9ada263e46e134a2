"""Power models that a device publishes: one that is damaged is refused, one without numbers is a guess."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from manager_bench import FRONT, Bench, one_app
from simulated_robot import MODEL, capabilities, make_library

from dynofa_ros.manager.build_problem import build_problem, unpriced
from dynofa_ros.manager.inputs import Input, Parameters
from dynofa_ros.manager.power import check_power_model
from dynofa_ros.manager.thermal_guard import RESISTANCE_C_PER_W, TIME_CONSTANT_S
from dynofa_ros.messages import DeviceTelemetry, PowerModel, SubnetLibrary

FIRST = MODEL.domains[0]


def domain(**changes: Any) -> PowerModel:
    return replace(MODEL, domains=(replace(FIRST, **changes), *MODEL.domains[1:]))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (replace(MODEL, base_w=nan), "base_w"),
        (replace(MODEL, conversion_loss=inf), "conversion_loss"),
        (replace(MODEL, leakage_per_c=50.0), "leakage_per_c"),
        (replace(MODEL, leakage_reference_c=nan), "leakage_reference_c"),
        (domain(top_hz=nan), "top_hz"),
        (domain(busy_w=1e300), "busy_w"),
        (domain(launch_share=inf), "launch_share"),
        (domain(voltage_hz=(nan, *FIRST.voltage_hz[1:])), "voltage_hz"),
        (domain(voltage_hz=FIRST.voltage_hz[::-1]), "ascending"),
        (domain(voltage_v=(0.0,) * len(FIRST.voltage_v)), "voltage_v"),
        (domain(voltage_v=FIRST.voltage_v[1:]), "same length"),
        (domain(rail="none of them"), "none of them"),
    ],
)
def test_a_damaged_power_model_is_refused_and_the_manager_goes_on(model: PowerModel, words: str) -> None:
    plant, _ = one_app(model=model)
    plant.run(3.0)
    state = plant.manager.state
    assert state.power_model is None and words in state.refusals.last
    assert plant.decisions[-1].apps[0].subnet_id == "s9"


def test_the_model_of_a_board_is_sound() -> None:
    assert check_power_model(MODEL) is None


@pytest.mark.parametrize(("resistance", "time_s"), [(nan, nan), (1.0, inf), (inf, 60.0), (-1.0, 60.0)])
def test_an_rc_that_is_unknown_is_guessed_and_not_that_of_an_earlier_board(
    resistance: float, time_s: float
) -> None:
    plant, _ = one_app(model=replace(MODEL, resistance_c_per_w=9.0, time_constant_s=30.0))
    plant.run(1.0)
    thermal = plant.manager.state.thermal
    assert (thermal.resistance_c_per_w, thermal.time_constant_s) == (9.0, 30.0)
    changed = replace(MODEL, resistance_c_per_w=resistance, time_constant_s=time_s)
    plant.send("dynofa/device/power_model", changed)
    plant.run(1.0)
    assert (thermal.resistance_c_per_w, thermal.time_constant_s) == (RESISTANCE_C_PER_W, TIME_CONSTANT_S)


def negative_clock(name: str) -> Callable[[Input], Input]:
    """What a driver reports that cannot read a clock."""

    def tamper(item: Input) -> Input:
        if not isinstance(item.message, DeviceTelemetry):
            return item
        domains = tuple(
            replace(d, frequency_hz=-1.0) if d.domain == name else d for d in item.message.domains
        )
        return replace(item, message=replace(item.message, domains=domains))

    return tamper


@pytest.mark.parametrize("name", [d.domain for d in MODEL.domains])
def test_a_negative_clock_is_no_clock(name: str) -> None:
    plant, _ = one_app(tamper=negative_clock(name))
    plant.run(3.0)
    assert plant.decisions[-1].apps[0].subnet_id == "s9"


def test_work_on_a_processor_without_a_clock_costs_what_its_entries_say() -> None:
    """As the NPU of a real board: the device names it and shows no clock of it."""
    device = capabilities()
    hidden = replace(device, domains=tuple(d for d in device.domains if d.domain != "npu"))
    library = make_library("front", processor="npu")
    known = SubnetLibrary(
        "front", tuple(replace(e, energy_j=9.0 * e.latency_ms * 1e-3) for e in library.entries)
    )
    slopes = {}
    for name, sent in (("unknown", library), ("known", known)):
        bench = Bench(hidden, MODEL, FRONT, sent)
        bench.step(after_s=2.0)
        state = bench.manager.state
        problem = build_problem(state, Parameters(), list(state.apps.values()))
        slopes[name] = float(problem.processor("npu").slope_w[0])
        assert unpriced(state) == (["npu"] if name == "unknown" else [])
    constant_w = state.power_model.constant_w(state.power_model.grain(nan)) if state.power_model else nan
    assert slopes["unknown"] == 0.0 and slopes["known"] == pytest.approx(9.0 - constant_w, rel=1e-3)
