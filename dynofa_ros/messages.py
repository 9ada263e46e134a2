"""The messages of the package as frozen dataclasses: what the layers tell each other, without ROS.

One class per file of `msg/`, with the same fields in the same order; the meaning and the unit of every field
are said there. std_msgs/Header and rcl_interfaces/Parameter are the two of other packages. A time is an int
in nanoseconds, an array is a tuple, an unknown number is NaN. `convert` makes ROS messages of them and reads
them back; a field with a default may be absent there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from enum import IntEnum, IntFlag
from math import nan
from typing import Annotated, Any, TypeAlias

MISS_TOLERANCE = 0.01  # default share of due frames that may miss


class SubnetCondition(IntEnum):
    """Constants of SubnetState."""

    APPLIED = 0
    PENDING = 1
    REJECTED = 2
    DISABLED = 3
    PINNED = 4


class DomainStatus(IntEnum):
    """Constants of DomainState."""

    APPLIED = 0
    PENDING = 1
    REJECTED = 2
    DISABLED = 3
    FALLBACK = 4
    THROTTLED = 5


class ThrottleFlag(IntFlag):
    """Constants of DeviceTelemetry: bits of throttle_flags."""

    NONE = 0
    THERMAL = 1
    POWER = 2
    UNKNOWN = 128


Time: TypeAlias = Annotated[int, "builtin_interfaces/Time"]  # nanoseconds
ParameterValue: TypeAlias = bool | int | float | str | tuple[Any, ...] | None


@dataclass(frozen=True)
class Parameter:
    """rcl_interfaces/Parameter. value: None = not set."""

    name: str
    value: ParameterValue


@dataclass(frozen=True)
class Header:
    """std_msgs/Header."""

    stamp_ns: int = 0
    frame_id: str = ""


NO_HEADER = Header()

# --- parts of messages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassHypothesis:
    """One class and how sure the network is of it."""

    class_id: str
    score: float


@dataclass(frozen=True)
class DomainFrequency:
    """A frequency of one clock domain."""

    domain: str
    frequency_hz: int


@dataclass(frozen=True)
class FrequencyBand:
    """Allowed band of one clock domain; min_hz == max_hz pins the clock."""

    domain: str
    min_hz: int
    max_hz: int


@dataclass(frozen=True)
class DomainCapability:
    """What can be done with one clock domain."""

    domain: str
    frequencies_hz: tuple[int, ...]
    cpus: tuple[int, ...] = field(default=(), kw_only=True)
    can_read: bool = True
    can_write: bool = True
    reason: str = ""


@dataclass(frozen=True)
class DomainState:
    """Requested and real state of one clock domain."""

    domain: str
    requested_min_hz: int
    requested_max_hz: int
    actual_hz: float
    status: DomainStatus = DomainStatus.APPLIED
    external_slowdown: float = nan
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether what was asked for is in force."""
        return self.status is DomainStatus.APPLIED


@dataclass(frozen=True)
class DomainTelemetry:
    """Monitor of one clock domain."""

    domain: str
    frequency_hz: float
    utilization_percent: float = nan

    @property
    def utilization(self) -> float:
        """Busy share of the last sampling period, 0..1."""
        return 0.01 * self.utilization_percent


@dataclass(frozen=True)
class PowerRail:
    """One power sensor."""

    name: str
    power_w: float
    voltage_v: float = nan
    current_a: float = nan


@dataclass(frozen=True)
class TemperatureReading:
    """One temperature sensor."""

    name: str
    temperature_c: float


@dataclass(frozen=True)
class SubnetEntry:
    """One sub-network on one processor; latency(f) = alpha_ms + beta_ms * f_reference / f."""

    id: str
    processor: str
    threads: int = field(default=0, kw_only=True)
    cluster: str = field(default="", kw_only=True)
    accuracy: float
    latency_ms: float
    alpha_ms: float
    beta_ms: float
    energy_j: float = nan
    reference_frequencies: tuple[DomainFrequency, ...] = ()
    fixed_share: float = 1.0
    reference_size: float = 0.0  # 0 = the size of a request does not matter


