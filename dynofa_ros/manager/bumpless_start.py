"""Bumpless start: a new manager keeps the knobs that the last one has set, until it has measured.

A new manager knows neither noise nor load. Its first plans would be cautious, and the knobs would jump there
and back. So it reads the plan in force from the latched states of the nodes and keeps it for ``BUMPLESS_NS``
unless something happens. The states do not contain the rate of an application: the full rate is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.placement import place_of, subnet_key
from dynofa_ros.manager.plan import Choice, Plan
from dynofa_ros.manager.problem import Problem, Processor
from dynofa_ros.manager.state import State
from dynofa_ros.messages import AppTargets, DvfsState, SubnetCondition

BUMPLESS_NS = 2_000_000_000
ENDS = frozenset({"power", "temperature", "parameter", "departure", "actuator"})


@dataclass
class BumplessStart:
    """Whether the plan found in force is still kept; never on a robot without commands."""

    _since_ns: int | None = None
    _over: bool = False
    _targets: dict[str, AppTargets | None] = field(default_factory=dict)

    def takes(self, state: State, app: AppState) -> bool:
        """Whether an application need not be measured before it is planned: it runs what was commanded."""
        known = state.capabilities is not None and _pinned_clocks(state.dvfs)
        return not self._over and known and _commanded(app)

    def awaits(self, now_ns: int, state: State, app: AppState) -> bool:
        """Whether an application that runs what was commanded can wait for the first states of the device."""
        silent = state.dvfs is None or state.capabilities is None
        return not self._over and silent and _commanded(app) and 0 <= now_ns - app.since_ns < BUMPLESS_NS

    def plan(self, now_ns: int, state: State, problem: Problem, events: set[str]) -> Plan | None:
        """The plan in force, None as soon as a plan has to be made."""
        if self._over or not problem.apps:
            return None
        found = in_force(state, problem)
        if self._since_ns is None:
            self._since_ns = now_ns
        known = {app.name: state.apps[app.name].targets for app in problem.apps}
        changed = any(name in known and known[name] != before for name, before in self._targets.items())
        self._targets |= known
        # An alarm of an estimator that has just begun says nothing; a missed deadline does.
        missed = any(state.apps[app.name].missed for app in problem.apps)
        late = not 0 <= now_ns - self._since_ns < BUMPLESS_NS  # or the clock was set back
        self._over = found is None or late or missed or changed or bool(events & ENDS)
        return None if self._over else found


def in_force(state: State, problem: Problem) -> Plan | None:
    """The plan that applications and device say they carry out; None if they were not commanded."""
    if not _pinned_clocks(state.dvfs):
        return None
    choices = []
    for app in problem.apps:
        known = state.apps[app.name]
        status = known.status
        entry = known.entry(subnet_key(status)) if status else None
        if entry is None or not _commanded(known) or place_of(entry) not in app.tables:
            return None
        choices.append(Choice(app.name, entry))
    used = sorted({place_of(choice.entry) for choice in choices})
    clocks = []
    for name in used:
        requested = _requested(state.dvfs, problem.processor(name))
        if requested is None:
            return None
        clocks.append((name, requested))
    return Plan(tuple(choices), tuple(clocks))


def _requested(dvfs: DvfsState | None, processor: Processor) -> tuple[float, ...] | None:
    """Clocks that a processor is held at, None if they are none of its levels."""
    requested = {d.domain: float(d.requested_max_hz) for d in dvfs.domains} if dvfs else {}
    hz = tuple(requested.get(domain, 0.0) for domain in processor.domains)
    level = processor.level_of(hz)
    return None if level is None else tuple(float(value) for value in processor.clocks_hz[level])


def _commanded(app: AppState) -> bool:
    status = app.status
    if status is None:
        return False
    applied = status.status == SubnetCondition.APPLIED and status.decision_id > 0
    return applied or status.status == SubnetCondition.PINNED


def _pinned_clocks(dvfs: DvfsState | None) -> bool:
    """Whether a manager holds clocks."""
    if dvfs is None or dvfs.decision_id == 0:
        return False
    return any(0 < d.requested_min_hz == d.requested_max_hz for d in dvfs.domains)
