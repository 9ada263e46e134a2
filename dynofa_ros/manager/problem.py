"""The allocation problem: what one processor costs at each clock, what one application needs on it.

Latency of a frame of application i on processor k at clock level f:

    time_i(f)    = slowdown_ik * (alpha + beta * f_reference / f)        the network alone
    latency_i(f) = time_i(f) * (1 + contention_k * load of the others on k) + overhead_i

On a processor that the CPU launches work on (board file, ``launch_share``; none by default) a share of alpha
scales with the CPU's clock in the same way: the CPU's clock is then part of the operating point, also where
no application runs on the CPU.

And the load, the share of time it keeps the processor busy, is rate_i / divider_i * time_i(f), times the
share of the cores that its threads take, where a library names them. One application answers one frame at a
time, so its own time alone must leave room too. A deadline is held if
margin * time * (1 + contention * others) + overhead <= latency_target. The load of others counts in cores:
two applications with one thread each on a cluster of two cores slow each other half as much as with two
threads each. That is cautious, as they share only caches and memory then. Power is a constant plus, per
processor, base(f) + slope(f) * load: exactly the board model of ``device.power``, which is linear in the
utilisation.

Tables that only a library and a clock table decide (`EntryTable`, `Menu`) are built once; what changes from
step to step, the slowdown and the margin, multiplies all of a table alike. Nothing here is changed once it
is made; what is made anew in every step is not declared frozen, as that would take three times as long.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.latency import clock_ratio, core_share, latency, reference_hz
from dynofa_ros.manager.library_error import Rounded, factors
from dynofa_ros.manager.requests import size_laws
from dynofa_ros.messages import SubnetEntry

LOAD_CEILING = 0.92  # busy share of a processor that still leaves room for jitter
SATURATION = 0.98  # busy share above which frames wait longer and longer
LAUNCHER = "cpu"  # processor that launches the work of others
DIVIDERS = (1.0, 16 / 15, 5 / 4, 2.0, 3.0, 4.0)  # due frames over those that are answered

Array = NDArray[np.float64]


@dataclass(eq=False)
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
    launch_share: float = 0.0  # of alpha: scales with the clock of the CPU instead of not at all
    cores: int = 0  # 0 = not known
    place: dict[tuple[float, ...], int] = field(default_factory=dict)  # levels by their clocks, if known

    @property
    def levels(self) -> int:
        """Number of clock levels."""
        return len(self.speed_hz)

    def slowness(self, level: int) -> float:
        """Reference clock over the clock of a level, 1 where one is unknown."""
        return clock_ratio(self.reference_hz, float(self.speed_hz[level]))

    def level_of(self, clocks_hz: tuple[float, ...]) -> int | None:
        """Level with these clocks, None if there is none; NaN = a clock that nobody sets: same as before."""
        known = self.place.get(clocks_hz)
        if known is not None:
            return known
        if len(clocks_hz) != len(self.domains):
            return None
        wanted = np.array(clocks_hz)
        same = (self.clocks_hz == wanted) | np.isnan(self.clocks_hz) | np.isnan(wanted)
        found = np.flatnonzero(same.all(axis=1))
        return int(found[0]) if len(found) else None


@dataclass(frozen=True, eq=False)
class EntryTable:
    """All entries of one application on one processor, in ascending accuracy, at every clock level.

    ``unit_ms[e, f]``: time of an entry at slowdown 1. ``least_ms[e, f]``: least time of the entries from e
    on, inf in the last row (nothing is that accurate). Taking the quickest entry at or above an accuracy is
    exact: less time is less latency, less load and less power at once. That holds among entries that take the
    same share of the cores, a mode; with several modes ``least_ms`` is modes x entries x levels.

    ``position``: place of an entry by its id and threads. ``neighbours``: of each place those of the next
    smaller and the next larger sub-network with the same threads.
    """

    entries: tuple[SubnetEntry, ...]
    accuracies: tuple[float, ...]
    unit_ms: Array
    least_ms: Array
    launch_ms: Array  # of each entry: part of unit_ms that scales with the clock of the CPU, at its reference
    position: dict[tuple[str, int], int]
    neighbours: dict[int, tuple[int | None, int | None]]
    shares: tuple[float, ...] = (1.0,)  # of the cores, ascending; one per mode
    modes: tuple[int, ...] = ()  # of each entry
    laws: frozenset[tuple[float, float]] = frozenset()  # see `requests.size_laws`
    _launched: dict[float, tuple[Array, Array]] = field(default_factory=dict)
    _quickest: dict[tuple[int, int, float, int], SubnetEntry] = field(default_factory=dict)

    def at(self, ratio: float) -> tuple[Array, Array]:
        """``unit_ms`` and ``least_ms`` where the CPU takes ``ratio`` times as long as at its reference."""
        if ratio == 1.0 or not self.launch_ms.any():
            return self.unit_ms, self.least_ms
        if ratio not in self._launched:
            unit_ms = self.unit_ms + ((ratio - 1.0) * self.launch_ms)[:, None]
            self._launched[ratio] = unit_ms, _least_ms(unit_ms, self.modes)
        return self._launched[ratio]

    def quickest(self, first: int, level: int, ratio: float, mode: int) -> SubnetEntry:
        """The quickest entry of a mode from a place on, at a clock level; ``ratio``: see `at`."""
        key = (first, level, ratio, mode)
        found = self._quickest.get(key)
        if found is None:
            times = self.at(ratio)[0][first:, level]
            if len(self.shares) > 1:
                times = np.where(np.array(self.modes[first:]) == mode, times, inf)
            found = self._quickest[key] = self.entries[first + int(times.argmin())]
        return found

    def index(self, entry: SubnetEntry) -> int | None:
        """Place of an entry, None if the table does not hold this very entry."""
        place = self.position.get((entry.id, entry.threads))
        if place is None:
            return None
        known = self.entries[place]
        return place if known is entry or known == entry else None

    def share(self, place: int) -> float:
        """Share of the cores that an entry takes."""
        return self.shares[self.modes[place]]


@dataclass(frozen=True, eq=False)
class Menu:
    """What can be asked of an application, and what then runs; kept from step to step.

    ``accuracies[0]`` is its target, the last one its floor; each demand level gives up one. ``below_floor``:
    its library has nothing at the floor, the best it has stands in for it. ``tables``: its entries on each
    processor. ``first[name][j]``: place there of the least entry that will do for level j.
    """

    accuracies: tuple[float, ...]
    below_floor: bool
    tables: dict[str, EntryTable]
    first: dict[str, list[int]]

    @cached_property
    def least_ms(self) -> dict[str, float]:
        """Least time of a frame on each processor at slowdown 1, inf where nothing has the least accuracy."""
        return {n: float(t.least_ms[..., self.first[n][-1], :].min()) for n, t in self.tables.items()}

    def unit_ms(self, name: str, ratio: float = 1.0) -> Array:
        """Demand levels x clock levels: least time at slowdown 1, inf where no entry will do; with several
        modes they are the first axis. ``ratio``: see `EntryTable.at`."""
        times: Array = self.tables[name].at(ratio)[1][..., self.first[name], :]
        return times

    def level_of(self, accuracy: float) -> int:
        """The first demand level that an accuracy will do for, the last one if none."""
        return min(sum(a > accuracy for a in self.accuracies), len(self.accuracies) - 1)


@dataclass(eq=False)
class App:
    """One application. ``slowdown`` and ``margin``: on each processor that it can run on."""

    name: str
    priority: int
    rate_hz: float
    latency_target_ms: float
    overhead_ms: float
    menu: Menu
    slowdown: dict[str, float]
    margin: dict[str, float]
    keeps_rate: bool = False  # every request is to be answered

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracies by demand level."""
        return self.menu.accuracies

    @property
    def tables(self) -> dict[str, EntryTable]:
        """Its entries by processor."""
        return self.menu.tables

    @cached_property
    def frame_cost_ms(self) -> float:
        """Time that a frame takes at least, weighed by importance: what giving it up saves."""
        return (1.0 + self.priority) * min(self.menu.least_ms.values())


