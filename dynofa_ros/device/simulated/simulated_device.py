"""A simulated board in explicit time: clocks, governors, power, heat, throttling and sensors.

No wall clock is read here. It jumps from event to event (a governor that runs, a clock that arrives, a
change of load), and between two events everything is integrated exactly: how a stretch of time is cut into
calls of ``advance`` changes nothing but the last digits. Random numbers depend on the seed and on what they
are for, not on the calls before. :mod:`dynofa_ros.device.simulated.real_time` runs it in real time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from dynofa_ros.device.board import (
    FREQUENCY_TOLERANCE_HZ,
    Board,
    ceil_frequency,
    cluster_cpus,
    floor_frequency,
    power_model,
)
from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.power_model import constant_rails_w, leak_factor, total_w
from dynofa_ros.device.simulated.governors import GOVERNORS
from dynofa_ros.device.simulated.power_modes import find_mode, mode_limits
from dynofa_ros.device.simulated.simulated_domain import NS, SimulatedDomain
from dynofa_ros.device.simulated.simulated_sensors import SimulatedSensors, Truth, uniform
from dynofa_ros.device.simulated.thermal import next_temperature_c, next_throttle_step, steady_temperature_c
from dynofa_ros.latency import processor_of
from dynofa_ros.messages import (
    DeviceCapabilities,
    DomainState,
    DomainStatus,
    DomainTelemetry,
    FrequencyBand,
    ThrottleFlag,
)

# Leakage follows the temperature on this grid; in between it is constant, so that power is.
LEAKAGE_PERIOD_NS = 250_000_000
POLL_STREAM = 1000  # random streams below belong to the rails

# By domain: the busy share (0..1) of its cores, and with a load from outside also by how much managed work
# takes longer (0.4 = 40 %).
Busy = Mapping[str, float]
OutsideLoad = Mapping[str, tuple[float, float]]


class SimulatedDevice:
    """Implements :class:`dynofa_ros.device.device.Device`.

    ``ambient_c`` and ``thermal`` (see ``thermal.with_resistance``) may be changed at any time between calls.
    """

    def __init__(
        self,
        board: Board,
        seed: int = 0,
        temperature_c: float | None = None,
        *,
        mode: str | int | None = None,
        governors: Mapping[str, str] | None = None,
    ) -> None:
        """temperature_c: default is the steady temperature of the idle board. mode: nvpmodel mode by name or
        id, None = all clocks. governors: by domain or processor, instead of those of the board file.

        Raises ValueError for an unknown mode, governor or domain.
        """
        self.board = board
        self._model = power_model(board)
        self.thermal = board.thermal
        self.ambient_c = board.thermal.ambient_c
        self.energy_j = 0.0  # true energy of the module, without sensor error
        self.mode: str | None = find_mode(board, mode) if mode is not None else None
        self._seed = seed
        self._sensors = SimulatedSensors(board, seed)
        self._now_ns = self._integrated_ns = self._sampled_ns = 0
        self._tables = {name: domain.frequencies_hz for name, domain in board.domains.items()}
        limits = mode_limits(board, mode)
        self._domains = {
            power.domain: SimulatedDomain(
                power, board.domains[power.domain], limits[power.domain], self._poll_delay(number)
            )
            for number, power in enumerate(self._model.domains)
        }
        self._all = tuple(self._domains.values())
        self._rail_energy_j = dict.fromkeys(board.rails, 0.0)
        self._next_leakage_ns = LEAKAGE_PERIOD_NS
        self._throttle_period_ns = self._next_throttle_ns = round(board.thermal.throttle_period_s / NS)
        for name, governor in (governors or {}).items():
            self.set_governor(name, governor)
        self._start(temperature_c)

    # --- Device ------------------------------------------------------------------------------

    def capabilities(self) -> DeviceCapabilities:
        """The clocks that the mode leaves, all readable, and writable unless it has switched them off."""
        name, domains = self.board.name, tuple(d.limit for d in self._all)
        return DeviceCapabilities(name, domains, self.board.processors, "simulated", description=name)

    def read(self) -> DeviceSample:
        """Sensors at the present simulated time, with lag, noise and steps; clocks are read exactly."""
        rails = self._sensors.rails(self._seen_total_w, self._seen_w, self.now_s)
        elapsed_ns, self._sampled_ns = self._now_ns - self._sampled_ns, self._now_ns
        domains = tuple(
            DomainTelemetry(
                d.name, float(d.actual_hz), 100.0 * d.sample_utilization(self._now_ns, elapsed_ns)
            )
            for d in self._all
        )
        throttled = any(d.throttled for d in self._all)
        return DeviceSample(
            total_power_w=rails[0].power_w,
            rails=rails,
            domains=domains,
            temperatures=self._sensors.temperatures(self.temperature_c),
            throttle_flags=ThrottleFlag.THERMAL if throttled else ThrottleFlag.NONE,
        )

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[DomainState, ...]:
        """See ``Device.apply``. A band above a cap is taken and held down, as the kernel does it."""
        refused: list[DomainState] = []
        for band, reason in _refusals(bands, self._tables):
            domain = self._domains.get(band.domain)
            reason = reason or (domain.limit.reason if domain else "")
            if domain is not None and not reason:
                domain.ask(band, _round_band(band, domain.table), self._now_ns)
                continue
            actual_hz = float(domain.actual_hz) if domain else math.nan
            asked = (band.domain, band.min_hz, band.max_hz)
            refused.append(DomainState(*asked, actual_hz, DomainStatus.REJECTED, reason=reason))
        return (*self.applied(), *refused)

    def applied(self) -> tuple[DomainState, ...]:
        """State of every domain at the present simulated time."""
        return tuple(domain.applied() for domain in self._all)

    def restore(self) -> None:
        """Back to the bands found at start; the governors rule again, inside the mode's caps."""
        for domain in self._all:
            domain.ask(None, None, self._now_ns)

    # --- knobs that the Device does not have -----------------------------------------------------

    def set_mode(self, mode: str | int | None) -> None:
        """Switch to an nvpmodel mode by name or id, None = all clocks. ValueError for an unknown one."""
        limits = mode_limits(self.board, mode)
        self.mode = find_mode(self.board, mode) if mode is not None else None
        for domain in self._all:
            domain.follow_mode(limits[domain.name], self._now_ns)
            self._refresh(domain)
        self._sum_up()

    def hotplug(self, cpu: int, *, on: bool) -> None:
        """A CPU goes off- or online, until the next mode. Raises ValueError for one that cannot."""
        name = next((name for name, cpus in cluster_cpus(self.board).items() if cpu in cpus), "")
        if not name or (cpu == 0 and not on):
            raise ValueError(f"board {self.board.name} cannot switch cpu{cpu} {'on' if on else 'off'}")
        domain = self._domains[name]
        before = domain.limit.cpus
        cpus = tuple(sorted({*before, cpu} if on else {*before} - {cpu}))
        if cpus == before:
            return
        reason = "" if cpus else f"{name}: its CPUs are off"
        limit = replace(domain.limit, cpus=cpus, can_write=bool(cpus), reason=reason)
        domain.cap(limit, self._now_ns)
        self._refresh(domain)
        self._sum_up()

    def set_by_others(self, name: str, max_hz: int) -> None:
        """Another program writes the maximum of a domain (KeyError for an unknown one). It stands until
        another band is asked for, or another mode."""
        self._domains[name].set_by_others(floor_frequency(self._tables[name], max_hz), self._now_ns)

    def set_governor(self, name: str, governor: str, speed_hz: int = 0) -> None:
        """Another governor for a domain, or for all domains of a processor; ``speed_hz`` is for userspace.

        Raises ValueError for an unknown name.
        """
        if governor not in GOVERNORS:
            raise ValueError(f"unknown governor '{governor}' (known: {', '.join(GOVERNORS)})")
        chosen = [d for d in self._all if name in (d.name, processor_of(d.name))]
        if not chosen:
            raise ValueError(f"board {self.board.name} has no clock domain or processor '{name}'")
        for domain in chosen:
            domain.use_governor(governor, self._now_ns, speed_hz)

    def limits_hz(self, name: str) -> tuple[int, int]:
        """Limits of a domain, inside the mode's cap; heat may hold its clock lower."""
        band, cap_hz = self._domains[name].band, self._domains[name].limit.frequencies_hz[-1]
        return min(band.min_hz, cap_hz), min(band.max_hz, cap_hz)

    def clocks_hz(self) -> dict[str, int]:
        """Clocks in effect now, by domain; 0 = off."""
        return {d.name: d.actual_hz for d in self._all}

    def truth(self) -> Truth:
        """Everything as it is, for a judge; a manager must not see it."""
        return Truth(
            self.now_s,
            self._total_w,
            dict(self._rail_w),
            self.energy_j,
            dict(self._rail_energy_j),
            self.temperature_c,
            self.clocks_hz(),
            {d.name: d.utilization for d in self._all},
            tuple(d.name for d in self._all if d.throttled),
            tuple(d.name for d in self._all if d.gated),
        )

    # --- simulated time ----------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self._now_ns * NS

    def advance(self, dt_s: float, busy: Busy | None = None, load: OutsideLoad | None = None) -> None:
        """``advance_to`` for a duration. Raises ValueError also for a duration that is negative."""
        if not 0.0 <= dt_s < math.inf:
            raise ValueError(f"dt_s must be >= 0, not {dt_s}")
        self._advance(self._now_ns + round(dt_s / NS), busy, load, False)

    def advance_to(
        self,
        to_s: float,
        busy: Busy | None = None,
        load: OutsideLoad | None = None,
        until_clock: bool = False,
    ) -> float:
        """Let time pass under a constant load; returns the time reached, in seconds.

        ``busy``: share of time (0..1, at the clock in effect) for which managed work occupies each core of a
        domain that is online; ``load``: load from outside. Domains not named have none.
        ``until_clock``: stop early at the first instant at which a clock in effect changes.
        Raises ValueError for a time before now, an unknown domain or a value outside its range.
        """
        if not self.now_s - NS <= to_s < math.inf:
            raise ValueError(f"to_s must be >= {self.now_s}, not {to_s}")
        self._advance(max(round(to_s / NS), self._now_ns), busy, load, until_clock)
        return self.now_s

    def _advance(self, to_ns: int, busy: Busy | None, load: OutsideLoad | None, until_clock: bool) -> None:
        self._set_load(busy or {}, load or {})
        while True:
            due_ns = min(self._next_leakage_ns, self._next_throttle_ns)
            for domain in self._all:
                if domain.due_ns < due_ns:
                    due_ns = domain.due_ns
            if due_ns > to_ns:
                break
            self._now_ns = due_ns
            if self._run(due_ns) and until_clock:
                to_ns = due_ns
        self._now_ns = to_ns
        self._integrate()

    def _set_load(self, busy: Busy, load: OutsideLoad) -> None:
        for name in (*busy, *load):
            if name not in self._domains:
                raise ValueError(f"board {self.board.name} has no clock domain '{name}'")
        changed = False
        for name, domain in self._domains.items():
            if domain.set_load(busy.get(name, 0.0), *load.get(name, (0.0, 0.0)), self._now_ns):
                self._refresh(domain)
                changed = True
        if changed:
            self._sum_up()

    def _run(self, now_ns: int) -> bool:
        """All events of this instant; True if a clock in effect changed."""
        changed, clock = False, False
        for domain in self._all:
            if domain.due_ns <= now_ns and (what := domain.run(now_ns)):
                self._refresh(domain)
                changed, clock = True, clock or what == "clock"
        if self._next_leakage_ns <= now_ns:
            self._next_leakage_ns += LEAKAGE_PERIOD_NS
            self._integrate()
            self._renew_leakage()
        elif changed:
            self._sum_up()
        if self._next_throttle_ns <= now_ns:
            self._next_throttle_ns += self._throttle_period_ns
            self._integrate()
            self._throttle(now_ns)
        return clock

    def _throttle(self, now_ns: int) -> None:
        for domain in self._all:
            if domain.domain.throttled:
                deepest = len(domain.table) - 1
                step = next_throttle_step(self.thermal, domain.throttle_step, self.temperature_c, deepest)
                domain.throttle(step, now_ns)

    # --- power and heat ------------------------------------------------------------------------

    def _start(self, temperature_c: float | None) -> None:
        self._total_w, self._rail_w = 0.0, dict.fromkeys(self.board.rails, 0.0)
        self.temperature_c = self.ambient_c if temperature_c is None else temperature_c
        self._renew_leakage()
        for _ in range(10 if temperature_c is None else 0):  # leakage makes it implicit; contracts by 0.01
            self.temperature_c = steady_temperature_c(self.thermal, self._total_w, self.ambient_c)
            self._renew_leakage()
        # What the power sensors show, behind their lag.
        self._seen_total_w, self._seen_w = self._total_w, dict(self._rail_w)

    def _renew_leakage(self) -> None:
        self._leak = leak_factor(self._model, self.temperature_c)
        self._constant_w = constant_rails_w(self._model, self._leak)
        for domain in self._all:
            self._refresh(domain)
        self._sum_up()

    def _refresh(self, domain: SimulatedDomain) -> None:
        domain.power_w = domain.terms().at(domain.utilization, self._leak, domain.gated)

    def _sum_up(self) -> None:
        """The power changes now: what went before is integrated first."""
        self._integrate()
        rail_w = dict(self._constant_w)
        for domain in self._all:
            rail_w[domain.domain.rail] += domain.power_w
        self._rail_w = rail_w
        self._total_w = total_w(self._model, rail_w)

    def _integrate(self) -> None:
        passed_ns, self._integrated_ns = self._now_ns - self._integrated_ns, self._now_ns
        if not passed_ns:
            return
        passed_s, power_w = passed_ns * NS, self._total_w
        self.energy_j += power_w * passed_s
        self.temperature_c = next_temperature_c(
            self.thermal, self.temperature_c, power_w, self.ambient_c, passed_s
        )
        lag_s = self.board.sensors.lag_s
        keep = math.exp(-passed_s / lag_s) if lag_s else 0.0
        self._seen_total_w = power_w + (self._seen_total_w - power_w) * keep
        for name, rail_w in self._rail_w.items():
            self._rail_energy_j[name] += rail_w * passed_s
            self._seen_w[name] = rail_w + (self._seen_w[name] - rail_w) * keep

    def _poll_delay(self, number: int) -> Callable[[], float]:
        asked = iter(range(1 << 62))
        return lambda: uniform(self._seed, POLL_STREAM + number, next(asked))


