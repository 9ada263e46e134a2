"""Alarm for frames that are late for seconds although the plan in force expects them in time.

Then something is wrong with what the plan was made from, whatever it is: a clock misread, a library of
another machine. The alarm scales the slowdown that plans assume by measured over promised latency, and
takes the factor back when frames turn out quicker than promised.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import isfinite, nan
from statistics import median

SPAN_NS = 3_000_000_000  # of frames that are judged together
LEAST_FRAMES = 6
MISSED_SHARE = 0.5  # of them: more is no noise around a margin
LEAST_FACTOR, MOST_FACTOR = 1.1, 30.0
QUICK_SHARE = 0.9  # of the promised latency: the factor was too much
PERSISTENT = 3  # spans in a row: corrections do not help


@dataclass
class MissAlarm:
    """One application. ``correction`` = factor on its slowdown, ``spans`` = spans in a row that failed."""

    correction: float = 1.0
    spans: int = 0
    missed_share: float = 0.0  # of the last span
    promised_ms: float = nan  # latency to expect under the plan in force
    _in_time: bool = False
    _frames: deque[tuple[int, bool, float]] = field(default_factory=deque)

    def promise(self, latency_ms: float, *, in_time: bool) -> None:
        """Takes the latency to expect under the plan in force, and whether it holds the deadline."""
        self.promised_ms, self._in_time = latency_ms, in_time

    def restart(self) -> None:
        """Judges anew: other knobs, or the clock was set back."""
        self._frames.clear()

    def observe(self, now_ns: int, latency_ms: float, missed: bool) -> bool:
        """Takes a frame of the planned sub-network; True = the alarm is raised: plan again."""
        if not isfinite(self.promised_ms):
            return False
        self._frames.append((now_ns, missed, latency_ms / self.promised_ms))
        if len(self._frames) < LEAST_FRAMES or now_ns - self._frames[0][0] < SPAN_NS:
            return False
        ratio = median(ratio for _, _, ratio in self._frames)
        self.missed_share = sum(missed for _, missed, _ in self._frames) / len(self._frames)
        self._frames.clear()
        if self._in_time and self.missed_share > MISSED_SHARE:
            self.spans += 1
            self.correction = min(MOST_FACTOR, self.correction * max(LEAST_FACTOR, ratio))
            return True
        self.spans = 0
        if self.correction > 1.0 and ratio < QUICK_SHARE:
            self.correction = max(1.0, self.correction * ratio)
        return False
