"""The runtime manager: monitors in, knobs out, one step at a time.

`RuntimeManager.step` is deterministic: the same inputs, step times and parameters give the same decisions
bit for bit (``compute_ms`` excepted). It reads no clock but the ``now_ns`` it is given, and no time of
arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan
from time import perf_counter

from dynofa_ros.manager.alternatives import AlternativesTimer
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.build_problem import build_problem, power_limit_w
from dynofa_ros.manager.bumpless_start import BumplessStart
from dynofa_ros.manager.commands import AppCommand, CommandBook
from dynofa_ros.manager.explain import binding_constraint
from dynofa_ros.manager.hysteresis import Hysteresis
from dynofa_ros.manager.inputs import Monitors, Parameters, parameter_messages
from dynofa_ros.manager.limits import LimitFault, broken_limit, missing_sensor
from dynofa_ros.manager.placement import place_of, subnet_key
from dynofa_ros.manager.plan import Choice, Forecast, Plan, forecast
from dynofa_ros.manager.power_guard import SETTLE_S
from dynofa_ros.manager.problem import App, Problem
from dynofa_ros.manager.state import STALE_S, State
from dynofa_ros.messages import (
    AppDecision,
    ConsumedInput,
    DomainCapability,
    DvfsCommand,
    FrequencyBand,
    Header,
    ManagerDecision,
    SubnetCondition,
    SubnetState,
)

# What made a step, the most telling first.
TRIGGERS = (
    "startup",
    "departure",
    "library",
    "targets",
    "parameter",
    "temperature",
    "power",
    "latency",
    "stale",
)
FROM_USER = frozenset({"departure", "library", "targets", "parameter"})
# No hysteresis delays these: a user's wish, a clock that begins or ceases to obey, a lower budget.
AT_ONCE = FROM_USER | {"actuator", "budget"}
FIRST_FRAMES = 4  # answered before a manager that was started again plans; the first one is not learned from
FIRST_WAIT_NS = 1_000_000_000  # unless they do not come
FINISH_S = 2.0  # after the last frame that an application answered there


@dataclass(frozen=True)
class Decision(ManagerDecision):
    """One step of the manager, and the commands that must be sent now."""

    commands: tuple[AppCommand, ...] = ()
    dvfs: DvfsCommand | None = None


class RuntimeManager:
    """Tunes sub-network, processor, rate and clocks of all applications together."""

    def __init__(self) -> None:
        self.state = State()
        self._plan: Plan | None = None
        self._parameters: Parameters | None = None
        self._hysteresis = Hysteresis()
        self._bumpless_start = BumplessStart()
        self._alternatives = AlternativesTimer()
        self._book = CommandBook()
        self._last_ns: int | None = None
        self._steps = 0
        self._clocks_ns = 0  # step time of the last DVFS command that changed a band
        self._bands: tuple[FrequencyBand, ...] = ()
        self._sent_bands: tuple[FrequencyBand, ...] = ()
        self._stale = False
        self._binding = "no_data"
        self.limit_fault: LimitFault | None = None  # a limit that the last decision does not hold
        self._unresponsive: frozenset[str] = frozenset()

    def step(self, now_ns: int, monitors: Monitors) -> Decision:
        """One decision at time ``now_ns`` of the node's clock."""
        start = perf_counter()
        self._steps += 1
        parameters = monitors.parameters
        events = self._advance(now_ns, monitors)
        problem, present = self._replan(now_ns, parameters, events)
        self._bands = self._wanted_bands(now_ns, problem, present)
        commands, dvfs = self._book.issue(
            now_ns,
            self._wanted_commands(problem),
            self._bands,
            parameters.control_period_s,
            self.state.newest_foreign_id,
        )
        self.state.actuators.command(now_ns, self._bands)
        if dvfs is not None and self._bands != self._sent_bands:
            self._clocks_ns, self._sent_bands = now_ns, self._bands
        plan = self._plan
        _, limit_name = power_limit_w(self.state, parameters)
        if self._hysteresis.solved or self._binding == "no_data" or not problem.apps:
            self._binding = binding_constraint(
                problem, plan, present, parameters.objective, limit_name, self._hysteresis.trace
            )
        feasible = (plan.feasible if plan else True) and not present.excess_w
        missing = missing_sensor(self.state, parameters, now_ns)
        self.limit_fault = missing
        if missing is None and not feasible:
            self.limit_fault = broken_limit(self.state, parameters, self._binding)
        return Decision(
            decision_id=self._book.decision_id,
            header=Header(now_ns),
            step_time=now_ns,
            step_number=self._steps,
            inputs=tuple(ConsumedInput(item.topic, item.sequence) for item in monitors.inputs),
            objective=parameters.objective,
            trigger=next((t for t in TRIGGERS if t in events), "periodic"),
            binding_constraint=missing.constraint if missing else self._binding,
            ladder_step=plan.ladder_step if plan else 0,
            feasible=feasible and missing is None,
            apps=self._app_decisions(problem, present),
            bands=self._bands,
            predicted_power_w=present.power_w if problem.power_known and present.applicable else nan,
            parameters=parameter_messages(parameters),
            commands=commands,
            dvfs=dvfs,
            alternatives=self._alternatives.due(now_ns, problem, plan, present, limit_name),
            compute_ms=(perf_counter() - start) * 1e3,
        )

    def publication_order(self, decision: Decision) -> list[AppCommand | DvfsCommand]:
        """Commands of the last decision in the order in which they are sent.

        A manager may die between two of them. So smaller sub-networks go before the clocks, and larger ones
        and those on another processor after them: no network waits for a clock that never comes.
        """
        smaller = [command for command in decision.commands if self._shrinks(command)]
        larger = [command for command in decision.commands if command not in smaller]
        return [*smaller, *((decision.dvfs,) if decision.dvfs else ()), *larger]

    def _shrinks(self, command: AppCommand) -> bool:
        """Whether a sub-network is not slower than the one before it, in the same place."""
        app = self.state.apps[command.app]
        before = self._book.previous.get(command.app) or app.status
        new = app.entry(subnet_key(command))
        old = app.entry(subnet_key(before)) if before else None
        if new is None or old is None or place_of(new) != place_of(old):
            return False
        return new.alpha_ms + new.beta_ms <= old.alpha_ms + old.beta_ms

    @property
    def plan(self) -> Plan | None:
        """The plan in force, None before the first."""
        return self._plan

    def _advance(self, now_ns: int, monitors: Monitors) -> set[str]:
        """Consumes the inputs; what happened."""
        events: set[str] = set()
        if self._last_ns is None:
            events.add("startup")
        elif now_ns < self._last_ns:
            self.state.rebase(now_ns)
            self._hysteresis.rebase(now_ns)
            self._clocks_ns = min(self._clocks_ns, now_ns)
        if self._parameters is not None and self._parameters != monitors.parameters:
            events.add("parameter")
        dt_s = 0.0 if self._last_ns is None else max(0, now_ns - self._last_ns) * 1e-9
        self.state.open_step(now_ns, dt_s, monitors.parameters)
        # Power measured before a new cap, or while clocks are on their way, is no breach of it.
        settled = "parameter" not in events and now_ns - self._clocks_ns >= SETTLE_S * 1e9
        for item in monitors.inputs:
            events |= self.state.consume(item, now_ns, monitors.parameters, settled)
            if isinstance(item.message, SubnetState):
                events |= self._refusal(item.app, item.message)
        self.state.close_step(now_ns, dt_s, monitors.parameters)
        stale = self.state.telemetry_age_s(now_ns) > STALE_S
        if stale and not self._stale:
            events.add("stale")
        if self._unresponsive != self.state.actuators.unresponsive:
            self._unresponsive = self.state.actuators.unresponsive
            events.add("actuator")
        self._stale, self._parameters, self._last_ns = stale, monitors.parameters, now_ns
        return events

    def _refusal(self, app: str, status: SubnetState) -> set[str]:
        """A command that a node could not carry out is not sent to it again."""
        command = self._book.sent(app, status.decision_id)
        if status.status != SubnetCondition.REJECTED or command is None:
            return set()
        self.state.apps[app].refused.add(subnet_key(command))
        return {"library"}

    def _replan(self, now_ns: int, parameters: Parameters, events: set[str]) -> tuple[Problem, Forecast]:
        planned = {choice.app for choice in self._plan.choices} if self._plan else set()
        ready = [app for _, app in sorted(self.state.apps.items()) if app.ready]
        apps = [app for app in ready if app.name in planned or not self._waits(app, now_ns)]
        self._hold_silent(now_ns, apps, by_user=bool(events & FROM_USER))
        problem = build_problem(self.state, parameters, apps)
        if self._plan is None and not problem.apps:
            return problem, Forecast(False)
        release_w, _ = power_limit_w(self.state, parameters, release=True)
        if {app.name for app in problem.apps} - planned and not planned:
            events.add("startup")
        before, found = self._plan, self._bumpless_start.plan(now_ns, self.state, problem, events)
        self._plan = found or self._hysteresis.choose(
            now_ns,
            problem,
            self._plan,
            at_once=bool(events & AT_ONCE),
            event=bool(events),
            alarm="alarm" in events,
            upgrades=not self._stale and not all(app.held is not None for app in apps),
            min_dwell_s=parameters.min_dwell_s,
            release_limit_w=release_w,
        )
        same = self._plan is before and self._hysteresis.present is not None
        present = self._hysteresis.present if same else None
        present = present or forecast(problem, self._plan, release_w)
        changed = not self._plan.same_knobs(before)
        if present.applicable:
            self.state.feedback.apply(present.power_w, changed=changed, feasible=self._plan.feasible)
        for choice, expected in zip(self._plan.choices, present.apps, strict=False):
            known = self.state.apps[choice.app]
            known.shared, known.thinned = expected.shared, choice.divider > 1
            if changed or known.planned != choice.entry:
                known.misses.restart()
            known.planned = choice.entry
            in_time = not (expected.late or present.overloaded)
            known.misses.promise(expected.latency_ms, in_time=in_time)
        return problem, present

    def _waits(self, app: AppState, now_ns: int) -> bool:
        if self._bumpless_start.awaits(now_ns, self.state, app):
            return True
        return _waiting(app, now_ns) and not self._bumpless_start.takes(self.state, app)

    def _hold_silent(self, now_ns: int, apps: list[AppState], *, by_user: bool) -> None:
        """Who answers no frames keeps what it runs: the others are planned around it."""
        for app in apps:
            choice = self._plan.choice(app.name) if self._plan else None
            app.held = choice.entry if choice and not by_user and app.silent(now_ns) else None

    def _wanted_bands(self, now_ns: int, problem: Problem, present: Forecast) -> tuple[FrequencyBand, ...]:
        """Band of every domain under control: pinned where the plan says so, free where it no longer does."""
        capabilities = self.state.capabilities
        if self._plan is None or capabilities is None:
            return ()
        clocks = dict(self._plan.clocks)
        bands = []
        for domain in capabilities.domains:
            name = self.state.place(domain.domain)
            if not (domain.can_write and domain.frequencies_hz and name):
                continue
            hz = _clock(problem, clocks, name, domain.domain)
            kept = self._band_after_move(now_ns, name, domain) if name not in clocks else None
            if domain.domain in self.state.actuators.unresponsive:
                bands += self._band_of_unresponsive(domain, lowest=bool(present.excess_w))
            elif kept is not None and not present.excess_w:
                bands.append(kept)
            elif hz is not None:
                bands.append(FrequencyBand(domain.domain, hz, hz))
            elif domain.domain in self._book.commanded_domains:
                bands.append(
                    FrequencyBand(domain.domain, domain.frequencies_hz[0], domain.frequencies_hz[-1])
                )
        return tuple(bands)

    def _band_after_move(self, now_ns: int, name: str, domain: DomainCapability) -> FrequencyBand | None:
        """Frames may still be in work on a processor that nobody is to use any more: it keeps its clock.

        If it was withdrawn somebody else is at work there, and they are finished at its top clock, unless a
        cap forbids that.
        """
        capped = self._parameters is None or isfinite(self._parameters.power_cap_w)
        for choice in self._plan.choices if self._plan else ():
            app = self.state.apps[choice.app]
            if app.estimator.processor == name and now_ns - app.last_frame_ns < FINISH_S * 1e9:
                if name not in app.named_processors and not capped:
                    return FrequencyBand(domain.domain, domain.frequencies_hz[-1], domain.frequencies_hz[-1])
                return next((b for b in self._bands if b.domain == domain.domain), None)
        return None

    def _band_of_unresponsive(self, domain: DomainCapability, *, lowest: bool) -> list[FrequencyBand]:
        """It keeps its order, in case it listens again; above a limit that order is the lowest clock."""
        if lowest:
            return [FrequencyBand(domain.domain, domain.frequencies_hz[0], domain.frequencies_hz[0])]
        return [band for band in self._bands if band.domain == domain.domain]

    def _wanted_commands(self, problem: Problem) -> tuple[AppCommand, ...]:
        commands = []
        choices = self._plan.choices if self._plan else ()
        for choice, model in zip(choices, problem.apps, strict=True):
            app = self.state.apps[choice.app]
            pinned = app.status is not None and app.status.status == SubnetCondition.PINNED
            if pinned or app.targets is None:
                continue
            rate = nan if choice.divider == 1 else app.targets.rate_hz / choice.divider
            commands.append(
                AppCommand(
                    app=choice.app,
                    decision_id=0,
                    subnet_id=choice.entry.id,
                    processor=choice.entry.processor,
                    rate_hz=rate,
                    prefetch_subnet_ids=_neighbours(model, choice),
                    threads=choice.entry.threads,
                    cluster=choice.entry.cluster,
                    cpu_affinity=self.state.cpus.get(choice.entry.cluster, ()),
                )
            )
        return tuple(commands)

    def _app_decisions(self, problem: Problem, present: Forecast) -> tuple[AppDecision, ...]:
        if self._plan is None:
            return ()
        decisions = []
        for choice, app, expected in zip(self._plan.choices, problem.apps, present.apps, strict=True):
            targets = self.state.apps[app.name].targets
            decisions.append(
                AppDecision(
                    app=app.name,
                    subnet_id=choice.entry.id,
                    processor=choice.entry.processor,
                    predicted_latency_ms=expected.latency_ms,
                    margin=expected.margin,
                    predicted_accuracy=choice.entry.accuracy,
                    rate_hz=(targets.rate_hz if targets else nan) / choice.divider,
                    threads=choice.entry.threads,
                    cluster=choice.entry.cluster,
                )
            )
        return tuple(decisions)


