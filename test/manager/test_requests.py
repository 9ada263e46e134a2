"""Requests of different sizes that come at any time: what is learned of them, and what is granted."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_bench import Bench

from dynofa_ros.latency import size_factor
from dynofa_ros.manager.build_problem import build_problem
from dynofa_ros.manager.estimator import AppEstimator
from dynofa_ros.manager.inputs import Input, Message, Monitors, Parameters
from dynofa_ros.manager.ladder import RATE, ladder
from dynofa_ros.manager.problem import Problem
from dynofa_ros.manager.requests import (
    BURST_RESERVE,
    ArrivalRate,
    RequestSizes,
    queue_margin,
    size_laws,
    usual_factor,
    wait_ms,
)
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import (
    AppTargets,
    InferenceMonitor,
    SubnetCondition,
    SubnetEntry,
    SubnetLibrary,
    SubnetState,
)

SECOND = 1_000_000_000
LAW = {"fixed_share": 0.25, "reference_size": 10.0}
ENTRIES = tuple(
    SubnetEntry(f"n{n}", "cpu", accuracy=0.3 + 0.02 * n, latency_ms=20.0 * (n + 1), alpha_ms=20.0 * (n + 1),
                beta_ms=0.0, **LAW)  # type: ignore[arg-type]
    for n in range(5)
)  # fmt: skip
STATE = SubnetState(0, "n0", "cpu", SubnetCondition.APPLIED)
TARGETS = AppTargets("text", 200.0, rate_hz=2.0, miss_tolerance=0.05)


class TextBench(Bench):
    """A manager with one application that answers text; each step is told of one answered request."""

    def __init__(self, targets: AppTargets = TARGETS, *, queued: bool = True) -> None:
        super().__init__()
        self.answered = 0
        self.first = self.tell(targets, SubnetLibrary("text", ENTRIES, queued=queued), STATE)

    def tell(self, *messages: Message, after_s: float = 0.5) -> Decision:
        self.now_ns += int(after_s * SECOND)
        inputs = []
        for message in messages:
            self.sequence += 1
            topic = f"perception/text/{type(message).__name__}"
            inputs.append(Input(topic, self.sequence, message))
        return self.manager.step(self.now_ns, Monitors(tuple(inputs), self.parameters))

    def answer(
        self, entry: SubnetEntry, size: float, slowdown: float = 1.0, after_s: float = 0.5
    ) -> Decision:
        self.answered += 1
        time_ms = slowdown * entry.latency_ms * size_factor(0.25, 10.0, size)
        frame = InferenceMonitor(
            app="text", frame_sequence=self.answered, decision_id=0, subnet_id=entry.id, processor="cpu",
            queue_wait_ms=0.0, preprocess_ms=1.0, inference_ms=time_ms, postprocess_ms=1.0,
            latency_ms=time_ms + 2.0, latency_target_ms=200.0, deadline_missed=time_ms + 2.0 > 200.0,
            request_size=size,
        )  # fmt: skip
        return self.tell(frame, after_s=after_s)


def test_silence_lowers_the_rate_and_requests_raise_it_again() -> None:
    rate = ArrivalRate()
    assert rate.hz(5.0) == pytest.approx(BURST_RESERVE * 5.0)
    for _ in range(300):
        rate.observe(0, 0.2)
    assert rate.hz(5.0) < 0.06
    for n in range(600):
        rate.observe(n % 5 == 0, 0.2)  # 1 Hz
    assert rate.hz(5.0) == pytest.approx(BURST_RESERVE, rel=0.1)


def test_a_few_requests_say_little_against_the_rate_asked_for() -> None:
    rate = ArrivalRate()
    for _ in range(10):
        rate.observe(0, 0.2)
    assert 0.3 < rate.hz(5.0) < 0.7


def test_the_usual_size_begins_with_that_of_the_library() -> None:
    sizes = RequestSizes()
    assert usual_factor(size_laws(ENTRIES), sizes.usual) == 1.0
    sizes.observe(20.0, 10.0)
    assert 10.0 < sizes.usual < 12.0
    for _ in range(500):
        sizes.observe(20.0, 10.0)
    assert usual_factor(size_laws(ENTRIES), sizes.usual) == pytest.approx(1.75, rel=0.01)


def test_the_level_does_not_follow_the_size_and_the_margin_does() -> None:
    rng = np.random.default_rng(1)
    alike, mixed = AppEstimator(), AppEstimator()
    for n in range(400):
        size = 10.0 * exp(0.385 * rng.standard_normal())
        noise = exp(0.04 * rng.standard_normal())
        factor = size_factor(0.25, 10.0, size)
        for estimator, one in ((alike, 1.0), (mixed, factor)):
            time_ms = 75.0 * noise * one
            estimator.observe(("", "cpu"), time_ms, time_ms + 2.0, 50.0, 0, inf, size_factor=one)
        assert n < 50 or mixed.filters["cpu"].slowdown == pytest.approx(1.5, rel=0.05)
    assert alike.margin("cpu", 0.02) < 1.25
    assert mixed.margin("cpu", 0.02) > 1.6  # 98 % of the sizes are below 22: factor 1.9


@pytest.mark.parametrize("load", [0.2, 0.5, 0.7])
def test_waits_are_as_predicted(load: float) -> None:
    rng = np.random.default_rng(2)
    times = 100.0 * rng.lognormal(-0.5 * 0.35**2, 0.35, 200_000)
    rate_hz = 1e3 * load / 100.0
    gaps = rng.exponential(1e3 / rate_hz, len(times))
    waited, wait = np.empty(len(times)), 0.0
    for n in range(len(times)):
        waited[n] = wait
        wait = max(0.0, wait + times[n] - gaps[n])
    for share in (0.02, 0.05):
        longer = np.mean(waited > wait_ms(100.0, rate_hz, share))
        assert 0.5 * share < longer < 1.45 * share


@given(st.floats(1.0, 3.0), st.floats(0.01, 50.0), st.floats(1.0, 2000.0), st.floats(0.001, 0.2))
def test_the_margin_of_a_queue_is_exact_for_who_just_holds_it(
    margin: float, rate_hz: float, budget_ms: float, tolerance: float
) -> None:
    wanted = queue_margin(margin, rate_hz, budget_ms, tolerance)
    assert wanted >= margin
    time_ms = budget_ms / wanted
    assert time_ms + wait_ms(time_ms, rate_hz, tolerance) <= budget_ms * (1 + 1e-6)
    assert queue_margin(margin, 2.0 * rate_hz, budget_ms, tolerance) >= wanted * (1 - 1e-6)


def test_without_room_or_requests_the_margin_is_that_of_the_noise() -> None:
    assert queue_margin(1.3, 5.0, -1.0, 0.01) == queue_margin(1.3, 0.0, 100.0, 0.01) == 1.3
    assert wait_ms(100.0, 10.0, 0.01) == inf and wait_ms(0.0, 10.0, 0.01) == 0.0


def test_a_set_is_granted_with_times_at_reference_size() -> None:
    bench = TextBench()
    for size in (6.0, 9.0, 14.0) * 10:
        decision = bench.answer(ENTRIES[1], size, slowdown=1.5)
    command = bench.manager._book.sent("text", bench.manager._book.decision_id)
    assert command is not None
    assert command.granted_subnet_ids == tuple(e.id for e in ENTRIES)
    assert command.granted_ms == pytest.approx([1.5 * e.latency_ms for e in ENTRIES], rel=0.1)
    assert set(command.prefetch_subnet_ids) == set(command.granted_subnet_ids)
    assert decision.apps[0].granted_subnet_ids == command.granted_subnet_ids


def test_nothing_above_the_target_and_below_the_floor_is_granted() -> None:
    bench = TextBench(replace(TARGETS, accuracy_target=0.36, accuracy_floor=0.32))
    assert bench.first.apps[0].granted_subnet_ids == ("n1", "n2", "n3")


def test_without_a_law_nothing_is_granted() -> None:
    bench = TextBench()
    plain = tuple(replace(e, reference_size=0.0) for e in ENTRIES)
    decision = bench.tell(SubnetLibrary("text", plain, queued=True))
    assert decision.apps[0].granted_subnet_ids == ()
    assert decision.commands[0].granted_ms == ()


def test_another_time_of_a_granted_network_is_sent_at_once() -> None:
    bench = TextBench()
    for _ in range(20):
        bench.answer(ENTRIES[1], 10.0, after_s=0.05)
    quiet = [bench.answer(ENTRIES[1], 10.0, after_s=0.05) for _ in range(12)]
    assert not all(d.commands for d in quiet)
    slower = [bench.answer(ENTRIES[1], 10.0, slowdown=1.6, after_s=0.05) for _ in range(6)]
    assert any(d.commands and d.commands[0].granted_ms[0] > 26.0 for d in slower)


def test_text_is_never_thinned_out() -> None:
    bench = TextBench(replace(TARGETS, latency_target_ms=15.0, rate_hz=50.0))
    decision = bench.first
    assert not decision.feasible
    assert decision.apps[0].rate_hz == 50.0
    assert decision.commands[0].rate_hz != decision.commands[0].rate_hz  # NaN: the application's own
    cameras = TextBench(replace(TARGETS, latency_target_ms=15.0, rate_hz=50.0), queued=False)
    assert cameras.first.apps[0].rate_hz < 50.0


def test_who_keeps_the_rate_has_no_rung_of_it() -> None:
    bench = TextBench()
    state = bench.manager.state
    problem: Problem = build_problem(state, Parameters(), list(state.apps.values()))
    assert problem.apps[0].keeps_rate and RATE not in ladder(problem).kinds


def test_an_application_that_is_seldom_asked_is_not_held() -> None:
    bench = TextBench()
    for _ in range(20):
        bench.answer(ENTRIES[1], 10.0)
    for _ in range(40):
        bench.tell(after_s=0.5)
    assert bench.manager.state.apps["text"].held is None
    assert bench.manager.state.apps["text"].due_hz() < 1.0


def test_requests_without_a_size_teach_nothing_of_sizes() -> None:
    bench = TextBench()
    bench.answer(ENTRIES[1], nan)
    assert bench.manager.state.apps["text"].sizes == RequestSizes()
