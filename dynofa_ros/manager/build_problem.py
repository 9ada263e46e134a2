"""From what the manager knows to the arrays of an allocation problem."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from typing import NamedTuple

import numpy as np

from dynofa_ros.latency import processor_of
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.library_error import Rounded
from dynofa_ros.manager.margin import median_of, scarce
from dynofa_ros.manager.placement import CLUSTERED, place_of
from dynofa_ros.manager.plan import MEETING
from dynofa_ros.manager.power_guard import CAP_GUARD, CAP_RELEASE
from dynofa_ros.manager.problem import (
    DIVIDERS,
    LAUNCHER,
    LOAD_CEILING,
    App,
    Array,
    EntryTable,
    Problem,
    Processor,
    corrected,
    make_menu,
    make_table,
)
from dynofa_ros.manager.requests import queue_margin, usual_factor
from dynofa_ros.manager.state import State
from dynofa_ros.messages import AppTargets

CONTENTION = {"cpu": 0.3, "gpu": 0.45, "npu": 0.45}  # guess; what it gets wrong ends up in the slowdown
FIRST_MARGIN, TOP_SHARE = 1.7, 0.95  # of an application's first frames; of what the top clock can hold
ALONE_SHARE = 0.99 * LOAD_CEILING  # of a processor that one application may fill
RELATIVE_TOP = 16.0  # relative power of a processor at its top clock and full load, without a power model
RELATIVE_RELEASE = 1.1  # of a budget of relative power: loads fluctuate
BACKGROUND_FLOOR = 0.02  # less utilisation than this does not keep a processor awake


class PowerLimit(NamedTuple):
    """Power that a plan may be predicted to take, inf without a limit.

    ``release_w``: the looser limit above which a plan in force is given up. ``name``: what the limit stands
    for. On computers without a power model it is a budget of relative power, see `feedback`.
    """

    plan_w: float
    release_w: float
    name: str


def build_problem(
    state: State, parameters: Parameters, apps: Sequence[AppState], limit_w: float = inf
) -> Problem:
    """Problem of the given applications; those that no processor can run are left out (compare the names)."""
    state.arrange(apps)
    named = {name for app in apps for name in app.named_processors}
    names = _processor_names(state, named)
    if any(state.launch_share(name) > 0.0 for name in named):
        named.add(LAUNCHER)
    model = state.power_model
    grain_c = model.grain(state.thermal.temperature_c) if model else 0.0  # without a model of no account
    known = [_processor(state, name, grain_c) for name in names]
    processors = tuple(p for p in known if p.name in named)
    unused = tuple(p for p in known if p.name not in named)
    roomy = len(apps) <= len(processors)  # each can have one for itself
    models = [_app(state, parameters, app, processors, roomy=roomy) for app in apps]
    return Problem(
        apps=tuple(model for model in models if model is not None),
        processors=processors,
        constant_w=_constant_w(state, grain_c) + sum(p.idle_w for p in unused),
        power_limit_w=limit_w,
        power_known=state.power_model is not None,
        unused=unused,
        most_frames=parameters.objective == "throughput",
        least_latency=parameters.objective == "latency",
    )


def power_limit(state: State, parameters: Parameters) -> PowerLimit:
    """The power limit of a step."""
    if state.power_model is None:
        budget, name = state.feedback.limit()
        return PowerLimit(budget, RELATIVE_RELEASE * budget, name)
    cap_w = state.power.limit_w(parameters.power_cap_w)
    battery_w = state.battery.cap_w  # of the mean: what is over now is less later
    thermal_w = state.thermal.limit_w(parameters.temperature_limit_c, state.power.measured_w)
    release_w = min(
        cap_w * ((1.0 - CAP_RELEASE) / (1.0 - CAP_GUARD)),
        battery_w * (1.0 + CAP_GUARD),
        thermal_w * (1.0 + CAP_GUARD),
    )
    cap_w = min(cap_w, battery_w)
    name = "power_cap" if cap_w <= thermal_w else "temperature"
    return PowerLimit(min(cap_w, thermal_w), release_w, name)


def _processor_names(state: State, named: Set[str]) -> list[str]:
    known = {state.place(d.domain) for d in state.capabilities.domains} if state.capabilities else set()
    offered = set(state.capabilities.processors) if state.capabilities else set()
    offered -= {CLUSTERED} if state.clusters else set()
    # Without any clock every processor that a library names is taken at its word.
    usable = offered | {str(name) for name in known if name} if known else named
    return sorted(usable)


class Powers(NamedTuple):
    """Power of a processor at its levels and one temperature; the first three are levels x domains."""

    unused_w: Array
    idle_w: Array
    busy_w: Array
    base_w: Array  # without anybody's load; one value per level
    slope_w: Array  # per load


@dataclass(frozen=True)
class Levels:
    """Clock levels of a processor; ``clocks_hz`` and ``real_hz`` are levels x domains.

    ``clocks_hz`` is what is set, NaN where it cannot be; ``real_hz`` what then runs, NaN where it is unknown.
    """

    clocks_hz: Array
    real_hz: Array
    speed_hz: Array
    quiet: Array  # zeros
    place: dict[tuple[float, ...], int]  # level of each combination of clocks
    powers: dict[float, Powers] = field(default_factory=dict)  # by temperature


def _processor(state: State, name: str, grain_c: float) -> Processor:
    domains, top_hz, cores = state.clocks_of(name)
    levels = _levels_of(state, name, domains)
    powers = levels.powers.get(grain_c)
    if powers is None:
        powers = levels.powers[grain_c] = _powers(state, domains, levels, grain_c)
    base_w, background = _loaded(state, domains, levels, powers)
    slope_w = powers.slope_w
    if state.power_model is not None and not domains:
        known_w = entries_w(state, name) - state.power_model.constant_w(grain_c)
        slope_w = np.maximum(slope_w, known_w) if isfinite(known_w) else slope_w
    if processor_of(name) == "cpu":
        # It also runs everything else on the robot and is left to its governor.
        idle_level, idle_w = None, _governed_w(state, domains, grain_c)
    else:
        idle_level, idle_w = _idle(levels, powers, base_w, background)
    return Processor(
        name=name,
        domains=domains,
        clocks_hz=levels.clocks_hz,
        speed_hz=levels.speed_hz,
        reference_hz=top_hz,
        base_w=base_w,
        slope_w=slope_w,
        background=background,
        idle_w=idle_w,
        idle_level=idle_level,
        contention=MEETING * CONTENTION.get(processor_of(name) or name, 0.0),
        launch_share=state.launch_share(name),
        cores=cores,
        place=levels.place,
    )


def entries_w(state: State, name: str) -> float:
    """Power of the module while a processor without a visible clock works: what the energies of the entries
    there say; NaN = unknown, and work there seems to cost nothing."""
    entries = [e for app in state.apps.values() for e in app.entries if place_of(e) == name]
    watts = sorted(
        1e3 * e.energy_j / e.latency_ms for e in entries if e.energy_j > 0.0 and e.latency_ms > 0.0
    )
    return median_of(watts) if watts else nan


def unpriced(state: State) -> list[str]:
    """Processors of the libraries whose power nobody knows: see `entries_w`."""
    if state.power_model is None or state.capabilities is None:
        return []
    named = {place_of(e) for app in state.apps.values() for e in app.entries}
    hidden = named.intersection(state.capabilities.processors)
    return sorted(n for n in hidden if not state.clocks_of(n).domains and not isfinite(entries_w(state, n)))


def _levels_of(state: State, name: str, domains: tuple[str, ...]) -> Levels:
    """Levels of a processor, from memory where nothing they depend on has changed."""
    unresponsive = state.actuators.unresponsive
    tables = state.writable.get((name, unresponsive))
    if tables is None:
        tables = state.writable[name, unresponsive] = _writable(state, domains, unresponsive)
    actual = None  # clocks that count where one cannot be set
    if not all(tables):
        actual = [nan if table else state.clocks.hz(d) for table, d in zip(tables, domains, strict=True)]
    # By their text: NaN is not equal to itself.
    key = (name, state.clusters, unresponsive, str(actual))
    levels: Levels | None = state.levels.get(key)
    if levels is None:
        if len(state.levels) > 64:
            state.levels.clear()
        levels = state.levels[key] = _make_levels(tables, actual)
    return levels


def _writable(
    state: State, domains: Sequence[str], unresponsive: frozenset[str]
) -> tuple[tuple[int, ...], ...]:
    """Frequencies that can be set, per domain; none where it may not be written, or does not obey."""
    known = {d.domain: d for d in state.capabilities.domains} if state.capabilities else {}
    return tuple(
        known[d].frequencies_hz if known[d].can_write and d not in unresponsive else () for d in domains
    )


def _make_levels(tables: Sequence[tuple[int, ...]], actual: Sequence[float] | None) -> Levels:
    clocks = _steps(tables)
    real = clocks if actual is None else np.where(np.isnan(clocks), np.array(actual, dtype=float), clocks)
    speed = np.fmin.reduce(real, axis=1) if tables else np.full(len(real), nan)
    place = {tuple(row): level for level, row in reversed(list(enumerate(clocks.tolist())))}
    return Levels(clocks, real, speed, np.zeros(len(real)), place)


def _powers(state: State, domains: Sequence[str], levels: Levels, grain_c: float) -> Powers:
    model, real, speed = state.power_model, levels.real_hz, levels.speed_hz
    if model is None:
        # Only comparisons count: energy per cycle grows with the square of a voltage that follows the clock.
        top = np.nanmax(np.append(speed, 1.0))
        relative = RELATIVE_TOP * np.where(np.isfinite(speed), speed / top, 1.0)[:, None] ** 3
        if state.clusters.intersection(domains):
            relative = relative / len(state.cpus)  # of what the whole CPU takes
        unused, idle, busy = 0.0 * relative, 0.1 * relative, 1.1 * relative
    else:
        hz = np.where(np.isfinite(real), real, 0.0).tolist()
        shares = [model.domain(d, f, grain_c) for row in hz for d, f in zip(domains, row, strict=True)]
        unused, idle, busy = (
            np.array([getattr(share, part) for share in shares]).reshape(real.shape)
            for part in ("unused_w", "idle_w", "busy_w")
        )
    return Powers(unused, idle, busy, idle.sum(axis=1), (busy - idle).sum(axis=1))


def _steps(tables: Sequence[tuple[int, ...]]) -> Array:
    """Clock of every domain at every level: all domains of a processor go up and down together."""
    rows: list[tuple[float, ...]] = []
    for hz in sorted({hz for table in tables for hz in table}):
        row = tuple(next((float(f) for f in t if f >= hz), float(t[-1])) if t else nan for t in tables)
        if row not in rows:
            rows.append(row)
    rows = rows or [tuple(nan for _ in tables)]
    return np.array(rows, dtype=float).reshape(len(rows), len(tables))


def _loaded(state: State, domains: Sequence[str], levels: Levels, powers: Powers) -> tuple[Array, Array]:
    """Power without managed load, and utilisation by others, at every level."""
    cycles = [state.loads.background_hz.get(domain, 0.0) for domain in domains]
    if not any(cycles):
        return powers.base_w, levels.quiet
    hz = np.array(cycles, dtype=float)
    others = np.where(np.isfinite(levels.real_hz), hz / levels.real_hz, 0.0)
    per_load = powers.busy_w - powers.idle_w
    if others.shape != per_load.shape:  # no power model: one column for the processor
        others = others.max(axis=1, initial=0.0)[:, None]
    base_w = (powers.idle_w + per_load * np.minimum(others, 1.0)).sum(axis=1)
    return base_w, others.max(axis=1, initial=0.0)


def _idle(levels: Levels, powers: Powers, base_w: Array, background: Array) -> tuple[int, float]:
    """Lowest level that leaves room for what others do on a processor, and the power it then takes."""
    level = 0
    if background is not levels.quiet:
        room = np.flatnonzero(background <= 1.0 - BACKGROUND_FLOOR)
        level = int(room[0]) if len(room) else len(base_w) - 1
    used = background[level] > BACKGROUND_FLOOR
    return level, float(base_w[level] if used else powers.unused_w[level].sum())


def _governed_w(state: State, domains: Sequence[str], grain_c: float) -> float:
    """Power of domains at the clocks they have now."""
    if state.power_model is None:
        return 0.0
    total = 0.0
    for domain in domains:
        hz = state.clocks.hz(domain)
        if isfinite(hz):
            share = state.power_model.domain(domain, hz, grain_c)
            total += share.at(min(1.0, state.loads.background_hz.get(domain, 0.0) / hz))
    return total


def _constant_w(state: State, grain_c: float) -> float:
    """Power that no processor's clock changes: the module, domains of no processor, the measured bias."""
    model = state.power_model
    if model is None:
        return 0.0
    total = model.constant_w(grain_c) + state.power.bias_w
    readings = state.telemetry.domains if state.telemetry else ()
    for reading in readings:
        if processor_of(reading.domain) is None and reading.domain in model.counted:
            if 0.0 <= reading.frequency_hz < inf:
                utilization = reading.utilization
                share = model.domain(reading.domain, reading.frequency_hz, grain_c)
                total += share.at(utilization if isfinite(utilization) else 0.0)
    return total


