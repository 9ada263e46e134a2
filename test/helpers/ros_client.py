"""A node of a test's own that talks to a node under test: topics, parameters, lifecycle, diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from dynofa_ros.convert import ros_types
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import DIAGNOSTICS, Topic, absolute

REPLY_S = 0.3  # in which a node finds a new client; before, its answer is lost


class RosClient:
    """It spins only while the test waits. ``target``: full name of the node under test."""

    timeout_s = 30.0  # of a busy machine: a node takes 10 s to start there

    def __init__(self, name: str, domain_id: int, namespace: str, target: str) -> None:
        self.namespace, self.target = namespace, target
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self.node = rclpy.create_node(name, context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}  # by name of service
        self.diagnostics: dict[str, tuple[int, str]] = {}
        self.facts: dict[str, dict[str, str]] = {}  # the values of each diagnostic task
        self.subscribe(replace(DIAGNOSTICS, depth=10), self.on_diagnostics)

    def publisher(self, topic: Topic, app: str = "", namespace: str = "") -> Any:
        name = absolute(namespace or self.namespace, topic.of(app))
        return self.node.create_publisher(ros_types(topic.kind), name, qos_of(topic))

    def subscribe(
        self, topic: Topic, callback: Callable[[Any], None], app: str = "", namespace: str = ""
    ) -> Any:
        name = absolute(namespace or self.namespace, topic.of(app))
        return self.node.create_subscription(ros_types(topic.kind), name, callback, qos_of(topic))

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, task = status.name.rpartition(": ")
            if node == self.target:  # /diagnostics is everybody's
                self.diagnostics[task] = (ord(status.level), status.message)
                self.facts[task] = {pair.key: pair.value for pair in status.values}

    def spin_once(self) -> None:
        self._executor.spin_once(timeout_sec=0.01)

    def spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.spin_once()

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float | None = None) -> Any:
        """Spins until the condition is true; its value."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + limit_s
        while not (result := condition()):
            late = time.monotonic() >= end_s
            assert not late, f"not seen within {limit_s:g} s: {what}; diagnostics: {self.diagnostics}"
            self.spin_once()
        return result

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """The response of a service of the node under test."""
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self.node.create_client(kind, f"{self.target}/{service}")
            self.wait(client.service_is_ready, f"service {service}")
            self.spin(REPLY_S)
        future = client.call_async(request)
        self.wait(future.done, f"answer of {service}")
        return future.result()

    def set(self, **values: object) -> list[SetParametersResult]:
        """One result per parameter."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return self.call(
            SetParameters, "set_parameters", SetParameters.Request(parameters=parameters)
        ).results

    def set_parameter(self, name: str, value: object) -> str:
        """Reason of the refusal, empty if it was accepted."""
        (result,) = self.set(**{name: value})
        return "" if result.successful else result.reason

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "change_state", request).success

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
