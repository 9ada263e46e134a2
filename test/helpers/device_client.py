"""The other side of the device node: starts it as a process, talks to it over DDS, gathers what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from dynofa_ros.msg import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainState,
    DvfsCommand,
    DvfsState,
    FrequencyBand,
    PowerModel,
)
from ros_client import RosClient
from ros_domain import own_domain
from sensor_msgs.msg import BatteryState, Temperature

from dynofa_ros import topics

ROOT = Path(__file__).resolve().parents[2]
DOMAIN_ID = own_domain()
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


class Client(RosClient):
    """The other side of the topics of the node in a namespace."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        super().__init__("client", DOMAIN_ID, namespace, f"{namespace}/device")
        self.telemetry: list[tuple[float, DeviceTelemetry]] = []
        self.states: list[DvfsState] = []
        self.capabilities: list[DeviceCapabilities] = []
        self.power_models: list[PowerModel] = []
        self.temperatures: list[Temperature] = []
        self.batteries: list[BatteryState] = []
        self.commands = self.publisher(topics.DVFS_COMMAND)
        self.load = self.publisher(topics.SIMULATED_LOAD)
        self.monitor = self.publisher(topics.MONITOR, "front")
        self.subscribe(
            topics.TELEMETRY,
            lambda m: self.telemetry.append((time.monotonic(), m)),
        )
        self.subscribe(topics.DVFS_STATE, self.states.append)
        self.subscribe(topics.CAPABILITIES, self.capabilities.append)
        self.subscribe(topics.POWER_MODEL, self.power_models.append)
        self.subscribe(topics.TEMPERATURE, self.temperatures.append)
        self.subscribe(topics.BATTERY, self.batteries.append)

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
