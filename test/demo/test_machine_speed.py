"""The measurement at the start of a demo, on a machine that has other work to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dynofa_ros.demo import machine_speed
from dynofa_ros.library.library import load_library
from dynofa_ros.library.profiling import WARM_UP

USUAL_NS, SLOW_NS = 2_000_000, 3_000_000  # of an inference, whatever runs


class SlowStart:
    """Stands for the module `time`: inferences take longer until ``slow`` of them have ended."""

    def __init__(self, slow: int) -> None:
        self._slow, self._calls, self._ns = slow, 0, 0

    def thread_time_ns(self) -> int:
        self._calls += 1
        if self._calls % 2 == 0:  # the end of an inference
            self._ns += SLOW_NS if self._calls <= 2 * self._slow else USUAL_NS
        return self._ns


@pytest.mark.parametrize("disturbed", [0.0, 0.6, 0.7])
def test_a_busy_start_makes_the_emulated_device_no_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disturbed: float
) -> None:
    """The share of the rounds that other work disturbs changes nothing: the rest of them counts."""
    entries = len(
        load_library(machine_speed.share_file(*machine_speed.demo_library("ofa_mbv3_demo"))).entries
    )
    timed = entries * machine_speed.ROUNDS
    assert WARM_UP * entries % 2 == 0  # each asks the clock once, as nothing is timed
    clock = SlowStart(round(disturbed * timed) + WARM_UP * entries // 2)
    monkeypatch.setattr(machine_speed, "time", SimpleNamespace(thread_time_ns=clock.thread_time_ns))
    monkeypatch.setattr(machine_speed, "PAUSE_S", 0.0)
    out = tmp_path / "library.yaml"
    assert machine_speed.measure_demo("ofa_mbv3_demo", "ofa_mbv3_demo", out) == USUAL_NS / 1e6
    assert load_library(out).entries[-1].latency_ms.median == USUAL_NS / 1e6
