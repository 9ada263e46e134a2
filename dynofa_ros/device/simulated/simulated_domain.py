"""One clock domain of a simulated board: its load, governor, limits and clock. Its online cores are alike.

Time is in integer nanoseconds, so that events fall on the same instants however a stretch of time is cut.
What happens between two events is integrated exactly, when it is next needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from dynofa_ros.device.board import floor_frequency
from dynofa_ros.device.board_sections import Domain
from dynofa_ros.device.power_model import DomainTerms, domain_terms
from dynofa_ros.device.simulated.governors import GOVERNORS, Governor, GovernorState, Load, pelt
from dynofa_ros.messages import DomainCapability, DomainPowerModel, DomainState, DomainStatus, FrequencyBand

NEVER = 1 << 62
NS = 1e-9
IDLE_UTILIZATION = 1e-3  # PELT average below which no governor asks for more than the lowest clock


class SimulatedDomain:
    """``poll_delay`` gives the part (0..1) of ``poll_s`` that passes until new limits are noticed."""

    def __init__(
        self,
        power: DomainPowerModel,
        domain: Domain,
        limit: DomainCapability,
        poll_delay: Callable[[], float],
    ) -> None:
        self.name = name = power.domain
        self._power = power
        self.domain = domain
        self.table = domain.frequencies_hz
        self.request: FrequencyBand | None = None
        self.slowdown = 0.0
        self.utilization = 0.0  # mean over all cores, now
        self.power_w = 0.0  # on the rail; kept by the board
        self.gated = domain.railgated
        self.actual_hz = domain.start_min_hz
        self.throttle_step = 0
        self.due_ns = NEVER
        self._poll_delay = poll_delay
        self._start_band = FrequencyBand(name, domain.start_min_hz, domain.start_max_hz)
        self._terms: dict[int, DomainTerms] = {}
        self._load: tuple[object, ...] = ()
        self._busy = 0.0  # share of each core that is online
        self._average = 0.0  # PELT
        self._window_s = 0.0  # busy time of such a core since the governor ran
        self._sampled_s = 0.0  # busy time, mean over all cores, since the previous sample
        self._settled_ns = self._ran_ns = 0
        self._idle_since_ns = -NEVER
        self._pending: tuple[int, int] | None = None  # (due, clock)
        self._next_run_ns = NEVER
        self._resting_ns: int | None = None  # the governor need not run until there is load
        self.band = self._own_band = self._start_band
        self.theirs = False  # whether another program has set the band in force
        self.limit = limit
        self.use_governor(domain.governor, 0)
        if self._pending:
            self.actual_hz, self._pending = self._pending[1], None
        if not self.online:
            self.actual_hz = 0
        self._schedule()

    # --- limits ------------------------------------------------------------------------------

    def ask(self, request: FrequencyBand | None, band: FrequencyBand | None, now_ns: int) -> None:
        """A new band in table entries, and how it was asked for; None = the band found at start.

        As on a real board, what another program has set stays until another band is asked for.
        """
        again = request == self.request
        self.request, self._own_band = request, band or self._start_band
        if self.theirs and (again or request is None):
            return
        self.band, self.theirs = self._own_band, False
        self._retarget(now_ns)

    def set_by_others(self, max_hz: int, now_ns: int) -> None:
        """Another program writes the maximum, an entry of the table."""
        self.band = FrequencyBand(self.name, min(self.band.min_hz, max_hz), max_hz)
        self.theirs = True
        self._retarget(now_ns)

    def follow_mode(self, limit: DomainCapability, now_ns: int) -> None:
        """Limit of a new nvpmodel mode; what another program has set is over."""
        self.band, self.theirs = self._own_band, False
        self.cap(limit, now_ns)

    def cap(self, limit: DomainCapability, now_ns: int) -> None:
        """What the mode and the CPUs that are online leave from now on."""
        self._settle(now_ns)
        was_online, self.limit = self.online, limit
        if not self.online:
            self.actual_hz = 0
        elif not was_online:
            self.actual_hz = floor_frequency(self.table, min(self._start_band.min_hz, self._cap_hz))
        self._load = ()  # the load is spread anew over the cores that are online
        self._retarget(now_ns)

    def throttle(self, step: int, now_ns: int) -> None:
        """Clock steps that heat takes away from the top of the table."""
        if step != self.throttle_step:
            self.throttle_step = step
            self._retarget(now_ns)

    def use_governor(self, name: str, now_ns: int, speed_hz: int = 0) -> None:
        """Another governor starts, from an empty memory."""
        self._governor: Governor = GOVERNORS[name]
        polled_s = self.domain.poll_s if self._governor.polled else 0.0
        self._period_ns = round((polled_s or self._governor.period_s) / NS)
        self._state = GovernorState(speed_hz=speed_hz)
        self._retarget(now_ns)

    @property
    def online(self) -> int:
        """Cores that are online; 0 = the domain is off."""
        return len(self.limit.cpus) or self.domain.cores * self.limit.can_write

    @property
    def _cap_hz(self) -> int:
        """Highest clock of the mode."""
        return self.limit.frequencies_hz[-1]

    @property
    def throttled(self) -> bool:
        """Heat holds the clock below what the band and the mode allow."""
        return self.online > 0 and self._limits.max_hz < min(self.band.max_hz, self._cap_hz)

    @property
    def status(self) -> DomainStatus:
        if self.request is None or not self.online or self.theirs:
            return DomainStatus.DISABLED
        if self._limits.max_hz < self.band.min_hz:
            return DomainStatus.THROTTLED
        if not self.band.min_hz <= self.actual_hz <= self.band.max_hz:
            return DomainStatus.PENDING
        return DomainStatus.APPLIED

    def applied(self) -> DomainState:
        low_hz, high_hz = (self.request.min_hz, self.request.max_hz) if self.request else (0, 0)
        limits = f"{self.band.min_hz}..{self.band.max_hz}"
        reason = f"{self.name}: another program has set its limits to {limits}" if self.theirs else ""
        actual_hz = float(self.actual_hz)
        return DomainState(self.name, low_hz, high_hz, actual_hz, self.status, self.slowdown, reason)

    # --- load --------------------------------------------------------------------------------

    def set_load(self, managed: float, outside: float, slowdown: float, now_ns: int) -> bool:
        """Busy shares of every core that is online, from now on.

        True if it changed. Raises ValueError, naming the domain, for a value that is negative or NaN.
        """
        load = (managed, outside, slowdown)
        if load == self._load:
            return False
        if not (managed >= 0.0 and outside >= 0.0):
            raise ValueError(f"load of domain {self.name} must be >= 0, not {managed} and {outside}")
        if not 0.0 <= slowdown < math.inf:
            raise ValueError(f"slowdown of domain {self.name} must be >= 0, not {slowdown}")
        self._settle(now_ns)
        self._wake(now_ns)
        self._load, self.slowdown = load, slowdown
        online, cores = self.online, self.domain.cores
        self._busy = min(managed + outside, 1.0) if online else 0.0
        was_idle = self.utilization == 0.0
        self.utilization = self._busy if online == cores else self._busy * online / cores
        if self.utilization > 0.0:
            self.gated = False
        elif not was_idle:
            self._idle_since_ns = now_ns
        self._schedule()
        return True

    def sample_utilization(self, now_ns: int, elapsed_ns: int) -> float:
        """Mean utilisation (0..1) since the previous call, ``elapsed_ns`` ago."""
        self._settle(now_ns)
        busy_s, self._sampled_s = self._sampled_s, 0.0
        return busy_s / (elapsed_ns * NS) if elapsed_ns else self.utilization

    def terms(self) -> DomainTerms:
        """Terms of the power at the clock in effect."""
        terms = self._terms.get(self.actual_hz)
        if terms is None:
            terms = self._terms[self.actual_hz] = domain_terms(self._power, self.actual_hz)
        return terms

    # --- time --------------------------------------------------------------------------------

    def run(self, now_ns: int) -> Literal["", "power", "clock"]:
        """Everything that is due now; says what changed."""
        changed: Literal["", "power", "clock"] = ""
        if self._pending and self._pending[0] <= now_ns:
            self._settle(now_ns)
            self.actual_hz, self._pending = self._pending[1], None
            changed = "clock"
        if not self.gated and self._gate_ns() <= now_ns:
            self.gated, changed = True, changed or "power"
        if self._next_run_ns <= now_ns:
            state = self._state
            wanted_hz = self._decide(now_ns)
            self._next_run_ns = now_ns + self._period_ns
            if self._pending is None and wanted_hz != self.actual_hz:
                self._pending = (now_ns + round(self.domain.transition_s / NS), wanted_hz)
            elif state == self._state and self._nothing_to_do():
                self._resting_ns, self._next_run_ns = now_ns, NEVER
        self._schedule()
        return changed

    def _nothing_to_do(self) -> bool:
        """Idle at the lowest clock: the governor would find the same every time."""
        return (
            self.actual_hz == self._limits.min_hz
            and self._pending is None
            and not (self.utilization or self.domain.railgated)
            and self._average < IDLE_UTILIZATION
        )

    def _wake(self, now_ns: int) -> None:
        """The governor runs again, at the instants at which it always did."""
        if self._resting_ns is not None:
            self._ran_ns = now_ns - (now_ns - self._resting_ns) % self._period_ns
            self._next_run_ns, self._resting_ns = self._ran_ns + self._period_ns, None

    def _gate_ns(self) -> int:
        if not self.domain.railgated or self.utilization > 0.0:
            return NEVER
        return self._idle_since_ns + round(self.domain.railgate_delay_s / NS)

    def _schedule(self) -> None:
        due_ns = self._pending[0] if self._pending else NEVER
        if self._next_run_ns < due_ns:
            due_ns = self._next_run_ns
        if self.domain.railgated and not self.gated:
            due_ns = min(due_ns, self._gate_ns())
        self.due_ns = due_ns

    def _settle(self, now_ns: int) -> None:
        """Bring what follows from load and clock up to now."""
        passed_s = (now_ns - self._settled_ns) * NS
        if passed_s <= 0.0:
            return
        self._settled_ns = now_ns
        speed = self.actual_hz / self.table[-1]
        self._average = pelt(self._average, self._busy * speed, passed_s)
        self._window_s += self._busy * passed_s
        self._sampled_s += self.utilization * passed_s

    def _decide(self, now_ns: int) -> int:
        """Run the governor on what happened since it last ran."""
        self._settle(now_ns)
        period_s = (now_ns - self._ran_ns) * NS
        self._ran_ns = now_ns
        # Rounded, so that the cut of the time does not show in what governors count as whole percent.
        share = min(round(self._window_s / period_s, 9), 1.0) if period_s else 0.0
        self._window_s = 0.0
        load = Load(now_ns * NS, period_s, self.actual_hz, share, self._average, self.online, self.gated)
        self._state, wanted_hz = self._governor.law(self._state, load, self.table, self._limits)
        return wanted_hz

    def _retarget(self, now_ns: int) -> None:
        """After a change of the limits: the nearest clock inside them, or the governor's own choice."""
        table = self.table
        cap_hz = min(table[len(table) - 1 - self.throttle_step], self._cap_hz)
        limits = self._limits = FrequencyBand(
            self.name, min(self.band.min_hz, cap_hz), min(self.band.max_hz, cap_hz)
        )
        self._pending, self._next_run_ns, self._resting_ns = None, NEVER, None
        if self.online:
            if self._period_ns:
                wanted_hz = floor_frequency(table, max(min(self.actual_hz, limits.max_hz), limits.min_hz))
                if limits.min_hz < limits.max_hz:
                    self._next_run_ns = now_ns + self._period_ns
                    self._forget_window(now_ns)
            else:
                wanted_hz = self._decide(now_ns)
            if wanted_hz != self.actual_hz:
                delay_s = self.domain.transition_s + self.domain.poll_s * self._poll_delay()
                self._pending = (now_ns + round(delay_s / NS), wanted_hz)
        self._schedule()

    def _forget_window(self, now_ns: int) -> None:
        self._settle(now_ns)
        self._ran_ns, self._window_s = now_ns, 0.0
