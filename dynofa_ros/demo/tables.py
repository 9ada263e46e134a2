"""What the demo and `dynofa report` show of a run: a live table, a line per phase, the figures at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynofa_ros.recording.metrics import Phase, figures, of_app, percentile, within
from dynofa_ros.recording.run import Run, Telemetry

COLUMNS = ("results", "miss %", "settled", "p50 ms", "p95 ms", "accuracy", "library", "W")
RECENT = 75  # frames per app that the latency columns look at: 5 s at 15 Hz


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A figure for people; unknown is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}{unit}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction 0..1 as percent."""
    return number(100.0 * fraction, digits, " %")


def phase_line(run: Run, phase: Phase) -> str:
    """One line on a phase, for a terminal without a live table."""
    values = figures(run, [phase], phase.start_ns, phase.end_ns)
    accuracy, latency = values["accuracy"], values["latency_ms"]
    subnets = dict.fromkeys(m.subnet_id for m in within(run.monitors, phase.start_ns, phase.end_ns))
    return (
        f"{phase.name:<16} {values['results']:>5} results  "
        f"missed {number(values['deadline_miss_percent'], 1)} %  "
        f"p50 {number(latency['p50'])} ms  p95 {number(latency['p95'])} ms  "
        f"accuracy {percent(accuracy['measured'])} (expected {percent(accuracy['expected'])})  "
        f"{number(values['mean_power_w'], 2)} W  {', '.join(subnets)}"
    )


def live_view(run: Run, phase: Phase, elapsed_s: float, total_s: float) -> RenderableType:
    """The table: applications, then device and manager. total_s: NaN where the end is not known."""
    title = f"{phase.name.replace('_', ' ')} · {elapsed_s:.0f} of {number(total_s)} s"
    parts: list[RenderableType] = [_applications(run, phase, title)]
    if run.telemetry:
        parts.append(_device_line(run, run.telemetry[-1]))
    if run.decisions:
        decision = run.decisions[-1]
        feasible = "" if decision.feasible else " · not every target can be met"
        text = f" manager   trigger {decision.trigger} · bound by {decision.binding_constraint}{feasible}"
        parts.append(Text(text))
    return Group(*parts)


def _applications(run: Run, phase: Phase, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for column in ("app", "sub-network", "on"):
        table.add_column(column)
    for column in ("p50 ms", "p95 ms", "target ms", "missed", "accuracy expected", "measured"):
        table.add_column(column, justify="right")
    apps = sorted({m.app for m in list(run.monitors)})
    for app in apps:
        table.add_row(*_row(of_app(run, app, apps), phase))
    return table


def _row(own: Run, phase: Phase) -> list[str | Text]:
    """own: the records of one application."""
    last, recent = own.monitors[-1], [m.latency_ms for m in own.monitors[-RECENT:]]
    values = figures(own, [phase], phase.start_ns, phase.end_ns)
    p95 = percentile(recent, 95)
    late = "bold red" if p95 > last.latency_target_ms else "green"
    return [
        last.app,
        last.subnet_id,
        last.processor,
        number(percentile(recent, 50), 1),
        Text(number(p95, 1), style=late),
        number(last.latency_target_ms, 1),
        number(values["deadline_miss_percent"], 1, " %"),
        percent(values["accuracy"]["expected"]),
        percent(values["accuracy"]["measured"]),
    ]


def _device_line(run: Run, sample: Telemetry) -> Text:
    cap = run.decisions[-1].power_cap_w if run.decisions else math.nan
    clocks = " ".join(f"{d} {number(hz / 1e6)}" for d, hz in sorted(sample.clocks_hz.items()))
    limit = f" of {cap:.2f}" if math.isfinite(cap) else ""
    return Text(
        f" device    {clocks} MHz · {number(sample.power_w, 2)}{limit} W · "
        f"{number(sample.temperature_c, 1)} °C · {sample.source}"
    )


def print_errors(summary: dict[str, Any], console: Console) -> None:
    """One line per error of the run."""
    for text in summary["errors"]:
        console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The figures as a table: one row per phase, per application where there are several, and for all."""
    table = _table(COLUMNS)
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
    table = _table(("miss %", "library %", "W", "switches", "used most"))
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


def _table(columns: Sequence[str]) -> Table:
    """A column of names, then figures."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


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
