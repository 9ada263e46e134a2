"""Errors that end a command with one line for its user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXTRAS = {  # of pyproject.toml, by the module that they bring
    "jinja2": "evaluation",
    "openvino": "openvino",
    "pycocotools": "train",
    "torch": "torch",
}


class CliError(Exception):
    """Ends the command with exit code 1; each argument is one line for the user."""


class UsageError(CliError):
    """Ends the command with exit code 2: an argument is wrong."""


def missing_extra(error: BaseException) -> str | None:
    """One line that says how to install the module that could not be imported; None for any other error."""
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in EXTRAS:
        return None
    return f"this needs {not_installed(name)}"


def not_installed(name: str) -> str:
    """That a module of `EXTRAS` is not installed, and how it gets there."""
    install = f"pip install 'dynofa_ros[{EXTRAS[name]}]', or `make install` in a checkout"
    return f"{name}, which is not installed: {install}"


def printable(text: str) -> str:
    """``text`` with its control characters, and others that change how a terminal shows it, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: object, most: int = 1000) -> str:
    """Text of an error, or its type, as one printable line; the middle of a longer one is left out."""
    line = printable(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside becomes a CliError that names the path and the reason."""
    try:
        yield
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error
