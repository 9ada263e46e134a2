"""The allocation problem as arrays: applications x clock levels of all processors, one after the other.

All arithmetic is element-wise, so results depend on no BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager import kernel
from dynofa_ros.manager.problem import Array, Demand, Menu, Problem, Processor

NO_CONTENTION = 1e-200  # instead of 0, by which nothing can be divided

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Asked:
    """Demands as arrays, applications on the last axis."""

    level: Indices
    divider: Indices
    relaxed: NDArray[np.bool_]

    def row(self, number: int | Indices) -> Asked:
        """One or some of several vectors of demands."""
        return Asked(self.level[number], self.divider[number], self.relaxed[number])

    def native(self) -> kernel.Asked:
        """The same for the compiled kernel; these arrays have to outlive it."""
        return kernel.Asked(*(kernel.address(array) for array in (self.level, self.divider, self.relaxed)))

    def copy(self) -> Asked:
        """Arrays that can be changed."""
        return Asked(self.level.copy(), self.divider.copy(), self.relaxed.copy())

    def demands(self) -> tuple[Demand, ...]:
        """One demand per application."""
        rows = zip(self.level.tolist(), self.divider.tolist(), self.relaxed.tolist(), strict=True)
        return tuple(Demand(*row) for row in rows)


def asked(demands: Sequence[Demand]) -> Asked:
    """Demands as arrays."""
    return Asked(
        np.array([d.level for d in demands], dtype=np.int64),
        np.array([d.divider for d in demands], dtype=np.int64),
        np.array([d.relaxed for d in demands], dtype=bool),
    )


@dataclass(frozen=True, eq=False)
class Grid:
    """Arrays of a problem. Rows are clock levels: ``slices[k]`` are those of processor k."""

    names: tuple[str, ...]
    slices: tuple[slice, ...]
    row_processor: Indices  # rows
    time_ms: Array  # applications x demand levels x rows, at slowdown 1
    slowdown: Array  # applications x rows
    margin: Array  # applications x rows
    load_per_ms: Array  # applications
    budget_ms: Array  # applications: latency target without the overhead
    contention: Array  # rows
    base_w: Array  # rows x 1
    slope_w: Array  # rows x 1
    idle_w: tuple[float, ...]  # processors
    background: Array  # rows x 1
    below_top: NDArray[np.bool_]  # rows x 1
    constant_w: float
    limit_w: float
    pins: tuple[int, ...]  # processor of an application that may not move, else -1

    def loads(self, wanted: Asked) -> tuple[Array, Array]:
        """Own load of every application at every row, and the total load up to which its deadline holds.

        Shape: that of the demands x rows. Where it cannot run at all: inf and -inf.
        """
        number = np.arange(wanted.level.shape[-1])
        time_ms = self.time_ms[number, wanted.level] * self.slowdown
        own = time_ms * (self.load_per_ms / wanted.divider)[..., None]
        budget = self.budget_ms[:, None] / (self.margin * time_ms)
        others = (budget - 1.0) / self.contention
        limit = np.where(others >= 0.0, own + others, -inf)
        if wanted.relaxed.any():
            limit = np.where(wanted.relaxed[..., None], np.where(np.isfinite(own), inf, -inf), limit)
        for app, processor in enumerate(self.pins):
            if processor >= 0:
                elsewhere = self.row_processor != processor
                own[..., app, elsewhere], limit[..., app, elsewhere] = inf, -inf
        return own, limit

    @cached_property
    def native(self) -> kernel.Grid | None:
        """The same for the compiled kernel, None where that is too small."""
        count, depth, rows = self.time_ms.shape
        small = count <= kernel.MOST_APPS and rows <= kernel.MOST_ROWS
        if not small or len(self.names) > kernel.MOST_PROCESSORS:
            return None
        kept = self._kept
        addresses = [kernel.address(array) for array in kept]
        return kernel.Grid(count, depth, rows, len(self.names), *addresses, self.constant_w, self.limit_w)

    @cached_property
    def _kept(self) -> tuple[NDArray[np.generic], ...]:
        """Arrays in the order of `kernel.ARRAYS`."""
        return (
            np.array([place.stop for place in self.slices], dtype=np.int32),
            self.time_ms,
            self.slowdown,
            self.margin,
            self.load_per_ms,
            self.budget_ms,
            self.contention,
            self.base_w,
            self.slope_w,
            np.array(self.idle_w),
            self.background,
            self.below_top,
            np.array(self.pins or (-1,) * len(self.time_ms), dtype=np.int32),
        )


@lru_cache(maxsize=2)  # a problem is compared by identity: the grid of one step serves all of that step
def make_grid(problem: Problem, headroom: float, pins: tuple[int, ...] = ()) -> Grid:
    """Arrays of a problem. ``headroom`` scales the latency targets."""
    processors = problem.processors
    menus = _menus(problem)
    time_ms = _stack(menus, tuple(p.levels for p in processors))
    slices, row_processor = _rows(tuple(p.levels for p in processors))
    slowdown, margin = _estimates(problem)
    return Grid(
        names=tuple(p.name for p in processors),
        slices=slices,
        row_processor=row_processor,
        time_ms=time_ms,
        slowdown=slowdown.take(row_processor, axis=1),
        margin=margin.take(row_processor, axis=1),
        load_per_ms=np.array([1e-3 * a.rate_hz for a in problem.apps]),
        budget_ms=np.array([headroom * a.latency_target_ms - a.overhead_ms for a in problem.apps]),
        contention=_contention(processors)[row_processor],
        base_w=np.concatenate([p.base_w for p in processors])[:, None],
        slope_w=np.concatenate([p.slope_w for p in processors])[:, None],
        idle_w=tuple(p.idle_w for p in processors),
        background=np.concatenate([p.background for p in processors])[:, None],
        below_top=_below_top(tuple(p.levels for p in processors)),
        constant_w=problem.constant_w,
        limit_w=problem.power_limit_w,
        pins=pins,
    )


def _menus(problem: Problem) -> tuple[tuple[Menu | None, ...], ...]:
    return tuple(
        tuple(app.options[p.name].menu if p.name in app.options else None for p in problem.processors)
        for app in problem.apps
    )


@lru_cache(maxsize=8)  # menus are compared by identity and kept from step to step
def _stack(menus: tuple[tuple[Menu | None, ...], ...], levels: tuple[int, ...]) -> Array:
    """Times of all menus, inf where there is none."""
    slices, _ = _rows(levels)
    depth = max(len(menu.first) for row in menus for menu in row if menu is not None)
    times = np.full((len(menus), depth, sum(levels)), inf)
    for table, row in zip(times, menus, strict=True):
        for place, menu in zip(slices, row, strict=True):
            if menu is not None:
                table[: len(menu.first), place] = menu.unit_ms
    return times


def _estimates(problem: Problem) -> tuple[Array, Array]:
    """Slowdown and margin, applications x processors."""
    names = [p.name for p in problem.processors]
    pairs = [
        [(o.slowdown, o.margin) if o is not None else (1.0, 1.0) for o in map(app.options.get, names)]
        for app in problem.apps
    ]
    array = np.array(pairs)
    return array[:, :, 0], array[:, :, 1]


def _contention(processors: Sequence[Processor]) -> Array:
    return np.array([max(p.contention, NO_CONTENTION) for p in processors])


@lru_cache(maxsize=32)
def _rows(levels: tuple[int, ...]) -> tuple[tuple[slice, ...], Indices]:
    ends = np.cumsum(levels).tolist()
    slices = tuple(slice(end - n, end) for end, n in zip(ends, levels, strict=True))
    return slices, np.repeat(np.arange(len(levels)), levels)


@lru_cache(maxsize=32)
def _below_top(levels: tuple[int, ...]) -> NDArray[np.bool_]:
    below = np.ones((sum(levels), 1), dtype=bool)
    below[np.cumsum(levels) - 1] = False
    return below