def _app(
    state: State, parameters: Parameters, known: AppState, processors: Sequence[Processor], *, roomy: bool
) -> App | None:
    targets = known.targets
    if targets is None:
        return None
    target, floor = _accuracy_target(targets, parameters.objective), targets.accuracy_floor
    filters, tolerance = known.estimator.filters, targets.miss_tolerance
    errors = [filters[p.name].errors.rounded if p.name in filters else () for p in processors]
    # The arrays themselves are kept with the tables: an id that is still in use is never given twice.
    key = (known.usable, target, floor, errors, [id(p.speed_hz) for p in processors])
    if known.menu_key != key:
        rows = zip(processors, errors, strict=True)
        tables = {p.name: table for p, own in rows if (table := _table(known, p, own)) is not None}
        known.menu_key, known.menu = key, make_menu(tables, target, floor) if tables else None
    menu = known.menu
    if menu is None:
        return None
    overhead_ms, rate_hz, usual = known.estimator.overhead.typical_ms(), known.due_hz(), known.sizes.usual
    tolerance = targets.miss_tolerance * (1.0 if known.queued else scarce(known.tolerated_per_min))
    budget_ms, slowdowns, margins = targets.latency_target_ms - overhead_ms, {}, {}
    for name, table in menu.tables.items():
        slowdown = state.slowdown(known, name) * usual_factor(table.laws, usual)
        margin = known.estimator.margin(name, tolerance, meets=known.shared > 1.0)
        if name == known.estimator.processor:  # learned from frames that met those of others
            margin = max(1.0, margin * known.shared / (1.0 + MEETING * (known.shared - 1.0)))
        if known.fresh and roomy:  # as far as clocks alone can give it
            least_ms = slowdown * float(menu.unit_ms(name)[..., 0, -1].min())
            margin = max(margin, min(FIRST_MARGIN, TOP_SHARE * budget_ms / least_ms))
        if known.queued:
            margin = queue_margin(margin, rate_hz, budget_ms, tolerance)
        slowdowns[name], margins[name] = slowdown, margin
    # Frames that no processor can answer are no load: nobody else has to give up anything for them.
    least_ms = min(slowdown * menu.least_ms[name] for name, slowdown in slowdowns.items())
    answered = 1.0 if known.queued else DIVIDERS[-1]
    return App(
        name=known.name,
        priority=targets.priority,
        rate_hz=min(rate_hz, answered * ALONE_SHARE * 1e3 / least_ms),
        latency_target_ms=targets.latency_target_ms - min(known.backlog_ms, 0.5 * targets.latency_target_ms),
        overhead_ms=overhead_ms,
        menu=menu,
        slowdown=slowdowns,
        margin=margins,
        keeps_rate=known.queued or not known.thinned and known.estimator.settles(rate_hz),
    )


def _accuracy_target(targets: AppTargets, objective: str) -> float:
    if objective in ("energy", "latency"):
        return targets.accuracy_floor
    return 1.0 if objective == "accuracy_under_power" else targets.accuracy_target


def _table(known: AppState, processor: Processor, errors: Rounded) -> EntryTable | None:
    """Table of an application on a processor, the last one if nothing it is made from has changed."""
    usable, kept = known.usable, known.tables.get(processor.name)
    if kept is None or kept[0] is not processor.speed_hz or kept[1] is not usable:
        own = tuple(e for e in usable if place_of(e) == processor.name)
        plain = make_table(own, processor) if own else None
        kept = processor.speed_hz, usable, None, None, plain
    if kept[3] is not errors:
        plain = kept[4]
        kept = processor.speed_hz, usable, corrected(plain, errors) if plain else None, errors, plain
        known.tables[processor.name] = kept
    table: EntryTable | None = kept[2]
    return table
