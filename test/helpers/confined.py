"""A call in a process of its own that may not use more than 1 GB of memory, and what came of it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 30
TIMEOUT_S = 120.0
# Imported once, in the process of which the others are forks.
PRELOADED = (
    "dynofa_ros.cli.main",
    "dynofa_ros.device.open",
    "dynofa_ros.library.latency_table",
    "dynofa_ros.library.library",
    "dynofa_ros.manager.snapshot",
    "dynofa_ros.recording.bag",
    "dynofa_ros.ros.images",
    "dynofa_ros.supernet.weights",
    "dynofa_ros.supernet.zoo",
)


@dataclass(frozen=True)
class Outcome:
    """``value``: what the call returned, else None. ``error``: type and text of its exception, else empty.

    ``peak_bytes``: most memory that was resident.
    """

    value: Any
    kind: str
    error: str
    peak_bytes: int
    seconds: float


@cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def confined(call: Callable[..., Any], *arguments: Any, most_bytes: int = MOST_BYTES) -> Outcome:
    """Run a function of a module. Fails where the process was killed, took too long or used too much."""
    context = _server()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, most_bytes, call, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(TIMEOUT_S):
            raise AssertionError(f"{call.__name__} has not ended after {TIMEOUT_S:g} s")
        outcome = ours.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"{call.__name__}: the process died, exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    assert outcome.kind != "MemoryError", f"{call.__name__} wanted more than {most_bytes >> 20} MiB"
    assert outcome.peak_bytes < most_bytes, f"{call.__name__} used {outcome.peak_bytes >> 20} MiB"
    note(call.__name__, outcome)
    return outcome


LONGEST_LINE = 2000
FAULTS = ("AttributeError", "IndexError", "KeyError", "RecursionError", "TypeError", "UnboundLocalError")


def refused(outcome: Outcome, path: Path | None = None) -> None:
    """Fails unless the call ended with an error of the package's in one line that names the file."""
    assert outcome.kind, f"accepted: {outcome.value}"
    assert outcome.kind not in FAULTS, outcome
    assert outcome.error.isprintable() and len(outcome.error) < LONGEST_LINE, outcome.error[:3000]
    assert path is None or str(path)[:100] in outcome.error


def _run(pipe: Connection, most_bytes: int, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    limit = most_bytes + _status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    pipe.send(outcome_of(call, *arguments))


def outcome_of(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """What comes of a call in this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of what came before does not count
    value, kind, error, start_s = None, "", "", time.monotonic()
    try:
        value = call(*arguments)
    except BaseException as caught:  # SystemExit too
        kind, error = type(caught).__name__, str(caught)
    return Outcome(value, kind, error, _status("VmHWM"), time.monotonic() - start_s)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def note(name: str, outcome: Outcome) -> None:
    """For the figures of docs/security.md: HOSTILE_LOG=FILE collects them."""
    if file := os.environ.get("HOSTILE_LOG"):
        with open(file, "a") as log:
            print(f"{outcome.peak_bytes >> 20}\t{outcome.seconds:.2f}\t{name}\t{outcome.error}", file=log)


if sys.platform != "linux":  # pragma: no cover
    raise ImportError("memory is limited and measured as Linux does it")
