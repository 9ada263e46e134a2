"""Inputs and outputs of the runtime manager: the messages of ``msg/`` without ROS.

Units are in the names. Utilisation, accuracy and tolerance are fractions 0..1, unknown numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf, nan
from typing import TypeAlias

from dynofa_ros.messages import PowerModel

# What to aim for once power cap, temperature, accuracy floors and deadlines hold:
OBJECTIVES = {
    "quality": "the least shortfall below every accuracy_target by priority, then least energy",
    "energy": "least energy, as if every accuracy_target were its accuracy_floor",
    "accuracy_under_power": "quality as if every accuracy_target were 1.0: the best that power_cap_w allows",
    "battery": "quality under the power that lets battery_energy_j last for battery_time_s",
    "throughput": "quality, but frames are given up by their time x (1 + priority), the largest first",
    "latency": "at the accuracy floors, the least worst share of a latency_target_ms, to one percent",
}


@dataclass(frozen=True)
class Parameters:
    """Parameters in force for one step."""

    objective: str = "quality"
    power_cap_w: float = inf  # of the whole module, inf = no cap
    temperature_limit_c: float = 85.0
    control_period_s: float = 0.2
    min_dwell_s: float = 0.5
    battery_energy_j: float = inf  # may be used from when it was set on, inf = no budget
    battery_time_s: float = 3600.0  # for which it has to last


@dataclass(frozen=True)
class AppTargets:
    """What a user wants of one application."""

    app: str
    latency_target_ms: float
    accuracy_target: float = 1.0
    accuracy_floor: float = 0.0
    rate_hz: float = 15.0
    miss_tolerance: float = 0.02
    priority: int = 0
    paused: bool = False


@dataclass(frozen=True)
class LibraryEntry:
    """One sub-network on one processor; latency(f) = alpha_ms + beta_ms * f_reference / f."""

    id: str
    processor: str
    accuracy: float
    latency_ms: float
    alpha_ms: float
    beta_ms: float
    energy_j: float = nan
    reference_hz: tuple[tuple[str, int], ...] = ()
    threads: int = 0  # 0 = whatever the engine takes
    cluster: str = ""  # clock domain of the CPUs it was measured on, empty = no particular one


@dataclass(frozen=True)
class SubnetLibrary:
    """All that one application can run."""

    app: str
    entries: tuple[LibraryEntry, ...]


@dataclass(frozen=True)
class FrameMonitor:
    """Measurement of one answered frame."""

    app: str
    frame_sequence: int
    decision_id: int
    subnet_id: str
    processor: str
    queue_wait_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    latency_ms: float
    latency_target_ms: float
    deadline_missed: bool
    dropped_frames: int = 0
    malformed_frames: int = 0
    threads: int = 0
    cluster: str = ""


class SubnetCondition(IntEnum):
    """Values of SubnetState.status."""

    APPLIED = 0
    PENDING = 1
    REJECTED = 2
    DISABLED = 3
    PINNED = 4


@dataclass(frozen=True)
class SubnetStatus:
    """What an application really runs."""

    app: str
    decision_id: int
    subnet_id: str
    processor: str
    status: SubnetCondition
    threads: int = 0
    cluster: str = ""


@dataclass(frozen=True)
class Departure:
    """An application whose targets have no publisher any more."""

    app: str


@dataclass(frozen=True)
class DomainReading:
    """Monitor of one clock domain."""

    domain: str
    frequency_hz: float
    utilization: float


@dataclass(frozen=True)
class Telemetry:
    """Monitors of the device at one time."""

    stamp_ns: int
    total_power_w: float
    domains: tuple[DomainReading, ...]
    temperatures_c: tuple[float, ...] = ()


@dataclass(frozen=True)
class DomainCapability:
    """One clock domain; frequencies ascending, empty = no table."""

    domain: str
    frequencies_hz: tuple[int, ...]
    can_write: bool = True
    cpus: tuple[int, ...] = ()  # numbers of its CPUs that are online, empty = none or not known


@dataclass(frozen=True)
class Capabilities:
    """What the device is."""

    board: str
    domains: tuple[DomainCapability, ...]
    processors: tuple[str, ...]


@dataclass(frozen=True)
class DomainStatus:
    """Requested and real state of one clock domain."""

    domain: str
    requested_min_hz: int
    requested_max_hz: int
    actual_hz: float


@dataclass(frozen=True)
class DvfsStatus:
    """What the device really applied."""

    stamp_ns: int
    decision_id: int
    domains: tuple[DomainStatus, ...]


Message: TypeAlias = (
    AppTargets
    | SubnetLibrary
    | FrameMonitor
    | SubnetStatus
    | Departure
    | Telemetry
    | Capabilities
    | DvfsStatus
    | PowerModel
)


@dataclass(frozen=True)
class Input:
    """One message as it arrived; (topic, sequence) names it in ManagerDecision.inputs."""

    topic: str
    sequence: int
    message: Message


@dataclass(frozen=True)
class Monitors:
    """Everything that arrived since the last step, in order, and the parameters in force now."""

    inputs: tuple[Input, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)


@dataclass(frozen=True)
class SubnetCommand:
    """Knob of one application."""

    app: str
    decision_id: int
    subnet_id: str
    processor: str
    rate_hz: float  # NaN = the application's own rate
    valid_for_s: float
    prefetch_subnet_ids: tuple[str, ...] = ()
    threads: int = 0
    cluster: str = ""
    cpu_affinity: tuple[int, ...] = ()


@dataclass(frozen=True)
class FrequencyBand:
    """Allowed band of one clock domain."""

    domain: str
    min_hz: int
    max_hz: int


@dataclass(frozen=True)
class DvfsCommand:
    """Knob of the device."""

    decision_id: int
    bands: tuple[FrequencyBand, ...]
    valid_for_s: float


@dataclass(frozen=True)
class AppDecision:
    """What was decided for one application."""

    app: str
    subnet_id: str
    processor: str
    predicted_latency_ms: float
    margin: float
    predicted_accuracy: float
    rate_hz: float
    threads: int = 0
    cluster: str = ""


@dataclass(frozen=True)
class Alternative:
    """What another choice for one application would cost, the others as decided.

    ``kind``: "better" or "cheaper" = the next sub-network up or down, "processor" = the same accuracy on
    another one. ``binding_constraint``: what it would break, "none" if it is feasible.
    """

    app: str
    kind: str
    subnet_id: str
    processor: str
    accuracy: float
    power_change_w: float
    binding_constraint: str

    @property
    def feasible(self) -> bool:
        """Whether deadlines, loads and limits would hold."""
        return self.binding_constraint == "none"


@dataclass(frozen=True)
class Decision:
    """One step of the manager, and why. ``commands`` and ``dvfs`` are what must be sent now.

    The other names are those of ManagerDecision: a replay compares by them.
    """

    decision_id: int
    step_time_ns: int
    step_number: int  # from 1 since the manager began
    inputs: tuple[tuple[str, int], ...]
    objective: str
    trigger: str
    binding_constraint: str
    ladder_step: int
    feasible: bool
    apps: tuple[AppDecision, ...]
    bands: tuple[FrequencyBand, ...]
    predicted_power_w: float
    parameters: Parameters
    commands: tuple[SubnetCommand, ...] = ()
    dvfs: DvfsCommand | None = None
    alternatives: tuple[Alternative, ...] = ()
    compute_ms: float = field(default=0.0, compare=False)
