"""Entry point of every program: signals first, then the imports.

Python raises KeyboardInterrupt wherever it is. In the middle of an import that is pages of traceback, or
nothing at all where a library swallows it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType


def main(module: str = "dynofa_ros.cli.main", exit_code: int = 1) -> int:
    """Run ``main`` of a module. Until it handles the signals that end it, they exit with ``exit_code``."""
    for number in end_signals():
        signal.signal(number, lambda *_: os._exit(exit_code))
    return int(import_module(module).main())


def node(module: str) -> int:
    """Run a node: to end on request is no failure."""
    return main(module, exit_code=0)


def end_signals() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and SIGHUP but for nohup."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """The signals that end a program go to ``handler``; as before afterwards."""
    before = {number: signal.signal(number, handler) for number in end_signals()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """The signals that end a program raise KeyboardInterrupt, so that clocks are restored.

    Yields the numbers of those that came.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    with handled(interrupt):
        yield came
