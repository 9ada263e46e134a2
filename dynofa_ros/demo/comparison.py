"""A live scenario beside its simulation: the same targets, library, events and manager in simulated time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynofa_ros.demo.scenario import (
    PROCESSOR,
    Mapped,
    ScenarioPhases,
    ScenePhase,
    description,
    live_library,
    map_scene,
    original,
    phases_of,
)
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.recorded import clocks_at, recorded
from dynofa_ros.evaluation.scenarios import scaled
from dynofa_ros.latency import latency
from dynofa_ros.library.library import load_library, save_library
from dynofa_ros.messages import SubnetEntry
from dynofa_ros.recording import metrics
from dynofa_ros.recording.run import Monitor, Reading, Run
from dynofa_ros.simulation import scene as scenes
from dynofa_ros.simulation.log import Run as SimulatedRun
from dynofa_ros.simulation.simulator import simulate

S_TO_NS = 1e9
SETTLE_S = 0.5  # after an event, before which a frame says nothing about noise
SPIKE = 1.25  # a frame that took so many times its usual time is a spike
FEWEST = 30  # frames from which noise is measured


class LiveScenario:
    """One scenario with the real nodes: what it becomes on this computer, and its simulation."""

    def __init__(self, scenario: str, seconds: float | None, seed: int) -> None:
        self._scenario = scenario
        self._seconds = seconds
        self._seed = seed
        self._scene = original(scenario)

    @property
    def apps(self) -> tuple[str, ...]:
        """Names of the applications."""
        return tuple(app.name for app in self._scene.apps)

    def prepare(self, library: Path, emulated_slowdown: float) -> ScenarioPhases:
        """What is played. The library measured on this computer is rewritten for the scenario's processor."""
        live = live_library(load_library(library), self._scene)
        save_library(library, live)
        self._slowdown = emulated_slowdown
        self._mapped = map_scene(self._scenario, live.subnet_entries(emulated_slowdown), self._seconds)
        return ScenarioPhases(self._mapped)

    def simulate(self, live: Run, summary: dict[str, Any], warm_up_s: float) -> Run:
        """Simulate the same and add both to the summary; returns the simulated run."""
        measured = measure(live, self._mapped)
        run = simulated(self._mapped, measured, warm_up_s, self._seed)
        phases = [(phase.name, phase.start_s) for phase in phases_of(self._mapped.scene)]
        beside = recorded(run, phases, warm_up_s, live.marks[0].time_ns)
        summary["scenario"] = description(self._mapped, self._slowdown)
        summary["simulated"] = figures_of(beside, measured, self._seed)
        summary["comparison"] = compare(live, beside)
        return beside


@dataclass(frozen=True)
class Measured:
    """Spread of the live inferences against library, clock and load. ``bias``: median factor."""

    noise: scenes.Noise
    bias: float
    overhead_ms: float
    frames: int


def measure(live: Run, mapped: Mapped) -> Measured:
    """Noise of a live run, from the frames whose clock and load are known; ISOLATED if they are few."""
    entries = {(e.id, e.processor): e for e in mapped.scene.apps[0].library}
    residuals = [
        math.log(m.inference_ms / expected)
        for m, phase in _settled(live, phases_of(mapped.scene))
        if (expected := _expected_ms(m, entries.get((m.subnet_id, m.processor)), phase, live.clocks))
    ]
    overhead_ms = metrics.percentile([m.latency_ms - m.inference_ms for m in live.monitors], 50)
    if len(residuals) < FEWEST:
        return Measured(scenes.ISOLATED, 1.0, overhead_ms, len(residuals))
    middle = metrics.percentile(residuals, 50)
    usual = [r - middle for r in residuals if r - middle < math.log(SPIKE)]
    spikes = [r - middle for r in residuals if r - middle >= math.log(SPIKE)]
    noise = scenes.Noise(
        sigma=1.4826 * metrics.percentile([abs(r) for r in usual], 50),
        spike_share=len(spikes) / len(residuals),
        spike=math.exp(metrics.percentile(spikes, 50)) if spikes else 1.0,
        correlation=_correlation(usual),
    )
    return Measured(noise, math.exp(middle), overhead_ms, len(residuals))


def simulated(mapped: Mapped, measured: Measured, warm_up_s: float, seed: int) -> SimulatedRun:
    """The scene under our manager, begun ``warm_up_s`` earlier as the live one was."""
    scene = mapped.scene
    library = scaled(scene.apps[0].library, measured.bias)
    warm = replace(
        scene,
        apps=tuple(replace(a, library=library, overhead_ms=measured.overhead_ms) for a in scene.apps),
        duration_s=scene.duration_s + warm_up_s,
        timeline=tuple(replace(event, at_s=event.at_s + warm_up_s) for event in scene.timeline),
        noise=measured.noise,
    )
    return simulate(warm, ManagerPolicy(), seed)


