"""When cameras look: how much the jobs of two periodic applications can overlap, from their true offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import ceil, gcd

import numpy as np

from dynofa_ros.evaluation.policies.profile_table import Array
from dynofa_ros.manager.types import AppTargets

MOST_OFFSETS = 64
SAME_S = 1e-6


@dataclass
class Cameras:
    """Time of image 0 of every application whose images come at its rate; others are not periodic."""

    first_s: dict[str, float] = field(default_factory=dict)
    _last: dict[str, tuple[int, float]] = field(default_factory=dict)
    _irregular: set[str] = field(default_factory=set)
    _period_s: dict[str, float] = field(default_factory=dict)

    def observe(self, app: str, index: int, arrived_s: float) -> None:
        """Takes the number and the time of an image."""
        before = self._last.get(app)
        self._last[app] = (index, arrived_s)
        if before is None or index == before[0] or app in self._irregular:
            return
        period_s = (arrived_s - before[1]) / (index - before[0])
        if abs(period_s - self._period_s.setdefault(app, period_s)) > SAME_S:
            self._irregular.add(app)
            self.first_s.pop(app, None)
        elif app not in self.first_s:
            self.first_s[app] = arrived_s - index * period_s

    def known(self, apps: Sequence[str]) -> tuple[bool, ...]:
        """Of which applications the offset is known."""
        return tuple(app in self.first_s for app in apps)

    def worst(self, targets: AppTargets, other: AppTargets, own_ms: Array, other_ms: Array) -> Array | None:
        """Longest overlap (ms, per level) of a job with those of another application; None = unknown."""
        if targets.app not in self.first_s or other.app not in self.first_s:
            return None
        if any(abs(self._period_s[t.app] * t.rate_hz - 1.0) > 1e-6 for t in (targets, other)):
            return None  # the targets ask for another rate than the camera has
        offset_ms = 1e3 * (self.first_s[other.app] - self.first_s[targets.app])
        offsets = offsets_ms(offset_ms, (targets.rate_hz, other.rate_hz))
        return worst_overlap_ms(offsets, 1e3 / other.rate_hz, own_ms, other_ms)


@lru_cache(maxsize=1024)
def offsets_ms(offset_ms: float, rates_hz: tuple[float, float]) -> Array:
    """All offsets in [0, period of the other) at which its images come after one of the first's."""
    own, other = (1000 / Fraction(hz).limit_denominator(1000) for hz in rates_hz)
    step = Fraction(gcd(own.numerator * other.denominator, other.numerator * own.denominator),
                    own.denominator * other.denominator)  # fmt: skip
    count = min(int(other / step), MOST_OFFSETS)
    return np.sort((offset_ms + float(other) * np.arange(count) / count) % float(other))


def worst_overlap_ms(offsets: Array, period_ms: float, own_ms: Array, other_ms: Array) -> Array:
    """Longest total overlap of one job that starts at 0 with jobs that start at an offset + k periods."""
    finite = own_ms[np.isfinite(own_ms)]
    last = min(20, ceil(float(finite.max()) / period_ms)) if len(finite) else 0
    total = np.zeros((len(offsets), len(own_ms)))
    for k in range(-1, last + 1):
        start = (offsets + k * period_ms)[:, None]
        total += np.maximum(
            0.0, np.minimum(own_ms - np.maximum(start, 0.0), other_ms + np.minimum(start, 0.0))
        )
    worst: Array = total.max(axis=0)
    return worst
