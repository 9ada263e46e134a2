"""Demands priced in a few known mappings, many demands at once.

Who is given more can only be where it could be with less. So once it is known which mappings can give some
demands, larger ones are looked up among them; that is as exact as the tables of `solver`, and quicker. Only
for grids without modes and without parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.grid import NEVER_W, NO_LIMIT_W, ROUNDING, Asked, Grid, Indices, Point
from dynofa_ros.manager.problem import LOAD_CEILING, Array

PROBES = 15  # numbers of rungs that are tried at once
MOST_PRICED = 120  # places of applications that are priced at once
AROUND = (-8, -1, 0, 8)  # a guess: it is often right, or one too many


@dataclass(eq=False)
class Priced:
    """What demands take in some mappings: demands x mappings x rows, where nothing else is said."""

    own: Array  # demands x applications x rows: load of each
    most: Array  # demands x mappings x applications x rows: total load up to which it holds, inf elsewhere
    load: Array
    power_w: Array
    priced_w: Array  # `NEVER_W` where something is broken
    least_w: Array  # demands x mappings x processors
    total_w: Array  # demands x mappings; `NO_LIMIT_W` or more = cannot be


class Few:
    """Mappings, the rows of ``homes``: mappings x applications, the processor of each."""

    def __init__(self, grid: Grid, homes: Indices) -> None:
        self.grid, self.homes = grid, homes
        # Applications that may not move come first: the sums are those of the tables bit for bit.
        self.order = np.argsort([pin < 0 for pin in grid.pins], kind="stable") if grid.pins else None
        self._at_home = homes[:, :, None] == grid.row_processor
        self._hosted = self._ordered(self._at_home)
        self._asked = b""
        self._priced: Priced
        self._spare: Array
        self._empty = ~np.logical_or.reduce(homes[:, :, None] == np.arange(len(grid.slices)), axis=1)

    def where(self, kept: NDArray[np.bool_]) -> Few:
        """Some of the mappings."""
        return self if np.logical_and.reduce(kept) else Few(self.grid, self.homes[kept])

    def _ordered(self, values: Array) -> Array:
        return values if self.order is None else values.take(self.order, axis=-2)

    def price(self, wanted: Asked, *, background: bool = False) -> Priced:
        """Prices demands; several have a first axis for them."""
        grid = self.grid
        own, limit = grid.loads(wanted, anywhere=True)
        if own.ndim == 2:
            own, limit = own[None], limit[None]
        parts = np.where(self._hosted, self._ordered(own)[:, None], 0.0)
        load = np.add.reduce(parts, axis=2)
        watts = np.empty((*parts.shape[:2], 1 + parts.shape[2], parts.shape[3]))
        watts[:, :, 0] = grid.base_w
        np.multiply(parts, grid.slope_w, out=watts[:, :, 1:])
        power_w = np.add.reduce(watts, axis=2)
        most = np.where(self._at_home, limit[:, None], inf)
        broken = load > np.minimum.reduce(most, axis=2, initial=grid.ceiling)
        if background:
            broken |= (load + grid.background > LOAD_CEILING) & grid.below_top
        priced_w = np.where(broken, NEVER_W, power_w)
        least_w = np.minimum.reduceat(priced_w, grid.starts, axis=2)
        least_w = np.where(self._empty, grid.idle_w, least_w)
        total_w = np.add.reduce(least_w, axis=2) + grid.constant_w
        return Priced(own, most, load, power_w, priced_w, least_w, total_w)

    def point(self, wanted: Asked, *, background: bool = False) -> Point | None:
        """Operating point of least power, None if there is none."""
        grid, priced = self.grid, self.price(wanted, background=background)
        best = int(priced.total_w[0].argmin())
        power_w = float(priced.total_w[0, best])
        if not power_w < NO_LIMIT_W or power_w > grid.limit_w:
            return None
        levels = {
            name: grid.first[k] + int(priced.priced_w[0, best, place].argmin())
            for k, (name, place) in enumerate(zip(grid.names, grid.slices, strict=True))
            if not self._empty[best, k]
        }
        return Point(tuple(grid.names[k] for k in self.homes[best].tolist()), levels, power_w)

    def best(
        self, wanted: Asked, app: int, dividers: Sequence[float], *, relaxed: bool = False
    ) -> tuple[float, int] | None:
        """See `solver.best_for`; larger demands than those that it gives now are looked for."""
        grid, asked = self.grid, wanted.key()
        if self._asked != asked:
            self._asked, self._priced = asked, self.price(wanted)
            elsewhere_w = self._priced.total_w[0, :, None] - self._priced.least_w[0]
            spare_w = (min(grid.limit_w, NO_LIMIT_W) - elsewhere_w)[:, grid.row_processor]
            self._spare = (spare_w - self._priced.power_w[0]) / grid.slope_w
        priced, own = self._priced, self._priced.own[0, app]
        most, load = priced.most[0].copy(), priced.load[0] - own
        most[:, app] = inf
        room = np.minimum.reduce(most, axis=1, initial=grid.ceiling)
        room = np.minimum(self._spare + own, room - load)
        room = np.where(self._at_home[:, app], room, -inf)
        in_time = grid.deadline[app] / (1.0 + load * grid.contention)
        allowed = room * np.array(dividers)[:, None, None]
        if not relaxed:
            allowed = np.minimum(allowed, in_time)
        most, full = np.fmax.reduce(allowed, axis=1), grid.full_load(app) * (1.0 + ROUNDING)
        fits = np.logical_or.reduce(full <= most[:, None], axis=2)  # dividers x levels
        divider, level = divmod(int(fits.argmax()), len(full))
        return (dividers[divider], level) if fits[divider, level] else None


def limit_to_keep_w(grid: Grid) -> float:
    """Power up to which a mapping may still be one of those within the limit."""
    limit_w = min(grid.limit_w, NO_LIMIT_W)
    return limit_w + ROUNDING * abs(limit_w)


def known_rungs(
    few: Few, asked: Callable[[Sequence[int]], Asked], low: int, rungs: int, guess: int
) -> tuple[int, float, Few]:
    """Least number of rungs above ``low`` with which one of the mappings keeps all limits, one more than
    ``rungs`` if not even these will do; the least power with one rung less, inf if that cannot be; and the
    mappings that can do with so few.

    ``asked``: demands after so many rungs. ``guess``: where to begin. The more mappings there are, the fewer
    numbers are tried at once: what a mapping cannot give with some rungs it cannot give with less.
    """
    high, low_w, able = rungs + 1, inf, few
    around = sorted({min(max(guess + n, low + 1), rungs) for n in AROUND} | {rungs})
    while high - low > 1:
        near = [n for n in around if low < n < high]
        near = near or list(range(low + 1, high, 1 + (high - low) // PROBES))
        step = 1 + (len(near) - 1) // max(1, MOST_PRICED // few.homes.size)
        probes = near[step // 2 :: step]
        totals_w = few.price(asked(probes)).total_w
        least_w = np.minimum.reduce(totals_w, axis=1).tolist()
        for probe, known_w, total_w in zip(probes, least_w, totals_w, strict=True):
            if known_w <= min(few.grid.limit_w, NO_LIMIT_W):
                high, able = probe, few.where(total_w <= limit_to_keep_w(few.grid))
                few = few.where(total_w < NO_LIMIT_W)
                break
            low, low_w = probe, known_w
    return high, low_w if low_w < NO_LIMIT_W else inf, able
