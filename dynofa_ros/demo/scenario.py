"""Scenarios of `dynofa evaluate` as live runs: what their figures become on the demo's supernet.

A scenario is declared for the Xavier NX libraries (GPU, 41 to 62 ms). The demo runs its own small supernet,
stretched so that the largest sub-network takes 45 ms at the top clock. The rules, all in `map_scene`:

- processor: the demo's sub-networks stand for the GPU of the board, with its clocks and modes, and with the
  share of beta in the latency that the scenario's library has. Applications stay there: the emulation knows
  the speed of one processor.
- latency_target_ms: x (largest sub-network live / largest in the scenario's library, both at the top clock).
- accuracy_target, accuracy_floor: the same share of the way from the least to the most accurate sub-network;
  1.0 and 0.0 stay.
- rate_hz, priority, miss_tolerance, loads, modes: as they are. The nvpmodel mode that `dynofa evaluate` adds
  (GPU at 510 MHz) is MODE_10W_DESKTOP, the board's own with that cap.
- time: as it is, or all of it scaled to --seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from dynofa_ros.demo.phases import DEVICE, Setup
from dynofa_ros.device.board import load_board
from dynofa_ros.evaluation.scenarios import BOARD, MODE_CAPPED, scenes
from dynofa_ros.library.library import Library
from dynofa_ros.messages import AppTargets, SubnetEntry
from dynofa_ros.simulation.scene import App, Event, Load, NewMode, NewTargets, Scene

if TYPE_CHECKING:
    from dynofa_ros.demo.director import Director

PROCESSOR = "gpu"
CAPPED_LIVE = "MODE_10W_DESKTOP"  # of the board file; GPU at 510 MHz as MODE_CAPPED


@dataclass(frozen=True)
class Scale:
    """How targets are carried over. Accuracies: (least, most) of the scenario's library and of the demo's."""

    latency: float
    scenario_accuracy: tuple[float, float]
    live_accuracy: tuple[float, float]

    def targets(self, declared: AppTargets) -> AppTargets:
        """The live targets for those of the scenario."""
        return replace(
            declared,
            latency_target_ms=round(self.latency * declared.latency_target_ms, 1),
            accuracy_target=self.accuracy(declared.accuracy_target),
            accuracy_floor=self.accuracy(declared.accuracy_floor),
        )

    def accuracy(self, declared: float) -> float:
        """The same share of the way from the least to the most accurate sub-network."""
        if declared in (0.0, 1.0):
            return declared
        (low, high), (live_low, live_high) = self.scenario_accuracy, self.live_accuracy
        share = min(1.0, max(0.0, (declared - low) / (high - low)))
        # rounded down: a target at the top must not be above it
        return int(1e4 * (live_low + share * (live_high - live_low))) / 1e4


@dataclass(frozen=True)
class Mapped:
    """A scenario carried over. ``scene``: with live targets, times and library."""

    scenario: str
    scene: Scene
    scale: Scale
    time_factor: float


@dataclass(frozen=True)
class ScenePhase:
    """What holds from one event of the scene to the next. ``targets``: of every application."""

    name: str
    start_s: float
    end_s: float
    events: tuple[Event, ...]
    targets: tuple[AppTargets, ...]
    mode: str | None
    slowdown: float  # by load from outside, 0.35 = 35 %


def original(scenario: str) -> Scene:
    """The scene that a scenario is named after, without its variants."""
    return scenes([scenario])[0]


def live_library(measured: Library, scene: Scene) -> Library:
    """The demo's library, measured on this computer, standing for the board's ``PROCESSOR``."""
    largest = _largest(scene.apps[0])
    share = largest.beta_ms / (largest.alpha_ms + largest.beta_ms)
    entries = tuple(
        msgspec.structs.replace(
            e, alpha_ms=(1.0 - share) * e.latency_ms.median, beta_ms=share * e.latency_ms.median
        )
        for e in measured.entries
    )
    top_hz = load_board(BOARD).domains[PROCESSOR].frequencies_hz[-1]
    return msgspec.structs.replace(
        measured,
        processor=PROCESSOR,
        entries=entries,
        reference_frequencies_hz={PROCESSOR: top_hz},
        notes=(f"the demo's sub-networks standing for the {PROCESSOR} of the simulated {BOARD}",),
    )


def map_scene(scenario: str, entries: tuple[SubnetEntry, ...], seconds: float | None) -> Mapped:
    """Carry a scenario over to the demo's library. seconds: length of the time line, None = as declared."""
    declared = original(scenario)
    own = [e for e in declared.apps[0].library if e.processor == PROCESSOR]
    scale = Scale(
        max(e.latency_ms for e in entries) / _largest(declared.apps[0]).latency_ms,
        (min(e.accuracy for e in own), max(e.accuracy for e in own)),
        (min(e.accuracy for e in entries), max(e.accuracy for e in entries)),
    )
    factor = 1.0 if seconds is None else seconds / declared.duration_s
    apps = tuple(
        App(app.name, scale.targets(app.targets), entries, mapping=PROCESSOR) for app in declared.apps
    )
    scene = replace(
        declared,
        board=load_board(BOARD),
        apps=apps,
        duration_s=factor * declared.duration_s,
        timeline=tuple(_event(event, scale, factor) for event in declared.timeline),
        feasible=((0.0, inf),),
        steps=tuple(factor * at_s for at_s in declared.steps),
        bias=0.0,
        contention={},
        notes=(),
    )
    return Mapped(scenario, scene, scale, factor)


