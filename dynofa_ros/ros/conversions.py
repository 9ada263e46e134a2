"""Messages of the package <-> the dataclasses of the manager. Every number is cast at this boundary."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.parameter import Parameter
from std_msgs.msg import Header

import dynofa_ros.msg as msg
from dynofa_ros.manager import types
from dynofa_ros.ros import names

NANOSECONDS = 1_000_000_000
GONE = 0  # sequence of a consumed input that says: the publisher of this topic has gone


def stamp_ns(stamp: Time) -> int:
    """Time of a stamp in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def stamp(time_ns: int) -> Time:
    """Stamp of a time in nanoseconds."""
    seconds, nanoseconds = divmod(int(time_ns), NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


# --- monitors: messages to inputs ---------------------------------------------------------------


def sequence_of(message: Any) -> int:
    """What names a message among those of its topic (ConsumedInput.sequence)."""
    if isinstance(message, msg.InferenceMonitor):
        return int(message.frame_sequence)
    return stamp_ns(message.header.stamp)


def to_input(topic: str, message: Any) -> types.Input:
    """The input of the manager that a message is. topic: relative to the root of the user's namespace.

    Raises TypeError for a type that the manager does not take.
    """
    if isinstance(message, msg.SubnetState):
        return types.Input(topic, sequence_of(message), subnet_status(topic.split("/")[1], message))
    try:
        convert = _CONVERTERS[type(message)]
    except KeyError:
        raise TypeError(f"{topic}: {type(message).__name__} is no input of the manager") from None
    return types.Input(topic, sequence_of(message), convert(message))


def departure(app: str) -> types.Input:
    """The input that says that an application has gone."""
    return types.Input(names.app_topic(app, "targets"), GONE, types.Departure(app))


def targets(message: msg.AppTargets) -> types.AppTargets:
    return types.AppTargets(
        app=message.app,
        latency_target_ms=float(message.latency_target_ms),
        accuracy_target=float(message.accuracy_target),
        accuracy_floor=float(message.accuracy_floor),
        rate_hz=float(message.rate_hz),
        miss_tolerance=float(message.miss_tolerance),
        priority=int(message.priority),
        paused=bool(message.paused),
    )


def library(message: msg.SubnetLibrary) -> types.SubnetLibrary:
    entries = tuple(
        types.LibraryEntry(
            id=entry.id,
            processor=entry.processor,
            accuracy=float(entry.accuracy),
            latency_ms=float(entry.latency_ms),
            alpha_ms=float(entry.alpha_ms),
            beta_ms=float(entry.beta_ms),
            energy_j=float(entry.energy_j),
            reference_hz=tuple((f.domain, int(f.frequency_hz)) for f in entry.reference_frequencies),
        )
        for entry in message.entries
    )
    return types.SubnetLibrary(message.app, entries)


def frame(message: msg.InferenceMonitor) -> types.FrameMonitor:
    return types.FrameMonitor(
        app=message.app,
        frame_sequence=int(message.frame_sequence),
        decision_id=int(message.decision_id),
        subnet_id=message.subnet_id,
        processor=message.processor,
        queue_wait_ms=float(message.queue_wait_ms),
        preprocess_ms=float(message.preprocess_ms),
        inference_ms=float(message.inference_ms),
        postprocess_ms=float(message.postprocess_ms),
        latency_ms=float(message.latency_ms),
        latency_target_ms=float(message.latency_target_ms),
        deadline_missed=bool(message.deadline_missed),
        dropped_frames=int(message.dropped_frames),
        malformed_frames=int(message.malformed_frames),
    )


def subnet_status(app: str, message: msg.SubnetState) -> types.SubnetStatus:
    """SubnetState does not name its application: its topic does."""
    return types.SubnetStatus(
        app=app,
        decision_id=int(message.decision_id),
        subnet_id=message.subnet_id,
        processor=message.processor,
        status=types.SubnetCondition(int(message.status)),
    )


def telemetry(message: msg.DeviceTelemetry) -> types.Telemetry:
    return types.Telemetry(
        stamp_ns=stamp_ns(message.header.stamp),
        total_power_w=float(message.total_power_w),
        domains=tuple(
            types.DomainReading(d.domain, float(d.frequency_hz), 0.01 * float(d.utilization_percent))
            for d in message.domains
        ),
        temperatures_c=tuple(float(t.temperature_c) for t in message.temperatures),
    )


def capabilities(message: msg.DeviceCapabilities) -> types.Capabilities:
    return types.Capabilities(
        board=message.board,
        domains=tuple(
            types.DomainCapability(d.domain, tuple(int(hz) for hz in d.frequencies_hz), bool(d.can_write))
            for d in message.domains
        ),
        processors=tuple(message.processors),
    )


def dvfs_status(message: msg.DvfsState) -> types.DvfsStatus:
    return types.DvfsStatus(
        stamp_ns=stamp_ns(message.header.stamp),
        decision_id=int(message.decision_id),
        domains=tuple(
            types.DomainStatus(d.domain, int(d.requested_min_hz), int(d.requested_max_hz), float(d.actual_hz))
            for d in message.domains
        ),
    )


_CONVERTERS: Mapping[type, Any] = {
    msg.AppTargets: targets,
    msg.SubnetLibrary: library,
    msg.InferenceMonitor: frame,
    msg.DeviceTelemetry: telemetry,
    msg.DeviceCapabilities: capabilities,
    msg.DvfsState: dvfs_status,
}


# --- knobs: decisions to messages ---------------------------------------------------------------


def decision_message(decision: types.Decision) -> msg.ManagerDecision:
    """ManagerDecision of a step; header.stamp = the step time."""
    return msg.ManagerDecision(
        header=Header(stamp=stamp(decision.step_time_ns)),
        decision_id=int(decision.decision_id),
        step_time=stamp(decision.step_time_ns),
        inputs=[msg.ConsumedInput(topic=t, sequence=int(s)) for t, s in decision.inputs],
        objective=decision.objective,
        trigger=decision.trigger,
        binding_constraint=decision.binding_constraint,
        ladder_step=int(decision.ladder_step),
        feasible=bool(decision.feasible),
        apps=[_app_decision(app) for app in decision.apps],
        bands=[_band(band) for band in decision.bands],
        predicted_power_w=float(decision.predicted_power_w),
        compute_ms=float(decision.compute_ms),
        parameters=list(_parameter_messages(decision.parameters)),
    )


def subnet_command_message(command: types.SubnetCommand, time_ns: int) -> msg.SubnetCommand:
    """SubnetCommand decided at ``time_ns``; threads and affinity are left as they are."""
    return msg.SubnetCommand(
        header=Header(stamp=stamp(time_ns)),
        decision_id=int(command.decision_id),
        subnet_id=command.subnet_id,
        processor=command.processor,
        rate_hz=float(command.rate_hz),
        valid_for_s=float(command.valid_for_s),
        prefetch_subnet_ids=list(command.prefetch_subnet_ids),
    )


def dvfs_command_message(command: types.DvfsCommand, time_ns: int) -> msg.DvfsCommand:
    """DvfsCommand decided at ``time_ns``."""
    return msg.DvfsCommand(
        header=Header(stamp=stamp(time_ns)),
        decision_id=int(command.decision_id),
        bands=[_band(band) for band in command.bands],
        valid_for_s=float(command.valid_for_s),
    )


def parameters_of(message: msg.ManagerDecision) -> types.Parameters:
    """The parameters that were in force for a recorded decision; raises TypeError for an unknown one."""
    return types.Parameters(**{p.name: Parameter.from_parameter_msg(p).value for p in message.parameters})


@lru_cache(maxsize=1)  # they rarely change, decisions come five times a second
def _parameter_messages(parameters: types.Parameters) -> tuple[Any, ...]:
    return tuple(Parameter(name, value=value).to_parameter_msg() for name, value in vars(parameters).items())


def _app_decision(app: types.AppDecision) -> msg.AppDecision:
    return msg.AppDecision(
        app=app.app,
        subnet_id=app.subnet_id,
        processor=app.processor,
        predicted_latency_ms=float(app.predicted_latency_ms),
        margin=float(app.margin),
        predicted_accuracy=float(app.predicted_accuracy),
        rate_hz=float(app.rate_hz),
    )


def _band(band: types.FrequencyBand) -> msg.FrequencyBand:
    return msg.FrequencyBand(domain=band.domain, min_hz=int(band.min_hz), max_hz=int(band.max_hz))
