"""Orders that cannot be carried out: a defined, explained decision each time."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
from manager_bench import settled
from simulated_robot import SECOND, capabilities, make_library, published

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Departure, Input, Message, Monitors, Parameters
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import AppTargets, SubnetLibrary

TARGETS = AppTargets("front", 60.0)


def decided(*targets: AppTargets, parameters: Parameters | None = None, seconds: float = 5.0) -> Decision:
    return settled(*targets, parameters=parameters, seconds=seconds)[0]


def silent(*messages: Message) -> Decision:
    """The decision two seconds after these messages, without a frame."""
    manager = RuntimeManager()
    inputs = tuple(Input(type(m).__name__, n + 1, m) for n, m in enumerate(published(messages)))
    manager.step(SECOND, Monitors(inputs))
    return manager.step(3 * SECOND, Monitors())


def test_no_application() -> None:
    decision = decided()
    assert (decision.apps, decision.alternatives, decision.commands) == ((), (), ())
    assert decision.feasible and decision.binding_constraint == "no_data" and decision.ladder_step == 0


def test_the_last_application_leaves() -> None:
    manager = RuntimeManager()
    inputs = published((capabilities(), TARGETS, make_library("front")))
    manager.step(SECOND, Monitors(tuple(Input("in", n + 1, m) for n, m in enumerate(inputs))))
    assert manager.step(3 * SECOND, Monitors()).apps
    for later in (4, 5):
        decision = manager.step(later * SECOND, Monitors((Input("in", 9, Departure("front")),)))
        assert decision.apps == () and decision.binding_constraint == "no_data"


def test_an_empty_library_leaves_the_application_alone_and_plans_the_others() -> None:
    rear = AppTargets("rear", 60.0)
    alone = silent(capabilities(), TARGETS, SubnetLibrary("front", ()))
    assert alone.apps == () and alone.commands == () and alone.binding_constraint == "no_data"
    both = silent(capabilities(), TARGETS, SubnetLibrary("front", ()), rear, make_library("rear"))
    assert [a.app for a in both.apps] == ["rear"] and both.feasible


def test_a_floor_above_the_library_gets_the_best_there_is() -> None:
    decision = decided(replace(TARGETS, accuracy_floor=0.95))
    assert not decision.feasible and decision.binding_constraint == "accuracy_floor"
    assert decision.apps[0].subnet_id == "s9"


def test_a_floor_above_the_target_counts() -> None:
    decision = decided(replace(TARGETS, accuracy_target=0.73, accuracy_floor=0.77))
    assert decision.feasible and decision.apps[0].predicted_accuracy >= 0.77


def test_a_rate_faster_than_the_latency_allows_gets_every_nth_frame_of_the_smallest() -> None:
    decision = decided(replace(TARGETS, rate_hz=200.0))
    assert not decision.feasible and decision.binding_constraint == "utilization"
    assert decision.apps[0].rate_hz == pytest.approx(200.0 / 4) and decision.ladder_step > 0


def test_a_deadline_that_no_sub_network_holds_gets_the_quickest() -> None:
    decision = decided(replace(TARGETS, latency_target_ms=1.0))
    assert not decision.feasible and decision.binding_constraint == "latency"
    assert decision.apps[0].subnet_id == "s0"
    assert all(band.min_hz > 1_500_000_000 for band in decision.bands if band.domain.startswith("cpu"))


def test_a_power_cap_below_idle_gives_up_everything_but_the_cap() -> None:
    decision = decided(TARGETS, parameters=Parameters(power_cap_w=0.5))
    assert not decision.feasible and decision.binding_constraint == "power_cap"
    assert decision.apps[0].subnet_id == "s0" and decision.predicted_power_w > 0.5
    cpu = [band for band in decision.bands if band.domain.startswith("cpu")]
    assert cpu and all(band.max_hz == 115_200_000 for band in cpu)
    assert all(other.binding_constraint != "none" for other in decision.alternatives)


def test_a_temperature_limit_below_the_room_gives_up_everything_but_the_limit() -> None:
    decision = decided(TARGETS, parameters=Parameters(temperature_limit_c=10.0))
    assert not decision.feasible and decision.binding_constraint == "temperature"
    assert decision.apps[0].subnet_id == "s0"


def test_twenty_applications_too_many_for_one_processor() -> None:
    crowd = [AppTargets(f"app{n:02}", 100.0, rate_hz=3.0, priority=n % 3) for n in range(20)]
    decision = decided(*crowd, seconds=4.0)
    assert [a.app for a in decision.apps] == [t.app for t in crowd]
    assert decision.binding_constraint in ("utilization", "latency") and decision.ladder_step > 0
    given = {priority: [a for n, a in enumerate(decision.apps) if n % 3 == priority] for priority in range(3)}
    # Rounded: means of the same accuracies differ in the last bit, in another way on Python 3.12.
    mean = {p: round(fmean(a.predicted_accuracy for a in apps), 9) for p, apps in given.items()}
    assert mean[0] >= mean[1] >= mean[2] and mean[0] > mean[2]
