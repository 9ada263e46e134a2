"""Runs the manager again on the inputs that recorded decisions name, and compares bit for bit.

A manager begins with step 1 and carries what it has learned from step to step, so a replay needs every
step from the first on: where one is missing, or an input of one, the rest of that manager's run is not
replayed and an error says what is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Monitors
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.recording.decisions import MissingInput, RecordedDecision, Recording

# Of the node, or what the replay was fed with.
NOT_COMPARED = frozenset({"header", "compute_ms", "step_time", "inputs", "parameters"})


@dataclass(frozen=True)
class Difference:
    """A field of a decision that came out otherwise, e.g. `apps[0].margin`; values as in the message."""

    field: str
    recorded: object
    replayed: object


@dataclass(frozen=True)
class Comparison:
    """A decision that was replayed; no differences = reproduced bit for bit."""

    decision_id: int
    step_number: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Replay:
    """``decisions``: in the recording. ``errors``: why some of them were not replayed, a line each."""

    decisions: int
    comparisons: tuple[Comparison, ...]
    errors: tuple[str, ...]

    @property
    def reproduced(self) -> int:
        """Decisions that came out bit for bit."""
        return sum(not comparison.differences for comparison in self.comparisons)

    @property
    def different(self) -> tuple[Comparison, ...]:
        """Decisions that came out otherwise."""
        return tuple(comparison for comparison in self.comparisons if comparison.differences)


def replay(recording: Recording, step: Callable[[int], None] = lambda total: None) -> Replay:
    """Replay every decision that can be. step: called once per decision with their number."""
    total = len(recording.decisions)
    comparisons: list[Comparison] = []
    errors: list[str] = []
    for run in runs_of_managers(recording.decisions):
        complete = _complete(run)
        error = _gap(run, len(complete))
        manager = RuntimeManager()
        for place, recorded in enumerate(complete):
            try:
                monitors = Monitors(recording.inputs.of(recorded.inputs), recorded.parameters)
            except MissingInput as missing:
                which = f"decision {recorded.decision_id} (step {recorded.step_number})"
                error = f"input {missing} of {which} is missing; {_left(len(run) - place)}"
                break
            decision = manager.step(recorded.step_time_ns, monitors)
            comparisons.append(
                Comparison(recorded.decision_id, recorded.step_number, compare(recorded.fields, decision))
            )
            step(total)
        errors += [error] if error else []
    return Replay(total, tuple(comparisons), tuple(errors))


def runs_of_managers(decisions: Sequence[RecordedDecision]) -> Iterator[Sequence[RecordedDecision]]:
    """The decisions of one manager after the other; an activated node has a new one, which counts from 1."""
    starts = [n for n, d in enumerate(decisions) if n == 0 or d.step_number <= decisions[n - 1].step_number]
    for start, end in pairwise([*starts, len(decisions)]):
        yield decisions[start:end]


def compare(recorded: Mapping[str, Any], decision: Decision) -> tuple[Difference, ...]:
    """Every field of a recorded ManagerDecision that is not bit for bit that of the decision.

    NaN equals NaN. Raises AttributeError if the message has a field that no decision has.
    """
    compared = {name: value for name, value in recorded.items() if name not in NOT_COMPARED}
    return tuple(_differences("", compared, decision))


def _complete(run: Sequence[RecordedDecision]) -> Sequence[RecordedDecision]:
    """The decisions up to the first gap."""
    count = next((n for n, d in enumerate(run) if d.step_number != n + 1), len(run))
    return run[:count]


def _gap(run: Sequence[RecordedDecision], complete: int) -> str | None:
    """What is missing behind the first ``complete`` decisions, None = nothing."""
    if complete == len(run):
        return None
    following = run[complete]
    left = _left(len(run) - complete)
    if complete == 0:
        return (
            f"the recording begins in the middle: the first decision of this manager is its step "
            f"{following.step_number}, and the {following.step_number - 1} before it are missing; {left}. "
            "Begin recording before the manager, or deactivate and activate it while recording"
        )
    last = run[complete - 1]
    return (
        f"{_steps(last.step_number + 1, following.step_number - 1)} of the manager missing between decisions "
        f"{last.decision_id} and {following.decision_id}; {left}"
    )


def _steps(first: int, last: int) -> str:
    return f"step {first} is" if first == last else f"steps {first} to {last} are"


def _left(count: int) -> str:
    return "1 decision is not replayed" if count == 1 else f"{count} decisions are not replayed"


def _differences(path: str, recorded: Any, replayed: Any) -> Iterator[Difference]:
    """recorded: plain data of a message; replayed: the decision or a part of it, with the same names."""
    if isinstance(recorded, Mapping):
        prefix = f"{path}." if path else ""
        for name, value in recorded.items():
            yield from _differences(prefix + name, value, getattr(replayed, name))
    elif isinstance(recorded, list):
        if len(recorded) != len(replayed):
            yield Difference(f"{path}.length", len(recorded), len(replayed))
        for n, (one, other) in enumerate(zip(recorded, replayed, strict=False)):
            yield from _differences(f"{path}[{n}]", one, other)
    elif isinstance(recorded, np.float32):
        with np.errstate(over="ignore"):
            other = np.float32(replayed)  # as the message rounds it
        if recorded.tobytes() != other.tobytes() and not np.isnan([recorded, other]).all():
            yield Difference(path, float(recorded), float(other))
    elif isinstance(recorded, float):
        same = struct.pack("<d", recorded) == struct.pack("<d", replayed)
        if not same and not (recorded != recorded and replayed != replayed):
            yield Difference(path, recorded, replayed)
    elif recorded != replayed:
        yield Difference(path, recorded, replayed)
