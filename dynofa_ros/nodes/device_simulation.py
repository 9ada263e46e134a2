"""What the simulated device learns from the graph: busy time of the applications and load from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dynofa_ros.convert import from_ros
from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.device.simulated.simulated_device import ExternalLoad
from dynofa_ros.messages import InferenceMonitor, SimulatedLoad
from dynofa_ros.nodes.device_status import RECENT_S
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.topics import MONITOR, SIMULATED_LOAD


class SimulatedInputs:
    """Subscriptions of an active node; ``on_load`` is called after a load has changed.

    ``lock``: held while the simulation is changed, where other threads use it too.
    """

    def __init__(
        self,
        node: ManagedNode,
        simulation: RealTimeSimulation,
        on_load: Callable[[], None],
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._lock = lock or nullcontext()
        self._node = node
        self._simulation = simulation
        self._on_load = on_load
        self._monitors: dict[str, Any] = {}  # subscriptions by application
        self._refused = 0
        self._last_refusal, self._last_refusal_s = "", -math.inf

    def start(self) -> None:
        """Listen; the node is becoming active."""
        self._node.subscribe(SIMULATED_LOAD, self._take_load)

    def stop(self) -> None:
        """The node has ended the subscriptions."""
        self._monitors.clear()

    def discover(self) -> None:
        """Follow the applications as they come and go."""
        found = self._node.applications(MONITOR)
        for app in found - self._monitors.keys():
            self._monitors[app] = self._node.subscribe(MONITOR, self._take_monitor, app)
        for app in self._monitors.keys() - found:
            self._node.unsubscribe(self._monitors.pop(app))

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

    def _take_monitor(self, message: Any) -> None:
        monitor: InferenceMonitor = from_ros(message)
        try:
            place = monitor.cluster, monitor.threads
            with self._lock:
                self._simulation.add_frame(
                    monitor.app, monitor.processor, 1e-3 * monitor.inference_ms, *place
                )
        except ValueError as error:
            self._refuse(f"monitor of '{monitor.app}': {error}")

    def _take_load(self, message: Any) -> None:
        load: SimulatedLoad = from_ros(message)
        outside = ExternalLoad(0.01 * load.utilization_percent, load.slowdown)
        try:
            with self._lock:
                self._simulation.set_load(load.domain, outside)
        except ValueError as error:
            self._refuse(f"simulated_load: {error}")
        self._on_load()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._last_refusal, self._last_refusal_s = reason, time.monotonic()
        self._node.get_logger().warning(f"ignored {reason}", throttle_duration_sec=1.0)
