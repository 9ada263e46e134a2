"""What the subcommands share: exit codes, and files that are checked before the work and written after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynofa_ros import files
from dynofa_ros.errors import writing

OK, FAILED, BAD_USAGE = 0, 1, 2


def check_outputs(*paths: Path | None) -> None:
    """Before work whose results could not be written; None = not asked for. Raises CliError naming it."""
    for path in filter(None, paths):
        with writing(path):
            files.check_writable(path)


def write_json(path: Path | None, value: Any) -> None:
    """Write machine-readable results, None = not asked for. Raises CliError if the file cannot be written."""
    if path is not None:
        with writing(path):
            files.write_json(path, value)
