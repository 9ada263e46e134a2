"""What the nearest alternatives of a plan would cost (ManagerDecision.alternatives).

Per application the next better and the next cheaper sub-network, and the other processors at the same
accuracy. All other applications stay as they are; the clocks of the processors concerned are chosen anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, nan

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.grid import Grid, make_grid
from dynofa_ros.manager.hysteresis import HEADROOM
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Forecast, Plan, used_levels
from dynofa_ros.manager.problem import LOAD_CEILING, Array, Menu, Problem
from dynofa_ros.messages import Alternative

BETTER, CHEAPER, ELSEWHERE = "better", "cheaper", "processor"
TOLERANCE = 1.0 + 1e-9
PERIOD_NS = 1_000_000_000


@dataclass
class AlternativesTimer:
    """When the alternatives are computed: after a change of the plan, and once a second."""

    _plan: Plan | None = None
    _ns: int = 0

    def due(self, now_ns: int, plan: Plan | None) -> bool:
        """Whether they are due for the plan in force at ``now_ns``."""
        if plan is None or (plan.same_knobs(self._plan) and abs(now_ns - self._ns) < PERIOD_NS):
            return False
        self._plan, self._ns = plan, now_ns
        return True


def alternatives(
    problem: Problem, plan: Plan | None, present: Forecast, limit_name: str
) -> tuple[Alternative, ...]:
    """Nearest alternatives of a plan, in the order of its applications; none without a valid forecast.

    ``limit_name``: what the power limit stands for.
    """
    if plan is None or not plan.choices or not present.applicable:
        return ()
    processors = tuple((p.name, p.levels) for p in problem.processors)
    used = used_levels(problem, plan)
    ratios = tuple(problem.launch_ratio(name, used) for name, _ in processors)
    near = []
    for app, choice in zip(problem.apps, plan.choices, strict=True):
        home, accuracy = place_of(choice.entry), choice.entry.accuracy
        now = app.tables[home].index(choice.entry) or 0
        near.append(_near(app.menu, home, now, accuracy, processors, ratios))
    wishes = [(n, *option) for n, (options, *_) in enumerate(near) for option in options[1:]]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        offers = _offers(problem, plan, present, near, used)
    found = []
    for (n, kind, name, place), (change_w, broken) in zip(wishes, offers, strict=True):
        if not broken and present.power_w + change_w > problem.power_limit_w:
            broken = limit_name
        app = problem.apps[n]
        entry = app.tables[name].entries[place]
        found.append(
            Alternative(
                app=app.name,
                kind=kind,
                subnet_id=entry.id,
                processor=entry.processor,
                cluster=entry.cluster,
                accuracy=entry.accuracy,
                power_change_w=change_w if problem.power_known and change_w < inf else nan,
                feasible=not broken,
                binding_constraint=broken or "none",
            )
        )
    return tuple(found)


Option = tuple[str, str, int]  # kind, processor, and place in the table there
Near = tuple[list[Option], Array, list[float]]


@lru_cache(maxsize=256)  # menus are compared by identity and kept from step to step
def _near(
    menu: Menu,
    home: str,
    now: int,
    accuracy: float,
    processors: tuple[tuple[str, int], ...],
    ratios: tuple[float, ...],
) -> Near:
    """What an application runs, and its nearest alternatives; their times, options x rows, inf at the rows of
    other processors; the shares of the cores that they take.

    ``home``, ``now``: where it runs, and its place in the table there. ``processors``: with their number of
    levels. ``ratios``: theirs, see `Problem.launch_ratio`.
    """
    options = [("", home, now)]
    for name, table in menu.tables.items():
        if name != home:
            place = bisect_left(table.accuracies, accuracy)
            options += [(ELSEWHERE, name, place)] if place < len(table.accuracies) else []
            continue
        below, above = table.neighbours[now]
        options += [(BETTER, name, above)] if above is not None else []
        options += [(CHEAPER, name, below)] if below is not None else []
    times = np.full((len(options), sum(levels for _, levels in processors)), inf)
    row = 0
    for (name, levels), ratio in zip(processors, ratios, strict=True):
        for line, (_, where, place) in zip(times, options, strict=True):
            if where == name:
                line[row : row + levels] = menu.tables[name].at(ratio)[0][place]
        row += levels
    return options, times, [menu.tables[name].share(place) for _, name, place in options]


def _offers(
    problem: Problem, plan: Plan, present: Forecast, near: Sequence[Near], used: Mapping[str, int]
) -> list[tuple[float, str]]:
    """Change of the power for each alternative, inf where it cannot be done, and what it breaks, nothing
    if ""."""
    grid, count = make_grid(problem, HEADROOM), len(near)
    # What runs comes first, then the alternatives.
    lines = [(n, *options[0]) for n, (options, *_) in enumerate(near)]
    lines += [(n, *option) for n, (options, *_) in enumerate(near) for option in options[1:]]
    apps, hosts = [n for n, *_ in lines], [grid.names.index(name) for *_, name, _ in lines]
    homes, levels = hosts[:count], [used.get(name) for name in grid.names]
    load, most = _needs(problem, plan, grid, near, lines)
    for n, expected in enumerate(present.apps):
        if expected.late:  # its deadline is given up already and constrains no alternative
            most[n] = inf
    # Without each of the applications; what is not on a processor is no load there.
    own = np.where(np.isfinite(load[:count]), load[:count], 0.0)
    total = own.sum(axis=0)
    rest, rest_most = total - own, _least_without_each(np.where(np.isfinite(load[:count]), most[:count], inf))
    usable = _usable(problem, grid, levels)
    with_it = rest[apps[count:]] + load[count:]
    room = usable & (with_it <= LOAD_CEILING)
    room &= (with_it + grid.background <= LOAD_CEILING) | ~grid.below_top
    holds = room & (with_it <= np.minimum(rest_most[apps[count:]], most[count:]))
    watts = grid.base_w + grid.slope_w * with_it
    after_w = np.where(holds, watts, inf).min(axis=1, initial=inf)
    now_w = _now_w(grid, levels, total)
    rest_holds = usable & (rest <= np.minimum(rest_most[:count], LOAD_CEILING))
    relief_w = _relief_w(grid, homes, levels, now_w, rest, rest_holds)
    changes = after_w - np.array(now_w)[hosts[count:]]
    reasons = np.any(room, axis=1).tolist()
    offers = []
    for n, k, change_w, some in zip(apps[count:], hosts[count:], changes.tolist(), reasons, strict=True):
        moved_w = relief_w[n] if homes[n] != k else 0.0
        offers.append((change_w + moved_w, "" if change_w < inf else "latency" if some else "utilization"))
    return offers


def _needs(
    problem: Problem, plan: Plan, grid: Grid, near: Sequence[Near], lines: Sequence[tuple[int, str, str, int]]
) -> tuple[Array, Array]:
    """Load of each line, and the total load up to which its deadline holds; lines x rows, load inf at the
    rows of other processors."""
    times = np.concatenate([block[:1] for _, block, _ in near] + [block[1:] for _, block, _ in near])
    shares = [own[0] for *_, own in near] + [share for *_, own in near for share in own[1:]]
    rates_hz = [a.rate_hz / c.divider for a, c in zip(problem.apps, plan.choices, strict=True)]
    per_ms, budgets_ms, each_ms = [], [], grid.budget_ms.tolist()
    for n, _, name, _ in lines:
        slowdown = problem.apps[n].slowdown[name]
        per_ms.append(slowdown * 1e-3 * rates_hz[n])
        budgets_ms.append(each_ms[n] / (problem.apps[n].margin[name] * slowdown))
    scale, budget_ms, share = np.array((per_ms, budgets_ms, shares))[:, :, None]
    load = share * (scale * times)
    spare = budget_ms / times - 1.0
    others = np.where(spare >= 0.0, spare / grid.contention, -inf)
    most = np.where(np.isfinite(load), (load + others) * TOLERANCE, -inf)
    # One frame after the other, however many cores are left.
    load[len(plan.choices) :][(load > LOAD_CEILING * share)[len(plan.choices) :]] = inf
    return load, most


def _usable(problem: Problem, grid: Grid, levels: Sequence[int | None]) -> NDArray[np.bool_]:
    """Rows that may be chosen: not another clock of a CPU that launches others' work."""
    usable = np.ones(len(grid.base_w), dtype=bool)
    for processor, place, level in zip(problem.processors, grid.slices, levels, strict=True):
        if processor is problem.launcher and level is not None:
            usable[place] = np.arange(processor.levels) == level
    return usable


