"""Load of the clock domains: what the managed applications cause, and what others cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, isfinite

from dynofa_ros.latency import processor_of
from dynofa_ros.manager.clocks import Clocks
from dynofa_ros.messages import DomainTelemetry

LOAD_SMOOTHING_S = 0.5
BACKGROUND_SMOOTHING_S = 1.0
BACKGROUND_DEADBAND = 0.05
SATURATED = 0.98


@dataclass
class Loads:
    """All in cycles per second: utilisation x clock.

    ``background_hz``: work that others do on a domain, as of the last step; absent where nothing is known. It
    is believed slowly and forgotten fast: the rest of a frame just answered must not count as theirs.
    """

    background_hz: dict[str, float] = field(default_factory=dict)
    _busy_hz: dict[str, float] = field(default_factory=dict)  # per domain, smoothed
    _own_hz: dict[str, float] = field(default_factory=dict)  # per processor or cluster: the managed load
    _others_hz: dict[str, float] = field(default_factory=dict)  # per domain: what is not ours, smoothed again
    _busy_ms: dict[str, float] = field(default_factory=dict)  # per processor or cluster, since the last step

    def count(self, place: str, busy_ms: float) -> None:
        """Takes the time for which a frame kept a processor or cluster busy."""
        self._busy_ms[place] = self._busy_ms.get(place, 0.0) + busy_ms

    def observe(self, readings: Iterable[DomainTelemetry], dt_s: float) -> None:
        """Takes readings of clock domains, ``dt_s`` after the last ones."""
        weight = 1.0 - exp(-dt_s / LOAD_SMOOTHING_S)
        for reading in readings:
            utilization, hz = reading.utilization, reading.frequency_hz
            if isfinite(utilization) and isfinite(hz):
                before = self._busy_hz.get(reading.domain, 0.0)
                busy_hz = min(max(utilization, 0.0), 1.0) * hz
                self._busy_hz[reading.domain] = _smooth(before, busy_hz, weight)

    def close_step(self, dt_s: float, clocks: Clocks) -> None:
        """Averages what was counted since the last step, ``dt_s`` ago."""
        weight = 1.0 - exp(-dt_s / LOAD_SMOOTHING_S)
        for place in set(self._own_hz) | set(self._busy_ms):
            hz = clocks.speed_hz(place)
            load = self._busy_ms.get(place, 0.0) * 1e-3 / dt_s if dt_s > 0.0 else 0.0
            if isfinite(hz):
                self._own_hz[place] = _smooth(self._own_hz.get(place, 0.0), load * hz, weight)
        self._busy_ms.clear()
        weight = 1.0 - exp(-dt_s / BACKGROUND_SMOOTHING_S)
        for domain, busy_hz in self._busy_hz.items():
            rest_hz = self._rest_hz(domain, busy_hz, clocks.hz(domain))
            others_hz = _smooth(self._others_hz.get(domain, 0.0), rest_hz, weight)
            self._others_hz[domain], self.background_hz[domain] = others_hz, min(others_hz, rest_hz)

    def _rest_hz(self, domain: str, busy_hz: float, hz: float) -> float:
        """What the managed applications do not cause."""
        processor = processor_of(domain) or ""
        own = self._own_hz.get(processor, 0.0)
        own += self._own_hz.get(domain, 0.0) if domain != processor else 0.0
        # Where nothing is left idle nobody knows how much more others would take.
        deadband = BACKGROUND_DEADBAND * hz if isfinite(hz) and busy_hz < SATURATED * hz else 0.0
        return max(0.0, busy_hz - own - deadband)


def _smooth(before: float, value: float, weight: float) -> float:
    return before + weight * (value - before)
