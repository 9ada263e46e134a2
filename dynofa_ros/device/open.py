"""Opens a device backend by its name: auto, sysfs or simulated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dynofa_ros.device.board import load_board, load_power_model, power_model
from dynofa_ros.device.device import Device
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.messages import PowerModel

BACKENDS = ("auto", "sysfs", "simulated")


@dataclass(frozen=True)
class Opened:
    """``simulation`` is the device where it is simulated, else None.

    ``power_model``: of the power file, else of the matched or simulated board, else None.
    """

    device: Device
    power_model: PowerModel | None
    simulation: RealTimeSimulation | None = None


def kernel_root(sysfs_root: str | Path) -> Path:
    """The folder that holds ``sys``: for "/sys" and "/" it is "/".

    Raises ValueError if there is no ``sys`` in it.
    """
    given = Path(os.path.abspath(sysfs_root))
    root = given.parent if given.name == "sys" and not (given / "sys").is_dir() else given
    if not (root / "sys").is_dir():
        raise ValueError(f"sysfs root {given}: must be a folder named sys or hold one")
    return root


def changed_clocks(sysfs_root: str | Path) -> Path | None:
    """File that says that a process changes clocks, or was killed before it could restore them."""
    try:
        backup = ClockBackup(SysFiles(kernel_root(sysfs_root)))
        return backup.path if backup.left_over() else None
    except (OSError, ValueError):  # opening the device says why
        return None


def open_device(
    backend: str,
    board: str,
    sysfs_root: str | Path = "/sys",
    allow_writes: bool = False,
    *,
    override_pinned: bool = False,
    power_file: str | Path = "",
) -> Opened:
    """The device of a backend, ``sysfs``, ``simulated`` or ``auto``.

    ``auto`` is the real one too, but one without clocks and sensors where there are none (yet): a simulated
    board is only ever asked for. ``board`` is that of the simulation. ``power_file``: what its power model is
    read from instead of the board description, empty = nothing. ``allow_writes`` and ``override_pinned``
    (take over clocks that jetson_clocks has pinned) count for the real one only.
    Raises ValueError for an unknown backend or board, a wrong power file or root, nothing to be found below
    it, or clocks that another process controls (BackupError); OSError if the state folder cannot be used.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be {', '.join(BACKENDS)}, not {backend!r}")
    measured = load_power_model(power_file) if power_file else None
    if backend == "simulated":
        description = load_board(board)
        simulation = RealTimeSimulation(SimulatedDevice(description))
        return Opened(simulation, measured or power_model(description), simulation)
    try:
        files = SysFiles(kernel_root(sysfs_root))
    except ValueError:
        if backend == "sysfs":
            raise
        files = SysFiles(Path(sysfs_root))
    found = discover(files)
    if backend == "sysfs" and not (found.domains or found.rails or found.zones):
        raise ValueError(f"{files.root}: no clock and no sensor found; backend simulated works everywhere")
    device = SysfsDevice(files, allow_writes=allow_writes, override_pinned=override_pinned, inventory=found)
    matched = power_model(device.description) if device.description else None
    return Opened(device, measured or matched)
