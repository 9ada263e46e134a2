"""A node of a test's own that talks to a node under test: topics, parameters, lifecycle, diagnostics."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from dynofa_ros.convert import ros_types
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import DIAGNOSTICS, Topic, absolute

TIMEOUT_S = (
    90.0  # for what takes a second: a busy machine takes 10 s, and only a fault takes longer than this
)
ASK_AGAIN_S = 5.0
QUEUE = 1000  # messages of a topic that may come while the test does something else
GOALS = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
}


def stamp_s(message: Any) -> float:
    """Stamp of a message, s."""
    return float(message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec)


def said(process: subprocess.Popen[str]) -> str:
    """Whether a process still runs, and what it has written to stderr and nobody has read."""
    state = "still runs" if process.poll() is None else f"ended with {process.returncode}"
    if process.stderr is None or process.stderr.closed:
        return state
    os.set_blocking(process.stderr.fileno(), False)
    try:
        text = os.read(process.stderr.fileno(), 2**16).decode(errors="replace")
    except BlockingIOError:
        text = ""
    return f"{state} and said {text!r}"


def end(process: subprocess.Popen[str]) -> str:
    """Ask a node to end, or kill it if it does not; what it said. One that was killed is missed for 20 s."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.communicate(timeout=20.0)[1] or ""
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1] or ""


class RosClient:
    """It spins only while the test waits. ``target``: full name of the node under test.

    What it subscribes to is kept until the test takes it: a test that waits for one state sees each.
    ``process``: of the node, for what is said when something does not come.
    """

    timeout_s = TIMEOUT_S
    process: subprocess.Popen[str] | None = None

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
        self.subscribe(DIAGNOSTICS, self.on_diagnostics)

    def publisher(self, topic: Topic, app: str = "", namespace: str = "") -> Any:
        name = absolute(namespace or self.namespace, topic.of(app))
        return self.node.create_publisher(ros_types(topic.kind), name, qos_of(topic))

    def subscribe(
        self, topic: Topic, callback: Callable[[Any], None], app: str = "", namespace: str = ""
    ) -> Any:
        name = absolute(namespace or self.namespace, topic.of(app))
        kept = qos_of(replace(topic, depth=QUEUE))
        return self.node.create_subscription(ros_types(topic.kind), name, callback, kept)

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
            if time.monotonic() >= end_s:
                node = f"; the node {said(self.process)}" if self.process else ""
                raise AssertionError(
                    f"not seen within {limit_s:g} s: {what}; diagnostics: {self.diagnostics}{node}"
                )
            self.spin_once()
        return result

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """The response of a service of the node under test. It may get the request twice."""
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self.node.create_client(kind, f"{self.target}/{service}")
            self.wait(client.service_is_ready, f"service {service}")
        return self.again(lambda: client.call_async(request), f"answer of {service}")

    def again(self, ask: Callable[[], Any], what: str) -> Any:
        """What the first future of ``ask`` says. A node that has not found us loses its answer."""
        asked: list[Any] = []
        asked_s = -math.inf

        def answered() -> Any:
            nonlocal asked_s
            if time.monotonic() - asked_s > ASK_AGAIN_S:
                asked.append(ask())
                asked_s = time.monotonic()
            return next((future for future in asked if future.done()), None)

        return self.wait(answered, what).result()

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
        """Whether the node is in the state behind the transition: the answer to it may have been lost."""
        request = ChangeState.Request(transition=Transition(id=transition))
        if self.call(ChangeState, "change_state", request).success:
            return True
        state = self.call(GetState, "get_state", GetState.Request()).current_state
        return bool(state.id == GOALS[transition])

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