def _waiting(app: AppState, now_ns: int) -> bool:
    """Who was managed before keeps what it runs until it has been measured, unless it fails.

    So a manager that was started again jolts nobody. Whom nobody has managed gets a plan at once.
    """
    new = app.status is not None and app.status.decision_id == 0
    measured = app.estimator.frames >= FIRST_FRAMES or app.missed
    return not (new or measured) and now_ns - app.since_ns < FIRST_WAIT_NS


def _clock(problem: Problem, clocks: dict[str, tuple[float, ...]], name: str, domain: str) -> int | None:
    """Clock of a domain under the plan, None = its governor's."""
    everything = (*problem.processors, *problem.unused)
    processor = next((p for p in everything if p.name == name), None)
    if processor is None or domain not in processor.domains:
        return None
    column = processor.domains.index(domain)
    if name in clocks:
        hz = clocks[name][column]
    elif processor.idle_level is not None:
        hz = float(processor.clocks_hz[processor.idle_level, column])
    else:
        return None
    return int(hz) if isfinite(hz) else None


def _neighbours(app: App, choice: Choice) -> tuple[str, ...]:
    """The next smaller and the next larger sub-network: where the next change most likely leads."""
    table = app.options[place_of(choice.entry)].table
    near = table.neighbours(table.index(choice.entry) or 0)
    return tuple(table.entries[n].id for n in near if n is not None)
