"""The real device: what the kernel's files show and let be set."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ, matching_board
from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.linux.battery import BatterySample, find_batteries, read_battery
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.clock_writer import ClockWriter
from dynofa_ros.device.linux.discovery_clocks import CPU, cpu_numbers, cpus_are_off
from dynofa_ros.device.linux.discovery_limits import PowerModes
from dynofa_ros.device.linux.inventory import ClockDomain, Inventory, PowerMode
from dynofa_ros.device.linux.sensors import Sensors
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import DeviceCapabilities, DomainCapability, DomainState, FrequencyBand

SOURCE = "sysfs"
WRITES_OFF = "writes are off (parameter allow_writes)"
PINNED = "left alone: every clock is pinned as jetson_clocks does it; `sudo jetson_clocks --restore` first"


class SysfsDevice:
    """Implements :class:`dynofa_ros.device.device.Device`.

    With ``allow_writes`` it first restores what a killed process left changed. Clocks are restored by
    `restore` and `close`, on leaving a ``with`` block, and when the interpreter ends or drops the object;
    not by signals, which the program has to turn into one of these.
    ``description``: the board description that the computer's names match, None without one.
    ``found_pinned``: every clock was found as jetson_clocks leaves it.
    Raises BoardError (a ValueError) for a description that cannot be used; with ``allow_writes`` also
    BackupError (a ValueError) if another process controls the clocks, OSError if the state folder cannot be
    used.
    """

    def __init__(
        self,
        files: SysFiles,
        *,
        allow_writes: bool = False,
        override_pinned: bool = False,
        inventory: Inventory | None = None,
        backup: ClockBackup | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = files
        self._sensors = sensors = Sensors(files, inventory, clock_s)
        self._inventory = self._sensors.inventory
        self.description = matching_board(self._inventory.identities)
        self._allow_writes = allow_writes
        self.found_pinned = self._inventory.clocks_pinned
        self._pinned = self.found_pinned and not override_pinned
        self._batteries: tuple[str, ...] = ()
        self._modes = modes = PowerModes(files, self._inventory.domains)
        # The writer must not know this object: it restores the clocks when this object is gone.
        self._writer = ClockWriter(
            files,
            self._inventory.domains,
            backup or ClockBackup(files),
            read_mode=modes.now,
            held_down=lambda: any(
                files.number(sign.path) for sign in sensors.inventory.throttle_signs if not sign.counts
            ),
            pinned=self.found_pinned,
            override_pinned=override_pinned,
            clock_s=clock_s,
        )
        # A forked child must not restore its parent's clocks.
        self._at_exit = weakref.finalize(self, _restore_own, self._writer, os.getpid())
        if allow_writes:
            self._writer.recover()

    @property
    def inventory(self) -> Inventory:
        """As of the last search."""
        return self._sensors.inventory

    def capabilities(self) -> DeviceCapabilities:
        """Of what was found so far; a GPU may appear long after the start, when it is first used.

        The CPUs of a clock are those that are online now, and its table ends where the power mode caps it.
        """
        found, mode = self._inventory, self._modes.now()
        online = cpu_numbers(self.files.text(f"{CPU}/online"))
        return DeviceCapabilities(
            found.board or "unknown",
            tuple(self._capability(domain, online, mode) for domain in found.domains),
            found.processors,
            SOURCE,
            description=self.description.name if self.description else "",
        )

    def power_mode(self) -> PowerMode | None:
        """nvpmodel's mode now."""
        return self._modes.now()

    def batteries(self) -> tuple[BatterySample, ...]:
        """Those found so far, read now; one that is gone is not present."""
        self._batteries = tuple(dict.fromkeys([*self._batteries, *find_batteries(self.files)]))
        return tuple(read_battery(self.files, name) for name in self._batteries)

    def read(self) -> DeviceSample:
        """What the sensors say; what cannot be read is NaN."""
        sample = self._sensors.read()
        if self._sensors.inventory is not self._inventory:
            self._inventory = self._sensors.inventory
            self._modes.update(self._inventory.domains)
            self._writer.update(self._inventory.domains)
        return sample

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[DomainState, ...]:
        if self._allow_writes:
            return self._writer.apply(bands)
        refused = (self._writer.refused(band, f"{band.domain}: {WRITES_OFF}") for band in bands)
        return (*self._writer.applied(), *refused)

    def applied(self) -> tuple[DomainState, ...]:
        return self._writer.applied()

    def restore(self) -> None:
        """Restore the clocks found; those that cannot be restored now stay on disk and are retried by
        `applied`, the next start and `dynofa device restore`."""
        self._writer.restore()

    def close(self) -> None:
        """Restore, and close all files."""
        self._writer.restore()
        self._sensors.close()
        self._at_exit.detach()

    def __enter__(self) -> SysfsDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _capability(
        self, domain: ClockDomain, online: tuple[int, ...], mode: PowerMode | None
    ) -> DomainCapability:
        reasons = [domain.reason] if domain.reason else []
        table, off = domain.frequencies_hz, cpus_are_off(self.files, domain)
        cap_hz = (mode.cap(domain.name).max_hz if mode else None) or math.inf
        allowed = tuple(hz for hz in table if hz <= cap_hz + FREQUENCY_TOLERANCE_HZ) or table[:1]
        if allowed != table:
            reasons.append(f"cut to {allowed[-1]} by {mode}")
        if off:
            reasons.append("its CPUs are off")
        if not self._allow_writes:
            reasons.append(WRITES_OFF)
        elif self._pinned and domain.writable:
            reasons.append(PINNED)
        can_write = self._allow_writes and domain.writable and not self._pinned and not off
        return DomainCapability(
            domain.name,
            allowed,
            cpus=tuple(cpu for cpu in domain.cpus if cpu in online) if online else domain.cpus,
            can_read=domain.readable and not off,
            can_write=can_write,
            reason="; ".join(reasons),
        )


def _restore_own(writer: ClockWriter, owner: int) -> None:
    if os.getpid() == owner:
        with suppress(OSError):
            writer.restore()
