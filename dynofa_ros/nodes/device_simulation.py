"""What the simulated device learns from the graph: busy time of the applications and load from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.device.simulated.simulated_device import ExternalLoad
from dynofa_ros.msg import InferenceMonitor, SimulatedLoad
from dynofa_ros.nodes.device_status import RECENT_S
from dynofa_ros.ros import names, qos
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.node import ManagedNode

MONITOR_TYPE = "dynofa_ros/msg/InferenceMonitor"


class SimulatedInputs:
    """Subscriptions of an active node; ``on_load`` is called after a load has changed."""

    def __init__(
        self, node: ManagedNode, simulation: RealTimeSimulation, on_load: Callable[[], None]
    ) -> None:
        self._node = node
        self._simulation = simulation
        self._on_load = on_load
        self._monitors: dict[str, Any] = {}  # subscriptions by full topic name
        self._refused = 0
        self._last_refusal, self._last_refusal_s = "", -math.inf

    def start(self) -> None:
        """Listen; the node is becoming active."""
        self._node.subscribe(SimulatedLoad, names.SIMULATED_LOAD, self._take_load, qos.SIMULATED_LOAD)

    def stop(self) -> None:
        """The node has ended the subscriptions."""
        self._monitors.clear()

    def discover(self) -> None:
        """Follow the applications as they come and go."""
        node = self._node
        found = {
            topic
            for topic, types in node.get_topic_names_and_types()
            if MONITOR_TYPE in types
            and names.app_of_topic(node.get_namespace(), topic, "monitor")
            and node.count_publishers(topic)
        }
        for topic in found - self._monitors.keys():
            self._monitors[topic] = node.subscribe(InferenceMonitor, topic, self._take_monitor, qos.MONITOR)
        for topic in self._monitors.keys() - found:
            node.unsubscribe(self._monitors.pop(topic))

    def status(self) -> Status:
        """Diagnostics: who is listened to, and what was refused."""
        values = {
            "applications": len(self._monitors),
            "refused": self._refused,
            "last_refusal": self._last_refusal,
        }
        if time.monotonic() - self._last_refusal_s < RECENT_S:
            return Status(Level.WARN, f"ignored {self._last_refusal}", values)
        return Status(Level.OK, f"{len(self._monitors)} applications", values)

    def _take_monitor(self, message: InferenceMonitor) -> None:
        try:
            self._simulation.add_frame(message.app, message.processor, 1e-3 * float(message.inference_ms))
        except ValueError as error:
            self._refuse(f"monitor of '{message.app}': {error}")

    def _take_load(self, message: SimulatedLoad) -> None:
        load = ExternalLoad(0.01 * float(message.utilization_percent), float(message.slowdown))
        try:
            self._simulation.set_load(message.domain, load)
        except ValueError as error:
            self._refuse(f"simulated_load: {error}")
        self._on_load()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._last_refusal, self._last_refusal_s = reason, time.monotonic()
        self._node.get_logger().warning(f"ignored {reason}", throttle_duration_sec=1.0)
