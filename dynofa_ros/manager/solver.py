"""Exact minimum-power operating point for given demands: processor mapping x sub-network x clock levels.

Power and latency of a processor depend only on which applications it hosts, so the least power of each
processor is tabulated over all subsets of applications and the best partition is found by a min-plus sweep
over subsets. `best_for` answers the converse from the same tables: with the demands of all others as they
are, the most that one application can be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from dynofa_ros.manager.few import Few, limit_to_keep_w
from dynofa_ros.manager.grid import NEVER_W, NO_LIMIT_W, ROUNDING, Asked, Grid, Indices, Needs, Point
from dynofa_ros.manager.problem import LOAD_CEILING, Array

MAX_FREE_APPS = 8  # applications with a choice of processor; 3^8 = 6561 splits
MOST_KNOWN = 8  # mappings that are looked at one by one; more where tables are large


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
    free = _free(grid, wanted)
    tables = _tables(grid, wanted, free, grid.ceiling if load else inf)
    if tables is None:
        return None
    subsets, power_w = tables.cheapest(background)
    power_w += grid.constant_w
    if not power_w < NO_LIMIT_W or (power and power_w > grid.limit_w):
        return None
    mapping, rows = list(grid.pins or (-1,) * len(wanted.level)), [0] * len(grid.slices)
    levels, needs = {}, tables.needs
    for k, (name, place, subset) in enumerate(zip(grid.names, needs.slices, subsets, strict=True)):
        for bit, app in enumerate(free):
            if subset >> bit & 1:
                mapping[app] = k
        if k in mapping or k == grid.held:
            rows[k] = place.start + int(tables.priced[place, subset].argmin())
            row = rows[k] if isinstance(needs.rows, slice) else int(needs.rows[rows[k]])
            levels[name] = grid.first[k] + row - grid.slices[k].start
    modes: list[int] = (
        [] if needs.modes is None else [int(m[rows[k]]) for m, k in zip(needs.modes, mapping, strict=True)]
    )
    return Point(tuple(grid.names[k] for k in mapping), levels, power_w, tuple(modes))


def best_for(
    grid: Grid, wanted: Asked, app: int, dividers: Sequence[float], *, relaxed: bool = False
) -> tuple[float, int] | None:
    """Least divider of ``dividers``, then best demand level, that an application can be given.

    The demands of all others stay; mapping and clocks are free. ``relaxed``: without its deadline. None =
    not even the last divider and level.
    """
    if grid.parts:
        found = [best_for(p, wanted, app, dividers, relaxed=relaxed) for p in grid.parts]
        return min((f for f in found if f is not None), default=None)
    tables = _tables(grid, wanted, _free(grid, wanted), grid.ceiling, but=app)
    if tables is None:
        return None
    place = tables.needs.slices[grid.pins[app]] if grid.pins and grid.pins[app] >= 0 else slice(None)
    room, gain = tables.room(app, place)
    rows = tables.needs.rows
    load, deadline = grid.full_load(app)[..., rows], grid.deadline[..., app, :][..., rows]
    for divider in dividers:
        allowed = room * divider
        if not relaxed:
            allowed = np.minimum(allowed, deadline[..., None, None, place] / gain)
        most = allowed.max(axis=(-3, -2))
        if grid.share is not None:
            most = np.minimum(most, grid.ceiling * divider * grid.share[..., app, :][..., rows][..., place])
        fits = (load[..., place] * (1.0 + ROUNDING) <= most[..., None, :]).any(axis=-1)
        fits = fits.reshape(-1, fits.shape[-1]).any(axis=0)
        if fits.any():
            return divider, int(fits.argmax())
    return None


def known_mappings(grid: Grid, wanted: Asked) -> Few | None:
    """The mappings that can give these demands within all limits, None if they are more than a few."""
    free = _free(grid, wanted)
    tables = _tables(grid, wanted, free, grid.ceiling) if grid.plain else None
    homes = tables.homes(limit_to_keep_w(grid) - grid.constant_w) if tables else None
    return None if homes is None else Few(grid, homes)


def _free(grid: Grid, wanted: Asked) -> tuple[int, ...]:
    """Applications that may move."""
    return tuple(app for app in range(len(wanted.level)) if not grid.pins or grid.pins[app] < 0)


class Tables:
    """Load, load limit and power for every subset of the free applications (lines) at every row (columns).

    Those that may not move are in the empty subset already.
    """

    def __init__(self, rows: int, bits: int) -> None:
        self.priced = np.empty((rows, 1 << bits))  # power where everything holds; transposed
        self._both = np.empty((2, 1 << bits, rows))
        self._load, self._power = self._both
        # The first two: least limit of the free applications, and of all; the same where all are free.
        self._least, self._pinned_most, self._gain, self._elsewhere_w = np.empty((4, 1 << bits, rows))
        self._most = self._least
        self._broken = np.empty((1 << bits, rows), dtype=bool)
        self._joint: dict[tuple[int, ...], Array] = {}
        self._background = self._roomy = False
        self.asked: tuple[Any, ...] = ()
        self.needs: Needs
        self._grid: Grid
        self._free: tuple[int, ...] = ()
        self._pinned: tuple[tuple[int, int], ...] = ()  # application and processor

    def fill(self, grid: Grid, needs: Needs, free: tuple[int, ...]) -> None:
        """Makes them the tables of what is needed."""
        self.needs, self._grid, self._free, self._background = needs, grid, free, False
        self._pinned = tuple((app, pin) for app, pin in enumerate(grid.pins) if pin >= 0)
        least, limit = self._least, needs.limit
        steps = np.array((needs.own, needs.own * grid.slope_w[needs.rows]))[:, :, None]
        self._load[0], self._power[0], least[0] = 0.0, grid.base_w[needs.rows], needs.ceiling
        if self._pinned:
            home = grid.home[:, needs.rows]
            own = np.where(home, steps[:, :, 0], 0.0)
            self._both[:, 0] = np.add.reduce(np.concatenate((self._both[:, :1], own), axis=1), axis=1)
        for bit, app in enumerate(free):
            half = 1 << bit
            np.add(self._both[:, :half], steps[:, app], out=self._both[:, half : 2 * half])
            np.minimum(least[:half], limit[app], out=least[half : 2 * half])
        if self._pinned:
            most = np.minimum.reduce(np.where(home, limit, inf), axis=0)
            np.minimum(least, most, out=self._pinned_most)
        self._most = self._pinned_most if self._pinned else least
        self._price()

    def _price(self) -> None:
        """Least power of every subset on every processor."""
        broken, grid, rows = self._broken, self._grid, self.needs.rows
        np.greater(self._load, self._most, out=broken)
        if self._background:
            broken |= (self._load + grid.background[rows] > LOAD_CEILING) & grid.below_top[rows]
        if self.needs.overload:  # nothing is busier than all the time
            np.minimum(self._power, (grid.base_w + grid.slope_w)[rows], out=self._power)
        priced = np.where(broken, NEVER_W, self._power)
        np.copyto(self.priced, priced.T)  # the least of adjacent lines is found several times faster
        self._joint.clear()
        self._roomy = False
        taken = {pin for _, pin in self._pinned}
        for k, (place, idle_w) in enumerate(zip(self.needs.slices, grid.idle_w, strict=True)):
            least_w = self._joint[k,] = np.minimum.reduce(self.priced[place], axis=0)
            if k not in taken:
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
        count = len(self.needs.slices)
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

    def homes(self, limit_w: float) -> Indices | None:
        """Mappings of at most this power, mappings x applications; None = more than a few."""
        if self._background:
            self._background = False
            self._price()
        everyone = np.arange(len(self._load))
        most = MOST_KNOWN * max(1, len(everyone) // len(self.needs.own) ** 2)
        rest, power_w, places = everyone[-1:], np.zeros(1), [everyone[-1:]]
        for k in range(len(self.needs.slices) - 1, 0, -1):
            before_w, own_w = self.joint_w(tuple(range(k))), self._joint[k,]
            total_w = power_w[:, None] + (before_w[rest[:, None] & ~everyone] + own_w)
            known, part = np.nonzero((total_w <= limit_w) & ((everyone & ~rest[:, None]) == 0))
            if not 0 < len(part) <= most:
                return None
            rest, power_w = rest[known] & ~part, power_w[known] + own_w[part]
            places = [rest, part, *(place[known] for place in places[1:])]
        homes = np.tile(np.array(self._grid.pins or (-1,) * len(self.needs.own)), (len(rest), 1))
        member = np.array(places)[:, :, None] >> np.arange(len(self._free)) & 1
        homes[:, list(self._free)] = member.argmax(axis=0)
        return homes

    def room(self, app: int, place: slice) -> tuple[Array, Array]:
        """Load that an application may bring to each subset without it, all others being elsewhere.

        The second: how much longer it takes there because of others. Both: subsets x rows of ``place``; the
        first two axes are the subset's bits above the application's and those below.
        """
        grid, needs, load, power, most = self._grid, self.needs, self._load, self._power, self._most
        if self._background:
            self._background = False
            self._price()
        if not self._roomy:
            self._see_elsewhere()
        if app in self._free:
            bits = (-1, 2, 1 << self._free.index(app), load.shape[1])
            load, power, most, gain = (a.reshape(bits)[:, 0] for a in (load, power, most, self._gain))
            elsewhere_w = self._elsewhere_w.reshape(bits)[::-1, 0, ::-1]  # others that are not in the subset
        else:
            own = needs.own[app, place]
            alike = [n for n, pin in self._pinned if n != app and pin == grid.pins[app]]
            load = (load[:, place] - own)[None]
            power = (power[:, place] - own * grid.slope_w[needs.rows][place])[None]
            gain = 1.0 + load * grid.contention[needs.rows][place]
            most = np.minimum(self._least[:, place], needs.limit[alike, place].min(axis=0, initial=inf))
            elsewhere_w = self._elsewhere_w[None, ::-1, place]
        watts = min(grid.limit_w, NO_LIMIT_W) - grid.constant_w - elsewhere_w
        watts -= power
        watts /= grid.slope_w[needs.rows][place]
        return np.minimum(watts, most - load, out=watts), gain

    def _see_elsewhere(self) -> None:
        """Least power of every subset on all processors but that of a row."""
        self._roomy = True
        np.multiply(self._load, self._grid.contention[self.needs.rows], out=self._gain)
        self._gain += 1.0
        everywhere = tuple(range(len(self.needs.slices)))
        nobody_w = np.full(len(self._load), NEVER_W)
        nobody_w[0] = 0.0
        for k, place in enumerate(self.needs.slices):
            elsewhere = everywhere[:k] + everywhere[k + 1 :]
            self._elsewhere_w[:, place] = (self.joint_w(elsewhere) if elsewhere else nobody_w)[:, None]


_filled: dict[int, Tables] = {}  # the last ones, by the number of applications that may move


@lru_cache(maxsize=32)  # fresh memory of this size costs more than what is computed in it
def _workspace(rows: int, bits: int) -> Tables:
    return Tables(rows, bits)


def _tables(grid: Grid, wanted: Asked, free: tuple[int, ...], ceiling: float, but: int = -1) -> Tables | None:
    """Tables of these demands, the last ones if they are the same; None = someone, ``but`` for one, fits
    nowhere."""
    asked, last = (grid, wanted.key(), free, ceiling), _filled.get(len(free))
    if last is not None and last.asked == asked:
        return last
    needs = grid.needs(wanted, ceiling)
    fits = np.logical_or.reduce(needs.own <= needs.limit, axis=1).tolist()
    if any(not fit for app, fit in enumerate(fits) if app != but):
        return None
    tables = _filled[len(free)] = _workspace(needs.own.shape[1], len(free))
    tables.asked = asked
    tables.fill(grid, needs, free)
    return tables


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
