"""A plan: what runs where, how often, at which clocks; and what a plan is worth under given estimates."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from dynofa_ros.manager.ladder import Outcome
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.problem import LOAD_CEILING, SATURATION, Problem, Processor
from dynofa_ros.messages import SubnetEntry

OVERLOAD = 0.98  # total utilisation, others included, at which a plan in force is given up
# Frames that meet others on their processor are slowed by all of it, not by the mean over all frames: for
# deadlines the load of others counts that many times, unless the margin was learned from such frames.
MEETING = 2.0
REDUCED_SHARE = 0.6
SHORTFALL_GRAIN = 1e-6  # accuracies closer than this are the same: they come as float32


@dataclass(frozen=True)
class Choice:
    """What one application runs."""

    app: str
    entry: SubnetEntry
    divider: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Choices in the order of the problem's applications; clocks (Hz) per domain of each processor."""

    choices: tuple[Choice, ...]
    clocks: tuple[tuple[str, tuple[float, ...]], ...]
    ladder_step: int = 0
    feasible: bool = True

    def same_knobs(self, other: Plan | None) -> bool:
        """Whether both plans set every knob alike."""
        return other is not None and self.choices == other.choices and self.clocks == other.clocks


@dataclass  # not frozen: some dozens are made in every step
class AppForecast:
    """What is expected of one application; ``latency_ms`` is without the margin."""

    latency_ms: float
    shared: float  # factor by which others on the processor slow it
    margin: float
    load: float
    divider: float
    late: bool
    shortfall: float
    share: float  # of the latency target that it fills, margin included


@dataclass(frozen=True)
class Forecast:
    """What a plan is expected to do. ``applicable`` False = it names something that is gone."""

    applicable: bool
    apps: tuple[AppForecast, ...] = ()
    power_w: float = inf
    excess_w: float = 0.0  # predicted power above the limit
    overload: float = 0.0  # managed load of a processor, or of one application, above its ceiling
    backlog: float = 0.0  # share by which an application then takes longer than its period, with overhead
    starving: bool = False  # others do not get what they need, and a higher clock exists
    thinned: bool = False  # some application answers fewer frames than asked for

    @property
    def share(self) -> float:
        """Worst share of a latency target that is filled."""
        return max((app.share for app in self.apps), default=0.0)

    @property
    def left_out(self) -> float:
        """Measure of the frames that are left out on purpose."""
        return float(sum(app.divider - 1 for app in self.apps))

    @property
    def violations(self) -> tuple[float, ...]:
        """Broken promises, the gravest first; all zero = the plan holds what it must."""
        late = [app for app in self.apps if app.late]
        failing = sum(max(0.0, app.share / app.margin**REDUCED_SHARE - 1.0) for app in late)
        # Each frame waits longer than the last one, however far away the deadline is.
        failing += self.backlog
        tight = sum(app.share - 1.0 for app in late)
        return (self.excess_w, failing, self.left_out, tight, self.overload, float(self.starving))

    @property
    def sound(self) -> bool:
        """Whether limits, loads and deadlines hold."""
        return self.applicable and not any(self.violations)


def make_plan(problem: Problem, outcome: Outcome) -> Plan:
    """The plan that carries out an outcome of the ladder."""
    choices: list[Choice] = []
    levels, modes = outcome.point.levels, outcome.point.modes or (0,) * len(problem.apps)
    ratios = {name: problem.launch_ratio(name, levels) for name in levels}
    placed = zip(problem.apps, outcome.demands, outcome.point.mapping, modes, strict=True)
    for app, demand, name, mode in placed:
        first = app.menu.first[name][demand.level]
        entry = app.menu.tables[name].quickest(first, levels[name], ratios[name], mode)
        choices.append(Choice(app.name, entry, demand.divider))
    clocks = []
    for name, level in sorted(levels.items()):
        clocks.append((name, tuple(problem.processor(name).clocks_hz[level].tolist())))
    met = outcome.feasible and not any([app.menu.below_floor for app in problem.apps])
    return Plan(tuple(choices), tuple(clocks), outcome.rungs, met)


def used_levels(problem: Problem, plan: Plan) -> dict[str, int]:
    """Clock level of each processor in use, without those that are gone or whose clocks are."""
    known = {p.name: p for p in problem.processors}
    found = {name: known[name].level_of(clocks) for name, clocks in plan.clocks if name in known}
    return {name: level for name, level in found.items() if level is not None}


