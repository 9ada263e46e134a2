"""Tables and lines for the terminal, among them goals with wanted and measured value."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from math import nan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dynofa_ros.library.library import Library

COLOURS = {"met": "green", "not met": "red", "not measured": "dim"}  # of the status of a goal
COLOURS |= {"pass": "green", "fail": "red", "skip": "dim", "note": "dim"}  # of a check
WIDTH = 200


def terminal(least: int = 0) -> Console:
    """The terminal, at least so wide: a narrow one wraps the rows rather than losing figures."""
    from rich.console import Console

    width = max(Console().width, least)
    return Console(width=width, markup=False, emoji=False)  # names are shown as they are


def wide_console() -> Console:
    """The terminal; a log has no edge to fold at."""
    console = terminal()
    return console if console.is_terminal else terminal(WIDTH)


def say(console: Console, text: str, style: str = "") -> None:
    """A line of text, which the terminal folds by itself."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def plain_table(
    columns: Iterable[str],
    rows: Iterable[Sequence[str]],
    numbers: Container[int] = (),
    *,
    wrap: bool = True,
    gap: int = 2,
) -> Table:
    """A table without lines; the columns ``numbers`` are set to the right, statuses in colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, gap, 0, 0))
    for number, column in enumerate(columns):
        justify = "right" if number in numbers else "left"
        table.add_column(column, overflow="fold", justify=justify, no_wrap=not wrap)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in row))
    return table


def print_entries(library: Library) -> None:
    """Of what a library is, and a row for each entry: accuracy, latency, operations."""
    from dynofa_ros.recording.tables import number

    columns = ("sub-network", library.accuracy_metric, "median ms", "p95 ms", "MMACs")
    rows = []
    for e in library:
        figures = (e.accuracy, 4), (e.latency_ms.median, 3), (e.latency_ms.p95, 3), ((e.macs or nan) / 1e6, 1)
        rows.append((e.label, *(number(value, digits) for value, digits in figures)))
    print(f"{library.space} on {library.board} ({library.processor}):")
    wide_console().print(plain_table(columns, rows, range(1, len(columns)), wrap=False))
