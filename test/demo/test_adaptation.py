"""The phases of the demo in simulation: its phases and manager are real, applications and device are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import pytest

from dynofa_ros.application.networks import demo_library
from dynofa_ros.demo.applications import DEFAULT_TASKS, DemoApp, demo_apps
from dynofa_ros.demo.demo import SECONDS, WARM_UP_S
from dynofa_ros.demo.phases import MANAGER, PHASES, FivePhases
from dynofa_ros.device.board import load_board
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.recorded import recorded
from dynofa_ros.library.library import load_library
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import AppTargets
from dynofa_ros.paths import share_file
from dynofa_ros.recording import metrics
from dynofa_ros.recording.run import Run
from dynofa_ros.simulation.policy import Command, Observation
from dynofa_ros.simulation.scene import App, Load, NewParameters, NewTargets, Noise, Scene, Sizes
from dynofa_ros.simulation.simulator import Simulation

SEEDS = (0, 1, 2)
NOISE = Noise(0.06, 0.02, 1.3, 0.1)
LENGTHS = Sizes(
    11.0, 0.18, 0.18
)  # tokens of demo/sentences.tsv, and how well they are guessed from the source
APPS = demo_apps(DEFAULT_TASKS, None, None)


@dataclass
class Watched(ManagerPolicy):
    """``infeasible``: times of the decisions that said so."""

    infeasible: list[float] = field(default_factory=list)

    def step(self, now_s: float, observation: Observation) -> Command | None:
        command = super().step(now_s, observation)
        assert self.decision is not None
        self.infeasible += [] if self.decision.feasible else [now_s]
        return command


class SimulatedKnobs:
    """Stands in for the Director: its knobs are those of a simulation."""

    def __init__(self, simulation: Simulation, marks: Sequence[tuple[str, float]]) -> None:
        self._simulation, self._marks = simulation, marks

    @property
    def live(self) -> Run:
        return recorded(self._simulation.log, self._marks, WARM_UP_S)

    def get_parameter(self, node: str, name: str) -> float:
        return inf

    def set_parameters(self, node: str, values: Mapping[str, Any]) -> None:
        now_s = self._simulation.now_s
        if node == MANAGER:
            self._simulation.happen(NewParameters(now_s, Parameters(**values)))
        else:
            targets = self._simulation.apps[node.split("/")[1]].targets
            self._simulation.happen(NewTargets(now_s, replace(targets, **values)))

    def set_load(self, processor: str, utilization_percent: float, slowdown: float) -> None:
        load = Load(self._simulation.now_s, processor, utilization_percent / 100.0, slowdown)
        self._simulation.happen(load)


def simulated(app: DemoApp) -> App:
    library = load_library(share_file(*demo_library(app.files[1])))
    entries = library.subnet_entries(app.largest_ms / library.entries[-1].latency_ms.median)
    targets = AppTargets(
        app.name, app.latency_target_ms, rate_hz=app.rate_hz, miss_tolerance=app.miss_tolerance
    )
    text = app.task == "translation"
    return App(app.name, targets, entries, "cpu", queued=text, sizes=LENGTHS if text else None)


def played(seed: int) -> tuple[dict[str, Any], list[float]]:
    """Figures of a minute, and the times in it of decisions that were infeasible."""
    phases, policy = FivePhases(APPS, SECONDS), Watched()
    scene = Scene(
        "demo",
        "",
        load_board("xavier_nx"),
        tuple(map(simulated, APPS)),
        WARM_UP_S + SECONDS,
        noise=NOISE,
        contention={},
    )
    simulation = Simulation(scene, policy, seed)
    simulation.begin()
    starts_s = [0.0, *phases.ends_s[:-1]]
    knobs = SimulatedKnobs(simulation, list(zip(phases.names, starts_s, strict=True)))
    for index, start_s in enumerate(starts_s):
        simulation.advance(WARM_UP_S + start_s)
        phases.begin(knobs, index)  # type: ignore[arg-type]
    simulation.advance(scene.duration_s)
    return metrics.summary(knobs.live), [at_s - WARM_UP_S for at_s in policy.infeasible]


@pytest.fixture(scope="module")
def runs() -> list[tuple[dict[str, Any], list[float]]]:
    return [played(seed) for seed in SEEDS]


@pytest.mark.slow
@pytest.mark.parametrize("app", [app.name for app in APPS])
def test_every_application_of_the_default_demo_adapts(
    app: str, runs: list[tuple[dict[str, Any], list[float]]]
) -> None:
    for summary, _ in runs:
        accuracy = {p["name"]: p["apps"][app]["accuracy"]["expected"] for p in summary["phases"]}
        for pressed in ("background_load", "power_cap", "tighter_target"):
            assert accuracy[pressed] < accuracy["steady"] - 0.002, f"the same sub-network: {pressed}"
        assert accuracy["release"] > accuracy["tighter_target"] + 0.003


@pytest.mark.slow
def test_the_default_demo_misses_little_and_is_feasible_when_nothing_disturbs(
    runs: list[tuple[dict[str, Any], list[float]]],
) -> None:
    for app in APPS:
        missed = [summary["apps"][app.name]["deadline_miss_percent_settled"] for summary, _ in runs]
        assert metrics.mean(missed) < 2.0, missed
    assert not [at_s for _, infeasible in runs for at_s in infeasible if at_s < SECONDS / len(PHASES)]
