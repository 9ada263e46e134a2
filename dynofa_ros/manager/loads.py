"""Load of the clock domains: what the managed applications cause, and what others cause."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, isfinite

from dynofa_ros.latency import processor_of
from dynofa_ros.manager.clocks import Clocks

LOAD_SMOOTHING_S = 0.5
BACKGROUND_SMOOTHING_S = 1.0
BACKGROUND_DEADBAND = 0.05
SATURATED = 0.98


@dataclass
class Loads:
    """All in cycles per second: utilisation x clock."""

    _busy_hz: dict[str, float] = field(default_factory=dict)  # per domain, smoothed
    _own_hz: dict[str, float] = field(default_factory=dict)  # per processor or cluster: the managed load
    _others_hz: dict[str, float] = field(default_factory=dict)  # per domain: what is not ours, smoothed again
    _busy_ms: dict[str, float] = field(default_factory=dict)  # per processor or cluster, since the last step

    def count(self, place: str, busy_ms: float) -> None:
        """Takes the time for which a frame kept a processor or cluster busy."""
        self._busy_ms[place] = self._busy_ms.get(place, 0.0) + busy_ms

    def observe(self, domain: str, utilization: float, hz: float, dt_s: float) -> None:
        """Takes a reading of a clock domain, ``dt_s`` after the last one."""
        if isfinite(utilization) and isfinite(hz):
            busy_hz = min(max(utilization, 0.0), 1.0) * hz
            self._busy_hz[domain] = _smooth(
                self._busy_hz.get(domain, 0.0), busy_hz, 1.0 - exp(-dt_s / LOAD_SMOOTHING_S)
            )

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
        for domain in self._busy_hz:
            before = self._others_hz.get(domain, 0.0)
            self._others_hz[domain] = _smooth(before, self._rest_hz(domain, clocks), weight)

    def background_hz(self, domain: str, clocks: Clocks) -> float:
        """Work that others do on a domain; 0 where nothing is known.

        It is believed slowly and forgotten fast: the rest of a frame just answered must not count as theirs.
        """
        return min(self._others_hz.get(domain, 0.0), self._rest_hz(domain, clocks))

    def _rest_hz(self, domain: str, clocks: Clocks) -> float:
        processor = processor_of(domain) or ""
        own = self._own_hz.get(processor, 0.0)
        own += self._own_hz.get(domain, 0.0) if domain != processor else 0.0
        hz = clocks.hz(domain)
        busy = self._busy_hz.get(domain, 0.0)
        # Where nothing is left idle nobody knows how much more others would take.
        deadband = BACKGROUND_DEADBAND * hz if isfinite(hz) and busy < SATURATED * hz else 0.0
        return max(0.0, busy - own - deadband)


def _smooth(before: float, value: float, weight: float) -> float:
    return before + weight * (value - before)
