"""Log of a simulated run: frames, knobs, clocks and the ground truth at each time."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynofa_ros.messages import InferenceMonitor, SubnetCommand
from dynofa_ros.simulation.scene import Scene


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One due frame: answered, or dropped (``answered_s`` and the times are then NaN).

    ``index``: number of the request, the same for all policies. ``thinned``: dropped because a knob asked for
    a lower rate. ``accuracy``: that of the sub-network that answered. ``monitor``: the message, None if
    the frame was dropped (a node tells of dropped frames with its next answer).
    """

    app: str
    index: int
    arrived_s: float
    answered_s: float
    subnet_id: str
    processor: str
    accuracy: float
    latency_ms: float
    inference_ms: float
    latency_target_ms: float
    missed: bool
    thinned: bool = False
    monitor: InferenceMonitor | None = None


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
    knobs: list[tuple[float, str, SubnetCommand]] = field(default_factory=list)  # in force from then on
    clocks: list[tuple[float, str, int]] = field(default_factory=list)  # in effect from then on
    bands: list[tuple[float, str, int, int]] = field(default_factory=list)  # commanded
    # Processor time on this computer: of each step, of each frame that made the policy turn a knob; of all
    decisions_s: list[float] = field(default_factory=list)
    manager_s: float = 0.0
