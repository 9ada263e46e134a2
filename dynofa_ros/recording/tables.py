"""What a terminal shows of a run: a live table, a line per phase, the figures at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynofa_ros.recording.metrics import Phase, accuracy_metric, figures, of_app, of_percent, within
from dynofa_ros.recording.run import Run

COLUMNS = ("results", "miss %", "settled", "p50 ms", "p95 ms", "accuracy", "library", "W")


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A figure for people; unknown is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}{unit}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction 0..1 as percent."""
    return number(100.0 * fraction, digits, " %")


def phase_line(run: Run, phase: Phase) -> str:
    """A line on a phase, for a terminal without a live table; one for each of several applications."""
    apps = sorted({m.app for m in run.monitors})
    if len(apps) < 2:
        return _phase_line(run, phase, "")
    return "\n".join(_phase_line(of_app(run, app, apps), phase, f" {app:<10}") for app in apps)


def _phase_line(run: Run, phase: Phase, name: str) -> str:
    values = figures(run, [phase], phase.start_ns, phase.end_ns)
    accuracy, latency = values["accuracy"], values["latency_ms"]
    subnets = dict.fromkeys(m.subnet_id for m in within(run.monitors, phase.start_ns, phase.end_ns))
    return (
        f"{phase.name:<16}{name} {values['results']:>5} results  "
        f"missed {number(values['deadline_miss_percent'], 1)} %  "
        f"p50 {number(latency['p50'])} ms  p95 {number(latency['p95'])} ms  "
        f"{of_percent(accuracy_metric(run)) or 'accuracy'} {percent(accuracy['measured'])} "
        f"(expected {percent(accuracy['expected'])})  "
        f"{number(values['mean_power_w'], 2)} W  {', '.join(subnets)}"
    )


def live_view(now: Mapping[str, Any], title: str) -> RenderableType:
    """The table of a `status`: applications, then device, manager, what is wrong and what is missing."""
    parts: list[RenderableType] = [_applications(now["applications"], title)]
    for row in now["applications"]:
        if row["request"] or row["answer"]:
            said = f"{row['request']} → " if row["request"] else ""
            parts.append(plain(f" {row['app']:<9} {said}{row['answer']}"))
    if now["device"]:
        parts.append(_device_line(now["device"]))
    if now["decision"]:
        parts.append(_manager_line(now["decision"]))
    for fault in now["faults"]:
        parts.append(plain(f" {fault['source']}: {fault['text']}", "red" if fault["level"] > 1 else "yellow"))
    parts += [plain(f" {text}", "magenta") for text in now["missing"]]
    return Group(*parts)


def plain(text: str, style: str = "") -> Text:
    """Text from a robot or a bag: no markup, and nothing that a terminal would obey."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style=style)


def _applications(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "padding": (0, 1, 0, 0)}
    table = Table(title=plain(title), box=box.SIMPLE_HEAD, pad_edge=False, **style)
    for column in ("app", "sub-network", "on"):
        table.add_column(column, no_wrap=True)
    for column in ("per s", "p50 ms", "p95 ms", "target ms", "missed %", "accuracy %", "measured %"):
        table.add_column(column, justify="right")
    table.add_column("by")
    for row in rows:
        p95, target = row["latency_ms"]["p95"], row["latency_target_ms"]
        table.add_row(
            plain(row["app"]),
            plain(row["subnet_id"] + ("" if row["state"] in ("", "applied") else f" ({row['state']})")),
            plain(row["processor"]),
            number(row["answers_per_s"], 1),
            number(row["latency_ms"]["p50"], 1),
            Text(number(p95, 1), style="bold red" if p95 > target else "green"),
            number(target, 1),
            number(row["deadline_miss_percent"], 1),
            number(100 * row["accuracy"]["expected"], 1),
            number(100 * row["accuracy"]["measured"], 1),
            plain(of_percent(row["accuracy_metric"])),
        )
    return table


def _device_line(device: Mapping[str, Any]) -> Text:
    clocks = " ".join(f"{d} {number(hz / 1e6)}" for d, hz in device["clocks_hz"].items())
    cap = device["power_cap_w"]
    limit = f" of {cap:.2f}" if math.isfinite(cap) else ""
    return plain(
        f" device    {clocks} MHz · {number(device['power_w'], 2)}{limit} W · "
        f"{number(device['temperature_c'], 1)} °C · {device['board']} {device['source']}"
    )


def _manager_line(decision: Mapping[str, Any]) -> Text:
    trigger, bound = decision["trigger"], decision["binding_constraint"]
    parts = [f" manager   trigger {trigger}", f"bound by {bound}"]
    parts += [] if decision["feasible"] else ["not every target can be met"]
    parts += [f"{app} {a['subnet_id']} on {a['processor']}" for app, a in decision["applications"].items()]
    return plain(" · ".join(parts))


def print_errors(summary: dict[str, Any], console: Console) -> None:
    """One line per error of the run."""
    for text in summary["errors"]:
        console.print(plain(f"error: {text}", "red"), soft_wrap=True)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The figures as a table: one row per phase, per application where there are several, and for all.

    Applications with different kinds of accuracy have rows of their own for each phase.
    """
    phases, apps = summary["phases"], summary.get("apps", {})
    apart = len({values["accuracy_metric"] for values in apps.values()}) > 1
    common = "" if apart else of_percent(summary["accuracy_metric"])
    table = _table([common or name if name == "accuracy" else name for name in COLUMNS])
    for app, values in apps.items() if apart else ():
        table.add_row(plain(f"{app}, {of_percent(values['accuracy_metric'])}"), *_cells(values), style="bold")
        for phase in phases:
            own = phase["apps"][app] | {"mean_power_w": phase["mean_power_w"]}
            table.add_row(plain(f"  {phase['name'].replace('_', ' ')}"), *_cells(own))
    for phase in () if apart else phases:
        table.add_row(plain(phase["name"].replace("_", " ")), *_cells(phase))
    for app, values in () if apart else apps.items():
        table.add_row(plain(app), *_cells(values), style="dim")
    table.add_row("all", *_cells(summary), style="bold")
    console.print(table)
    overhead, due = summary["overhead_ms"], summary["frames_due"]
    console.print(
        f"requests {number(summary['frames_published'])} published, {due} due, "
        f"{summary['dropped_frames']} dropped, {summary['malformed_frames']} malformed; "
        f"overhead p95 {number(overhead['p95'], 1)} ms; energy {number(summary['energy_j'], 1)} J\n"
        f"{summary['decisions']} decisions, {summary['subnet_switches']} sub-network switches, "
        f"{summary['dvfs_commands']} clock commands; "
        f"manager {number(summary['manager_cpu_percent'], 1)} %, "
        f"device node {number(summary['device_cpu_percent'], 1)} % of a core",
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
