"""The simulated device in real time."""

from __future__ import annotations

import math

import pytest

from dynofa_ros.device.board import load_board
from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.messages import SimulatedLoad


def device() -> SimulatedDevice:
    return SimulatedDevice(load_board("xavier_nx"))


class FakeClock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_real_time_derives_utilization_from_frames_and_load():
    now = FakeClock()
    live = RealTimeSimulation(device(), now)
    for _ in range(30):
        now.now_s += 0.1
        live.add_frame("front", "cpu", 0.04)
        live.read()
    now.now_s += 0.1
    sample = {domain.domain: domain.utilization for domain in live.read().domains}
    assert sample["cpu0"] == sample["cpu4"] == pytest.approx(0.4)
    assert sample["gpu"] == sample["emc"] == 0.0
    live.set_load(SimulatedLoad("gpu", 70.0, 0.4))
    assert [d.external_slowdown for d in live.applied() if d.domain == "gpu"] == [0.4]
    now.now_s += 0.1
    assert {d.domain: d.utilization for d in live.read().domains}["gpu"] == pytest.approx(0.7)


def test_a_frame_on_a_cluster_keeps_as_many_of_its_cores_busy_as_it_has_threads():
    now = FakeClock()
    live = RealTimeSimulation(device(), now)
    for _ in range(30):
        now.now_s += 0.1
        live.add_frame("front", "cpu", 0.04, "cpu2", 1)
        live.add_frame("rear", "cpu", 0.04, "cpu4", 2)
        live.read()
    now.now_s += 0.1
    sample = {domain.domain: domain.utilization for domain in live.read().domains}
    assert [sample[name] for name in ("cpu0", "cpu2", "cpu4")] == pytest.approx([0.0, 0.2, 0.4])
    live.add_frame("rear", "cpu", 0.04)  # on all of the CPU from now on
    assert {d.domain: d.cpus for d in live.capabilities().domains}["cpu2"] == (2, 3)


def test_real_time_does_not_simulate_a_long_stop():
    now, simulated = FakeClock(), device()
    live = RealTimeSimulation(simulated, now)
    now.now_s += 1e6
    live.read()
    assert simulated.now_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda live: live.add_frame("a", "dsp", 0.1), "no processor 'dsp'"),
        (lambda live: live.add_frame("a", "cpu", 0.1, "cpu9"), "no processor 'cpu9'"),
        (lambda live: live.add_frame("a", "cpu", math.nan), "busy time"),
        (lambda live: live.set_load(SimulatedLoad("dsp", 10.0)), "unknown clock domain 'dsp'"),
        (lambda live: live.set_load(SimulatedLoad("gpu", 110.0)), "0 to 100 %, not 110"),
        (lambda live: live.set_load(SimulatedLoad("gpu", 10.0, math.nan)), "slowdown"),
    ],
)
def test_real_time_refuses_wrong_inputs(call, named):
    with pytest.raises(ValueError, match=named):
        call(RealTimeSimulation(device()))
