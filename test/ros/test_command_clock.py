"""The clock of dead-man times: steady, or of the simulation, without its jumps."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.time import Time

from dynofa_ros.device.board import load_board
from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.manager.commands import RENEW_S, VALID_FOR_S
from dynofa_ros.messages import FrequencyBand
from dynofa_ros.ros import command_clock
from dynofa_ros.ros.command_clock import CommandClock
from dynofa_ros.ros.diagnostics import Level, Status

S = 1_000_000_000
WATCH_S, STEP_S = 0.1, 0.2
BAND = FrequencyBand("gpu", 1_109_250_000, 1_109_250_000)


class World:
    """Wall time and a simulation at ``factor`` of it, 0 = paused. It is a node's clock as rclpy has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, use_sim_time: bool = True) -> None:
        self.wall_ns, self.simulated_ns, self.factor = 77 * S, 0, 1.0
        self.ros_time_is_active, self.sources = use_sim_time, 1
        monkeypatch.setattr(command_clock, "time", SimpleNamespace(monotonic_ns=lambda: self.wall_ns))
        clock: Any = self
        self.command_clock = CommandClock(clock, lambda: self.sources)
        self.device = SimulatedDevice(load_board("xavier_nx"))
        self.control = ClockControl(self.device, VALID_FOR_S)
        self.managed, self.sent_ns, self.decision_id = True, -10 * S, 0

    def now(self) -> Time:
        return Time(nanoseconds=self.simulated_ns if self.ros_time_is_active else self.wall_ns)

    def run(self, seconds: float) -> int:
        """How often the dead-man fired. The manager renews by its node clock, as `CommandBook` does."""
        before = self.control.counts.fallbacks
        for tick in range(round(seconds / WATCH_S)):
            self.wall_ns += round(WATCH_S * S)
            self.simulated_ns += round(WATCH_S * S * self.factor)
            now_ns = self.now().nanoseconds
            due = not 0 <= now_ns - self.sent_ns < RENEW_S * S
            if self.managed and due and tick % round(STEP_S / WATCH_S) == 0:
                self.sent_ns, self.decision_id = now_ns, self.decision_id + 1
                self.control.command(self.decision_id, [BAND], VALID_FOR_S, self.command_clock() / S)
            self.control.check(self.command_clock() / S)
        return self.control.counts.fallbacks - before


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0, 5.0, 40.0])
def test_the_knobs_stay_while_the_manager_runs(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Paused, in slow motion, and faster than real."""
    world = World(monkeypatch)
    assert world.run(3.0) == 0
    world.factor = factor
    assert world.run(30.0) == 0
    world.factor = 1.0
    assert world.run(12.0) == 0


def test_a_dead_manager_is_noticed_in_time_of_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.run(3.0)
    world.managed, world.factor = False, 0.0
    assert world.run(60.0) == 0, "paused: the knobs stay"
    world.factor = 0.5
    assert world.run(2 * VALID_FOR_S - 2 * RENEW_S - 1.0) == 0
    assert world.run(2 * RENEW_S + 2.0) == 1


def test_without_the_time_of_a_simulation_it_is_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, use_sim_time=False)
    world.factor = 0.0
    assert world.run(20.0) == 0
    world.managed = False
    assert world.run(VALID_FOR_S - RENEW_S - 0.5) == 0 and world.run(RENEW_S + 1.0) == 1


@pytest.mark.parametrize("jump_s", [1.7e9, 3600.0, -2.5])
def test_jumps_of_the_simulation_are_no_silence(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """Its first message of all, a recording that skips ahead, and one that begins anew."""
    world = World(monkeypatch)
    world.run(3.0)
    world.simulated_ns += round(jump_s * S)
    assert world.run(20.0) == 0


def test_a_simulator_that_never_came_or_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.command_clock.status().level == Level.ERROR
    world.simulated_ns = 5 * S
    assert world.command_clock.status() == Status(Level.OK, "time of the simulation")
    world.sources = 0
    status = world.command_clock.status()
    assert status.level == Level.WARN and "nobody publishes /clock any more" in status.message
    world.sources = 1
    assert world.command_clock.status().level == Level.OK
    assert World(monkeypatch, use_sim_time=False).command_clock.status().message == "system time"


def test_it_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    readings = []
    for simulated_s, active in ((5, True), (6, True), (2, True), (2, False), (9, True), (9.5, True)):
        world.simulated_ns, world.ros_time_is_active = round(simulated_s * S), active
        world.wall_ns += S // 10
        readings.append(world.command_clock())
    assert all(before <= after for before, after in pairwise(readings))
    assert readings[1] - readings[0] == S and readings[-1] - readings[-2] == S // 2
