"""What the device node shows of a real device besides its samples and clocks."""

from __future__ import annotations

from pathlib import Path

from dynofa_ros.device.linux.battery import BatterySample, find_batteries, read_battery
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.inventory import Inventory, PowerMode
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.open import kernel_root


class KernelView:
    """``pinned``: the clocks were found as jetson_clocks leaves them."""

    def __init__(self, device: SysfsDevice) -> None:
        self._device = device
        self._files = device.files
        self._batteries = find_batteries(self._files)
        self.pinned = device.inventory.clocks_pinned

    @property
    def inventory(self) -> Inventory:
        """As of the last search."""
        return self._device.inventory

    def batteries(self) -> tuple[BatterySample, ...]:
        """Those found at start, read now."""
        return tuple(read_battery(self._files, name) for name in self._batteries)

    def mode(self) -> PowerMode | None:
        """nvpmodel's mode now."""
        return self._device.power_mode()


def changed_clocks(sysfs_root: str) -> Path | None:
    """File that says that a process changes clocks, or was killed before it could give them back."""
    try:
        backup = ClockBackup(SysFiles(kernel_root(sysfs_root)))
        return backup.path if backup.left_over() else None
    except (OSError, ValueError):  # opening the device says why
        return None