@dataclass(frozen=True)
class Demand:
    """What one application gets at least. ``relaxed`` = its deadline is given up."""

    level: int = 0
    divider: float = 1.0
    relaxed: bool = False


@dataclass(eq=False)
class Problem:
    """All that an operating point is chosen from.

    ``processors``: those an application could run on. ``unused``: the others; their power and all that no
    processor causes, the measured bias included, is in ``constant_w``. ``most_frames``: where frames have to
    be given up, those that take longest go first (objective `throughput`), else those of the least important
    application. ``least_latency``: of the points that give the same, the one that fills the latency targets
    least (objective `latency`), else the one of least power.
    """

    apps: tuple[App, ...]
    processors: tuple[Processor, ...]
    constant_w: float
    power_limit_w: float = inf
    power_known: bool = True
    unused: tuple[Processor, ...] = ()
    most_frames: bool = False
    least_latency: bool = False
    load_ceiling: float = LOAD_CEILING

    def __post_init__(self) -> None:
        # The CPU, if the time of a network elsewhere depends on its clock.
        self.launcher: Processor | None = None
        if any([p.launch_share > 0.0 for p in self.processors]):
            self.launcher = next((p for p in self.processors if p.name == LAUNCHER), None)

    def launch_ratio(self, name: str, levels: Mapping[str, int]) -> float:
        """How much longer the CPU takes to launch work on a processor than at its reference clock.

        1 where nothing is launched, or the clock of the CPU is nobody's choice.
        """
        cpu = self.launcher
        if cpu is None or cpu.name not in levels or self.processor(name).launch_share == 0.0:
            return 1.0
        return cpu.slowness(levels[cpu.name])

    def processor(self, name: str) -> Processor:
        """Processor by name; raises KeyError."""
        for processor in self.processors:
            if processor.name == name:
                return processor
        raise KeyError(name)


