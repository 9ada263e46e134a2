"""Demands priced in a single mapping while they change one after the other.

Only the processor of an application whose demand has changed is priced anew. Results are those of `Few` bit
for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import inf
from operator import add

import numpy as np

from dynofa_ros.manager.few import Few, largest
from dynofa_ros.manager.grid import NEVER_W, NO_LIMIT_W, ROUNDING, Asked


class Alone:
    """The only mapping that will do."""

    def __init__(self, few: Few, wanted: Asked) -> None:
        self.grid = few.grid
        self._homes: list[int] = few.homes[0].tolist()
        in_order = range(len(self._homes)) if few.order is None else few.order.tolist()
        self._hosted = [
            [app for app in in_order if self._homes[app] == k] for k in range(len(few.grid.slices))
        ]
        self._key, self._asked = wanted.key(), wanted.rows()
        self._begin(few, wanted)

    def _begin(self, few: Few, wanted: Asked) -> None:
        priced = few.price(wanted)
        self._own, self._most = priced.own[0], priced.most[0, 0]
        self._load, self._power_w = priced.load[0, 0], priced.power_w[0, 0]
        self._least_w, self._total_w = priced.least_w[0, 0], priced.total_w[0, 0]

    def best(
        self, wanted: Asked, app: int, dividers: Sequence[float], *, relaxed: bool = False
    ) -> tuple[float, int] | None:
        """See `Few.best`."""
        key = wanted.key()
        if key != self._key:
            before, self._asked, self._key = self._asked, wanted.rows(), key
            for n, (new, old) in enumerate(zip(self._asked, before, strict=True)):
                if new != old:
                    self._change(n, *new)
        return self._best(app, self._homes[app], dividers, relaxed)

    def _best(self, app: int, k: int, dividers: Sequence[float], relaxed: bool) -> tuple[float, int] | None:
        grid, place = self.grid, self.grid.slices[k]
        own = self._own[app, place]
        load, alike = self._load[place] - own, [other for other in self._hosted[k] if other != app]
        most = np.minimum.reduce(self._most[alike, place], axis=0, initial=grid.ceiling)
        spare_w = min(grid.limit_w, NO_LIMIT_W) - (self._total_w - self._least_w[k])
        spare = (spare_w - self._power_w[place]) / grid.slope_w[place]
        room = np.minimum(spare + own, most - load)
        in_time = grid.deadline[app, place] / (1.0 + load * grid.contention[place])
        full = grid.unit_ms[app, :, place] * grid.scale[app, place]
        return largest(full, room[None], in_time, dividers, relaxed=relaxed)

    def _change(self, app: int, level: int, divider: float, relaxed: bool) -> None:
        grid, k = self.grid, self._homes[app]
        place, hosted = grid.slices[k], self._hosted[k]
        load = grid.unit_ms[app, level, place] * grid.scale[app, place]
        own = load / divider
        others = (grid.deadline[app, place] / load - 1.0) / grid.contention[place]
        limit = np.where(others >= 0.0, own + others, -inf)
        if relaxed:
            limit = np.where(np.isfinite(own), inf, -inf)
        self._own[app, place], self._most[app, place] = own, limit
        parts = self._own[hosted, place]
        watts = np.concatenate((grid.base_w[None, place], parts * grid.slope_w[place]))
        load, power_w = np.add.accumulate(parts, axis=0)[-1], np.add.accumulate(watts, axis=0)[-1]
        broken = load > np.minimum.reduce(self._most[hosted, place], axis=0, initial=grid.ceiling)
        self._load[place], self._power_w[place] = load, power_w
        self._least_w[k] = np.minimum.reduce(np.where(broken, NEVER_W, power_w))
        self._total_w = np.add.reduce(self._least_w) + grid.constant_w


class AtTop(Alone):
    """The same where each processor has a single clock, in numbers instead of arrays."""

    def _begin(self, few: Few, wanted: Asked) -> None:
        super()._begin(few, wanted)
        grid, homes, everyone = few.grid, few.homes[0], np.arange(len(self._homes))
        full = grid.unit_ms[everyone, :, homes] * grid.scale[everyone, homes][:, None]
        self._full: list[list[float]] = full.tolist()
        self._least: list[float] = np.minimum.reduce(full, axis=1).tolist()
        self._late: list[float] = grid.deadline[everyone, homes].tolist()
        self._terms = list(
            zip(*(a.tolist() for a in (grid.contention, grid.base_w, grid.slope_w)), strict=True)
        )
        self._loads: list[float] = self._own[everyone, homes].tolist()
        self._mosts: list[float] = self._most[everyone, homes].tolist()
        self._totals = list(zip(self._load.tolist(), self._power_w.tolist(), strict=True))

    def _best(self, app: int, k: int, dividers: Sequence[float], relaxed: bool) -> tuple[float, int] | None:
        grid, own, full = self.grid, self._loads[app], self._full[app]
        (contention, _, slope_w), (load, power_w) = self._terms[k], self._totals[k]
        load -= own
        most = min([self._mosts[other] for other in self._hosted[k] if other != app], default=inf)
        spare_w = min(grid.limit_w, NO_LIMIT_W) - float(self._total_w - self._least_w[k])
        room = min((spare_w - power_w) / slope_w + own, min(most, grid.ceiling) - load)
        in_time = self._late[app] / (1.0 + load * contention)
        for divider in dividers:
            allowed = room * divider if relaxed else min(room * divider, in_time)
            if self._least[app] * (1.0 + ROUNDING) <= allowed:
                fits = (level for level, load in enumerate(full) if load * (1.0 + ROUNDING) <= allowed)
                return divider, next(fits)
        return None

    def _change(self, app: int, level: int, divider: float, relaxed: bool) -> None:
        k, load = self._homes[app], self._full[app][level]
        contention, base_w, slope_w = self._terms[k]
        own = self._loads[app] = load / divider
        others = (self._late[app] / load - 1.0) / contention
        self._mosts[app] = inf if relaxed and own < inf else own + others if others >= 0.0 else -inf
        parts = [self._loads[other] for other in self._hosted[k]]
        # Not sum: from Python 3.12 on it rounds in another way than arrays.
        load, power_w = reduce(add, parts), reduce(add, [part * slope_w for part in parts], base_w)
        most = min([self._mosts[other] for other in self._hosted[k]])
        self._totals[k] = load, power_w
        self._least_w[k] = NEVER_W if load > min(most, self.grid.ceiling) else power_w
        self._total_w = np.add.reduce(self._least_w) + self.grid.constant_w


def alone(few: Few, wanted: Asked) -> Alone:
    """The only mapping of ``few``, for demands that begin with these."""
    return (AtTop if len(few.grid.base_w) == len(few.grid.slices) else Alone)(few, wanted)
