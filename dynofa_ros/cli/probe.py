"""`dynofa probe`: what this computer has of clocks and sensors, what may be read and written, and why not."""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.common import FAILED, OK
from dynofa_ros.cli.tables import plain_table, say, terminal
from dynofa_ros.errors import CliError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from dynofa_ros.device.device import DeviceSample
    from dynofa_ros.device.linux.inventory import ClockDomain, Inventory
    from dynofa_ros.device.linux.sysfs import SysFiles

BETWEEN_READINGS_S = 0.25  # energy counters and CPU times give a figure only over an interval
WIDTH = 110
YES, NO = "yes", "no"
DOMAIN_COLUMNS = (
    "clock",
    "CPUs",
    "steps",
    "lowest",
    "highest",
    "min now",
    "max now",
    "MHz now",
    "read",
    "write",
)


def add_parser(commands: Commands) -> None:
    """Add `probe`."""
    parser = commands.add_parser(
        "probe",
        help="list clocks, power rails and temperatures of this computer, and what may be written",
        description="Looks for clock domains, power rails and temperatures of this computer and prints what "
        "may be read and written, and why not. Nothing is written, but by --selftest --allow-writes.",
        epilog="example: dynofa probe --json probe.json",
    )
    parser.add_argument(
        "--sysfs-root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="a folder with sys/, proc/, etc/ of another computer (default /)",
    )
    parser.add_argument(
        "--selftest",
        action="store_true",
        help="a checklist of what must hold on real hardware; takes a few seconds",
    )
    parser.add_argument(
        "--allow-writes",
        action="store_true",
        help="with --selftest: also move every writable clock one step down and back",
    )
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    if options.allow_writes and not options.selftest:
        raise UsageError("--allow-writes needs --selftest")
    if not (options.sysfs_root / "sys").is_dir():
        raise CliError(f"--sysfs-root {options.sysfs_root}: must be a folder that holds sys/")
    from dynofa_ros.device.linux.discovery import discover
    from dynofa_ros.device.linux.sensors import Sensors
    from dynofa_ros.device.linux.sysfs import SysFiles

    files = SysFiles(options.sysfs_root)
    inventory = discover(files)
    sensors = Sensors(files, inventory)
    sensors.read()
    time.sleep(BETWEEN_READINGS_S)
    sample = sensors.read()
    result = report(files, inventory, sample)
    console = terminal(WIDTH)
    _print(inventory, result, console)
    passed = True
    if options.selftest:
        from dynofa_ros.device.linux import selftest

        checks = selftest.run(files, inventory, sensors, options.allow_writes)
        result["selftest"] = [check.to_json() for check in checks]
        rows = [(check.outcome.value, check.name, check.text) for check in checks]
        console.print(plain_table(("selftest", "", ""), rows))
        passed = all(check.outcome is not selftest.Outcome.FAIL for check in checks)
    sensors.close()
    return OK if passed else FAILED, result


def report(files: SysFiles, inventory: Inventory, sample: DeviceSample) -> dict[str, Any]:
    """What was found, as the command writes it: Hz, W, degrees Celsius; unknown is null.

    ``description``: the board description that one of the ``identities`` matches, null without one.
    """
    from dynofa_ros.device.board import matching_board

    domains = {value.domain: value for value in sample.domains}
    silent = [
        f"{what.replace(' of ', ' ', 1)}: {origin.reason}"
        for what, origin in sample.origins.items()
        if origin.reason and what.startswith(("power", "temperature"))
    ]
    totals = {rail.name for rail in inventory.rails if rail.is_total}
    known = set(inventory.unsupported)
    description = matching_board(inventory.identities)
    return {
        "board": inventory.board or None,
        "identities": list(inventory.identities),
        "description": description.name if description else None,
        "domains": [
            _domain(files, d, domains[d.name].frequency_hz, sample.origins[f"clock of {d.name}"].reason)
            for d in inventory.domains
        ],
        "rails": [{"name": r.name, "power_w": r.power_w, "is_total": r.name in totals} for r in sample.rails],
        "temperatures": [{"name": zone.name, "celsius": zone.temperature_c} for zone in sample.temperatures],
        "unsupported": [*inventory.unsupported, *(text for text in silent if text not in known)],
        "total_power_w": sample.total_power_w,
        "processors": list(inventory.processors),
        "notes": list(inventory.notes),
    }


def _domain(files: SysFiles, domain: ClockDomain, current_hz: float, no_clock: str) -> dict[str, Any]:
    from dynofa_ros.device.linux.discovery_clocks import limits_hz

    low, high = limits_hz(files, domain)
    reasons = [domain.reason]
    if domain.readable and no_clock not in domain.reason:
        reasons.append(no_clock)
    return {
        "name": domain.name,
        "frequencies_hz": list(domain.frequencies_hz),
        "min_hz": low,
        "max_hz": high,
        "current_hz": None if math.isnan(current_hz) else int(current_hz),
        "readable": domain.readable,
        "writable": domain.writable,
        "reason": "; ".join(filter(None, reasons)),
    }


def _print(inventory: Inventory, result: dict[str, Any], console: Console) -> None:
    line = partial(say, console)
    line(result["board"] or "board unknown", "bold")
    line(f"  board description: {result['description'] or 'none matches'}")
    for note in inventory.notes:
        line(f"  {note}")
    if result["domains"]:
        rows = list(map(_domain_row, inventory.domains, result["domains"]))
        console.print(plain_table(DOMAIN_COLUMNS, rows, range(2, 8), wrap=False))
    else:
        line("no clock of this computer can be read or set: the kernel shows no cpufreq and no devfreq")
    for domain in result["domains"]:
        if domain["reason"]:
            line(f"  {domain['name']}: {domain['reason']}")
    if result["rails"]:
        rows = [(r["name"], _number(r["power_w"], 3)) for r in result["rails"]]
        console.print(plain_table(("power rail", "W"), rows, (1,)))
        line(f"  power of the whole module: {_number(result['total_power_w'], 3)} W")
    if result["temperatures"]:
        rows = [(zone["name"], _number(zone["celsius"], 1)) for zone in result["temperatures"]]
        console.print(plain_table(("temperature", "C"), rows, (1,)))
    if result["unsupported"]:
        line("unsupported or left out", "bold")
    for text in result["unsupported"]:
        line(f"  {text}")


def _domain_row(found: ClockDomain, domain: dict[str, Any]) -> tuple[str, ...]:
    limits = found.hardware_min_hz, found.hardware_max_hz, domain["min_hz"], domain["max_hz"]
    return (
        found.name,
        ",".join(map(str, found.cpus)),
        str(len(found.frequencies_hz)) if found.frequencies_hz else "no table",
        *map(_mhz, (*limits, domain["current_hz"])),
        YES if found.readable else NO,
        YES if found.writable else NO,
    )


def _mhz(hz: int | None) -> str:
    return "unknown" if hz is None else f"{hz / 1e6:g}"


def _number(value: float, digits: int) -> str:
    return "unknown" if math.isnan(value) else f"{value:.{digits}f}"
