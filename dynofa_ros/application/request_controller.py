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
from dynofa_ros.messages import SubnetEntry

REQUESTS = 128  # over which measured / expected time is looked at
PRIOR = tuple(float(ratio) for ratio in np.exp(0.25 * np.linspace(-2.0, 2.0, 16)))  # until they are known
SMOOTHING = 1 / 16  # of the size and of the time between two requests
AIMED_SHARE = 0.4  # of the miss tolerance: queues behind a long request add as many misses again
KEPT = 4  # requests whose tolerated misses are kept at most


def expected_ms(entry: SubnetEntry, size: float) -> float:
    """Time of a request of this size: ``latency_ms`` at reference size, also where the size is not known."""
    return entry.latency_ms * size_factor(entry.fixed_share, entry.reference_size, size)


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
        granted: Sequence[SubnetEntry],
        size: float,
        left_ms: float,
        next_left_ms: float,
        target_ms: float,
        miss_tolerance: float,
    ) -> SubnetEntry:
        """The most accurate one whose risk of a miss is still tolerated, else the quickest.

        granted: with times at the present clocks. size: guessed. left_ms: of the deadline; next_left_ms: of
        that of the next request, inf if none waits. The risk is that of this request and of the next one,
        which is answered by the quickest sub-network and may come at any time.
        """
        margin, aimed = self.margin(miss_tolerance), AIMED_SHARE * miss_tolerance
        self._size = _smooth(self._size, size)
        quickest_ms = margin * min(expected_ms(e, self._size) for e in granted)
        self._left_over = min(self._left_over + aimed, KEPT * aimed)
        ratios = np.array(self._ratios)
        for network in sorted(granted, key=lambda e: (-e.accuracy, expected_ms(e, size))):
            took_ms = ratios * expected_ms(network, size)
            late_ms = took_ms + quickest_ms - min(next_left_ms, target_ms)  # of the next one, if it is there
            disturbed = late_ms > 0.0
            if next_left_ms == inf:
                disturbed = -np.expm1(-np.maximum(late_ms, 0.0) / self._period_ms)
            risk = float(np.mean(took_ms > left_ms) + np.mean(disturbed))
            if risk <= self._left_over:
                self._left_over -= risk
                return network
        return min(granted, key=lambda e: expected_ms(e, size))

    def observe(self, predicted_ms: float, measured_ms: float) -> None:
        """Takes a request that was answered; predicted_ms: for the size that was guessed."""
        if predicted_ms > 0.0 and measured_ms > 0.0:
            self._ratios.append(measured_ms / predicted_ms)


def _smooth(before: float, value: float) -> float:
    return before + SMOOTHING * (value - before) if isfinite(before) else value
