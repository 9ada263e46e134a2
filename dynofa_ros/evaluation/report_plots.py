"""Pictures of a study: energy against misses, decomposition and sweep, timelines of a scene side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynofa_ros.device.board import processor_domains
from dynofa_ros.evaluation.study import OURS, Study, interval
from dynofa_ros.plots import APP_COLOURS, INK, MISS, MUTED, finish, new_figure, style
from dynofa_ros.simulation.log import Run
from dynofa_ros.simulation.scene import Surroundings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = {"ours": "#0969da", "B": "#6e7781", "O": "#1a7f37", "manager": "#bc4c00"}
MARKS = {
    OURS: ("o", KINDS["ours"]),
    "B1": ("s", KINDS["B"]),
    "B2": ("v", KINDS["B"]),
    "B3": ("^", KINDS["B"]),
    "B4": ("D", KINDS["B"]),
    "B5": ("p", KINDS["B"]),
    "B5_10w": ("h", KINDS["B"]),
    "B6": ("X", KINDS["manager"]),
    "B6_hold": ("x", KINDS["manager"]),
    "B7": ("<", "#54aeff"),
    "B8": (">", "#54aeff"),
    "B9": ("P", KINDS["manager"]),
    "B9_tuned": ("*", KINDS["manager"]),
    "B10": ("d", KINDS["manager"]),
    "O1q": ("o", KINDS["O"]),
}
WIDTH_IN = 11.0
FAILED_PERCENT = 99.0  # who misses all that and is cheap does not set the scale of a panel
STEP = "#afb8c1"
PROCESSOR_COLOURS = {"gpu": "#1a7f37", "cpu": "#0969da", "npu": "#8250df"}
COLUMN_IN = 3.7
WIDE = 4.0  # ratio of deadlines from which latencies are drawn on a logarithmic scale
LOG_TICKS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
TRIM_PERCENTILE = 99.5  # latencies above are drawn at the edge


def plot_energy(study: Study, footer: str, path: Path) -> None:
    """Energy against misses, one panel per scene, one mark per policy with its interval."""
    from matplotlib.lines import Line2D

    names, policies = study.scenes, study.policies
    columns = min(4, max(3, len(names)))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, (WIDTH_IN, 2.6 * rows + 1.3))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, scene in zip(axes.flat, names, strict=False):
        _energy_panel(axis, study, scene)
        style(axis)
    for number in range(max(0, len(names) - columns), len(names)):
        axes.flat[number].set_xlabel("misses (%)")
    for axis in axes[:, 0]:
        axis.set_ylabel("energy (J)")
    handles = [Line2D([], [], linestyle="", label=policy, **_mark(policy)) for policy in policies]
    place: dict[str, Any] = {"loc": "outside right upper", "frameon": False}
    figure.legend(handles=handles, fontsize=8.5, title="policy", title_fontsize=8.5, **place)
    finish(figure, path, "Energy of the module against misses: compare at equal misses only", footer)


def _mark(policy: str) -> dict[str, Any]:
    """Ours in blue, oracles in green and open, other managers in orange, governors in grey."""
    marker, colour = MARKS.get(policy, ("o", KINDS["ours"] if policy.startswith(OURS) else MUTED))
    face = "none" if policy.startswith("O") else colour
    size = 7.5 if policy == OURS or policy.startswith("O") else 5.5
    return {"marker": marker, "color": colour, "markerfacecolor": face, "markersize": size}


def _energy_panel(axis: Axes, study: Study, scene: str) -> None:
    heights, ours_j = [], study.mean(scene, OURS, "energy_j.all_rails")
    for policy in study.policies:
        misses = interval(study.values(scene, policy, "miss_percent"))
        energy = interval(study.values(scene, policy, "energy_j.all_rails"))
        if not isfinite(energy[0]):
            continue
        axis.errorbar(
            misses[0],
            energy[0],
            xerr=[[misses[0] - misses[1]], [misses[2] - misses[0]]],
            yerr=[[energy[0] - energy[1]], [energy[2] - energy[0]]],
            elinewidth=0.7,
            zorder=3 if policy == OURS else 2,
            **_mark(policy),
        )
        if misses[0] < FAILED_PERCENT or energy[0] > ours_j:
            heights.append(energy[0])
    axis.set_xscale("symlog", linthresh=1.0)
    axis.set_xlim(-0.15, 150.0)
    axis.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axis.set_title(scene, fontsize=9.5, loc="left")
    if heights:  # differences of a percent must not look like a factor
        low, high = min(heights), max(heights)
        middle, half = 0.5 * (low + high), max(0.56 * (high - low), 0.15 * high)
        axis.set_ylim(middle - half, middle + half)


def plot_bars(
    values: Mapping[str, Mapping[str, tuple[float, float, float]]],
    title: str,
    unit: str,
    footer: str,
    path: Path,
) -> None:
    """Groups of horizontal bars with intervals: group -> name -> (mean, low, high)."""
    groups = {name: bars for name, bars in values.items() if bars}
    bars_in_all = sum(len(bars) for bars in groups.values())
    figure, axes = new_figure(1, 1, (WIDTH_IN * 0.75, 0.24 * bars_in_all + 0.3 * len(groups) + 1.2))
    axis = axes[0, 0]
    place, ticks = 0.0, []
    names = dict.fromkeys(n.rstrip(" *") for bars in groups.values() for n in bars)
    colours = dict(zip(names, APP_COLOURS * 3, strict=False))
    for group, bars in groups.items():
        label: dict[str, Any] = {"va": "center", "fontsize": 9, "fontweight": "bold"}
        axis.text(0.0, place, f" {group}", transform=axis.get_yaxis_transform(), **label)
        for name, (mean, low, high) in bars.items():
            place += 1.0
            colour, span = colours[name.rstrip(" *")], [[mean - low], [high - mean]]
            axis.barh(place, mean, xerr=span, color=colour, height=0.75, error_kw={"elinewidth": 0.8})
            figures: dict[str, Any] = {"va": "center", "fontsize": 7.5, "color": MUTED}
            end = (max(mean, high, 0.0), place)
            axis.annotate(f"{mean:+.1f}", end, textcoords="offset points", xytext=(4, 0), **figures)
            ticks.append((place, name))
        place += 1.4
    axis.set_yticks([p for p, _ in ticks], [n for _, n in ticks], fontsize=8)
    axis.set_ylim(place - 0.7, -0.9)  # downwards
    axis.axvline(0.0, color=INK, linewidth=0.8)
    axis.margins(x=0.12)
    axis.set_xlabel(unit)
    style(axis)
    finish(figure, path, title, footer)


# --- timelines ----------------------------------------------------------------------------------------------


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
