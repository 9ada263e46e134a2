"""What a demo plays: the five phases, or a scenario. Says what the nodes start with and turns the knobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dynofa_ros.cli.common import CliError
from dynofa_ros.demo.scenario import PROCESSOR, Mapped, phases_of
from dynofa_ros.demo.timeline import LATENCY_TARGET_MS, MISS_TOLERANCE, PHASES, Load
from dynofa_ros.manager.types import AppTargets
from dynofa_ros.recording import metrics
from dynofa_ros.recording.run import Run
from dynofa_ros.simulation import scene as scenes

if TYPE_CHECKING:
    from dynofa_ros.demo.director import Link

DEVICE, MANAGER = "dynofa/device", "dynofa/manager"


@dataclass(frozen=True)
class Setup:
    """Start-up parameters that the script decides: of each application, of the device; rate of the camera."""

    perception: Mapping[str, Mapping[str, Any]]
    device: Mapping[str, Any]
    rate_hz: float
    processor: str = "cpu"


class Script(Protocol):
    """Phases that follow each other without a gap."""

    @property
    def names(self) -> Sequence[str]:
        """Of the phases, in their order."""
        ...

    @property
    def ends_s(self) -> Sequence[float]:
        """When each phase ends, from the start of the first."""
        ...

    @property
    def setup(self) -> Setup:
        """What the nodes start with."""
        ...

    def apply(self, link: Link, index: int) -> None:
        """Turn the knobs of the phase that begins now. Raises CliError."""
        ...


@dataclass
class FivePhases:
    """Five phases of equal length; each changes one thing against the first."""

    apps: Sequence[str]
    seconds: float
    rate_hz: float
    names: Sequence[str] = tuple(phase.name for phase in PHASES)
    _no_cap: Any = field(default=None, init=False)

    @property
    def ends_s(self) -> Sequence[float]:
        return [self.seconds * (n + 1) / len(PHASES) for n in range(len(PHASES))]

    @property
    def setup(self) -> Setup:
        targets = {"latency_target_ms": LATENCY_TARGET_MS, "miss_tolerance": MISS_TOLERANCE}
        own = {app: {**targets, "rate_hz": self.rate_hz} for app in self.apps}
        return Setup(own, {}, self.rate_hz)

    def apply(self, link: Link, index: int) -> None:
        if index == 0:
            self._no_cap = link.get_parameter(MANAGER, "power_cap_w")
        phase = PHASES[index]
        cap_w = self._no_cap
        if phase.power_cap_share is not None:
            cap_w = phase.power_cap_share * steady_power_w(link.live)
        for app in self.apps:  # first: a cap that goes must not open the way to what the target then forbids
            link.set_parameters(f"perception/{app}", {"latency_target_ms": phase.latency_target_ms})
        link.set_load("cpu", phase.load)
        link.set_parameters(MANAGER, {"power_cap_w": cap_w})


@dataclass
class ScenarioScript:
    """The events of a scenario that was carried over."""

    mapped: Mapped

    def __post_init__(self) -> None:
        self._phases = phases_of(self.mapped.scene)

    @property
    def names(self) -> Sequence[str]:
        return [phase.name for phase in self._phases]

    @property
    def ends_s(self) -> Sequence[float]:
        return [phase.end_s for phase in self._phases]

    @property
    def setup(self) -> Setup:
        scene = self.mapped.scene
        own = {app.name: target_parameters(app.targets) for app in scene.apps}
        device = {"simulated_mode": scene.mode or ""}
        return Setup(own, device, max(app.targets.rate_hz for app in scene.apps), PROCESSOR)

    def apply(self, link: Link, index: int) -> None:
        for event in self._phases[index].events:
            if isinstance(event, scenes.NewTargets):
                link.set_parameters(f"perception/{event.targets.app}", target_parameters(event.targets))
            elif isinstance(event, scenes.NewMode):
                link.set_parameters(DEVICE, {"simulated_mode": event.mode})
            elif isinstance(event, scenes.Load):
                link.set_load(event.processor, Load(100.0 * event.utilization, event.slowdown))


def target_parameters(targets: AppTargets) -> dict[str, Any]:
    """Parameters of the perception node for targets."""
    values = asdict(targets)
    del values["app"]
    return values


def steady_power_w(live: Run) -> float:
    """Mean power of the second half of the steady phase. Raises CliError if there is no telemetry."""
    begin_ns, end_ns = live.marks[0].time_ns, live.marks[1].time_ns
    middle_ns = (begin_ns + end_ns) // 2
    power_w = metrics.mean(t.power_w for t in live.telemetry if middle_ns <= t.time_ns < end_ns)
    if power_w != power_w:
        raise CliError("no power_cap phase: dynofa/device told no power in the steady phase")
    return power_w
