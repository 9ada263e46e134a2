"""What others do on a processor, beside frames that are known when they end."""

from __future__ import annotations

import pytest

from dynofa_ros.manager.clocks import Clocks
from dynofa_ros.manager.loads import Loads
from dynofa_ros.messages import DomainTelemetry

HZ, STEP_S = 1e9, 0.2


def worked_s(until_s: float, frame_s: float, period_s: float) -> float:
    """Seconds of work on frames that begin once a period."""
    return until_s // period_s * frame_s + min(until_s % period_s, frame_s)


def background(frame_s: float, period_s: float, others: float, seconds: float = 30.0) -> list[float]:
    """Share of the clock that others are believed to take, step by step after 10 s."""
    loads, clocks, found = Loads(), Clocks(), []
    clocks.observe(0, "cpu0", HZ)
    for step in range(1, round(seconds / STEP_S)):
        now_s = step * STEP_S
        for part in (now_s - 0.1, now_s):
            own = (worked_s(part, frame_s, period_s) - worked_s(part - 0.1, frame_s, period_s)) / 0.1
            busy = others + (1.0 - others) * own
            loads.observe([DomainTelemetry("cpu0", HZ, 100.0 * busy)], 0.1)
        before, after = (int((t - frame_s + 1e-9) // period_s) for t in (now_s - STEP_S, now_s))
        for _ in range(after - before):
            loads.count("cpu", 1e3 * frame_s * (1.0 - others), 1e3 * frame_s)
        loads.close_step(STEP_S, clocks)
        found += [loads.background_hz.get("cpu0", 0.0) / HZ] if now_s > 10.0 else []
    return found


@pytest.mark.parametrize(("frame_s", "period_s"), [(0.05, 0.1), (0.4, 1.0), (1.1, 2.0), (1.7, 2.0)])
def test_a_frame_under_way_is_not_taken_for_the_work_of_others(frame_s: float, period_s: float) -> None:
    assert max(background(frame_s, period_s, 0.0)) < 0.1


@pytest.mark.parametrize(("frame_s", "period_s"), [(0.05, 0.1), (0.4, 1.0), (1.1, 2.0)])
def test_the_work_of_others_is_seen_beside_frames_of_any_length(frame_s: float, period_s: float) -> None:
    found = background(frame_s, period_s, 0.3)
    assert 0.15 < min(found) and max(found) < 0.4


def test_without_frames_all_is_the_work_of_others() -> None:
    assert background(0.0, 1.0, 0.3)[-1] == pytest.approx(0.25, abs=0.02)
