"""Decisions and commands of the manager -> messages. Every number is cast at this boundary.

The other direction is `inputs`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.parameter import Parameter
from std_msgs.msg import Header

import dynofa_ros.msg as msg
from dynofa_ros.manager import types
from dynofa_ros.ros.inputs import NANOSECONDS


def stamp(time_ns: int) -> Time:
    """Stamp of a time in nanoseconds."""
    seconds, nanoseconds = divmod(int(time_ns), NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def decision_message(decision: types.Decision) -> msg.ManagerDecision:
    """ManagerDecision of a step; header.stamp = the step time."""
    return msg.ManagerDecision(
        header=Header(stamp=stamp(decision.step_time_ns)),
        decision_id=int(decision.decision_id),
        step_time=stamp(decision.step_time_ns),
        step_number=int(decision.step_number),
        inputs=[msg.ConsumedInput(topic=t, sequence=int(s)) for t, s in decision.inputs],
        objective=decision.objective,
        trigger=decision.trigger,
        binding_constraint=decision.binding_constraint,
        ladder_step=int(decision.ladder_step),
        feasible=bool(decision.feasible),
        apps=[_app_decision(app) for app in decision.apps],
        alternatives=[_alternative(other) for other in decision.alternatives],
        bands=[_band(band) for band in decision.bands],
        predicted_power_w=float(decision.predicted_power_w),
        compute_ms=float(decision.compute_ms),
        parameters=list(_parameter_messages(decision.parameters)),
    )


def subnet_command_message(command: types.SubnetCommand, time_ns: int) -> msg.SubnetCommand:
    """SubnetCommand decided at ``time_ns``."""
    return msg.SubnetCommand(
        header=Header(stamp=stamp(time_ns)),
        decision_id=int(command.decision_id),
        subnet_id=command.subnet_id,
        processor=command.processor,
        cluster=command.cluster,
        threads=int(command.threads),
        cpu_affinity=[int(cpu) for cpu in command.cpu_affinity],
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


@lru_cache(maxsize=1)  # they rarely change, decisions come five times a second
def _parameter_messages(parameters: types.Parameters) -> tuple[Any, ...]:
    return tuple(Parameter(name, value=value).to_parameter_msg() for name, value in vars(parameters).items())


def _app_decision(app: types.AppDecision) -> msg.AppDecision:
    return msg.AppDecision(
        app=app.app,
        subnet_id=app.subnet_id,
        processor=app.processor,
        threads=int(app.threads),
        cluster=app.cluster,
        predicted_latency_ms=float(app.predicted_latency_ms),
        margin=float(app.margin),
        predicted_accuracy=float(app.predicted_accuracy),
        rate_hz=float(app.rate_hz),
    )


def _alternative(other: types.Alternative) -> msg.Alternative:
    return msg.Alternative(
        app=other.app,
        kind=other.kind,
        subnet_id=other.subnet_id,
        processor=other.processor,
        accuracy=float(other.accuracy),
        power_change_w=float(other.power_change_w),
        feasible=other.feasible,
        binding_constraint=other.binding_constraint,
    )


def _band(band: types.FrequencyBand) -> msg.FrequencyBand:
    return msg.FrequencyBand(domain=band.domain, min_hz=int(band.min_hz), max_hz=int(band.max_hz))
