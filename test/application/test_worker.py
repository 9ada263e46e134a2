"""Slot, rate gate, worker, counters and emulation: the pipeline of an application."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.application import emulation
from dynofa_ros.application.emulation import run_stretched, stretch_factor
from dynofa_ros.application.worker import Counters, LatestSlot, Problem, RateGate, Worker, stages_ms
from dynofa_ros.messages import DomainState


def accepted(rate_hz: float, arrivals_s: list[float]) -> int:
    gate = RateGate(rate_hz)
    return sum(gate.accepts(int(t * 1e9)) for t in arrivals_s)


@pytest.mark.parametrize(
    ("camera_hz", "rate_hz", "expected"), [(30, 15, 150), (15, 15, 150), (10, 15, 100), (60, 15, 150)]
)
def test_the_gate_thins_to_its_rate(camera_hz, rate_hz, expected):
    assert abs(accepted(rate_hz, [i / camera_hz for i in range(10 * camera_hz)]) - expected) <= 1


@given(st.lists(st.floats(-0.12, 0.12), min_size=100, max_size=100))
def test_jitter_of_the_camera_loses_no_frame_of_its_own_rate(jitter):
    """The first frame sets the phase: with 12 % of jitter on either side no frame comes 30 % early."""
    arrivals = [(i + j) / 15 for i, j in enumerate(jitter, start=1)]
    assert accepted(15, arrivals) == 100


def test_a_stream_that_paused_is_not_caught_up_with():
    arrivals = [0.0, 1 / 15, 5.0, 5.0 + 1 / 60, 5.0 + 2 / 60, 5.0 + 4 / 60]
    assert accepted(15, arrivals) == 4


def test_a_gate_that_begins_with_a_gap_lets_the_one_in_work_be_answered():
    gate = RateGate(9.375, skip_first=True)  # 15 of 16 at 10 Hz
    answered = [gate.accepts(int(n * 1e8)) for n in range(33)]
    assert [n for n, due in enumerate(answered) if not due] == [0, 16, 32]


def test_the_slot_keeps_the_newest_and_says_what_it_replaced():
    slot: LatestSlot[int] = LatestSlot()
    assert [slot.put(i) for i in range(3)] == [False, True, True]
    assert slot.take() == 2 and not slot.put(3)


def test_the_worker_answers_and_ends():
    slot: LatestSlot[int] = LatestSlot()
    answered, done = [], threading.Event()
    worker = Worker(slot, lambda frame: (answered.append(frame), done.set()))
    slot.put(7)
    assert done.wait(5) and answered == [7]
    assert worker.stop(5)


def test_counts_go_into_one_monitor_and_the_totals_stay():
    counters = Counters()
    counters.drop(), counters.drop(), counters.fail(Problem("no image", 0, malformed=True))
    assert counters.answer(False) == (1, 2, 1) and counters.answer(False) == (2, 0, 0)
    counters.fail(Problem("out of memory", 1, malformed=False))
    assert counters.answer(True) == (3, 1, 0)
    assert (counters.dropped, counters.malformed, counters.failed, counters.answered) == (2, 1, 1, 3)


def test_what_is_not_answered_is_a_miss_at_once_and_waits():
    counters = Counters()
    counters.wait(5)
    counters.fail(Problem("no engine", 6, malformed=False))
    counters.wait(7)
    assert list(counters.recent_misses) == [True] and counters.unanswered_ns == 5
    counters.answer(False)
    assert list(counters.recent_misses) == [True, False] and counters.unanswered_ns is None


def test_the_stages_of_a_request_add_up():
    stages = stages_ms(1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000)
    assert stages.pop("latency_ms") == sum(stages.values()) == 15.0
    assert list(stages.values()) == [1.0, 2.0, 4.0, 8.0]


def clock(hz: float, slowdown: float = 0.0, domain: str = "cpu0") -> DomainState:
    return DomainState(domain, 0, 0, hz, external_slowdown=slowdown)


def test_the_factor_of_the_contract():
    """latency = real x emulated_slowdown x (1 + external) x (alpha + beta * f_ref / f)"""
    factor = stretch_factor(
        [clock(1e9, 0.5)], alpha_ms=0.2, beta_ms=0.8, reference_hz=2e9, emulated_slowdown=10
    )
    assert factor == pytest.approx(10 * 1.5 * (0.2 + 0.8 * 2))


def test_the_slowest_clock_and_the_heaviest_load_count():
    clocks = [clock(2e9, 0.0), clock(1e9, 0.1, "cpu2"), clock(1.5e9, 0.4, "cpu4")]
    assert stretch_factor(clocks, 0, 1, 2e9, 1) == pytest.approx(2 * 1.4)


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True))
def test_unknown_states_never_give_an_unusable_factor(hz, slowdown):
    factor = stretch_factor([clock(hz, slowdown)], 0.1, 0.9, 2e9, 20)
    assert factor > 0 and not math.isnan(factor)


def test_without_a_device_the_top_clock_is_assumed():
    assert stretch_factor([], 0.1, 0.9, 2e9, 20) == pytest.approx(20)


class SomeTime:
    """Stands for the module `time`: work and the kernel's other work pass by hand, sleep at once."""

    def __init__(self) -> None:
        self.thread_ns = self.wall_ns = 0

    def perf_counter_ns(self) -> int:
        return self.wall_ns

    def thread_time_ns(self) -> int:
        return self.thread_ns

    def sleep(self, seconds: float) -> None:
        self.wall_ns += round(seconds * 1e9) + 1

    def work(self, ms: int, others_ms: int = 0) -> None:
        self.thread_ns += ms * 1_000_000
        self.wall_ns += (ms + others_ms) * 1_000_000


@pytest.mark.parametrize(("threads", "due_ms"), [(1, (10, 22, 32)), (2, (10, 40, 50))])
def test_a_network_of_several_parts_runs_in_one_go_and_emits_what_is_due(
    monkeypatch: pytest.MonkeyPatch, threads: int, due_ms: tuple[int, ...]
) -> None:
    """A pause between the parts would find cold caches: the device that is emulated has none."""
    time, begun_ns, emitted = SomeTime(), [], []
    monkeypatch.setattr(emulation, "time", time)

    def infer(emit: Callable[[str], None]) -> str:
        for part, others_ms in (("first", 0), ("second", 2), ("third", 0)):
            begun_ns.append(time.wall_ns)
            time.work(1, others_ms)
            emit(part)
        return "all"

    outputs = run_stretched(infer, lambda part: emitted.append((part, time.wall_ns)), 10.0, threads)
    assert outputs == "all"
    assert begun_ns == [0, 1_000_000, 4_000_000], "nothing sleeps in between"
    assert [part for part, _ in emitted] == ["first", "second", "third"]
    # The work of one thread is stretched, not the time the kernel gave its core to others.
    assert [ns / 1e6 for _, ns in emitted] == pytest.approx(due_ms, abs=1e-3)
    assert time.wall_ns == emitted[-1][1]


def test_a_device_is_never_faster_than_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    time = SomeTime()
    monkeypatch.setattr(emulation, "time", time)
    run_stretched(lambda emit: time.work(3), lambda part: None, 0.5, 1)
    assert time.wall_ns == 3_000_000
