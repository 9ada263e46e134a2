"""The allocation problem as arrays: what one processor costs, what one application needs on it.

Latency of a frame of application i on processor k at clock level f:

    time_i(f)    = slowdown_ik * (alpha + beta * f_reference / f)        the network alone
    latency_i(f) = time_i(f) * (1 + contention_k * load of the others on k) + overhead_i

and its load, the share of time it keeps the processor busy, is rate_i / divider_i * time_i(f). A deadline
is held if margin * time * (1 + contention * others) + overhead <= latency_target. Power is a constant plus,
per processor, base(f) + slope(f) * load: exactly the board model of ``device.power``, which is linear in
the utilisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.types import LibraryEntry

LOAD_CEILING = 0.92  # busy share of a processor that still leaves room for jitter

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Processor:
    """One processor at each of its clock levels, ascending. Arrays have one value per level.

    ``clocks_hz`` is levels x domains, NaN for a domain that cannot be set. ``background`` is the
    utilisation that others cause. ``idle_w`` is the power with no managed application and ``idle_level``
    the level it then gets; None = its clocks are not touched.
    """

    name: str
    domains: tuple[str, ...]
    clocks_hz: Array
    speed_hz: Array  # slowest domain of the level, NaN = unknown
    reference_hz: float  # for entries that name no reference, NaN = unknown
    base_w: Array
    slope_w: Array
    background: Array
    idle_w: float
    idle_level: int | None
    contention: float

    @property
    def levels(self) -> int:
        """Number of clock levels."""
        return len(self.speed_hz)


@dataclass(frozen=True)
class Option:
    """One application on one processor. ``entries`` are in ascending accuracy.

    ``time_ms[j, f]``: least time of an entry that has the accuracy of demand level j; ``pick[j, f]``: that
    entry.
    """

    entries: tuple[LibraryEntry, ...]
    entry_ms: Array  # entries x levels
    time_ms: Array
    pick: NDArray[np.int64]
    margin: float

    def estimated(self, slowdown: float, margin: float) -> Option:
        """The same option, all of it slower by a factor, with another margin."""
        return replace(
            self, entry_ms=slowdown * self.entry_ms, time_ms=slowdown * self.time_ms, margin=margin
        )


@dataclass(frozen=True)
class App:
    """One application: ``accuracies[0]`` is its target, the last one its floor; each step gives up one."""

    name: str
    priority: int
    rate_hz: float
    latency_target_ms: float
    overhead_ms: float
    accuracies: tuple[float, ...]
    below_floor: bool  # the library has nothing at the floor: the best it has stands in for it
    options: dict[str, Option]


@dataclass(frozen=True)
class Demand:
    """What one application gets at least. ``relaxed`` = its deadline is given up."""

    level: int = 0
    divider: int = 1
    relaxed: bool = False


@dataclass(frozen=True)
class Problem:
    """All that an operating point is chosen from.

    ``processors``: those an application could run on. ``unused``: the others; their power and all that no
    processor causes, the measured bias included, is in ``constant_w``.
    """

    apps: tuple[App, ...]
    processors: tuple[Processor, ...]
    constant_w: float
    power_limit_w: float = inf
    power_known: bool = True
    unused: tuple[Processor, ...] = ()

    def processor(self, name: str) -> Processor:
        """Processor by name; raises KeyError."""
        for processor in self.processors:
            if processor.name == name:
                return processor
        raise KeyError(name)


def reference_hz(entry: LibraryEntry, domains: Sequence[str], default_hz: float) -> float:
    """Clock at which the entry takes alpha + beta: of the slowest domain it names, else the default."""
    named = [hz for domain, hz in entry.reference_hz if domain in domains]
    return float(min(named)) if named else default_hz


def entry_times_ms(entry: LibraryEntry, processor: Processor, slowdown: float) -> Array:
    """Expected time of an entry at every level of a processor; at its reference where clocks are unknown."""
    ratio = reference_hz(entry, processor.domains, processor.reference_hz) / processor.speed_hz
    return slowdown * (entry.alpha_ms + entry.beta_ms * np.where(np.isfinite(ratio), ratio, 1.0))


def make_option(
    entries: Sequence[LibraryEntry],
    accuracies: Sequence[float],
    processor: Processor,
    slowdown: float,
    margin: float,
) -> Option:
    """Tables of one application on one processor; a demand that no entry meets takes infinite time.

    The cheapest entry at or above an accuracy is taken at each level, which is exact: less time is less
    latency, less load and less power at once.
    """
    ordered = tuple(sorted(entries, key=lambda e: (e.accuracy, e.id)))
    entry_ms = np.stack([entry_times_ms(e, processor, slowdown) for e in ordered])
    time_ms = np.full((len(accuracies), processor.levels), inf)
    pick = np.zeros((len(accuracies), processor.levels), dtype=np.int64)
    for j, accuracy in enumerate(accuracies):
        first = next((n for n, e in enumerate(ordered) if e.accuracy >= accuracy), None)
        if first is not None:
            pick[j] = first + np.argmin(entry_ms[first:], axis=0)
            time_ms[j] = entry_ms[first:].min(axis=0)
    return Option(ordered, entry_ms, time_ms, pick, margin)


def demand_accuracies(
    available: Sequence[float], target: float, floor: float
) -> tuple[tuple[float, ...], bool]:
    """Accuracies an application can be asked for, from target to floor; whether it must stay below its floor.

    The target counts up to the best there is. Each step is the accuracy of a library entry, so no better
    one is missed. Raises ValueError for an empty library.
    """
    levels = sorted(set(available))
    if not levels:
        raise ValueError("an application needs at least one library entry")
    best = levels[-1]
    wanted = next((a for a in levels if a >= min(target, best)), best)
    allowed = [a for a in levels if floor <= a <= wanted]
    if not allowed:  # target below the floor, or floor above the best
        allowed = [next((a for a in levels if a >= floor), best)]
    return tuple(reversed(allowed)), floor > best
