"""How many of a camera's images never arrived, from the images that did."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from math import inf
from statistics import fmean
from typing import Any

WINDOW_S = 10.0
PAUSE_S = 2.0  # a longer gap is a camera that paused
FEWEST = 3  # gaps before anything can be said
STEPS = 10  # in which the mean settles
MEMORY = 0.9  # of how early the last image was: 1 would add up a rate that is slightly off


class Arrivals:
    """Gaps between the images of the last 10 s.

    How many images a gap is, is known where rclpy hands on the numbers that the middleware gives to messages
    (not on Humble). Elsewhere the camera's period is taken from the shorter gaps: one that sends only every
    second image looks like one of half the rate.
    """

    def __init__(self) -> None:
        self._gaps: deque[tuple[float, float, int]] = deque()  # when it ended, its length, its images (0 = ?)
        self._last: tuple[float, int, Any] | None = None

    def add(self, now_s: float, stamp_s: float, info: dict[str, Any]) -> None:
        """An image came. now_s: steady clock. stamp_s: of its header, 0 = none. info: rclpy's about it."""
        stamp_s, number = stamp_s or now_s, info.get("publication_sequence_number") or 0
        sender = str(info.get("publisher_gid"))
        if self._last is not None:
            before_s, before, before_sender = self._last
            images = max(0, number - before) if number and before else 0
            if before_sender == sender and 0.0 < stamp_s - before_s < (inf if images else PAUSE_S):
                self._gaps.append((now_s, stamp_s - before_s, images))
        self._last = stamp_s, number, sender
        while self._gaps and self._gaps[0][0] < now_s - WINDOW_S:
            self._gaps.popleft()

    def lost(self, rate_hz: float) -> tuple[int, int]:
        """Images that were due at ``rate_hz`` and never came, and all that were due, in the last 10 s."""
        if len(self._gaps) < FEWEST:
            return 0, 0
        camera_s = self._camera_period_s()
        lost, due, early = 0, 0.0, 0.0
        for _, gap_s, images in self._gaps:
            period_s = max(gap_s / images if images else camera_s, 1.0 / rate_hz)
            periods = gap_s / period_s
            number = max(1, round(periods - early))
            lost, due = lost + number - 1, due + periods
            if not images and camera_s > 0.7 / rate_hz:
                # After an image that came late the gap is short, after one that came early it is long.
                early = min(max(MEMORY * (early + number - periods), -0.5), 0.5)
        return lost, round(due)

    def _camera_period_s(self) -> float:
        """Mean of the gaps that are about as long as the shortest ones: in them nothing was lost."""
        gaps = sorted(gap_s for _, gap_s, _ in self._gaps)
        period_s = gaps[len(gaps) // 10]
        for _ in range(STEPS):
            period_s = fmean(gaps[: bisect_left(gaps, 1.75 * period_s)])
        return period_s
