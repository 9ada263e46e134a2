"""What is kept of a simulated run for the judge."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynofa_ros.simulation.scene import FrameRecord, Knob, Scene


@dataclass(frozen=True, slots=True)
class Sample:
    """The truth at one time; energies since the start, ``cap_w`` and ``limit_c`` as the user set them."""

    at_s: float
    energy_j: float
    cpu_gpu_j: float
    temperature_c: float
    cap_w: float
    limit_c: float


@dataclass
class Run:
    """One run of a scene under a policy."""

    scene: Scene
    policy: str
    seed: int
    frames: list[FrameRecord] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)  # every 0.1 s
    knobs: list[tuple[float, str, Knob]] = field(default_factory=list)  # in force from then on
    clocks: list[tuple[float, str, int]] = field(default_factory=list)  # in effect from then on
    bands: list[tuple[float, str, int, int]] = field(default_factory=list)  # commanded
    # Processor time on this computer: of each step, of each frame that made the policy turn a knob; of all
    decisions_s: list[float] = field(default_factory=list)
    manager_s: float = 0.0
