"""A plan: what runs where, how often, at which clocks; and what a plan is worth under given estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from dynofa_ros.manager.ladder import Outcome
from dynofa_ros.manager.problem import LOAD_CEILING, App, Problem, Processor
from dynofa_ros.manager.types import LibraryEntry

OVERLOAD = 0.98  # total utilisation, others included, at which a plan in force is given up
SHORTFALL_GRAIN = 1e-6  # accuracies closer than this are the same: they come as float32


@dataclass(frozen=True)
class Choice:
    """What one application runs."""

    app: str
    entry: LibraryEntry
    divider: int = 1


@dataclass(frozen=True)
class Plan:
    """Choices in the order of the problem's applications; clocks (Hz) per domain of each processor."""

    choices: tuple[Choice, ...]
    clocks: tuple[tuple[str, tuple[float, ...]], ...]
    ladder_step: int = 0
    feasible: bool = True

    def choice(self, app: str) -> Choice | None:
        """Choice of one application, None if the plan has none."""
        return next((c for c in self.choices if c.app == app), None)

    def same_knobs(self, other: Plan | None) -> bool:
        """Whether both plans set every knob alike."""
        return other is not None and self.choices == other.choices and self.clocks == other.clocks


@dataclass(frozen=True)
class AppForecast:
    """What is expected of one application; ``latency_ms`` is without the margin."""

    latency_ms: float
    shared: float  # factor by which others on the processor slow it
    margin: float
    load: float
    late: bool
    shortfall: float


@dataclass(frozen=True)
class Forecast:
    """What a plan is expected to do. ``applicable`` False = it names something that is gone."""

    applicable: bool
    apps: tuple[AppForecast, ...] = ()
    power_w: float = inf
    excess_w: float = 0.0  # predicted power above the limit
    overloaded: bool = False  # a processor's managed load is above its ceiling
    starving: bool = False  # others do not get what they need, and a higher clock exists
    thinned: bool = False  # some application answers fewer frames than asked for
    quality: tuple[float, ...] = ()

    @property
    def violations(self) -> tuple[float, ...]:
        """Broken promises, the gravest first; all zero = the plan holds what it must."""
        late = sum(app.late for app in self.apps)
        return (self.excess_w, float(late), float(self.overloaded), float(self.starving))

    @property
    def sound(self) -> bool:
        """Whether limits, loads and deadlines hold."""
        return self.applicable and not any(self.violations)


def make_plan(problem: Problem, outcome: Outcome) -> Plan:
    """The plan that carries out an outcome of the ladder."""
    choices = []
    for app, demand, name in zip(problem.apps, outcome.demands, outcome.point.mapping, strict=True):
        option = app.options[name]
        entry = option.entries[int(option.pick[demand.level, outcome.point.levels[name]])]
        choices.append(Choice(app.name, entry, demand.divider))
    clocks = []
    for name, level in sorted(outcome.point.levels.items()):
        clocks.append((name, tuple(float(hz) for hz in problem.processor(name).clocks_hz[level])))
    met = outcome.feasible and not any(app.below_floor for app in problem.apps)
    return Plan(tuple(choices), tuple(clocks), len(outcome.rungs), met)


