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
LONG_MS = 500.0  # of a frame: what is smoothed over less time than it takes says nothing
LONG_SHARE = 0.7  # of the longest frame: one of such length has just ended
LONG_FADING = 0.95  # per frame
MOST_WAITED = 3.0  # times the longest frame


@dataclass
class Loads:
    """All in cycles per second: utilisation x clock.

    ``background_hz``: work that others do on a domain, as of the last step; absent where nothing is known. It
    is believed slowly and forgotten fast: the rest of a frame just answered must not count as theirs.

    A frame is known when it ends. On a processor with frames of seconds loads are compared over the time from
    the end of one to that of another: in between, the work on a frame looks like that of others.
    """

    background_hz: dict[str, float] = field(default_factory=dict)
    _busy_hz: dict[str, float] = field(default_factory=dict)  # per domain, smoothed
    _own_hz: dict[str, float] = field(default_factory=dict)  # per processor or cluster: the managed load
    _others_hz: dict[str, float] = field(default_factory=dict)  # per domain: what is not ours, smoothed again
    _busy_ms: dict[str, float] = field(default_factory=dict)  # per processor or cluster, since the last step

    # Of processors with long frames, since loads were last compared: seconds, cycles per domain and place.
    _span_s: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)
    _own: dict[str, float] = field(default_factory=dict)
    _longest_ms: dict[str, float] = field(default_factory=dict)  # per processor
    _ended: set[str] = field(default_factory=set)  # processors on which a long frame has ended in this step

    def count(self, place: str, busy_ms: float, frame_ms: float) -> None:
        """Takes the time for which a frame kept a processor or cluster busy, and that of the frame."""
        self._busy_ms[place] = self._busy_ms.get(place, 0.0) + busy_ms
        processor = processor_of(place) or place
        longest_ms = LONG_FADING * self._longest_ms.get(processor, 0.0)
        if frame_ms >= LONG_SHARE * longest_ms:
            self._ended.add(processor)
        self._longest_ms[processor] = max(longest_ms, frame_ms)

    def observe(self, readings: Iterable[DomainTelemetry], dt_s: float) -> None:
        """Takes readings of clock domains, ``dt_s`` after the last ones."""
        weight = 1.0 - exp(-dt_s / LOAD_SMOOTHING_S)
        for reading in readings:
            utilization, hz = reading.utilization, reading.frequency_hz
            if isfinite(utilization) and isfinite(hz):
                before = self._busy_hz.get(reading.domain, 0.0)
                busy_hz = min(max(utilization, 0.0), 1.0) * hz
                self._busy_hz[reading.domain] = _smooth(before, busy_hz, weight)
                self._seen[reading.domain] = self._seen.get(reading.domain, 0.0) + busy_hz * dt_s

    def close_step(self, dt_s: float, clocks: Clocks) -> None:
        """Averages what was counted since the last step, ``dt_s`` ago."""
        weight = 1.0 - exp(-dt_s / LOAD_SMOOTHING_S)
        for place in set(self._own_hz) | set(self._busy_ms):
            hz = clocks.speed_hz(place)
            load = self._busy_ms.get(place, 0.0) * 1e-3 / dt_s if dt_s > 0.0 else 0.0
            if isfinite(hz):
                self._own_hz[place] = _smooth(self._own_hz.get(place, 0.0), load * hz, weight)
                self._own[place] = self._own.get(place, 0.0) + load * hz * dt_s
        self._busy_ms.clear()
        long = {name: ms for name, ms in self._longest_ms.items() if ms >= LONG_MS}
        for processor in long:
            self._span_s[processor] = self._span_s.get(processor, 0.0) + dt_s
        waits = {
            n for n, ms in long.items() if n not in self._ended and self._span_s[n] < MOST_WAITED * 1e-3 * ms
        }
        for domain, busy_hz in self._busy_hz.items():
            processor, span_s, own_hz = processor_of(domain) or domain, dt_s, self._own_hz
            if processor in waits:
                continue
            if processor in long and self._span_s[processor] > 0.0:
                span_s = self._span_s[processor]
                busy_hz = self._seen.get(domain, 0.0) / span_s
                own_hz = {place: cycles / span_s for place, cycles in self._own.items()}
            weight = 1.0 - exp(-span_s / BACKGROUND_SMOOTHING_S)
            rest_hz = self._rest_hz(domain, busy_hz, clocks.hz(domain), own_hz)
            others_hz = _smooth(self._others_hz.get(domain, 0.0), rest_hz, weight)
            self._others_hz[domain], self.background_hz[domain] = others_hz, min(others_hz, rest_hz)
        for kept in (self._seen, self._own, self._span_s):
            for name in [name for name in kept if (processor_of(name) or name) not in waits]:
                del kept[name]
        self._ended.clear()

    @staticmethod
    def _rest_hz(domain: str, busy_hz: float, hz: float, own_hz: dict[str, float]) -> float:
        """What the managed applications do not cause."""
        processor = processor_of(domain) or ""
        own = own_hz.get(processor, 0.0)
        own += own_hz.get(domain, 0.0) if domain != processor else 0.0
        # Where nothing is left idle nobody knows how much more others would take.
        deadband = BACKGROUND_DEADBAND * hz if isfinite(hz) and busy_hz < SATURATED * hz else 0.0
        return max(0.0, busy_hz - own - deadband)


def _smooth(before: float, value: float, weight: float) -> float:
    return before + weight * (value - before)
