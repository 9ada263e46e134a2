"""Exact minimum-power operating point for given demands: processor mapping x sub-network x clock levels.

Power and latency of a processor depend only on which applications it hosts, so the least power of each
processor is tabulated over all subsets of applications and the best partition is found by a min-plus sweep
over subsets. `best_for` answers the converse from the same tables: with the demands of all others as they
are, the most that one application can be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager import kernel
from dynofa_ros.manager.grid import Asked, Grid, Indices
from dynofa_ros.manager.problem import LOAD_CEILING, Array

MAX_FREE_APPS = 8  # applications with a choice of processor; 3^8 = 6561 splits
ROUNDING = 1e-9  # what `best_for` promises must survive the other order of summation in `solve`


@dataclass(frozen=True)
class Point:
    """An operating point: processor of each application, level of each processor in use, total power."""

    mapping: tuple[str, ...]
    levels: dict[str, int]
    power_w: float


def solve(
    grid: Grid, wanted: Asked, *, power: bool = True, load: bool = True, background: bool = False
) -> Point | None:
    """Least-power operating point that gives every application its demand; None if there is none.

    ``power``, ``load``: whether the power limit and the load ceiling hold. ``background``: whether others
    must not be starved by a low clock; at the top clock there is nothing more to give them.
    """
    ceiling = LOAD_CEILING if load else inf
    others_ceiling = LOAD_CEILING if background else inf
    native = kernel.load()
    if native is not None and grid.native is not None:
        found = native.least_power(grid.native, wanted.native(), ceiling, others_ceiling)
    else:
        found = _least_power(grid, *grid.loads(wanted), ceiling, others_ceiling)
    power_w, mapping, rows = found[0] + grid.constant_w, found[1], found[2]
    if not power_w < inf or (power and power_w > grid.limit_w):
        return None
    used = zip(grid.names, grid.slices, rows, strict=True)
    levels = {name: row - place.start for name, place, row in used if row >= 0}
    return Point(tuple(grid.names[k] for k in mapping), levels, power_w)


def _least_power(
    grid: Grid, own: Array, limit: Array, ceiling: float, others_ceiling: float
) -> tuple[float, list[int], list[int]]:
    """As `Kernel.least_power`: power, processor per application, row per processor."""
    nothing: tuple[float, list[int], list[int]] = (inf, [], [])
    hosting = _hosting(grid, own, limit, range(len(own)))
    if hosting is None:
        return nothing
    tables = _tabulate(grid, own, limit, hosting, ceiling, others_ceiling)
    subsets, power_w = _partition(tables.least_w)
    if not power_w < inf:
        return nothing
    mapping = [0] * len(own)
    for app, processor in hosting.fixed:
        mapping[app] = processor
    rows = []
    for k, (place, subset) in enumerate(zip(grid.slices, subsets, strict=True)):
        members = [app for bit, app in enumerate(hosting.free) if subset >> bit & 1]
        for app in members:
            mapping[app] = k
        used = bool(members) or k in hosting.taken
        rows.append(place.start + int(tables.power_w[place, subset].argmin()) if used else -1)
    return power_w, mapping, rows


def best_for(
    grid: Grid, wanted: Asked, app: int, dividers: Sequence[int], *, relaxed: bool = False
) -> tuple[int, int] | None:
    """Least divider of ``dividers``, then best demand level, that an application can be given.

    The demands of all others stay; mapping and clocks are free. ``relaxed``: without its deadline. None =
    not even the last divider and level.
    """
    native = kernel.load()
    if native is not None and grid.native is not None:
        return native.best_for(
            grid.native,
            wanted.native(),
            app,
            dividers,
            relaxed=relaxed,
            ceiling=LOAD_CEILING,
            rounding=1.0 + ROUNDING,
        )
    budget_ms = inf if relaxed else float(grid.budget_ms[app])
    scale = [divider / float(grid.load_per_ms[app]) for divider in dividers]
    longest = _longest_ms(grid, wanted, app, budget_ms, scale)
    if longest is None:
        return None
    time_ms = grid.time_ms[app] * grid.slowdown[app] * (1.0 + ROUNDING)
    if grid.pins and grid.pins[app] >= 0:
        time_ms[:, grid.row_processor != grid.pins[app]] = inf
    for divider, most_ms in zip(dividers, longest, strict=True):
        fits = ((time_ms <= most_ms) & np.isfinite(time_ms)).any(axis=1)
        if fits.any():
            return divider, int(fits.argmax())
    return None


def _longest_ms(
    grid: Grid, wanted: Asked, app: int, budget_ms: float, scale: Sequence[float]
) -> Array | None:
    """Longest time of an application at every row beside the others, one line per ``scale``."""
    own, limit = grid.loads(wanted)
    hosting = _hosting(grid, own, limit, [n for n in range(len(own)) if n != app])
    if hosting is None:
        return None
    tables = _tabulate(grid, own, limit, hosting, LOAD_CEILING, inf)
    room = _room(grid, tables)
    in_time_ms = budget_ms / (grid.margin[app][:, None] * (1.0 + grid.contention[:, None] * tables.load))
    in_time_ms[tables.load == inf] = 0.0
    return np.stack([np.minimum(room * ms_per_load, in_time_ms).max(axis=1) for ms_per_load in scale])


def _room(grid: Grid, tables: _Tables) -> Array:
    """Load that a newcomer may bring, rows x subsets of others that share its processor."""
    rests = _rests(grid, tables)
    for k, place in enumerate(grid.slices):
        left_w = np.where(np.isfinite(rests[k]), grid.limit_w - grid.constant_w - rests[k], -inf)
        np.divide(left_w - grid.base_w[place], grid.slope_w[place], out=tables.power_w[place])
    room = np.minimum(tables.power_w, tables.limit, out=tables.power_w)
    room -= tables.load
    room[tables.load == inf] = -inf
    return room


def _rests(grid: Grid, tables: _Tables) -> list[Array]:
    """Per processor and subset that it hosts: least power of hosting all others elsewhere."""
    size = tables.load.shape[1]
    alone = np.full(size, inf)
    alone[0] = 0.0
    rests = []
    for k in range(len(grid.names)):
        others = [least for j, least in enumerate(tables.least_w) if j != k]
        total = others[0] if others else alone
        for least in others[1:]:
            total = _min_plus(total, least)
        rests.append(total[::-1])  # the complement of S is full - S
    return rests


@dataclass(frozen=True)
class _Hosting:
    """Applications that only one processor can take, and those with a choice."""

    fixed: tuple[tuple[int, int], ...]
    free: tuple[int, ...]

    @property
    def taken(self) -> set[int]:
        return {processor for _, processor in self.fixed}


@dataclass(frozen=True)
class _Tables:
    """Rows x subsets of the free applications; ``least_w``: least power per processor and subset."""

    load: Array
    limit: Array
    power_w: Array
    least_w: list[Array]


def _hosting(grid: Grid, own: Array, limit: Array, apps: Sequence[int]) -> _Hosting | None:
    """Who can go where at all; None if someone cannot go anywhere."""
    starts = [place.start for place in grid.slices]
    possible = np.logical_or.reduceat(own <= limit, starts, axis=1).tolist()
    fixed, free = [], []
    for app in apps:
        places = [k for k, fits in enumerate(possible[app]) if fits]
        if not places:
            return None
        if len(places) == 1:
            fixed.append((app, places[0]))
        else:
            free.append(app)
    return _Hosting(tuple(fixed), tuple(free))


def _tabulate(
    grid: Grid, own: Array, limit: Array, hosting: _Hosting, ceiling: float, others_ceiling: float
) -> _Tables:
    """Load, load limit and power of every row for every subset of the free applications."""
    load, least, power, mask = _workspace(len(grid.row_processor), 1 << len(hosting.free))
    load[:, 0], least[:, 0] = 0.0, ceiling
    for app, processor in hosting.fixed:
        place = grid.slices[processor]
        load[place, 0] += own[app, place]
        np.minimum(least[place, 0], limit[app, place], out=least[place, 0])
    members = list(hosting.free)
    _double(load, least, own[members], limit[members])
    np.multiply(load, grid.slope_w, out=power)
    power += grid.base_w
    np.greater(load, least, out=mask)
    if others_ceiling < inf:
        mask |= (load + grid.background > others_ceiling) & grid.below_top
    np.copyto(power, inf, where=mask)
    least_w = [np.minimum.reduce(power[place], axis=0) for place in grid.slices]
    for k, idle_w in enumerate(grid.idle_w):
        if k not in hosting.taken:
            least_w[k][0] = idle_w
    return _Tables(load, least, power, least_w)


def _double(load: Array, least: Array, own: Array, limit: Array) -> None:
    """Fills tables over subsets (last axis) from the empty one on; applications on the last axis but one."""
    for bit in range(own.shape[-2]):
        half = 1 << bit
        np.add(load[..., :half], own[..., bit, :, None], out=load[..., half : 2 * half])
        np.minimum(least[..., :half], limit[..., bit, :, None], out=least[..., half : 2 * half])


@lru_cache(maxsize=32)  # fresh memory of this size costs more than what is computed in it
def _workspace(rows: int, subsets: int) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    return (
        np.empty((rows, subsets)),
        np.empty((rows, subsets)),
        np.empty((rows, subsets)),
        np.empty((rows, subsets), dtype=bool),
    )


def _partition(tables: Sequence[Array]) -> tuple[list[int], float]:
    """Split of the full set over the tables with the least sum: one subset (bit mask) per table."""
    full = len(tables[0]) - 1
    sums = [tables[0]]
    for table in tables[1:-1]:
        sums.append(_min_plus(sums[-1], table))
    subsets = [0] * len(tables)
    rest = full
    total = float(sums[-1][full]) if len(tables) == 1 else inf
    for k in range(len(tables) - 1, 0, -1):
        parts = _subsets(rest)
        costs = sums[k - 1][rest ^ parts] + tables[k][parts]
        best = int(costs.argmin())
        if k == len(tables) - 1:
            total = float(costs[best])
        subsets[k] = int(parts[best])
        rest ^= subsets[k]
    subsets[0] = rest
    return subsets, total


def _min_plus(left: Array, right: Array) -> Array:
    """out[S] = min over A within S of left[S - A] + right[A]."""
    rests, parts, starts = _splits(len(left))
    sums: Array = np.minimum.reduceat(left[rests] + right[parts], starts)
    return sums


@lru_cache(maxsize=4096)
def _subsets(mask: int) -> Indices:
    parts = [0]
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            parts += [part | 1 << bit for part in parts]
    return np.array(parts, dtype=np.int64)


@lru_cache(maxsize=16)
def _splits(size: int) -> tuple[Indices, Indices, Indices]:
    parts = [_subsets(mask) for mask in range(size)]
    rests = [mask ^ part for mask, part in enumerate(parts)]
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]])
    return np.concatenate(rests), np.concatenate(parts), starts.astype(np.int64)
