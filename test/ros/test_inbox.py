"""A subscription that wakes nobody: messages wait until they are taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String

from dynofa_ros.ros.entities import Inbox
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import Topic

DEPTH = 5
TOPIC = Topic("dynofa/device/telemetry", "std_msgs/msg/String", depth=DEPTH)


class Reader(ManagedNode):
    """Has one silent subscription while it is active."""

    def __init__(self, context: Context) -> None:
        self.inbox: Inbox | None = None
        manual = [Parameter("autostart", value=False)]
        super().__init__("reader", (), namespace="/dynofa", context=context, parameter_overrides=manual)

    def activate(self) -> None:
        self.inbox = self.subscribe_silently(TOPIC)


@pytest.fixture
def pair(context: Context) -> Iterator[tuple[Reader, Any]]:
    reader, writer = Reader(context), Node("writer", context=context)
    reader.trigger_configure()
    reader.trigger_activate()
    publisher = writer.create_publisher(String, "/dynofa/device/telemetry", qos_of(TOPIC))
    wait_until(lambda: publisher.get_subscription_count() == 1)
    yield reader, publisher
    reader.end()
    writer.destroy_node()


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def send(publisher: Any, *texts: str) -> None:
    for text in texts:
        publisher.publish(String(data=text))
    publisher.wait_for_all_acked()


def taken(reader: Reader) -> list[str]:
    assert reader.inbox is not None
    return [message.data for message, _ in reader.inbox.take()]


def test_messages_wait_in_their_order(pair: tuple[Reader, Any]) -> None:
    reader, publisher = pair
    assert taken(reader) == []
    send(publisher, "a", "b")
    assert taken(reader) == ["a", "b"]
    assert taken(reader) == []


def test_as_many_wait_as_the_topic_keeps(pair: tuple[Reader, Any]) -> None:
    reader, publisher = pair
    texts = [str(n) for n in range(DEPTH + 2)]
    send(publisher, *texts)
    assert taken(reader) == texts[-DEPTH:]


def test_no_executor_takes_them(context: Context, pair: tuple[Reader, Any]) -> None:
    reader, publisher = pair
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(reader)
    send(publisher, "a")
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    assert taken(reader) == ["a"]


def test_deactivation_ends_the_subscription(pair: tuple[Reader, Any]) -> None:
    reader, publisher = pair
    reader.trigger_deactivate()
    wait_until(lambda: publisher.get_subscription_count() == 0)
    reader.trigger_activate()
    wait_until(lambda: publisher.get_subscription_count() == 1)
    send(publisher, "again")
    assert taken(reader) == ["again"]