def _now_w(grid: Grid, levels: Sequence[int | None], total: Array) -> list[float]:
    """Power of each processor as planned."""
    watts = (grid.base_w + grid.slope_w * np.minimum(total, 1.0)).tolist()
    parts = zip(grid.slices, levels, grid.idle_w, strict=True)
    return [idle_w if level is None else watts[place.start + level] for place, level, idle_w in parts]


def _relief_w(
    grid: Grid,
    homes: Sequence[int],
    levels: Sequence[int | None],
    now_w: Sequence[float],
    rest: Array,
    holds: NDArray[np.bool_],
) -> list[float]:
    """Change of the power of its processor if an application leaves it, for each."""
    watts = grid.base_w + grid.slope_w * np.minimum(rest, 1.0)
    least = np.minimum.reduceat(np.where(holds, watts, inf), grid.starts, axis=1).tolist()
    free = np.logical_and.reduceat(holds, grid.starts, axis=1).tolist()
    relief = []
    for n, k in enumerate(homes):
        least_w = grid.idle_w[k] if homes.count(k) == 1 and free[n][k] else least[n][k]
        stuck_w = float(watts[n, grid.slices[k].start + (levels[k] or 0)])
        relief.append((least_w if least_w < inf else stuck_w) - now_w[k])
    return relief


def _least_without_each(most: Array) -> Array:
    """Least of all lines but one, for each."""
    edge = np.full((1, most.shape[1]), inf)
    above = np.minimum.accumulate(np.concatenate((edge, most)), axis=0)
    below = np.minimum.accumulate(np.concatenate((edge, most[::-1])), axis=0)[::-1]
    return np.minimum(above[:-1], below[1:])