@dataclass(frozen=True)
class ConsumedInput:
    """One message that a decision consumed."""

    topic: str
    sequence: int


@dataclass(frozen=True)
class AppDecision:
    """What was decided for one application."""

    app: str
    subnet_id: str
    processor: str
    threads: int = field(default=0, kw_only=True)
    cluster: str = field(default="", kw_only=True)
    predicted_latency_ms: float
    margin: float
    predicted_accuracy: float
    rate_hz: float
    granted_subnet_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """What another choice for one application would cost."""

    app: str
    kind: str
    subnet_id: str
    processor: str
    cluster: str = field(default="", kw_only=True)
    accuracy: float
    power_change_w: float
    feasible: bool
    binding_constraint: str


@dataclass(frozen=True)
class RailPowerModel:
    """Power of one supply rail that no clock domain causes."""

    name: str
    static_w: float
    leakage_w: float


@dataclass(frozen=True)
class DomainPowerModel:
    """Terms of the power of one clock domain on its rail: see PowerModel for the law."""

    domain: str
    rail: str
    cores: int
    top_hz: float
    voltage_hz: tuple[float, ...]
    voltage_v: tuple[float, ...]
    dynamic_w_per_ghz_v2: float
    busy_w: float
    idle_w: float
    clock_w_per_ghz: float
    leakage_w: float
    railgated: bool
    launch_share: float


@dataclass(frozen=True)
class Point2D:
    """A point of an image, px."""

    x: float
    y: float


@dataclass(frozen=True)
class Pose2D:
    """A place in an image."""

    position: Point2D
    theta: float = 0.0


@dataclass(frozen=True)
class BoundingBox2D:
    """An upright box, px of the image."""

    center: Pose2D
    size_x: float
    size_y: float


@dataclass(frozen=True)
class ObjectHypothesisWithPose:
    """What an object may be."""

    hypothesis: ClassHypothesis


@dataclass(frozen=True)
class Detection2D:
    """One object that was found."""

    results: tuple[ObjectHypothesisWithPose, ...]
    bbox: BoundingBox2D
    id: str = ""


@dataclass(frozen=True)
class VisionClass:
    """Number and name of a class."""

    class_id: int
    class_name: str


@dataclass(frozen=True)
class Stamped:
    """A message that begins with a header, which is no part of what is equal."""

    header: Header = field(default=NO_HEADER, compare=False, kw_only=True)


# --- application ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AppTargets(Stamped):
    """What a user wants of one application."""

    app: str
    latency_target_ms: float
    accuracy_target: float = 1.0
    accuracy_floor: float = 0.0
    rate_hz: float = 15.0
    miss_tolerance: float = MISS_TOLERANCE
    priority: int = 0
    paused: bool = False


@dataclass(frozen=True)
class SubnetLibrary(Stamped):
    """All that an application can run, one entry per sub-network and processor."""

    app: str
    entries: tuple[SubnetEntry, ...]
    queued: bool = False
    accuracy_metric: str = ""


@dataclass(frozen=True)
class SubnetCommand(Stamped):
    """Knob of one application: which sub-network to run, where, and how often."""

    decision_id: int
    subnet_id: str
    processor: str = ""
    cluster: str = ""
    threads: int = 0
    cpu_affinity: tuple[int, ...] = ()
    rate_hz: float = nan
    valid_for_s: float = 0.0
    prefetch_subnet_ids: tuple[str, ...] = ()
    granted_subnet_ids: tuple[str, ...] = ()
    granted_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class SubnetState(Stamped):
    """What an application really runs."""

    decision_id: int
    subnet_id: str
    processor: str
    threads: int = field(default=0, kw_only=True)
    cluster: str = field(default="", kw_only=True)
    status: SubnetCondition
    message: str = ""
    switch_duration_ms: float = nan
    expected_accuracy: float = nan


