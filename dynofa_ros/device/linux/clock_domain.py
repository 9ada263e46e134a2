"""One clock domain under control: its band is written, followed until it takes effect, and kept.

Nothing here waits: what has to wait is done by a later `look`.
"""

from __future__ import annotations

import errno
import math
from contextlib import suppress
from dataclasses import dataclass

from dynofa_ros.device.device import AppliedDomain
from dynofa_ros.device.linux.clock_backup import BackupError
from dynofa_ros.device.linux.clock_found import FoundClocks
from dynofa_ros.device.linux.clock_limits import Limits, read_limits, same_limits, write_limits
from dynofa_ros.device.linux.clock_plan import BandRefusedError, Plan, limit_files, plan_band
from dynofa_ros.device.linux.inventory import ClockDomain
from dynofa_ros.device.linux.sysfs import PERMISSION_CURE, SysFiles, reason_of
from dynofa_ros.messages import DomainStatus, FrequencyBand


@dataclass(frozen=True)
class Pace:
    """Times of a kind of clock: when a change may be seen first, and when it must have come."""

    first_look_s: float
    settle_s: float


# A CPU changes within 1 ms, a GPU at its governor's next poll (25 ms) and some ms later.
PACES = {"cpufreq": Pace(0.005, 0.05), "devfreq": Pace(0.03, 0.1), "emc": Pace(0.005, 0.05)}
LOOK_S = 0.05  # between looks at a clock that is not where it should be
CALM_LOOK_S = 1.0  # at one that is: reading its clock costs a CPU of a Xavier 0.5 ms
BUSY_WAITS_S = (0.01, 0.03, 0.1)  # hotplug of a CPU takes 10 to 100 ms
OFFLINE_WAIT_S = 1.0
MOST_MISSES = 3
HOLD_S = 30.0  # a domain that others control, or that may not be written, is tried again after this
CLOCK_TOLERANCE = 0.02  # relative; Xavier and Orin count cycles to tell the clock of a CPU

OFFLINE = {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO, errno.EAGAIN, errno.ETIMEDOUT}
FORBIDDEN = {errno.EACCES, errno.EPERM}
GOVERNOR_REMARKS = {
    "performance": "governor performance: the clock stays at the top of the band",
    "userspace": "governor userspace: the clock follows scaling_setspeed inside the band, not the load",
}


