"""Detects clock domains that do not follow their commands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite

from dynofa_ros.manager.power_guard import SETTLE_S
from dynofa_ros.messages import FrequencyBand

UNRESPONSIVE_READINGS = 3  # outside the band that was commanded
UNRESPONSIVE_TOLERANCE = 0.02
UNRESPONSIVE_S, UNRESPONSIVE_MAX_S = 5.0, 60.0  # until a domain that did not obey is tried again


@dataclass
class ActuatorGuard:
    """Finds unresponsive domains: refused writes, throttling, another program that sets them.

    Plans use the clock that is read there, and the domain is tried again after a while.
    """

    unresponsive: frozenset[str] = frozenset()
    _bands: dict[str, FrequencyBand] = field(default_factory=dict)
    _since_ns: dict[str, int] = field(default_factory=dict)
    _outside: dict[str, int] = field(default_factory=dict)
    _until_ns: dict[str, int] = field(default_factory=dict)
    _wait_s: dict[str, float] = field(default_factory=dict)

    def command(self, now_ns: int, bands: Iterable[FrequencyBand]) -> None:
        """Takes the bands in force; a new one needs time to take effect."""
        for band in bands:
            if self._bands.get(band.domain) != band:
                self._bands[band.domain], self._since_ns[band.domain] = band, now_ns
                self._outside[band.domain] = 0

    def observe(self, now_ns: int, domain: str, hz: float) -> None:
        """Takes one reading of a clock."""
        band = self._bands.get(domain)
        if band is None or not (isfinite(hz) and hz > 0.0):
            return
        if band.min_hz * (1.0 - UNRESPONSIVE_TOLERANCE) <= hz <= band.max_hz * (1.0 + UNRESPONSIVE_TOLERANCE):
            self._outside[domain] = 0
            if domain not in self._until_ns:
                self._wait_s.pop(domain, None)
        elif now_ns - self._since_ns[domain] >= SETTLE_S * 1e9:
            self._outside[domain] += 1
            if self._outside[domain] >= UNRESPONSIVE_READINGS and domain not in self._until_ns:
                wait_s = self._wait_s[domain] = min(
                    2.0 * self._wait_s.get(domain, UNRESPONSIVE_S / 2.0), UNRESPONSIVE_MAX_S
                )
                self._until_ns[domain] = now_ns + round(wait_s * 1e9)
                self.unresponsive = frozenset(self._until_ns)

    def expire(self, now_ns: int) -> bool:
        """Lets time go by; True = a domain is tried again."""
        due = [domain for domain, until_ns in self._until_ns.items() if now_ns >= until_ns]
        for domain in due:
            del self._until_ns[domain]
            self._since_ns[domain], self._outside[domain] = now_ns, 0
        if due:
            self.unresponsive = frozenset(self._until_ns)
        return bool(due)

    def rebase(self, now_ns: int) -> None:
        """Starts all waiting times anew: the clock was set back."""
        self._since_ns = {domain: min(since, now_ns) for domain, since in self._since_ns.items()}
        latest = now_ns + round(UNRESPONSIVE_MAX_S * 1e9)
        self._until_ns = {domain: min(until, latest) for domain, until in self._until_ns.items()}