@dataclass(frozen=True)
class InferenceMonitor(Stamped):
    """Measurement of one answered frame."""

    app: str
    frame_sequence: int
    decision_id: int
    subnet_id: str
    processor: str
    threads: int = field(default=0, kw_only=True)
    cluster: str = field(default="", kw_only=True)
    queue_wait_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    latency_ms: float
    end_to_end_ms: float = field(default=nan, kw_only=True)
    latency_target_ms: float
    deadline_missed: bool
    dropped_frames: int = 0
    malformed_frames: int = 0
    top1_score: float = nan
    request_size: float = nan
    normalized_ms: float = nan
    first_output_ms: float = nan
    unit_ms: float = nan


@dataclass(frozen=True)
class Classification(Stamped):
    """Result of one camera frame, most probable class first."""

    results: tuple[ClassHypothesis, ...]


@dataclass(frozen=True)
class Translation(Stamped):
    """Result of one text, or the reason why there is none."""

    source: str
    text: str
    reason: str = ""
    score: float = nan
    output_size: int = 0


@dataclass(frozen=True)
class Detection2DArray(Stamped):
    """What was found in one camera frame, the surest first."""

    detections: tuple[Detection2D, ...]


@dataclass(frozen=True)
class LabelInfo(Stamped):
    """The classes that a network knows."""

    class_map: tuple[VisionClass, ...]
    threshold: float = nan


# --- device --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceCapabilities(Stamped):
    """What this device is."""

    board: str
    description: str = field(default="", kw_only=True)
    domains: tuple[DomainCapability, ...]
    processors: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True)
class DeviceTelemetry(Stamped):
    """Monitors of the device at one time."""

    total_power_w: float
    rails: tuple[PowerRail, ...] = ()
    domains: tuple[DomainTelemetry, ...] = ()
    temperatures: tuple[TemperatureReading, ...] = ()
    energy_j: float = nan
    throttle_flags: ThrottleFlag = ThrottleFlag.NONE
    source: str = ""


@dataclass(frozen=True)
class DvfsCommand(Stamped):
    """Knob of the device: frequency band per clock domain."""

    decision_id: int
    bands: tuple[FrequencyBand, ...]
    valid_for_s: float


@dataclass(frozen=True)
class DvfsState(Stamped):
    """What the device really applied."""

    decision_id: int
    domains: tuple[DomainState, ...]
    message: str = ""
    source: str = ""


@dataclass(frozen=True)
class PowerModel(Stamped):
    """Power and heat of the whole module as a function of clocks, utilisation and temperature."""

    board: str
    origin: str
    base_w: float
    conversion_loss: float
    leakage_per_c: float
    leakage_reference_c: float
    rails: tuple[RailPowerModel, ...]
    domains: tuple[DomainPowerModel, ...]
    resistance_c_per_w: float = nan
    time_constant_s: float = nan


@dataclass(frozen=True)
class SimulatedLoad(Stamped):
    """Load from outside the managed applications on one clock domain of the simulated device."""

    domain: str
    utilization_percent: float
    slowdown: float = 0.0


# --- runtime manager -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManagerDecision(Stamped):
    """One step of the runtime manager, and why."""

    decision_id: int
    step_time: Time
    step_number: int
    inputs: tuple[ConsumedInput, ...]
    objective: str
    trigger: str
    binding_constraint: str
    ladder_step: int
    feasible: bool
    apps: tuple[AppDecision, ...]
    alternatives: tuple[Alternative, ...] = field(default=(), kw_only=True)
    bands: tuple[FrequencyBand, ...]
    predicted_power_w: float
    compute_ms: float = field(default=0.0, compare=False, kw_only=True)  # differs from run to run
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class ManagerState(Stamped):
    """All that the runtime manager knows after one step: see `manager.snapshot`."""

    step_number: int
    format_version: int
    state: str


CONSTANTS: dict[type, type[IntEnum] | type[IntFlag]] = {
    SubnetState: SubnetCondition,
    DomainState: DomainStatus,
    DeviceTelemetry: ThrottleFlag,
}
MESSAGES: dict[str, type] = {
    name: cls
    for name, cls in list(vars().items())
    if isinstance(cls, type) and is_dataclass(cls) and cls not in (Header, Parameter, Stamped)
}
