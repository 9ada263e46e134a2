"""Saves the limits found of a clock to disk before its first change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ
from dynofa_ros.device.linux.clock_backup import ClockBackup, SavedClock
from dynofa_ros.device.linux.clock_limits import read_limits
from dynofa_ros.device.linux.clock_plan import limit_files
from dynofa_ros.device.linux.inventory import ClockDomain, PowerMode
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import FrequencyBand


class FoundClocks:
    """The clocks as they were, and the power mode that rules them.

    ``read_mode``: nvpmodel's mode now. ``held_down``: whether heat or power holds clocks down now.
    """

    def __init__(
        self,
        files: SysFiles,
        backup: ClockBackup,
        read_mode: Callable[[], PowerMode | None] = lambda: None,
        held_down: Callable[[], bool] = lambda: False,
    ) -> None:
        self._files = files
        self._backup = backup
        self._read_mode = read_mode
        self.held_down = held_down
        self.mode = read_mode()

    def read_mode(self) -> PowerMode | None:
        """Look at the power mode again."""
        self.mode = self._read_mode()
        return self.mode

    def rule(self, domain: str) -> tuple[int, FrequencyBand] | None:
        """What the power mode says about a domain, to be compared."""
        return (self.mode.number, self.mode.cap(domain)) if self.mode else None

    def has(self, domain: str) -> bool:
        """Whether the domain is on disk, so that it may be changed."""
        return any(clock.domain == domain for clock in self._backup.clocks)

    def save(self, domains: Sequence[ClockDomain]) -> str:
        """Put what is found of these domains on disk, those that are not yet, all at once.

        Returns why one of them could not be, which is not to be changed then: a file that cannot be read, or
        a maximum that may be the one of throttling and would become permanent when it is restored.
        Raises OSError or BackupError if the state file cannot be used.
        """
        self._backup.acquire()
        found: list[SavedClock] = []
        reason = ""
        for domain in domains:
            if self.has(domain.name):
                continue
            paths = limit_files(domain)
            try:
                limits = read_limits(self._files, paths)
            except (OSError, ValueError) as error:
                reason = str(error)
                continue
            if self._may_be_throttled(domain, limits):
                reason = "heat or power holds the clock down, its own limits are not known until then"
                continue
            found.append(
                SavedClock(
                    **vars(paths),
                    low=limits.min_hz // domain.unit_hz,
                    high=limits.max_hz // domain.unit_hz,
                    lowest=(domain.hardware_min_hz or 0) // domain.unit_hz,
                    highest=(domain.hardware_max_hz or 0) // domain.unit_hz,
                    power_mode=self.mode.number if self.mode else None,
                )
            )
        self._backup.save(found)
        if not self._backup.clocks:
            with suppress(OSError):
                self._backup.release()
        return reason

    def _may_be_throttled(self, domain: ClockDomain, limits: FrequencyBand) -> bool:
        """The kernel shows the lowest of all maxima, its own thermal one included."""
        cap_hz = self.mode.cap(domain.name).max_hz if self.mode else None
        top_hz = min((hz for hz in (cap_hz, domain.hardware_max_hz) if hz), default=0)
        lowered = 0 < limits.max_hz < top_hz - FREQUENCY_TOLERANCE_HZ
        return lowered and domain.lock_path is None and self.held_down()
