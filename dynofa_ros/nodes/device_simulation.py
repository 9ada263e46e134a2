"""What the simulated device learns from the graph: busy time of the applications and load from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from dynofa_ros.convert import from_ros
from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.messages import InferenceMonitor
from dynofa_ros.nodes.device_status import RECENT_S
from dynofa_ros.ros.decoding import decoder
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.entities import Inbox
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.topics import MONITOR, SIMULATED_LOAD

MONITORS = replace(MONITOR, depth=200)  # as many as may come between two calls of `take`
LONGEST_WAIT_S = 1.0  # a greater age is a difference between the clocks of two computers


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
        self._decode = decoder(MONITOR)
        self._monitors: dict[str, Inbox] = {}  # by application
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
            self._monitors[app] = self._node.subscribe_silently(MONITORS, app, raw=True)
        for app in self._monitors.keys() - found:
            self._node.unsubscribe(self._monitors.pop(app).subscription)

    def status(self) -> Status:
        """Diagnostics: applications whose monitors are read, and messages that were refused."""
        values = {
            "applications": len(self._monitors),
            "refused": self._refused,
            "last_refusal": self._last_refusal,
        }
        if time.monotonic() - self._last_refusal_s < RECENT_S:
            return Status(Level.WARN, f"ignored {self._last_refusal}", values)
        return Status(Level.OK, f"{len(self._monitors)} applications", values)

    def take(self) -> None:
        """Add the frames whose monitors came since the last call, at the time when they were published."""
        now_ns = time.time_ns()
        for app, inbox in self._monitors.items():
            for message, info in inbox.take():
                age_s = 1e-9 * (now_ns - info["source_timestamp"])
                self._add_frame(app, message, age_s if 0.0 < age_s < LONGEST_WAIT_S else 0.0)

    def _add_frame(self, app: str, message: bytes, age_s: float) -> None:
        try:
            monitor: InferenceMonitor = self._decode(message)
            busy_s, place = 1e-3 * monitor.inference_ms, (monitor.cluster, monitor.threads)
            with self._lock:
                self._simulation.add_frame(monitor.app, monitor.processor, busy_s, *place, age_s=age_s)
        except ValueError as error:
            self._refuse(f"monitor of '{app}': {error}")

    def _take_load(self, message: Any) -> None:
        try:
            with self._lock:
                self._simulation.set_load(from_ros(message))
        except ValueError as error:
            self._refuse(f"simulated_load: {error}")
        self._on_load()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._last_refusal, self._last_refusal_s = reason, time.monotonic()
        self._node.get_logger().warning(f"ignored {reason}", throttle_duration_sec=1.0)
