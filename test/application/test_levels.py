"""Levels of a program of others: their checks, their times, and a program that runs as an application."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import dynofa_ros
from dynofa_ros.application.application import Application, Settings
from dynofa_ros.application.levels import AtLevel, Level, Levels, measured
from dynofa_ros.application.worker import Outcome
from dynofa_ros.messages import AppTargets, Header, SubnetCommand
from dynofa_ros.topics import LIBRARY, MONITOR


class Waiter:
    """Answers with its request and its level, after as long as the level says."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.published: list[Any] = []

    def prepare(self, level: Level) -> None:
        self.prepared.append(level.id)

    def answer(self, request: Any, level: Level) -> Any:
        time.sleep(level.settings.get("seconds", 0.0))
        return request, level.id

    def publish(self, answer: Any, request: Any) -> float | None:
        assert answer[0] == request
        self.published.append(answer)
        return 0.75 if request == "sure" else None


QUICK, SLOW = Level("quick", 0.5, 2.0), Level("slow", 0.9, 8.0, fixed_ms=3.0)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([], "at least one is needed"),
        ([QUICK, QUICK], "an id of its own"),
        ([Level("x", 1.5, 1.0)], "level x: accuracy must be in 0..1"),
        ([Level("x", 0.5)], "latency_ms positive"),
        ([Level("x", 0.5, math.inf)], "latency_ms positive"),
        ([Level("x", 0.5, 1.0, fixed_ms=2.0)], "at least fixed_ms"),
        ([("x", 0.5, 1.0)], r"\('x', 0.5, 1.0\) is no Level"),
        ([Level("x", "0.5", 1.0)], "level x: accuracy, latency_ms and fixed_ms must be numbers"),  # type: ignore[arg-type]
        ([Level(3, 0.5, 1.0)], "level 3: its id must be a name"),  # type: ignore[arg-type]
        ([Level(" ", 0.5, 1.0)], "level ' ': its id must be a name"),
        ([Level("x", 0.5, 1.0, processor="tpu")], "processor 'tpu' is none of cpu, gpu, npu"),
        ([Level("x", 0.5, 1.0, settings=[1])], "settings must be by name"),  # type: ignore[arg-type]
    ],
)
def test_levels_that_are_none_are_refused(levels: list[Level], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Levels(measured(levels, Waiter(), lambda: "sample") if "positive" not in words else levels, Waiter())


@pytest.mark.parametrize("sure", [1.7, -1, math.inf, "sure", [0.5], 10**400])
def test_how_sure_an_answer_is_must_be_a_share(sure: Any) -> None:
    """Else its monitor is lost, or the manager reads a score that is none."""
    program = Waiter()
    program.publish = lambda answer, request: sure  # type: ignore[method-assign]
    task = AtLevel(program, False)
    with pytest.raises(ValueError, match=r"publish\(\) returned .*: how sure the answer is, 0..1, or None"):
        task.postprocess(None, "", None, {})
    program.publish = lambda answer, request: np.float32(0.5)  # type: ignore[method-assign]
    assert task.postprocess(None, "", None, {}).score == 0.5


def test_an_answer_that_exits_fails_and_the_next_one_is_answered() -> None:
    program = Waiter()
    program.answer = lambda request, level: sys.exit(3) if request == "exit" else (request, level.id)  # type: ignore[method-assign]
    failed: list[Any] = []
    application = Application(
        "own",
        AtLevel(program, True),
        Levels([QUICK], program),
        Settings(),
        AppTargets("own", 100.0),
        "",
        options={},
        decode=lambda message: (Header(7), message),
        publish=lambda topic, message: None,
        clock_ns=time.time_ns,
        warn=lambda text: None,
        unanswered=lambda *what: failed.append(what),
    )
    try:
        application.start()
        for request in ("exit", "go on"):
            application.accept(request)
        end = time.monotonic() + 10
        while not application.counters.answered:
            assert time.monotonic() < end
            time.sleep(0.002)
        assert failed == [("exit", Outcome.FAILED, "SystemExit: 3")]
    finally:
        application.stop("the end")
        application.close()


def test_levels_are_a_library_per_processor_without_those_that_another_beats() -> None:
    beaten = Level("beaten", 0.4, 5.0)
    levels = Levels([SLOW, beaten, QUICK, Level("slow", 0.9, 1.0, processor="gpu")], Waiter())
    assert {p: [e.id for e in library] for p, library in levels.libraries.items()} == {
        "cpu": ["quick", "slow"],
        "gpu": ["slow"],
    }
    assert levels.left_out == [beaten]
    entry = levels.libraries["cpu"].subnet_entries()[1]
    assert (entry.latency_ms, entry.alpha_ms, entry.beta_ms) == (8.0, 3.0, 5.0)
    assert math.isnan(entry.energy_j)
    kept = levels.libraries["cpu"].entries[1]
    assert (kept.accuracy_source, kept.latency_source, kept.macs, kept.params) == ("declared",) * 2 + (
        None,
    ) * 2
    assert math.isnan(kept.latency_ms.p95)


def test_a_level_without_a_latency_is_measured_on_the_sample() -> None:
    program = Waiter()
    levels = [Level("a", 0.5, settings={"seconds": 0.02}), QUICK, Level("b", 0.9, settings={"seconds": 0.0})]
    first, second, third = measured(levels, program, lambda: "sample")
    assert first.latency_ms >= 20.0 and 0.0 < third.latency_ms < first.latency_ms  # on a busy machine, too
    assert [v.latency_source for v in (first, second, third)] == ["measured", "declared", "measured"]
    assert second == QUICK and program.prepared == ["a", "b"] and not program.published
    assert measured([QUICK, SLOW], program, lambda: 1 / 0) == [QUICK, SLOW]  # no sample is asked for


@pytest.mark.parametrize("queued", [False, True])
def test_a_program_follows_commands_and_is_monitored(queued: bool) -> None:
    program, published, refused = Waiter(), [], []
    application = Application(
        "own",
        AtLevel(program, queued),
        Levels([QUICK, SLOW], program),
        Settings(),
        AppTargets("own", 100.0, rate_hz=200.0),
        "",
        options={},
        decode=lambda message: (Header(7, "lens"), message),
        publish=lambda topic, message: published.append((topic, message)),
        clock_ns=time.time_ns,
        warn=lambda text: None,
        unanswered=lambda *what: refused.append(what),
    )

    def answer(request: str) -> Any:
        before = len(published)
        time.sleep(0.006)
        assert application.accept(request)
        end = time.monotonic() + 10
        while not (found := [m for topic, m in published[before:] if topic == MONITOR]):
            assert time.monotonic() < end
            time.sleep(0.002)
        return found[0]

    try:
        application.start()
        (library,) = (message for topic, message in published if topic == LIBRARY)
        assert [e.id for e in library.entries] == ["quick", "slow"] and library.queued is queued
        monitor = answer("sure")
        assert (monitor.subnet_id, monitor.top1_score, monitor.header.frame_id) == ("slow", 0.75, "lens")
        application.command.take(SubnetCommand(5, "quick"))
        while application.current.key.subnet_id != "quick":
            time.sleep(0.002)
        monitor = answer("")
        assert (monitor.subnet_id, monitor.decision_id) == ("quick", 5) and math.isnan(monitor.top1_score)
        assert program.published[-1] == ("", "quick")
        application.change(AppTargets("own", 100.0, rate_hz=200.0, paused=True), "")
        assert not application.accept("") and refused[-1][1] == Outcome.REFUSED
    finally:
        application.stop("the end")
        application.close()


def test_the_public_names_are_read_when_they_are_asked_for() -> None:
    assert dynofa_ros.Level is Level
    with pytest.raises(AttributeError, match="no attribute 'Lever'"):
        _ = dynofa_ros.Lever
    code = "import sys, dynofa_ros; dynofa_ros.Level('a', 0.5, 1.0); assert 'rclpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
