"""What long commands share: a progress bar, one-line errors, termination that cleans up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dynofa_ros.cli.common import CliError


@contextmanager
def progress(text: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, not shown where stderr is no terminal. Yields what is called once per step, with the
    number of steps in all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda total: bar.update(task, advance=1, total=total)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What the layers below raise for wrong files and machines becomes the CliError that the user reads."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CliError(f"{where}{error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # LibraryError, WeightsError, EngineError, SweepError, ...
        raise CliError(" ".join(str(error).split())) from error


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, so that clocks are given back."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    handled = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
