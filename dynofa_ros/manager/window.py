"""A window of the last numbers with its quantiles."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from math import floor


class Window:
    """The last so many numbers, kept in order too, so that quantiles cost nothing."""

    def __init__(self, size: int) -> None:
        self._newest: deque[float] = deque(maxlen=size)
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._ordered)

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
