"""The runtime manager: monitors in, knobs out, one step at a time.

A step: inputs -> state (`State`) -> arrays (`build_problem`) -> solution (`solver`, `ladder`) -> plan that
settles (`Hysteresis`, `BumplessStart`) -> commands (`knobs`, `CommandBook`).

`RuntimeManager.step` is deterministic: the same inputs, step times and parameters give the same decisions
bit for bit (``compute_ms`` excepted). It reads no clock but ``now_ns``, and no time of arrival.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from math import isfinite, nan
from time import perf_counter
from typing import Any

from dynofa_ros.manager.alternatives import AlternativesTimer, alternatives
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.build_problem import build_problem, power_limit
from dynofa_ros.manager.bumpless_start import BumplessStart
from dynofa_ros.manager.commands import AppCommand, CommandBook
from dynofa_ros.manager.explain import binding_constraint
from dynofa_ros.manager.hysteresis import Hysteresis
from dynofa_ros.manager.inputs import Monitors, Parameters, parameter_messages
from dynofa_ros.manager.knobs import wanted_bands, wanted_commands
from dynofa_ros.manager.limits import LimitFault, broken_limit, missing_sensor
from dynofa_ros.manager.placement import place_of, subnet_key
from dynofa_ros.manager.plan import Forecast, Plan, forecast
from dynofa_ros.manager.power_guard import SETTLE_S
from dynofa_ros.manager.problem import Problem
from dynofa_ros.manager.state import STALE_S, State
from dynofa_ros.manager.trial import Trials
from dynofa_ros.messages import (
    Alternative,
    AppDecision,
    ConsumedInput,
    DvfsCommand,
    FrequencyBand,
    Header,
    InferenceMonitor,
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


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage is collected after what is done here, not in the middle of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Decision(ManagerDecision):
    """One step of the manager, and the commands that must be sent now.

    ``later``: what finds a field when it is first read, by its name.
    """

    commands: tuple[AppCommand, ...] = ()
    dvfs: DvfsCommand | None = None
    later: dict[str, Callable[[], Any]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in self.later:
            del vars(self)[name]

    @cached_property  # type: ignore[misc]
    def binding_constraint(self) -> str:
        """Found when it is first read, as the alternatives are: no command waits for explanations."""
        return str(self.later["binding_constraint"]())

    @cached_property  # type: ignore[misc]
    def alternatives(self) -> tuple[Alternative, ...]:
        """See `alternatives`."""
        return tuple(self.later["alternatives"]())


class RuntimeManager:
    """Tunes sub-network, processor, rate and clocks of all applications together."""

    _find_binding: Callable[[], str] = staticmethod(lambda: "no_data")

    def __init__(self) -> None:
        self.state = State()
        self._plan: Plan | None = None
        self._parameters: Parameters | None = None
        self._hysteresis = Hysteresis()
        self._bumpless_start = BumplessStart()
        self._alternatives = AlternativesTimer()
        self._trials = Trials()
        self._book = CommandBook()
        self._last_ns: int | None = None
        self._steps = 0
        self._clocks_ns = 0  # step time of the last DVFS command that changed a band
        self._bands: tuple[FrequencyBand, ...] = ()
        self._sent_bands: tuple[FrequencyBand, ...] = ()
        self._stale = False
        self._binding = "no_data"  # "" = `_find_binding` has to be asked
        self.limit_fault: LimitFault | None = None  # a limit that the last decision does not hold
        self._unresponsive: frozenset[str] = frozenset()

    @no_collection()
    def step(self, now_ns: int, monitors: Monitors) -> Decision:
        """One decision at time ``now_ns`` of the node's clock."""
        start = perf_counter()
        self._steps += 1
        parameters = monitors.parameters
        events = self._consume(now_ns, monitors)
        apps = self._plannable(now_ns, by_user=bool(events & FROM_USER))
        limit = power_limit(self.state, parameters)
        problem = build_problem(self.state, parameters, apps, limit.plan_w)
        held = all(app.held is not None for app in apps)
        upgrades = not self._stale and not held
        present = self._settle(now_ns, parameters, problem, events, limit.release_w, upgrades=upgrades)
        commands, dvfs = self._command(now_ns, parameters, problem, exceeded=bool(present.excess_w))
        plan = self._plan
        if self._hysteresis.solved or self._binding == "no_data" or not problem.apps:
            trace = self._hysteresis.trace
            find = partial(
                binding_constraint, problem, plan, present, parameters.objective, limit.name, trace
            )
            self._binding, self._find_binding = "", cache(find)
            if trace.power or present.excess_w or not (plan and plan.choices and problem.apps):
                self.find_binding()  # it may be a limit, or none at all
        feasible = (plan.feasible if plan else True) and not (present.excess_w or present.overload)
        missing = missing_sensor(self.state, parameters, now_ns)
        self.limit_fault = missing
        if missing is None and not feasible:
            self.limit_fault = broken_limit(self.state, parameters, self._binding)
        later: dict[str, Callable[[], Any]] = {}
        if not (self._binding or missing):
            later["binding_constraint"] = self._find_binding
        if self._alternatives.due(now_ns, plan):
            later["alternatives"] = partial(alternatives, problem, plan, present, limit.name)
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
            later=later,
            compute_ms=(perf_counter() - start) * 1e3,
        )

    def find_binding(self) -> None:
        """Finds what binds the plan in force, if nobody has asked for it yet."""
        self._binding = self._binding or self._find_binding()

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

    def urgent(self, frame: InferenceMonitor) -> bool:
        """Whether a frame asks for a step at once: its deadline was missed, or the next ones wait."""
        app = self.state.apps.get(frame.app)
        return frame.deadline_missed or (app is not None and app.backlog_after(frame) > 0.0)

    @property
    def plan(self) -> Plan | None:
        """The plan in force, None before the first."""
        return self._plan

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self._steps

    @property
    def last_ns(self) -> int | None:
        """Time of the last step, None before the first."""
        return self._last_ns

    def _consume(self, now_ns: int, monitors: Monitors) -> set[str]:
        """Takes the inputs into the state; the events among them."""
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
        fresh = [app for app in self.state.apps.values() if app.fresh]
        self.state.close_step(now_ns, dt_s, monitors.parameters)
        if not all(app.fresh for app in fresh):
            events.add("measured")
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

    def _plannable(self, now_ns: int, *, by_user: bool) -> list[AppState]:
        """Applications to plan for. Without answers one keeps what it runs, unless a user asks for more."""
        planned = {choice.app: choice for choice in self._plan.choices} if self._plan else {}
        ready = [app for _, app in sorted(self.state.apps.items()) if app.ready]
        apps = [app for app in ready if app.name in planned or not self._waits(app, now_ns)]
        for app in apps:
            choice = planned.get(app.name)
            silent = choice and not by_user and not app.queued and app.silent(now_ns)
            app.held = choice.entry if choice and silent else None
        return apps

    def _settle(
        self,
        now_ns: int,
        parameters: Parameters,
        problem: Problem,
        events: set[str],
        release_w: float,
        *,
        upgrades: bool,
    ) -> Forecast:
        """Puts a plan in force (`Hysteresis.choose` solves when it has to); its forecast."""
        before = self._plan
        if before is None and not problem.apps:
            return Forecast(False)
        if problem.apps and not (before and before.choices):
            events.add("startup")
        known = self._bumpless_start.plan(now_ns, self.state, problem, events)
        on_trial = self._trials.running(now_ns, self.state, before)
        if known is None and before is not None and upgrades:
            over = self._trials.left is not None and not on_trial
            arguments = (now_ns, self.state, problem, before, self._hysteresis, release_w)
            if on_trial and events <= {"latency"}:
                known = self._trials.go_on(*arguments)
            elif over and events <= {"latency"}:
                known = self._trials.end(*arguments)
            elif not (on_trial or events):
                known = self._trials.begin(*arguments)
        self._plan = known or self._hysteresis.choose(
            now_ns,
            problem,
            before,
            by_user=bool(events & FROM_USER),
            at_once=bool(events & AT_ONCE),
            event=bool(events),
            alarm="alarm" in events,
            upgrades=upgrades and not on_trial,
            min_dwell_s=parameters.min_dwell_s,
            release_limit_w=release_w,
        )
        present, same = self._hysteresis.present, self._plan is before
        if present and present.excess_w and problem.power_known and not (same or "parameter" in events):
            self.state.power.refuse(present.power_w, parameters.power_cap_w)
        present = present if present and same else forecast(problem, self._plan, release_w)
        self._note(self._plan, present, changed=not self._plan.same_knobs(before))
        return present

    def _note(self, plan: Plan, present: Forecast, *, changed: bool) -> None:
        """Keeps in the state what the plan expects, for what is measured under it."""
        if present.applicable:
            self.state.feedback.apply(present.power_w, changed=changed, feasible=plan.feasible)
        for choice, expected in zip(plan.choices, present.apps, strict=False):
            app = self.state.apps[choice.app]
            app.shared, app.thinned = expected.shared, choice.divider > 1
            if changed or not (app.planned is choice.entry or app.planned == choice.entry):
                app.misses.restart()
            app.planned = choice.entry
            in_time = not (expected.late or present.overload)
            app.misses.promise(expected.latency_ms, in_time=in_time)

    def _command(
        self, now_ns: int, parameters: Parameters, problem: Problem, *, exceeded: bool
    ) -> tuple[tuple[AppCommand, ...], DvfsCommand | None]:
        """The commands that have to be sent now for the plan in force."""
        self._bands = wanted_bands(
            now_ns,
            self.state,
            problem,
            self._plan,
            {band.domain: band for band in self._bands},
            self._book.commanded_domains,
            exceeded=exceeded,
            capped=isfinite(parameters.power_cap_w),
        )
        commands, dvfs = self._book.issue(
            now_ns,
            wanted_commands(self.state, problem, self._plan),
            self._bands,
            parameters.control_period_s,
            self.state.newest_foreign_id,
        )
        self.state.actuators.command(now_ns, self._bands)
        if dvfs is not None and self._bands != self._sent_bands:
            self._clocks_ns, self._sent_bands = now_ns, self._bands
        return commands, dvfs

    def _waits(self, app: AppState, now_ns: int) -> bool:
        if self._bumpless_start.awaits(now_ns, self.state, app):
            return True
        return _waiting(app, now_ns) and not self._bumpless_start.takes(self.state, app)

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
                    granted_subnet_ids=self._book.granted(app.name),
                )
            )
        return tuple(decisions)


def _waiting(app: AppState, now_ns: int) -> bool:
    """An application that was managed before keeps what it runs until it has been measured, unless it fails.

    So a restarted manager causes no jump. An application that was never managed gets a plan at once.
    """
    new = app.status is not None and app.status.decision_id == 0
    measured = app.estimator.frames >= FIRST_FRAMES or app.missed
    return not (new or measured) and now_ns - app.since_ns < FIRST_WAIT_NS
