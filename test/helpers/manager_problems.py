"""Random allocation problems for the manager's tests, and brute force that shares no code with the solver."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import product
from math import inf

import numpy as np

from dynofa_ros.manager.grid import asked, make_grid
from dynofa_ros.manager.problem import (
    LOAD_CEILING,
    App,
    Demand,
    EntryTable,
    Menu,
    Problem,
    Processor,
    make_menu,
    make_table,
)
from dynofa_ros.manager.solver import Point, solve
from dynofa_ros.messages import SubnetEntry


def make_processor(rng: np.random.Generator, name: str, levels: int) -> Processor:
    hz = np.sort(rng.uniform(2e8, 2e9, levels))
    volts = 0.6 + 0.4 * hz / 2e9
    return Processor(
        name=name,
        domains=(name,),
        clocks_hz=hz[:, None],
        speed_hz=hz,
        reference_hz=float(hz[-1]),
        base_w=rng.uniform(0.0, 0.5) * volts**2,
        slope_w=rng.uniform(1.0, 8.0) * volts**2 * hz / 2e9,
        background=rng.uniform(0.0, 0.5) * hz[0] / hz,
        idle_w=float(rng.uniform(0.0, 0.1)),
        idle_level=0,
        contention=float(rng.choice([0.0, 0.3, 0.6])),
    )


def make_app(
    rng: np.random.Generator, name: str, processors: tuple[Processor, ...], entries: int, demanding: float
) -> App:
    """``demanding`` 0..1: how tight the deadline is."""
    priority = int(rng.integers(0, 3))
    chosen = [p for p in processors if rng.random() < 0.7] or [processors[int(rng.integers(len(processors)))]]
    libraries = {}
    for processor in chosen:
        accuracy = np.sort(rng.choice(np.arange(60, 90), entries, replace=False)) / 100.0
        total = np.sort(rng.uniform(5.0, 80.0, entries))
        share = rng.uniform(0.1, 0.9)
        libraries[processor.name] = [
            SubnetEntry(
                f"{name}{n}", processor.name, float(a), float(t), float(share * t), float((1 - share) * t)
            )
            for n, (a, t) in enumerate(zip(accuracy, total, strict=True))
        ]
    available = [e.accuracy for library in libraries.values() for e in library]
    floor = float(rng.choice([0.0, np.median(available)]))
    target = float(rng.choice([1.0, floor, np.median(available)]))
    menu = make_menu({p.name: make_table(libraries[p.name], p) for p in chosen}, target, floor)
    slowdown, margin = {}, {}
    for p in chosen:
        slowdown[p.name], margin[p.name] = float(rng.uniform(0.8, 1.5)), float(rng.uniform(1.02, 1.3))
    latency = float(rng.uniform(20.0, 60.0) / (0.2 + demanding))
    return App(name, priority, float(rng.uniform(1.0, 20.0)), latency, 2.0, menu, slowdown, margin)


def with_tables(app: App, tables: dict[str, EntryTable], accuracies: tuple[float, ...] = ()) -> App:
    """The application with other tables, asked for the same accuracies or for others."""
    accuracies = accuracies or app.accuracies
    first = {name: [bisect_left(t.accuracies, a) for a in accuracies] for name, t in tables.items()}
    menu = Menu(accuracies, app.menu.below_floor, tables, first)
    return replace(app, menu=menu)


def make_problem(seed: int, most_levels: int = 4) -> Problem:
    rng = np.random.default_rng(seed)
    names = ("cpu", "gpu", "npu")[: int(rng.integers(1, 4))]
    processors = tuple(make_processor(rng, name, int(rng.integers(2, most_levels + 1))) for name in names)
    demanding = float(rng.random())
    apps = tuple(
        make_app(rng, f"app{n}", processors, int(rng.integers(1, 4)), demanding)
        for n in range(int(rng.integers(1, 4)))
    )
    limit = float(rng.choice([inf, rng.uniform(1.0, 8.0)]))
    return Problem(apps, processors, constant_w=float(rng.uniform(0.0, 2.0)), power_limit_w=limit)


def mapped(seed: int) -> Problem:
    """A problem whose CPU is used by clusters, with entries measured with several numbers of threads.

    Not every application has them: some entries name no threads. A sub-network with more threads is quicker,
    but not by as much as it has more threads.
    """
    rng = np.random.default_rng(70_000 + seed)
    cores = {"cpu0": 2, "cpu4": 4, "gpu": 0}
    names = list(cores)[: int(rng.integers(1, 4))]
    processors = tuple(
        replace(make_processor(rng, name, int(rng.integers(2, 4))), cores=cores[name]) for name in names
    )
    by_name = {p.name: p for p in processors}
    demanding = float(rng.random())
    apps = []
    for n in range(int(rng.integers(1, 4))):
        app = make_app(rng, f"app{n}", processors, int(rng.integers(1, 3)), demanding)
        tables = {}
        for name, table in app.tables.items():
            counts = [0] if name == "gpu" or rng.random() < 0.2 else [[1, 2], [1, 2, 4], [2]][rng.integers(3)]
            entries = [
                replace(
                    e,
                    processor="cpu" if name != "gpu" else name,
                    cluster="" if name == "gpu" else name,
                    threads=count,
                    alpha_ms=e.alpha_ms * (0.3 + 0.7 / max(count, 1)),
                    beta_ms=e.beta_ms * (0.3 + 0.7 / max(count, 1)),
                )
                for e in table.entries
                for count in counts
            ]
            tables[name] = make_table(entries, by_name[name])
        app = replace(app, rate_hz=app.rate_hz * float(rng.uniform(0.5, 3.0)))
        apps.append(with_tables(app, tables))
    limit = float(rng.choice([inf, rng.uniform(1.0, 8.0)]))
    return Problem(tuple(apps), processors, constant_w=float(rng.uniform(0.0, 2.0)), power_limit_w=limit)


def brute_force(
    problem: Problem,
    demands: tuple[Demand, ...],
    *,
    headroom: float = 1.0,
    power: bool = True,
    load: bool = True,
    background: bool = False,
) -> float:
    """Least power over every mapping, sub-network and level; inf if nothing fits."""
    best = inf
    per_app = [
        [
            (p.name, n)
            for p in problem.processors
            if p.name in app.tables
            for n in range(len(app.tables[p.name].entries))
        ]
        for app in problem.apps
    ]
    for levels in product(*(range(p.levels) for p in problem.processors)):
        level = {p.name: f for p, f in zip(problem.processors, levels, strict=True)}
        for chosen in product(*per_app):
            best = min(best, _power(problem, demands, level, chosen, headroom, load, background))
    return best if not (power and best > problem.power_limit_w) else inf


def _power(problem, demands, level, chosen, headroom, load_holds, background) -> float:
    times, loads = [], []
    for app, demand, (name, place) in zip(problem.apps, demands, chosen, strict=True):
        table = app.tables[name]
        if table.entries[place].accuracy < app.accuracies[demand.level]:
            return inf
        times.append(app.slowdown[name] * unit_ms(problem, table, name, place, level))
        busy = app.rate_hz / demand.divider * 1e-3 * times[-1]
        if load_holds and busy > LOAD_CEILING + 1e-12:
            return inf
        threads, cores = table.entries[place].threads, problem.processor(name).cores
        loads.append(busy * (min(threads, cores) / cores if threads and cores else 1.0))
    total = {p.name: 0.0 for p in problem.processors}
    for (name, _), load in zip(chosen, loads, strict=True):
        total[name] += load
    for app, demand, (name, _), time, load in zip(problem.apps, demands, chosen, times, loads, strict=True):
        shared = 1.0 + problem.processor(name).contention * (total[name] - load)
        guarded = app.margin[name] * time * shared + app.overhead_ms
        if not demand.relaxed and guarded > headroom * app.latency_target_ms + 1e-9:
            return inf
    power = problem.constant_w
    for processor in problem.processors:
        f, load = level[processor.name], total[processor.name]
        hosts = any(name == processor.name for name, _ in chosen)
        used = hosts or (processor.name == "cpu" and launched(problem, [name for name, _ in chosen]))
        if used and load_holds and load > LOAD_CEILING + 1e-12:
            return inf
        short = load + processor.background[f] > LOAD_CEILING
        if used and background and short and f < processor.levels - 1:
            return inf
        power += processor.base_w[f] + processor.slope_w[f] * min(load, 1.0) if used else processor.idle_w
    return float(power)


def unit_ms(problem, table, name, place, level) -> float:
    """alpha + beta * f_ref / f, with the launched share of alpha at the clock of the CPU."""
    entry, processor = table.entries[place], problem.processor(name)
    share = processor.launch_share * entry.alpha_ms
    if share == 0.0 or "cpu" not in level:
        return float(table.unit_ms[place, level[name]])
    cpu = problem.processor("cpu")
    scaled = entry.beta_ms * processor.reference_hz / processor.speed_hz[level[name]]
    return float(entry.alpha_ms - share + share * cpu.speed_hz[-1] / cpu.speed_hz[level["cpu"]] + scaled)


def launched(problem: Problem, names: list[str]) -> bool:
    """Whether a network runs where the CPU launches it."""
    return any(problem.processor(name).launch_share > 0.0 for name in names)


def coupled(problem: Problem, share: float) -> Problem:
    """The same on a board whose GPU needs the CPU for a share of alpha."""
    processors = tuple(replace(p, launch_share=share if p.name == "gpu" else 0.0) for p in problem.processors)
    by_name = {p.name: p for p in processors}
    apps = tuple(
        with_tables(app, {name: make_table(t.entries, by_name[name]) for name, t in app.tables.items()})
        for app in problem.apps
    )
    return replace(problem, apps=apps, processors=processors)


def solved(
    problem: Problem, demands: tuple[Demand, ...], headroom: float = 1.0, **rules: bool
) -> Point | None:
    with np.errstate(all="ignore"):
        return solve(make_grid(problem, headroom), asked(demands), **rules)


def random_demands(problem: Problem, rng: np.random.Generator) -> tuple[Demand, ...]:
    return tuple(
        Demand(int(rng.integers(len(a.accuracies))), int(rng.integers(1, 5)), bool(rng.random() < 0.1))
        for a in problem.apps
    )


def calm(problem: Problem) -> Problem:
    """Without others' load, which is a preference of its own, tested below."""
    quiet = tuple(replace(p, background=np.zeros(p.levels)) for p in problem.processors)
    return replace(problem, processors=quiet)


def replace_floor(app: App) -> App:
    """The application as objective `latency` sees it: nothing but the floor is asked for."""
    return with_tables(app, app.tables, app.accuracies[-1:])


def crowd(seed: int, count: int) -> Problem:
    rng = np.random.default_rng(seed)
    processors = tuple(make_processor(rng, name, 6) for name in ("cpu", "gpu", "npu"))
    apps = tuple(make_app(rng, f"app{n}", processors, 4, 0.2) for n in range(count))
    slow = tuple(replace(a, rate_hz=a.rate_hz / 3.0) for a in apps)
    return calm(Problem(slow, processors, 1.0))
