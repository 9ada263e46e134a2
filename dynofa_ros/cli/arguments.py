"""Argument types of the subcommands, each with the allowed range in its error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Results: TypeAlias = tuple[int, Any]  # exit code, and what is written as JSON; None = nothing more
Run: TypeAlias = Callable[[argparse.Namespace], Results]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def number(low: float, high: float, unit: str = "") -> Callable[[str], float]:
    """A number from ``low`` to ``high``; ``unit`` is for the error, e.g. "Hz"."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            limits = f"{low:g} to {high:g} {unit}".rstrip()
            raise argparse.ArgumentTypeError(f"must be a number from {limits}, got {text!r}")
        return value

    return parse


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return parse


def add_run(parser: argparse.ArgumentParser, run: Run, **defaults: Any) -> None:
    """What runs a subcommand, and the ``--json FILE`` that every one has; other options by their defaults."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.set_defaults(run=run, **defaults)


def add_recording(parser: argparse.ArgumentParser) -> None:
    """The recorded run that a subcommand reads."""
    parser.add_argument(
        "path", type=Path, metavar="BAG|DIR", help="a rosbag2, or a folder that `dynofa demo` wrote"
    )
    parser.add_argument("--namespace", metavar="NS", help="of the robot, if the bag holds several")
