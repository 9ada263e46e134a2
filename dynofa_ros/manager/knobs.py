"""From a plan to knobs: the band of every clock domain and the command of every application."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan
from operator import is_not

from dynofa_ros.manager.commands import AppCommand
from dynofa_ros.manager.grant import Grant, grant
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Choice, Plan
from dynofa_ros.manager.problem import App, Problem, Processor
from dynofa_ros.manager.state import State
from dynofa_ros.messages import DomainCapability, FrequencyBand, SubnetCondition

FINISH_S = 2.0  # after the last frame that an application answered on a processor

Bands = Mapping[str, FrequencyBand]


def wanted_bands(
    now_ns: int,
    state: State,
    problem: Problem,
    plan: Plan | None,
    before: Bands,
    commanded: frozenset[str],
    *,
    exceeded: bool,
    capped: bool,
) -> tuple[FrequencyBand, ...]:
    """Band of every domain under control: pinned where the plan says so, free where it no longer does.

    ``before``: the bands of the last step. ``commanded``: domains that a command holds. ``exceeded``: a limit
    is. ``capped``: there is a power cap.
    """
    if plan is None or state.capabilities is None:
        return ()
    clocks = dict(plan.clocks)
    processors = {p.name: p for p in (*problem.processors, *problem.unused)}
    bands: list[FrequencyBand | None] = []
    for domain in state.capabilities.domains:
        name = state.place(domain.domain)
        if not (domain.can_write and domain.frequencies_hz and name):
            continue
        hz = _clock(processors.get(name), clocks.get(name), domain.domain)
        moved = None if name in clocks else _after_move(now_ns, state, plan, name, domain, before, capped)
        if domain.domain in state.actuators.unresponsive:
            # The last command stays, in case the domain responds again; above a limit it is the lowest clock.
            bands.append(_pinned(domain, 0) if exceeded else before.get(domain.domain))
        elif moved is not None and not exceeded:
            bands.append(moved)
        elif hz is not None:
            bands.append(FrequencyBand(domain.domain, hz, hz))
        elif domain.domain in commanded:
            bands.append(FrequencyBand(domain.domain, domain.frequencies_hz[0], domain.frequencies_hz[-1]))
    return tuple(band for band in bands if band is not None)


def _pinned(domain: DomainCapability, level: int) -> FrequencyBand:
    return FrequencyBand(domain.domain, domain.frequencies_hz[level], domain.frequencies_hz[level])


def _after_move(
    now_ns: int, state: State, plan: Plan, name: str, domain: DomainCapability, before: Bands, capped: bool
) -> FrequencyBand | None:
    """Frames may still be in work on a processor that no application uses any more: it keeps its clock.

    If the processor was withdrawn others work there: the frames are finished at its top clock, unless a
    cap forbids that.
    """
    for choice in plan.choices:
        app = state.apps[choice.app]
        if app.estimator.processor == name and now_ns - app.last_frame_ns < FINISH_S * 1e9:
            withdrawn = name not in app.named_processors
            return _pinned(domain, -1) if withdrawn and not capped else before.get(domain.domain)
    return None


def _clock(processor: Processor | None, clocks: tuple[float, ...] | None, domain: str) -> int | None:
    """Clock of a domain under the plan, None = its governor's."""
    if processor is None or domain not in processor.domains:
        return None
    column = processor.domains.index(domain)
    if clocks is not None:
        hz = clocks[column]
    elif processor.idle_level is not None:
        hz = float(processor.clocks_hz[processor.idle_level, column])
    else:
        return None
    return int(hz) if isfinite(hz) else None


def wanted_commands(state: State, problem: Problem, plan: Plan | None) -> tuple[AppCommand, ...]:
    """Command of every planned application that is not pinned by its user."""
    commands = []
    for choice, model in zip(plan.choices if plan else (), problem.apps, strict=True):
        app, entry = state.apps[choice.app], choice.entry
        pinned = app.status is not None and app.status.status == SubnetCondition.PINNED
        if pinned or app.targets is None:
            continue
        granted: Grant = ()
        if plan and app.sized:
            granted = grant(problem, plan, choice, model, app, state.slowdown(app, place_of(entry)))
        cpus, entries = state.cpus.get(entry.cluster, ()), model.tables[place_of(entry)].entries
        made_of = (choice, app.targets, entries, cpus, granted)
        if app.command is None or any(map(is_not, made_of, app.command_of)):
            app.command, app.command_of = _command(choice, app.targets.rate_hz, cpus, granted, model), made_of
        commands.append(app.command)
    return tuple(commands)


def _command(choice: Choice, rate_hz: float, cpus: tuple[int, ...], granted: Grant, model: App) -> AppCommand:
    entry = choice.entry
    return AppCommand(
        app=choice.app,
        decision_id=0,
        subnet_id=entry.id,
        processor=entry.processor,
        rate_hz=nan if choice.divider == 1 else rate_hz / choice.divider,
        prefetch_subnet_ids=tuple(n for n, _ in granted) or _neighbours(model, choice),
        granted_subnet_ids=tuple(n for n, _ in granted),
        granted_ms=tuple(ms for _, ms in granted),
        threads=entry.threads,
        cluster=entry.cluster,
        cpu_affinity=cpus,
    )


def _neighbours(app: App, choice: Choice) -> tuple[str, ...]:
    """The next smaller and the next larger sub-network: where the next change most likely leads."""
    table = app.tables[place_of(choice.entry)]
    near = table.neighbours[table.index(choice.entry) or 0]
    return tuple(table.entries[n].id for n in near if n is not None)
