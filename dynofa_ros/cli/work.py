"""What long commands share: a progress bar, one-line errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.errors import CliError, one_line

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


@contextmanager
def bars(*columns: ProgressColumn) -> Iterator[Progress]:
    """Bars on stderr, gone at the end and where stderr is no terminal; ``columns`` follow name and bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), *columns)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress


@contextmanager
def progress(text: str) -> Iterator[Callable[[int], None]]:
    """A bar. Yields what is called once per step, with the number of steps in all."""
    with stages(text) as step:
        yield lambda total: step(text, total)


@contextmanager
def stages(*names: str) -> Iterator[Callable[[str, int | None], None]]:
    """A bar per stage: those of ``names`` at once, others at their first step.

    Yields what is called once per step, with the stage and its number of steps in all, None = unknown.
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with bars(MofNCompleteColumn(), TimeRemainingColumn()) as shown:
        tasks = {name: shown.add_task(name, total=None) for name in names}

        def step(stage: str, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total)
            shown.update(tasks[stage], advance=1, total=total)

        yield step


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What the layers below raise for wrong files and machines becomes the CliError that the user reads."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CliError(f"{where}{error.strerror or error}") from error
    except DataError as error:
        raise CliError(*error.shown) from error
    except (ValueError, RuntimeError) as error:  # LibraryError, WeightsError, EngineError, SweepError, ...
        raise CliError(one_line(error)) from error