def phases_of(scene: Scene) -> tuple[ScenePhase, ...]:
    """The time line cut at its events."""
    times = sorted({0.0, *(e.at_s for e in scene.timeline)})
    targets = {app.name: app.targets for app in scene.apps}
    mode, slowdown = scene.mode, 0.0
    phases = []
    for start_s, end_s in zip(times, [*times[1:], scene.duration_s], strict=True):
        events = tuple(e for e in scene.timeline if e.at_s == start_s)
        for event in events:
            if isinstance(event, NewTargets):
                targets[event.targets.app] = event.targets
            elif isinstance(event, NewMode):
                mode = event.mode
            elif isinstance(event, Load):
                slowdown = event.slowdown
        name = "_and_".join(_name(e) for e in events) or "start"
        phases.append(ScenePhase(name, start_s, end_s, events, tuple(targets.values()), mode, slowdown))
    return tuple(phases)


@dataclass
class ScenarioPhases:
    """The events of a scenario that was carried over, as the phases of a demo."""

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
        return Setup(own, {"simulated_mode": scene.mode or ""}, PROCESSOR)

    def begin(self, director: Director, index: int) -> None:
        for event in self._phases[index].events:
            if isinstance(event, NewTargets):
                director.set_parameters(f"perception/{event.targets.app}", target_parameters(event.targets))
            elif isinstance(event, NewMode):
                director.set_parameters(DEVICE, {"simulated_mode": event.mode})
            elif isinstance(event, Load):
                director.set_load(event.processor, 100.0 * event.utilization, event.slowdown)


def target_parameters(targets: AppTargets) -> dict[str, Any]:
    """Parameters of the perception node for targets."""
    return {name: value for name, value in asdict(targets).items() if name not in ("header", "app")}


def description(mapped: Mapped, emulated_slowdown: float) -> dict[str, Any]:
    """What was carried over and how: the key ``scenario`` of summary.json."""
    scale = mapped.scale
    return {
        "name": mapped.scenario,
        "title": mapped.scene.title,
        "processor": PROCESSOR,
        "board": mapped.scene.board.name,
        "emulated_slowdown": emulated_slowdown,
        "scale": {
            "time": mapped.time_factor,
            "latency": scale.latency,
            "accuracy_scenario": list(scale.scenario_accuracy),
            "accuracy_live": list(scale.live_accuracy),
        },
        "phases": [
            {
                "name": phase.name,
                "start_s": phase.start_s,
                "end_s": phase.end_s,
                "mode": phase.mode,
                "slowdown": phase.slowdown,
                "targets": [{"app": t.app, **target_parameters(t)} for t in phase.targets],
            }
            for phase in phases_of(mapped.scene)
        ],
    }


def _event(event: Event, scale: Scale, factor: float) -> Event:
    moved = replace(event, at_s=factor * event.at_s)
    if isinstance(moved, NewTargets):
        return replace(moved, targets=scale.targets(moved.targets))
    if isinstance(moved, NewMode):
        return replace(moved, mode=CAPPED_LIVE if moved.mode == MODE_CAPPED else moved.mode)
    if isinstance(moved, Load) and moved.processor == PROCESSOR:
        return moved
    raise ValueError(f"a live run has no knob for {event}")


def _name(event: Event) -> str:
    if isinstance(event, NewTargets):
        t = event.targets
        return f"{t.latency_target_ms:.0f}ms_{100 * t.accuracy_target:.0f}%"
    if isinstance(event, NewMode):
        return event.mode.removeprefix("MODE_")
    assert isinstance(event, Load)
    return f"load_{100 * event.slowdown:.0f}%" if event.slowdown else "no_load"


def _largest(app: App) -> SubnetEntry:
    return max((e for e in app.library if e.processor == PROCESSOR), key=lambda e: e.latency_ms)
