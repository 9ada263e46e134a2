"""What a policy sees and commands: the interface of a manager under test.

Messages are those of :mod:`dynofa_ros.messages`, so that a policy gets exactly what the manager node
gets. Units are in the names; times are seconds since the start of the scene; unknown numbers are NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from dynofa_ros.device.board import processor_of
from dynofa_ros.manager.inputs import Input, Parameters
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    FrequencyBand,
    SubnetCommand,
    SubnetEntry,
)
from dynofa_ros.simulation.application import SimulatedApplication
from dynofa_ros.simulation.log import FrameRecord
from dynofa_ros.simulation.plant import Plant
from dynofa_ros.simulation.scene import Scene


@dataclass(frozen=True)
class Command:
    """Knobs to turn now; what is not named stays as it is.

    ``governors``: by domain or by processor (``device.simulated.governors.GOVERNORS``). ``mode``: nvpmodel
    mode, in force where it leaves less of the GPU than the scene's own. ``decision_id`` comes back in the
    states.
    """

    knobs: Mapping[str, SubnetCommand] = field(default_factory=dict)
    bands: tuple[FrequencyBand, ...] = ()
    governors: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None
    decision_id: int = 0


@dataclass(frozen=True)
class AppView:
    """What is published about one application."""

    targets: AppTargets
    library: tuple[SubnetEntry, ...]
    running: SubnetCommand


@dataclass(frozen=True)
class Observation:
    """What the topics say at a step.

    ``inputs``: all messages since the last step, in order of arrival, as the manager node gets them.
    ``trigger``: ``event`` = not because the period is over, but because targets, a library, a parameter or
    the capabilities changed, an application left or a frame missed its deadline.
    ``clocks_hz``: read back, per domain.
    """

    trigger: Literal["periodic", "event"]
    inputs: tuple[Input, ...]
    apps: Mapping[str, AppView]
    parameters: Parameters
    capabilities: DeviceCapabilities
    clocks_hz: Mapping[str, float]
    telemetry: DeviceTelemetry | None


@dataclass(frozen=True)
class GroundTruth:
    """The truth of a running simulation at the present instant, which nobody can measure: for oracles only.

    ``scene``: what is simulated, with its timeline.
    """

    scene: Scene
    plant: Plant
    apps: Mapping[str, SimulatedApplication]

    def slowdown(self, app: str, processor: str) -> float:
        """True time of an application on a processor or cluster / time by its library: bias and outside
        load."""
        bias = self.apps[app].trace.bias
        return bias[processor_of(processor) or processor] * self.plant.processors[processor].slowdown


class Policy(ABC):
    """A manager under test. Everything it does must be a function of what it is given.

    ``clairvoyant``: gets the ground truth, and its knobs act at once and cost nothing; with a finite
    ``lead_s`` its clocks take as long as real ones, and ``on_announced`` is called so long before every
    request. By default a policy acts at the start only.
    """

    name: str
    clairvoyant = False
    lead_s: float = inf

    @abstractmethod
    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """Before the first frame; may read the board, the applications and the mode, not the timeline."""

    def wants(self) -> float:
        """Period of ``step`` in seconds; inf = events only."""
        return inf

    def on_frame(self, frame: FrameRecord) -> Command | None:
        """After every frame that was answered or dropped."""
        return None

    def on_announced(self, app: str) -> Command | None:
        """``lead_s`` before a request comes."""
        return None

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """Every ``wants()`` seconds, and at once on events."""
        return None
