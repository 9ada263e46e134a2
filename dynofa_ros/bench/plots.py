"""The picture of `dynofa bench`: the published comparison on this machine, and the engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.bench.report import thread_count
from dynofa_ros.plots import GRID, INK, MUTED, finish, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAMILIES = {  # label, colour, marker, line
    "dynamic_ofa_6": ("Dynamic-OFA, library 6", "#0969da", "o", "-"),
    "dynamic_ofa_7": ("Dynamic-OFA, library 7", "#54aeff", "o", "--"),
    "autoslim_mnasnet": ("AutoSlim-MnasNet", "#cf222e", "s", "-"),
    "mutualnet_mbv2": ("MutualNet MobileNetV2", "#1a7f37", "^", "-"),
    "us_mbv2": ("US-Slimmable MobileNetV2", "#bf8700", "v", "-"),
    "slimmable_mbv1": ("Slimmable MobileNetV1", "#8250df", "D", "-"),
}
BARS = {  # label, colour
    "ours onnxruntime": ("masked, ONNX Runtime", "#0969da"),
    "ours openvino": ("masked, OpenVINO", "#1b7c83"),
    "ours torch": ("masked, torch", "#54aeff"),
    "static torch": ("static, torch", "#afb8c1"),
    "official": ("official dynamic forward", "#cf222e"),
}
BASE = "onnxruntime"  # the engine whose static network is 1


def drawable(results: Mapping[str, Any]) -> bool:
    """Whether there is anything to draw."""
    return bool(results.get("comparison") or results.get("engines"))


def plot(results: Mapping[str, Any], cpu: str, path: Path) -> None:
    """Draw comparison and engines, whichever there are, to a PNG file. Raises OSError."""
    comparison, engines = results.get("comparison") or [], results.get("engines") or []
    panels = [p for p in (comparison, engines) if p]
    figure, axes = new_figure(len(panels), 1, (9.5, 4.6 * len(panels)))
    for axis, rows in zip(axes[:, 0], panels, strict=True):
        if rows is comparison:
            _comparison(axis, rows, results.get("comparison_summary") or {})
        else:
            _engines(axis, rows)
    finish(figure, path, f"dynofa bench on {cpu}")


def _comparison(axis: Axes, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    for family, (label, colour, marker, line) in FAMILIES.items():
        own = sorted((r for r in rows if r["family"] == family), key=lambda r: r["latency_ms"])
        latency, accuracy = [r["latency_ms"] for r in own], [100 * r["top1"] for r in own]
        axis.plot(latency, accuracy, line, marker=marker, ms=5, lw=1.6, color=colour, label=label)
    axis.set_xlabel(
        f"latency measured here (ms, {summary.get('engine')}, {thread_count(summary.get('threads', 1))})"
    )
    axis.set_ylabel("ImageNet top-1 as published (%)")
    axis.set_xlim(left=0)
    style(axis)
    axis.legend(frameon=False, loc="lower right")


def _engines(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Latencies with one thread over that of the same network as a static ONNX Runtime model."""
    threads = min(r["threads"] for r in rows)
    rows = [r for r in rows if r["threads"] == threads]
    base = {(r["space"], r["subnet"]): r["static_ms"] for r in rows if r["engine"] == BASE}
    base = base or {(r["space"], r["subnet"]): r["static_ms"] for r in rows}
    values = {name: _bars(name, rows, base) for name in BARS}
    values = {name: found for name, found in values.items() if found}
    width = 0.8 / len(values)
    for index, (name, found) in enumerate(values.items()):
        label, colour = BARS[name]
        x = [n + (index - (len(values) - 1) / 2) * width for n, key in enumerate(base) if key in found]
        axis.bar(x, [found[key] for key in base if key in found], 0.92 * width, color=colour, label=label)
    axis.axhline(1.0, color=INK, lw=1.0, ls="--")
    axis.set_xticks(range(len(base)), [f"{subnet}\n{ms:.1f}" for (_, subnet), ms in base.items()])
    _name_spaces(axis, list(base))
    axis.set_ylabel("latency / static network in ONNX Runtime")
    axis.set_xlabel(
        f"below each name: ms of the static network, {threads} thread{'s' if threads > 1 else ''}"
    )
    style(axis, hidden=("top", "right", "left"), grid="y")
    axis.margins(y=0.18)
    axis.legend(
        frameon=False, ncols=min(3, len(values)), loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2
    )


def _bars(
    name: str, rows: Sequence[Mapping[str, Any]], base: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    who, _, engine = name.partition(" ")
    found = {}
    for row in rows:
        key, column = (row["space"], row["subnet"]), {"ours": "median_ms", "static": "static_ms"}.get(who)
        value = row[column or "official_ms"]
        if key in base and value is not None and (row["engine"] == engine or not engine):
            found[key] = value / base[key]
    return found


def _name_spaces(axis: Axes, keys: Sequence[tuple[str, str]]) -> None:
    spaces = dict.fromkeys(space for space, _ in keys)
    for space in spaces:
        places = [n for n, key in enumerate(keys) if key[0] == space]
        where = ((places[0] + places[-1]) / 2, 0.97)
        text: dict[str, Any] = {"fontweight": "bold", "color": MUTED}
        axis.annotate(space, where, xycoords=("data", "axes fraction"), ha="center", va="top", **text)
        if places[0]:
            axis.axvline(places[0] - 0.5, color=GRID, lw=1.0)
