"""What a demo plays: phases, each with the knobs that it turns, and what the nodes start with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dynofa_ros.demo.applications import DemoApp
from dynofa_ros.errors import CliError
from dynofa_ros.recording import metrics
from dynofa_ros.recording.run import Run

if TYPE_CHECKING:
    from dynofa_ros.demo.director import Director

DEVICE, MANAGER = "dynofa/device", "dynofa/manager"


@dataclass(frozen=True)
class Setup:
    """Start-up parameters that the phases decide: of each application, its rate among them; of the device."""

    applications: Mapping[str, Mapping[str, Any]]
    device: Mapping[str, Any]
    processor: str = "cpu"


class Phases(Protocol):
    """Phases that follow each other without a gap.

    names, ends_s: of the phases in their order; ends from the start of the first. setup: of the nodes.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def ends_s(self) -> Sequence[float]: ...

    @property
    def setup(self) -> Setup: ...

    def begin(self, director: Director, index: int) -> None:
        """Turn the knobs of the phase that begins now. Raises CliError."""
        ...


@dataclass(frozen=True)
class Phase:
    """What holds during one of the five phases; what is not named is as in the steady phase.

    latency_share: targets relative to those of the steady phase.
    utilization_percent, slowdown: load from outside on the CPUs; 0.5 = our work takes 50 % longer.
    power_cap_share: cap relative to the power that the steady phase used; None = no cap.
    """

    name: str
    latency_share: float = 1.0
    utilization_percent: float = 0.0
    slowdown: float = 0.0
    power_cap_share: float | None = None


PHASES = (
    Phase("steady"),
    Phase("background_load", utilization_percent=30.0, slowdown=0.5),
    Phase("power_cap", power_cap_share=0.85),
    Phase("tighter_target", latency_share=0.6),
    Phase("release"),
)


@dataclass
class FivePhases:
    """Five phases of equal length; each changes one thing against the first."""

    apps: Sequence[DemoApp]
    seconds: float
    names: Sequence[str] = tuple(phase.name for phase in PHASES)
    _no_cap: Any = field(default=None, init=False)

    @property
    def ends_s(self) -> Sequence[float]:
        return [self.seconds * (n + 1) / len(PHASES) for n in range(len(PHASES))]

    @property
    def setup(self) -> Setup:
        targets = ("latency_target_ms", "miss_tolerance", "rate_hz")
        return Setup({app.name: {name: getattr(app, name) for name in targets} for app in self.apps}, {})

    def begin(self, director: Director, index: int) -> None:
        if index == 0:
            self._no_cap = director.get_parameter(MANAGER, "power_cap_w")
        phase, cap_w = PHASES[index], self._no_cap
        if phase.power_cap_share is not None:
            cap_w = phase.power_cap_share * steady_power_w(director.live)
        for app in self.apps:  # first: a cap that goes must not open the way to what the target then forbids
            target_ms = phase.latency_share * app.latency_target_ms
            director.set_parameters(app.node, {"latency_target_ms": target_ms})
        director.set_load("cpu", phase.utilization_percent, phase.slowdown)
        director.set_parameters(MANAGER, {"power_cap_w": cap_w})


def steady_power_w(live: Run) -> float:
    """Mean power of the second half of the steady phase. Raises CliError if there is no telemetry."""
    begin_ns, end_ns = live.marks[0].time_ns, live.marks[1].time_ns
    middle_ns = (begin_ns + end_ns) // 2
    power_w = metrics.mean(t.power_w for t in live.telemetry if middle_ns <= t.time_ns < end_ns)
    if power_w != power_w:
        raise CliError("no power_cap phase: dynofa/device published no power in the steady phase")
    return power_w
