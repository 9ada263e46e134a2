"""Messages of this package that were subscribed raw, as their dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message

from dynofa_ros import cdr
from dynofa_ros.convert import from_ros, ros_types
from dynofa_ros.ros.one_line import one_line
from dynofa_ros.topics import Topic


def decoder(topic: Topic) -> Callable[[bytes], Any]:
    """From the bytes of a message of a topic to its dataclass.

    It raises ValueError, naming the message, for bytes that are none, and the field that has no meaning. What
    is not in plain CDR is left to rclpy.
    """
    message_type, read = ros_types(topic.kind), cdr.reader(topic.kind, ros_types)

    def decode(data: bytes) -> Any:
        try:
            return read(data)
        except ValueError:
            pass
        try:
            message = deserialize_message(data, message_type)
        except Exception as error:  # of several kinds
            raise ValueError(f"{topic.kind}: {one_line(error)}") from error
        return from_ros(message)

    return decode
