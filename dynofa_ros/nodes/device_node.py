"""Node `dynofa/device`: monitors and knobs of the device, real or simulated, on ROS topics."""

from __future__ import annotations

import math
import time
from typing import Any

from builtin_interfaces.msg import Time

from dynofa_ros.device.board import load_board
from dynofa_ros.device.control import ClockControl, ControlState
from dynofa_ros.device.energy import EnergyMeter
from dynofa_ros.device.interface import Device, DeviceSample, ThrottleFlag
from dynofa_ros.device.live import RealTimeSimulation
from dynofa_ros.device.simulated import ExternalLoad, SimulatedDevice
from dynofa_ros.msg import (
    DeviceCapabilities,
    DeviceTelemetry,
    DvfsCommand,
    DvfsState,
    InferenceMonitor,
    SimulatedLoad,
)
from dynofa_ros.nodes.device_messages import (
    bands_of,
    capabilities_message,
    state_message,
    telemetry_message,
)
from dynofa_ros.ros import names, qos
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.lifecycle import ManagedNode, run
from dynofa_ros.ros.parameters import ParameterSpec

MONITOR_TYPE = "dynofa_ros/msg/InferenceMonitor"
DISCOVERY_PERIOD_S = 0.5
WATCH_PERIOD_S = 0.1  # dead-man time, changes by governors and throttling
FOLLOW_PERIOD_S = 0.01  # while a clock may be on its way
SETTLE_S = 0.05  # longer than any clock needs to change
RECENT_S = 10.0  # how long a refusal stays a warning

PARAMETERS = (
    ParameterSpec(
        "backend",
        "auto",
        "where the device is: 'simulated', or 'auto' = the real one where there is a backend for it, "
        "otherwise simulated; 'sysfs' is not available in this version",
        choices=("auto", "sysfs", "simulated"),
        dynamic=False,
    ),
    ParameterSpec(
        "board",
        "xavier_nx",
        "board of the simulated backend: a name in config/boards or the path of a YAML file",
        dynamic=False,
    ),
    ParameterSpec(
        "sysfs_root",
        "/sys",
        "folder in which the sysfs backend looks; without effect in the simulated backend",
        dynamic=False,
    ),
    ParameterSpec(
        "telemetry_rate_hz", 10.0, "rate of dynofa/device/telemetry", unit="Hz", minimum=1.0, maximum=50.0
    ),
    ParameterSpec(
        "allow_writes",
        False,
        "whether real clocks may be changed; without effect in the simulated backend, which always may",
        dynamic=False,
    ),
    ParameterSpec(
        "command_timeout_s",
        5.0,
        "a DVFS command that is not repeated for so long lapses and the clocks found at start return, "
        "whatever its own valid_for_s; 0 = only valid_for_s counts",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    ),
)


