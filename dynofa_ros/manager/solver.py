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
from typing import Any

import numpy as np

from dynofa_ros.manager.grid import Asked, Grid, Indices
from dynofa_ros.manager.problem import LOAD_CEILING, Array

MAX_FREE_APPS = 8  # applications with a choice of processor; 3^8 = 6561 splits
ROUNDING = 1e-9  # what `best_for` promises must survive the other order of summation in `solve`
NEVER_W = 1e300  # what cannot be done; a sum of some is still a number
NO_LIMIT_W = 1e250


@dataclass(frozen=True)
class Point:
    """An operating point: processor of each application, level of each processor in use, total power.

    ``modes``: of each application, see `problem.EntryTable`; empty = there is only one.
    """

    mapping: tuple[str, ...]
    levels: dict[str, int]
    power_w: float
    modes: tuple[int, ...] = ()

    def of_modes(self, values: Array) -> Array:
        """Of values by mode, application and row those of the modes."""
        return values[np.array(self.modes), np.arange(len(self.modes))] if self.modes else values


def solve(
    grid: Grid, wanted: Asked, *, power: bool = True, load: bool = True, background: bool = False
) -> Point | None:
    """Least-power operating point that gives every application its demand; None if there is none.

    ``power``, ``load``: whether the power limit and the load ceiling hold. ``background``: whether others
    must not be starved by a low clock; at the top clock there is nothing more to give them.
    """
    if grid.parts:
        points = [solve(part, wanted, power=power, load=load, background=background) for part in grid.parts]
        return min((p for p in points if p is not None), key=lambda p: p.power_w, default=None)
    free = tuple(app for app in range(len(wanted.level)) if not grid.pins or grid.pins[app] < 0)
    tables = _workspace(len(grid.base_w), len(free))
    if not tables.ask(grid, wanted, free, LOAD_CEILING if load else inf):
        return None
    subsets, power_w = tables.cheapest(background)
    power_w += grid.constant_w
    if not power_w < NO_LIMIT_W or (power and power_w > grid.limit_w):
        return None
    mapping, levels = list(grid.pins or (-1,) * len(wanted.level)), {}
    for k, (name, place, subset) in enumerate(zip(grid.names, grid.slices, subsets, strict=True)):
        for bit, app in enumerate(free):
            if subset >> bit & 1:
                mapping[app] = k
        if k in mapping or k == grid.held:
            levels[name] = grid.first[k] + int(tables.priced[place, subset].argmin())
    modes = tables.modes_of(mapping, subsets)
    return Point(tuple(grid.names[k] for k in mapping), levels, power_w, modes)


def best_for(
    grid: Grid, wanted: Asked, app: int, dividers: Sequence[int], *, relaxed: bool = False
) -> tuple[int, int] | None:
    """Least divider of ``dividers``, then best demand level, that an application can be given.

    The demands of all others stay; mapping and clocks are free. ``relaxed``: without its deadline. None =
    not even the last divider and level.
    """
    if grid.parts:
        found = [best_for(p, wanted, app, dividers, relaxed=relaxed) for p in grid.parts]
        return min((f for f in found if f is not None), default=None)
    if grid.share is not None:
        return _best_by_trying(grid, wanted, app, dividers, relaxed)
    free = tuple(n for n in range(len(wanted.level)) if n == app or not grid.pins or grid.pins[n] < 0)
    tables = _workspace(len(grid.base_w), len(free))
    if not tables.ask(grid, wanted, free, LOAD_CEILING, but=app):
        return None
    room, in_time = tables.room(free.index(app), None if relaxed else grid.deadline[app])
    load = grid.load[app] * (1.0 + ROUNDING)
    for divider in dividers:
        allowed = np.minimum(room * divider, in_time) if in_time is not None else room * divider
        fits = (load <= allowed.max(axis=0)).any(axis=1)
        if fits.any():
            return divider, int(fits.argmax())
    return None


def _best_by_trying(
    grid: Grid, wanted: Asked, app: int, dividers: Sequence[int], relaxed: bool
) -> tuple[int, int] | None:
    """`best_for` where more of one application can change the threads of the others: less is always possible
    where more is."""
    trial = wanted.copy()
    trial.relaxed[app] = relaxed
    own = np.isfinite(grid.load[..., app, :, :]).any(axis=-1)
    last = int(np.flatnonzero(own.reshape(-1, own.shape[-1]).any(axis=0)).max(initial=-1))

    def possible(divider: int, level: int) -> bool:
        trial.divider[app], trial.level[app] = divider, level
        return solve(grid, trial) is not None

    for divider in dividers if last >= 0 else ():
        if possible(divider, last):
            low, high = 0, last
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if possible(divider, middle) else (middle + 1, high)
            return divider, high
    return None


