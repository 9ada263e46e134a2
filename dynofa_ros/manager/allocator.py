"""Exact minimum-power operating point for given demands: processor mapping x sub-network x clock levels.

Power and latency of a processor depend only on which applications it hosts, so the least power of each
processor is tabulated over all subsets of applications and the best partition is found by a min-plus sweep
over subsets. All sums are element-wise, so results do not depend on the BLAS in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.manager.problem import LOAD_CEILING, App, Array, Demand, Problem, Processor

MAX_FREE_APPS = 8  # applications with a choice of processor; 3^8 = 6561 splits


@dataclass(frozen=True)
class Rules:
    """Which constraints hold. ``headroom`` scales the latency targets."""

    headroom: float = 1.0
    power: bool = True
    load: bool = True
    background: bool = False
    floor_level: dict[str, int] | None = None  # least level per processor


@dataclass(frozen=True)
class Point:
    """An operating point: processor of each application, level of each processor in use, total power."""

    mapping: tuple[str, ...]
    levels: dict[str, int]
    power_w: float


def solve(problem: Problem, demands: Sequence[Demand], rules: Rules = Rules()) -> Point | None:
    """Least-power operating point that gives every application its demand; None if there is none."""
    fixed, free = _split(problem, demands)
    tables = [_table(problem, demands, p, fixed, free, rules) for p in problem.processors]
    if not tables:
        return None if problem.apps else Point((), {}, problem.constant_w)
    subsets, power_w = _partition([t.least_w for t in tables])
    power_w += problem.constant_w
    if not power_w < inf or (rules.power and power_w > problem.power_limit_w):
        return None
    mapping = list(fixed)
    levels = {}
    for processor, table, subset in zip(problem.processors, tables, subsets, strict=True):
        for bit, app in enumerate(free):
            if subset >> bit & 1:
                mapping[app] = processor.name
        if processor.name in mapping:
            levels[processor.name] = int(table.level[subset])
    return Point(tuple(str(name) for name in mapping), levels, float(power_w))


def _split(problem: Problem, demands: Sequence[Demand]) -> tuple[list[str | None], list[int]]:
    """Processor of the applications that have no choice, and the indices of those that have one."""
    fixed: list[str | None] = []
    choices: list[int] = []
    for index, (app, demand) in enumerate(zip(problem.apps, demands, strict=True)):
        usable = [k for k, option in app.options.items() if np.isfinite(option.time_ms[demand.level]).any()]
        fixed.append(usable[0] if len(usable) == 1 else None)
        if len(usable) != 1:
            choices.append(index)
    # Beyond the table's size the least important ones go where they are fastest.
    choices.sort(key=lambda i: (problem.apps[i].priority, i))
    for index in choices[MAX_FREE_APPS:]:
        options = problem.apps[index].options
        level = demands[index].level
        fixed[index] = min(options, key=lambda k: (float(options[k].time_ms[level].min()), k))
    return fixed, sorted(choices[:MAX_FREE_APPS])


@dataclass(frozen=True)
class _Table:
    least_w: Array  # per subset of the free applications
    level: NDArray[np.int64]


def _table(
    problem: Problem,
    demands: Sequence[Demand],
    processor: Processor,
    fixed: Sequence[str | None],
    free: Sequence[int],
    rules: Rules,
) -> _Table:
    """Least power of one processor and the level that reaches it, for every subset it may host."""
    load = np.zeros((1 << len(free), processor.levels))
    # load_limit: the total load up to which the deadlines of all hosted applications hold
    load_limit = np.full_like(load, LOAD_CEILING if rules.load else inf)
    hosted = [i for i, name in enumerate(fixed) if name == processor.name]
    for index in hosted:
        own, limit = _load(problem.apps[index], demands[index], processor, rules)
        load[0] += own
        np.minimum(load_limit[0], limit, out=load_limit[0])
    for bit, index in enumerate(free):
        half = 1 << bit
        own, limit = _load(problem.apps[index], demands[index], processor, rules)
        np.add(load[:half], own, out=load[half : 2 * half])
        np.minimum(load_limit[:half], limit, out=load_limit[half : 2 * half])
    return _cheapest(processor, load, load_limit, bool(hosted), rules)


def _cheapest(processor: Processor, load: Array, limit: Array, hosts: bool, rules: Rules) -> _Table:
    allowed = load <= limit
    if rules.background:
        # Others must not be starved by a low clock; at the top clock there is nothing more to give them.
        allowed[:, :-1] &= (load + processor.background <= LOAD_CEILING)[:, :-1]
    if rules.floor_level is not None:
        allowed[:, : rules.floor_level.get(processor.name, 0)] = False
    with np.errstate(invalid="ignore"):  # inf load times zero slope, where it is not allowed anyway
        power = np.where(allowed, processor.base_w + processor.slope_w * load, inf)
    level = np.argmin(power, axis=1)
    least = power[np.arange(len(power)), level]
    if not hosts:
        least[0] = processor.idle_w
    return _Table(least, level)


def _load(app: App, demand: Demand, processor: Processor, rules: Rules) -> tuple[Array, Array]:
    """Own load of an application at every level, and the total load up to which its deadline holds."""
    option = app.options.get(processor.name)
    if option is None:
        return np.full(processor.levels, inf), np.full(processor.levels, -inf)
    time_ms = option.time_ms[demand.level]
    load = app.rate_hz / demand.divider * 1e-3 * time_ms
    if demand.relaxed:
        return load, np.where(np.isfinite(time_ms), inf, -inf)
    budget = (rules.headroom * app.latency_target_ms - app.overhead_ms) / (option.margin * time_ms)
    if processor.contention > 0.0:
        others = (budget - 1.0) / processor.contention
    else:
        others = np.full(processor.levels, inf)
    return load, np.where((budget >= 1.0) & np.isfinite(time_ms), load + others, -inf)


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
        best = int(np.argmin(costs))
        if k == len(tables) - 1:
            total = float(costs[best])
        subsets[k] = int(parts[best])
        rest ^= subsets[k]
    subsets[0] = rest
    return subsets, total


def _min_plus(left: Array, right: Array) -> Array:
    """out[S] = min over A within S of left[S - A] + right[A]."""
    rests, parts, starts = _splits(len(left))
    return np.minimum.reduceat(left[rests] + right[parts], starts)


@lru_cache(maxsize=4096)
def _subsets(mask: int) -> NDArray[np.int64]:
    parts = [0]
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            parts += [part | 1 << bit for part in parts]
    return np.array(parts, dtype=np.int64)


@lru_cache(maxsize=16)
def _splits(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    parts = [_subsets(mask) for mask in range(size)]
    rests = [mask ^ part for mask, part in enumerate(parts)]
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]])
    return np.concatenate(rests), np.concatenate(parts), starts.astype(np.int64)
