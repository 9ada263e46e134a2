"""Runs the manager again on the inputs that recorded decisions name, and compares bit for bit.

A manager begins with step 1 and carries what it has learned from step to step. A replay begins with step 1
too, or after a recorded snapshot of the manager's state where the recording starts later than the manager.
Where a step is missing, or an input of one, an error says so, and the replay goes on after the next
snapshot; without one the rest of that manager's run is not replayed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from dynofa_ros import topics
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Input, Monitors, parameters_of
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.manager.snapshot import restore
from dynofa_ros.messages import ManagerState
from dynofa_ros.recording.recorded_steps import MissingInput, RecordedDecision, RecordedInputs, Recording

LONGEST_STEP_NS = 20_000_000_000  # between two steps: the longest control period, and a pause
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
    """``decisions``: in the recording. ``errors``: why some of them were not replayed, a line each.

    ``begins_at_step``: the first one replayed of the recording's first manager, None = none. ``skipped``:
    decisions before the first snapshot of a manager that the recording starts later than; ``remarks``: a
    line for each such manager.
    """

    decisions: int
    comparisons: tuple[Comparison, ...]
    errors: tuple[str, ...]
    begins_at_step: int | None = None
    skipped: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def reproduced(self) -> int:
        """Decisions that came out bit for bit."""
        return sum(not comparison.differences for comparison in self.comparisons)

    @property
    def different(self) -> tuple[Comparison, ...]:
        """Decisions that came out otherwise."""
        return tuple(comparison for comparison in self.comparisons if comparison.differences)

    @property
    def complete(self) -> bool:
        """Whether all decisions from the beginning on came out bit for bit."""
        return self.reproduced + self.skipped == self.decisions and not self.errors


def replay(recording: Recording, step: Callable[[int], None] = lambda total: None) -> Replay:
    """Replay every decision that can be. step: called once per decision with their number."""
    total = len(recording.decisions)
    runs = [_Run.of(decisions, recording) for decisions in runs_of_managers(recording.decisions)]
    for run in runs:
        run.replay(lambda: step(total))
    late = [run for run in runs if run.late]
    return Replay(
        total,
        tuple(comparison for run in runs for comparison in run.comparisons),
        tuple(error for run in runs for error in run.errors),
        runs[0].begins_at_step if runs else None,
        sum(run.begins for run in late),
        tuple(
            f"begins at step {run.begins_at_step}: the recording starts later than the manager"
            for run in late
        ),
    )


@dataclass
class _Run:
    """The steps of one manager, and the snapshots of its state by the place of the step that follows.

    ``begins``: place of the first step that can be replayed, the number of steps if none can.
    """

    steps: Sequence[tuple[RecordedDecision, tuple[Input, ...] | MissingInput]]
    snapshots: Mapping[int, ManagerState]
    begins: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, decisions: Sequence[RecordedDecision], recorded: Recording) -> _Run:
        """The run that these decisions are of. Its inputs are taken whether or not they can be replayed."""
        steps = tuple((decision, _inputs(recorded.inputs, decision)) for decision in decisions)
        run = cls(steps, _following(decisions, recorded.snapshots))
        if decisions[0].step_number > 1:
            run.begins = next(filter(run._whole, run.snapshots), next(iter(run.snapshots), len(steps)))
        return run

    @property
    def late(self) -> bool:
        """Whether it begins with a snapshot."""
        return self.begins < len(self.steps) and self.steps[0][0].step_number > 1

    @property
    def begins_at_step(self) -> int | None:
        """Number of the first step that can be replayed, None without any."""
        return self.steps[self.begins][0].step_number if self.begins < len(self.steps) else None

    def replay(self, step: Callable[[], None]) -> None:
        """Replay what can be: ``comparisons`` and ``errors``."""
        place, manager = self.begins, None
        if place == len(self.steps):
            self.errors.append(f"{self._no_beginning()}; {_left(place)}")
        while place < len(self.steps):
            recorded, inputs = self.steps[place]
            try:
                manager = manager or self._manager(place)
                fault = self._fault(place, manager.steps)
            except ValueError as error:
                fault = str(error)
            if fault is not None or manager is None or isinstance(inputs, MissingInput):
                after = self._next(place)
                self.errors.append(f"{fault}; {_left(after - place)}")
                place, manager = after, None
                continue
            decision = manager.step(recorded.step_time, Monitors(inputs, parameters_of(recorded)))
            differences = compare(recorded.fields, decision)
            self.comparisons.append(Comparison(recorded.decision_id, recorded.step_number, differences))
            place += 1
            step()

    def _manager(self, place: int) -> RuntimeManager:
        """A manager that can take the step. Raises ValueError for a bad snapshot."""
        return restore(self.snapshots[place]) if place in self.snapshots else RuntimeManager()

    def _next(self, place: int) -> int:
        """Place behind the next snapshot, or behind the last step."""
        return next((other for other in self.snapshots if other > place), len(self.steps))

    def _whole(self, place: int) -> bool:
        """Whether all steps from a snapshot to the next one are recorded, and what they name."""
        before = self.snapshots[place].step_number
        return all(self._fault(n, before + n - place) is None for n in range(place, self._next(place)))

    def _fault(self, place: int, before: int) -> str | None:
        """Why a manager that has taken so many steps cannot take the next one, None = it can."""
        recorded, inputs = self.steps[place]
        if recorded.step_number != before + 1:
            gap = _steps(before + 1, recorded.step_number - 1)
            last = self.steps[place - 1][0].decision_id
            return f"{gap} of the manager missing between decisions {last} and {recorded.decision_id}"
        if isinstance(inputs, MissingInput):
            which = f"decision {recorded.decision_id} (step {recorded.step_number})"
            return f"input {inputs} of {which} is missing"
        return None

    def _no_beginning(self) -> str:
        first = self.steps[0][0].step_number
        return (
            f"the recording begins in the middle: the first decision of this manager is its step {first}, "
            f"and the {first - 1} before it are missing; record {topics.MANAGER_STATE.name} too, for longer "
            "than the 10 s between two of its messages, or begin recording before the manager"
        )


def _inputs(recorded: RecordedInputs, decision: RecordedDecision) -> tuple[Input, ...] | MissingInput:
    try:
        return recorded.of(decision.inputs)
    except MissingInput as missing:
        return missing


def _following(
    run: Sequence[RecordedDecision], snapshots: Sequence[ManagerState]
) -> Mapping[int, ManagerState]:
    """Snapshots of the manager of a run, by the place of the step that follows, in their order.

    The step of a snapshot is known by number and time. That of one before the first decision is not
    recorded, and the time must be near.
    """
    known = {(s.step_number, s.header.stamp_ns): s for s in snapshots}
    steps = [(d.step_number, d.step_time) for d in run]
    found = {n: known[step] for n, step in enumerate(steps[:-1], start=1) if step in known}
    first, start_ns = steps[0]
    before = [s for s in snapshots if s.step_number + 1 == first and 0 <= start_ns - s.header.stamp_ns]
    near = [s for s in before if start_ns - s.header.stamp_ns <= LONGEST_STEP_NS]
    return {0: near[-1], **found} if near else found


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
