"""The other side of the device node: starts it as a process, talks to it over DDS, gathers what it says."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from dynofa_ros.msg import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainState,
    DvfsCommand,
    DvfsState,
    FrequencyBand,
    PowerModel,
)
from ros_client import RosClient, stamp_s
from ros_domain import own_domain
from sensor_msgs.msg import BatteryState, Temperature

from dynofa_ros import topics

ROOT = Path(__file__).resolve().parents[2]
DOMAIN_ID = own_domain()
NAMESPACE = "/robot1/dynofa"  # everything must work below a namespace of the user
NEVER_S = 3600.0  # command_timeout_s of a node whose commands shall not lapse in a test that is held up
Band = tuple[str, int, int]


def parameters(**values: object) -> list[str]:
    """Arguments of `start`."""
    texts = {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in values.items()}
    return [word for name, text in texts.items() for word in ("-p", f"{name}:={text}")]


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

    def __init__(self, namespace: str = NAMESPACE, process: subprocess.Popen[str] | None = None) -> None:
        super().__init__("client", DOMAIN_ID, namespace, f"{namespace}/device")
        self.process = process
        self.telemetry: list[DeviceTelemetry] = []
        self.states: list[DvfsState] = []
        self.capabilities: list[DeviceCapabilities] = []
        self.power_models: list[PowerModel] = []
        self.temperatures: list[Temperature] = []
        self.batteries: list[BatteryState] = []
        self.commands = self.publisher(topics.DVFS_COMMAND)
        self.load = self.publisher(topics.SIMULATED_LOAD)
        self.monitor = self.publisher(topics.MONITOR, "front")
        self.subscribe(topics.TELEMETRY, self.telemetry.append)
        self.subscribe(topics.DVFS_STATE, self.states.append)
        self.subscribe(topics.CAPABILITIES, self.capabilities.append)
        self.subscribe(topics.POWER_MODEL, self.power_models.append)
        self.subscribe(topics.TEMPERATURE, self.temperatures.append)
        self.subscribe(topics.BATTERY, self.batteries.append)

    def connect(self, paused: bool = False) -> None:
        """Until the node has said everything once, and hears what is sent here; ``paused``: no telemetry."""
        for first in ("states", "capabilities", "power_models", *(() if paused else ("telemetry",))):
            self.wait(lambda first=first: getattr(self, first), f"first {first} of the node")
        for publisher in (
            (self.commands, self.load) if self.states[-1].source == "simulated" else (self.commands,)
        ):
            self.wait(publisher.get_subscription_count, f"the node's subscription of {publisher.topic_name}")
        self.wait(lambda: "clocks" in self.diagnostics, "diagnostics")

    def state(self, domain: str) -> DomainState:
        """A NaN clock without control if the node has not named the domain."""
        named = (entry for entry in self.states[-1].domains if entry.domain == domain)
        return next(named, DomainState(domain=domain, actual_hz=math.nan, status=DomainState.DISABLED))

    def command(self, decision_id: int, valid_for_s: float = 0.0, **pins: int) -> None:
        self.bands(decision_id, [(name, hz, hz) for name, hz in pins.items()], valid_for_s)

    def bands(self, decision_id: int, bands: Iterable[Band], valid_for_s: float = 0.0) -> None:
        """Publish a command; a band is (domain, min_hz, max_hz)."""
        entries = [FrequencyBand(domain=name, min_hz=low, max_hz=high) for name, low, high in bands]
        self.commands.publish(DvfsCommand(decision_id=decision_id, valid_for_s=valid_for_s, bands=entries))

    def samples(self, number: int, since_s: float = 0.0) -> list[DeviceTelemetry]:
        """Telemetry that was taken after a time of the system clock."""

        def taken() -> list[DeviceTelemetry]:
            found = [m for m in self.telemetry if stamp_s(m) > since_s]
            return found if len(found) >= number else []

        return self.wait(taken, f"{number} samples of telemetry")

    def mean_power_w(self) -> float:
        """After the clocks as published last have been in effect for a while."""
        return mean(m.total_power_w for m in self.samples(6, stamp_s(self.states[-1]) + 0.3))
