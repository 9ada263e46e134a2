"""What tests of several rooms build: applications of scenes, bands of clocks, weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.evaluation.scenarios import OVERHEAD_MS, vision_library
from dynofa_ros.messages import (
    MISS_TOLERANCE,
    AppDecision,
    AppTargets,
    FrequencyBand,
    Header,
    ManagerDecision,
)
from dynofa_ros.recording.run import Monitor
from dynofa_ros.simulation.scene import App
from dynofa_ros.supernet.space import SearchSpace

S = 1_000_000_000
START = 1_700_000_000 * S  # of a recorded run
REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def targets(app: str, rate_hz: float, latency_ms: float, accuracy: float) -> AppTargets:
    """Targets whose floor is the accuracy itself."""
    return AppTargets(app, latency_ms, accuracy, accuracy, rate_hz, MISS_TOLERANCE)


def vision(asked: AppTargets, mapping: str = "gpu", **more: Any) -> App:
    """An application that looks, with the committed libraries."""
    return replace(App(asked.app, asked, vision_library(), mapping, overhead_ms=OVERHEAD_MS), **more)


def pin(domain: str, hz: int) -> FrequencyBand:
    return FrequencyBand(domain, hz, hz)


def whole(table: tuple[int, ...], domain: str = "any") -> FrequencyBand:
    """The band of a whole table of frequencies."""
    return FrequencyBand(domain, table[0], table[-1])


def clock_hz(device: SimulatedDevice, domain: str) -> float:
    return next(state.actual_hz for state in device.applied() if state.domain == domain)


def random_weights(space: SearchSpace, classes: int = 7, seed: int = 3) -> dict[str, np.ndarray]:
    """Arrays with the names and shapes of an official checkpoint."""
    rng = np.random.default_rng(seed)
    return {
        key: np.array(9) if not shape else rng.random(shape, dtype=np.float32)
        for key, shape in space.parameter_shapes(classes).items()
    }


def decision(**changes: Any) -> ManagerDecision:
    """A step of the manager at its period, bound by latency, for no application."""
    made = ManagerDecision(1, 0, 1, (), "quality", "periodic", "latency", 0, True, (), (), 5.0, ())
    return replace(made, **changes)


def monitor(time_s: float, latency_ms: float = 40.0, **changes: object) -> Monitor:
    """A frame of app `front`, received `time_s` after the start, with 5 ms outside the network."""
    made = Monitor(
        header=Header(START + round(time_s * S), "front_camera"),
        app="front",
        frame_sequence=0,
        decision_id=0,
        subnet_id="a",
        processor="cpu",
        queue_wait_ms=1.0,
        preprocess_ms=3.0,
        inference_ms=latency_ms - 5.0,
        postprocess_ms=1.0,
        latency_ms=latency_ms,
        latency_target_ms=60.0,
        deadline_missed=latency_ms > 60.0,
        time_ns=START + round(time_s * S),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def chosen(subnet_id: str, clock_hz: int = 10**9) -> dict[str, Any]:
    """What a decision says of the application `front` and of one clock."""
    app = AppDecision(
        "front", subnet_id, "gpu", predicted_latency_ms=40.0, margin=1.1, predicted_accuracy=0.8, rate_hz=15.0
    )
    return {"apps": (app,), "bands": (pin("gpu", clock_hz),)}
