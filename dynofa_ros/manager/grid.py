"""The allocation problem as arrays: clock levels of all processors, one after the other, on the last axis.

All arithmetic is element-wise, so results depend on no BLAS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.problem import Array, Demand, Menu, Problem

ROW_GRAIN = 16  # rows are as many as a multiple of this, where their number varies
TINY = 1e-200  # instead of 0, by which nothing can be divided

ROUNDING = 1e-9  # what is promised to one application must survive another order of summation
NEVER_W = 1e300  # what cannot be done; a sum of some is still a number
NO_LIMIT_W = 1e250

Indices = NDArray[np.int64]


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


@dataclass(eq=False)
class Asked:
    """Demands as arrays, applications on the last axis."""

    level: Indices
    divider: Array
    relaxed: NDArray[np.bool_]

    def copy(self) -> Asked:
        """Arrays that can be changed."""
        return Asked(self.level.copy(), self.divider.copy(), self.relaxed.copy())

    def key(self) -> bytes:
        """The same for equal demands."""
        return self.level.tobytes() + self.divider.tobytes() + self.relaxed.tobytes()

    def rows(self) -> list[tuple[int, float, bool]]:
        """Level, divider and whether its deadline is given up, of each application."""
        return list(zip(self.level.tolist(), self.divider.tolist(), self.relaxed.tolist(), strict=True))

    def demands(self) -> tuple[Demand, ...]:
        """One demand per application."""
        return tuple(Demand(*row) for row in self.rows())


def asked(demands: Sequence[Demand]) -> Asked:
    """Demands as arrays."""
    return Asked(
        np.array([d.level for d in demands], dtype=np.int64),
        np.array([d.divider for d in demands], dtype=np.float64),
        np.array([d.relaxed for d in demands], dtype=bool),
    )


@dataclass(eq=False)
class Grid:
    """Arrays of a problem. Rows are clock levels: ``slices[k]`` are those of processor k."""

    names: tuple[str, ...]
    slices: tuple[slice, ...]
    # Applications x demand levels x rows: least time at slowdown 1; inf = cannot run there. With several
    # modes (numbers of threads) this, ``scale``, ``pace`` and ``share`` have a first axis for them.
    unit_ms: Array
    scale: Array  # applications x rows: load, with every due frame answered, per millisecond of that
    pace: Array  # applications x rows: load per guarded millisecond
    budget_ms: Array  # applications: latency target without the overhead
    contention: Array  # rows
    base_w: Array  # rows
    slope_w: Array  # rows
    idle_w: tuple[float, ...]  # processors
    background: Array  # rows
    below_top: NDArray[np.bool_]  # rows
    constant_w: float
    limit_w: float
    ceiling: float  # of the load of a processor, and of an application
    pins: tuple[int, ...]  # processor of an application that may not move, else -1; empty = all may
    first: tuple[int, ...]  # processors: clock level of their first row
    share: Array | None = None  # applications x rows: of the cores that an application takes; None = all
    held: int = -1  # processor whose clock is set even if it hosts nobody
    parts: tuple[
        Grid, ...
    ] = ()  # instead of this grid: one per clock of the CPU that launches work elsewhere

    def part(self, levels: Mapping[str, int]) -> Grid:
        """The part with these clock levels, itself without parts."""
        for part in self.parts:
            if part.held >= 0 and levels.get(part.names[part.held]) == part.first[part.held]:
                return part
        return self.parts[-1] if self.parts else self

    def of_rows(self, rows: Sequence[range]) -> Grid:
        """A grid with some of the clock levels of each processor."""
        kept = np.concatenate(rows)
        return replace(
            self,
            slices=_rows(tuple(map(len, rows)))[0],
            unit_ms=self.unit_ms[..., kept],
            scale=self.scale[..., kept],
            pace=self.pace[..., kept],
            share=None if self.share is None else self.share[..., kept],
            contention=self.contention[kept],
            base_w=self.base_w[kept],
            slope_w=self.slope_w[kept],
            background=self.background[kept],
            below_top=self.below_top[kept],
            first=tuple(n + r.start - p.start for n, r, p in zip(self.first, rows, self.slices, strict=True)),
        )

    @cached_property
    def top(self) -> Grid:
        """The top clock of each processor; itself with modes or parts. The power limit apart, what can be
        given at all can be given there: more clock is less load and less time."""
        tops = [range(place.stop - 1, place.stop) for place in self.slices]
        return self.of_rows(tops) if self.plain else self

    @property
    def unlimited(self) -> bool:
        """Whether the power limit holds whatever is chosen."""
        busy_w = np.maximum.reduceat(self.base_w + self.slope_w * self.ceiling, self.starts)
        most_w = self.constant_w + float(np.maximum(busy_w, self.idle_w).sum())
        return most_w <= self.limit_w

    @property
    def plain(self) -> bool:
        """Whether it has neither modes nor parts."""
        return not self.parts and self.unit_ms.ndim == 3

    @property
    def pinned(self) -> bool:
        """Whether nobody may move."""
        return min(self.pins, default=-1) >= 0

    @cached_property
    def row_processor(self) -> Indices:
        """Processor of each row."""
        return _rows(tuple(place.stop - place.start for place in self.slices))[1]

    @cached_property
    def starts(self) -> Indices:
        """First row of each processor."""
        return np.array([place.start for place in self.slices])

    @cached_property
    def home(self) -> NDArray[np.bool_]:
        """Applications x rows: those of the processor that an application may not leave."""
        pins = np.array(self.pins or (-1,) * len(self.budget_ms))
        return pins[:, None] == self.row_processor

    @cached_property
    def deadline(self) -> Array:
        """Shape of ``pace``: load, with every due frame answered, at which a lone application is late."""
        return self.pace * self.budget_ms[:, None]

    def full_load(self, app: int) -> Array:
        """Demand levels x rows: load of an application with every due frame answered."""
        return self.unit_ms[..., app, :, :] * self.scale[..., app, None, :]

    def loads(self, wanted: Asked, *, anywhere: bool = False) -> tuple[Array, Array]:
        """Own load of every application at every row, and the total load up to which its deadline holds.

        Where it cannot run at all, or may not: inf and -inf. ``anywhere``: as if everybody may move.
        """
        load = self.unit_ms[..., np.arange(wanted.level.shape[-1]), wanted.level, :] * self.scale
        if self.pins and not anywhere:
            load = np.where(self.home | (np.array(self.pins) < 0)[:, None], load, inf)
        own = load / wanted.divider[..., None]
        others = (self.deadline / load - 1.0) / self.contention  # up to which it holds
        limit = np.where(others >= 0.0, own + others, -inf)
        if np.count_nonzero(wanted.relaxed):
            limit = np.where(wanted.relaxed[..., None], np.where(np.isfinite(own), inf, -inf), limit)
        return own, limit

    def needs(self, wanted: Asked, ceiling: float) -> Needs:
        """The same with the load ``ceiling``, one row per combination of modes.

        Each application takes the mode of least load among those that bear the total load. Where the total
        crosses the limit of one of its modes it takes the next: between two such loads the modes of all are
        fixed, and that is a row of its own.
        """
        own, limit = self.loads(wanted)
        if self.share is not None:  # one frame after the other, however many cores are left
            limit = np.where(own > ceiling * self.share, -inf, limit)
        if own.ndim == 2:
            return Needs(self.slices, slice(None), own, limit, ceiling, ceiling > 1.0)
        by_load = own.argsort(axis=0, kind="stable")
        own = np.take_along_axis(own, by_load, 0)
        limit = np.take_along_axis(np.where(limit < own, -inf, limit), by_load, 0)
        most = np.maximum.accumulate(limit, axis=0)
        left = np.where(
            (most[:-1] < most[-1]) & (most[:-1] > 0.0) & (most[:-1] < ceiling), most[:-1], ceiling
        )
        ends = np.sort(
            np.concatenate((left.reshape(-1, left.shape[-1]), np.full((1, left.shape[-1]), ceiling))), 0
        )
        new = np.concatenate((ends[:-1] < ends[1:], np.ones((1, ends.shape[1]), dtype=bool))).T
        rows = np.nonzero(new)[0]
        caps = ends.T[new]
        spare = -len(rows) % ROW_GRAIN
        rows, caps = np.append(rows, np.repeat(rows[-1:], spare)), np.append(caps, np.full(spare, -1.0))
        most = most[..., rows]
        mode = (most >= np.minimum(caps, most[-1])).argmax(axis=0)[None]
        own, limit, mode = (np.take_along_axis(a[..., rows], mode, 0)[0] for a in (own, limit, by_load))
        ends = np.searchsorted(rows, [place.stop for place in self.slices[:-1]]).tolist()
        slices = tuple(slice(*pair) for pair in zip([0, *ends], [*ends, len(rows)], strict=True))
        return Needs(slices, rows, own, limit, caps, ceiling > 1.0, mode)


@dataclass(eq=False)
class Needs:
    """What demands take. Rows are those of a grid, or several for one of them: see `Grid.needs`."""

    slices: tuple[slice, ...]  # of the processors
    rows: Indices | slice  # of the grid
    own: Array  # applications x rows: load
    limit: Array  # the same: total load up to which the deadline holds, -inf = not at all
    ceiling: Array | float  # rows: total load up to which these modes are taken
    overload: bool  # whether there may be more load than time
    modes: Indices | None = None  # applications x rows


@lru_cache(maxsize=4)
def make_grid(problem: Problem, headroom: float, pins: tuple[int, ...] = ()) -> Grid:
    """Arrays of a problem. ``headroom`` scales the latency targets."""
    targets = [headroom * a.latency_target_ms - a.overhead_ms for a in problem.apps]
    grid = Grid(budget_ms=np.array(targets), pins=pins, **_shared(problem))
    return replace(grid, parts=_parts(problem, grid)) if problem.launcher else grid


@lru_cache(maxsize=2)  # a problem is compared by identity: one step has one, seldom two
def _shared(problem: Problem) -> dict[str, Any]:
    """What all grids of a problem share."""
    processors = problem.processors
    levels = tuple(p.levels for p in processors)
    slices, row_processor = _rows(levels)
    names = tuple(p.name for p in processors)
    learned = ([a.slowdown for a in problem.apps], [a.margin for a in problem.apps])
    slowdown, margin = np.array(
        [[[own.get(name, 1.0) for name in names] for own in each] for each in learned]
    )
    per_ms = np.array([1e-3 * a.rate_hz for a in problem.apps])[:, None]
    scale = (slowdown * per_ms).take(row_processor, axis=1)
    pace = (per_ms / margin).take(row_processor, axis=1)
    menus = tuple(a.menu for a in problem.apps)
    share = _share(menus, names, levels)
    if share is not None:
        scale, pace = scale * share, pace * share
    return dict(
        names=names,
        slices=slices,
        unit_ms=_stack(menus, names, levels),
        scale=scale,
        pace=pace,
        contention=np.array([max(p.contention, TINY) for p in processors])[row_processor],
        base_w=np.concatenate([p.base_w for p in processors]),
        slope_w=np.maximum(np.concatenate([p.slope_w for p in processors]), TINY),
        idle_w=tuple(p.idle_w for p in processors),
        background=np.concatenate([p.background for p in processors]),
        below_top=_below_top(levels),
        constant_w=problem.constant_w,
        limit_w=problem.power_limit_w,
        ceiling=problem.load_ceiling,
        first=(0,) * len(processors),
        share=share,
    )


def _parts(problem: Problem, grid: Grid) -> tuple[Grid, ...]:
    """The grid at each clock of the CPU that launches work elsewhere, and without that work."""
    cpu = problem.launcher
    assert cpu is not None
    home = problem.processors.index(cpu)
    levels = tuple(p.levels for p in problem.processors)
    _, row_processor = _rows(levels)
    elsewhere = [k for k, p in enumerate(problem.processors) if p.launch_share > 0.0]
    launched = np.isin(row_processor, elsewhere)
    menus, parts = tuple(a.menu for a in problem.apps), []
    for level in range(cpu.levels):
        slower = _stack(menus, grid.names, levels, cpu.slowness(level))
        at_level = _held(replace(grid, unit_ms=np.where(launched, slower, grid.unit_ms)), home, level)
        parts += [_in_use(at_level, processor) for processor in elsewhere]
    return (*parts, replace(grid, unit_ms=np.where(launched, inf, grid.unit_ms)))


def _held(grid: Grid, held: int, level: int) -> Grid:
    """A grid with the clock of one processor held at a level, whether it hosts anyone or not."""
    row = grid.slices[held].start + level
    rows = [range(row, row + 1) if k == held else range(p.start, p.stop) for k, p in enumerate(grid.slices)]
    idle_w = tuple(float(grid.base_w[row]) if k == held else w for k, w in enumerate(grid.idle_w))
    return replace(grid.of_rows(rows), idle_w=idle_w, held=held)


def _in_use(grid: Grid, processor: int) -> Grid:
    """A grid in which one processor must not be left empty."""
    return replace(grid, idle_w=tuple(inf if k == processor else w for k, w in enumerate(grid.idle_w)))


@lru_cache(maxsize=64)  # menus are compared by identity and kept from step to step
def _stack(
    menus: tuple[Menu, ...], names: tuple[str, ...], levels: tuple[int, ...], ratio: float = 1.0
) -> Array:
    """Times of all menus, inf where there is none; ``ratio``: see `problem.EntryTable.at`."""
    own = [_times(menu, names, levels, ratio) for menu in menus]
    times = np.full((_modes(menus), len(own), max(block.shape[1] for block in own), sum(levels)), inf)
    for app, block in enumerate(own):
        times[: block.shape[0], app, : block.shape[1]] = block
    return times if len(times) > 1 else times[0]


@lru_cache(maxsize=256)
def _times(menu: Menu, names: tuple[str, ...], levels: tuple[int, ...], ratio: float) -> Array:
    """Times of one menu: modes x demand levels x rows."""
    times = np.full((_modes([menu]), len(menu.accuracies), sum(levels)), inf)
    for place, name in zip(_rows(levels)[0], names, strict=True):
        if name in menu.tables:
            times[: len(menu.tables[name].shares), :, place] = menu.unit_ms(name, ratio)
    return times


@lru_cache(maxsize=32)
def _share(menus: tuple[Menu, ...], names: tuple[str, ...], levels: tuple[int, ...]) -> Array | None:
    """Share of the cores that each application takes at every row, by mode; None if all take all."""
    if all(table.shares == (1.0,) for menu in menus for table in menu.tables.values()):
        return None
    modes = _modes(menus)
    share = np.ones((modes, len(menus), sum(levels)))
    for app, menu in enumerate(menus):
        for place, name in zip(_rows(levels)[0], names, strict=True):
            if name in menu.tables:
                shares = menu.tables[name].shares
                share[: len(shares), app, place] = np.array(shares)[:, None]
    return share if modes > 1 else share[0]


def _modes(menus: Sequence[Menu]) -> int:
    return max(len(table.shares) for menu in menus for table in menu.tables.values())


@lru_cache(maxsize=32)
def _rows(levels: tuple[int, ...]) -> tuple[tuple[slice, ...], Indices]:
    ends = np.cumsum(levels).tolist()
    slices = tuple(slice(end - n, end) for end, n in zip(ends, levels, strict=True))
    return slices, np.repeat(np.arange(len(levels)), levels)


@lru_cache(maxsize=32)
def _below_top(levels: tuple[int, ...]) -> NDArray[np.bool_]:
    below = np.ones(sum(levels), dtype=bool)
    below[np.cumsum(levels) - 1] = False
    return below