def _round_band(band: FrequencyBand, table: tuple[int, ...]) -> FrequencyBand:
    """Band of table entries that the kernel uses: minimum up, maximum down. The band must be accepted."""
    return FrequencyBand(band.domain, ceil_frequency(table, band.min_hz), floor_frequency(table, band.max_hz))


def _refusal(band: FrequencyBand, tables: Mapping[str, tuple[int, ...]]) -> str:
    """Why a band cannot be applied, in one line; empty if it can."""
    name = band.domain
    table = tables.get(name)
    if table is None:
        return f"unknown clock domain '{name}' (known: {', '.join(tables)})"
    if band.min_hz > band.max_hz:
        return f"{name}: min_hz {band.min_hz} is above max_hz {band.max_hz}"
    for key, value in (("min_hz", band.min_hz), ("max_hz", band.max_hz)):
        if not table[0] - FREQUENCY_TOLERANCE_HZ <= value <= table[-1] + FREQUENCY_TOLERANCE_HZ:
            return f"{name}: {key} {value} is outside the table {table[0]}..{table[-1]}"
    rounded = _round_band(band, table)
    if rounded.min_hz > rounded.max_hz:
        return (
            f"{name}: no clock between {band.min_hz} and {band.max_hz}; "
            f"the nearest are {rounded.max_hz} and {rounded.min_hz}"
        )
    return ""


def _refusals(
    bands: Sequence[FrequencyBand], tables: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[FrequencyBand, str]]:
    """Each band with the reason why it cannot be applied; named more than once, it is refused every time."""
    times = Counter(band.domain for band in bands)
    for band in bands:
        again = f"{band.domain}: named {times[band.domain]} times" if times[band.domain] > 1 else ""
        yield band, _refusal(band, tables) or again
