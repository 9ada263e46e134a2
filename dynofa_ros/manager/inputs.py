"""What the manager is fed with: messages by topic, parameters, and applications that have gone."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import lru_cache
from math import inf
from typing import TypeAlias

from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DvfsState,
    InferenceMonitor,
    ManagerDecision,
    Parameter,
    PowerModel,
    SubnetLibrary,
    SubnetState,
)

GONE = 0  # sequence of a consumed input that says: the publisher of this topic has gone

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
    temperature_asked: bool = False  # whether a user set temperature_limit_c, be it to its default


@dataclass(frozen=True)
class Departure:
    """An application whose targets have no publisher any more."""

    app: str


Message: TypeAlias = (
    AppTargets
    | SubnetLibrary
    | InferenceMonitor
    | SubnetState
    | Departure
    | DeviceTelemetry
    | DeviceCapabilities
    | DvfsState
    | PowerModel
)


@dataclass(frozen=True)
class Input:
    """One message as it arrived; (topic, sequence) names it in ManagerDecision.inputs."""

    topic: str
    sequence: int
    message: Message

    @property
    def app(self) -> str:
        """The application whose topic it is: `perception/<app>/...`."""
        return self.topic.split("/")[1]


@dataclass(frozen=True)
class Monitors:
    """Everything that arrived since the last step, in order, and the parameters in force now."""

    inputs: tuple[Input, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)


def make_input(topic: str, message: Message) -> Input:
    """The input that a message is. topic: relative to the root of the user's namespace.

    Raises ValueError for a message that names another application than its topic.
    """
    item = Input(topic, _sequence(message), message)
    named = getattr(message, "app", item.app)
    if named != item.app:
        raise ValueError(f"{topic}: it names the application {named!r}")
    return item


def _sequence(message: Message) -> int:
    """What names a message among those of its topic (ConsumedInput.sequence), from 1."""
    if isinstance(message, Departure):
        return GONE
    if isinstance(message, InferenceMonitor):
        return message.frame_sequence
    return max(GONE + 1, message.header.stamp_ns)  # simulated time begins with 0


@lru_cache(maxsize=8)
def parameter_messages(parameters: Parameters) -> tuple[Parameter, ...]:
    """Parameters as ManagerDecision has them."""
    # Not vars: what msgspec makes has its defaults in the class.
    return tuple(Parameter(f.name, getattr(parameters, f.name)) for f in fields(parameters))


def parameters_of(decision: ManagerDecision) -> Parameters:
    """The parameters that were in force for a recorded decision.

    Raises ValueError if they are not those of this version, or one has no meaning.
    """
    values = {parameter.name: parameter.value for parameter in decision.parameters}
    known = vars(Parameters())
    values = {"temperature_asked": known["temperature_asked"], **values}  # not in older recordings
    if set(values) != set(known) or len({p.name for p in decision.parameters}) != len(decision.parameters):
        odd = ", ".join(sorted(set(values) ^ set(known))) or "one appears twice"
        raise ValueError(f"its parameters are not those of this version: {odd}")
    wrong = [name for name, value in values.items() if type(value) is not type(known[name])]
    if wrong:
        raise ValueError(f"its parameter {wrong[0]} is of another type than in this version")
    parameters = Parameters(**values)  # type: ignore[arg-type]
    if parameters.objective not in OBJECTIVES:
        raise ValueError(f"its objective {parameters.objective!r} is unknown here")
    return parameters
