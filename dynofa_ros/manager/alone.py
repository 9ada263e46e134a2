"""Demands priced in a single mapping at the top clocks alone, while they change one after the other.

Only the processor of an application whose demand has changed is priced anew, in numbers instead of arrays.
Results are those of `Few` bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import inf
from operator import add

import numpy as np

from dynofa_ros.manager.few import Few
from dynofa_ros.manager.grid import NEVER_W, NO_LIMIT_W, ROUNDING, Asked


class Alone:
    """The only mapping that will do, on a grid with one row per processor. Lists are by application or by
    processor."""

    def __init__(self, few: Few, wanted: Asked) -> None:
        grid, homes, priced = few.grid, few.homes[0], few.price(wanted)
        everyone = np.arange(len(homes))
        full = grid.unit_ms[everyone, :, homes] * grid.scale[everyone, homes][:, None]
        self._grid, self._asked = grid, wanted.rows()
        self._full: list[list[float]] = full.tolist()  # load by demand level, with every due frame answered
        self._least: list[float] = np.minimum.reduce(full, axis=1).tolist()  # of these
        self._late: list[float] = grid.deadline[everyone, homes].tolist()
        self._own: list[float] = priced.own[0, everyone, homes].tolist()
        self._most: list[float] = priced.most[0, 0, everyone, homes].tolist()
        self._homes: list[int] = homes.tolist()
        order = everyone.tolist() if few.order is None else few.order.tolist()
        self._hosted = [[app for app in order if self._homes[app] == k] for k in range(len(grid.slices))]
        self._terms = list(
            zip(*(a.tolist() for a in (grid.contention, grid.base_w, grid.slope_w)), strict=True)
        )
        self._taken = list(zip(priced.load[0, 0].tolist(), priced.power_w[0, 0].tolist(), strict=True))
        self._least_w, self._total_w = priced.least_w[0, 0], priced.total_w[0, 0]

    def best(
        self, wanted: Asked, app: int, dividers: Sequence[float], *, relaxed: bool = False
    ) -> tuple[float, int] | None:
        """See `Few.best`."""
        before, self._asked = self._asked, wanted.rows()
        for n, (new, old) in enumerate(zip(self._asked, before, strict=True)):
            if new != old:
                self._change(n, *new)
        k, own = self._homes[app], self._own[app]
        (contention, _, slope_w), (load, power_w) = self._terms[k], self._taken[k]
        load -= own
        most = min([self._most[other] for other in self._hosted[k] if other != app], default=inf)
        spare_w = min(self._grid.limit_w, NO_LIMIT_W) - float(self._total_w - self._least_w[k])
        room = min((spare_w - power_w) / slope_w + own, min(most, self._grid.ceiling) - load)
        in_time = self._late[app] / (1.0 + load * contention)
        for divider in dividers:
            allowed = room * divider if relaxed else min(room * divider, in_time)
            if self._least[app] * (1.0 + ROUNDING) <= allowed:
                loads = enumerate(self._full[app])
                return divider, next(level for level, load in loads if load * (1.0 + ROUNDING) <= allowed)
        return None

    def _change(self, app: int, level: int, divider: float, relaxed: bool) -> None:
        k, load = self._homes[app], self._full[app][level]
        contention, base_w, slope_w = self._terms[k]
        own = self._own[app] = load / divider
        others = (self._late[app] / load - 1.0) / contention
        self._most[app] = inf if relaxed and own < inf else own + others if others >= 0.0 else -inf
        parts = [self._own[other] for other in self._hosted[k]]
        # Not sum: from Python 3.12 on it rounds in another way than arrays.
        load, power_w = reduce(add, parts), reduce(add, [part * slope_w for part in parts], base_w)
        most = min([self._most[other] for other in self._hosted[k]])
        self._taken[k] = load, power_w
        self._least_w[k] = NEVER_W if load > min(most, self._grid.ceiling) else power_w
        self._total_w = np.add.reduce(self._least_w) + self._grid.constant_w
