#!/usr/bin/env python3
"""Draw the libraries of the Jetson Xavier NX beside figure 4 of Dynamic-OFA: docs/xavier_nx_libraries.png.

Figure 4 is one measurement of many networks. The GPU library rests on another one, of the same sub-networks:
it is drawn apart, in grey, and must not be compared with the baselines. The CPU library is fitted to 4b.

    python tools/plot_xavier_libraries.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from matplotlib.axes import Axes

from dynofa_ros.library.library import Library, load_library
from dynofa_ros.paths import share_file
from dynofa_ros.plots import finish, new_figure, style

GREY, OURS = "#57606a", "#0969da"
REFERENCE = "Dynamic-OFA"
BASELINES = {  # colour, marker
    "OFA static, fine-tuned": ("#1a7f37", "D"),
    "AutoSlim-MnasNet": ("#cf222e", "^"),
    "MutualNet MBv1": ("#bf8700", "v"),
    "MutualNet MBv2": ("#953800", "<"),
    "Slimmable MBv1": ("#8250df", ">"),
    "US-Slimmable MBv1": ("#d4a72c", "x"),
    "US-Slimmable MBv2": ("#1b7c83", "+"),
}
Points = list[tuple[float, float]]


def draw_figure(axis: Axes, series: dict[str, Points]) -> None:
    """The published points; those of Dynamic-OFA are what the baselines compare with."""
    for name, (colour, marker) in BASELINES.items():
        axis.plot(
            *zip(*series[name], strict=True),
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=0.8,
            label=name,
        )
    axis.plot(
        *zip(*series[REFERENCE], strict=True),
        color=OURS,
        marker="s",
        markersize=6,
        linewidth=1.4,
        label=f"{REFERENCE}, comparable with the baselines",
    )


def draw_library(axis: Axes, library: Library, unit_ms: float, colour: str, name: str) -> None:
    """Entries of a library: filled = published, open = predicted."""
    for source, fill in (("published", "full"), ("predicted", "none")):
        points = [
            (e.latency_ms.median / unit_ms, 100 * e.accuracy) for e in library if e.latency_source == source
        ]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                linestyle="",
                marker="o",
                markersize=4.5,
                markeredgewidth=0.9,
                fillstyle=fill,
                color=colour,
                label=f"{name}, {source}",
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--libraries", type=Path, metavar="DIR", help="default: those of the package")
    parser.add_argument("--out", type=Path, default=Path("docs/xavier_nx_libraries.png"), metavar="PNG")
    options = parser.parse_args()
    folder = options.libraries or share_file("config", "libraries", "xavier_nx")
    gpu, cpu = (load_library(folder / f"{p}_ofa_mbv3_w1.2.yaml") for p in ("gpu", "cpu"))
    figure4 = msgspec.yaml.decode(share_file("config", "published", "xavier_nx_figure4.yaml").read_bytes())

    figure, axes = new_figure(1, 2, (12.5, 6.6))
    left, right = axes[0]
    draw_figure(left, figure4["gpu_ms"])
    draw_library(left, gpu, 1.0, GREY, "library gpu")
    left.text(
        90,
        80.6,
        "grey: the library, another and faster\nmeasurement of the same sub-networks;\n"
        "not comparable with the other points",
        color=GREY,
        va="top",
    )
    left.set_title("GPU: figure 4a, and the library", loc="left", fontweight="bold")
    left.set_xlabel("latency (ms)")
    left.set_ylabel("ImageNet top-1 (%)")
    draw_figure(right, figure4["cpu_s"])
    draw_library(right, cpu, 1000.0, OURS, "library cpu, scaled to Dynamic-OFA in 4b")
    right.set_title("CPU: figure 4b, and the library scaled to it", loc="left", fontweight="bold")
    right.set_xlabel("latency (s)")
    for axis in (left, right):
        axis.set_ylim(60, 81)
        style(axis)
    entries = {
        label: handle
        for axis in (left, right)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5
    )
    finish(figure, options.out, "Jetson Xavier NX: published points, and the libraries of this package")


if __name__ == "__main__":
    main()
