"""Entry point of every program: signals first, then the imports.

Python raises KeyboardInterrupt wherever it is. In the middle of an import that is pages of traceback, or
nothing at all where a library swallows it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType


def main(module: str = "dynofa_ros.cli.main", exit_code: int = 1) -> int:
    """Run ``main`` of a module. Until it handles SIGINT and SIGTERM, they end the process: ``exit_code``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(exit_code))
    return int(import_module(module).main())


def node(module: str) -> int:
    """Run a node: to end on request is no failure."""
    return main(module, exit_code=0)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP (but for nohup) raise KeyboardInterrupt, so that clocks are restored.

    Yields the numbers of those that came.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
