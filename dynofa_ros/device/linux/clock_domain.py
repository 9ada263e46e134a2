"""One clock domain under control: its band is written, followed until it takes effect, and watched.

A band is written when it is new, when the power mode changes, and when the clock comes back from being
offline; not when it is asked for again. What another program has set since then stays until another band is
asked for. Nothing here waits: what has to wait is done by a later `look`.
"""

from __future__ import annotations

import errno
import math
from contextlib import suppress
from dataclasses import dataclass, replace

from dynofa_ros.device.board import floor_frequency
from dynofa_ros.device.linux.clock_backup import BackupError
from dynofa_ros.device.linux.clock_found import FoundClocks
from dynofa_ros.device.linux.clock_limits import read_limits, same_limits, write_limits
from dynofa_ros.device.linux.clock_plan import BandRefusedError, Plan, limit_files, plan_band
from dynofa_ros.device.linux.discovery_clocks import cpus_are_off
from dynofa_ros.device.linux.inventory import ClockDomain
from dynofa_ros.device.linux.sysfs import PERMISSION_CURE, SysFiles, reason_of
from dynofa_ros.messages import DomainState, DomainStatus, FrequencyBand


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
MISSES_S = 30.0  # readings outside the band count together for so long
HOLD_S = 30.0  # a domain that may not be written is tried again after this
MODE_S = 5.0  # nvpmodel may take so long from its first change to its last
CLOCK_TOLERANCE = 0.02  # relative; Xavier and Orin count cycles to tell the clock of a CPU

OFFLINE = {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO, errno.EAGAIN, errno.ETIMEDOUT}
FORBIDDEN = {errno.EACCES, errno.EPERM}
PINNED = "has pinned it (min = max), as jetson_clocks does: sudo jetson_clocks --restore"
GOVERNOR_REMARKS = {
    "performance": "the clock stays at the top of the band",
    "powersave": "the clock stays at the bottom of the band",
    "userspace": "the clock is what a program sets inside the band, it does not follow the load",
}