class Tables:
    """Load, load limit and power for every subset of the free applications (lines) at every row (columns).

    Those that may not move are in the empty subset already.
    """

    def __init__(self, rows: int, bits: int) -> None:
        self.priced = np.empty((rows, 1 << bits))  # power where everything holds; transposed
        self._both = np.empty((2, 1 << bits, rows))
        self._load, self._power = self._both
        self._most, self._never = (np.empty((1 << bits, rows)) for _ in range(2))
        self._broken = np.empty((1 << bits, rows), dtype=bool)
        self._joint: dict[tuple[int, ...], Array] = {}
        self._gain, self._spare = (np.empty((1 << bits, rows)) for _ in range(2))
        self._asked: tuple[Any, ...] = ()
        self._grid: Grid
        self._own: Array
        self._limit: Array
        self._taken: set[int] = set()
        self._background = self._roomy = False

    def ask(self, grid: Grid, wanted: Asked, free: tuple[int, ...], ceiling: float, but: int = -1) -> bool:
        """Makes them the tables of these demands; False = someone, ``but`` for one, fits nowhere."""
        asked = (grid, wanted.key(), free, ceiling)
        if asked == self._asked:
            return True
        own, limit = grid.loads(wanted)
        if grid.share is not None:  # one frame after the other, however many cores are left
            limit = np.where(own > ceiling * grid.share, -inf, limit)
        possible = np.any(own <= limit, axis=-1)
        fits: list[bool] = (possible if possible.ndim == 1 else possible.any(axis=0)).tolist()
        if any(not fit for app, fit in enumerate(fits) if app != but):
            return False
        self._grid, self._asked, self._background = grid, asked, False
        self._taken = {pin for app, pin in enumerate(grid.pins) if app not in free}
        self._own, self._limit = own, limit
        if own.ndim == 2:
            self._fill(own, limit, free, ceiling)
        else:
            self._fill_modes(own, limit, free, ceiling)
        self._price()
        return True

    def _fill_modes(self, own: Array, limit: Array, free: tuple[int, ...], ceiling: float) -> None:
        """As `_fill`, with the modes that load each subset least; first axis: modes.

        An application may take a mode as long as the total load is within what its deadline allows in that
        mode. The more the others load, the fewer modes are left to it, so the least total load is the least
        fixed point of "everybody takes the least mode that is left": found from below, it is exact.
        """
        least = own.argmin(axis=0)[None]
        self._fill(
            np.take_along_axis(own, least, 0)[0], np.take_along_axis(limit, least, 0)[0], free, ceiling
        )
        several = np.flatnonzero((np.isfinite(own).sum(axis=0) > 1).any(axis=0))
        own, limit, load = own[..., several], limit[..., several], self._load[:, several]
        homes = np.searchsorted([place.stop for place in self._grid.slices], several, side="right")
        while True:
            total = np.zeros_like(load)
            for app, pin in enumerate(self._grid.pins):
                if app not in free:
                    here = np.where(homes == pin, _least_within(own[:, app], limit[:, app], load), 0.0)
                    total += here
            for bit, app in enumerate(free):
                members = _members(len(load), bit)
                total[members] += _least_within(own[:, app], limit[:, app], load[members])
            if np.array_equal(total, load):
                break
            load = total
        within = np.isfinite(load)
        self._load[:, several] = load = np.where(within, load, 0.0)
        self._power[:, several] = self._grid.base_w[several] + self._grid.slope_w[several] * load
        self._most[:, several] = np.where(within, ceiling, -1.0)

    def modes_of(self, homes: Sequence[int], subsets: Sequence[int]) -> tuple[int, ...]:
        """Mode of each application, given its processor and the subset that each processor hosts."""
        if self._own.ndim == 2:
            return ()
        modes = []
        for app, k in enumerate(homes):
            place = self._grid.slices[k]
            row = place.start + int(self.priced[place, subsets[k]].argmin())
            fits = self._limit[:, app, row] >= self._load[subsets[k], row]
            modes.append(int(np.where(fits, self._own[:, app, row], inf).argmin()))
        return tuple(modes)

    def _fill(self, own: Array, limit: Array, free: tuple[int, ...], ceiling: float) -> None:
        grid = self._grid
        load, power, most = self._load, self._power, self._most
        both, steps = self._both, np.stack((own, own * grid.slope_w))[:, :, None]
        load[0], power[0], most[0] = 0.0, grid.base_w, ceiling
        for app, pin in enumerate(grid.pins):
            if app not in free:
                place = grid.slices[pin]
                load[0, place] += own[app, place]
                power[0, place] += steps[1, app, 0, place]
                most[0, place] = np.minimum(most[0, place], limit[app, place])
        for bit, app in enumerate(free):
            half = 1 << bit
            np.add(both[:, :half], steps[:, app], out=both[:, half : 2 * half])
            np.minimum(most[:half], limit[app], out=most[half : 2 * half])

    def _price(self) -> None:
        """Least power of every subset on every processor."""
        broken, never, grid = self._broken, self._never, self._grid
        np.greater(self._load, self._most, out=broken)
        if self._background:
            broken |= (self._load + grid.background > LOAD_CEILING) & grid.below_top
        np.multiply(broken, NEVER_W, out=never)
        never += self._power
        np.copyto(self.priced, never.T)  # the least of adjacent lines is found several times faster
        self._joint.clear()
        self._roomy = False
        for k, (place, idle_w) in enumerate(zip(grid.slices, grid.idle_w, strict=True)):
            least_w = self._joint[k,] = np.minimum.reduce(self.priced[place], axis=0)
            if k not in self._taken:
                least_w[0] = idle_w

    def joint_w(self, processors: tuple[int, ...]) -> Array:
        """Least power of every subset, spread over some processors."""
        known = self._joint.get(processors)
        if known is None:
            known = _min_plus(self.joint_w(processors[:-1]), self._joint[processors[-1:]])
            self._joint[processors] = known
        return known

    def cheapest(self, background: bool) -> tuple[list[int], float]:
        """Split of all applications with the least power: one subset (bit mask) per processor."""
        if background != self._background:
            self._background = background
            self._price()
        count = len(self._grid.slices)
        rest = self.priced.shape[1] - 1
        subsets = [0] * count
        total = float(self._joint[0,][rest]) if count == 1 else inf
        for k in range(count - 1, 0, -1):
            parts = _subsets(rest)
            costs = self.joint_w(tuple(range(k)))[rest ^ parts] + self._joint[k,][parts]
            best = int(costs.argmin())
            if k == count - 1:
                total = float(costs[best])
            subsets[k] = int(parts[best])
            rest ^= subsets[k]
        subsets[0] = rest
        return subsets, total

    def room(self, bit: int, deadline: Array | None) -> tuple[Array, Array | None]:
        """Load that one application may bring to a subset of the others; subsets without it x rows.

        The second: load at which it is late there, None without a deadline.
        """
        grid = self._grid
        if self._background:
            self._background = False
            self._price()
        if not self._roomy:
            np.subtract(self._most, self._load, out=self._spare)
            np.multiply(self._load, grid.contention, out=self._gain)
            self._gain += 1.0
            self._roomy = True
        without, complement = _others(len(self._load), bit)
        watts = self._power.take(without, axis=0)
        limit_w = min(grid.limit_w, NO_LIMIT_W) - grid.constant_w
        everywhere = tuple(range(len(grid.slices)))
        for k, place in enumerate(grid.slices):
            elsewhere = everywhere[:k] + everywhere[k + 1 :]
            rest_w = self.joint_w(elsewhere) if elsewhere else _nobody(len(self._load))
            np.subtract((limit_w - rest_w[complement])[:, None], watts[:, place], out=watts[:, place])
        watts /= grid.slope_w
        room = np.minimum(watts, self._spare.take(without, axis=0), out=watts)
        return room, None if deadline is None else deadline / self._gain.take(without, axis=0)


