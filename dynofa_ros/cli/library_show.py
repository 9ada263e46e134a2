"""`dynofa library show`: a library as a table, a plot and JSON."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.tables import plain_table, say, terminal
from dynofa_ros.errors import writing

if TYPE_CHECKING:
    from rich.console import Console

    from dynofa_ros.library.library import Library

COLUMNS = (  # after what tells the sub-networks of the space apart
    "accuracy",
    "",
    "median ms",
    "p95 ms",
    "",
    "alpha",
    "beta",
    "J",
    "MMACs",
    "M params",
)
MARKERS: dict[str, tuple[str, Any]] = {
    "measured": ("o", "full"),
    "published": ("s", "full"),
    "predicted": ("o", "none"),
    "declared": ("s", "none"),
}
TABLE_WIDTH = 110  # a narrow terminal wraps the rows rather than losing figures
COLOUR = "#0969da"


def add_parser(commands: Commands) -> None:
    """Add `show`."""
    parser = commands.add_parser(
        "show",
        help="print and plot a library",
        description="Checks a library file and prints its sub-networks, with where every figure comes from. "
        "Latency = alpha + beta x reference frequency / frequency.",
        epilog="example: dynofa library show gpu_ofa_mbv3_w1.2.yaml --plot gpu.png",
    )
    parser.add_argument("library", type=Path, metavar="LIBRARY", help="a library file (YAML)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw accuracy over latency here")
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.library.library import load_library

    library = load_library(options.library)
    _print(library, terminal(TABLE_WIDTH))
    import msgspec

    if options.plot is not None:
        with writing(options.plot):
            plot_library(library, options.plot)
    return OK, {"file": str(options.library), **msgspec.to_builtins(library)}


def _print(library: Library, console: Console) -> None:
    clocks = ", ".join(f"{d} {hz / 1e6:g} MHz" for d, hz in library.reference_frequencies_hz.items())
    weights = library.weights_sha256 or "none, not bound to particular weights"
    lines = [
        f"{library.space} on {library.board}, {library.processor}; reference clocks: {clocks or 'not given'}",
        f"weights sha256: {weights}",
        f"BN statistics: {library.bn_statistics.file if library.bn_statistics else 'those of the weights'}",
        *(f"note: {note}" for note in library.notes),
    ]
    for line in lines:
        say(console, line)
    _print_entries(library, console)


def _print_entries(library: Library, console: Console) -> None:
    from dynofa_ros.recording.tables import number
    from dynofa_ros.supernet.registry import load_space

    space = load_space(library.space)
    described = [space.describe(library.config(e)) for e in library.entries]
    columns = ("id", *described[0], *COLUMNS)
    rows = [
        (
            e.label,
            *choices.values(),
            number(e.accuracy, 4),
            e.accuracy_source,
            number(e.latency_ms.median, 2),
            number(e.latency_ms.p95, 2),
            e.latency_source,
            number(e.alpha_ms, 2),
            number(e.beta_ms, 2),
            number(e.energy_j, 3),
            number((e.macs or math.nan) / 1e6),
            number((e.params or math.nan) / 1e6, 2),
        )
        for e, choices in zip(library.entries, described, strict=True)
    ]
    numbers = [n for n, column in enumerate(columns) if n and column]
    console.print(plain_table(columns, rows, numbers, wrap=False, gap=1))


def plot_library(library: Library, path: Path) -> None:
    """Draw accuracy over latency as a PNG; filled markers are measured or published, open ones predicted.

    Raises OSError if the file cannot be written.
    """
    from dynofa_ros.plots import finish, new_figure, style

    figure, axes = new_figure(1, 1, (7.0, 4.4))
    axis = axes[0, 0]
    for source, (marker, fill) in MARKERS.items():
        points = [(e.latency_ms.median, 100 * e.accuracy) for e in library if e.accuracy_source == source]
        if points:
            look = {"linestyle": "", "marker": marker, "fillstyle": fill, "color": COLOUR}
            axis.plot(*zip(*points, strict=True), label=f"accuracy {source}", **look)
    axis.set_title(f"{library.space}, {library.board} {library.processor}", loc="left")
    axis.set_xlabel("latency, median (ms)")
    axis.set_ylabel(f"accuracy, {library.accuracy_metric} (%)")
    style(axis)
    axis.legend(frameon=False)
    finish(figure, path)
