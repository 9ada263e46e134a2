"""Fits of latency and power: exact where the data are, honest about errors, silent about what they hide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from power_law import predict_power

from dynofa_ros.device.board import Board, load_board, power_model
from dynofa_ros.library.fit import Coefficient, fit_latency, fit_power
from dynofa_ros.library.sweep import Observation, summarise
from dynofa_ros.library.testbench import Point

BOARD = load_board("xavier_nx")
MODEL = power_model(BOARD)

RATIO = np.array([1.0, 1.3, 1.8, 2.9, 6.0, 14.0])


@given(st.floats(0, 50), st.floats(0.01, 50))
def test_exact_latencies_give_exact_coefficients(alpha, beta):
    latency = alpha + beta * RATIO
    fit = fit_latency(RATIO, latency, 0.001 * latency)
    assert fit.alpha_ms == pytest.approx(alpha, abs=1e-6 * beta + 1e-9)
    assert fit.beta_ms == pytest.approx(beta, rel=1e-6)
    assert fit.misfit < 1e-6


def test_a_wrong_law_shows_in_the_standard_errors():
    straight, curved = 1 + RATIO, 1 + RATIO**2
    good, bad = (fit_latency(RATIO, y, np.full(6, 1e-3)) for y in (straight, curved))
    assert bad.alpha_error_ms > 20 * good.alpha_error_ms and bad.beta_error_ms > 20 * good.beta_error_ms


def test_one_disturbed_clock_does_not_move_the_fit():
    latency = 2.0 + 8.0 * RATIO
    latency[2] *= 1.5
    fit = fit_latency(RATIO, latency, 0.002 * latency)
    assert fit.alpha_ms == pytest.approx(2.0, rel=0.02) and fit.beta_ms == pytest.approx(8.0, rel=0.01)
    assert fit.misfit == pytest.approx(1 / 3, rel=0.05), "and it is told"


def test_clocks_that_do_not_differ_tell_nothing():
    assert fit_latency(np.array([1.0, 1.001]), np.ones(2), np.ones(2)) is None
    assert fit_latency(np.array([1.0]), np.ones(1), np.ones(1)) is None


@given(st.lists(st.floats(0.1, 100), min_size=6, max_size=6))
def test_coefficients_are_never_negative(latency):
    fit = fit_latency(RATIO, np.array(latency), np.full(6, 0.1))
    assert fit.alpha_ms >= 0 and fit.beta_ms >= 0
    assert fit.alpha_error_ms > 0 and fit.beta_error_ms > 0


def test_standard_errors_are_honest():
    """The truth is within 1.96 standard errors in about 95 of 100 noisy repetitions."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        latency = 2.0 + 8.0 * RATIO
        sigma = 0.01 * latency
        fit = fit_latency(RATIO, latency + sigma * rng.standard_normal(6), sigma)
        inside.append(abs(fit.alpha_ms - 2.0) <= 1.96 * fit.alpha_error_ms)
    assert 0.90 <= np.mean(inside) <= 0.99


def test_median_has_the_error_that_repetitions_have():
    rng = np.random.default_rng(1)
    times = [summarise(rng.normal(10, 0.5, 40)) for _ in range(300)]
    assert np.mean([t.error for t in times]) == pytest.approx(np.std([t.median for t in times]), rel=0.15)


def power_points(board: Board, temperatures: list[float]) -> list[Observation]:
    """Noise-free observations of an idle and a busy GPU at all its clocks."""
    result = []
    for temperature in temperatures:
        for hz in board.domains["gpu"].frequencies_hz:
            for busy in (0.0, 0.5, 1.0):
                clocks = {name: float(d.frequencies_hz[0]) for name, d in board.domains.items()} | {"gpu": hz}
                use = dict.fromkeys(board.domains, 0.0) | {"gpu": busy}
                power = predict_power(power_model(board), clocks, use, temperature)
                rails = {board.power.total_rail: power.total_w, **power.rails}
                measured = {name: (watts, 0.001) for name, watts in rails.items()}
                result.append(Observation(Point(()), clocks, use, temperature, measured))
    return result


def named(coefficients: tuple[Coefficient, ...]) -> dict[str, Coefficient]:
    return {f"{c.section}.{c.name}": c for c in coefficients}