def _least_within(own: Array, limit: Array, total: Array) -> Array:
    """Least load of one application among its modes that bear the total load; total is any x rows."""
    return np.where(limit[:, None] >= total, own[:, None], inf).min(axis=0)


@lru_cache(maxsize=64)
def _members(subsets: int, bit: int) -> Indices:
    """Subsets with one application."""
    return np.array([mask for mask in range(subsets) if mask >> bit & 1], dtype=np.int64)


@lru_cache(maxsize=64)
def _others(subsets: int, bit: int) -> tuple[Indices, Indices]:
    """Subsets without one application, and what of the others is not in them."""
    without = np.array([mask for mask in range(subsets) if not mask >> bit & 1], dtype=np.int64)
    return without, (subsets - 1 - (1 << bit)) ^ without


@lru_cache(maxsize=32)  # fresh memory of this size costs more than what is computed in it
def _workspace(rows: int, bits: int) -> Tables:
    return Tables(rows, bits)


def _nobody(subsets: int) -> Array:
    """Power of hosting a subset on no processor at all."""
    power_w = np.full(subsets, NEVER_W)
    power_w[0] = 0.0
    return power_w


def _min_plus(left: Array, right: Array) -> Array:
    """out[S] = min over A within S of left[S - A] + right[A]."""
    rests, parts, starts, one, other = _splits(len(left))
    # Indices are within bounds; clipping them is quicker than looking.
    left.take(rests, out=one, mode="clip")
    right.take(parts, out=other, mode="clip")
    sums: Array = np.minimum.reduceat(np.add(one, other, out=one), starts)
    return sums


@lru_cache(maxsize=4096)
def _subsets(mask: int) -> Indices:
    parts = [0]
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            parts += [part | 1 << bit for part in parts]
    return np.array(parts, dtype=np.int64)


@lru_cache(maxsize=16)
def _splits(size: int) -> tuple[Indices, Indices, Indices, Array, Array]:
    parts = [_subsets(mask) for mask in range(size)]
    rests = [mask ^ part for mask, part in enumerate(parts)]
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]])
    left, right = np.concatenate(rests), np.concatenate(parts)
    return left, right, starts.astype(np.int64), np.empty(len(left)), np.empty(len(left))
