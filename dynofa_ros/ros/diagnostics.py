"""Diagnostics of a node: plain functions that return a `Status`, collected into one message.

diagnostic_msgs is used directly: diagnostic_updater exists on a robot but not on PyPI.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dynofa_ros.errors import printable

PERIOD_S = 1.0


class Level(IntEnum):
    """Severity, as in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Status:
    """What one task found. values: named facts behind the message, shown to people, never parsed."""

    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


Task = Callable[[], Status]


class Diagnostics:
    """The tasks of one node.

    node_name: fully qualified, so that two nodes of the same name do not collide.
    hardware_id: what the node runs on, e.g. the board; may be set later.
    """

    def __init__(self, node_name: str, hardware_id: str) -> None:
        self.node_name = node_name
        self.hardware_id = hardware_id
        self._tasks: dict[str, Task] = {}

    def add(self, name: str, task: Task) -> None:
        """Add a task, or replace the one of this name."""
        self._tasks[name] = task

    def collect(self, stamp: Time, names: Collection[str] = ()) -> DiagnosticArray:
        """Run the named tasks, or all; one that raises is reported as an error, the others still run."""
        message = DiagnosticArray()
        message.header.stamp = stamp
        message.status = [
            self._status(name, task) for name, task in self._tasks.items() if not names or name in names
        ]
        return message

    def _status(self, name: str, task: Task) -> DiagnosticStatus:
        try:
            status = task()
        except Exception as error:  # a broken task must not take the others along
            status = Status(Level.ERROR, f"diagnostic task failed: {type(error).__name__}: {error}")
        return DiagnosticStatus(
            level=bytes([int(status.level)]),
            name=f"{self.node_name}: {name}",
            message=printable(status.message),
            hardware_id=self.hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in status.values.items()],
        )


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
