"""`dynofa report`: the figures of a recorded run, recomputed from its bag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dynofa_ros.cli.common import OK, CliError, save_plot, write_json
from dynofa_ros.demo.live_table import number
from dynofa_ros.recording import metrics
from dynofa_ros.recording.bag import BagError
from dynofa_ros.recording.run import read_run

COLUMNS = ("results", "miss %", "settled", "p50 ms", "p95 ms", "accuracy", "library", "W")


def run(path: Path, namespace: str | None, json: Path | None, plot: Path | None) -> int:
    """Print the figures of a bag or of a demo's folder. Returns the exit code; raises CliError."""
    try:
        recorded = read_run(path, namespace)
    except BagError as error:
        raise CliError(str(error)) from error
    summary = metrics.summary(recorded)
    console = Console()
    print_summary(summary, console)
    print_errors(summary, console)
    if json is not None:
        write_json(json, summary)
    if plot is not None:
        save_plot(recorded, plot)
    return OK


def print_errors(summary: dict[str, Any], console: Console) -> None:
    """One line per error of the run."""
    for text in summary["errors"]:
        console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The figures as a table: one row per phase, per application where there are several, and for all."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for phase in summary["phases"]:
        table.add_row(phase["name"].replace("_", " "), *_cells(phase))
    for app, values in summary.get("apps", {}).items():
        table.add_row(app, *_cells(values), style="dim")
    table.add_row("all", *_cells(summary), style="bold")
    console.print(table)
    overhead, due = summary["overhead_ms"], summary["frames_due"]
    console.print(
        f"images {number(summary['frames_published'])} published, {due} due, "
        f"{summary['dropped_frames']} dropped, {summary['malformed_frames']} malformed; "
        f"overhead p95 {number(overhead['p95'], 1)} ms; energy {number(summary['energy_j'], 1)} J\n"
        f"{summary['decisions']} decisions, {summary['subnet_switches']} sub-network switches, "
        f"{summary['dvfs_commands']} clock commands; "
        f"manager {number(summary['manager_cpu_percent'], 1)} % of a core",
        highlight=False,
        soft_wrap=True,
    )


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """The two runs as a table, one row per phase and one for all."""
    console.print("live / simulated, switches per minute:", highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in ("miss %", "library %", "W", "switches", "used most"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in (*comparison["phases"], {"name": "all", **comparison}):
        used = [next(iter(row["subnet_shares"][name]), "–") for name in ("live", "simulated")]
        table.add_row(
            row["name"].replace("_", " "),
            _both(row["deadline_miss_percent"], 1),
            _both(row["accuracy"], 1, 100.0),
            _both(row["mean_power_w"], 1),
            _both(row["subnet_switches_per_min"], 0),
            " / ".join(used),
        )
    console.print(table)


def _both(values: Mapping[str, float], digits: int, factor: float = 1.0) -> str:
    return " / ".join(number(factor * values[name], digits) for name in ("live", "simulated"))


def _cells(values: dict[str, Any]) -> list[str]:
    return [
        str(values["results"]),
        number(values["deadline_miss_percent"], 1),
        number(values["deadline_miss_percent_settled"], 1),
        number(values["latency_ms"]["p50"], 1),
        number(values["latency_ms"]["p95"], 1),
        number(100 * values["accuracy"]["measured"], 1),
        number(100 * values["accuracy"]["expected"], 1),
        number(values.get("mean_power_w"), 2),
    ]
