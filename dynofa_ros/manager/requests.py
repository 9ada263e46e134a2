"""Requests that come at any time, are of different sizes and wait in order: what is learned of them.

A queue is predicted as one with random arrivals and one server: Pollaczek and Khinchine's mean wait, and an
exponential tail (Kingman). Where arrivals are more regular than that, less is waited than predicted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf, log, nan

from dynofa_ros.latency import size_factor
from dynofa_ros.messages import SubnetEntry

SIZES = 64  # requests over which the usual size is taken
FIRST_SIZES = 8  # for which the reference size of the library counts
MEMORY_S = 30.0  # of the arrival rate
FIRST_ARRIVALS = 1.0  # requests at the asked rate that the rate begins with
BURST_RESERVE = 1.15
RESIDUAL = 0.6  # mean rest of the request in work, of its mean time: half, and more where times differ
STEPS = 30  # of a bisection


@dataclass
class RequestSizes:
    """Sizes of an application's requests. ``usual``: their mean, NaN before the first."""

    usual: float = nan
    _seen: int = 0

    def observe(self, size: float, reference_size: float) -> None:
        """Takes the size of a request that was answered."""
        if not self._seen:
            self.usual = reference_size
        self._seen += 1
        self.usual += (size - self.usual) / min(self._seen + FIRST_SIZES, SIZES)


def size_laws(entries: Iterable[SubnetEntry]) -> frozenset[tuple[float, float]]:
    """Fixed share and reference size of entries: few libraries have more than one pair."""
    return frozenset((e.fixed_share, e.reference_size) for e in entries)


def usual_factor(laws: Iterable[tuple[float, float]], usual: float) -> float:
    """Time at the usual size over that at the reference size: the most by these laws, 1 without one.

    usual: NaN before the first request with a size, and so always for cameras.
    """
    if usual != usual:
        return 1.0
    return max((size_factor(share, reference, usual) for share, reference in laws), default=1.0)


@dataclass
class ArrivalRate:
    """Requests per second, where silence says something too; older time counts less."""

    _requests: float = 0.0
    _elapsed_s: float = 0.0

    def observe(self, requests: int, dt_s: float) -> None:
        """Takes the requests, answered and refused, of the last ``dt_s``."""
        kept = exp(-dt_s / MEMORY_S)
        self._requests = kept * self._requests + requests
        self._elapsed_s = kept * self._elapsed_s + dt_s

    def hz(self, asked_hz: float) -> float:
        """Rate to plan for. ``asked_hz``: of the targets, which counts until more is known."""
        learned = (FIRST_ARRIVALS + self._requests) / (FIRST_ARRIVALS / asked_hz + self._elapsed_s)
        return BURST_RESERVE * learned


def queue_margin(margin: float, rate_hz: float, budget_ms: float, miss_tolerance: float) -> float:
    """Factor on the mean time of a request that leaves room for the wait in the queue, at least ``margin``.

    budget_ms: for wait and inference. A request that has waited as long as all but ``miss_tolerance`` do must
    still have its mean time. For an application that keeps the deadline by exactly this factor; one that is
    quicker waits less.
    """
    if budget_ms <= 0.0 or rate_hz <= 0.0:
        return margin

    def needed_ms(time_ms: float) -> float:
        return max(margin * time_ms, time_ms + wait_ms(time_ms, rate_hz, miss_tolerance))

    low, high = 0.0, budget_ms / margin
    if needed_ms(high) <= budget_ms:
        return margin
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if needed_ms(middle) <= budget_ms else (low, middle)
    return budget_ms / low if low > 0.0 else margin


def wait_ms(time_ms: float, rate_hz: float, share: float) -> float:
    """Wait in the queue that all but ``share`` of the requests stay below, inf where the queue only grows."""
    load = 1e-3 * rate_hz * time_ms
    if load >= 1.0:
        return inf
    return RESIDUAL * time_ms / (1.0 - load) * max(0.0, log(load / share)) if load > 0.0 else 0.0
