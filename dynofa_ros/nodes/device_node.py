"""Node `dynofa/device`: monitors and knobs of the device, real or simulated, on ROS topics."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecyclePublisher
from rclpy.timer import Timer

from dynofa_ros import topics
from dynofa_ros.cdr import to_cdr
from dynofa_ros.convert import from_ros
from dynofa_ros.device.board import load_board
from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.device import Device
from dynofa_ros.device.linux.battery import BatterySample
from dynofa_ros.device.linux.linux_device import WRITES_OFF, SysfsDevice
from dynofa_ros.device.meters import EnergyMeter
from dynofa_ros.device.open import changed_clocks, open_device
from dynofa_ros.device.power_model import NO_MODEL
from dynofa_ros.device.simulated.power_modes import find_mode
from dynofa_ros.messages import DomainStatus, DvfsState, Header
from dynofa_ros.msg import DvfsCommand
from dynofa_ros.nodes import device_status as status
from dynofa_ros.nodes.device_parameters import PARAMETERS
from dynofa_ros.nodes.device_simulation import SimulatedInputs
from dynofa_ros.nodes.device_standard import battery_message, temperature_message
from dynofa_ros.ros.diagnostics import Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.run import run

WATCH_PERIOD_S = 0.1  # dead-man time, changes by governors and throttling
FOLLOW_PERIOD_S = 0.01  # while a clock may be on its way
SETTLE_S = 0.05  # longer than most clocks need to change
LONGEST_SETTLE_S = 0.15  # than all: a GPU changes at the next poll of its governor
DISCOVERY_PERIOD_S = 0.5
STANDARD_PERIOD_S = 1.0
SHORTEST_TIMEOUT_S = 2.0
LAST_WORD = Duration(seconds=2.0)  # at most, for subscribers on a busy computer


class DeviceNode(ManagedNode):
    """Publishes telemetry and the state of the clocks, and applies DVFS commands."""

    def __init__(self, **node_arguments: Any) -> None:
        self._device: Device | None = None
        super().__init__("device", PARAMETERS, topics.CAPABILITIES, namespace=topics.CORE, **node_arguments)

    # --- lifecycle ---------------------------------------------------------------------------

    def configure(self) -> None:
        self._device = device = self._open()
        self._capabilities = device.capabilities()
        self._control = ClockControl(device, self.value("command_timeout_s"))
        self._published: DvfsState | None = None
        self._telemetry_header: Header | None = None
        self._sample = device.read()  # loads need two readings, so the first that is published has them
        self._last_stale_s = -math.inf
        self._follow_until_s = 0.0
        self._advertise()
        self._add_diagnostics()
        self.get_logger().info(self._backend_status().message)

    def activate(self) -> None:
        assert self._device is not None
        self._energy = EnergyMeter()
        self._set_mode()
        self._capabilities = self._device.capabilities()
        self._published = self._telemetry_header = None
        self._discovered_s = self._standard_s = -math.inf
        self._control.command_timeout_s = self.value("command_timeout_s")
        self._publish_capabilities()
        model = replace(self._power_model or NO_MODEL, header=self._header())
        self._power_model_publisher.publish(to_cdr(model))
        self._publish_state()
        self.subscribe(topics.DVFS_COMMAND, self._on_command)
        if self._inputs is not None:
            self._inputs.start()
        self._follow_timer = self.every(FOLLOW_PERIOD_S, self._follow)
        self._rate_timers: list[Timer] = []
        self._set_rate()

    def deactivate(self) -> None:
        if self._inputs is not None:
            self._inputs.stop()
        self._control.release()
        time.sleep(SETTLE_S)
        self._publish_state()
        self._state_publisher.wait_for_all_acked(LAST_WORD)  # or the message ends with its publisher
        if self._control.state().message:  # what could not be restored, and why
            self.get_logger().warning(self._control.state().message)

    def cleanup(self) -> None:
        device, self._device = self._device, None
        if isinstance(device, SysfsDevice):
            device.close()

    def check_parameters(self, pending: dict[str, Any]) -> str | None:
        if 0.0 < (timeout_s := pending["command_timeout_s"]) < SHORTEST_TIMEOUT_S:
            return (
                f"command_timeout_s must be 0 or at least {SHORTEST_TIMEOUT_S:g} s, got {timeout_s:g}: the "
                "manager repeats its commands every 1 to 1.75 s, clocks would lapse in between"
            )
        if pending["simulated_mode"]:
            if pending["backend"] != "simulated":
                found = f"backend is {pending['backend']}"
                return f"simulated_mode: this device is not simulated ({found}); nvpmodel sets its mode"
            try:
                find_mode(load_board(pending["board"]), pending["simulated_mode"])
            except ValueError as error:
                return f"simulated_mode: {error}"
        return None

    def on_parameters_changed(self, changed: set[str]) -> None:
        if not self.active:  # `activate` reads them
            return
        if "simulated_mode" in changed:
            self._set_mode()
            self._discover()
            self._publish_state()
        self._control.command_timeout_s = self.value("command_timeout_s")
        if "telemetry_rate_hz" in changed:
            self._set_rate()

    def _open(self) -> Device:
        """The device of the parameters; says what it is, and about clocks that were left changed."""
        backend, board, root = (self.value(name) for name in ("backend", "board", "sysfs_root"))
        left = changed_clocks(root)
        opened = open_device(
            backend,
            board,
            root,
            self.value("allow_writes"),
            override_pinned=self.value("override_jetson_clocks"),
            power_file=self.value("power_file"),
        )
        real = opened.device if isinstance(opened.device, SysfsDevice) else None
        simulation = opened.simulation
        self._simulation = simulation
        self._power_model = opened.power_model
        self._kernel = real
        self._inputs = SimulatedInputs(self, simulation, self._publish_state) if simulation else None
        self._guesses = load_board(board).guesses if simulation else ()
        if real and left:
            self._report_left(left)
        return opened.device

    def _report_left(self, file: object) -> None:
        if not self.value("allow_writes"):
            self.get_logger().warning(
                f"{file}: a process changes clocks or was killed; `dynofa device restore` restores them"
            )
        elif changed_clocks(self.value("sysfs_root")):
            self.get_logger().warning(f"{file}: not all clocks of a killed process could be restored yet")
        else:
            self.get_logger().info("the clocks that a killed process left changed are restored")

    def _advertise(self) -> None:
        self._telemetry = self.advertise(topics.TELEMETRY)
        self._power_model_publisher = self.advertise(topics.POWER_MODEL)
        self._state_publisher = self.advertise(topics.DVFS_STATE)
        self._temperature: LifecyclePublisher | None = None
        self._battery: LifecyclePublisher | None = None
        self._advertise_standard(self._kernel.batteries() if self._kernel else ())

    def _advertise_standard(self, batteries: tuple[BatterySample, ...]) -> None:
        """A topic for what there is; a sensor whose driver is loaded later gets it then."""
        if self._temperature is None and self._sample.temperatures:
            self._temperature = self.advertise(topics.TEMPERATURE)
        if self._battery is None and batteries:
            self._battery = self.advertise(topics.BATTERY)

    def _set_mode(self) -> None:
        if self._simulation is not None:
            self._simulation.set_mode(self.value("simulated_mode"))

    # --- monitors ----------------------------------------------------------------------------

    def _set_rate(self) -> None:
        """One timer does all that is periodic, as every wake-up of an executor costs much."""
        for timer in self._rate_timers:
            self.cancel(timer)
        period_s = 1.0 / self.value("telemetry_rate_hz")
        self._rate_timers = [self.every(period_s, self._tick)]
        if period_s > WATCH_PERIOD_S:
            self._rate_timers.append(self.every(WATCH_PERIOD_S, self._watch))

    def _tick(self) -> None:
        try:
            self._watch()  # first: clocks are restored in time, whatever happens to the sensors
        finally:
            self._sample_and_publish()

    def _sample_and_publish(self) -> None:
        assert self._device is not None
        self._sample = self._device.read()
        self._energy.add(self._sample.total_power_w, time.monotonic())
        header = self._header()
        if header == self._telemetry_header:  # a paused simulation: the manager would refuse a second one
            return
        self._telemetry_header = header
        sample = replace(
            self._sample,
            energy_j=self._energy.energy_j,
            header=header,
            source=self._capabilities.source,
        )
        self._telemetry.publish(to_cdr(sample))

    def _publish_standard(self) -> None:
        stamp = self.get_clock().now().to_msg()
        batteries = self._kernel.batteries() if self._kernel else ()
        self._advertise_standard(batteries)
        if self._temperature is not None:
            self._temperature.publish(temperature_message(self._sample, stamp))
        if self._battery is not None:
            for battery in batteries:
                self._battery.publish(battery_message(battery, stamp))

    def _publish_capabilities(self) -> None:
        self.sole_publisher.publish(to_cdr(replace(self._capabilities, header=self._header())))

    def _publish_state(self) -> None:
        """Publish the state of the clocks if it differs from what was published last."""
        state = self._control.state()
        if state == self._published:
            return
        self._published = state
        state = replace(state, header=self._header(), source=self._capabilities.source)
        self._state_publisher.publish(to_cdr(state))

    # --- knobs -------------------------------------------------------------------------------

    def _command_s(self) -> float:
        return 1e-9 * self.command_clock_ns()

    def _on_command(self, message: DvfsCommand) -> None:
        before, now_s, command = self._control.counts, self._command_s(), from_ros(message)
        self._control.command(command.decision_id, command.bands, command.valid_for_s, now_s)
        after = self._control.counts
        if after.refused > before.refused:
            self.get_logger().warning(f"DVFS command refused: {self._control.last_refusal}")
        if after.stale > before.stale:
            self._last_stale_s = now_s
            self.get_logger().warning(f"DVFS command: {self._control.last_stale}", throttle_duration_sec=1.0)
        self._publish_state()
        if after.taken > before.taken and self._pending():
            self._follow_until_s = time.monotonic() + LONGEST_SETTLE_S
            self._follow_timer.reset()

    def _pending(self) -> bool:
        domains = self._published.domains if self._published else ()
        return any(domain.status is DomainStatus.PENDING for domain in domains)

    def _follow(self) -> None:
        """Publish the arrival of a clock at once, while one is on its way."""
        self._publish_state()
        if not self._pending() or time.monotonic() >= self._follow_until_s:
            self._follow_timer.cancel()

    def _watch(self) -> None:
        now_s = time.monotonic()
        if self._inputs is not None:
            self._inputs.take()
        if self._control.check(self._command_s()):
            self.get_logger().warning(self._control.state().message)
            self.publish_diagnostics("commands")
        self._publish_state()
        if now_s - self._discovered_s >= DISCOVERY_PERIOD_S:
            self._discovered_s = now_s
            self._discover()
        if now_s - self._standard_s >= STANDARD_PERIOD_S:
            self._standard_s = now_s
            self._publish_standard()

    def _discover(self) -> None:
        """Follow what comes and goes: senders of commands, applications, clocks."""
        assert self._device is not None
        if not self.count_publishers(self.full_name(topics.DVFS_COMMAND)):
            self._control.forget()
        if self._inputs is not None:
            self._inputs.discover()
        capabilities = self._device.capabilities()
        if capabilities != self._capabilities:
            self._capabilities = capabilities
            self._publish_capabilities()

    def _header(self) -> Header:
        return Header(self.get_clock().now().nanoseconds)

    # --- diagnostics -------------------------------------------------------------------------

    def _add_diagnostics(self) -> None:
        self.diagnostics.hardware_id = f"{self._capabilities.board} ({self._capabilities.source})"
        self.diagnostics.add("backend", self._backend_status)
        self.diagnostics.add("clocks", self._clock_status)
        self.diagnostics.add("commands", self._command_status)
        self.diagnostics.add("sensors", self._sensor_status)
        if self._inputs is not None:
            self.diagnostics.add("inputs", self._inputs.status)

    def _backend_status(self) -> Status:
        inventory = self._kernel.inventory if self._kernel else None
        return status.backend_status(self._capabilities, inventory, self._guesses, self._power_model)

    def _clock_status(self) -> Status:
        kernel = self._kernel
        return status.clock_status(
            self._capabilities,
            self._control.state().domains,
            read_only=WRITES_OFF if kernel and not self.value("allow_writes") else "",
            pinned=kernel.found_pinned if kernel else False,
            mode=kernel.power_mode() if kernel else None,
        )

    def _sensor_status(self) -> Status:
        total_rails = self._kernel.inventory.total_rails if self._kernel else ()
        return status.sensor_status(self._sample, total_rails)

    def _command_status(self) -> Status:
        return status.command_status(self._control, self._command_s(), self._last_stale_s)


def main() -> int:
    """Entry point of the executable `device_node`."""
    return run(DeviceNode)
