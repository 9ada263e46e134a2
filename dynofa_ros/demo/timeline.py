"""The demo's timeline: five phases of equal length, each changes one thing."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY_TARGET_MS = 65.0
MISS_TOLERANCE = 0.005  # noise drifts on a computer with other things to do: half of the default
LARGEST_SUBNET_MS = 45.0  # the emulated device runs the largest sub-network in this time at its top clock


@dataclass(frozen=True)
class Load:
    """Load from outside on all CPU clock domains."""

    utilization_percent: float = 0.0
    slowdown: float = 0.0  # 0.5 = our work takes 50 % longer


@dataclass(frozen=True)
class Phase:
    """What holds during a phase; what is not named is as in the steady phase.

    power_cap_share: cap relative to the power that the steady phase used; None = no cap.
    """

    name: str
    latency_target_ms: float = LATENCY_TARGET_MS
    load: Load = Load()
    power_cap_share: float | None = None


PHASES = (
    Phase("steady"),
    Phase("background_load", load=Load(utilization_percent=30.0, slowdown=0.5)),
    Phase("power_cap", power_cap_share=0.85),
    Phase("tighter_target", latency_target_ms=0.6 * LATENCY_TARGET_MS),
    Phase("release"),
)
