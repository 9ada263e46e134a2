"""Busy share of processors from the frames that applications answered. No clock is read here."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 0.5
FORGET_S = 2.0


class BusyTimes:
    """Turns single frames into a smooth utilisation: busy time over the time between results.

    Each frame's busy time is spread over the interval since the previous result of its application,
    averaged over the last 0.5 s (and at least the last two results). When results stop coming, the
    share falls as 1 / time and is 0 after 2 s.
    """

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str], deque[tuple[float, float]]] = {}

    def add(self, app: str, processor: str, busy_s: float, now_s: float) -> None:
        """A result of ``app`` arrived at ``now_s``; it occupied ``processor`` for ``busy_s``.

        Raises ValueError if ``busy_s`` is not a finite number >= 0.
        """
        if not 0.0 <= busy_s < math.inf:
            raise ValueError(f"busy time of '{app}' must be >= 0 s, not {busy_s}")
        frames = self._frames.setdefault((app, processor), deque())
        frames.append((now_s, busy_s))
        while len(frames) > 2 and frames[1][0] < now_s - WINDOW_S:
            frames.popleft()

    def utilization(self, now_s: float) -> dict[str, float]:
        """Busy share (0..1) per processor that has been used lately."""
        shares: dict[str, float] = {}
        for (app, processor), frames in list(self._frames.items()):
            if now_s - frames[-1][0] > FORGET_S:
                del self._frames[app, processor]
                continue
            shares[processor] = min(shares.get(processor, 0.0) + _share(frames, now_s), 1.0)
        return shares


def _share(frames: deque[tuple[float, float]], now_s: float) -> float:
    age_s = now_s - frames[-1][0]
    if len(frames) == 1:
        return frames[0][1] / max(WINDOW_S, age_s, frames[0][1])
    busy_s = sum(busy for _, busy in frames) - frames[0][1]
    span_s = frames[-1][0] - frames[0][0]
    overdue_s = max(age_s - span_s / (len(frames) - 1), 0.0)
    return busy_s / max(span_s + overdue_s, busy_s) if busy_s else 0.0