def entry_times_ms(entry: SubnetEntry, processor: Processor) -> Array:
    """Time of an entry at every level of a processor; at its reference where clocks are unknown."""
    reference = reference_hz(entry.reference_frequencies, processor.domains, processor.reference_hz)
    ratio = reference / processor.speed_hz
    return latency(entry.alpha_ms, entry.beta_ms, np.where(np.isfinite(ratio), ratio, 1.0))


def make_table(entries: Sequence[SubnetEntry], processor: Processor) -> EntryTable:
    """Table of the entries of one application on one processor; raises ValueError without any."""
    if not entries:
        raise ValueError("a table needs at least one library entry")
    ordered = tuple(sorted(entries, key=lambda e: (e.accuracy, e.id, e.threads)))
    by_entry = [core_share(e.threads, processor.cores) for e in ordered]
    shares = tuple(sorted(set(by_entry)))
    modes = tuple(map(shares.index, by_entry))
    unit_ms = np.stack([entry_times_ms(e, processor) for e in ordered])
    launch_ms = processor.launch_share * np.array([e.alpha_ms for e in ordered])
    near: dict[int, tuple[int | None, int | None]] = {}
    for threads in {e.threads for e in ordered}:
        same = [n for n, e in enumerate(ordered) if e.threads == threads]
        near |= zip(same, zip([None, *same[:-1]], [*same[1:], None], strict=True), strict=True)
    return EntryTable(
        entries=ordered,
        accuracies=tuple(e.accuracy for e in ordered),
        unit_ms=unit_ms,
        least_ms=_least_ms(unit_ms, modes),
        launch_ms=launch_ms,
        position={(e.id, e.threads): n for n, e in enumerate(ordered)},
        neighbours=near,
        shares=shares,
        modes=modes,
        laws=size_laws(ordered),
    )


def corrected(table: EntryTable, errors: Rounded) -> EntryTable:
    """A table of what the library says, with ``errors`` for what it says wrongly."""
    if not errors:
        return table
    offset_ms, by_entry = factors(errors, [(e.id, e.threads) for e in table.entries])
    factor = np.array(by_entry)
    unit_ms = (table.unit_ms + offset_ms) * factor[:, None]
    least_ms, launch_ms = _least_ms(unit_ms, table.modes), table.launch_ms * factor
    return replace(table, unit_ms=unit_ms, least_ms=least_ms, launch_ms=launch_ms, _launched={}, _quickest={})


def _least_ms(unit_ms: Array, modes: Sequence[int]) -> Array:
    if max(modes, default=0) > 0:
        own = np.array(modes)[:, None]
        each = [_least_ms(np.where(own == mode, unit_ms, inf), ()) for mode in range(max(modes) + 1)]
        return np.stack(each)
    least_ms = np.full((len(unit_ms) + 1, unit_ms.shape[1]), inf)
    least_ms[:-1] = np.minimum.accumulate(unit_ms[::-1], axis=0)[::-1]
    return least_ms


def make_menu(tables: dict[str, EntryTable], target: float, floor: float) -> Menu:
    """What can be asked, from the accuracy ``target`` to ``floor``; raises ValueError without any entry."""
    own = tuple([table.accuracies for table in tables.values()])
    accuracies, below, first = _asked(own, target, floor)
    return Menu(accuracies, below, tables, dict(zip(tables, first, strict=True)))


@lru_cache(maxsize=256)  # tables change with what is learned of their times, seldom with their accuracies
def _asked(
    own: tuple[tuple[float, ...], ...], target: float, floor: float
) -> tuple[tuple[float, ...], bool, list[list[int]]]:
    """``accuracies`` and ``below_floor`` of a menu, and its ``first`` in the order of the tables."""
    accuracies, below = demand_accuracies(list(chain(*own)), target, floor)
    return accuracies, below, [[bisect_left(table, a) for a in accuracies] for table in own]


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
    wanted = levels[bisect_left(levels, min(target, best))]
    allowed = [a for a in levels if floor <= a <= wanted]
    if not allowed:  # target below the floor, or floor above the best
        allowed = [best if floor > best else levels[bisect_left(levels, floor)]]
    return tuple(reversed(allowed)), floor > best
