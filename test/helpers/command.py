"""The `dynofa` command, in this process or as one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from dynofa_ros.cli.main import execute, make_parser


def dynofa(*arguments: object) -> int:
    """Run it here; its exit code. Raises the CliError that the command prints as its last line."""
    options = make_parser().parse_args([str(argument) for argument in arguments])
    return execute(options)


def dynofa_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a user does."""
    command = [sys.executable, "-m", "dynofa_ros.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )
