"""Messages of the device node from the values of the device layer, and back."""

from __future__ import annotations

from builtin_interfaces.msg import Time

import dynofa_ros.msg as msg
from dynofa_ros.device.command_control import ControlState
from dynofa_ros.device.device import AppliedDomain, Band, Capabilities, DeviceSample
from dynofa_ros.messages import PowerModel
from dynofa_ros.msg import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainState,
    DomainTelemetry,
    DvfsCommand,
    DvfsState,
    PowerRail,
    TemperatureReading,
)


def capabilities_message(capabilities: Capabilities, stamp: Time) -> DeviceCapabilities:
    """DeviceCapabilities of a device."""
    message = DeviceCapabilities(
        board=capabilities.board,
        description=capabilities.description,
        domains=[
            DomainCapability(
                domain=domain.domain,
                frequencies_hz=[int(hz) for hz in domain.frequencies_hz],
                can_read=bool(domain.can_read),
                can_write=bool(domain.can_write),
                reason=domain.reason,
            )
            for domain in capabilities.domains
        ],
        processors=list(capabilities.processors),
        source=capabilities.source,
    )
    message.header.stamp = stamp
    return message


def power_model_message(model: PowerModel, stamp: Time) -> msg.PowerModel:
    """PowerModel as the device layer has it."""
    message = msg.PowerModel(
        **{
            **vars(model),
            "rails": [msg.RailPowerModel(**vars(rail)) for rail in model.rails],
            "domains": [msg.DomainPowerModel(**vars(domain)) for domain in model.domains],
        }
    )
    message.header.stamp = stamp
    return message


def telemetry_message(sample: DeviceSample, energy_j: float, source: str, stamp: Time) -> DeviceTelemetry:
    """DeviceTelemetry of one sample."""
    message = DeviceTelemetry(
        total_power_w=float(sample.total_power_w),
        rails=[
            PowerRail(
                name=rail.name,
                power_w=float(rail.power_w),
                voltage_v=float(rail.voltage_v),
                current_a=float(rail.current_a),
            )
            for rail in sample.rails
        ],
        domains=[
            DomainTelemetry(
                domain=domain.domain,
                frequency_hz=float(domain.frequency_hz),
                utilization_percent=100.0 * float(domain.utilization),
            )
            for domain in sample.domains
        ],
        temperatures=[
            TemperatureReading(name=sensor.name, temperature_c=float(sensor.temperature_c))
            for sensor in sample.temperatures
        ],
        energy_j=float(energy_j),
        throttle_flags=int(sample.throttle),
        source=source,
    )
    message.header.stamp = stamp
    return message


def state_message(state: ControlState, source: str, stamp: Time) -> DvfsState:
    """DvfsState of the last command and of the clocks in effect."""
    message = DvfsState(
        decision_id=int(state.decision_id),
        domains=[_domain_state(domain) for domain in state.domains],
        message=state.message,
        source=source,
    )
    message.header.stamp = stamp
    return message


def bands_of(command: DvfsCommand) -> tuple[Band, ...]:
    """The bands that a DvfsCommand asks for."""
    return tuple(Band(band.domain, int(band.min_hz), int(band.max_hz)) for band in command.bands)


def _domain_state(domain: AppliedDomain) -> DomainState:
    return DomainState(
        domain=domain.domain,
        requested_min_hz=int(domain.min_hz),
        requested_max_hz=int(domain.max_hz),
        actual_hz=float(domain.actual_hz),
        status=int(domain.status),
        external_slowdown=float(domain.external_slowdown),
    )
