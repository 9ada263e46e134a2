"""Diagnostics of the manager node: plain functions from what the manager knows to a status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.build_problem import unpriced
from dynofa_ros.manager.limits import thermometer_remark
from dynofa_ros.manager.miss_alarm import PERSISTENT
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.manager.state import STALE_S, State
from dynofa_ros.ros.diagnostics import Level, Status

SILENT_S = 5.0  # without an answer to commands; several would have been lost


def telemetry(state: State, now_ns: int) -> Status:
    """What is known of the device."""
    age_s, thermometer = state.telemetry_age_s(now_ns), thermometer_remark(state, now_ns)
    values: dict[str, object] = {"age_s": age_s, "power_bias_w": state.power.bias_w}
    if state.capabilities is None or not state.capabilities.domains:
        return Status(Level.WARN, "no device with clocks: sub-networks are managed, clocks are not", values)
    if age_s > STALE_S:
        text = f"nothing from the device for {age_s:.1f} s: no upgrades until its telemetry comes again"
        return Status(Level.WARN, text, values)
    if state.power_model is None:
        text = state.power_model_remark or f"no power model of board '{state.capabilities.board}'"
        text += ": limits are held by feedback on what is measured"
        text += f"; {thermometer}" if thermometer else ""
        return Status(Level.WARN, text, values)
    values["power_model"] = state.power_model.model.origin
    if thermometer:
        return Status(Level.WARN, thermometer, values)
    if hidden := unpriced(state):
        text = f"the power of {', '.join(hidden)} is unknown: no clock, and no energy_j in the libraries"
        return Status(Level.WARN, f"{text}; work there counts as free", values)
    return Status(Level.OK, state.power_model_remark or "up to date", values)


def decision(manager: RuntimeManager, decision: Decision | None, compute_ms: Iterable[float]) -> Status:
    """The last decision, and how long the recent ones took."""
    if decision is None:
        return Status(Level.OK, "no step yet")
    ordered = sorted(compute_ms)
    values = {
        "decision_id": decision.decision_id,
        "trigger": decision.trigger,
        "binding_constraint": decision.binding_constraint,
        "ladder_step": decision.ladder_step,
        "predicted_power_w": decision.predicted_power_w,
        "compute_ms_median": ordered[len(ordered) // 2],
        "compute_ms_max": ordered[-1],
    }
    fault = manager.limit_fault
    if fault is not None:
        return Status(Level.ERROR, fault.text, values)
    if not decision.feasible:
        text = f"not every target can be met, limited by {decision.binding_constraint}: the least bad choice"
        return Status(Level.WARN, text, values)
    less = f"accuracies or rates reduced, ladder step {decision.ladder_step}"
    return Status(Level.OK, less if decision.ladder_step else "every target is met", values)


def applications(
    known: Mapping[str, AppState], decision: Decision | None, silent_s: Mapping[str, float]
) -> Status:
    """Who is managed, and whose deadlines are missed although the plan says in time.

    silent_s: how long an application has answered no command; one comes every 1 to 1.75 s.
    """
    planned = {app.app for app in decision.apps} if decision else set()
    values = {name: "managed" if name in planned else "not managed" for name in sorted(known)}
    silent = sorted(name for name in planned if silent_s.get(name, 0.0) > SILENT_S)
    if silent:
        text = f"{', '.join(silent)} answers no commands: its process hangs or was killed"
        return Status(Level.ERROR, text, values)
    unusable = [name for name, app in sorted(known.items()) if app.ready and name not in planned]
    alarms = {name: app.misses for name, app in sorted(known.items()) if app.misses.spans}
    for name, alarm in alarms.items():
        values[name] = f"managed, slowdown x {alarm.correction:.2f} by the alarm of missed deadlines"
    if alarms:
        late = ", ".join(f"{100.0 * a.missed_share:.0f} % of {name}'s requests" for name, a in alarms.items())
        text = f"late although the plan says in time: {late}; check the library and the clocks"
        lasting = any(alarm.spans >= PERSISTENT for alarm in alarms.values())
        return Status(Level.ERROR if lasting else Level.WARN, text, values)
    if unusable:
        text = f"no plan yet for {', '.join(unusable)}: not measured yet, or its processor is not here"
        return Status(Level.WARN, text, values)
    return Status(Level.OK, f"{len(planned)} managed of {len(known)} seen", values)
