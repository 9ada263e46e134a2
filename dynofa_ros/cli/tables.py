"""Tables for the terminal, among them goals with wanted and measured value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLOURS = {"met": "green", "not met": "red", "not measured": "dim"}  # of the status of a goal
WIDTH = 200


def wide_console() -> Console:
    """The terminal; a log has no edge to fold at."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)  # names are shown as they are
    return console if console.is_terminal else Console(width=WIDTH, markup=False, emoji=False)


def plain_table(columns: Iterable[str], rows: Iterable[Sequence[str]], numbers_from: int = 99) -> Table:
    """A table without lines; columns from ``numbers_from`` on are set to the right, statuses in colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="right" if number >= numbers_from else "left")
    for row in rows:
        table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in row))
    return table
