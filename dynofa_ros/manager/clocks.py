"""Clocks read back: what each domain really runs at, and whether a processor's clocks have just moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import NamedTuple

from dynofa_ros.latency import domains_of, processor_of
from dynofa_ros.messages import DeviceCapabilities

LEAST_HZ, MOST_HZ = 1.0, 1e12  # outside, a reading is damaged
SAME_CLOCK = 0.005  # relative; readings closer than this are one clock
FRESH_NS = 1_000_000_000  # a reading this much older than the newest telemetry is of a domain that has gone


class PlaceClocks(NamedTuple):
    """Clock domains of a place, and what follows from them."""

    domains: tuple[str, ...]
    top_hz: float  # of the slowest domain, NaN = unknown
    cores: int  # 0 = not known


@dataclass
class Clocks:
    """Newest reading per domain. Telemetry and the DVFS state both bring them, in any order."""

    _hz: dict[str, float] = field(default_factory=dict)
    _stamp_ns: dict[str, int] = field(default_factory=dict)
    _versions: dict[str, int] = field(default_factory=dict)
    _speeds: dict[str, float] = field(default_factory=dict)  # slowest domain of each processor
    _gone: set[str] = field(default_factory=set)  # offline, or no longer readable

    def observe(self, stamp_ns: int, domain: str, hz: float) -> bool:
        """Takes a reading of time ``stamp_ns`` of the device's clock; True = the domain's clock has moved."""
        if not LEAST_HZ <= hz <= MOST_HZ or stamp_ns < self._stamp_ns.get(domain, stamp_ns):
            return False
        before = self._hz.get(domain)
        self._stamp_ns[domain] = stamp_ns
        if hz == before:
            return False
        self._hz[domain] = hz
        moved = before is not None and abs(hz - before) > SAME_CLOCK * before
        processor = processor_of(domain)
        if processor is not None:
            self._slowest(processor)
            if moved or before is None:
                for name in {processor, domain}:
                    self._versions[name] = self._versions.get(name, 0) + 1
        return moved

    def expire(self, newest_ns: int) -> None:
        """Leaves out the domains that telemetry of time ``newest_ns`` does not know any more.

        A processor of which nothing is known any more keeps its last readings.
        """
        oldest_ns = newest_ns - FRESH_NS
        if not self._gone and min(self._stamp_ns.values(), default=newest_ns) >= oldest_ns:
            return
        gone = {name for name, stamp_ns in self._stamp_ns.items() if stamp_ns < oldest_ns}
        if gone == self._gone:
            return
        changed, self._gone = gone ^ self._gone, gone
        for processor in {processor_of(name) for name in changed} - {None}:
            self._slowest(str(processor))
            self._versions[str(processor)] = self._versions.get(str(processor), 0) + 1

    def _slowest(self, processor: str) -> None:
        mine = {name: hz for name, hz in self._hz.items() if processor_of(name) == processor}
        here = [hz for name, hz in mine.items() if name not in self._gone]
        self._speeds[processor] = min(here or mine.values())

    def restart(self) -> None:
        """Forgets the stamps, not the readings: the device's clock was set back."""
        self._stamp_ns.clear()
        self._gone.clear()

    def hz(self, domain: str) -> float:
        """Last reading, NaN = none, or the domain has gone."""
        return nan if domain in self._gone else self._hz.get(domain, nan)

    def speed_hz(self, processor: str) -> float:
        """Clock of the slowest domain of a processor, or of the one that is named; NaN = unknown."""
        return self._speeds.get(processor, self._hz.get(processor, nan))

    def version(self, processor: str) -> int:
        """Number that changes whenever a clock of the processor, or of the domain that is named, does."""
        return self._versions.get(processor, 0)


def processor_domains(capabilities: DeviceCapabilities | None, processor: str) -> tuple[str, ...]:
    """Clock domains of a processor, in the order of the capabilities; of a cluster that one."""
    if capabilities is None:
        return ()
    return domains_of(processor, (d.domain for d in capabilities.domains))


def top_hz(capabilities: DeviceCapabilities | None, processor: str) -> float:
    """Top clock of the slowest domain of a processor, NaN = unknown."""
    if capabilities is None:
        return nan
    tops = [
        float(d.frequencies_hz[-1])
        for d in capabilities.domains
        if processor in (d.domain, processor_of(d.domain)) and d.frequencies_hz
    ]
    return min(tops) if tops else nan
