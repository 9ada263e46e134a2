"""`dynofa demo --scenario`: a scenario of the evaluation with the real nodes, its simulation beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynofa_ros.demo.comparison import as_records, compare, figures_of, measure, simulated
from dynofa_ros.demo.phases import ScenarioScript
from dynofa_ros.demo.scenario import description, live_library, map_scene, original, phases_of, told_entries
from dynofa_ros.library.library import load_library, save_library
from dynofa_ros.recording.run import Run


class Played:
    """One scenario: what it becomes on this computer, and what the simulator says of it."""

    def __init__(self, scenario: str, seconds: float | None, seed: int) -> None:
        self._scenario = scenario
        self._seconds = seconds
        self._seed = seed
        self._scene = original(scenario)

    @property
    def apps(self) -> tuple[str, ...]:
        """Names of the applications."""
        return tuple(app.name for app in self._scene.apps)

    def prepare(self, library: Path, emulated_slowdown: float) -> ScenarioScript:
        """What is played. The library measured on this computer is rewritten for the scenario's processor."""
        live = live_library(load_library(library), self._scene)
        save_library(library, live)
        entries = told_entries(live, emulated_slowdown)
        self._mapped = map_scene(self._scenario, entries, self._seconds)
        self._slowdown = emulated_slowdown
        return ScenarioScript(self._mapped)

    def simulate(self, live: Run, summary: dict[str, Any], warm_up_s: float) -> Run:
        """Simulate the same and add both to the summary; returns the simulated run."""
        measured = measure(live, self._mapped)
        run = simulated(self._mapped, measured, warm_up_s, self._seed)
        origin_ns = live.marks[0].time_ns
        beside = as_records(run, phases_of(self._mapped.scene), warm_up_s, origin_ns)
        summary["scenario"] = description(self._mapped, self._slowdown)
        summary["simulated"] = figures_of(beside, measured, self._seed)
        summary["comparison"] = compare(live, beside)
        return beside
