"""Faults of a robot: clocks that do not obey, applications that fall silent or lie, time that jumps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from manager_bench import one_app
from simulated_robot import CPU, MS, SECOND, TOP_HZ, Plant, PlantApp, make_library, miss_share, switches

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.actuator_guard import UNRESPONSIVE_READINGS, UNRESPONSIVE_S, ActuatorGuard
from dynofa_ros.manager.clocks import Clocks
from dynofa_ros.manager.inputs import Input
from dynofa_ros.manager.miss_alarm import MissAlarm
from dynofa_ros.messages import (
    AppTargets,
    DeviceTelemetry,
    FrequencyBand,
    InferenceMonitor,
    SubnetLibrary,
)

BAND = FrequencyBand("cpu0", 1_000_000_000, 1_000_000_000)
STUCK_HZ = 1_190_400_000


# --- actuators -----------------------------------------------------------------------------------


def test_a_domain_outside_its_band_is_unresponsive_after_three_readings_and_tried_again() -> None:
    guard = ActuatorGuard()
    guard.observe(0, "cpu0", 5e8)  # nothing was commanded
    guard.command(0, [BAND])
    guard.observe(SECOND // 10, "cpu0", 5e8)  # on its way
    for n in range(UNRESPONSIVE_READINGS):
        assert guard.unresponsive == frozenset()
        guard.observe(SECOND + n, "cpu0", 5e8)
    assert guard.unresponsive == {"cpu0"}
    assert not guard.expire(SECOND + 1)
    assert guard.expire(2 * SECOND + int(UNRESPONSIVE_S * SECOND)) and guard.unresponsive == frozenset()
    later = 3 * SECOND + int(UNRESPONSIVE_S * SECOND)
    for n in range(UNRESPONSIVE_READINGS):
        guard.observe(later + n, "cpu0", 5e8)
    assert guard.unresponsive == {"cpu0"}
    assert not guard.expire(later + int(1.5 * UNRESPONSIVE_S * SECOND))  # longer than the first time
    guard.rebase(0)
    assert guard.expire(61 * SECOND)


@pytest.mark.parametrize("hz", [float("nan"), 0.0, -1.0, 1.01e9, 0.99e9])
def test_what_is_no_reading_and_what_is_close_is_no_disobedience(hz: float) -> None:
    guard = ActuatorGuard()
    guard.command(0, [BAND])
    for n in range(10):
        guard.observe(SECOND + n, "cpu0", hz)
    assert guard.unresponsive == frozenset()


def test_clocks_that_are_not_applied_are_planned_with_as_they_are() -> None:
    plant, app = one_app()
    plant.simulation.faults.add("ignored_clocks")
    plant.hold_clocks(STUCK_HZ)
    plant.retarget(app, replace(app.targets, latency_target_ms=45.0))
    plant.run(15.0)
    assert set(CPU) <= plant.manager.state.actuators.unresponsive
    late = miss_share(plant.frames, plant.now_ns - 8 * SECOND, plant.now_ns)
    assert late < 0.05  # a smaller network, since the clock does not rise
    assert app.running < "s9"
    latency = [f.latency_ms for f in plant.frames if f.time_ns > plant.now_ns - 5 * SECOND]
    predicted = plant.decisions[-1].apps[0].predicted_latency_ms
    assert predicted == pytest.approx(np.median(latency), rel=0.1)


@pytest.mark.parametrize("queued", [False, True])
def test_nobody_gives_up_anything_for_requests_that_no_processor_can_answer(queued: bool) -> None:
    both = (*make_library("front", processor="gpu").entries, *make_library("front").entries)
    front = PlantApp(AppTargets("front", 60.0, accuracy_floor=0.72, priority=2), SubnetLibrary("front", both))
    slow = replace(make_library("slow", slowest_ms=12000.0), queued=queued)  # 3.75 s at least
    plant = Plant(RuntimeManager(), [front, PlantApp(AppTargets("slow", 200.0, rate_hz=10.0), slow)])
    plant.run(10.0)
    decision = plant.decisions[-1]
    first, second = decision.apps
    assert not decision.feasible and (first.app, first.processor, second.processor) == ("front", "gpu", "cpu")
    assert first.rate_hz == 15.0 and first.predicted_latency_ms < 60.0
    assert first.predicted_accuracy == pytest.approx(0.80)
    own = [f for f in plant.frames if f.app == "front" and f.time_ns > plant.now_ns - 5 * SECOND]
    assert len(own) >= 70 and sum(f.missed for f in own) <= 1
    assert decision.bands[0].max_hz == max(hz for hz in plant.hz.values() if hz <= TOP_HZ), (
        "as fast as it goes"
    )


def test_a_device_that_obeys_again_is_used_again() -> None:
    plant, app = one_app()
    plant.simulation.faults.add("ignored_clocks")
    plant.run(5.0)
    assert plant.manager.state.actuators.unresponsive
    plant.simulation.faults.clear()
    plant.run(14.0)
    assert not plant.manager.state.actuators.unresponsive
    band = next(b for b in plant.decisions[-1].bands if b.domain == "cpu0")
    assert plant.hz["cpu0"] == band.min_hz == band.max_hz
    assert app.running == "s9"


def test_a_cluster_that_went_offline_does_not_count() -> None:
    """It read its lowest clock once, then was gone; an application started after that."""

    def offline(item: Input) -> Input:
        message = item.message
        if not isinstance(message, DeviceTelemetry):
            return item
        gone = message.header.stamp_ns > 1_000 * SECOND
        readings = tuple(
            replace(r, frequency_hz=115_200_000.0) if r.domain == "cpu4" else r
            for r in message.domains
            if not (gone and r.domain == "cpu4")
        )
        return replace(item, message=replace(message, domains=readings))

    plant = Plant(RuntimeManager(), [], tamper=offline)
    plant.run(3.0)
    plant.add(PlantApp(AppTargets("front", 60.0), make_library("front")))
    plant.run(12.0)
    assert miss_share(plant.frames, plant.now_ns - 8 * SECOND, plant.now_ns) < 0.05
    assert plant.manager.state.slowdown(plant.manager.state.apps["front"], "cpu") == pytest.approx(
        1.0, rel=0.1
    )


def test_readings_that_stop_are_left_out_and_taken_in_again() -> None:
    clocks = Clocks()
    for domain, hz in (("cpu0", 1e9), ("cpu4", 1e8)):
        clocks.observe(0, domain, hz)
    clocks.expire(0)
    assert clocks.speed_hz("cpu") == 1e8
    version = clocks.version("cpu")
    clocks.observe(2 * SECOND, "cpu0", 1e9)
    clocks.expire(2 * SECOND)
    assert clocks.speed_hz("cpu") == 1e9 and np.isnan(clocks.hz("cpu4")) and clocks.version("cpu") > version
    clocks.observe(3 * SECOND, "cpu4", 5e8)
    clocks.expire(3 * SECOND)
    assert clocks.speed_hz("cpu") == clocks.hz("cpu4") == 5e8
    clocks.expire(10 * SECOND)  # of no clock of the processor is anything known: the last is better than none
    assert clocks.speed_hz("cpu") == 5e8


# --- applications --------------------------------------------------------------------------------


def test_a_silent_application_keeps_its_sub_network_and_does_not_hold_up_the_others() -> None:
    front = PlantApp(AppTargets("front", 60.0, rate_hz=10.0), make_library("front"), camera_hz=10.0)
    rear = PlantApp(AppTargets("rear", 90.0, rate_hz=5.0, priority=1), make_library("rear"), camera_hz=5.0)
    plant = Plant(RuntimeManager(), [front, rear])
    plant.run(6.0)
    plant.slowdown = 1.6
    plant.run(5.0)
    degraded = front.running
    assert degraded < "s9"
    plant.silence(rear)
    plant.run(4.0)
    silent = rear.running
    plant.slowdown = 1.0
    plant.run(8.0)
    assert front.running > degraded
    assert {a.app: a.subnet_id for a in plant.decisions[-1].apps}["rear"] == silent
    plant.retarget(rear, replace(rear.targets, accuracy_target=0.73))
    assert {a.app: a.subnet_id for a in plant.decisions[-1].apps}["rear"] < "s3"  # a user is heard


def test_a_library_that_lies_about_one_entry_does_not_make_it_oscillate() -> None:
    """The largest network takes half as long again as its library says, the others what it says."""
    app = PlantApp(AppTargets("front", 52.0), make_library("front"))
    plant = Plant(RuntimeManager(), [app])
    truth = app.node.trace.entries  # the manager gets the library as it is
    key, entry = next((key, e) for key, e in truth.items() if e.id == "s9")
    truth[key] = replace(entry, alpha_ms=1.5 * entry.alpha_ms, beta_ms=1.5 * entry.beta_ms)
    plant.run(60.0)
    late = miss_share(plant.frames, plant.now_ns - 30 * SECOND, plant.now_ns)
    assert late < 0.15
    assert switches(plant.frames, plant.now_ns - 30 * SECOND, plant.now_ns) <= 20


def test_misses_that_no_plan_expects_raise_an_alarm_and_correct_the_plans() -> None:
    """Frames take 2.5 times as long as their inference says: something that the estimator cannot see."""
    plant, app = one_app()
    plant.run(6.0)
    state = plant.manager.state.apps["front"]
    assert state.misses.correction == 1.0 and state.misses.spans == 0

    def lying(item: Input) -> Input:
        message = item.message
        if not isinstance(message, InferenceMonitor):
            return item
        latency_ms = 2.5 * message.latency_ms
        late = latency_ms > message.latency_target_ms
        return replace(item, message=replace(message, latency_ms=latency_ms, deadline_missed=late))

    plant.tamper = lying
    plant.run(12.0)
    assert state.misses.correction > 1.2
    assert app.running < "s9"
    plant.run(20.0)
    assert state.misses.missed_share < 0.5 and state.misses.spans == 0
    plant.tamper = None
    plant.run(60.0)
    assert state.misses.correction < 1.2
    assert app.running == "s9"


def test_the_alarm_counts_only_frames_that_were_promised_in_time() -> None:
    alarm = MissAlarm()
    frames = [n * SECOND // 10 for n in range(100)]
    assert not any(alarm.observe(ns, 80.0, True) for ns in frames)  # nothing was promised
    alarm.promise(40.0, in_time=False)
    assert not any(alarm.observe(ns, 80.0, True) for ns in frames)
    alarm.promise(40.0, in_time=True)
    alarm.restart()
    assert not any(alarm.observe(ns, 80.0, n % 3 == 0) for n, ns in enumerate(frames))
    alarm.restart()
    assert sum(alarm.observe(ns, 80.0, True) for ns in frames) == 3
    assert alarm.spans == 3 and alarm.correction == pytest.approx(8.0)
    for n in range(100):
        alarm.observe(10 * SECOND + n * SECOND // 10, 20.0, False)
    assert alarm.spans == 0 and alarm.correction == pytest.approx(1.0)


def test_a_restarted_application_is_told_again() -> None:
    plant, app = one_app()
    plant.run(5.0)
    assert app.running == "s9"
    plant.add(app)
    assert app.running == "s0"
    plant.run(3.0)
    assert app.running == "s9"
    assert plant.manager.state.refusals.counts["monitor"] == 0


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-400.0, -3.0, 5.0, 1000.0])
def test_a_jump_of_the_clock_changes_no_knob(jump_s: float) -> None:
    """Simulated time that starts anew, a bag that loops or skips: everything is stamped with the new time."""
    plant, app = one_app()
    plant.run(8.0)
    before = plant.decisions[-1]
    shift = int(jump_s * SECOND)
    plant.now_ns += shift
    start = plant.now_ns
    plant.run(6.0)
    after = [d for d in plant.decisions if d.step_time > start or jump_s < 0.0][-25:]
    assert {a.subnet_id for d in after for a in d.apps} == {before.apps[0].subnet_id}
    assert after[-1].decision_id > before.decision_id
    assert abs(plant.manager.state.apps["front"].rate.hz - 15.0) < 3.0
    assert miss_share(plant.frames, start + SECOND, plant.now_ns) < 0.05


def test_frames_around_a_gap_say_nothing_about_the_rate() -> None:
    plant, _ = one_app()
    plant.run(6.0)
    rate = plant.manager.state.apps["front"].rate
    before = rate.hz
    for gap_s in (2.0, 500.0):
        plant.run(0.15)
        plant.now_ns += int(gap_s * SECOND)
        plant.step()
        assert rate.hz == pytest.approx(before, rel=0.1)


def test_a_manager_that_was_paused_goes_on_where_it_was() -> None:
    plant, app = one_app()
    plant.run(6.0)
    before = plant.decisions[-1]
    plant.simulation.faults.add("manager_paused")  # two seconds without a step; queues of depth five
    plant.run(1.99)
    plant.simulation.faults.clear()
    plant.inbox[:] = plant.inbox[-10:]
    plant.run(3.0)
    late = [d for d in plant.decisions if d.step_time > before.step_time]
    assert {a.subnet_id for d in late for a in d.apps} == {"s9"}
    assert abs(plant.manager.state.apps["front"].rate.hz - 15.0) < 2.0


def test_a_frozen_power_reading_of_a_stale_device_stops_upgrades_only() -> None:
    plant, app = one_app()
    frozen: list[DeviceTelemetry] = []

    def freeze(item):  # type: ignore[no-untyped-def]
        if isinstance(item.message, DeviceTelemetry):
            frozen.append(item.message)
            return replace(item, message=frozen[0])
        return item

    plant.run(5.0)
    plant.tamper = freeze
    plant.run(4.0)
    assert "stale" in {d.trigger for d in plant.decisions[-20:]}
    assert app.running == "s9"
    assert miss_share(plant.frames, plant.now_ns - 3 * SECOND, plant.now_ns + MS) < 0.05
