"""Applications for hand-made scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dynofa_ros.evaluation.scenarios.parts import MISS_TOLERANCE, OVERHEAD_MS, vision_library
from dynofa_ros.manager.types import AppTargets
from dynofa_ros.simulation.scene import App


def targets(app: str, rate_hz: float, latency_ms: float, accuracy: float) -> AppTargets:
    """Targets whose floor is the accuracy itself."""
    return AppTargets(app, latency_ms, accuracy, accuracy, rate_hz, MISS_TOLERANCE)


def vision(asked: AppTargets, mapping: str = "gpu", **more: Any) -> App:
    """An application that looks, with the committed libraries."""
    return replace(App(asked.app, asked, vision_library(), mapping, overhead_ms=OVERHEAD_MS), **more)
