"""Publishers and subscriptions without the events that an executor of rclpy would wait for.

Every wake-up of its executors builds a wait set of everything that a node has, in Python: about 1 ms on a
busy computer, several percent of a core for a node that receives 30 messages per second.
"""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


class Inbox:
    """A subscription that no executor waits for. raw: its messages are their bytes."""

    def __init__(
        self, node: Node, message_type: Any, topic: str, profile: QoSProfile, raw: bool = False
    ) -> None:
        self.subscription = node.create_subscription(
            message_type,
            topic,
            lambda message: None,  # never called
            profile,
            callback_group=_NeverReady(),
            raw=raw,
            event_callbacks=quiet_subscription(),
        )

    def take(self) -> list[tuple[Any, Any]]:
        """The messages that came since the last call, oldest first, each with what rclpy says about it."""
        messages, subscription = [], self.subscription
        with subscription.handle:  # as the executors of rclpy do it, from Humble on
            while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
                messages.append(taken)
        return messages


class _NeverReady(CallbackGroup):
    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


def quiet_subscription() -> SubscriptionEventCallbacks:
    """No events of the middleware, see `quiet_publisher`."""
    return SubscriptionEventCallbacks(use_default_callbacks=False)


def quiet_publisher() -> PublisherEventCallbacks:
    """No events of the middleware: each kind costs every wake-up of the executor, for a line in a log.

    A subscriber whose QoS does not fit is warned by its own node.
    """
    return PublisherEventCallbacks(use_default_callbacks=False)
