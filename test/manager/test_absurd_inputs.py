"""Absurd numbers in every message: no step fails, the sender is named, and the others are served."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from manager_bench import FRONT, Bench
from simulated_robot import capabilities, make_library

from dynofa_ros.manager.thermal_guard import ThermalGuard
from dynofa_ros.messages import (
    AppTargets,
    DeviceTelemetry,
    DomainState,
    DomainTelemetry,
    DvfsState,
    Header,
    InferenceMonitor,
    SubnetLibrary,
    TemperatureReading,
)

ABSURD = st.sampled_from([nan, inf, -inf, 1e300, -1e300, -1.0, 0.0, 1e-300, 1e30, 5e-324, 50.0, 1.0])


def frame(
    number: int, inference_ms: float = 20.0, latency_ms: float = 24.0, **others: float
) -> InferenceMonitor:
    return InferenceMonitor(
        "front", number, 0, "s3", "cpu", 0.0, 2.0, inference_ms, 2.0, latency_ms, 60.0, False, **others
    )  # type: ignore[arg-type]


def telemetry(stamp_ns: int, power_w: float, hz: float, percent: float, celsius: float) -> DeviceTelemetry:
    return DeviceTelemetry(
        power_w,
        domains=(DomainTelemetry("cpu0", hz, percent), DomainTelemetry("gpu", hz, percent)),
        temperatures=(TemperatureReading("a", celsius),),
        header=Header(stamp_ns),
    )


@settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(ABSURD, min_size=14, max_size=14), st.integers(0, 3))
def test_no_number_makes_a_step_fail(values: list[float], order: int) -> None:
    bench = Bench(capabilities(), FRONT, make_library("front"))
    a, b, c, d, e, f, g, h, i, j, k, m, n, o = values
    odd = tuple(
        replace(x, alpha_ms=a, beta_ms=b, energy_j=c, latency_ms=d) for x in make_library("front").entries
    )
    messages = [
        SubnetLibrary("front", (*odd[:3], *make_library("front").entries[3:])),
        replace(FRONT, latency_target_ms=e, rate_hz=f),
        frame(1, g, h, request_size=i),
        telemetry(1, j, k, m, n),
        DvfsState(0, (DomainState("cpu0", 0, 0, o),), header=Header(2)),
        frame(2),
    ]
    for number in range(8):
        decision = bench.step(*messages[order:], *messages[:order])
        later = telemetry(1_000_000_000 * (number + 1), j, k, m, n)
        decision = bench.step(frame(3 + number, h, g), later)
    assert decision.apps


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (replace(FRONT, latency_target_ms=1e300), "latency_target_ms"),
        (replace(FRONT, rate_hz=1e300), "rate_hz"),
        (frame(9, 1e300, 1e300), "inference_ms"),
        (telemetry(9, 1e300, 1e9, 5.0, 40.0), "total_power_w 1e+300"),
        (telemetry(9, 0.0, 1e9, 5.0, 40.0), "total_power_w 0.0"),
        (
            replace(capabilities(), domains=capabilities().domains[:2] * 2),
            "cpu0, cpu2 is listed twice, the first counts",
        ),
        (telemetry(9, 5.0, -1e9, 5.0, 40.0), "cpu0 at -1000000000.0 Hz"),
        (
            SubnetLibrary(
                "front",
                (
                    *make_library("front").entries[1:],
                    replace(make_library("front").entries[0], alpha_ms=1e300),
                ),
            ),
            "alpha_ms",
        ),
        (
            replace(capabilities(), domains=(replace(capabilities().domains[0], frequencies_hz=(5, 3)),)),
            "frequencies_hz of cpu0",
        ),
    ],
)
def test_what_is_ignored_is_named(message: object, named: str) -> None:
    bench = Bench(capabilities(), FRONT, make_library("front"))
    bench.step(message)
    assert named in bench.manager.state.refusals.last


def test_a_library_that_comes_again_with_unknown_energies_is_no_event() -> None:
    entries = make_library("front").entries

    def sent() -> SubnetLibrary:
        return SubnetLibrary("front", tuple(replace(e, energy_j=float("nan")) for e in entries))

    bench = Bench(capabilities(), FRONT, sent())
    for _ in range(3):
        assert bench.step(sent()).trigger != "library"


def test_a_thermometer_that_falls_silent_while_it_is_hot_is_no_reason_to_stand_still() -> None:
    guard = ThermalGuard(resistance_c_per_w=2.0, time_constant_s=50.0)
    for _ in range(100):
        guard.observe([90.0], 0.1, 12.0, 85.0)
    assert guard.limit_w(85.0, 12.0) == 0.0
    for _ in range(100):  # ten seconds at little power: as little as there is
        guard.observe([], 0.1, 3.0, 85.0)
    assert guard.limit_w(85.0, 3.0) <= 3.0
    for _ in range(6000):
        guard.observe([nan], 0.1, 3.0, 85.0)
    held_w = guard.limit_w(85.0, 3.0)
    assert 2.5 < held_w <= 3.0 and guard.read_c == pytest.approx(90.0)
    guard.observe([60.0], 10.0, 3.0, 85.0)
    for _ in range(300):
        guard.observe([60.0], 0.1, 3.0, 85.0)
    assert guard.limit_w(85.0, 3.0) > 10.0


def test_a_limit_that_was_broken_when_the_thermometer_fell_silent_is_named() -> None:
    bench = Bench(capabilities(), AppTargets("front", 60.0), make_library("front"))
    for number in range(40):
        bench.step(telemetry(number * 200_000_000 + 1, 9.0, 1e9, 50.0, 99.0))
    for number in range(40, 80):
        silent = replace(telemetry(number * 200_000_000 + 1, 3.0, 1e9, 50.0, 0.0), temperatures=())
        decision = bench.step(silent)
    assert decision.binding_constraint == "temperature" and not decision.feasible
    for number in range(80, 300):
        decision = bench.step(telemetry(number * 200_000_000 + 1, 3.0, 1e9, 50.0, 40.0))
    assert decision.feasible
