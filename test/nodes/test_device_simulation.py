"""What the simulated device learns from the graph, without a graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from dynofa_ros.convert import to_ros
from dynofa_ros.messages import SimulatedLoad
from dynofa_ros.nodes.device_simulation import SimulatedInputs
from dynofa_ros.ros.diagnostics import Level


class Simulation:
    """Takes every load but that of "tpu"; notes whether the lock was held."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock, self.locked = lock, [False]

    def set_load(self, load: SimulatedLoad) -> None:
        self.locked.append(self.lock.locked())
        if load.domain == "tpu":
            raise ValueError("unknown clock domain 'tpu'")


def test_the_lock_is_held_while_a_load_is_set_and_free_again_after_a_refusal() -> None:
    lock = threading.Lock()
    simulation, callbacks = Simulation(lock), list[Callable[[Any], None]]()
    node = SimpleNamespace(
        subscribe=lambda topic, callback, app="": callbacks.append(callback),
        get_logger=lambda: SimpleNamespace(warning=lambda text, **_: None),
    )
    free_at_load = []
    inputs = SimulatedInputs(node, simulation, lambda: free_at_load.append(not lock.locked()), lock)  # type: ignore[arg-type]
    inputs.start()
    for domain in ("cpu0", "tpu"):
        callbacks[0](to_ros(SimulatedLoad(domain, 30.0)))
    assert simulation.locked[1:] == [True, True] and free_at_load == [True, True]
    assert inputs.status().level == Level.WARN and "unknown clock domain 'tpu'" in inputs.status().message