def forecast(
    problem: Problem, plan: Plan, power_limit_w: float | None = None, headroom: float = 1.0
) -> Forecast:
    """Prices a plan with the present estimates; ``power_limit_w`` replaces that of the problem."""
    levels = _levels(problem, plan)
    if levels is None or [c.app for c in plan.choices] != [a.name for a in problem.apps]:
        return Forecast(False)
    times = [_time_ms(app, choice, levels) for app, choice in zip(problem.apps, plan.choices, strict=True)]
    if any(time is None for time in times):
        return Forecast(False)
    known = [float(time) for time in times if time is not None]
    loads = [
        app.rate_hz / choice.divider * 1e-3 * time
        for app, choice, time in zip(problem.apps, plan.choices, known, strict=True)
    ]
    total = {p.name: 0.0 for p in problem.processors}
    for choice, load in zip(plan.choices, loads, strict=True):
        total[choice.entry.processor] += load
    apps = tuple(
        _app_forecast(app, choice, time, load, total, problem, headroom)
        for app, choice, time, load in zip(problem.apps, plan.choices, known, loads, strict=True)
    )
    power_w = problem.constant_w + sum(_power_w(p, levels, total[p.name]) for p in problem.processors)
    excess_w = max(0.0, power_w - (problem.power_limit_w if power_limit_w is None else power_limit_w))
    return Forecast(
        applicable=True,
        apps=apps,
        power_w=power_w,
        excess_w=excess_w,
        overloaded=any(load > LOAD_CEILING * 1.02 for load in total.values()),
        starving=any(_starves(p, levels, total[p.name]) for p in problem.processors),
        thinned=any(choice.divider > 1 for choice in plan.choices),
        quality=_quality(problem, plan, apps, excess_w),
    )


def _levels(problem: Problem, plan: Plan) -> dict[str, int] | None:
    """Clock level of each processor in use, None if a processor or its clocks are gone."""
    processors = {p.name: p for p in problem.processors}
    levels = {}
    for name, clocks in plan.clocks:
        processor = processors.get(name)
        if processor is None or len(processor.domains) != len(clocks):
            return None
        level = _level_of(processor, clocks)
        if level is None:
            return None
        levels[name] = level
    return levels


def _level_of(processor: Processor, clocks: tuple[float, ...]) -> int | None:
    wanted = np.array(clocks)
    # NaN = a clock that nobody sets: it is the same as before.
    same = (processor.clocks_hz == wanted) | np.isnan(processor.clocks_hz) | np.isnan(wanted)
    found = np.flatnonzero(same.all(axis=1))
    return int(found[0]) if len(found) else None


def _time_ms(app: App, choice: Choice, levels: Mapping[str, int]) -> float | None:
    option = app.options.get(choice.entry.processor)
    level = levels.get(choice.entry.processor)
    if option is None or level is None or choice.entry not in option.entries:
        return None
    return float(option.entry_ms[option.entries.index(choice.entry), level])


def _app_forecast(
    app: App,
    choice: Choice,
    time_ms: float,
    load: float,
    total: Mapping[str, float],
    problem: Problem,
    headroom: float,
) -> AppForecast:
    name = choice.entry.processor
    shared = 1.0 + problem.processor(name).contention * max(0.0, total[name] - load)
    margin = app.options[name].margin
    guarded = margin * time_ms * shared + app.overhead_ms
    return AppForecast(
        latency_ms=time_ms * shared + app.overhead_ms,
        shared=shared,
        margin=margin,
        load=load,
        late=guarded > headroom * app.latency_target_ms * (1.0 + 1e-9),
        shortfall=max(0.0, app.accuracies[0] - choice.entry.accuracy),
    )


def _power_w(processor: Processor, levels: Mapping[str, int], load: float) -> float:
    level = levels.get(processor.name)
    if level is None:
        return processor.idle_w
    return float(processor.base_w[level] + processor.slope_w[level] * load)


def _starves(processor: Processor, levels: Mapping[str, int], load: float) -> bool:
    level = levels.get(processor.name)
    if level is None or level == processor.levels - 1:
        return False
    return load + float(processor.background[level]) > OVERLOAD


def _quality(
    problem: Problem, plan: Plan, apps: tuple[AppForecast, ...], excess_w: float
) -> tuple[float, ...]:
    """What counts before energy, smaller is better, in the order of the ladder read from its end."""
    classes = sorted({app.priority for app in problem.apps})
    late, rest = [], []
    for priority in classes:
        members = [i for i, app in enumerate(problem.apps) if app.priority == priority]
        late.append(float(sum(apps[i].late for i in members)))
        rest.append(float(sum(plan.choices[i].divider - 1 for i in members)))
        shortfall = sum(apps[i].shortfall for i in members)
        rest.append(round(shortfall / SHORTFALL_GRAIN) * SHORTFALL_GRAIN)
    return (excess_w, *late, *rest)
