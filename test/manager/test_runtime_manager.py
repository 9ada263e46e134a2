"""RuntimeManager.step: determinism, triggers, guards, odd targets, and inputs that no robot should send."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from dataclasses import replace
from math import inf, isnan, nan

import pytest
import simulated_robot
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_bench import START, Bench
from simulated_robot import MS, SECOND, Plant, PlantApp, capabilities, make_library, miss_share

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.app_state import FIRST_S
from dynofa_ros.manager.estimator import SlowdownFilter
from dynofa_ros.manager.inputs import Departure, Input, Monitors, Parameters, parameters_of
from dynofa_ros.manager.runtime_manager import TRIGGERS, Decision, no_collection
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DomainTelemetry,
    DvfsState,
    Header,
    InferenceMonitor,
    SubnetCondition,
    SubnetLibrary,
    SubnetState,
)

TARGETS = AppTargets("front", 60.0)
DEFAULT = Parameters()
CONSTRAINTS = {
    "none",
    "latency",
    "power_cap",
    "temperature",
    "accuracy_target",
    "accuracy_floor",
    "utilization",
    "no_data",
}


def item(message: object, sequence: int = 1, topic: str = "perception/front/t") -> Input:
    return Input(topic, sequence, message)  # type: ignore[arg-type]


def frame(sequence: int, inference_ms: float = 40.0, **changes: object) -> InferenceMonitor:
    base = InferenceMonitor(
        "front", sequence, 0, "s9", "cpu", 0.5, 1.0, inference_ms, 0.5, inference_ms + 2.0, 60.0, False
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def telemetry(stamp_ns: int, power_w: float = 8.0, temperature_c: float = 45.0) -> DeviceTelemetry:
    readings = tuple(
        DomainTelemetry(d.domain, float(d.frequencies_hz[-1]), 60.0 if d.domain.startswith("cpu") else 0.0)
        for d in capabilities().domains
    )
    return simulated_robot.telemetry(stamp_ns, power_w, readings, temperature_c)


class Frames(Bench):
    """With frames of the application `front`."""

    def frames(self, count: int, **changes: object) -> Decision:
        first = self.manager.state.apps["front"].last_sequence + 1
        return self.step(*[frame(first + n, **changes) for n in range(count)])  # type: ignore[arg-type]


def ready_bench(targets: AppTargets = TARGETS, *, power_w: float = 8.0, **arguments: object) -> Frames:
    """A bench whose application has been measured and planned."""
    library = make_library(targets.app)
    bench = Frames(capabilities(), targets, library, telemetry(START, power_w), **arguments)  # type: ignore[arg-type]
    for n in range(3):
        bench.step(
            telemetry(START + (n + 1) * SECOND // 5, power_w), *[frame(3 * n + k + 1) for k in range(3)]
        )
    return bench


# --- determinism ---------------------------------------------------------------------------------


def test_same_inputs_give_the_same_decisions_bit_for_bit() -> None:
    app = PlantApp(TARGETS, make_library("front"))
    plant = Plant(
        RuntimeManager(), [app, PlantApp(AppTargets("rear", 90.0, priority=1), make_library("rear"))]
    )
    plant.run(4.0)
    plant.slowdown = 1.4
    plant.run(3.0)
    plant.set_parameters(Parameters(power_cap_w=6.0))
    plant.retarget(app, replace(TARGETS, latency_target_ms=40.0))
    plant.run(3.0)
    again = RuntimeManager()
    decisions = [again.step(now_ns, monitors) for now_ns, monitors in plant.steps]
    assert [repr(replace(d, compute_ms=0.0)) for d in decisions] == [
        repr(replace(d, compute_ms=0.0)) for d in plant.decisions
    ]
    assert all(d.compute_ms > 0.0 for d in decisions)


def test_a_decision_names_what_it_consumed() -> None:
    bench = ready_bench()
    decision = bench.step(frame(10), telemetry(START + SECOND))
    assert [i.sequence for i in decision.inputs] == [bench.sequence - 1, bench.sequence]
    assert {i.topic for i in decision.inputs} == {"perception/front/t"}
    assert decision.step_time == bench.now_ns
    assert parameters_of(decision) == bench.parameters


# --- triggers and explanations -------------------------------------------------------------------


def test_first_step_without_anything() -> None:
    decision = RuntimeManager().step(START, Monitors())
    assert (decision.trigger, decision.binding_constraint) == ("startup", "no_data")
    assert decision.feasible and decision.apps == () and decision.bands == ()
    assert isnan(decision.predicted_power_w) and decision.decision_id == 0


def test_a_newcomer_is_measured_before_it_is_planned() -> None:
    bench = Frames(capabilities(), TARGETS, make_library("front"))
    assert bench.frames(3).apps == ()
    decision = bench.frames(1)
    assert decision.trigger == "startup" and [a.app for a in decision.apps] == ["front"]
    assert decision.commands and decision.dvfs is not None


def test_a_newcomer_without_a_camera_is_planned_from_its_library() -> None:
    bench = Frames(capabilities(), TARGETS, make_library("front"))
    for _ in range(6):
        decision = bench.step()
    assert [a.subnet_id for a in decision.apps] == ["s9"]  # the first frames would get room from clocks alone
    decision = bench.step(after_s=FIRST_S)
    assert [a.subnet_id for a in decision.apps] == ["s9"]
    assert decision.apps[0].margin == SlowdownFilter().margin(TARGETS.miss_tolerance)


@pytest.mark.parametrize(
    ("message", "trigger"),
    [
        (replace(TARGETS, latency_target_ms=50.0), "targets"),
        (make_library("front", 5), "library"),
        (Departure("front"), "departure"),
        (frame(10, deadline_missed=True), "latency"),
    ],
)
def test_triggers(message: object, trigger: str) -> None:
    assert ready_bench().step(message).trigger == trigger


def test_repeated_latched_messages_trigger_nothing() -> None:
    bench = ready_bench()
    decision = bench.step(TARGETS, make_library("front"), capabilities())
    assert decision.trigger == "periodic"


def test_objectives_ask_for_target_or_floor() -> None:
    targets = replace(TARGETS, accuracy_floor=0.75)
    quality = ready_bench(targets).step()
    assert quality.apps[0].subnet_id == "s9" and quality.ladder_step == 0
    energy = ready_bench(targets, parameters=Parameters(objective="energy")).step()
    assert 0.75 <= energy.apps[0].predicted_accuracy < quality.apps[0].predicted_accuracy
    assert energy.predicted_power_w < quality.predicted_power_w


@pytest.mark.parametrize(
    ("targets", "parameters", "constraint", "feasible"),
    [
        (TARGETS, Parameters(), "latency", True),
        (replace(TARGETS, latency_target_ms=30.0), Parameters(), "latency", True),
        (replace(TARGETS, latency_target_ms=3.0), Parameters(), "latency", False),
        (replace(TARGETS, accuracy_floor=0.95), Parameters(), "accuracy_floor", False),
        (replace(TARGETS, rate_hz=100.0), Parameters(), "utilization", False),
        (TARGETS, Parameters(power_cap_w=6.0), "power_cap", True),
        (TARGETS, Parameters(power_cap_w=0.5), "power_cap", False),
        (TARGETS, Parameters(power_cap_w=0.0), "power_cap", False),
        (replace(TARGETS, latency_target_ms=5000.0, rate_hz=0.2), Parameters(), "accuracy_target", True),
    ],
)
def test_binding_constraint(
    targets: AppTargets, parameters: Parameters, constraint: str, feasible: bool
) -> None:
    power_w = min(8.0, 0.8 * parameters.power_cap_w)
    settled = replace(parameters, min_dwell_s=0.0)  # a better plan is in force as soon as it is found
    decision = ready_bench(targets, power_w=power_w, parameters=settled).step()
    assert (decision.binding_constraint, decision.feasible) == (constraint, feasible)
    assert len(decision.apps) == 1


def test_cap_below_idle_takes_the_lowest_clocks() -> None:
    decision = ready_bench(parameters=Parameters(power_cap_w=0.5)).step()
    lowest = {d.domain: d.frequencies_hz[0] for d in capabilities().domains}
    assert all(band.min_hz == band.max_hz == lowest[band.domain] for band in decision.bands)
    assert decision.apps[0].subnet_id == "s0" and not decision.feasible


def test_heat_lowers_power_and_emergency_takes_the_lowest_clocks() -> None:
    bench = Frames(capabilities(), TARGETS, make_library("front"), telemetry(START, 7.0, 84.0))
    bench.frames(4, inference_ms=45.0)
    cool = bench.step(telemetry(bench.now_ns, 7.0, 84.0))
    for n in range(100):
        warm = bench.step(telemetry(bench.now_ns, 7.0, 84.0 + 0.015 * n), frame(100 + n, 45.0))
    assert (warm.trigger, warm.binding_constraint) == ("temperature", "temperature")
    assert warm.predicted_power_w < cool.predicted_power_w
    for n in range(100):
        hot = bench.step(telemetry(bench.now_ns, 7.0, 92.0), frame(300 + n, 45.0))
    assert not hot.feasible
    assert hot.bands[0].max_hz == capabilities().domains[0].frequencies_hz[0]


# --- commands ------------------------------------------------------------------------------------


def test_commands_are_sent_when_they_change_and_renewed_before_they_lapse() -> None:
    bench = ready_bench()
    sent = []
    for n in range(50):
        decision = bench.step(frame(20 + n), telemetry(bench.now_ns))
        if decision.commands or decision.dvfs:
            sent.append((decision.step_time, decision))
    gaps = [b[0] - a[0] for a, b in zip(sent, sent[1:], strict=False)]
    assert max(gaps) <= 1.2 * SECOND and min(gaps) >= 0.2 * SECOND
    ids = [d.decision_id for _, d in sent]
    assert ids == sorted(set(ids))
    for _, decision in sent:
        assert all(c.decision_id == decision.decision_id and c.valid_for_s >= 5.0 for c in decision.commands)
    assert len(sent) < 20


def test_an_overruled_manager_starts_above_the_other_ids() -> None:
    bench = ready_bench()
    other = bench.step().decision_id + 10**9
    decision = bench.step(SubnetState(other, "s9", "cpu", SubnetCondition.APPLIED))
    assert decision.decision_id > other
    assert [c.decision_id for c in decision.commands] == [decision.decision_id]
    assert decision.dvfs is not None and decision.dvfs.decision_id == decision.decision_id
    assert bench.step().decision_id == decision.decision_id
    other = decision.decision_id + 5
    assert bench.step(DvfsState(other, (), header=Header(bench.now_ns))).decision_id > other


def test_a_refused_sub_network_is_not_asked_for_again() -> None:
    bench = ready_bench()
    decision = bench.step()
    assert decision.apps[0].subnet_id == "s9"
    while not decision.commands:
        decision = bench.step()
    refused = SubnetState(decision.decision_id, "s0", "cpu", SubnetCondition.REJECTED)
    after = bench.step(refused)
    assert after.apps[0].subnet_id == "s8"
    assert [c.subnet_id for c in after.commands] == ["s8"]
    bench.step(make_library("front"))  # a new library is a new chance
    assert bench.step().apps[0].subnet_id == "s9"


def test_a_pinned_sub_network_is_reckoned_with_and_left_alone() -> None:
    bench = ready_bench()
    decision = bench.step(SubnetState(0, "s2", "cpu", SubnetCondition.PINNED))
    assert decision.apps[0].subnet_id == "s2" and decision.commands == ()
    freed = bench.step(SubnetState(0, "s2", "cpu", SubnetCondition.APPLIED))
    assert freed.apps[0].subnet_id == "s9" and freed.commands


@pytest.mark.parametrize("how", ["paused", "disabled", "gone"])
def test_an_application_that_stops_is_dropped_and_the_cpu_is_given_back(how: str) -> None:
    bench = ready_bench()
    stop: dict[str, object] = {
        "paused": replace(TARGETS, paused=True),
        "disabled": SubnetState(0, "s9", "cpu", SubnetCondition.DISABLED),
        "gone": Departure("front"),
    }
    decision = bench.step(stop[how])
    assert decision.apps == () and decision.commands == ()
    bands = {band.domain: band for band in decision.bands}
    assert (bands["cpu0"].min_hz, bands["cpu0"].max_hz) == (115_200_000, 1_907_200_000)
    assert bands["gpu"].max_hz == 114_750_000
    assert decision.binding_constraint == "no_data"


# --- guards --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        frame(50, nan),
        frame(50, -4.0),
        frame(50, 0.0),
        frame(50, latency_ms=inf),
        frame(50, latency_ms=1.0),
        frame(5),  # out of order
        frame(9),  # again
        frame(50, subnet_id="unknown"),
        frame(50, app="nobody"),
    ],
)
def test_bad_monitors_are_counted_and_change_nothing(bad: InferenceMonitor) -> None:
    bench, twin = ready_bench(), ready_bench()
    decision, expected = bench.step(bad), twin.step()
    assert bench.manager.state.refusals.counts["monitor"] == 1
    assert bad.app in bench.manager.state.refusals.last
    assert decision.apps == expected.apps and decision.bands == expected.bands


def test_a_rejection_is_forgotten_when_the_fault_ends() -> None:
    bench = ready_bench()
    bench.step(frame(10, inference_ms=nan), frame(50, app="nobody"))
    bench.step(frame(11))
    assert "nobody" in bench.manager.state.refusals.last
    bench.step(Departure("nobody"))
    assert "inference_ms" in bench.manager.state.refusals.last  # diagnostics come once a second
    bench.step(after_s=4.0)
    assert bench.manager.state.refusals.last == "" and bench.manager.state.refusals.counts["monitor"] == 2


def test_a_plan_in_force_that_has_become_too_much_leaves_frames_out() -> None:
    """Frames are in time if they are answered, but the worker cannot answer all of them."""
    app = PlantApp(AppTargets("front", 200.0, rate_hz=60.0), make_library("front"), camera_hz=60.0)
    plant = Plant(RuntimeManager(), [app], slowdown=3.0)
    plant.run(10.0)
    assert miss_share(plant.frames, plant.now_ns - 5 * SECOND, plant.now_ns) < 0.2
    decision = plant.decisions[-1]
    assert not decision.feasible and decision.binding_constraint == "utilization"
    assert decision.apps[0].rate_hz < 60.0


def test_a_frame_that_waits_for_the_one_before_it_asks_for_higher_clocks() -> None:
    """At 15 Hz a frame of 127 ms means that the next one has waited for 60 ms when it is answered."""
    bench = ready_bench(AppTargets("front", 110.0, rate_hz=15.0))
    assert not bench.manager.urgent(frame(10, 30.0))
    clocks = bench.frames(1, inference_ms=30.0, latency_ms=32.0).bands
    waited = {"queue_wait_ms": 85.5, "inference_ms": 40.0, "latency_ms": 127.0}
    assert bench.manager.urgent(frame(11, **waited))
    raised = bench.frames(1, **waited).bands
    assert bench.manager.state.apps["front"].backlog_ms == pytest.approx(127.0 - 1e3 / 15.0)
    over = {"queue_wait_ms": 27.5, "inference_ms": 40.0, "latency_ms": 69.0}  # the next one makes up for it
    bench.frames(1, **over)
    assert bench.manager.state.apps["front"].backlog_ms == 0.0 and not bench.manager.urgent(frame(14, **over))
    bench.frames(1, inference_ms=30.0, latency_ms=32.0)
    assert bench.manager.state.apps["front"].backlog_ms == 0.0
    assert sum(b.max_hz for b in raised) > sum(b.max_hz for b in clocks)


def test_a_wait_of_the_whole_deadline_still_leaves_a_plan() -> None:
    bench = ready_bench(AppTargets("front", 1e3 / 15.0, rate_hz=15.0))
    decision = bench.frames(1, queue_wait_ms=200.0, inference_ms=40.0, latency_ms=242.0)
    assert bench.manager.state.apps["front"].backlog_ms == 1e3 / 15.0
    assert decision.apps and decision.trigger == "periodic"


@pytest.mark.parametrize("thinned", [False, True])
def test_frames_that_the_plan_leaves_out_are_no_misses(thinned: bool) -> None:
    bench = ready_bench()
    app = bench.manager.state.apps["front"]
    for _ in range(25):
        app.thinned = thinned
        bench.frames(2, dropped_frames=1)
    assert app.planned is not None and app.planned.id == "s9"
    assert (app.misses.spans > 0) != thinned


def test_clocks_rise_before_and_fall_after_the_sub_networks_that_need_them() -> None:
    bench = ready_bench()
    decision = bench.step(replace(TARGETS, accuracy_target=0.73))  # smaller: before the clocks
    kinds = [type(command).__name__ for command in bench.manager.publication_order(decision)]
    assert decision.dvfs is not None and kinds == ["AppCommand", "DvfsCommand"]
    decision = bench.step(TARGETS)
    kinds = [type(command).__name__ for command in bench.manager.publication_order(decision)]
    assert decision.dvfs is not None and kinds == ["DvfsCommand", "AppCommand"]


def test_a_restarted_node_counts_from_one_again() -> None:
    bench = ready_bench()
    bench.step(frame(1000))
    bench.step(frame(1))
    assert bench.manager.state.refusals.counts["monitor"] == 0
    assert bench.manager.state.apps["front"].last_sequence == 1


def test_bad_targets_and_libraries_leave_the_last_good_ones_in_force() -> None:
    bench = ready_bench()
    decision = bench.step(replace(TARGETS, latency_target_ms=nan))
    assert decision.trigger == "periodic" and decision.apps[0].subnet_id == "s9"
    assert "latency_target_ms" in bench.manager.state.refusals.last
    empty = bench.step(SubnetLibrary("front", ()))
    assert empty.apps == () and "no usable entry" in bench.manager.state.refusals.last


def test_stale_telemetry_is_noticed_and_stops_upgrades() -> None:
    app = PlantApp(TARGETS, make_library("front"))
    plant = Plant(RuntimeManager(), [app])
    plant.run(4.0)
    plant.slowdown = 1.5
    plant.run(4.0)
    plant.telemetry_on = False
    plant.run(3.0)
    assert "stale" in {d.trigger for d in plant.decisions[-15:]}
    degraded = app.running
    plant.slowdown = 1.0
    plant.run(4.0)
    assert app.running == degraded
    plant.slowdown = 1.8  # degrading goes on
    plant.run(3.0)
    assert app.running < degraded
    plant.slowdown, plant.telemetry_on = 1.0, True
    plant.run(6.0)
    assert app.running >= "s8"  # loads that ended within seconds are part of the spread


def test_frozen_telemetry_counts_as_stale() -> None:
    bench = ready_bench()
    frozen = telemetry(bench.now_ns)
    triggers = [bench.step(frozen, frame(20 + n)).trigger for n in range(20)]
    assert "stale" in triggers
    assert bench.manager.state.refusals.counts["telemetry"] == 19


def test_nan_in_telemetry_is_survived() -> None:
    bench = ready_bench()
    before = bench.step()
    blind = simulated_robot.telemetry(
        bench.now_ns + 1,
        nan,
        tuple(DomainTelemetry(d.domain, nan, nan) for d in capabilities().domains),
        nan,
    )
    decision = bench.step(blind)
    assert decision.apps == before.apps and not isnan(decision.predicted_power_w)


def test_no_upgrades_while_the_camera_is_silent() -> None:
    bench = ready_bench(replace(TARGETS, miss_tolerance=0.02))
    for _ in range(10):
        bench.frames(3, inference_ms=60.0)
    low = bench.step().apps[0].subnet_id
    assert low < "s9"
    for _ in range(20):
        decision = bench.step(telemetry(bench.now_ns))
    assert decision.apps[0].subnet_id == low


def test_a_clock_set_back_is_survived() -> None:
    bench = ready_bench()
    before = bench.step()
    bench.now_ns -= 500 * SECOND
    after = bench.step(telemetry(bench.now_ns), frame(50))
    assert after.apps[0].subnet_id == before.apps[0].subnet_id
    for n in range(10):
        decision = bench.step(telemetry(bench.now_ns), frame(60 + n))
        assert decision.trigger != "stale"
    assert decision.decision_id > before.decision_id


# --- devices -------------------------------------------------------------------------------------


def test_without_a_device_sub_networks_are_still_managed() -> None:
    bench = Frames(TARGETS, make_library("front"))
    for n in range(20):
        decision = bench.frames(3, inference_ms=90.0 if n > 5 else 44.0)
    assert decision.apps[0].subnet_id < "s9"
    assert decision.bands == () and decision.dvfs is None and isnan(decision.predicted_power_w)


def test_a_device_without_clocks_and_sensors_is_as_none() -> None:
    both = (*make_library("front").entries, *make_library("front", processor="gpu", slowest_ms=20.0).entries)
    bare = (DeviceCapabilities("unknown", (), ("cpu",), "sysfs"),)
    plans = []
    for device in ((), bare):
        bench = Bench(*device, TARGETS, SubnetLibrary("front", both))
        for n in range(12):
            empty = (DeviceTelemetry(nan, header=Header(bench.now_ns)),) if device else ()
            decision = bench.step(*empty, *([frame(n)] if n > 5 else []))
        plans.append(decision.apps)
        assert decision.bands == () and decision.dvfs is None and decision.feasible
    assert plans[0] == plans[1] != ()


def test_a_device_that_may_not_be_written_gets_no_bands() -> None:
    readable = tuple(replace(d, can_write=False) for d in capabilities().domains)
    bench = Frames(
        replace(capabilities(), domains=readable), TARGETS, make_library("front"), telemetry(START)
    )
    for n in range(8):
        decision = bench.step(frame(n + 1), telemetry(bench.now_ns))
    assert decision.apps and decision.bands == () and decision.dvfs is None


def test_an_unknown_board_is_managed_without_a_power_model() -> None:
    plant = Plant(RuntimeManager(), [PlantApp(TARGETS, make_library("front"))], model=None)
    plant.run(5.0)
    planned = [decision.apps[0].subnet_id for decision in plant.decisions]
    assert planned.count("s9") > 0.9 * len(planned)  # not just after a miss
    assert isnan(plant.decisions[-1].predicted_power_w)
    assert plant.decisions[-1].bands[0].max_hz < 1_907_200_000  # the lowest that holds the deadline
    plant.set_parameters(Parameters(power_cap_w=6.0))
    plant.run(30.0)
    recent = [watts for time, watts in plant.power if time > plant.now_ns - 8 * SECOND]
    assert sum(watts > 6.0 for watts in recent) < 0.2 * len(recent)


def test_only_processors_of_the_device_are_used() -> None:
    both = SubnetLibrary(
        "front",
        make_library("front").entries + make_library("front", processor="gpu", slowest_ms=20.0).entries,
    )
    decisions = []
    for processors in (("cpu", "gpu"), ("cpu",)):
        domains = tuple(d for d in capabilities().domains if d.domain.startswith(processors))
        bench = Frames(DeviceCapabilities("xavier_nx", domains, processors), TARGETS, both, telemetry(START))
        for _ in range(7):
            decisions.append(bench.step(telemetry(bench.now_ns)))
    used = {app.processor for decision in decisions for app in decision.apps}
    assert "cpu" in {app.processor for app in decisions[-1].apps}
    assert used <= {"cpu", "gpu"}


def test_an_application_without_a_processor_is_left_alone() -> None:
    library = make_library("front", processor="npu")
    only_cpu = tuple(d for d in capabilities().domains if d.domain.startswith("cpu"))
    bench = Frames(DeviceCapabilities("xavier_nx", only_cpu, ("cpu",)), TARGETS, library)
    for _ in range(7):
        decision = bench.step()
    assert decision.apps == () and decision.commands == () and decision.binding_constraint == "no_data"


@pytest.mark.parametrize("count", [2, 8, 20])
def test_many_applications(count: int) -> None:
    apps = [AppTargets(f"app{n:02}", 400.0, rate_hz=1.0, priority=n % 3) for n in range(count)]
    libraries = [
        SubnetLibrary(
            t.app, make_library(t.app).entries + make_library(t.app, processor="gpu", slowest_ms=30.0).entries
        )
        for t in apps
    ]
    bench = Frames(capabilities(), *apps, *libraries, telemetry(START))
    for _ in range(7):
        decision = bench.step(telemetry(bench.now_ns))
    assert [a.app for a in decision.apps] == sorted(t.app for t in apps)
    assert len(decision.commands) <= count


def test_contradictory_targets_are_explained() -> None:
    plant = Plant(
        RuntimeManager(), [PlantApp(replace(TARGETS, rate_hz=60.0), make_library("front"), camera_hz=60.0)]
    )
    plant.run(6.0)
    decision = plant.decisions[-1]
    assert decision.binding_constraint in {"utilization", "latency"} and decision.ladder_step > 0
    late = miss_share(plant.frames, plant.now_ns - 3 * SECOND, plant.now_ns)
    assert late < 0.8


# --- anything at all ------------------------------------------------------------------------------

odd = st.sampled_from([nan, inf, -inf, 0.0, -1.0, 1e-9, 1e12, 5.0, 40.0, 60.0])
messages = st.one_of(
    st.builds(
        frame,
        st.integers(0, 100),
        odd,
        latency_ms=odd,
        subnet_id=st.sampled_from(["s0", "s9", "no"]),
        processor=st.sampled_from(["cpu", "gpu"]),
        deadline_missed=st.booleans(),
        dropped_frames=st.integers(0, 2**32 - 1),
    ),
    st.builds(
        AppTargets,
        st.sampled_from(["front", "rear", ""]),
        odd,
        odd,
        odd,
        odd,
        odd,
        st.integers(0, 255),
        st.booleans(),
    ),
    st.builds(
        lambda app, entries, value: SubnetLibrary(
            app, tuple(replace(e, alpha_ms=value) for e in make_library(app).entries[:entries])
        ),
        st.sampled_from(["front", "rear"]),
        st.integers(0, 10),
        odd,
    ),
    st.builds(make_library, st.sampled_from(["front", "rear"])),
    st.builds(telemetry, st.integers(0, 2 * START), odd, odd),
    st.just(capabilities()),
    st.just(DeviceCapabilities("", (), ())),
    st.builds(Departure, st.sampled_from(["front", "rear"])),
    st.builds(
        SubnetState,
        st.integers(0, 2**62),
        st.sampled_from(["s0", "no"]),
        st.just("cpu"),
        st.sampled_from(SubnetCondition),
    ),
    st.builds(
        DvfsState,
        st.integers(0, 2**62),
        st.just(()),
        header=st.builds(Header, st.integers(0, 2 * START)),
    ),
    st.just(TARGETS),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2000, 2000), st.lists(messages, max_size=8)), max_size=12),
    st.sampled_from(
        [Parameters(), Parameters(power_cap_w=0.0), Parameters(objective="energy", min_dwell_s=0.0)]
    ),
)
def test_any_input_gives_a_sane_decision(
    steps: list[tuple[int, list[object]]], parameters: Parameters
) -> None:
    manager = RuntimeManager()
    now_ns, last_id = START, 0
    for delay_ms, batch in steps:
        now_ns = max(0, now_ns + delay_ms * MS)
        topics = ("perception/front/t", "perception/rear/t")
        items = tuple(item(m, topic=topics[n % 2]) for n, m in enumerate(batch))
        decision = manager.step(now_ns, Monitors(items, parameters))
        tables = {d.domain: d.frequencies_hz for d in capabilities().domains}
        assert decision.trigger in (*TRIGGERS, "periodic")
        assert decision.binding_constraint in CONSTRAINTS
        assert decision.decision_id >= last_id
        last_id = decision.decision_id
        for band in decision.bands:
            assert band.min_hz in tables[band.domain] and band.max_hz in tables[band.domain]
        for app in decision.apps:
            assert (
                app.predicted_latency_ms > 0.0 and app.rate_hz > 0.0 and 0.0 <= app.predicted_accuracy <= 1.0
            )


def test_the_room_imports_nothing_that_opens_files_or_devices() -> None:
    """So the manager may run on another computer than the board's."""
    code = "import sys, dynofa_ros.manager; print([m for m in sys.modules if m.startswith('dynofa_ros.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside = [m for m in ast.literal_eval(done.stdout) if not m.startswith("dynofa_ros.manager")]
    allowed = {
        "dynofa_ros.messages",
        "dynofa_ros.latency",
        "dynofa_ros.device",
        "dynofa_ros.device.power_model",
    }
    assert set(outside) <= allowed


def test_no_garbage_is_collected_in_the_middle_of_a_step() -> None:
    phases: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        phases.append(phase)

    gc.callbacks.append(note)
    try:
        with no_collection():
            kept = [[n] for n in range(100_000)]
            assert not phases
        assert gc.isenabled()
        kept += [[n] for n in range(100_000)]
        assert phases
        gc.disable()
        RuntimeManager().step(SECOND, Monitors())
        assert not gc.isenabled()
    finally:
        gc.callbacks.remove(note)
        gc.enable()