def compare(live: Run, beside: Run) -> dict[str, Any]:
    """Figures of both runs side by side, of the whole and of each phase: ``{figure: {live, simulated}}``."""
    runs = {
        name: (run, metrics.summary(run), metrics.phases(run))
        for name, run in (("live", live), ("simulated", beside))
    }

    def side_by_side(index: int | None = None) -> dict[str, Any]:
        """Of one phase; None = of the whole."""
        own = {
            name: _figures(run, summary, cut)
            if index is None
            else _figures(run, summary["phases"][index], cut[index : index + 1])
            for name, (run, summary, cut) in runs.items()
        }
        return {key: {name: values[key] for name, values in own.items()} for key in own["live"]}

    phases = [{"name": p.name, **side_by_side(i)} for i, p in enumerate(runs["live"][2])]
    return {**side_by_side(), "phases": phases}


def figures_of(beside: Run, measured: Measured, seed: int) -> dict[str, Any]:
    """The simulated run with the keys of the live summary that it has, and what it was simulated with."""
    summary = metrics.summary(beside)
    for part in (summary, *summary["phases"]):
        for key in ("frames_published", "decisions", *metrics.NODE_CPU, "malformed_frames"):
            part.pop(key)  # a simulation has none of these, or nobody asked
    del summary["errors"]
    return {
        "policy": "ours",
        "seed": seed,
        "simulated_with": {
            "noise_source": "live run" if measured.frames >= FEWEST else "isolated",
            "noise": asdict(measured.noise),
            "latency_factor": measured.bias,
            "overhead_ms": measured.overhead_ms,
        },
        **summary,
    }


def _figures(run: Run, summary: Mapping[str, Any], cut: Sequence[metrics.Phase]) -> dict[str, Any]:
    start_ns, end_ns = cut[0].start_ns, cut[-1].end_ns
    monitors = metrics.within(run.monitors, start_ns, end_ns)
    minutes = (end_ns - start_ns) / S_TO_NS / 60.0
    counted = Counter(m.subnet_id for m in monitors)
    return {
        "deadline_miss_percent": summary["deadline_miss_percent"],
        "deadline_miss_percent_settled": summary["deadline_miss_percent_settled"],
        "accuracy": summary["accuracy"]["expected"],
        "latency_p50_ms": summary["latency_ms"]["p50"],
        "energy_j": summary["energy_j"],
        "mean_power_w": summary["mean_power_w"],
        "subnet_switches_per_min": summary["subnet_switches"] / minutes,
        "subnet_shares": {subnet: n / len(monitors) for subnet, n in counted.most_common()},
    }


def _settled(live: Run, phases: Sequence[ScenePhase]) -> list[tuple[Monitor, ScenePhase]]:
    """Frames with the phase that they began and ended in, without those that followed its event closely."""
    found = []
    for cut, phase in zip(metrics.phases(live), phases, strict=False):
        begin_ns = cut.start_ns + round(SETTLE_S * S_TO_NS)
        found += [(m, phase) for m in metrics.within(live.monitors, begin_ns, cut.end_ns)]
    return found


def _correlation(values: Sequence[float]) -> float:
    """Of each value with the next, at least 0; 0 where all are alike."""
    with np.errstate(invalid="ignore"):
        found = float(np.corrcoef(values[:-1], values[1:])[0, 1])
    return min(0.95, max(0.0, found)) if math.isfinite(found) else 0.0


def _expected_ms(
    frame: Monitor,
    entry: SubnetEntry | None,
    phase: ScenePhase,
    clocks: Sequence[Reading[Mapping[str, float]]],
) -> float | None:
    """What the inference should have taken; None if that is not known, or the clock moved meanwhile."""
    if entry is None or not entry.reference_frequencies:
        return None
    seen = {
        clocks_at(clocks, at_ns).get(PROCESSOR, math.nan)
        for at_ns in (frame.time_ns, frame.time_ns - round(1e6 * frame.latency_ms))
    }
    hz = seen.pop()
    if seen or not (math.isfinite(hz) and hz > 0.0):
        return None
    ratio = entry.reference_frequencies[0].frequency_hz / hz
    return float(latency(entry.alpha_ms, entry.beta_ms, ratio, slowdown=1.0 + phase.slowdown))
