"""Recorded runs for the tests of the replay."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dynofa_ros.recording.replay import DECISION_TYPE
from dynofa_ros.recording.text_log import Message, read_log

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "test" / "reference"


@lru_cache(maxsize=1)
def tool() -> ModuleType:
    """tools/record_reference_logs.py."""
    path = REPOSITORY / "tools" / "record_reference_logs.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def demo_run() -> tuple[Message, ...]:
    """A live run of two applications as if it had been recorded on this machine, with today's manager.

    Not to be changed.
    """
    return tuple(tool().recomputed(read_log(REFERENCE / "demo.jsonl", lenient=True)))


def decisions(messages: Sequence[Message]) -> list[Any]:
    return [message for _, kind, message in messages if kind == DECISION_TYPE]


def without(messages: Sequence[Message], *left_out: Any) -> list[Message]:
    return [item for item in messages if not any(item[2] is message for message in left_out)]


def named_input(decision: Any, topic: str) -> int:
    """Sequence of the first input from a topic that a decision names."""
    return next(int(i.sequence) for i in decision.inputs if i.topic == topic)
