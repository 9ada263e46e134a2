"""What the nearest alternatives of a plan would cost (ManagerDecision.alternatives).

Per application the next better and the next cheaper sub-network, and the other processors at the same
accuracy. All other applications stay as they are; the clocks of the processors concerned are chosen anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.grid import Grid, make_grid
from dynofa_ros.manager.hysteresis import HEADROOM
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Choice, Forecast, Plan
from dynofa_ros.manager.problem import LOAD_CEILING, App, Array, Problem
from dynofa_ros.messages import Alternative

BETTER, CHEAPER, ELSEWHERE = "better", "cheaper", "processor"
TOLERANCE = 1.0 + 1e-9
PERIOD_NS = 1_000_000_000


@dataclass
class AlternativesTimer:
    """When the alternatives are computed: after a change of the plan, and once a second."""

    _plan: Plan | None = None
    _ns: int = 0

    def due(
        self, now_ns: int, problem: Problem, plan: Plan | None, present: Forecast, limit_name: str
    ) -> tuple[Alternative, ...]:
        """Alternatives of the plan in force at ``now_ns``; empty while none are due."""
        if plan is None or (plan.same_knobs(self._plan) and abs(now_ns - self._ns) < PERIOD_NS):
            return ()
        self._plan, self._ns = plan, now_ns
        return alternatives(problem, plan, present, limit_name)


def alternatives(
    problem: Problem, plan: Plan | None, present: Forecast, limit_name: str
) -> tuple[Alternative, ...]:
    """Nearest alternatives of a plan, in the order of its applications; none without a valid forecast.

    ``limit_name``: what the power limit stands for.
    """
    if plan is None or not plan.choices or not present.applicable:
        return ()
    wishes = [
        _Wish(number, kind, name, place)
        for number, (app, choice) in enumerate(zip(problem.apps, plan.choices, strict=True))
        for kind, name, place in _nearest(app, choice)
    ]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        offers = _offers(problem, plan, present, wishes)
    found = []
    for wish, (change_w, broken) in zip(wishes, offers, strict=True):
        if not broken and present.power_w + change_w > problem.power_limit_w:
            broken = limit_name
        app = problem.apps[wish.app]
        entry = app.tables[wish.processor].entries[wish.place]
        found.append(
            Alternative(
                app=app.name,
                kind=wish.kind,
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


class _Wish(NamedTuple):
    """Application number ``app`` with the sub-network at a place of its table on a processor."""

    app: int
    kind: str
    processor: str
    place: int


def _nearest(app: App, choice: Choice) -> Iterator[tuple[str, str, int]]:
    """Kind, processor and place in the table there."""
    for name, table in app.tables.items():
        accuracies = table.accuracies
        if name != place_of(choice.entry):
            place = bisect_left(accuracies, choice.entry.accuracy)
            if place < len(accuracies):
                yield ELSEWHERE, name, place
            continue
        below, above = table.neighbours[table.index(choice.entry) or 0]
        if above is not None:
            yield BETTER, name, above
        if below is not None:
            yield CHEAPER, name, below


def _offers(
    problem: Problem, plan: Plan, present: Forecast, wishes: Sequence[_Wish]
) -> list[tuple[float, str]]:
    """Change of the power for each wish, inf where it cannot be done, and what it breaks, nothing if ""."""
    grid, count = make_grid(problem, HEADROOM), len(plan.choices)
    homes = [grid.names.index(place_of(choice.entry)) for choice in plan.choices]
    hosts = homes + [grid.names.index(wish.processor) for wish in wishes]
    apps = [*range(count), *(wish.app for wish in wishes)]
    tables = [problem.apps[n].tables[grid.names[k]] for n, k in zip(apps, hosts, strict=True)]
    running = [table.index(choice.entry) or 0 for table, choice in zip(tables, plan.choices, strict=False)]
    places = running + [wish.place for wish in wishes]
    clocks = dict(plan.clocks)
    levels = [p.level_of(clocks[p.name]) if p.name in clocks else None for p in problem.processors]
    load, most = _needs(problem, plan, grid, levels, list(zip(apps, hosts, places, strict=True)))
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
    for wish, k, change_w, some in zip(wishes, hosts[count:], changes.tolist(), reasons, strict=True):
        moved_w = relief_w[wish.app] if homes[wish.app] != k else 0.0
        offers.append((change_w + moved_w, "" if change_w < inf else "latency" if some else "utilization"))
    return offers


def _needs(
    problem: Problem,
    plan: Plan,
    grid: Grid,
    levels: Sequence[int | None],
    runs: Sequence[tuple[int, int, int]],
) -> tuple[Array, Array]:
    """Load of each run (application, processor, place in its table), and the total load up to which its
    deadline holds; runs x rows, load inf at the rows of other processors."""
    used = {name: level for name, level in zip(grid.names, levels, strict=True) if level is not None}
    ratios = [problem.launch_ratio(name, used) for name in grid.names]
    times, per_ms = np.full((len(runs), len(grid.base_w)), inf), []
    for line, (n, k, place) in enumerate(runs):
        app, name = problem.apps[n], grid.names[k]
        table, slowdown = app.tables[name], app.slowdown[name]
        times[line, grid.slices[k]] = table.at(ratios[k])[0][place]
        rate_hz = app.rate_hz / plan.choices[n].divider
        budget_ms = grid.budget_ms[n] / (app.margin[name] * slowdown)
        per_ms.append((slowdown * 1e-3 * rate_hz, budget_ms, table.share(place)))
    scale, budget_ms, share = np.array(per_ms).reshape(-1, 3).T[:, :, None]
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
    allowed = np.where(holds, watts, inf)
    relief = []
    for n, k in enumerate(homes):
        place, level = grid.slices[k], levels[k]
        alone = homes.count(k) == 1 and holds[n, place].all()
        least_w = grid.idle_w[k] if alone else float(allowed[n, place].min())
        stuck_w = float(watts[n, place.start + (level or 0)])
        relief.append((least_w if least_w < inf else stuck_w) - now_w[k])
    return relief


def _least_without_each(most: Array) -> Array:
    """Least of all lines but one, for each."""
    edge = np.full((1, most.shape[1]), inf)
    above = np.minimum.accumulate(np.concatenate((edge, most)), axis=0)
    below = np.minimum.accumulate(np.concatenate((edge, most[::-1])), axis=0)[::-1]
    return np.minimum(above[:-1], below[1:])
