"""Emulated DVFS: stretch a real inference to what it would take on the simulated device."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class DomainClock:
    """State of one clock domain of the simulated device."""

    domain: str
    actual_hz: float
    external_slowdown: float


def domains_of(place: str, clocks: Iterable[DomainClock]) -> list[DomainClock]:
    """The clock domains of a processor, those whose name starts with its name; of a cluster that one."""
    clocks = list(clocks)
    return [c for c in clocks if c.domain == place] or [c for c in clocks if c.domain.startswith(place)]


def stretch_factor(
    clocks: Iterable[DomainClock],
    alpha_ms: float,
    beta_ms: float,
    reference_hz: float,
    emulated_slowdown: float,
) -> float:
    """Factor on a real inference: slowdown x (1 + external) x (alpha + beta * f_ref / f) / (alpha + beta).

    The slowest clock and the heaviest load of the processor's domains count. Unknown ones count as the
    reference clock and no load, so that perception also runs while no device node is there.
    """
    frequencies, slowdowns = [], []
    for clock in clocks:
        if math.isfinite(clock.actual_hz) and clock.actual_hz > 0:
            frequencies.append(clock.actual_hz)
        if math.isfinite(clock.external_slowdown) and clock.external_slowdown > 0:
            slowdowns.append(clock.external_slowdown)
    ratio = reference_hz / min(frequencies) if frequencies and reference_hz > 0 else 1.0
    return (
        emulated_slowdown
        * (1 + max(slowdowns, default=0.0))
        * (alpha_ms + beta_ms * ratio)
        / (alpha_ms + beta_ms)
    )
