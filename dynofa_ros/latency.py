"""The latency law, the reference clock of a library entry, and the processor of a clock domain.

An inference takes slowdown * (alpha + beta * f_reference / f): alpha does not scale with the clock, beta is
measured at f_reference. alpha and beta are of one unit of time, which is that of the result. Where the size
of a request matters they are those of a request of reference size, and `size_factor` multiplies all of it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import lru_cache
from math import inf, isfinite
from typing import Any

from dynofa_ros.messages import DomainFrequency

PROCESSORS = ("cpu", "gpu", "npu")
CLUSTERED = "cpu"  # the processor that has clusters


def latency(alpha: Any, beta: Any, clock_ratio: Any, slowdown: Any = 1.0) -> Any:
    """Time of an inference. Numbers or arrays that broadcast; clock_ratio: f_reference / f."""
    return slowdown * (alpha + beta * clock_ratio)


def size_factor(fixed_share: float, reference_size: float, size: float) -> float:
    """Time of a request of ``size`` units over that of ``reference_size`` units; 1 where either is unknown.

    fixed_share: the share of the time at reference size that does not depend on the size.
    """
    if not (0.0 < reference_size < inf and 0.0 < size < inf):
        return 1.0
    return fixed_share + (1.0 - fixed_share) * size / reference_size


def core_share(threads: int, cores: int) -> float:
    """Share of the cores of a processor or cluster that threads keep busy; 1 where either is 0, unknown."""
    return min(1.0, threads / cores) if threads > 0 and cores > 0 else 1.0


def clock_ratio(reference_hz: float, hz: float) -> float:
    """f_reference / f; 1 where either is unknown: it then counts as running at its reference."""
    ratio = reference_hz / hz if hz else 1.0
    return ratio if isfinite(ratio) else 1.0


def reference_hz(named: Iterable[DomainFrequency], domains: Container[str], default_hz: float) -> float:
    """f_reference on these clock domains: of the slowest that is named, else the default."""
    own = [clock.frequency_hz for clock in named if clock.domain in domains]
    return float(min(own)) if own else default_hz


@lru_cache(maxsize=64)
def processor_of(domain: str) -> str | None:
    """Processor that a clock domain belongs to: ``cpu`` for ``cpu0``, None for ``emc``."""
    name = domain.rstrip("0123456789")
    return name if name in PROCESSORS else None


def domains_of(place: str, domains: Iterable[str]) -> tuple[str, ...]:
    """Those clock domains that belong to a place: to a processor, or the one of a cluster."""
    return tuple(domain for domain in domains if place in (domain, processor_of(domain)))
