"""What the live table says of a robot now: figures, the last decision, faults, and what is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from factories import START, S, chosen, decision, monitor

from dynofa_ros.messages import AppTargets, Parameter, SubnetCondition, SubnetState
from dynofa_ros.recording.run import Fault, Reading, Run, Telemetry
from dynofa_ros.recording.status import status

NOW = START + 10 * S


def robot() -> Run:
    """Ten frames of one application in the last 5 s, two of them late; device and manager are there."""
    run = Run(board="a board", accuracy={("front", "large", "gpu"): 0.8})
    for t in range(10):
        made = monitor(5.0 + t / 2, 40.0 + 10.0 * (t > 7), deadline_missed=t > 7)
        run.monitors.append(replace(made, subnet_id="large", processor="gpu", latency_target_ms=50.0))
    run.targets, run.metrics = {"front": AppTargets("front", 50.0)}, {"front": "mAP50:95"}
    state = SubnetState(0, "large", "gpu", status=SubnetCondition.APPLIED, expected_accuracy=0.8)
    run.subnets = {"front": state}
    run.telemetry = [Telemetry(NOW - S, 6.0, 1.0, 41.0, {"gpu": 1e9}, "sysfs")]
    made = decision(trigger="latency", parameters=(Parameter("power_cap_w", 7.0),), **chosen("large"))
    run.decisions = [Reading(NOW - S, made)]
    return run


def now(run: Run) -> dict[str, Any]:
    return status(run, NOW - 5 * S, NOW)


def test_a_robot_that_works() -> None:
    found = now(robot())
    (front,) = found["applications"]
    assert (front["app"], front["subnet_id"], front["processor"]) == ("front", "large", "gpu")
    assert front["answers_per_s"] == 2.0 and front["deadline_miss_percent"] == 20.0
    assert front["latency_ms"]["p50"] == 40.0 and front["latency_target_ms"] == 50.0
    assert front["accuracy"]["expected"] == 0.8 and math.isnan(front["accuracy"]["measured"])
    assert front["accuracy_metric"] == "mAP50:95"
    assert found["device"]["power_w"] == 6.0 and found["device"]["power_cap_w"] == 7.0
    assert found["device"]["board"] == "a board"
    assert found["decision"]["trigger"] == "latency" and found["decision"]["age_s"] == 1.0
    assert found["decision"]["applications"]["front"]["rate_hz"] == 15.0
    assert found["faults"] == found["missing"] == []


def test_an_application_without_frames_shows_its_targets_and_why() -> None:
    run = robot()
    run.monitors = []
    stopped = {"status": SubnetCondition.DISABLED, "message": "paused", "expected_accuracy": 0.7}
    run.subnets["front"] = SubnetState(0, "small", "gpu", **stopped)
    found = now(run)
    (front,) = found["applications"]
    assert (front["subnet_id"], front["state"], front["why"]) == ("small", "disabled", "paused")
    assert front["latency_target_ms"] == 50.0 and front["accuracy"]["expected"] == 0.7
    assert math.isnan(front["latency_ms"]["p50"])
    assert found["missing"] == ["front answers no frames: disabled, paused"]


def test_what_is_silent_is_missing() -> None:
    run = robot()
    late = status(run, NOW, NOW + 60 * S)
    assert late["device"] is None and late["decision"]["age_s"] == 61.0
    assert [text.split(":")[0] for text in late["missing"]] == [
        "front answers no frames",
        "no device",
        "no manager",
    ]


def test_the_worst_fault_comes_first_with_its_newest_text() -> None:
    run = robot()
    for fault in (
        Fault(1, "/b: x", 1, "old"),
        Fault(2, "/b: x", 1, "new"),
        Fault(3, "/c: y", 2, "broken"),
        Fault(4, "/d: z", 1, "gone"),
        Fault(5, "/d: z", 0, "fine"),
    ):
        run.report(fault)
    assert [(f["source"], f["text"]) for f in now(run)["faults"]] == [("/c: y", "broken"), ("/b: x", "new")]
    assert [f.level for f in run.faults] == [1, 2, 1, 0], "changes of level"
