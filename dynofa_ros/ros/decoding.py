"""Messages of this package that were subscribed raw, as their dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message

from dynofa_ros import cdr
from dynofa_ros.convert import from_ros, ros_types
from dynofa_ros.topics import Topic


def decoder(topic: Topic) -> Callable[[bytes], Any]:
    """From the bytes of a message of a topic to its dataclass.

    It raises ValueError, naming message and field, for a field without meaning. What is not in plain CDR is
    left to rclpy, which raises errors of its own for bytes that it cannot read.
    """
    message_type, read = ros_types(topic.kind), cdr.reader(topic.kind, ros_types)

    def decode(data: bytes) -> Any:
        try:
            return read(data)
        except ValueError:
            return from_ros(deserialize_message(data, message_type))

    return decode