class ClockUnderControl:
    """A domain and its request. ``keep_pinned``: give way when another program pins it at its maximum."""

    def __init__(
        self, files: SysFiles, domain: ClockDomain, found: FoundClocks, *, keep_pinned: bool = True
    ) -> None:
        self.domain = domain
        self.files = limit_files(domain)
        self.request: FrequencyBand | None = None
        self.actual_hz = math.nan
        self._files = files
        self._found = found
        self._keep_pinned = keep_pinned
        self._plan: Plan | None = None
        self._mode = found.mode  # for which it was planned
        self._in_files = False  # whether the kernel has taken the plan
        self._status, self._reason = DomainStatus.DISABLED, ""
        self._next_look_s = self._written_s = self._last_miss_s = -math.inf
        self._busy_tries = self._misses = 0

    def take(self, band: FrequencyBand, plan: Plan, now_s: float) -> str:
        """Make a band the domain's. Why it cannot be, else empty; the band before stays then."""
        held = self.request is not None and self._status is DomainStatus.DISABLED and not self._in_files
        before = (self.request, self._plan, self._in_files)
        self.request, self._plan, self._mode, self._busy_tries = band, plan, self._found.mode, 0
        if held:  # others control it: written at the end of the wait
            return ""
        self._write(plan, now_s)
        if self._status is not DomainStatus.REJECTED:
            return ""
        reason = self._reason
        self.request, self._plan, self._in_files = before
        self._become(DomainStatus.PENDING if self.request else DomainStatus.DISABLED, "", now_s)
        return reason

    def let_go(self) -> None:
        """No request any more; nothing is written."""
        self.request = self._plan = None
        self._in_files = False
        self._misses = 0
        self._become(DomainStatus.DISABLED, "", -math.inf)

    def look(self, now_s: float) -> None:
        """Read the clock and go on with the request, if it is time to."""
        if now_s < self._next_look_s:
            return
        self.actual_hz = self._current_hz()
        if self._plan is None:
            self._next_look_s = now_s + CALM_LOOK_S
        elif self._in_files:
            self._judge(self._plan, now_s)
        else:
            if self._status is DomainStatus.DISABLED:  # the wait is over
                self._misses = 0
            self._write(self._plan, now_s)

    def state(self) -> AppliedDomain:
        """As of the last look."""
        request = self.request
        return AppliedDomain(
            domain=self.domain.name,
            requested_min_hz=request.min_hz if request else 0,
            requested_max_hz=request.max_hz if request else 0,
            actual_hz=self.actual_hz,
            status=self._status,
            reason=self._reason,
        )

    # --- writing -----------------------------------------------------------------------------

    def _write(self, plan: Plan, now_s: float) -> None:
        self._in_files = False
        before: Limits | None = None
        try:
            if not self._found.has(self.domain.name):
                waiting = self._found.save([self.domain])
                if waiting:
                    self._wait(f"{self.domain.name}: {waiting}", now_s)
                    return
            with suppress(ValueError):  # garbled: written over
                before = read_limits(self._files, self.files)
            write_limits(self._files, self.files, plan.limits)
        except BackupError as error:
            self._become(DomainStatus.REJECTED, f"{self.domain.name}: {error}", now_s + HOLD_S)
        except OSError as error:
            self._failed(error, now_s)
            if self._status is DomainStatus.REJECTED and before is not None:
                with suppress(OSError):  # one of the two files may have been written
                    write_limits(self._files, self.files, before)
        else:
            self._in_files = True
            self._busy_tries = 0
            self._written_s = now_s
            self._become(DomainStatus.PENDING, self._remark(plan), now_s + self._pace.first_look_s)

    def _failed(self, error: OSError, now_s: float) -> None:
        reason = f"{self.domain.name}: {reason_of(error, str(error.filename or self.files.high_path))}"
        if error.errno == errno.EBUSY and self._busy_tries < len(BUSY_WAITS_S):
            self._become(DomainStatus.PENDING, reason, now_s + BUSY_WAITS_S[self._busy_tries])
            self._busy_tries += 1
        elif error.errno in OFFLINE:
            self._wait(f"{reason}; set when it is back", now_s)
        else:
            self._busy_tries = 0
            cure = f" ({PERMISSION_CURE})" if error.errno in FORBIDDEN else ""
            self._become(DomainStatus.REJECTED, f"{reason}{cure}", now_s + HOLD_S)

    def _wait(self, reason: str, now_s: float) -> None:
        self._become(DomainStatus.PENDING, reason, now_s + OFFLINE_WAIT_S)

    def _remark(self, plan: Plan) -> str:
        governor = ""
        if self.domain.governor_path is not None:
            with suppress(OSError):
                governor = self._files.read(self.domain.governor_path)
        remarks = [plan.remark] if plan.remark else []
        if governor in GOVERNOR_REMARKS:
            remarks.append(f"{self.domain.name}: {GOVERNOR_REMARKS[governor]}")
        return "; ".join(remarks)

    # --- following ---------------------------------------------------------------------------

    def _judge(self, plan: Plan, now_s: float) -> None:
        limits: Limits | None = None
        try:
            with suppress(ValueError):
                limits = read_limits(self._files, self.files)
        except OSError as error:
            self._in_files = False
            self._failed(error, now_s)
            return
        if limits is None or not same_limits(limits, plan.limits, self.domain.unit_hz):
            self._differ(plan, limits, now_s)
        elif self._inside(plan.band):
            # Below what was asked for, by the power mode, the clock can do no better.
            status = DomainStatus.THROTTLED if plan.capped else DomainStatus.APPLIED
            reason = self._reason if self._status is status else self._remark(plan)
            self._become(status, reason, now_s + CALM_LOOK_S)
        elif now_s - self._written_s < self._pace.settle_s:
            self._become(DomainStatus.PENDING, self._reason, now_s + self._pace.first_look_s)
        else:
            self._outside(plan.band, now_s)

    def _inside(self, band: FrequencyBand) -> bool:
        """Whether the clock is in the band; a reading that no clock of the domain has says nothing.

        Xavier and Orin count cycles and read almost 0 near idle; a GPU without power reads 0.
        """
        hz = self.actual_hz
        if not hz >= (1.0 - CLOCK_TOLERANCE) * (self.domain.hardware_min_hz or 0):
            return True
        return (1.0 - CLOCK_TOLERANCE) * band.min_hz <= hz <= (1.0 + CLOCK_TOLERANCE) * band.max_hz

    def _outside(self, band: FrequencyBand, now_s: float) -> None:
        """The limits stand but the clock does not keep to them; a single reading may be wrong."""
        name, runs = self.domain.name, f"runs at {self.actual_hz:.0f} Hz"
        if self._missed(now_s) < MOST_MISSES:
            self._become(DomainStatus.PENDING, self._reason, now_s + LOOK_S)
        elif self.actual_hz < band.min_hz:
            reason = f"{name}: {runs}, below its minimum: heat, power or idle"
            self._become(DomainStatus.THROTTLED, reason, now_s + CALM_LOOK_S)
        else:  # the limits are still ours, so the next band is written all the same
            reason = f"{name}: not under control: {runs}, above the maximum that the kernel took"
            self._become(DomainStatus.DISABLED, reason, now_s + CALM_LOOK_S)

    def _differ(self, plan: Plan, limits: Limits | None, now_s: float) -> None:
        """The files say something else than was written: a new power mode, another program or the kernel."""
        mode = self._found.read_mode()
        if mode != self._mode and self.request is not None:
            self._mode = mode
            with suppress(BandRefusedError):
                self._plan = plan_band(self.request, self.domain, mode)
            self._write(self._plan or plan, now_s)
            return
        if limits is not None and self._pinned_by_others(limits):
            self._hold("another program, such as jetson_clocks, has pinned it at its maximum", now_s)
            return
        self._write(plan, now_s)
        if not self._in_files:
            return
        if self._held_down(plan, now_s) or self._missed(now_s) < MOST_MISSES:
            return
        said = f"{limits.low}..{limits.high}" if limits else "nothing readable"
        self._hold(f"another program sets its limits too (they said {said})", now_s)

    def _held_down(self, plan: Plan, now_s: float) -> bool:
        """Whether the kernel shows a lower maximum than it has just taken: its own, against heat or power."""
        try:
            limits = read_limits(self._files, self.files)
        except (OSError, ValueError):
            return False
        if not 0 < limits.high < plan.limits.high or same_limits(limits, plan.limits, self.domain.unit_hz):
            return False
        top_hz = limits.high * self.domain.unit_hz
        status = DomainStatus.APPLIED if limits.high >= plan.limits.low else DomainStatus.THROTTLED
        reason = f"{self.domain.name}: the kernel allows {top_hz} at most now: heat or power"
        self._become(status, reason, now_s + CALM_LOOK_S)
        return True

    def _pinned_by_others(self, limits: Limits) -> bool:
        cap_hz = self._mode.cap(self.domain.name).max_hz if self._mode else None
        tops = {hz // self.domain.unit_hz for hz in (cap_hz, self.domain.hardware_max_hz) if hz}
        return self._keep_pinned and limits.low == limits.high and limits.high in tops

    def _missed(self, now_s: float) -> int:
        """Count a mismatch; only those in short succession count."""
        self._misses = self._misses + 1 if now_s - self._last_miss_s < HOLD_S else 1
        self._last_miss_s = now_s
        return self._misses

    def _hold(self, why: str, now_s: float) -> None:
        self._in_files = False
        reason = f"{self.domain.name}: not under control: {why}; tried again after {HOLD_S:g} s"
        self._become(DomainStatus.DISABLED, reason, now_s + HOLD_S)

    def _become(self, status: DomainStatus, reason: str, next_look_s: float) -> None:
        self._status, self._reason, self._next_look_s = status, reason, next_look_s

    def _current_hz(self) -> float:
        try:
            hz = self._files.read_int(self.domain.current_path) * self.domain.unit_hz
        except (OSError, ValueError):
            return math.nan
        return float(hz) if hz > 0 else math.nan

    @property
    def _pace(self) -> Pace:
        return PACES[self.domain.kind]
