"""Pictures of a study: a timeline per scene, energy against misses, decomposition and sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynofa_ros.atomic import save_figure
from dynofa_ros.device.board import processor_domains
from dynofa_ros.evaluation.runlog import Run
from dynofa_ros.evaluation.scene import NewTargets, Surroundings
from dynofa_ros.evaluation.study import OURS, Study, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#24292f", "#6e7781", "#d8dee4"
APP_COLOURS = ("#0969da", "#8250df", "#1a7f37", "#bf8700", "#953800", "#1b7c83", "#6639ba", "#57606a")
MISS, STEP, CAP = "#cf222e", "#afb8c1", "#57606a"
PROCESSOR_COLOURS = {"gpu": "#1a7f37", "cpu": "#0969da", "npu": "#8250df"}
KINDS = {"ours": "#0969da", "B": "#6e7781", "O": "#1a7f37"}
WIDTH_IN, DPI = 11.0, 100
TRIM_PERCENTILE = 99.5  # latencies above are drawn at the edge
LABEL_DECADES, LABEL_HEIGHT, PANEL_POINTS = 1.0, 0.05, 150.0  # so that labels keep clear of each other


def plot_timelines(runs: Sequence[Run], footer: str, path: Path) -> None:
    """The same scene under several policies, one column each. Raises OSError."""
    scene = runs[0].scene
    hot = any(isinstance(event, Surroundings) for event in scene.timeline)
    rows = 5 if hot else 4
    ratios = [1.6, 1.0, 1.0, 1.0, 0.9][:rows]
    figure, axes = _figure(rows, len(runs), (WIDTH_IN, 2.0 * rows + 0.6), sharex=True, ratios=ratios)
    top_ms = _top_latency(runs)
    for column, run in enumerate(runs):
        _latency(axes[0, column], run, top_ms)
        _accuracy(axes[1, column], run)
        _clocks(axes[2, column], run)
        _power(axes[3, column], run)
        if hot:
            _temperature(axes[4, column], run)
        axes[0, column].set_title(run.policy, fontsize=10.5, fontweight="bold", loc="left")
        axes[-1, column].set_xlabel("time (s)")
        axes[-1, column].set_xlim(0.0, scene.duration_s)
        for axis in axes[:, column]:
            _style(axis)
            for at_s in scene.steps:
                axis.axvline(at_s, color=STEP, linewidth=0.8, linestyle=":", zorder=0)
    for row in range(rows):
        _same_scale(axes[row])
    for axis in axes[1]:
        axis.set_ylim(*_accuracy_span(runs))
    figure.align_ylabels(axes[:, 0])
    _finish(figure, f"{scene.name}: {scene.title}", footer, path)


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
    axis.plot(lost, [0.02 * top_ms] * len(lost), "|", markersize=6, color=MISS)
    _targets(axis, run)
    axis.set_ylim(0.0, top_ms * 1.03)
    axis.set_ylabel("latency (ms)")
    if len(names) > 1:
        axis.legend(fontsize=7.5, frameon=False, ncols=4, loc="upper right", markerscale=3, handletextpad=0.1)


def _targets(axis: Axes, run: Run) -> None:
    """Deadlines of each application, in its colour."""
    scene = run.scene
    for app, colour in zip(scene.apps, APP_COLOURS, strict=False):
        steps = [(app.from_s, app.targets.latency_target_ms)]
        steps += [
            (e.at_s, e.targets.latency_target_ms)
            for e in scene.timeline
            if isinstance(e, NewTargets) and e.targets.app == app.name
        ]
        end_s = min(app.until_s, scene.duration_s)
        times = [at_s for at_s, _ in steps] + [end_s]
        axis.stairs([d for _, d in steps], times, baseline=None, color=colour, linewidth=1.0, linestyle="--")


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
            axis.stairs(
                [hz / 1e9 for _, hz in track],
                times,
                baseline=None,
                color=colour,
                linewidth=1.1,
                label=processor,
            )
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("clock (GHz)")
    axis.legend(fontsize=7.5, frameon=False, ncols=3, loc="lower right")


def _power(axis: Axes, run: Run) -> None:
    times = np.array([s.at_s for s in run.samples])
    energy = np.array([s.energy_j for s in run.samples])
    step = max(1, round(0.5 / (times[1] - times[0]))) if len(times) > 1 else 1
    times, energy = times[::step], energy[::step]
    axis.stairs(np.diff(energy) / np.diff(times), times, baseline=None, color=INK, linewidth=1.1)
    caps = [(s.at_s, s.cap_w) for s in run.samples if isfinite(s.cap_w)]
    if caps:
        axis.plot(
            [t for t, _ in caps], [w for _, w in caps], ".", markersize=1.5, color=MISS, label="power cap"
        )
        axis.legend(fontsize=7.5, frameon=False, loc="upper right", markerscale=4)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("power (W)")


def _temperature(axis: Axes, run: Run) -> None:
    times = [s.at_s for s in run.samples]
    axis.plot(times, [s.temperature_c for s in run.samples], color=INK, linewidth=1.2)
    axis.plot(times, [s.limit_c for s in run.samples], color=MISS, linewidth=1.0, linestyle="--")
    axis.set_ylabel("temperature (°C)")


def plot_energy(study: Study, footer: str, path: Path) -> None:
    """Energy against misses, one panel per scene, one point per policy with its interval."""
    names = study.scenes
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = _figure(rows, columns, (WIDTH_IN, 2.9 * rows + 0.5))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, scene in zip(axes.flat, names, strict=False):
        _energy_panel(axis, study, scene)
        _style(axis)
    for axis in axes[-1]:
        axis.set_xlabel("misses (%)")
    for axis in axes[:, 0]:
        axis.set_ylabel("energy (J)")
    _finish(figure, "Energy of the module against misses: compare at equal misses only", footer, path)


def _energy_panel(axis: Axes, study: Study, scene: str) -> None:
    points = []
    for policy in study.policies:
        misses = interval(study.values(scene, policy, "miss_percent"))
        energy = interval(study.values(scene, policy, "energy_j.all_rails"))
        if not isfinite(energy[0]):
            continue
        colour = KINDS["ours"] if policy.startswith(OURS) else KINDS[policy[0]]
        axis.errorbar(
            misses[0],
            energy[0],
            xerr=[[misses[0] - misses[1]], [misses[2] - misses[0]]],
            yerr=[[energy[0] - energy[1]], [energy[2] - energy[0]]],
            fmt="o",
            markersize=6 if policy == OURS else 4,
            color=colour,
            elinewidth=0.8,
        )
        points.append((misses[0], energy[0], policy, colour))
    axis.set_xscale("symlog", linthresh=1.0)
    axis.set_xlim(-0.15, 250.0)
    axis.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axis.set_title(scene, fontsize=9.5, loc="left")
    if points:  # differences of a percent must not look like a factor
        low, high = min(p[1] for p in points), max(p[1] for p in points)
        middle, half = 0.5 * (low + high), max(0.58 * (high - low), 0.15 * high)
        axis.set_ylim(middle - half, middle + half)
    _label_points(axis, points)


def _label_points(axis: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the points; those of points that coincide are joined into one label."""
    low, high = axis.get_ylim()
    near = 0.045 * (high - low)
    groups: list[list[tuple[float, float, str, str]]] = []
    for point in sorted(points, key=lambda p: (round(np.log10(p[0] + 1.0), 1), p[1])):
        last = groups[-1][-1] if groups else None
        close = last and abs(np.log10(last[0] + 1.0) - np.log10(point[0] + 1.0)) < 0.12
        if last and close and abs(last[1] - point[1]) < near:
            groups[-1].append(point)
        else:
            groups.append([point])
    placed: list[tuple[float, float]] = []  # decade and height of labels
    for group in sorted(groups, key=lambda g: g[0][1]):
        colour = next((c for _, _, p, c in group if p == OURS), group[0][3])
        left = group[0][0] > 30.0
        decade = float(np.log10(group[0][0] + 1.0))
        height = (float(np.mean([e for _, e, _, _ in group])) - low) / (high - low)
        wanted = height
        for other, used in sorted(placed, key=lambda p: p[1]):
            if abs(other - decade) < LABEL_DECADES and abs(used - height) < LABEL_HEIGHT:
                height = used + LABEL_HEIGHT
        placed.append((decade, height))
        axis.annotate(
            " ".join(p for _, _, p, _ in group),
            (group[0][0], low + wanted * (high - low)),
            textcoords="offset points",
            xytext=(-6 if left else 6, (height - wanted) * PANEL_POINTS),
            ha="right" if left else "left",
            va="center",
            fontsize=6.5,
            color=colour,
        )


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
    figure, axes = _figure(1, 1, (WIDTH_IN * 0.75, 0.24 * bars_in_all + 0.3 * len(groups) + 1.2))
    axis = axes[0, 0]
    place, ticks = 0.0, []
    colours = dict(
        zip(
            dict.fromkeys(n.rstrip(" *") for bars in groups.values() for n in bars),
            APP_COLOURS * 3,
            strict=False,
        )
    )
    for group, bars in groups.items():
        axis.text(
            0.0,
            place,
            f" {group}",
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=9,
            fontweight="bold",
        )
        for name, (mean, low, high) in bars.items():
            place += 1.0
            axis.barh(
                place,
                mean,
                xerr=[[mean - low], [high - mean]],
                color=colours[name.rstrip(" *")],
                height=0.75,
                error_kw={"elinewidth": 0.8},
            )
            axis.annotate(
                f"{mean:+.1f}",
                (max(mean, high, 0.0), place),
                textcoords="offset points",
                xytext=(4, 0),
                va="center",
                fontsize=7.5,
                color=MUTED,
            )
            ticks.append((place, name))
        place += 1.4
    axis.set_yticks([p for p, _ in ticks], [n for _, n in ticks], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0.0, color=INK, linewidth=0.8)
    axis.margins(x=0.12)
    axis.set_xlabel(unit)
    _style(axis)
    _finish(figure, title, footer, path)


# --- common -------------------------------------------------------------------------------------------------


def _figure(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    sharex: bool = False,
    ratios: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": GRID, "axes.labelcolor": INK, "text.color": INK})
    return plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=sharex, height_ratios=ratios
    )


def _style(axis: Axes) -> None:
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED, labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _same_scale(axes: Sequence[Axes]) -> None:
    limits = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _finish(figure: Figure, title: str, footer: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(footer, fontsize=7.5, color=MUTED, x=0.01, ha="left")
    save_figure(figure, path, dpi=DPI)
    plt.close(figure)