def forecast(
    problem: Problem, plan: Plan, power_limit_w: float | None = None, headroom: float = 1.0
) -> Forecast:
    """Prices a plan with the present estimates; ``power_limit_w`` replaces that of the problem."""
    levels = used_levels(problem, plan)
    if len(levels) != len(plan.clocks) or len(plan.choices) != len(problem.apps):
        return Forecast(False)
    runs, total = [], {p.name: 0.0 for p in problem.processors}
    busiest = occupied = 0.0  # an application answers one frame after the other
    ratios = {name: problem.launch_ratio(name, levels) for name in levels}
    for app, choice in zip(problem.apps, plan.choices, strict=True):
        name = place_of(choice.entry)
        table, level = app.menu.tables.get(name), levels.get(name)
        place = table.index(choice.entry) if table is not None else None
        if app.name != choice.app or table is None or level is None or place is None:
            return Forecast(False)
        time_ms = app.slowdown[name] * float(table.at(ratios[name])[0][place, level])
        busy = app.rate_hz / choice.divider * 1e-3 * time_ms
        load = table.share(place) * busy
        total[name] += load
        busiest = max(busiest, busy)
        occupied = max(occupied, busy * (1.0 + app.overhead_ms / time_ms))
        runs.append((app, choice, name, time_ms, load))
    contention = {p.name: p.contention for p in problem.processors}
    apps = []
    for app, choice, name, time_ms, load in runs:
        meeting = contention[name] * max(0.0, total[name] - load)  # contention times the load of the others
        shared, margin, target_ms = 1.0 + meeting / MEETING, app.margin[name], app.latency_target_ms
        guarded = margin * time_ms * (1.0 + meeting) + app.overhead_ms
        apps.append(
            AppForecast(
                latency_ms=time_ms * shared + app.overhead_ms,
                shared=shared,
                margin=margin * (1.0 + meeting) / shared,
                load=load,
                divider=choice.divider,
                late=guarded > headroom * target_ms * (1.0 + 1e-9),
                shortfall=max(0.0, app.menu.accuracies[0] - choice.entry.accuracy),
                share=guarded / target_ms,
            )
        )
    power_w, starving = 0.0, False
    for processor in problem.processors:
        level, own = levels.get(processor.name), total[processor.name]
        power_w += _power_w(processor, level, own)
        starving |= _starves(processor, level, own)
    power_w = problem.constant_w + power_w
    load = max([busiest, *total.values()])
    overloaded = load > LOAD_CEILING * 1.02
    excess_w = max(0.0, power_w - (problem.power_limit_w if power_limit_w is None else power_limit_w))
    return Forecast(
        applicable=True,
        apps=tuple(apps),
        power_w=power_w,
        excess_w=excess_w,
        overload=load - LOAD_CEILING if overloaded else 0.0,
        backlog=max(0.0, occupied - SATURATION) if overloaded else 0.0,
        starving=starving,
        thinned=any([choice.divider > 1 for choice in plan.choices]),
    )


def _power_w(processor: Processor, level: int | None, load: float) -> float:
    if level is None:
        return processor.idle_w
    return float(processor.base_w[level] + processor.slope_w[level] * min(load, 1.0))


def _starves(processor: Processor, level: int | None, load: float) -> bool:
    if level is None or level == processor.levels - 1:
        return False
    return load + float(processor.background[level]) > OVERLOAD


def quality(problem: Problem, expected: Forecast) -> tuple[float, ...]:
    """What counts before energy, smaller is better, in the order of the ladder read from its end."""
    classes: dict[int, list[AppForecast]] = {}
    for app, own in zip(problem.apps, expected.apps, strict=True):
        classes.setdefault(app.priority, []).append(own)
    late, rates, shortfalls = [], [], []
    for _, members in sorted(classes.items()):
        late.append(float(sum([app.late for app in members])))
        rates.append(float(sum([app.divider - 1 for app in members])))
        shortfall = sum([app.shortfall for app in members])
        shortfalls.append(round(shortfall / SHORTFALL_GRAIN) * SHORTFALL_GRAIN)
    if problem.most_frames:
        answered = zip(problem.apps, expected.apps, strict=True)
        rates = [sum(a.rate_hz * (1.0 - 1.0 / e.divider) / (1.0 + a.priority) for a, e in answered)]
    return (expected.excess_w, *late, *rates, *shortfalls)