def test_power_without_noise_is_recovered_exactly():
    found = named(fit_power(MODEL, "VDD_IN", power_points(BOARD, [35.0, 50.0, 70.0])))
    assert found["domains.gpu.dynamic_w_per_ghz_v2"].value == pytest.approx(6.7, rel=1e-4)
    assert found["domains.gpu.idle_w"].value == pytest.approx(0.9, rel=1e-3)
    assert found["power.base_w"].value == pytest.approx(1.4, rel=1e-4)
    assert found["power.conversion_loss"].value == pytest.approx(0.34, rel=1e-4)
    assert found["rails.VDD_CPU_GPU_CV.leakage_w"].value == pytest.approx(0.245, rel=1e-3)
    assert found["rails.VDD_CPU_GPU_CV.leakage_w"].shared == ("cpu0", "cpu2", "cpu4")


def test_what_cannot_be_told_is_held_with_the_reason():
    """At one temperature, with CPU and NPU idle at one clock, five coefficients are one constant."""
    found = named(fit_power(MODEL, "VDD_IN", power_points(BOARD, [45.0])))
    group = {"VDD_CPU_GPU_CV.static_w", "VDD_CPU_GPU_CV.leakage_w", "cpu0.clock_w_per_ghz", "cpu0.idle_w"}
    group |= {"npu.clock_w_per_ghz"}
    held = {c.held.removeprefix("cannot be distinguished from "): c for c in found.values() if c.held}
    for name in group - {"VDD_CPU_GPU_CV.static_w"}:
        others = next(held[text] for text in held if set(text.split(", ")) == group - {name})
        assert f"{others.section.partition('.')[2]}.{others.name}" == name
        assert math.isnan(others.error) and others.value == others.board_value
    assert found["rails.VDD_CPU_GPU_CV.static_w"].value == pytest.approx(0.0, abs=1e-3)
    assert found["domains.cpu0.dynamic_w_per_ghz_v2"].held == "never in effect in this sweep"
    assert not found["domains.gpu.dynamic_w_per_ghz_v2"].held


@pytest.mark.parametrize("seed", range(5))
def test_the_reason_does_not_hang_on_rounding(seed):
    rng = np.random.default_rng(seed)
    points = power_points(BOARD, [45.0])
    shaken = []
    for number in rng.permutation(len(points)):
        clocks = points[number].frequencies_hz
        noisy = {name: hz * (1 + 1e-13 * rng.standard_normal()) for name, hz in clocks.items()}
        shaken.append(structs.replace(points[number], frequencies_hz=noisy))
    before, after = (named(fit_power(MODEL, "VDD_IN", seen)) for seen in (points, shaken))
    assert {name: c.held for name, c in before.items()} == {name: c.held for name, c in after.items()}


def test_domains_that_the_device_does_not_show_are_left_alone():
    """On a real Xavier NX the NPU has no clock to read, and the memory's load may be unknown."""
    seen = []
    for o in power_points(BOARD, [35.0, 50.0, 70.0]):
        clocks = {name: hz for name, hz in o.frequencies_hz.items() if name != "npu"}
        seen.append(structs.replace(o, frequencies_hz=clocks, utilization={**o.utilization, "emc": None}))
    found = named(fit_power(MODEL, "VDD_IN", seen))
    assert found["domains.gpu.dynamic_w_per_ghz_v2"].value == pytest.approx(6.7, rel=1e-4)
    assert found["power.conversion_loss"].value == pytest.approx(0.34, rel=1e-4)
    assert not any(name.startswith("domains.npu") for name in found)
    assert found["domains.emc.busy_w"].held == "never in effect in this sweep"


def test_power_that_was_not_measured_is_not_fitted():
    unknown = [structs.replace(o, temperature_c=None) for o in power_points(BOARD, [45.0])]
    assert fit_power(MODEL, "VDD_IN", unknown) == () == fit_power(MODEL, "VDD_IN", [])
    only_total = [
        structs.replace(o, rails_w={"VDD_IN": o.rails_w["VDD_IN"]}) for o in power_points(BOARD, [45.0])
    ]
    assert fit_power(MODEL, "VDD_IN", only_total) == ()


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_observations_hold_what_they_cannot_tell(number):
    """With one, nothing can be fitted, neither on a rail nor of the total."""
    coefficients = fit_power(MODEL, "VDD_IN", power_points(BOARD, [45.0])[:number])
    assert {"power.base_w", "power.conversion_loss"} <= set(named(coefficients))
    for c in coefficients:
        assert c.held or number > 1
        assert not c.held or (c.value == c.board_value and math.isnan(c.error))