class DeviceNode(ManagedNode):
    """Publishes telemetry and the state of the clocks, and applies DVFS commands."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("device", PARAMETERS, namespace=names.CORE_NAMESPACE, **node_arguments)

    # --- lifecycle ---------------------------------------------------------------------------

    def configure(self) -> None:
        if self.value("backend") == "sysfs":
            raise ValueError("backend 'sysfs' is not available in this version; use 'simulated' or 'auto'")
        board = load_board(self.value("board"))
        self._simulation: RealTimeSimulation | None = RealTimeSimulation(SimulatedDevice(board))
        self._device: Device = self._simulation
        self._capabilities = self._device.capabilities()
        self._control = ClockControl(self._device, self.value("command_timeout_s"))
        self._published: ControlState | None = None
        self._follow_until_s = 0.0
        self._sample: DeviceSample | None = None
        self._monitors: dict[str, Any] = {}  # subscriptions by full topic name
        self._refused_inputs = 0
        self._last_refused_input = ""
        self._last_refused_input_s = -math.inf
        self._telemetry = self.advertise(DeviceTelemetry, names.TELEMETRY, qos.TELEMETRY)
        self._capabilities_publisher = self.advertise(
            DeviceCapabilities, names.CAPABILITIES, qos.DEVICE_STATE
        )
        self._state_publisher = self.advertise(DvfsState, names.DVFS_STATE, qos.DEVICE_STATE)
        self.diagnostics.hardware_id = f"{self._capabilities.board} ({self._capabilities.source})"
        self.diagnostics.add("backend", self._backend_status)
        self.diagnostics.add("commands", self._command_status)
        self.diagnostics.add("sensors", self._sensor_status)

    def activate(self) -> None:
        self._energy = EnergyMeter()
        self._published = None
        self._control.command_timeout_s = self.value("command_timeout_s")
        self._capabilities_publisher.publish(capabilities_message(self._capabilities, self._stamp()))
        self._publish_state()
        self.subscribe(DvfsCommand, names.DVFS_COMMAND, self._on_command, qos.DVFS_COMMAND)
        if self._simulation is not None:
            self.subscribe(SimulatedLoad, names.SIMULATED_LOAD, self._on_load, qos.SIMULATED_LOAD)
        self._telemetry_timer = self.every(1.0 / self.value("telemetry_rate_hz"), self._sample_and_publish)
        self._follow_timer = self.every(FOLLOW_PERIOD_S, self._follow)
        self.every(WATCH_PERIOD_S, self._watch)
        self.every(DISCOVERY_PERIOD_S, self._discover)

    def deactivate(self) -> None:
        self._monitors.clear()
        self._control.release()
        time.sleep(SETTLE_S)
        self._publish_state()

    def on_parameters_changed(self, changed: set[str]) -> None:
        if not self.active:  # `activate` reads them
            return
        self._control.command_timeout_s = self.value("command_timeout_s")
        if "telemetry_rate_hz" in changed:
            self.cancel(self._telemetry_timer)
            period_s = 1.0 / self.value("telemetry_rate_hz")
            self._telemetry_timer = self.every(period_s, self._sample_and_publish)

    # --- monitors ----------------------------------------------------------------------------

    def _sample_and_publish(self) -> None:
        self._sample = self._device.read()
        self._energy.add(self._sample.total_power_w, time.monotonic())
        source = self._capabilities.source
        self._telemetry.publish(telemetry_message(self._sample, self._energy.energy_j, source, self._stamp()))

    def _publish_state(self) -> None:
        """Publish the state of the clocks if it differs from what was published last."""
        state = self._control.state()
        if state == self._published:
            return
        self._published = state
        self._state_publisher.publish(state_message(state, self._capabilities.source, self._stamp()))

    # --- knobs -------------------------------------------------------------------------------

    def _on_command(self, message: DvfsCommand) -> None:
        refused = self._control.counts.refused
        self._control.command(
            int(message.decision_id), bands_of(message), float(message.valid_for_s), time.monotonic()
        )
        if self._control.counts.refused > refused:
            self.get_logger().warning(f"DVFS command refused: {self._control.last_refusal}")
        self._publish_state()
        self._start_following()

    def _follow(self) -> None:
        """Publish the arrival of a clock at once, for as long as one may be on its way."""
        self._publish_state()
        if time.monotonic() >= self._follow_until_s:
            self._follow_timer.cancel()

    def _start_following(self) -> None:
        self._follow_until_s = time.monotonic() + SETTLE_S
        self._follow_timer.reset()

    def _watch(self) -> None:
        if self._control.check(time.monotonic()):
            self.get_logger().warning(self._control.state().message)
            self.publish_diagnostics("commands")
            self._start_following()
        self._publish_state()

    def _stamp(self) -> Time:
        return self.get_clock().now().to_msg()

    # --- the simulated device's inputs -------------------------------------------------------

    def _discover(self) -> None:
        """Follow the applications and the senders of commands as they come and go."""
        if not self.count_publishers(self.topic(names.DVFS_COMMAND)):
            self._control.forget()
        if self._simulation is None:
            return
        found = {
            topic: app
            for topic, types in self.get_topic_names_and_types()
            if MONITOR_TYPE in types
            and (app := names.app_of_topic(self.get_namespace(), topic, "monitor"))
            and self.count_publishers(topic)
        }
        for topic in found.keys() - self._monitors.keys():
            self._monitors[topic] = self.subscribe(InferenceMonitor, topic, self._on_monitor, qos.MONITOR)
        for topic in self._monitors.keys() - found.keys():
            self.unsubscribe(self._monitors.pop(topic))

    def _on_monitor(self, message: InferenceMonitor) -> None:
        assert self._simulation is not None
        try:
            self._simulation.add_frame(message.app, message.processor, 1e-3 * float(message.inference_ms))
        except ValueError as error:
            self._refuse_input(f"monitor of '{message.app}': {error}")

    def _on_load(self, message: SimulatedLoad) -> None:
        assert self._simulation is not None
        load = ExternalLoad(0.01 * float(message.utilization_percent), float(message.slowdown))
        try:
            self._simulation.set_load(message.domain, load)
        except ValueError as error:
            self._refuse_input(f"simulated_load: {error}")
        self._publish_state()

    def _refuse_input(self, reason: str) -> None:
        self._refused_inputs += 1
        self._last_refused_input, self._last_refused_input_s = reason, time.monotonic()
        self.get_logger().warning(f"ignored {reason}", throttle_duration_sec=1.0)

    # --- diagnostics -------------------------------------------------------------------------

    def _backend_status(self) -> Status:
        board, source = self._capabilities.board, self._capabilities.source
        values = {"board": board, "source": source}
        if self.value("backend") == "auto" and source == "simulated":
            text = f"auto: this version has no backend for real devices, simulating a {board}"
            return Status(Level.WARN, text, values)
        return Status(Level.OK, f"{source} {board}", values)

    def _command_status(self) -> Status:
        control = self._control
        counts, state = control.counts, control.state()
        values = {
            "decision_id": state.decision_id,
            "taken": counts.taken,
            "repeated": counts.repeated,
            "stale": counts.stale,
            "refused": counts.refused,
            "fallbacks": counts.fallbacks,
            "last_refusal": control.last_refusal,
        }
        if control.fallen_back:
            return Status(Level.WARN, state.message, values)
        if time.monotonic() - control.last_refusal_s < RECENT_S:
            return Status(Level.WARN, f"refused: {control.last_refusal}", values)
        return Status(Level.OK, f"last decision {state.decision_id}", values)

    def _sensor_status(self) -> Status:
        sample = self._sample
        if sample is None:
            return Status(Level.OK, "no sample yet")
        hottest_c = max((t.temperature_c for t in sample.temperatures), default=math.nan)
        values = {
            "total_power_w": sample.total_power_w,
            "hottest_c": hottest_c,
            "applications": len(self._monitors),
            "refused_inputs": self._refused_inputs,
            "last_refused_input": self._last_refused_input,
        }
        if sample.throttle & ThrottleFlag.THERMAL:
            return Status(Level.WARN, f"clocks are held down by temperature ({hottest_c:.1f} C)", values)
        if time.monotonic() - self._last_refused_input_s < RECENT_S:
            return Status(Level.WARN, f"ignored {self._last_refused_input}", values)
        return Status(Level.OK, f"{sample.total_power_w:.1f} W, {hottest_c:.1f} C", values)


def main() -> int:
    """Entry point of the executable `device_node`."""
    return run(DeviceNode)
