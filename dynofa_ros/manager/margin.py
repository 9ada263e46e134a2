"""The margin: by what factor a frame may take longer than expected, for all but a share of the frames.

Spikes belong here, not to the mean. The factor is an empirical quantile; while frames are few, and to keep
single ones from moving it far, a prior counts for 192 frames: Student's t with
four degrees of freedom, as wide as the noise. Logs of real boards, alone and contended, have 99 % of the
frames within 3.5 to 4 deviations; there it has 3.75.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, floor, log, sqrt

RATIOS = 256
PRIOR_RATIOS = 192  # frames that the prior counts for
DEVIATION_USUAL = 0.045  # on boards with nothing else to do: 0.04 to 0.07
DEVIATION_FLOOR = 1e-3
USUAL_FRAMES = 16  # frames that the usual deviation counts for
LEARN_EVERY = 4  # frames
FADING = 4  # frames forgotten for each one answered elsewhere
MAD_DEVIATION = 1.4826  # standard deviation / median absolute deviation
# A bounded spread, as from meetings on a processor, has no such tail: the prior is not wider than this
# multiple of the log of an upper quantile (1.3 times what it would be if all were normal).
UPPER_SHARE, UPPER_DEVIATION = 0.95, 0.61
AIMED_SHARE = 0.75  # of the miss tolerance: what is only held on average is broken half of the time
MARGIN_FLOOR = 1.002
MARGIN_CEILING = 3.0
MARGIN_GRAIN = 0.002  # of the log-ratio, to which the margin is found
LEAST_RATIO = 1e-3


class Window:
    """The last so many numbers, kept in ascending order too, so that quantiles are cheap."""

    def __init__(self, size: int) -> None:
        self._newest: deque[float] = deque(maxlen=size)
        self._ordered: list[float] = []  # at this size quicker than a tree of lists

    def __len__(self) -> int:
        return len(self._newest)

    def append(self, value: float) -> None:
        """Takes a number; the oldest makes room for it."""
        if len(self._newest) == self._newest.maxlen:
            self._drop(self._newest[0])
        self._newest.append(value)
        insort(self._ordered, value)

    def pop(self) -> float:
        """Forgets the newest number."""
        value = self._newest.pop()
        self._drop(value)
        return value

    def drop_oldest(self, count: int) -> None:
        """Forgets so many of the oldest numbers, or all."""
        for _ in range(min(count, len(self._newest))):
            self._drop(self._newest.popleft())

    def quantile(self, share: float) -> float:
        """Value that at most ``1 - share`` of the numbers exceed, the least such; ValueError without any."""
        if not self._ordered:
            raise ValueError("quantile of no values")
        above = floor((1.0 - share) * len(self._ordered) + 1e-9)
        return self._ordered[max(0, len(self._ordered) - 1 - above)]

    def above(self, value: float) -> int:
        """How many of the numbers are larger."""
        return len(self._ordered) - bisect_right(self._ordered, value)

    def median(self) -> float:
        """ValueError without any."""
        return median_of(self._ordered)

    def deviation(self) -> float:
        """Median absolute deviation from the median; ValueError without any."""
        centre = median_of(self._ordered)
        return median_of(sorted([abs(value - centre) for value in self._ordered]))

    def _drop(self, value: float) -> None:
        del self._ordered[bisect_left(self._ordered, value)]


def median_of(ordered: Sequence[float]) -> float:
    """Median of numbers in ascending order; ValueError without any."""
    middle = len(ordered) // 2
    if not ordered:
        raise ValueError("median of no values")
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


@dataclass
class MarginEstimator:
    """Measured / expected time of the last frames of one application on one processor."""

    usual: float = DEVIATION_USUAL  # deviation of the log-ratio to expect
    _ratios: Window = field(default_factory=lambda: Window(RATIOS))
    _deviation: float | None = None
    _seen: int = 0
    _margin: float = MARGIN_FLOOR
    _margin_of: tuple[float, float, int] | None = None

    @property
    def deviation(self) -> float:
        """Spread of the log-ratio, drawn to what is usual while frames are few."""
        return self.usual if self._deviation is None else self._deviation

    def append(self, ratio: float) -> None:
        """Takes a frame."""
        self._ratios.append(max(LEAST_RATIO, ratio))
        self._seen += 1
        if self._seen % LEARN_EVERY == 0:
            self._learn()

    def forget(self) -> None:
        """The newest frame was none of the usual spread."""
        if len(self._ratios):
            self._ratios.pop()

    def fade(self) -> None:
        """The application has answered a frame elsewhere: spikes seen here become old, the spread stays."""
        if len(self._ratios):
            self._ratios.drop_oldest(FADING)
            self._seen += 1

    def margin(self, miss_tolerance: float) -> float:
        """Factor that all but `AIMED_SHARE` of ``miss_tolerance`` of the frames stay below."""
        excess = AIMED_SHARE * miss_tolerance * (PRIOR_RATIOS + len(self._ratios))
        key = (excess, self.deviation, self._seen)
        if key != self._margin_of:
            self._margin_of, self._margin = key, self._find(excess)
        return self._margin

    def _find(self, excess: float) -> float:
        """Least factor that no more than ``excess`` frames exceed, those of the prior included."""
        low, high = log(MARGIN_FLOOR), log(MARGIN_CEILING)
        while high - low > MARGIN_GRAIN:
            middle = 0.5 * (low + high)
            frames = self._ratios.above(exp(middle)) + PRIOR_RATIOS * _beyond(middle / self.deviation)
            low, high = (low, middle) if frames <= excess else (middle, high)
        return exp(0.5 * (low + high))

    def _learn(self) -> None:
        upper = UPPER_DEVIATION * log(self._ratios.quantile(UPPER_SHARE))
        measured = max(DEVIATION_FLOOR, min(MAD_DEVIATION * self._ratios.deviation(), upper))
        share = len(self._ratios) / (len(self._ratios) + USUAL_FRAMES)
        self._deviation = self.usual ** (1.0 - share) * measured**share


def _beyond(deviations: float) -> float:
    """Chance of more than so many (>= 0) deviations, by Student's t with four degrees of freedom."""
    share = deviations / sqrt(deviations * deviations + 4.0)
    return 0.5 - 0.25 * share * (3.0 - share * share)
