"""Errors that end a command with one line for its user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CliError(Exception):
    """Ends the command with exit code 1; the text is one line for the user."""


class UsageError(CliError):
    """Ends the command with exit code 2: an argument is wrong."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside becomes a CliError that names the path and the reason."""
    try:
        yield
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error
