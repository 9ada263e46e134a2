"""Messages of the package -> inputs of the manager. Every number is cast at this boundary.

Needs no rclpy: the messages may be those of rclpy or those that rosbags reads from a recording, so that a
replay feeds exactly what the node fed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynofa_ros.manager import types
from dynofa_ros.messages import DomainPowerModel, PowerModel, RailPowerModel
from dynofa_ros.ros import names

NANOSECONDS = 1_000_000_000
GONE = 0  # sequence of a consumed input that says: the publisher of this topic has gone

# rcl_interfaces/ParameterType -> field of ParameterValue
_VALUE_FIELDS = {1: "bool_value", 2: "integer_value", 3: "double_value", 4: "string_value"}


def stamp_ns(stamp: Any) -> int:
    """Time of a builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def sequence_of(message: Any) -> int:
    """What names a message among those of its topic (ConsumedInput.sequence), from 1."""
    if _kind(message) == "InferenceMonitor":
        return int(message.frame_sequence)
    return max(GONE + 1, stamp_ns(message.header.stamp))  # simulated time begins with 0


def to_input(topic: str, message: Any) -> types.Input:
    """The input of the manager that a message is. topic: relative to the root of the user's namespace.

    Raises TypeError for a type that the manager does not take, ValueError for a value that it does not know.
    """
    if _kind(message) == "SubnetState":
        return types.Input(topic, sequence_of(message), subnet_status(topic.split("/")[1], message))
    try:
        convert = _CONVERTERS[_kind(message)]
    except KeyError:
        raise TypeError(f"{topic}: {type(message).__name__} is no input of the manager") from None
    return types.Input(topic, sequence_of(message), convert(message))


def departure(app: str) -> types.Input:
    """The input that says that an application has gone."""
    return types.Input(names.app_topic(app, "targets"), GONE, types.Departure(app))


def misnamed(topic: str, message: Any) -> str | None:
    """The application that a message names although its topic is another one's, None = as it should be."""
    named = getattr(message, "app", None)
    return named if named is not None and named != topic.split("/")[1] else None


def targets(message: Any) -> types.AppTargets:
    """Of dynofa_ros/AppTargets."""
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


def library(message: Any) -> types.SubnetLibrary:
    """Of dynofa_ros/SubnetLibrary."""
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
            threads=int(entry.threads),
            cluster=entry.cluster,
        )
        for entry in message.entries
    )
    return types.SubnetLibrary(message.app, entries)


def frame(message: Any) -> types.FrameMonitor:
    """Of dynofa_ros/InferenceMonitor."""
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
        threads=int(message.threads),
        cluster=message.cluster,
    )


def subnet_status(app: str, message: Any) -> types.SubnetStatus:
    """Of dynofa_ros/SubnetState, which does not name its application: its topic does."""
    return types.SubnetStatus(
        app=app,
        decision_id=int(message.decision_id),
        subnet_id=message.subnet_id,
        processor=message.processor,
        status=types.SubnetCondition(int(message.status)),
        threads=int(message.threads),
        cluster=message.cluster,
    )


def telemetry(message: Any) -> types.Telemetry:
    """Of dynofa_ros/DeviceTelemetry."""
    return types.Telemetry(
        stamp_ns=stamp_ns(message.header.stamp),
        total_power_w=float(message.total_power_w),
        domains=tuple(
            types.DomainReading(d.domain, float(d.frequency_hz), 0.01 * float(d.utilization_percent))
            for d in message.domains
        ),
        temperatures_c=tuple(float(t.temperature_c) for t in message.temperatures),
    )


def capabilities(message: Any) -> types.Capabilities:
    """Of dynofa_ros/DeviceCapabilities."""
    return types.Capabilities(
        board=message.board,
        domains=tuple(
            types.DomainCapability(
                d.domain,
                tuple(int(hz) for hz in d.frequencies_hz),
                bool(d.can_write),
                tuple(int(cpu) for cpu in d.cpus),
            )
            for d in message.domains
        ),
        processors=tuple(message.processors),
    )


def power_model(message: Any) -> PowerModel:
    """Of dynofa_ros/PowerModel."""
    return PowerModel(
        board=message.board,
        origin=message.origin,
        base_w=float(message.base_w),
        conversion_loss=float(message.conversion_loss),
        leakage_per_c=float(message.leakage_per_c),
        leakage_reference_c=float(message.leakage_reference_c),
        resistance_c_per_w=float(message.resistance_c_per_w),
        time_constant_s=float(message.time_constant_s),
        rails=tuple(RailPowerModel(r.name, float(r.static_w), float(r.leakage_w)) for r in message.rails),
        domains=tuple(
            DomainPowerModel(
                domain=d.domain,
                rail=d.rail,
                cores=int(d.cores),
                top_hz=float(d.top_hz),
                voltage_hz=tuple(float(hz) for hz in d.voltage_hz),
                voltage_v=tuple(float(volts) for volts in d.voltage_v),
                dynamic_w_per_ghz_v2=float(d.dynamic_w_per_ghz_v2),
                busy_w=float(d.busy_w),
                idle_w=float(d.idle_w),
                clock_w_per_ghz=float(d.clock_w_per_ghz),
                leakage_w=float(d.leakage_w),
                railgated=bool(d.railgated),
                launch_share=float(d.launch_share),
            )
            for d in message.domains
        ),
    )


def dvfs_status(message: Any) -> types.DvfsStatus:
    """Of dynofa_ros/DvfsState."""
    return types.DvfsStatus(
        stamp_ns=stamp_ns(message.header.stamp),
        decision_id=int(message.decision_id),
        domains=tuple(
            types.DomainStatus(d.domain, int(d.requested_min_hz), int(d.requested_max_hz), float(d.actual_hz))
            for d in message.domains
        ),
    )


def parameters_of(message: Any) -> types.Parameters:
    """The parameters that were in force for a recorded dynofa_ros/ManagerDecision.

    Raises ValueError if they are not those of this version, or one has no meaning.
    """
    values: dict[str, Any] = {
        p.name: getattr(p.value, _VALUE_FIELDS.get(int(p.value.type), ""), None) for p in message.parameters
    }
    known = vars(types.Parameters())
    if set(values) != set(known) or len(message.parameters) != len(known):
        odd = ", ".join(sorted(set(values) ^ set(known))) or "one is there twice"
        raise ValueError(f"its parameters are not those of this version: {odd}")
    wrong = [name for name, value in values.items() if type(value) is not type(known[name])]
    if wrong:
        raise ValueError(f"its parameter {wrong[0]} is of another type than in this version")
    parameters = types.Parameters(**values)
    if parameters.objective not in types.OBJECTIVES:
        raise ValueError(f"its objective {parameters.objective!r} is unknown here")
    return parameters


def _kind(message: Any) -> str:
    """Name of a message type without its package; rosbags calls its classes dynofa_ros__msg__AppTargets."""
    return type(message).__name__.rpartition("__")[2]


_CONVERTERS: Mapping[str, Callable[[Any], types.Message]] = {
    "AppTargets": targets,
    "SubnetLibrary": library,
    "InferenceMonitor": frame,
    "DeviceTelemetry": telemetry,
    "DeviceCapabilities": capabilities,
    "DvfsState": dvfs_status,
    "PowerModel": power_model,
}
