"""The lower level of the hierarchy: which sub-network answers the request at hand.

The manager sets the clocks and grants a set of sub-networks with the time that it expects of each at the
reference size. The application knows more of a single request: how large it seems to be, how much of its
deadline is left, and who waits behind it. It takes the most accurate one that fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, nan

import numpy as np

from dynofa_ros.latency import size_factor

REQUESTS = 128  # over which measured / expected time is looked at
PRIOR = tuple(float(ratio) for ratio in np.exp(0.25 * np.linspace(-2.0, 2.0, 16)))  # until they are known
SMOOTHING = 1 / 16  # of the size and of the time between two requests
AIMED_SHARE = 0.75  # of the miss tolerance: what is only held on average is broken half of the time


@dataclass(frozen=True)
class Granted:
    """A sub-network that may answer. expected_ms: at reference size, at the present clocks."""

    subnet_id: str
    accuracy: float
    expected_ms: float
    fixed_share: float = 1.0
    reference_size: float = 0.0

    def time_ms(self, size: float) -> float:
        """Expected time of a request of this size; at reference size where it is not known."""
        return self.expected_ms * size_factor(self.fixed_share, self.reference_size, size)


@dataclass
class RequestController:
    """Chooses, and learns by how much requests take longer than expected: a size is only guessed before."""

    _ratios: deque[float] = field(default_factory=lambda: deque(PRIOR, maxlen=REQUESTS))
    _size: float = nan  # usual guess
    _period_ms: float = inf  # usual time between two requests
    _arrived_ms: float = nan

    def arrive(self, now_ms: float) -> None:
        """A request comes; now_ms: of any steady clock."""
        if isfinite(self._arrived_ms):
            gap_ms = now_ms - self._arrived_ms
            self._period_ms = _smooth(self._period_ms, gap_ms)
        self._arrived_ms = now_ms

    def margin(self, miss_tolerance: float) -> float:
        """Factor on the expected time that all but ``AIMED_SHARE`` of the tolerance of the requests keep."""
        return float(np.quantile(self._ratios, 1.0 - AIMED_SHARE * miss_tolerance))

    def choose(
        self,
        granted: Sequence[Granted],
        size: float,
        left_ms: float,
        next_left_ms: float,
        target_ms: float,
        miss_tolerance: float,
    ) -> Granted:
        """The most accurate one that should answer in time, else the quickest.

        size: guessed. left_ms: of the deadline; next_left_ms: of that of the next request, inf if none
        waits. One that comes while this one is answered must find time for the quickest sub-network, but for
        a share ``miss_tolerance`` of the times: arrivals are random.
        """
        margin = self.margin(miss_tolerance)
        self._size = _smooth(self._size, size)
        quickest_ms = margin * min(g.time_ms(self._size) for g in granted)
        spare_ms = min(next_left_ms, target_ms + miss_tolerance * self._period_ms) - quickest_ms
        fitting = [g for g in granted if margin * g.time_ms(size) <= min(left_ms, spare_ms)]
        if not fitting:
            return min(granted, key=lambda g: g.time_ms(size))
        return max(fitting, key=lambda g: (g.accuracy, -g.time_ms(size)))

    def observe(self, expected_ms: float, measured_ms: float) -> None:
        """Takes a request that was answered; expected_ms: for the size that was guessed."""
        if expected_ms > 0.0 and measured_ms > 0.0:
            self._ratios.append(measured_ms / expected_ms)


def _smooth(before: float, value: float) -> float:
    return before + SMOOTHING * (value - before) if isfinite(before) else value
