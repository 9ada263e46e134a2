"""Ten minutes on a virtual board, on its own time: no order leaves the power mode, no limit is left wrong."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import measure_virtual_board as tool
import pytest

from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.virtual.kernel import VirtualKernel
from dynofa_ros.device.virtual.tree import load_tree, mode_caps
from dynofa_ros.manager.commands import CommandBook
from dynofa_ros.messages import DomainStatus, FrequencyBand, SimulatedLoad

MODES = tool.MODES
STEP_S = 0.1  # the manager's period, and the device node's


class Run:
    """The device under a manager that asks for something new now and then, and renews in between."""

    def __init__(self, board: str, folder: Path, seed: int) -> None:
        self.now_s = 1000.0
        self.kernel = VirtualKernel(*load_tree(board), self.clock_s)
        files = tool.KernelFiles(self.kernel)
        backup = ClockBackup(files, folder)
        self.device = SysfsDevice(files, allow_writes=True, backup=backup, clock_s=self.clock_s)
        self.backup = backup
        self.control = ClockControl(self.device, 5.0)
        self.book = CommandBook()
        self.choice = random.Random(seed)
        self.wanted: dict[str, tuple[float, float]] = {}
        self.outside_s: dict[str, float] = {}
        self.longest_s = 0.0
        self.reasons: set[str] = set()
        self.capabilities = self.device.capabilities()

    def clock_s(self) -> float:
        return self.now_s

    def play(self, order: str) -> None:
        self.kernel.play(order)

    def run(self, seconds: float) -> None:
        for step in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            if self.choice.random() < STEP_S / 3.0:
                self._want()
            self._command()
            self.control.check(self.now_s)
            self.device.read()
            if step % 5 == 0:
                self.capabilities = self.device.capabilities()
            self.reasons |= {
                re.sub("[0-9]+", "#", d.reason) for d in self.control.state().domains if d.reason
            }
            self._judge()

    def _want(self) -> None:
        domain = self.choice.choice([d.domain for d in self.capabilities.domains])
        ends = sorted((self.choice.random(), self.choice.random()))
        self.wanted[domain] = (ends[1], ends[1]) if self.choice.random() < 0.6 else (ends[0], ends[1])

    def _command(self) -> None:
        bands = []
        for domain in self.capabilities.domains:
            table = domain.frequencies_hz
            if domain.can_write and table and domain.domain in self.wanted:
                low, high = (
                    table[min(int(x * len(table)), len(table) - 1)] for x in self.wanted[domain.domain]
                )
                bands.append(FrequencyBand(domain.domain, low, high))
        taken = self.control.state().decision_id
        _, command = self.book.issue(round(1e9 * self.now_s), (), tuple(bands), STEP_S, taken)
        if command is not None:
            self.control.command(command.decision_id, command.bands, command.valid_for_s, self.now_s)

    def caps_hz(self) -> dict[str, int]:
        status = self.kernel.read("/var/lib/nvpmodel/status")
        number = int(re.findall(r"pmode:(\d+)", status)[0])
        name = next(name for name, mode in self.kernel.board.modes.items() if mode.id == number)
        return {domain: cap for domain, _, cap in mode_caps(self.kernel.tree, self.kernel.board, name)}

    def _judge(self) -> None:
        for domain, cap_hz in self.caps_hz().items():
            above = self.kernel._asked[domain].max_hz > cap_hz + 1000
            self.outside_s[domain] = self.outside_s.get(domain, 0.0) + STEP_S if above else 0.0
            self.longest_s = max(self.longest_s, self.outside_s[domain])


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("board", sorted(MODES))
def test_no_order_outside_the_mode_and_no_limit_left_wrong(board: str, seed: int, tmp_path: Path) -> None:
    run = Run(board, tmp_path, seed)
    modes = [name for name in MODES[board] if name in run.kernel.board.modes]
    assert len(modes) >= 2
    for domain in run.kernel.board.domains:
        run.kernel.simulation.set_load(SimulatedLoad(domain, 60.0))
    run.play(f"mode {modes[0]}")
    domains = list(run.kernel._asked)
    for round_number in range(30):  # of 20 s
        run.play(f"mode {modes[round_number % len(modes)]}")
        run.run(run.choice.uniform(1.0, 5.0))
        if round_number % 3 == 1:  # a second writer lowers a maximum
            domain = run.choice.choice(domains)
            run.play(f"limit {domain} {run.choice.choice(run.kernel._tables[domain][:6])}")
        run.run(5.0)
        if round_number % 4 == 2:
            run.play("cpu 1 off")
            run.run(2.0)
            run.play("cpu 1 on")
        if round_number in (10, 20):
            run.play(f"ambient {99 if round_number == 10 else 25}")
        if round_number == 24:
            run.play("jetson_clocks")
        run.run(9.0)
    assert run.longest_s <= 2.0
    assert any("nvpmodel mode" in reason for reason in run.reasons)
    assert any("another program" in reason for reason in run.reasons)
    # A quiet end: the last mode sets all limits, and the manager is gone.
    for mode in (modes[1], modes[0]):
        run.play(f"mode {mode}")
        run.run(3.0)
    caps = run.caps_hz()
    left = {domain: run.kernel.limits_hz(domain) for domain in domains}
    run.control.release()
    run.now_s += 5.0
    run.control.state()
    for domain, cap_hz in caps.items():
        low, high = run.kernel.limits_hz(domain)
        table = run.kernel._tables[domain]
        held = "another program" in run.control.state().message and (low, high) == left[domain]
        assert held or high == max(hz for hz in table if hz <= cap_hz), domain
    assert not run.backup.left_over()
    assert {d.status for d in run.control.state().domains} == {DomainStatus.DISABLED}


@pytest.mark.parametrize("board", sorted(MODES))
def test_a_robot_misses_on_a_virtual_board_what_it_misses_on_the_simulated_device(board: str) -> None:
    """Twice two minutes of what docs/virtual_board.md plays for ten: in one alone they differ by chance."""
    results = [tool.compare(board, 120.0, seed=seed) for seed in (1, 4)]
    difference = sum(result["difference"] for result in results) / len(results)
    for result in results:
        check_run(result | {"difference": difference})


def check_run(result: dict[str, Any]) -> None:
    assert {order.split()[0] for _, order in result["script"]} == {"mode", "limit", "cpu", "ambient"}
    virtual = result["virtual"]
    assert virtual["outside_mode_s"] <= tool.LONGEST_OUTSIDE_S and not virtual["limits_left_wrong"]
    # The SoC throttles for a quarter of the time, not for a fifteenth as in ten minutes.
    assert abs(result["difference"]) <= 2.0 * tool.LARGEST_DIFFERENCE
    assert result["virtual"]["frames"] == result["simulated"]["frames"] > 1400
    assert any("another program" in remark for remark in result["virtual"]["remarks"])
