"""Frequency bands for the clock domains of a kernel: checked, saved, written, followed, restored."""

from __future__ import annotations

import errno
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from dynofa_ros.device.linux.clock_backup import BackupError, ClockBackup, restore_saved
from dynofa_ros.device.linux.clock_domain import OFFLINE_WAIT_S, ClockUnderControl
from dynofa_ros.device.linux.clock_found import FoundClocks
from dynofa_ros.device.linux.clock_limits import read_limits
from dynofa_ros.device.linux.clock_plan import BandRefusedError, Plan, plan_band
from dynofa_ros.device.linux.inventory import ClockDomain, PowerMode
from dynofa_ros.device.linux.sysfs import CURES, PERMISSION_CURE, SysFiles, reason_of
from dynofa_ros.messages import DomainState, DomainStatus, FrequencyBand

MODE_EVERY_S = 0.5


class ClockWriter:
    """Sets bands (Hz) and restores what was found. Only limits are written, never a governor.

    Nothing here waits, except `restore`, for a kernel that is busy. ``read_mode``: nvpmodel's mode now.
    ``held_down``: whether heat or power holds clocks down now. ``pinned``: every clock was found pinned, as
    jetson_clocks does; such clocks are left alone unless ``override_pinned``. ``clock_s``: a steady clock.
    """

    def __init__(
        self,
        files: SysFiles,
        domains: Sequence[ClockDomain],
        backup: ClockBackup,
        *,
        read_mode: Callable[[], PowerMode | None] = lambda: None,
        held_down: Callable[[], bool] = lambda: False,
        pinned: bool = False,
        override_pinned: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files = files
        self._backup = backup
        self._found = FoundClocks(files, backup, read_mode, held_down)
        self._pinned = pinned
        self._override_pinned = override_pinned
        self._clock_s = clock_s
        self._sleep = sleep
        self._clocks: dict[str, ClockUnderControl] = {}
        self._owed = False  # whether there are domains that could not be restored yet
        self._notes: dict[str, str] = {}  # domains that were not restored, and why
        self._next_return_s = self._next_mode_s = 0.0
        self.update(domains)

    def update(self, domains: Sequence[ClockDomain]) -> None:
        """Take in domains that appeared, or whose files moved; one that vanished stays and is offline."""
        for domain in domains:
            known = self._clocks.get(domain.name)
            if known is None or (known.domain != domain and known.request is None):
                self._clocks[domain.name] = ClockUnderControl(
                    self._files, domain, self._found, keep_pinned=not self._override_pinned
                )

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[DomainState, ...]:
        """Write bands; see `Device.apply`. A refused one leaves the domain's band as it was.

        A band that the domain has already is not written again.
        """
        now_s = self._clock_s()
        self._found.read_mode()
        times = Counter(band.domain for band in bands)
        refused: list[DomainState] = []
        accepted: list[tuple[ClockUnderControl, FrequencyBand, Plan]] = []
        for band in bands:
            try:
                clock = self._clock(band, times[band.domain])
                accepted.append((clock, band, plan_band(band, clock.domain, self._found.mode)))
            except BandRefusedError as error:
                refused.append(self.refused(band, str(error)))
        try:
            if accepted:
                self._found.save([clock.domain for clock, _, _ in accepted])
        except (OSError, BackupError) as error:
            reason = f"not changed, as the clocks found could not be saved: {_text(error)}"
            refused += [self.refused(band, f"{band.domain}: {reason}") for _, band, _ in accepted]
            accepted = []
        for clock, band, plan in accepted:
            reason = clock.take(band, plan, now_s)
            if reason:
                refused.append(self.refused(band, reason))
        return (*self.applied(), *refused)

    def refused(self, band: FrequencyBand, reason: str) -> DomainState:
        """What became of a band that was not taken."""
        clock = self._clocks.get(band.domain)
        actual_hz = clock.actual_hz if clock else math.nan
        return DomainState(
            band.domain, band.min_hz, band.max_hz, actual_hz, DomainStatus.REJECTED, reason=reason
        )

    def applied(self) -> tuple[DomainState, ...]:
        """State of every domain; files are read when it is time to, and what could not be done is retried."""
        now_s = self._clock_s()
        if self._owed and now_s >= self._next_return_s:
            self._next_return_s = now_s + OFFLINE_WAIT_S
            with suppress(OSError):  # the state file; the next try says it again
                self._restore_saved(sleep=lambda seconds: None)
        if now_s >= self._next_mode_s:
            self._next_mode_s = now_s + MODE_EVERY_S
            self._found.read_mode()
        for clock in self._clocks.values():
            clock.look(now_s)
        return tuple(self._state(clock) for clock in self._clocks.values())

    def recover(self) -> tuple[DomainState, ...]:
        """Restore what an earlier process left changed; nothing without such a process.

        Raises BackupError if another process controls the clocks or the state file is damaged, and OSError if
        it cannot be used.
        """
        if not self._backup.left_over():
            return ()
        self._backup.acquire()
        return self._restore_saved(self._sleep)

    def restore(self) -> tuple[DomainState, ...]:
        """Restore what was found where the limits are still ours; what cannot be restored now is retried by
        `applied`.

        Raises OSError if the state file cannot be removed; the clocks are back then all the same.
        """
        self._found.read_mode()
        others = [name for name, clock in self._clocks.items() if clock.let_go()]
        if not self._backup.held:
            return ()
        returned = self._restore_saved(self._sleep, others)
        self._notes |= {name: f"{name}: left as another program has set it" for name in others}
        left = (DomainState(name, 0, 0, math.nan, reason=self._notes[name]) for name in others)
        return (*returned, *left)

    def _clock(self, band: FrequencyBand, times: int) -> ClockUnderControl:
        """The domain of a band that may be set. Raises BandRefusedError."""
        name = band.domain
        clock = self._clocks.get(name)
        if clock is None:
            raise BandRefusedError(f"unknown clock domain '{name}' (known: {', '.join(self._clocks)})")
        if times > 1:
            raise BandRefusedError(f"{name}: named {times} times")
        for path in (clock.files.low_path, clock.files.high_path):
            allowed, why = self._files.can_write(path)
            if not allowed and self._files.exists(path):  # one that is offline is written when it is back
                cure = "" if why.endswith(CURES[errno.EROFS]) else f" ({PERMISSION_CURE})"
                raise BandRefusedError(f"{name}: cannot write {why}{cure}")
        if self._is_pinned(clock):
            raise BandRefusedError(
                f"{name}: left alone, as every clock is pinned (min = max) the way jetson_clocks does it; "
                "`sudo jetson_clocks --restore` first"
            )
        return clock

    def _is_pinned(self, clock: ClockUnderControl) -> bool:
        if not self._pinned or self._override_pinned or self._found.has(clock.domain.name):
            return False
        with suppress(OSError, ValueError):
            limits = read_limits(self._files, clock.files)
            return limits.min_hz == limits.max_hz > 0
        return False

    def _state(self, clock: ClockUnderControl) -> DomainState:
        state = clock.state()
        if state.reason or clock.request is not None:
            return state
        return replace(state, reason=self._notes.get(state.domain, ""))

    def _restore_saved(
        self, sleep: Callable[[float], None], others: Sequence[str] = ()
    ) -> tuple[DomainState, ...]:
        """Of the domains without a request; those that others have set are only forgotten."""
        kept = {*others, *(name for name, clock in self._clocks.items() if clock.request is not None)}
        free = [clock.domain for clock in self._backup.clocks if clock.domain not in kept]
        returned = restore_saved(self._files, self._backup, self._found.read_mode(), free, sleep)
        self._backup.remove(others)
        waiting = {
            result.domain: f"{result.domain}: not restored yet: {result.reason}"
            for result in returned
            if not result.done
        }
        self._owed, self._notes = bool(waiting), waiting
        if not self._backup.clocks:
            self._backup.release()
        return returned


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return reason_of(error, str(error.filename or "state folder"))
    return str(error)
