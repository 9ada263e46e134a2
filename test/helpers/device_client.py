"""The other side of the device node: starts it as a process, talks to it over DDS, gathers what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from dynofa_ros.msg import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainState,
    DvfsCommand,
    DvfsState,
    FrequencyBand,
    InferenceMonitor,
    SimulatedLoad,
)
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import BatteryState, Temperature

from dynofa_ros.nodes.device_standard import BATTERY, TEMPERATURE
from dynofa_ros.ros import names, qos

ROOT = Path(__file__).resolve().parents[2]
DOMAIN_ID = 50 + os.getpid() % 50
NAMESPACE = "/robot1/dynofa"  # everything must work below a namespace of the user
TIMEOUT_S = 10.0
Band = tuple[str, int, int]


def parameters(**values: object) -> list[str]:
    """Arguments of `start`."""
    texts = {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in values.items()}
    return [word for name, text in texts.items() for word in ("-p", f"{name}:={text}")]


def end(node: subprocess.Popen[str]) -> str:
    """Kill the node if it still lives; what it said."""
    if node.poll() is None:
        node.kill()
    return node.communicate()[1]


def start(*arguments: str, namespace: str = NAMESPACE) -> subprocess.Popen[str]:
    """The node; arguments as after --ros-args."""
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(DOMAIN_ID),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, str(ROOT / "scripts" / "device_node"), "--ros-args"]
    command += ["-r", f"__ns:={namespace}", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


class Client:
    """The other side of the topics of the node in a namespace."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace
        self._context = Context()
        rclpy.init(context=self._context, domain_id=DOMAIN_ID)
        self.node = rclpy.create_node("client", context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.telemetry: list[tuple[float, DeviceTelemetry]] = []
        self.states: list[DvfsState] = []
        self.capabilities: list[DeviceCapabilities] = []
        self.temperatures: list[Temperature] = []
        self.batteries: list[BatteryState] = []
        self.diagnostics: dict[str, tuple[int, str]] = {}
        self.facts: dict[str, dict[str, str]] = {}  # the values of each diagnostic task
        self.commands = self.publisher(DvfsCommand, names.DVFS_COMMAND, qos.DVFS_COMMAND)
        self.load = self.publisher(SimulatedLoad, names.SIMULATED_LOAD, qos.SIMULATED_LOAD)
        self.monitor = self.publisher(InferenceMonitor, names.app_topic("front", "monitor"), qos.MONITOR)
        self._subscribe(
            DeviceTelemetry,
            names.TELEMETRY,
            qos.TELEMETRY,
            lambda m: self.telemetry.append((time.monotonic(), m)),
        )
        self._subscribe(DvfsState, names.DVFS_STATE, qos.DEVICE_STATE, self.states.append)
        self._subscribe(DeviceCapabilities, names.CAPABILITIES, qos.DEVICE_STATE, self.capabilities.append)
        self._subscribe(Temperature, TEMPERATURE, qos.TELEMETRY, self.temperatures.append)
        self._subscribe(BatteryState, BATTERY, qos.TELEMETRY, self.batteries.append)
        self._subscribe(DiagnosticArray, names.DIAGNOSTICS, 10, self._on_diagnostics)

    def publisher(self, kind: Any, relative: str, profile: Any) -> Any:
        return self.node.create_publisher(kind, names.topic(self.namespace, relative), profile)

    def _subscribe(self, kind: Any, relative: str, profile: Any, callback: Callable[[Any], None]) -> None:
        self.node.create_subscription(kind, names.topic(self.namespace, relative), callback, profile)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, task = status.name.rpartition(": ")
            if node != f"{self.namespace}/device":  # /diagnostics is everybody's
                continue
            self.diagnostics[task] = (ord(status.level), status.message)
            self.facts[task] = {pair.key: pair.value for pair in status.values}

    def spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.01)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end_s, f"not seen within {TIMEOUT_S} s: {what}"
            self._executor.spin_once(timeout_sec=0.01)

    def state(self, domain: str) -> DomainState:
        return next(entry for entry in self.states[-1].domains if entry.domain == domain)

    def command(self, decision_id: int, valid_for_s: float = 0.0, **pins: int) -> None:
        self.bands(decision_id, [(name, hz, hz) for name, hz in pins.items()], valid_for_s)

    def bands(self, decision_id: int, bands: Iterable[Band], valid_for_s: float = 0.0) -> None:
        """Publish a command; a band is (domain, min_hz, max_hz)."""
        entries = [FrequencyBand(domain=name, min_hz=low, max_hz=high) for name, low, high in bands]
        self.commands.publish(DvfsCommand(decision_id=decision_id, valid_for_s=valid_for_s, bands=entries))

    def mean_power_w(self, seconds: float) -> float:
        self.telemetry.clear()
        self.spin(seconds)
        return sum(m.total_power_w for _, m in self.telemetry) / len(self.telemetry)

    def set_parameter(self, name: str, value: object) -> str:
        """Reason of the refusal, empty if it was accepted."""
        client = AsyncParameterClient(self.node, f"{self.namespace}/device")
        assert client.wait_for_services(timeout_sec=TIMEOUT_S)
        future = client.set_parameters([Parameter(name, value=value)])
        self.wait(future.done, f"answer to setting {name}")
        (result,) = future.result().results
        return "" if result.successful else result.reason

    def change_state(self, transition: int) -> bool:
        service = self.node.create_client(ChangeState, f"{self.namespace}/device/change_state")
        assert service.wait_for_service(timeout_sec=TIMEOUT_S)
        future = service.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.wait(future.done, f"answer to transition {transition}")
        return future.result().success

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