class ClockUnderControl:
    """A domain and its request. ``keep_pinned``: no band is written while another program has pinned it."""

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
        self._rule = found.rule(domain.name)  # of the power mode, for which it was planned
        # By the kernel once it had taken the plan; None: not written.
        self._shown: FrequencyBand | None = None
        self._theirs: FrequencyBand | None = None  # what another program has set since then
        self._pinned_at: FrequencyBand | None = None  # the same, where it has pinned the clock
        self._remark = ""
        self._status, self._reason = DomainStatus.DISABLED, ""
        self._next_look_s = self._written_s = self._last_miss_s = self._mode_s = -math.inf
        self._busy_tries = self._misses = 0

    def take(self, band: FrequencyBand, plan: Plan, now_s: float) -> str:
        """Make a band the domain's. Why it cannot be, else empty; the band before stays then.

        The band that it has already is not written again. ``plan``: for the power mode now.
        """
        if band == self.request:
            return ""
        before = (self.request, self._plan, self._shown, self._theirs)
        theirs = self._set_by_others()
        if theirs is not None:
            self._hold(theirs, now_s)
        self.request, self._plan, self._busy_tries = band, plan, 0
        self._rule = self._found.rule(self.domain.name)
        if theirs is not None and theirs == self._pinned_at:
            return ""
        remark = f"taken over from another program, which had set {self._text(theirs)}" if theirs else ""
        self._write(now_s, remark)
        if self._status is not DomainStatus.REJECTED:
            return ""
        reason = self._reason
        self.request, self._plan, self._shown, self._theirs = before
        self._become(DomainStatus.PENDING if self.request else DomainStatus.DISABLED, "", now_s)
        return reason

    def let_go(self) -> bool:
        """No request any more; nothing is written. Whether another program has set the limits since."""
        others = self._plan is not None and self._set_by_others() is not None
        self.request = self._plan = self._shown = self._theirs = self._pinned_at = None
        self._misses = 0
        self._become(DomainStatus.DISABLED, "", -math.inf)
        return others

    def look(self, now_s: float) -> None:
        """Read the clock and go on with the request, if it is time to. A new mode is followed at once."""
        changed = self._plan is not None and self._rule != self._found.rule(self.domain.name)
        if now_s < self._next_look_s and not changed:
            return
        self.actual_hz = self._current_hz()
        if self._plan is None:
            self._next_look_s = now_s + CALM_LOOK_S
        elif changed:
            self._follow_mode(now_s)
        elif self._shown is not None:
            self._judge(self._plan, now_s)
        else:
            self._write(now_s)

    def state(self) -> DomainState:
        """As of the last look."""
        request = self.request
        return DomainState(
            domain=self.domain.name,
            requested_min_hz=request.min_hz if request else 0,
            requested_max_hz=request.max_hz if request else 0,
            actual_hz=self.actual_hz,
            status=self._status,
            reason=self._reason,
        )

    # --- writing -----------------------------------------------------------------------------

    def _write(self, now_s: float, remark: str = "") -> None:
        plan = self._plan
        assert plan is not None
        self._shown = self._theirs = self._pinned_at = None
        before: FrequencyBand | None = None
        try:
            if not self._found.has(self.domain.name):
                waiting = self._found.save([self.domain])
                if waiting:
                    self._wait(f"{self.domain.name}: {waiting}", now_s)
                    return
            before = self._limits()
            write_limits(self._files, self.files, plan.limits)
            self._shown = self._limits() or plan.limits
        except BackupError as error:
            self._become(DomainStatus.REJECTED, f"{self.domain.name}: {error}", now_s + HOLD_S)
        except OSError as error:
            self._failed(error, now_s)
            if self._status is DomainStatus.REJECTED and before is not None:
                with suppress(OSError):  # one of the two files may have been written
                    write_limits(self._files, self.files, before)
        else:
            self._busy_tries = 0
            self._written_s = now_s
            self._remark = self._remarks(plan, remark)
            self._become(DomainStatus.PENDING, self._remark, now_s + self._pace.first_look_s)

    def _failed(self, error: OSError, now_s: float) -> None:
        reason = f"{self.domain.name}: {reason_of(error, str(error.filename or self.files.high_path))}"
        if error.errno == errno.EBUSY and self._busy_tries < len(BUSY_WAITS_S):
            self._become(DomainStatus.PENDING, reason, now_s + BUSY_WAITS_S[self._busy_tries])
            self._busy_tries += 1
        elif error.errno in OFFLINE or cpus_are_off(self._files, self.domain):
            self._shown = self._shown if self._theirs else None
            self._wait(f"{reason}; set when it is back", now_s)
        elif self._shown is not None:  # the band was taken; only what is in force now cannot be read
            self._wait(reason, now_s)
        else:
            cure = f" ({PERMISSION_CURE})" if error.errno in FORBIDDEN else ""
            hold_s = OFFLINE_WAIT_S if error.errno == errno.EBUSY else HOLD_S
            self._become(DomainStatus.REJECTED, f"{reason}{cure}", now_s + hold_s)

    def _wait(self, reason: str, now_s: float) -> None:
        self._become(DomainStatus.PENDING, reason, now_s + OFFLINE_WAIT_S)

    def _remarks(self, plan: Plan, more: str) -> str:
        governor = self._files.text(self.domain.governor_path) if self.domain.governor_path else ""
        # Drivers without a table have governors of their own by these names.
        if governor in GOVERNOR_REMARKS and self.domain.frequencies_hz:
            more = "; ".join(filter(None, [more, f"governor {governor}: {GOVERNOR_REMARKS[governor]}"]))
        named = [f"{self.domain.name}: {more}"] if more else []
        return "; ".join(filter(None, [plan.remark, *named]))

    # --- following ---------------------------------------------------------------------------

    def _follow_mode(self, now_s: float) -> None:
        """Plan and write for the power mode now; what jetson_clocks has pinned stays pinned."""
        self._rule, self._mode_s = self._found.rule(self.domain.name), now_s
        assert self.request is not None
        with suppress(BandRefusedError):
            self._plan = plan_band(self.request, self.domain, self._found.mode)
        if self._pinned_at is not None:
            limits = self._limits_or_none()
            if limits is not None and limits.min_hz == limits.max_hz:
                self._pinned_at = limits  # the mode may have lowered it
                self._hold(limits, now_s)
                return
        if self._shown is not None:
            self._write(now_s, self._remark_of_mode())

    def _remark_of_mode(self) -> str:
        return f"follows {self._found.mode}" if self._found.mode else ""

    def _judge(self, plan: Plan, now_s: float) -> None:
        try:
            limits = self._limits()
        except OSError as error:
            self._failed(error, now_s)
            return
        if limits is None:  # half written, or garbled
            reason = f"{self.domain.name}: {self.files.high_path}: shows no limits now"
            self._become(DomainStatus.PENDING, reason, now_s + LOOK_S)
        elif not same_limits(limits, plan.limits):
            kernels = "" if limits == self._theirs else self._held_by_kernel(limits, plan.limits)
            if not kernels:
                if now_s - self._mode_s < MODE_S and self._set_by_mode(limits):
                    self._write(now_s, self._remark_of_mode())
                else:
                    self._hold(limits, now_s)
                return
            self._theirs = self._pinned_at = None
            status = DomainStatus.APPLIED if limits.max_hz >= plan.limits.min_hz else DomainStatus.THROTTLED
            self._become(status, f"{self.domain.name}: {kernels}", now_s + CALM_LOOK_S)
        else:
            self._shown, self._busy_tries = limits, 0
            self._theirs = self._pinned_at = None
            self._judge_clock(plan, now_s)

    def _judge_clock(self, plan: Plan, now_s: float) -> None:
        if self._inside(plan.band):
            # Below what was asked for, by the power mode, the clock can do no better.
            status = DomainStatus.THROTTLED if plan.capped else DomainStatus.APPLIED
            self._become(status, self._remark, now_s + CALM_LOOK_S)
        elif now_s - self._written_s < self._pace.settle_s:
            self._become(DomainStatus.PENDING, self._reason, now_s + self._pace.first_look_s)
        else:
            self._outside(plan.band, now_s)

    def _inside(self, band: FrequencyBand) -> bool:
        """Whether the clock is in the band; a reading that no clock of the domain has says nothing.

        Xavier and Orin count cycles and read almost 0 near idle; a GPU without power reads 0. At the top of
        its range turbo may bring a clock above what the kernel's table says.
        """
        hz = self.actual_hz
        tops = (*self.domain.frequencies_hz[-1:], *filter(None, [self.domain.hardware_max_hz]))
        if not hz >= (1.0 - CLOCK_TOLERANCE) * (self.domain.hardware_min_hz or 0):
            return True
        at_top = self.domain.kind == "cpufreq" and band.max_hz >= min(tops, default=math.inf)
        return (1.0 - CLOCK_TOLERANCE) * band.min_hz <= hz and (
            at_top or hz <= (1.0 + CLOCK_TOLERANCE) * band.max_hz
        )

    def _outside(self, band: FrequencyBand, now_s: float) -> None:
        """The limits stand but the clock does not keep to them; a single reading may be wrong."""
        name, runs = self.domain.name, f"runs at {self.actual_hz:.0f} Hz"
        # Only those in short succession count.
        self._misses = self._misses + 1 if now_s - self._last_miss_s < MISSES_S else 1
        self._last_miss_s = now_s
        if self._misses < MOST_MISSES:
            self._become(DomainStatus.PENDING, self._reason, now_s + LOOK_S)
        elif self.actual_hz < band.min_hz:
            reason = f"{name}: {runs}, below its minimum: heat, power or idle"
            self._become(DomainStatus.THROTTLED, reason, now_s + CALM_LOOK_S)
        else:  # the limits are still ours, so the next band is written all the same
            reason = f"{name}: not under control: {runs}, above the maximum that the kernel took"
            self._become(DomainStatus.DISABLED, reason, now_s + CALM_LOOK_S)

    # --- whose limits these are ---------------------------------------------------------------

    def _held_by_kernel(self, limits: FrequencyBand, ours: FrequencyBand) -> str:
        """What the kernel does if limits that differ from ours are its own, else empty.

        It shows the lowest of all maxima and the highest of all minima. Limits are its own if it showed them
        right after it had taken ours, if something is throttled now, or if only the minimum of a devfreq
        device rose: programs that raise one, such as jetson_clocks, raise it to the maximum.
        """
        at_once = self._shown is not None and same_limits(limits, self._shown)
        cut = replace(limits, min_hz=min(ours.min_hz, limits.max_hz))
        raised = replace(limits, max_hz=ours.max_hz)
        by_driver = (
            self.domain.kind == "devfreq" and limits.min_hz < limits.max_hz and same_limits(limits, raised)
        )
        if 0 < limits.max_hz < ours.max_hz and (
            at_once or (same_limits(limits, cut) and self._found.held_down())
        ):
            return f"the kernel allows {limits.max_hz} at most now: heat or power"
        if limits.min_hz > ours.min_hz and (at_once or by_driver):
            return f"a driver of the kernel asks for {limits.min_hz} at least now"
        return ""

    def _set_by_others(self) -> FrequencyBand | None:
        """Limits in force that another program has set since ours were taken, None if there are none."""
        limits, plan = self._limits_or_none(), self._plan
        if self._shown is None or plan is None or limits is None or same_limits(limits, plan.limits):
            return None
        if self._theirs is None and self._rule != self._found.rule(self.domain.name):
            return None  # nvpmodel's
        known = limits == self._theirs
        return limits if known or not self._held_by_kernel(limits, plan.limits) else None

    def _set_by_mode(self, limits: FrequencyBand) -> bool:
        """Whether these limits end at the cap of the power mode, so that nvpmodel may have set them."""
        return limits.max_hz in self._caps_hz() and not self._pinned(limits)

    def _caps_hz(self) -> set[int]:
        """The cap of the power mode, as it is set and as a kernel may show it; empty without one."""
        cap_hz, table = self._rule[1].max_hz if self._rule else None, self.domain.frequencies_hz
        return {cap_hz, floor_frequency(table, cap_hz) if table else cap_hz} if cap_hz else set()

    def _pinned(self, limits: FrequencyBand) -> bool:
        """Whether these limits are what jetson_clocks leaves: the minimum at the maximum."""
        caps_hz, hz = self._caps_hz(), limits.max_hz
        own_hz = self._plan.limits.max_hz if self._plan else None
        # A mode may have only one clock.
        is_mode = hz in caps_hz and self._rule is not None and self._rule[1].min_hz == self._rule[1].max_hz
        tops = {self.domain.hardware_max_hz, own_hz, *self.domain.frequencies_hz[-1:], *caps_hz}
        return self._keep_pinned and limits.min_hz == limits.max_hz and hz in tops and not is_mode

    def _hold(self, limits: FrequencyBand, now_s: float) -> None:
        """Another program has set the limits: nothing is written until another band is asked for."""
        pinned = limits == self._pinned_at or self._pinned(limits)
        self._theirs, self._pinned_at = limits, limits if pinned else None
        why = PINNED if pinned else f"has set its limits to {self._text(limits)}"
        reason = f"{self.domain.name}: not under control: another program {why}"
        self._become(DomainStatus.DISABLED, reason, now_s + CALM_LOOK_S)

    # --- inside ------------------------------------------------------------------------------

    def _limits(self) -> FrequencyBand | None:
        """In force now, None for files without a number. Raises OSError."""
        with suppress(ValueError):
            return read_limits(self._files, self.files)
        return None

    def _limits_or_none(self) -> FrequencyBand | None:
        with suppress(OSError):
            return self._limits()
        return None

    def _text(self, limits: FrequencyBand) -> str:
        return f"{limits.min_hz}..{limits.max_hz}"

    def _become(self, status: DomainStatus, reason: str, next_look_s: float) -> None:
        self._status, self._reason, self._next_look_s = status, reason, next_look_s

    def _current_hz(self) -> float:
        try:
            hz = self._files.read_int(self.domain.current_path) * self.domain.unit_hz
        except (OSError, ValueError):
            return math.nan
        return float(hz) if hz > 0 and hz >= self.domain.least_hz else math.nan

    @property
    def _pace(self) -> Pace:
        return PACES[self.domain.kind]
