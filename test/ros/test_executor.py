"""The executor of our nodes calls what rclpy's would, and leaves nothing behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_msgs.msg import String

from dynofa_ros.ros.entities import Inbox
from dynofa_ros.ros.executor import INTERNALS, NodeExecutor, make_executor

STEADY = Clock(clock_type=ClockType.STEADY_TIME)


@pytest.fixture
def node(context: Context) -> Iterator[Node]:
    node = Node("spun", context=context)
    yield node
    node.destroy_node()


@pytest.fixture
def executor(context: Context, node: Node) -> Iterator[NodeExecutor]:
    executor = NodeExecutor(context=context)
    executor.add_node(node)
    yield executor
    executor.shutdown()


def spin(executor: NodeExecutor, until: Callable[[], Any], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < end_s
        executor.spin_once(timeout_sec=0.05)


def hears(node: Node, **options: Any) -> list[Any]:
    heard: list[Any] = []
    node.create_subscription(String, "/heard", heard.append, 10, **options)
    return heard


def test_messages_come_in_their_order_with_their_information_or_raw(
    node: Node, executor: NodeExecutor
) -> None:
    heard, raw, infos = hears(node), hears(node, raw=True), []
    node.create_subscription(String, "/heard", lambda message, info: infos.append(info), 10)
    publisher = node.create_publisher(String, "/heard", 10)
    spin(executor, lambda: publisher.get_subscription_count() == 3)
    for number in range(5):
        publisher.publish(String(data=str(number)))
    spin(executor, lambda: len(heard) == len(raw) == len(infos) == 5)
    assert [message.data for message in heard] == ["0", "1", "2", "3", "4"]
    assert all(isinstance(data, bytes) for data in raw)
    assert all(info["source_timestamp"] > 0 for info in infos)


def test_no_timer_is_lost(node: Node, executor: NodeExecutor) -> None:
    """Also not one that is reset, cancelled or made by another, or beside messages that never end."""
    calls = {"fast": 0, "slow": 0, "reset": 0, "made": 0}

    def count(name: str) -> Callable[[], None]:
        def tick() -> None:
            calls[name] += 1

        return tick

    node.create_timer(0.01, count("fast"), clock=STEADY)
    resting = node.create_timer(0.02, count("reset"), clock=STEADY)
    resting.cancel()

    def slow() -> None:
        calls["slow"] += 1
        resting.reset()
        if calls["slow"] == 1:
            node.create_timer(0.03, count("made"), clock=STEADY)

    slow_timer = node.create_timer(0.1, slow, clock=STEADY)
    heard = hears(node)
    publisher = node.create_publisher(String, "/heard", 10)

    def enough() -> bool:
        publisher.publish(String())
        return min(calls["fast"], 5 * calls["slow"], 2 * calls["reset"], 2 * calls["made"]) > 50

    spin(executor, enough, timeout_s=20.0)
    assert heard
    resting.cancel()
    slow_timer.cancel()
    before = dict(calls)
    spin(executor, lambda: calls["fast"] > before["fast"] + 10)
    assert (calls["reset"], calls["slow"]) == (before["reset"], before["slow"])


def test_a_timer_without_anything_else_keeps_its_period(node: Node, executor: NodeExecutor) -> None:
    times: list[float] = []
    node.create_timer(0.05, lambda: times.append(time.monotonic()), clock=STEADY)
    spin(executor, lambda: len(times) == 20)
    assert (times[-1] - times[0]) / 19 == pytest.approx(0.05, rel=0.3)


def test_services_clients_events_and_guards_are_served(
    context: Context, node: Node, executor: NodeExecutor
) -> None:
    triggered: list[int] = []
    served: list[Any] = []
    guard = node.create_guard_condition(lambda: triggered.append(1))

    def answer(request: Any, response: Any) -> Any:
        served.append(request.names)
        return response

    node.create_service(GetParameters, "/serve", answer)
    client = node.create_client(GetParameters, "/serve")
    spin(executor, client.service_is_ready)
    future = client.call_async(GetParameters.Request(names=["a"]))
    spin(executor, future.done)
    assert served == [["a"]]
    waker = threading.Timer(0.1, guard.trigger)
    waker.start()
    spin(executor, lambda: triggered)
    lossy = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    heard = hears(node)  # with the events of the middleware: the publisher does not fit
    other = node.create_publisher(String, "/heard", lossy)
    for _ in range(20):
        executor.spin_once(timeout_sec=0.02)
    other.publish(String())
    assert heard == []


def test_what_is_destroyed_in_a_callback_is_not_called_again(node: Node, executor: NodeExecutor) -> None:
    first: list[Any] = []
    made: dict[str, Any] = {}

    def end_both(message: Any) -> None:
        first.append(message)
        for subscription in made.values():
            node.destroy_subscription(subscription)

    for name in ("a", "b"):
        made[name] = node.create_subscription(String, "/heard", end_both, 10)
    publisher = node.create_publisher(String, "/heard", 10)
    spin(executor, lambda: publisher.get_subscription_count() == 2)
    publisher.publish(String())
    publisher.wait_for_all_acked()
    spin(executor, lambda: first)
    spin(executor, lambda: publisher.get_subscription_count() == 0)
    assert len(first) == 1


def test_an_exception_reaches_the_caller_and_the_rest_goes_on(node: Node, executor: NodeExecutor) -> None:
    def fail() -> None:
        raise KeyError("no such thing")

    timer = node.create_timer(0.01, fail, clock=STEADY)
    with pytest.raises(KeyError):
        spin(executor, lambda: False)
    timer.cancel()
    ticks: list[int] = []
    node.create_timer(0.01, lambda: ticks.append(1), clock=STEADY)
    spin(executor, lambda: len(ticks) > 3)


def test_an_inbox_wakes_nobody(node: Node, executor: NodeExecutor) -> None:
    inbox = Inbox(node, String, "/heard", QoSProfile(depth=10))
    publisher = node.create_publisher(String, "/heard", 10)
    spin(executor, lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="a"))
    publisher.wait_for_all_acked()
    for _ in range(3):
        executor.spin_once(timeout_sec=0.05)
    assert [message.data for message, _ in inbox.take()] == ["a"]


def test_it_ends_with_its_context_and_holds_nothing() -> None:
    context = Context()
    rclpy.init(context=context)
    node = Node("short", context=context)
    executor = NodeExecutor(context=context)
    executor.add_node(node)
    subscription = node.create_subscription(String, "/heard", lambda message: None, 10)
    executor.spin_once(timeout_sec=0.0)
    executor.shutdown()
    node.destroy_node()
    assert node.executor is None or isinstance(node.executor, SingleThreadedExecutor)
    with pytest.raises(Exception, match="destruction was requested"), subscription.handle:
        pass
    gc.collect()
    other = NodeExecutor(context=context)
    late = Node("late", context=context)
    other.add_node(late)
    other.spin_once(timeout_sec=0.0)
    rclpy.shutdown(context=context)
    with pytest.raises(ExternalShutdownException):
        other.spin_once(timeout_sec=0.1)
    other.shutdown()


def test_an_rclpy_without_what_it_uses_gets_the_executor_of_rclpy(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(make_executor(context)) is NodeExecutor
    for owner, name in INTERNALS:
        with monkeypatch.context() as patch:
            patch.delattr(owner, name)
            executor = make_executor(context)
        assert type(executor) is SingleThreadedExecutor
        executor.shutdown()


def test_a_callback_may_replace_a_subscription(node: Node, executor: NodeExecutor) -> None:
    heard: list[str] = []
    publisher = node.create_publisher(String, "/replaced", 10)

    def create() -> Subscription:
        return node.create_subscription(String, "/replaced", lambda m: heard.append(m.data), 10)

    def replace() -> None:
        node.destroy_subscription(subscriptions.pop())
        subscriptions.append(create())
        timer.cancel()

    subscriptions = [create()]
    timer = node.create_timer(0.05, replace)
    spin(executor, timer.is_canceled)
    spin(executor, lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="after"))
    spin(executor, lambda: heard == ["after"])
