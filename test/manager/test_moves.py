"""Applications that come, that were there before, and that leave a processor; and a budget of energy."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from manager_bench import Bench
from simulated_robot import capabilities, make_library, telemetry

from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.knobs import FINISH_S
from dynofa_ros.manager.runtime_manager import FIRST_FRAMES, Decision
from dynofa_ros.messages import (
    AppTargets,
    DomainState,
    DomainTelemetry,
    DvfsState,
    InferenceMonitor,
    SubnetCondition,
    SubnetLibrary,
    SubnetState,
)

TARGETS = AppTargets("front", 100.0, rate_hz=5.0)
GPU, CPU = make_library("front", processor="gpu"), make_library("front")
BOTH = SubnetLibrary("front", (*GPU.entries, *(replace(e, alpha_ms=9.0 * e.alpha_ms) for e in CPU.entries)))


class Moves(Bench):
    """With frames of what was decided."""

    frames = 0

    def frame(self, decision: Decision, *, missed: bool = False, processor: str = "") -> InferenceMonitor:
        self.frames += 1
        app = decision.apps[0] if decision.apps else None
        subnet, place = (app.subnet_id, processor or app.processor) if app else ("s9", "gpu")
        return InferenceMonitor(
            "front", self.frames, 0, subnet, place, 0.0, 1.0, 40.0, 1.0, 42.0, 100.0, missed
        )  # fmt: skip


def state(decision_id: int) -> SubnetState:
    return SubnetState(decision_id, "s9", "gpu", SubnetCondition.APPLIED)


def test_whom_nobody_has_managed_is_planned_at_once() -> None:
    decision = Moves().step(capabilities(), TARGETS, BOTH, state(0))
    assert [a.app for a in decision.apps] == ["front"] and decision.commands


@pytest.mark.parametrize("missed", [False, True])
def test_who_was_managed_is_measured_first_unless_it_fails(missed: bool) -> None:
    bench = Moves()
    free = DvfsState(0, tuple(DomainState(d.domain, 0, 0, 5e8) for d in capabilities().domains))
    decision = bench.step(capabilities(), free, TARGETS, BOTH, state(7))
    assert not decision.apps
    planned = []
    for _ in range(FIRST_FRAMES):
        decision = bench.step(bench.frame(decision, missed=missed))
        planned.append(bool(decision.apps))
    assert planned == ([True] * FIRST_FRAMES if missed else [False] * (FIRST_FRAMES - 1) + [True])


def clock(decision: Decision, domain: str) -> int:
    return next(band.max_hz for band in decision.bands if band.domain == domain)


@pytest.mark.parametrize("cap_w", [inf, 30.0])
def test_frames_on_a_processor_that_is_withdrawn_are_finished_quickly(cap_w: float) -> None:
    bench = Moves(parameters=Parameters(power_cap_w=cap_w))
    decision = bench.step(capabilities(), TARGETS, BOTH, state(0))
    for _ in range(5):
        decision = bench.step(bench.frame(decision))
    before = clock(decision, "gpu")
    assert decision.apps[0].processor == "gpu" and 114_750_000 < before < 1_109_250_000
    decision = bench.step(CPU)  # the sub-networks of the GPU are withdrawn
    assert decision.apps[0].processor == "cpu"
    assert clock(decision, "gpu") == (1_109_250_000 if cap_w == inf else before)
    decision = bench.step(bench.frame(decision, processor="cpu"))
    assert clock(decision, "gpu") == 114_750_000


def test_a_processor_that_was_left_long_ago_is_slowed_down_without_a_frame() -> None:
    bench = Moves()
    decision = bench.step(capabilities(), TARGETS, BOTH, state(0))
    for _ in range(5):
        decision = bench.step(bench.frame(decision))
    decision = bench.step(CPU)
    decision = bench.step(after_s=FINISH_S)
    assert clock(decision, "gpu") == 114_750_000


def test_power_above_the_mean_of_a_battery_is_no_breach_of_a_cap() -> None:
    parameters = Parameters(objective="battery", battery_energy_j=600.0, battery_time_s=100.0)
    bench = Moves(parameters=parameters)
    decision = bench.step(capabilities(), TARGETS, BOTH, state(0))
    readings = tuple(
        DomainTelemetry(d.domain, float(d.frequencies_hz[0]), 0.0) for d in capabilities().domains
    )
    triggers = []
    for n in range(20):
        told = telemetry(bench.now_ns + n, 9.0 if n % 2 else 3.0, readings, 45.0)
        triggers.append(bench.step(told, bench.frame(decision)).trigger)
    assert "power" not in triggers
    bench.parameters = replace(parameters, power_cap_w=6.0)
    for n in range(8):
        triggers.append(bench.step(telemetry(bench.now_ns + n, 9.0, readings, 45.0)).trigger)
    assert "power" in triggers and bench.manager.state.power.limit_w(inf) == inf
