"""The timeline of runs as a picture: how latency, sub-network, clocks and power moved through the phases."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.plots import APP_COLOURS, GRID, MISS, MUTED, finish, new_figure, style
from dynofa_ros.recording.metrics import Phase, accuracy_metric, of_app, of_percent, percentile, phases
from dynofa_ros.recording.page import clock_series, first_time, last_time, of_apps, seconds
from dynofa_ros.recording.run import Monitor, Run, limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, HEIGHT_IN = 10.0, 8.6
COLUMN_IN, MORE_IN = 4.0, 2.4  # per further run, per further kind of application
LATENCY, ACCURACY, CLOCK, POWER = 1.5, 1.0, 1.0, 1.1  # relative heights of panels
PHASE_FILL = ("#ffffff", "#f3f6fa")
LIMIT, HEAT = "#57606a", "#d4622a"
SIMULATED: dict[str, Any] = {"color": "#bf3989", "lw": 1.2, "ls": ":"}
Apps = Mapping[str, tuple[list[Monitor], str]]  # by name: monitors and colour
DOMAIN_COLOURS = {"gpu": "#1a7f37", "npu": "#8250df", "emc": "#afb8c1"}
WIDE = 4.0  # ratio of deadlines from which latencies are drawn on a logarithmic scale
LOG_TICKS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
NEAR_C = 10.0  # from a temperature limit, where it gets a line
CPU_COLOURS = ("#0969da", "#54aeff", "#1b7c83", "#0a3069", "#6639ba", "#4ac26b", "#bf8700", "#953800")


def plot_timeline(run: Run, path: Path, simulated: Run | None = None) -> None:
    """Draw the run to a PNG file; its folder must exist. simulated: the same run in simulation, dotted."""
    plot_timelines({"": run}, path, _title(run), simulated=simulated)


def plot_timelines(
    runs: Mapping[str, Run], path: Path, title: str, footer: str = "", simulated: Run | None = None
) -> None:
    """Draw runs with the same applications side by side, by name, on the same scales."""
    kinds = _kinds(runs.values())
    ratios = [LATENCY, ACCURACY] * len(kinds) + [CLOCK, POWER]
    size = (WIDTH_IN + COLUMN_IN * (len(runs) - 1), HEIGHT_IN + MORE_IN * (len(kinds) - 1))
    figure, grid = new_figure(len(ratios), len(runs), size, sharex=True, sharey="row", ratios=ratios)
    every = [monitor for run in runs.values() for monitor in run.monitors]
    colours = dict(zip(sorted({m.app for m in every}), cycle(APP_COLOURS), strict=False))
    tops = [_latency_top([m for m in every if m.app in apps]) for apps in kinds.values()]
    heats: list[Axes] = []
    for axes, (name, run) in zip(grid.T, runs.items(), strict=True):
        found = phases(run)
        origin = found[0].start_ns if found else first_time(run)
        for index, (metric, apps) in enumerate(kinds.items()):
            own = {app: (monitors, colours[app]) for app, monitors in of_apps(run).items() if app in apps}
            _latency_panel(axes[2 * index], own, origin, tops[index])
            _accuracy_panel(axes[2 * index + 1], run, own, metric, origin)
            beside = {app: ms for app, ms in of_apps(simulated).items() if app in apps} if simulated else {}
            for n, monitors in enumerate(beside.values()):
                look = {"label": "_" if n else "simulated", **SIMULATED}
                _draw_accuracy(axes[2 * index + 1], simulated or run, monitors, origin, **look)
        _clock_panel(axes[-2], run, origin)
        if simulated is not None:
            power_w = [t.power_w for t in simulated.telemetry]
            axes[-1].plot(seconds(simulated.telemetry, origin), power_w, label="simulated", **SIMULATED)
        heats.append(_power_panel(axes[-1], run, origin))
        for axis in axes:
            _decorate(axis, found, origin)
        _name_phases(axes[0], found, origin)
        axes[0].set_title(name, fontsize=11, fontweight="bold", loc="left")
        axes[-1].set_xlabel("time (s)")
        axes[-1].set_xlim(*_span(run, found, origin))
    for axis in (*grid[:, 1:].flat, *heats[:-1]):
        axis.set_ylabel("")
    for heat in heats[1:]:
        heat.sharey(heats[0])
    heats[0].autoscale_view()  # to all of them
    for axis in grid[-2:, 0]:
        axis.set_ylim(bottom=0)
    for axis in grid[:-1, -1]:
        _legend(axis)
    _legend(grid[-1, -1], heats[-1])
    figure.align_ylabels(grid[:, 0])
    finish(figure, path, title, footer)


def _title(run: Run) -> str:
    sources = sorted({t.source for t in run.telemetry if t.source})
    device = f"device: {', '.join(sources)}" if sources else "no device telemetry"
    return f"dynofa: latency, accuracy, clocks and power of one run ({device})"


def _span(run: Run, found: Sequence[Phase], origin: int) -> tuple[float, float]:
    start, end = (found[0].start_ns, found[-1].end_ns) if found else (first_time(run), last_time(run))
    return (start - origin) / 1e9, max((end - origin) / 1e9, (start - origin) / 1e9 + 0.1)


def _kinds(runs: Collection[Run]) -> dict[str, list[str]]:
    """Applications by the metric of their accuracy: those of another kind have panels of their own."""
    kinds: dict[str, list[str]] = {}
    for run in runs:
        names = list(of_apps(run))
        for app in names:
            apps = kinds.setdefault(accuracy_metric(of_app(run, app, names)), [])
            apps += [] if app in apps else [app]
    return kinds or {"": []}


def _latency_panel(axis: Axes, apps: Apps, origin: int, top: float) -> None:
    for index, (app, (monitors, colour)) in enumerate(apps.items()):
        only_once = "_" if index else ""  # matplotlib leaves labels with an underscore out of the legend
        times = seconds(monitors, origin)
        latencies = [min(m.latency_ms, 0.97 * top) for m in monitors]  # a hiccup stays visible at the edge
        axis.plot(times, latencies, ".", ms=3, color=colour, label=f"{app}, per request")
        targets = [m.latency_target_ms for m in monitors]
        axis.step(times, targets, where="post", color=LIMIT, lw=1.3, ls="--", label=f"{only_once}target")
        missed = [
            (t, value) for t, value, m in zip(times, latencies, monitors, strict=True) if m.deadline_missed
        ]
        axis.plot(*_columns(missed), "x", ms=5, color=MISS, label=f"{only_once}missed")
        lost = [(t, 0.03) for t, m in zip(times, monitors, strict=True) if m.unanswered]
        if lost:
            place: dict[str, Any] = {"transform": axis.get_xaxis_transform()}
            axis.plot(*_columns(lost), "v", ms=5, color=MISS, label=f"{app}, not answered", **place)
    axis.set_ylabel("latency (ms)")
    targets = [m.latency_target_ms for monitors, _ in apps.values() for m in monitors]
    least, most = min(targets, default=math.nan), max(targets, default=math.nan)
    wide = most > WIDE * least
    axis.set_yscale("log" if wide else "linear")
    axis.set_ylim(0.3 * least if wide else 0.0, top)
    if wide:
        axis.set_yticks([t for t in LOG_TICKS_MS if t < top], [str(t) for t in LOG_TICKS_MS if t < top])
        axis.minorticks_off()


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _latency_top(monitors: Sequence[Monitor]) -> float:
    """High enough for all targets and nearly all frames: one hiccup must not flatten the panel."""
    latencies = [m.latency_ms for m in monitors]
    targets = [m.latency_target_ms for m in monitors if math.isfinite(m.latency_target_ms)]
    most = percentile(latencies, 99)
    return 1.25 * max([most if math.isfinite(most) else 1.0, *targets])


def _accuracy_panel(axis: Axes, run: Run, apps: Apps, metric: str, origin: int) -> None:
    for app, (monitors, colour) in apps.items():
        _draw_accuracy(axis, run, monitors, origin, color=colour, lw=1.6, label=f"{app}, library")
    axis.set_ylabel(f"sub-network\n{of_percent(metric) or 'accuracy'} (%)")
    axis.margins(y=0.2)


def _draw_accuracy(axis: Axes, run: Run, monitors: Sequence[Monitor], origin: int, **look: Any) -> None:
    """What the library says of the sub-network of each request, in percent."""
    accuracies = [run.accuracy.get((m.app, m.subnet_id, m.processor), math.nan) for m in monitors]
    axis.step(seconds(monitors, origin), [100.0 * a for a in accuracies], where="post", **look)


def _clock_panel(axis: Axes, run: Run, origin: int) -> None:
    times = seconds(run.telemetry, origin)
    cpu_colours = cycle(CPU_COLOURS)
    for mhz, domains in clock_series(run.telemetry).items():
        colour = DOMAIN_COLOURS.get(domains[0]) or next(cpu_colours)
        axis.step(times, mhz, where="post", color=colour, lw=1.6, label=", ".join(domains))
    axis.set_ylabel("clock (MHz)")
    axis.margins(y=0.15)


def _power_panel(axis: Axes, run: Run, origin: int) -> Axes:
    """Returns the axis of the temperature."""
    times = seconds(run.telemetry, origin)
    axis.plot(times, [t.power_w for t in run.telemetry], color=APP_COLOURS[0], lw=1.3, label="power")
    caps = [limit(d, "power_cap_w") for d in run.decisions]
    decided = seconds(run.decisions, origin)
    dashes: dict[str, Any] = {"where": "post", "lw": 1.3, "ls": "--"}
    if any(map(math.isfinite, caps)):
        axis.step(decided, caps, color=LIMIT, label="power cap", **dashes)
    axis.set_ylabel("power (W)")
    axis.margins(y=0.2)
    heat = axis.twinx()
    heat.plot(times, [t.temperature_c for t in run.telemetry], color=HEAT, lw=1.3, label="temperature")
    limits_c = [limit(d, "temperature_limit_c") for d in run.decisions]
    near_c = min(limits_c, default=math.nan) - NEAR_C
    if any(t.temperature_c > near_c for t in run.telemetry):
        heat.step(decided, limits_c, color=HEAT, label="temperature limit", **dashes)
    heat.set_ylabel("hottest (°C)", color=HEAT)
    heat.margins(y=0.4)
    style(heat, hidden=("top", "left", "right"))
    heat.grid(False)
    return heat


def _decorate(axis: Axes, found: Sequence[Phase], origin: int) -> None:
    style(axis, hidden=("top", "left", "right"), grid="y")
    for index, phase in enumerate(found):
        start, end = (phase.start_ns - origin) / 1e9, (phase.end_ns - origin) / 1e9
        axis.axvspan(start, end, color=PHASE_FILL[index % 2], lw=0, zorder=0)
        if index:
            axis.axvline(start, color=GRID, lw=1.0, zorder=1)


def _legend(*axes: Axes) -> None:
    """One legend for axes in one place."""
    shown = [one for axis in axes for one in zip(*axis.get_legend_handles_labels(), strict=True)]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.085, 1.0), "borderaxespad": 0}
    if shown:
        axes[0].legend(*zip(*shown, strict=True), frameon=False, fontsize=8.5, **place)


def _name_phases(axis: Axes, found: Sequence[Phase], origin: int) -> None:
    for phase in found:
        middle = ((phase.start_ns + phase.end_ns) / 2 - origin) / 1e9
        axis.annotate(
            phase.name.replace("_", " "),
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9.5,
            color=MUTED,
            fontweight="bold",
        )
