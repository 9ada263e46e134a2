"""The lower level of the hierarchy: which sub-network answers the request at hand.

The manager sets the clocks and grants a set of sub-networks with the time that it expects of each at the
reference size. The application knows more of a single request: how large it seems to be, how much of its
deadline is left, and who waits behind it. It takes the most accurate one that is likely to fit. What requests
leave of the tolerated misses is kept for larger ones: most have no use for it.
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
AIMED_SHARE = 0.4  # of the miss tolerance: queues behind a long request add as many misses again
KEPT = 4  # requests whose tolerated misses are kept at most


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
    _left_over: float = 0.0  # misses that are still tolerated

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
        """The most accurate one whose risk of a miss is still tolerated, else the quickest.

        size: guessed. left_ms: of the deadline; next_left_ms: of that of the next request, inf if none
        waits. The risk is that of this request and of the next one, which is answered by the quickest
        sub-network and may come at any time.
        """
        margin, aimed = self.margin(miss_tolerance), AIMED_SHARE * miss_tolerance
        self._size = _smooth(self._size, size)
        quickest_ms = margin * min(g.time_ms(self._size) for g in granted)
        self._left_over = min(self._left_over + aimed, KEPT * aimed)
        ratios = np.array(self._ratios)
        for network in sorted(granted, key=lambda g: (-g.accuracy, g.time_ms(size))):
            took_ms = ratios * network.time_ms(size)
            late_ms = took_ms + quickest_ms - min(next_left_ms, target_ms)  # of the next one, if it is there
            disturbed = late_ms > 0.0
            if next_left_ms == inf:
                disturbed = -np.expm1(-np.maximum(late_ms, 0.0) / self._period_ms)
            risk = float(np.mean(took_ms > left_ms) + np.mean(disturbed))
            if risk <= self._left_over:
                self._left_over -= risk
                return network
        return min(granted, key=lambda g: g.time_ms(size))

    def observe(self, expected_ms: float, measured_ms: float) -> None:
        """Takes a request that was answered; expected_ms: for the size that was guessed."""
        if expected_ms > 0.0 and measured_ms > 0.0:
            self._ratios.append(measured_ms / expected_ms)


def _smooth(before: float, value: float) -> float:
    return before + SMOOTHING * (value - before) if isfinite(before) else value
