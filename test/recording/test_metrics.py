"""Figures of hand-made runs whose answers are known, and what must hold for any run."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from factories import START, S, decision, monitor
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.files import to_json
from dynofa_ros.messages import Header
from dynofa_ros.recording import metrics
from dynofa_ros.recording.run import (
    Label,
    Reading,
    Run,
    Telemetry,
    from_first_mark,
)

KEYS = (
    *("frames_published", "frames_due", "results", "dropped_frames", "malformed_frames"),
    *("deadline_miss_percent", "deadline_miss_percent_settled", "latency_ms", "overhead_ms", "accuracy"),
    *("energy_j", "mean_power_w", "subnet_switches", "dvfs_commands", "decisions"),
    *("manager_cpu_percent", "device_cpu_percent"),
)


def telemetry(time_s: float, energy_j: float, power_w: float = 5.0, clock_hz: float = 1e9) -> Telemetry:
    return Telemetry(START + round(time_s * S), power_w, energy_j, 40.0, {"cpu0": clock_hz}, "simulated")


def mark(time_s: float, name: str) -> Reading[str]:
    return Reading(START + round(time_s * S), name)


def two_phases() -> Run:
    """10 frames in each of two phases of 10 s; figures below are worked out by hand."""
    run = Run(has_ground_truth=True, accuracy={("front", "a", "cpu"): 0.8, ("front", "b", "cpu"): 0.6})
    run.marks = [mark(0, "steady"), mark(10, "load"), mark(20, "end")]
    for second in range(20):
        run.monitors.append(monitor(second + 0.5, 40.0 + second, subnet_id="a" if second < 12 else "b"))
    run.monitors[10] = replace(
        run.monitors[10], latency_ms=70.0, inference_ms=60.0, deadline_missed=True, dropped_frames=2
    )
    run.monitors[15] = replace(run.monitors[15], deadline_missed=True, malformed_frames=1)
    run.truths = [Label(m.time_ns - 1, "", m.frame, "stop") for m in run.monitors]
    run.results = [Label(m.time_ns, "front", m.frame, "stop") for m in run.monitors]
    run.results[3] = replace(run.results[3], value="yield")
    run.telemetry = [telemetry(t, 4.0 * t, power_w=4.0 if t < 10 else 6.0) for t in range(21)]
    run.clocks = [Reading(START + 15 * S, {"cpu0": 1.5e9, "gpu": math.nan})]
    run.command_times_ns = [START + 15 * S]
    run.decisions = [Reading(START + t * S, decision()) for t in range(5)]
    run.manager_cpu = [Reading(START + S, 2.0), Reading(START + 2 * S, 4.0)]
    run.device_cpu = [Reading(START + S, 1.0)]
    return run


def test_overall_figures() -> None:
    summary = metrics.summary(two_phases())
    assert summary["results"] == 20
    assert (summary["dropped_frames"], summary["malformed_frames"]) == (2, 1)
    assert summary["frames_due"] == 23
    assert summary["frames_published"] == 20
    # late: frames 10 and 15; not answered: 3
    assert summary["deadline_miss_percent"] == pytest.approx(100 * 5 / 23)
    # frame 10 with its two dropped ones and frame 0 lie in the first second of a phase
    assert summary["deadline_miss_percent_settled"] == pytest.approx(100 * 2 / 19)
    assert summary["overhead_ms"] == {"p50": 5.0, "p95": pytest.approx(5.25)}
    assert summary["accuracy"] == {
        "measured": pytest.approx(0.95),
        "expected": pytest.approx((12 * 0.8 + 8 * 0.6) / 20),
        "frames_scored": 20,
    }
    assert summary["energy_j"] == pytest.approx(80.0)
    assert summary["mean_power_w"] == pytest.approx((10 * 4 + 11 * 6) / 21)
    assert summary["subnet_switches"] == 1
    assert (summary["dvfs_commands"], summary["decisions"]) == (1, 5)
    assert (summary["manager_cpu_percent"], summary["device_cpu_percent"]) == (3.0, 1.0)
    assert summary["errors"] == []
    assert "apps" not in summary


def test_percentiles_interpolate_linearly() -> None:
    run = Run(monitors=[monitor(i, latency) for i, latency in enumerate((10.0, 20.0, 30.0, 40.0))])
    assert metrics.summary(run)["latency_ms"] == {
        "p50": 25.0,
        "p95": pytest.approx(38.5),
        "p99": pytest.approx(39.7),
    }


def test_figures_of_a_phase() -> None:
    steady, load = metrics.summary(two_phases())["phases"]
    assert (steady["name"], steady["start_s"], steady["end_s"]) == ("steady", 0.0, 10.0)
    assert (load["name"], load["start_s"], load["end_s"]) == ("load", 10.0, 20.0)
    assert steady["deadline_miss_percent"] == 0.0
    assert load["deadline_miss_percent"] == pytest.approx(100 * 5 / 13)
    assert load["subnets_used"] == ["a", "b"]
    assert steady["clocks_used"] == {"cpu0": [10**9]}
    assert load["clocks_used"] == {"cpu0": [10**9, 1_500_000_000]}
    assert steady["accuracy"]["measured"] == pytest.approx(0.9)


def test_keys_are_those_of_the_design() -> None:
    summary = metrics.summary(two_phases())
    assert set(summary) == {*KEYS, "accuracy_metric", "phases", "errors"}
    for phase in summary["phases"]:
        assert set(phase) == {*KEYS, "name", "start_s", "end_s", "subnets_used", "clocks_used"}


def test_an_empty_recording_has_unknown_figures_and_no_misses() -> None:
    summary = json.loads(json.dumps(to_json(metrics.summary(Run())), allow_nan=False))
    assert set(summary) == {*KEYS, "accuracy_metric", "phases", "errors"}
    assert summary["results"] == summary["frames_due"] == 0
    unknown = ("frames_published", "deadline_miss_percent", "energy_j", "mean_power_w", *metrics.NODE_CPU)
    assert [summary[key] for key in unknown] == [None] * 6
    assert summary["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert summary["accuracy"] == {"measured": None, "expected": None, "frames_scored": 0}


def test_a_phase_that_was_cut_short_ends_with_the_recording() -> None:
    run = two_phases()
    run.marks = run.marks[:2]
    assert [p.name for p in metrics.phases(run)] == ["steady", "load"]
    assert metrics.summary(run)["phases"][1]["results"] == 10


def test_unknown_power_and_accuracy_stay_unknown() -> None:
    run = Run(
        monitors=[monitor(0)], telemetry=[telemetry(0, math.nan, math.nan), telemetry(1, math.nan, 3.0)]
    )
    summary = metrics.summary(run)
    assert math.isnan(summary["energy_j"])
    assert summary["mean_power_w"] == 3.0
    assert math.isnan(summary["accuracy"]["expected"])


def test_frames_without_a_known_label_are_not_scored() -> None:
    run = two_phases()
    run.truths = [replace(t, value=None) for t in run.truths]
    accuracy = metrics.summary(run)["accuracy"]
    assert accuracy["frames_scored"] == 0
    assert math.isnan(accuracy["measured"])
    assert accuracy["expected"] == pytest.approx(0.72)


def test_several_applications_are_told_apart() -> None:
    run = two_phases()
    rear = [
        replace(m, app="rear", subnet_id="c", header=Header(m.frame[0], "rear_camera"))
        for m in run.monitors[:5]
    ]
    run.monitors = sorted([*run.monitors, *rear], key=lambda m: m.time_ns)
    run.truths += [Label(m.time_ns, "", m.frame, "stop") for m in rear]
    run.results += [Label(m.time_ns, "rear", m.frame, "yield") for m in rear]
    summary = metrics.summary(run)
    assert summary["results"] == 25
    assert summary["subnet_switches"] == 1, "alternating applications are no switches"
    assert set(summary["apps"]) == {"front", "rear"}
    assert summary["apps"]["front"]["results"] == 20
    assert summary["apps"]["rear"]["frames_published"] == 5
    assert summary["apps"]["rear"]["accuracy"]["measured"] == 0.0
    assert summary["apps"]["rear"]["subnets_used"] == ["c"]
    assert "energy_j" not in summary["apps"]["rear"]


def test_a_replayed_bag_is_published_once_per_application() -> None:
    frames = [(START + i * S, "some_camera") for i in range(3)]
    run = Run(has_ground_truth=True, truths=[Label(START, "", f, None) for f in frames for _ in range(2)])
    run.monitors = [monitor(i, app=app) for i in range(3) for app in ("front", "rear")]
    summary = metrics.summary(run)
    assert summary["frames_published"] == 6
    assert summary["apps"]["front"]["frames_published"] == summary["apps"]["rear"]["frames_published"] == 3


frames = st.lists(
    st.tuples(
        st.floats(0, 19.9),
        st.floats(1, 200),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    max_size=60,
)


@given(frames, st.lists(st.floats(0, 50), max_size=30))
def test_phases_add_up_to_the_run(
    found: list[tuple[float, float, str, int, int]], watts: list[float]
) -> None:
    run = Run(marks=[mark(0, "one"), mark(7, "two"), mark(20, "end")])
    run.monitors = [
        monitor(t, latency, subnet_id=subnet, dropped_frames=dropped, malformed_frames=malformed)
        for t, latency, subnet, dropped, malformed in sorted(found)
    ]
    energy_j = 0.0
    for index, power_w in enumerate(watts):
        energy_j += power_w
        run.telemetry.append(telemetry(20 * index / 30, energy_j, power_w))
    summary = metrics.summary(run)
    for key in ("frames_due", "results", "dropped_frames", "malformed_frames", "subnet_switches"):
        assert summary[key] == sum(phase[key] for phase in summary["phases"])
    if len(watts) > 1:
        parts = [p["energy_j"] for p in summary["phases"] if math.isfinite(p["energy_j"])]
        assert sum(parts) == pytest.approx(summary["energy_j"], abs=1e-6)
    for figures in (summary, *summary["phases"]):
        assert figures["frames_due"] >= figures["results"]
        assert not figures["deadline_miss_percent"] > 100
        latency = figures["latency_ms"]
        assert not latency["p50"] > latency["p95"]
        assert not latency["p95"] > latency["p99"]
    json.dumps(to_json(summary), allow_nan=False)


def test_what_comes_before_the_first_mark_is_warm_up() -> None:
    run = two_phases()
    run.telemetry.insert(0, telemetry(-0.2, 0.0))  # what was told last still holds
    expected = metrics.summary(run)
    run.monitors.insert(0, monitor(-3.0, 99.0, deadline_missed=True, dropped_frames=5))
    run.truths.insert(0, Label(START - 3 * S, "", (1, "front_camera"), "stop"))
    run.telemetry.insert(0, telemetry(-3.0, -15.0, power_w=50.0))
    run.command_times_ns.insert(0, START - 2 * S)
    assert to_json(metrics.summary(from_first_mark(run))) == to_json(expected)
    run.marks = []
    assert from_first_mark(run) is run
