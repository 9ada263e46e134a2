"""What the subcommands share: errors, exit codes, JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.files import check_writable, write_atomically

if TYPE_CHECKING:
    from dynofa_ros.recording.run import Run

OK, FAILED, BAD_USAGE = 0, 1, 2


class CliError(Exception):
    """Ends the command with exit code 1; the text is one line for the user."""


class UsageError(CliError):
    """Ends the command with exit code 2: an argument is wrong."""


def to_json(value: Any) -> Any:
    """`value` with NaN and infinite numbers as None, for json.dumps."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_plot(run: Run, path: Path, simulated: Run | None = None) -> None:
    """Draw the timeline of a run as a PNG, a simulated one beside it. CliError if it cannot be written."""
    from dynofa_ros.recording.timeline_plot import plot_timeline  # matplotlib takes a second to load

    try:
        plot_timeline(run, path, simulated)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error


def check_outputs(*paths: Path | None) -> None:
    """Before work whose results could not be written; None = not asked for. Raises CliError naming it."""
    for path in paths:
        try:
            if path is not None:
                check_writable(path)
        except OSError as error:
            raise CliError(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Write machine-readable results; NaN becomes null. Raises CliError if the file cannot be written."""
    text = json.dumps(to_json(value), indent=2) + "\n"
    try:
        # /dev/stdout is a link: what it leads to is written, not the link replaced
        write_atomically(path.resolve() if path.is_file() else path, text.encode())
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error
