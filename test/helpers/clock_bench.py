"""The clock writer on a fake kernel, and time."""

from __future__ import annotations

from pathlib import Path

import fake_kernel
from fake_kernel import GPU, FakeKernel, limits_on_disk, make_board, policy

from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.clock_writer import ClockWriter
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.discovery_limits import power_mode
from dynofa_ros.messages import DomainState, FrequencyBand


class Bench:
    """A fake kernel, the writer on it, and time."""

    def __init__(
        self,
        folder: Path,
        version: tuple[int, int] = (5, 10),
        conf: str = "",
        kernel_type=FakeKernel,
        **options,
    ) -> None:
        self.root = make_board(folder / "root")
        if conf:
            fake_kernel.put(self.root, "/etc/nvpmodel.conf", conf)
        self.at_start = limits_on_disk(self.root)
        self.kernel: FakeKernel = kernel_type(self.root, version)
        self.inventory = discover(self.kernel)
        self.backup = ClockBackup(self.kernel, folder / "state")
        self.writer = ClockWriter(
            self.kernel,
            self.inventory.domains,
            self.backup,
            read_mode=lambda: power_mode(self.kernel, self.inventory.domains),
            held_down=lambda: any(self.kernel.number(s.path) for s in self.inventory.throttle_signs),
            clock_s=lambda: self.kernel.now_s,
            sleep=self.wait,
            **options,
        )

    def wait(self, seconds: float) -> None:
        self.kernel.now_s += seconds

    def apply(self, *bands: FrequencyBand) -> dict[str, DomainState]:
        """Refusals replace the state of their domain."""
        return {state.domain: state for state in self.writer.apply(bands)}

    def follow(self, seconds: float = 0.5) -> dict[str, DomainState]:
        """What is reported after some time of looking every 10 ms."""
        for _ in range(round(seconds / 0.01)):
            self.wait(0.01)
            self.writer.applied()
        return self.state()

    def state(self) -> dict[str, DomainState]:
        return {state.domain: state for state in self.writer.applied()}

    def limits(self, name: str) -> tuple[int, int]:
        return self.kernel.limits(GPU if name == "gpu" else policy(int(name[3:])))
