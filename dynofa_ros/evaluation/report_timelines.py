"""Timelines of a scene under several policies side by side: latency, accuracy, clocks, power, temperature."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynofa_ros.device.board import processor_domains
from dynofa_ros.plots import APP_COLOURS, INK, MISS, MUTED, finish, new_figure, style
from dynofa_ros.simulation.log import Run
from dynofa_ros.simulation.scene import Surroundings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = "#afb8c1"
PROCESSOR_COLOURS = {"gpu": "#1a7f37", "cpu": "#0969da", "npu": "#8250df"}
COLUMN_IN = 3.7
WIDE = 4.0  # ratio of deadlines from which latencies are drawn on a logarithmic scale
LOG_TICKS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
TRIM_PERCENTILE = 99.5  # latencies above are drawn at the edge


def plot_timelines(runs: Sequence[Run], footer: str, path: Path) -> None:
    """The same scene under several policies, one column each. Raises OSError."""
    scene = runs[0].scene
    hot = any(isinstance(event, Surroundings) for event in scene.timeline)
    rows = 5 if hot else 4
    ratios = [1.6, 1.0, 1.0, 1.0, 0.9][:rows]
    size = (COLUMN_IN * len(runs) + 1.0, 1.7 * rows + 1.0)
    figure, axes = new_figure(rows, len(runs), size, sharex=True, ratios=ratios)
    top_ms = _top_latency(runs)
    for column, run in enumerate(runs):
        _latency(axes[0, column], run, top_ms)
        _accuracy(axes[1, column], run)
        _clocks(axes[2, column], run)
        _power(axes[3, column], run)
        if hot:
            _temperature(axes[4, column], run)
        axes[0, column].set_title(run.policy, fontsize=11, fontweight="bold", loc="left")
        axes[-1, column].set_xlabel("time (s)")
        axes[-1, column].set_xlim(0.0, scene.duration_s)
        for axis in axes[:, column]:
            style(axis)
            if column:
                axis.set_ylabel("")
            for at_s in scene.steps:
                axis.axvline(at_s, color=STEP, linewidth=0.8, linestyle=":", zorder=0)
    for row in range(rows):
        _same_scale(axes[row])
    for axis in axes[1]:
        axis.set_ylim(*_accuracy_span(runs))
    figure.align_ylabels(axes[:, 0])
    handles, labels = zip(*_legend(runs), strict=True)
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8.5)
    finish(figure, path, f"{scene.name}: {scene.title}", footer)


def _legend(runs: Sequence[Run]) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    def dots(marker: str, colour: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=6)

    def line(colour: str, dashes: Any = "-") -> Line2D:
        return Line2D([], [], color=colour, linestyle=dashes, linewidth=1.2)

    scene = runs[0].scene
    names = [app.name for app in scene.apps]
    found: list[tuple[Any, str]] = [(dots(".", c), n) for n, c in zip(names, APP_COLOURS, strict=False)]
    found += [(line(MUTED, "--"), "deadline"), (dots("x", MISS), "late"), (dots("|", MISS), "lost")]
    found += [(line(c), n.upper()) for n, c in PROCESSOR_COLOURS.items() if n in scene.truth.processors]
    if any(isfinite(s.cap_w) for s in runs[0].samples):
        found.append((line(MISS, "-"), "power cap"))
    if scene.steps:
        found.append((line(STEP, ":"), "step"))
    return found


def _accuracy_span(runs: Sequence[Run]) -> tuple[float, float]:
    known = [100.0 * f.accuracy for run in runs for f in run.frames if isfinite(f.latency_ms)]
    return (min(known) - 0.6, max(known) + 0.6) if known else (0.0, 100.0)


def _top_latency(runs: Sequence[Run]) -> float:
    known = [f.latency_ms for run in runs for f in run.frames if isfinite(f.latency_ms)]
    targets = [f.latency_target_ms for run in runs for f in run.frames]
    if not known:
        return 1.0
    return 1.08 * max(float(np.percentile(known, TRIM_PERCENTILE)), max(targets))


def _latency(axis: Axes, run: Run, top_ms: float) -> None:
    names = [app.name for app in run.scene.apps]
    for name, colour in zip(names, APP_COLOURS, strict=False):
        frames = [f for f in run.frames if f.app == name and isfinite(f.latency_ms)]
        times = [f.arrived_s for f in frames]
        shown = [min(f.latency_ms, top_ms) for f in frames]
        axis.plot(times, shown, ".", markersize=2.5, color=colour, label=name, alpha=0.75, rasterized=True)
    late = [f for f in run.frames if f.missed and isfinite(f.latency_ms)]
    axis.plot(
        [f.arrived_s for f in late], [min(f.latency_ms, top_ms) for f in late], "x", markersize=4, color=MISS
    )
    lost = [f.arrived_s for f in run.frames if f.missed and not isfinite(f.latency_ms)]
    axis.plot(lost, [0.03] * len(lost), "|", markersize=6, color=MISS, transform=axis.get_xaxis_transform())
    _targets(axis, run)
    axis.set_ylim(0.0, top_ms * 1.03)
    axis.set_ylabel("latency (ms)")
    deadlines = [app.targets.latency_target_ms for app in run.scene.apps]
    if max(deadlines) > WIDE * min(deadlines):
        axis.set_yscale("log")
        axis.set_ylim(0.3 * min(deadlines), top_ms * 1.1)
        axis.set_yticks([t for t in LOG_TICKS_MS if t < top_ms], [str(t) for t in LOG_TICKS_MS if t < top_ms])
        axis.minorticks_off()


def _targets(axis: Axes, run: Run) -> None:
    """Deadlines of each application, in its colour."""
    scene = run.scene
    for app, colour in zip(scene.apps, APP_COLOURS, strict=False):
        targets = scene.targets_of(app)
        times = [*(at_s for at_s, _ in targets), min(app.until_s, scene.duration_s)]
        deadlines = [asked.latency_target_ms for _, asked in targets]
        axis.stairs(deadlines, times, baseline=None, color=colour, linewidth=1.0, linestyle="--")


def _accuracy(axis: Axes, run: Run) -> None:
    for app, colour in zip(run.scene.apps, APP_COLOURS, strict=False):
        frames = [f for f in run.frames if f.app == app.name and isfinite(f.latency_ms)]
        times = [f.arrived_s for f in frames]
        axis.plot(
            times, [100.0 * f.accuracy for f in frames], color=colour, linewidth=1.2, drawstyle="steps-post"
        )
    axis.set_ylabel("accuracy (%)")


def _clocks(axis: Axes, run: Run) -> None:
    board = run.scene.truth
    for processor, colour in PROCESSOR_COLOURS.items():
        domains = processor_domains(board, processor)
        if not domains:
            continue
        track = [(at_s, hz) for at_s, domain, hz in run.clocks if domain == domains[0]]
        if track:
            times = [at_s for at_s, _ in track] + [run.scene.duration_s]
            clocks = [hz / 1e9 for _, hz in track]
            axis.stairs(clocks, times, baseline=None, color=colour, linewidth=0.8)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("clock (GHz)")


def _power(axis: Axes, run: Run) -> None:
    times = np.array([s.at_s for s in run.samples])
    energy = np.array([s.energy_j for s in run.samples])
    step = max(1, round(0.5 / (times[1] - times[0]))) if len(times) > 1 else 1
    times, energy = times[::step], energy[::step]
    axis.stairs(np.diff(energy) / np.diff(times), times, baseline=None, color=INK, linewidth=1.1)
    caps = [(s.at_s, s.cap_w) for s in run.samples if isfinite(s.cap_w)]
    if caps:
        axis.plot([t for t, _ in caps], [w for _, w in caps], ".", markersize=1.5, color=MISS)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("power (W)")


def _temperature(axis: Axes, run: Run) -> None:
    times = [s.at_s for s in run.samples]
    axis.plot(times, [s.temperature_c for s in run.samples], color=INK, linewidth=1.2)
    axis.plot(times, [s.limit_c for s in run.samples], color=MISS, linewidth=1.0, linestyle="--")
    axis.set_ylabel("temperature (°C)")


def _same_scale(axes: Sequence[Axes]) -> None:
    limits = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
