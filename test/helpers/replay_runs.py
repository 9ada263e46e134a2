"""Recorded runs for the tests of the replay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import record_reference_logs as tool
from factories import REPOSITORY

from dynofa_ros.convert import to_ros
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Monitors, parameters_of
from dynofa_ros.manager.snapshot import snapshot
from dynofa_ros.recording.bag import typestore
from dynofa_ros.recording.recorded_steps import DECISION_TYPE, recording
from dynofa_ros.recording.text_log import Message, message_types, read_log
from dynofa_ros.topics import MANAGER_STATE as STATE

REFERENCE = REPOSITORY / "test" / "reference"


@lru_cache(maxsize=1)
def demo_run() -> tuple[Message, ...]:
    """A live run of two applications as if it had been recorded on this machine, with today's manager.

    Not to be changed.
    """
    return tuple(tool.recomputed(read_log(REFERENCE / "demo.jsonl", lenient=True)))


def with_snapshots(messages: Sequence[Message], every: int) -> list[Message]:
    """The same run as if the manager had published its state after the first and every n-th step."""
    known, manager, result = recording(Path("run"), messages, typestore()), RuntimeManager(), []
    recorded = iter(known.decisions)
    for topic, kind, message in messages:
        result.append((topic, kind, message))
        if kind != DECISION_TYPE:
            continue
        step = next(recorded)
        if step.step_number == 1:
            manager = RuntimeManager()
        manager.step(step.step_time, Monitors(known.inputs.of(step.inputs), parameters_of(step)))
        if step.step_number % every == 1:
            result.append((STATE.name, STATE.kind, to_ros(snapshot(manager), message_types)))
    return result


def decisions(messages: Sequence[Message]) -> list[Any]:
    return [message for _, kind, message in messages if kind == DECISION_TYPE]


def without(messages: Sequence[Message], *left_out: Any) -> list[Message]:
    return [item for item in messages if not any(item[2] is message for message in left_out)]


def named_input(decision: Any, topic: str) -> int:
    """Sequence of the first input from a topic that a decision names."""
    return next(int(i.sequence) for i in decision.inputs if i.topic == topic)
