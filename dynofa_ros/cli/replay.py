"""`dynofa replay`: the manager again on the inputs of a recorded run; does it decide the same?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_recording, add_run
from dynofa_ros.cli.common import FAILED, OK, write_json
from dynofa_ros.cli.tables import plain_table, say, terminal
from dynofa_ros.errors import CliError

if TYPE_CHECKING:
    from rich.console import Console

    from dynofa_ros.recording.replay import Replay

SHOWN = 10  # differences


def add_parser(commands: Commands) -> None:
    """Add `replay`."""
    parser = commands.add_parser(
        "replay",
        help="run the manager again on a recorded run and compare every decision bit for bit",
        description="Runs the manager again on the inputs that each recorded decision names, and compares "
        "every decision bit for bit. A recording that begins later than the manager is replayed "
        "from its first snapshot of the manager's state on (dynofa/manager/state, every 10 s). It must be of "
        "this version of the package. Exit code 0 = all reproduced.",
        epilog="example: dynofa replay out --json replay.json",
    )
    add_recording(parser)
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.cli.work import progress
    from dynofa_ros.recording.bag import BagError
    from dynofa_ros.recording.recorded_steps import read_recording
    from dynofa_ros.recording.replay import replay

    try:
        with progress("read") as step:
            recording = read_recording(options.path, options.namespace, step)
    except BagError as error:
        write_json(options.json, _document(options.path, None, str(error)))
        raise CliError(str(error)) from error
    for problem in recording.problems:
        print(f"warning: {problem}", file=sys.stderr)
    with progress("replay") as step:
        found = replay(recording, step)
    _print(found)
    return OK if found.complete else FAILED, _document(options.path, found)


def _document(path: Path, found: Replay | None, *errors: str) -> dict[str, Any]:
    """The results as JSON: the first difference of each decision that came out otherwise."""
    return {
        "bag": str(path),
        "decisions": found.decisions if found else 0,
        "begins_at_step": found.begins_at_step if found else None,
        "skipped": found.skipped if found else 0,
        "reproduced": found.reproduced if found else 0,
        "differences": [
            {
                "decision_id": comparison.decision_id,
                "step_number": comparison.step_number,
                "field": comparison.differences[0].field,
                "recorded": comparison.differences[0].recorded,
                "replayed": comparison.differences[0].replayed,
            }
            for comparison in (found.different if found else ())
        ],
        "errors": [*(found.errors if found else ()), *errors],
    }


def _print(found: Replay) -> None:
    console = terminal()
    different, not_replayed = len(found.different), found.decisions - len(found.comparisons)
    parts = [f"{found.decisions} decisions", f"{found.reproduced} reproduced bit for bit"]
    parts += [f"{different} different"] if different else []
    parts += [f"{not_replayed} not replayed"] if not_replayed else []
    say(console, ", ".join(parts))
    if found.different:
        _print_differences(found, console)
    for remark in found.remarks:
        say(console, remark)
    for error in found.errors:
        say(console, f"error: {error}", "red")


def _print_differences(found: Replay, console: Console) -> None:
    rows = []
    for comparison in found.different[:SHOWN]:
        first = comparison.differences[0]
        values = comparison.decision_id, comparison.step_number, first.field, first.recorded, first.replayed
        rows.append(tuple(map(str, values)))
    console.print(plain_table(("decision", "step", "first difference", "recorded", "replayed"), rows))
    if len(found.different) > SHOWN:
        say(console, f"... and {len(found.different) - SHOWN} more", "dim")
