"""A simulated board in explicit time: clocks, governors, power, heat, throttling and sensors.

Deterministic: the same seed and the same calls give the same samples. No wall clock is read here;
:mod:`dynofa_ros.device.live` runs it in real time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dynofa_ros.device.bands import refusals, round_band
from dynofa_ros.device.board import Board, Domain, floor_frequency
from dynofa_ros.device.governors import GOVERNORS, Governor, GovernorState, Load
from dynofa_ros.device.interface import (
    AppliedDomain,
    Band,
    Capabilities,
    DeviceSample,
    DomainCapability,
    DomainSample,
    DomainStatus,
    RailSample,
    TemperatureSample,
    ThrottleFlag,
)
from dynofa_ros.device.power import PowerBreakdown, predict_power
from dynofa_ros.device.thermal import next_temperature_c, next_throttle_step, steady_temperature_c

# Power is taken as constant within a step although leakage follows the temperature.
LONGEST_STEP_S = 0.5


@dataclass(frozen=True)
class ExternalLoad:
    """Load from outside the managed applications: busy share (0..1) of a domain, and by how much
    managed work on it takes longer (0.4 = 40 %)."""

    utilization: float
    slowdown: float = 0.0


@dataclass
class _Clock:
    """Running state of one clock domain. ``band`` is in table entries; ``request`` is what was asked."""

    name: str
    domain: Domain
    governor: Governor
    band: Band
    actual_hz: int
    request: Band | None = None
    pending: tuple[float, int] | None = None  # (due in s, clock)
    state: GovernorState = field(default_factory=GovernorState)
    next_run_s: float = 0.0
    throttle_step: int = 0
    utilization: float = 0.0
    busy_s: float = 0.0  # since the previous sample
    slowdown: float = 0.0

    @property
    def limits(self) -> Band:
        """The band, cut by throttling."""
        table = self.domain.frequencies_hz
        cap_hz = table[len(table) - 1 - self.throttle_step]
        return Band(self.name, min(self.band.min_hz, cap_hz), min(self.band.max_hz, cap_hz))

    @property
    def pinned(self) -> bool:
        limits = self.limits
        return limits.min_hz == limits.max_hz

    @property
    def throttled(self) -> bool:
        return self.limits.max_hz < self.band.max_hz


class SimulatedDevice:
    """Implements :class:`dynofa_ros.device.interface.Device`.

    ``ambient_c`` may be changed at any time. ``temperature_c`` at start: default is the steady
    temperature of the idle board.
    """

    def __init__(self, board: Board, seed: int = 0, temperature_c: float | None = None) -> None:
        self.board = board
        self.ambient_c = board.thermal.ambient_c
        self.now_s = 0.0
        self.energy_j = 0.0  # true energy of the module, without sensor error
        self._random = random.Random(seed)
        self._tables = {name: domain.frequencies_hz for name, domain in board.domains.items()}
        self._clocks = {name: self._start_clock(name, domain) for name, domain in board.domains.items()}
        self._next_throttle_s = board.thermal.throttle_period_s
        self.temperature_c = self._idle_temperature_c() if temperature_c is None else temperature_c
        self._seen = self._power()  # what the power sensors show, behind their lag
        self._sampled_s = 0.0

    # --- Device ------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """The board's clock domains, all readable and writable."""
        domains = tuple(DomainCapability(name, table, True, True) for name, table in self._tables.items())
        return Capabilities(self.board.name, domains, self.board.processors, "simulated")

    def read(self) -> DeviceSample:
        """Sensors at the present simulated time, with lag, noise and steps; clocks are read exactly."""
        total = self._rail_sample(self.board.power.total_rail, self._seen.total_w, is_total=True)
        rails = [self._rail_sample(name, power) for name, power in self._seen.rails.items()]
        elapsed_s = self.now_s - self._sampled_s
        domains = tuple(self._domain_sample(clock, elapsed_s) for clock in self._clocks.values())
        self._sampled_s = self.now_s
        throttled = any(clock.throttled for clock in self._clocks.values())
        return DeviceSample(
            total_power_w=total.power_w,
            rails=(total, *rails),
            domains=domains,
            temperatures=self._temperature_samples(),
            throttle=ThrottleFlag.THERMAL if throttled else ThrottleFlag.NONE,
        )

    def apply(self, bands: Sequence[Band]) -> tuple[AppliedDomain, ...]:
        """See :class:`Device`; refused are unknown domains, clocks outside the table and min above max."""
        refused = []
        for band, reason in zip(bands, refusals(bands, self._tables), strict=True):
            clock = self._clocks.get(band.domain)
            if reason or clock is None:
                actual_hz = float(clock.actual_hz) if clock else math.nan
                refused.append(self._refused(band, actual_hz, reason))
                continue
            clock.request = band
            clock.band = round_band(band, clock.domain.frequencies_hz)
            self._retarget(clock)
        return (*self.applied(), *refused)

    def applied(self) -> tuple[AppliedDomain, ...]:
        """State of every domain at the present simulated time."""
        return tuple(self._applied(clock) for clock in self._clocks.values())

    def restore(self) -> None:
        """Back to the bands found at start; the governors rule again."""
        for clock in self._clocks.values():
            clock.request = None
            clock.band = _start_band(clock.name, clock.domain)
            self._retarget(clock)

    # --- simulated time ----------------------------------------------------------------------

    def advance(
        self,
        dt_s: float,
        busy: Mapping[str, float] | None = None,
        load: Mapping[str, ExternalLoad] | None = None,
    ) -> None:
        """Let ``dt_s`` seconds pass under a constant utilisation per domain.

        ``busy``: share of time (0..1, at the clock in effect) that managed work occupies each domain;
        ``load``: load from outside. Domains not named have none.
        Raises ValueError for a negative duration, an unknown domain or a value outside its range.
        """
        if not 0.0 <= dt_s < math.inf:
            raise ValueError(f"dt_s must be >= 0, not {dt_s}")
        self._set_load(busy or {}, load or {})
        end_s = self.now_s + dt_s
        while self.now_s < end_s:
            next_s = min(end_s, self.now_s + LONGEST_STEP_S, self._next_event_s())
            self._integrate(next_s - self.now_s)
            self.now_s = next_s
            self._run_events()

    def _set_load(self, busy: Mapping[str, float], load: Mapping[str, ExternalLoad]) -> None:
        for name in (*busy, *load):
            if name not in self._clocks:
                raise ValueError(f"board {self.board.name} has no clock domain '{name}'")
        for name, clock in self._clocks.items():
            outside = load.get(name, ExternalLoad(0.0))
            managed = busy.get(name, 0.0)
            if not (managed >= 0.0 and outside.utilization >= 0.0 and 0.0 <= outside.slowdown < math.inf):
                raise ValueError(f"load of domain {name} must be >= 0, not {managed} and {outside}")
            clock.utilization = min(managed + outside.utilization, 1.0)
            clock.slowdown = outside.slowdown

    def _next_event_s(self) -> float:
        times = [self._next_throttle_s]
        for clock in self._clocks.values():
            if clock.pending:
                times.append(clock.pending[0])
            if clock.governor.period_s and not clock.pinned:
                times.append(max(clock.next_run_s, self.now_s))
        return min(times)

    def _integrate(self, dt_s: float) -> None:
        power = self._power()
        self.energy_j += power.total_w * dt_s
        self.temperature_c = next_temperature_c(
            self.board.thermal, self.temperature_c, power.total_w, self.ambient_c, dt_s
        )
        lag_s = self.board.sensors.lag_s
        keep = math.exp(-dt_s / lag_s) if lag_s else 0.0
        self._seen = PowerBreakdown(
            _blend(self._seen.total_w, power.total_w, keep),
            {name: _blend(self._seen.rails[name], value, keep) for name, value in power.rails.items()},
        )
        for clock in self._clocks.values():
            clock.busy_s += clock.utilization * dt_s

    def _run_events(self) -> None:
        if self._next_throttle_s <= self.now_s:
            self._next_throttle_s += self.board.thermal.throttle_period_s
            self._throttle()
        for clock in self._clocks.values():
            if clock.pending and clock.pending[0] <= self.now_s:
                clock.actual_hz = clock.pending[1]
                clock.pending = None
            if clock.governor.period_s and not clock.pinned and clock.next_run_s <= self.now_s:
                self._govern(clock)

    def _throttle(self) -> None:
        for clock in self._clocks.values():
            if not clock.domain.throttled:
                continue
            deepest = len(clock.domain.frequencies_hz) - 1
            step = next_throttle_step(self.board.thermal, clock.throttle_step, self.temperature_c, deepest)
            if step != clock.throttle_step:
                clock.throttle_step = step
                self._retarget(clock)

    # --- clocks ------------------------------------------------------------------------------

    def _start_clock(self, name: str, domain: Domain) -> _Clock:
        governor = GOVERNORS[domain.governor]
        band = _start_band(name, domain)
        idle = Load(0.0, 0.0, band.min_hz, 0.0, suspended=domain.railgated)
        _, actual_hz = governor.law(GovernorState(), idle, domain.frequencies_hz, band)
        return _Clock(name, domain, governor, band, actual_hz, next_run_s=governor.period_s)

    def _govern(self, clock: _Clock) -> None:
        """Run the governor once and set out for the clock it wants."""
        period_s = clock.governor.period_s
        clock.next_run_s = self.now_s + period_s
        clock.state, wanted_hz = self._decide(clock, period_s)
        if clock.pending is None and wanted_hz != clock.actual_hz:
            clock.pending = (self.now_s + clock.domain.transition_s, wanted_hz)

    def _retarget(self, clock: _Clock) -> None:
        """After a change of the limits: the nearest clock inside them, or the governor's own choice."""
        limits, table = clock.limits, clock.domain.frequencies_hz
        if clock.governor.period_s:
            wanted_hz = floor_frequency(table, max(min(clock.actual_hz, limits.max_hz), limits.min_hz))
            clock.next_run_s = self.now_s + clock.governor.period_s
        else:
            clock.state, wanted_hz = self._decide(clock, 0.0)
        clock.pending = None
        if wanted_hz != clock.actual_hz:
            delay_s = clock.domain.transition_s + self._random.uniform(0.0, clock.domain.poll_s)
            clock.pending = (self.now_s + delay_s, wanted_hz)

    def _decide(self, clock: _Clock, period_s: float) -> tuple[GovernorState, int]:
        suspended = clock.domain.railgated and clock.utilization == 0.0
        load = Load(self.now_s, period_s, clock.actual_hz, clock.utilization, suspended)
        return clock.governor.law(clock.state, load, clock.domain.frequencies_hz, clock.limits)

    def _applied(self, clock: _Clock) -> AppliedDomain:
        request = clock.request
        return AppliedDomain(
            domain=clock.name,
            min_hz=request.min_hz if request else 0,
            max_hz=request.max_hz if request else 0,
            actual_hz=float(clock.actual_hz),
            status=_status(clock),
            external_slowdown=clock.slowdown,
        )

    def _refused(self, band: Band, actual_hz: float, reason: str) -> AppliedDomain:
        status = DomainStatus.REJECTED
        return AppliedDomain(band.domain, band.min_hz, band.max_hz, actual_hz, status, reason)

    # --- power and sensors -------------------------------------------------------------------

    def _power(self) -> PowerBreakdown:
        frequencies = {name: float(clock.actual_hz) for name, clock in self._clocks.items()}
        utilization = {name: clock.utilization for name, clock in self._clocks.items()}
        return predict_power(self.board, frequencies, utilization, self.temperature_c)

    def _idle_temperature_c(self) -> float:
        self.temperature_c = self.ambient_c
        for _ in range(10):  # leakage makes it implicit; the iteration contracts by about 0.01
            self.temperature_c = steady_temperature_c(
                self.board.thermal, self._power().total_w, self.ambient_c
            )
        return self.temperature_c

    def _rail_sample(self, name: str, power_w: float, is_total: bool = False) -> RailSample:
        sensors = self.board.sensors
        noisy_w = max(power_w + self._random.gauss(0.0, sensors.noise_w), 0.0)
        voltage_v = _quantize(sensors.supply_v, sensors.voltage_step_v)
        current_a = _quantize(noisy_w / voltage_v, sensors.current_step_a)
        return RailSample(name, voltage_v * current_a, voltage_v, current_a, is_total)

    def _domain_sample(self, clock: _Clock, elapsed_s: float) -> DomainSample:
        utilization = clock.busy_s / elapsed_s if elapsed_s > 0.0 else clock.utilization
        clock.busy_s = 0.0
        return DomainSample(clock.name, float(clock.actual_hz), utilization)

    def _temperature_samples(self) -> tuple[TemperatureSample, ...]:
        step_c = self.board.sensors.temperature_step_c
        return tuple(
            TemperatureSample(name, _quantize(self.temperature_c + offset_c, step_c))
            for name, offset_c in self.board.thermal.sensor_offsets_c.items()
        )


def _start_band(name: str, domain: Domain) -> Band:
    return Band(name, domain.start_min_hz, domain.start_max_hz)


def _status(clock: _Clock) -> DomainStatus:
    if clock.request is None:
        return DomainStatus.DISABLED
    if clock.limits.max_hz < clock.band.min_hz:
        return DomainStatus.THROTTLED
    if not clock.band.min_hz <= clock.actual_hz <= clock.band.max_hz:
        return DomainStatus.PENDING
    return DomainStatus.APPLIED


def _blend(old: float, new: float, keep: float) -> float:
    return new + (old - new) * keep


def _quantize(value: float, step: float) -> float:
    return round(value / step) * step
