"""What is learned of single entries of a library, and of time that does not shrink with the network."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
from manager_problems import make_processor

from dynofa_ros.manager.estimator import AppEstimator
from dynofa_ros.manager.library_error import (
    DEAD_BAND,
    ERROR_VARIANCE,
    GRAIN,
    OFFSET,
    OFFSET_GRAIN_MS,
    LibraryErrors,
    Rounded,
    factors,
)
from dynofa_ros.manager.problem import corrected, make_table
from dynofa_ros.messages import SubnetEntry

LIBRARY_MS = {"a": 40.0, "b": 20.0, "c": 10.0, "d": 5.0}


class Robot:
    """One application on the GPU that runs what it is told; ``true_ms`` is what really happens."""

    def __init__(self, true_ms: dict[str, float], noise: float = 0.02) -> None:
        self.estimator, self.true_ms, self.load = AppEstimator(), true_ms, 1.0
        self.noise, self.rng = noise, np.random.default_rng(0)

    def run(self, name: str, frames: int) -> list[bool]:
        alarms = []
        for _ in range(frames):
            measured_ms = self.load * self.true_ms[name] * exp(self.rng.normal(0.0, self.noise))
            alarms.append(
                self.estimator.observe(
                    (name, "gpu"), measured_ms, measured_ms + 2.0, LIBRARY_MS[name], 0, 1e3, entry=(name, 1)
                )
            )
        return alarms

    @property
    def slowdown(self) -> float:
        return self.estimator.filters["gpu"].slowdown

    @property
    def errors(self) -> LibraryErrors:
        return self.estimator.filters["gpu"].errors

    def errors_after(self, name: str, frames: int) -> Rounded:
        self.run(name, frames)
        return self.errors.rounded

    def expected_ms(self, name: str) -> float:
        return self.slowdown * self.errors.corrected_ms((name, 1), LIBRARY_MS[name])


def test_a_load_that_ends_just_after_a_change_is_no_error_of_the_new_entry() -> None:
    robot = Robot({"a": 40.0, "b": 20.0})
    robot.run("a", 60)
    robot.load = 1.45
    robot.run("a", 8)
    robot.run("b", 4)
    robot.load = 1.0
    robot.run("b", 12)
    assert robot.slowdown == pytest.approx(1.0, rel=0.05)
    assert robot.expected_ms("a") == pytest.approx(40.0, rel=0.07)


def test_an_entry_twice_as_slow_as_its_file_says_is_known_after_a_few_frames_and_stays_known() -> None:
    robot = Robot({"a": 44.0, "b": 44.0})
    robot.run("a", 60)
    robot.run("b", 5)
    assert robot.expected_ms("b") == pytest.approx(44.0, rel=0.1)
    robot.run("b", 20)
    assert not any(robot.run("a", 60))  # what is common has not moved
    assert robot.slowdown == pytest.approx(1.1, rel=0.03)
    robot.run("a", 900)
    assert robot.expected_ms("b") > 38.0  # 90 s at 10 Hz later it would still not be tried


def test_load_moves_what_is_common_and_not_the_entry_that_runs() -> None:
    robot = Robot({"a": 40.0, "b": 20.0})
    robot.run("a", 60)
    robot.run("b", 60)
    robot.load = 1.4
    assert any(robot.run("b", 10))
    robot.run("b", 30)
    assert robot.slowdown == pytest.approx(1.4, rel=0.05)
    assert robot.expected_ms("a") == pytest.approx(56.0, rel=0.07)


def test_a_small_error_of_a_new_entry_is_shared_out_by_what_is_known_of_both() -> None:
    robot = Robot({"a": 40.0, "b": 21.6}, noise=0.01)
    robot.run("a", 200)
    robot.run("b", 40)
    assert robot.expected_ms("b") == pytest.approx(21.6, rel=0.02)
    assert robot.expected_ms("a") == pytest.approx(40.0, rel=0.03)


def test_time_that_does_not_shrink_is_expected_of_a_network_that_was_never_tried() -> None:
    """With 8 ms of preemption the smallest network takes 13 ms and not 5 or 6."""
    robot = Robot({name: time_ms + 8.0 for name, time_ms in LIBRARY_MS.items()}, noise=0.01)
    for _ in range(6):
        for name in ("a", "b", "c"):
            robot.run(name, 40)
    assert robot.errors.offset_ms > 4.0
    assert robot.expected_ms("d") > 10.0
    for name in ("a", "b", "c"):
        assert robot.expected_ms(name) == pytest.approx(LIBRARY_MS[name] + 8.0, rel=0.05)


def test_a_sound_library_stays_as_it_is() -> None:
    robot = Robot(LIBRARY_MS)
    for _ in range(6):
        for name in LIBRARY_MS:
            robot.run(name, 40)
    assert robot.errors.offset_ms < 0.3
    for name in LIBRARY_MS:
        assert robot.errors.corrected_ms((name, 1), LIBRARY_MS[name]) == pytest.approx(
            LIBRARY_MS[name], rel=0.04
        )


def test_plans_keep_an_error_until_another_is_learned_and_never_miss_more_than_the_dead_band() -> None:
    robot = Robot({"a": 40.0, "b": 26.0}, noise=0.05)
    known = []
    for name in ("a", "b", "a", "b"):
        for _ in range(100):
            robot.run(name, 1)
            known.append(robot.errors.rounded)
            grains = dict(robot.errors.rounded)
            for (entry, threads), unit_ms in ((("a", 1), 40.0), (("b", 1), 20.0)):
                learned = log(robot.errors.corrected_ms((entry, threads), unit_ms))
                learned -= log(unit_ms + robot.errors.offset_ms)
                assert abs(learned - GRAIN * grains.get((entry, threads), 0)) <= GRAIN * DEAD_BAND + 1e-9
    assert dict(known[-1])["b", 1] > 20
    assert sum(was is not now for was, now in pairwise(known)) < 40


def test_plans_reckon_with_rounded_errors() -> None:
    processor = make_processor(np.random.default_rng(0), "gpu", 3)
    entries = [SubnetEntry(n, "gpu", 0.7, t, 0.5 * t, 0.5 * t, threads=1) for n, t in LIBRARY_MS.items()]
    plain = make_table(entries, processor)
    rounded = ((OFFSET, 40), (("b", 1), round(log(2.0) / GRAIN)))
    known = corrected(plain, rounded)
    for place, entry in enumerate(plain.entries):
        factor = exp(GRAIN * round(log(2.0) / GRAIN)) if entry.id == "b" else 1.0
        assert known.unit_ms[place] == pytest.approx((plain.unit_ms[place] + 40 * OFFSET_GRAIN_MS) * factor)


def test_an_entry_not_tried_is_as_uncertain_as_libraries_are() -> None:
    """Plans take it to be slower by that, until its frames have come; nothing of it without caution."""
    estimator = AppEstimator()
    for _ in range(20):
        estimator.observe(("a", "gpu"), 40.0, 42.0, 40.0, 0, 1e3, entry=("a", 1), caution=1.0)
    offset_ms, (tried, other) = factors(estimator.filters["gpu"].errors.rounded, [("a", 1), ("other", 1)])
    assert (offset_ms, tried) == (0.0, 1.0) and log(other) == pytest.approx(ERROR_VARIANCE**0.5, abs=0.02)
    for _ in range(4):
        estimator.observe(("other", "gpu"), 40.0, 42.0, 40.0, 0, 1e3, entry=("other", 1), caution=1.0)
    assert factors(estimator.filters["gpu"].errors.rounded, [("other", 1)])[1] == pytest.approx(
        [1.0], abs=0.035
    )
    assert Robot({"a": 40.0}).errors_after("a", 20) == ()
