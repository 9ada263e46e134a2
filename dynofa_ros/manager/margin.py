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
from functools import lru_cache
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
FEW_MISSES = 9.0  # a minute: of fewer, chance has a larger share, with their square root
MARGIN_FLOOR = 1.002
MARGIN_CEILING = 3.0
MARGIN_GRAIN = 0.002  # of the log-ratio, to which the margin is found
LEAST_RATIO = 1e-3


def _halved(low: float, high: float) -> tuple[float, ...]:
    """Numbers from ``low`` to ``high``, halved until they are no further apart than `MARGIN_GRAIN`."""
    if high - low <= MARGIN_GRAIN:
        return low, high
    middle = 0.5 * (low + high)
    return *_halved(low, middle), *_halved(middle, high)[1:]


LOG_MARGINS = _halved(log(MARGIN_FLOOR), log(MARGIN_CEILING))
MARGINS = tuple(map(exp, LOG_MARGINS))


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
        ordered, centre = self._ordered, median_of(self._ordered)
        # The half that is nearest to the median lies side by side, from ``low`` to ``last``.
        half = len(ordered) // 2
        low, high = 0, len(ordered) - half - 1
        while low < high:
            middle = (low + high) // 2
            if centre - ordered[middle] > ordered[middle + half + 1] - centre:
                low = middle + 1
            else:
                high = middle
        last = low + half
        below, above = centre - ordered[low], ordered[last] - centre
        if len(ordered) % 2:
            return max(below, above)
        inner = (
            max(centre - ordered[low + 1], above) if below > above else max(below, ordered[last - 1] - centre)
        )
        return 0.5 * (max(below, above) + inner)

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
    _found: int = 0  # place in MARGINS where the last search ended

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
        """Least factor that no more than ``excess`` frames exceed, those of the prior included.

        It seldom moves far: the search begins where the last one ended, which changes no result.
        """
        low, high, last, stride = self._found, self._found + 1, len(MARGINS) - 1, 1
        while low > 0 and self._beyond(low) <= excess:
            low, high, stride = max(low - stride, 0), low, 2 * stride
        while high < last and self._beyond(high) > excess:
            low, high, stride = high, min(high + stride, last), 2 * stride
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._beyond(middle) <= excess else (middle, high)
        self._found = low
        return exp(0.5 * (LOG_MARGINS[low] + LOG_MARGINS[high]))

    def _beyond(self, number: int) -> float:
        """How many frames exceed a margin, those of the prior included."""
        deviations = LOG_MARGINS[number] / self.deviation
        return self._ratios.above(MARGINS[number]) + PRIOR_RATIOS * _tail(deviations)

    def _learn(self) -> None:
        upper = UPPER_DEVIATION * log(self._ratios.quantile(UPPER_SHARE))
        measured = max(DEVIATION_FLOOR, min(MAD_DEVIATION * self._ratios.deviation(), upper))
        share = len(self._ratios) / (len(self._ratios) + USUAL_FRAMES)
        self._deviation = self.usual ** (1.0 - share) * measured**share


def _tail(deviations: float) -> float:
    """Chance of more than so many (>= 0) deviations, by Student's t with four degrees of freedom."""
    share = deviations / sqrt(deviations * deviations + 4.0)
    return 0.5 - 0.25 * share * (3.0 - share * share)


def scarce(tolerated: float) -> float:
    """Factor on a miss tolerance that allows for so many misses a minute: the fewer, the lower is the aim, as
    chance alone moves a number of misses by its square root."""
    return min(1.0, sqrt(tolerated / FEW_MISSES)) if tolerated > 0.0 else 1.0


@lru_cache(maxsize=256)
def unmeasured_margin(usual: float, miss_tolerance: float) -> float:
    """Margin without any frame, where ``usual`` is the deviation of the log-ratio to expect."""
    return MarginEstimator(usual).margin(miss_tolerance)
