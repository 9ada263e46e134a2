"""Pictures of a study: energy against misses, decomposition and sweep, timelines of a scene side by side."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.evaluation.study import OURS, Study, interval
from dynofa_ros.plots import APP_COLOURS, INK, MUTED, finish, new_figure, style

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
