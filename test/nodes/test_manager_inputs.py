"""Inputs of the manager node between two steps, without a graph."""

from __future__ import annotations

import math
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from std_msgs.msg import Header as StdHeader

from dynofa_ros import msg, topics
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.inputs import Input, Monitors, Parameters, make_input
from dynofa_ros.manager.refusals import Refusals
from dynofa_ros.messages import AppDecision, AppTargets, Header
from dynofa_ros.nodes.manager_node import MAX_INPUTS, ManagerNode, _App
from dynofa_ros.ros.diagnostics import Level
from dynofa_ros.topics import Topic

S = 1_000_000_000


@pytest.fixture
def node() -> ManagerNode:
    """A node whose control period is long; a step only takes what is there."""
    made = ManagerNode.__new__(ManagerNode)
    made._inputs, made._last_step_s, made.taken = [], time.monotonic(), []  # type: ignore[attr-defined]
    made._started_s, made._discovered_s, made._asked = 0.0, math.inf, False
    made._look_timer = SimpleNamespace(reset=lambda: None)  # type: ignore[assignment]
    made._lost_inputs = made._known_lost = 0
    made.time_ns = 0  # type: ignore[attr-defined]
    made.command_clock_ns = lambda: made.time_ns  # type: ignore
    made._manager = SimpleNamespace(state=SimpleNamespace(refusals=Refusals()))  # type: ignore[assignment]
    made._apps, made._silent, made._in_force = {}, {}, Parameters(control_period_s=3600.0)

    def step() -> None:
        made.taken.append(len(made._inputs))  # type: ignore[attr-defined]
        made._inputs = []

    made._step = step  # type: ignore[method-assign]
    return made


def numbered(number: int) -> Input:
    return make_input("perception/front/targets", AppTargets("front", 50.0, header=Header(number)))


def test_a_step_comes_before_inputs_are_lost(node: ManagerNode) -> None:
    for number in range(1, MAX_INPUTS // 2 + 10):
        node._keep(number, numbered(number))
        node._look()
    assert node.taken == [MAX_INPUTS // 2] and len(node._inputs) == 9  # type: ignore[attr-defined]
    assert node._monitors_status().level == Level.OK


def test_lost_inputs_are_a_warning_that_ends(node: ManagerNode) -> None:
    for number in range(1, MAX_INPUTS + 4):
        node._keep(number, numbered(number))  # and no step
    found = node._monitors_status()
    assert found.level == Level.WARN and "3 inputs were lost" in found.message
    found = node._monitors_status()
    assert found.level == Level.OK and found.values["lost_inputs"] == 3


def test_a_step_comes_at_once_after_an_event_and_else_when_its_period_is_nearly_over(
    node: ManagerNode,
) -> None:
    def asks(topic: Topic, message: Any) -> bool:
        node._collector(topic, "front")(serialize_message(message), {"received_timestamp": 1})
        before = len(node.taken)  # type: ignore[attr-defined]
        node._look()
        node._asked = False
        return len(node.taken) > before  # type: ignore[attr-defined]

    node._manager.urgent = lambda frame: frame.deadline_missed  # type: ignore[method-assign]
    late = {"app": "front", "subnet_id": "s0", "processor": "cpu"}
    assert asks(topics.TARGETS, msg.AppTargets(app="front"))
    assert asks(topics.LIBRARY, msg.SubnetLibrary(app="front"))
    assert not asks(topics.MONITOR, msg.InferenceMonitor(**late))
    assert asks(topics.MONITOR, msg.InferenceMonitor(deadline_missed=True, **late))
    assert not asks(topics.TELEMETRY, msg.DeviceTelemetry())
    node._in_force = Parameters(control_period_s=0.2)
    node._last_step_s = time.monotonic() - 0.1
    assert not asks(topics.TELEMETRY, msg.DeviceTelemetry())
    node._last_step_s = time.monotonic() - 0.19
    assert asks(topics.TELEMETRY, msg.DeviceTelemetry())


@pytest.mark.parametrize(
    ("rates_hz", "period_s", "look_s"),
    [((), 0.2, 0.2), ((5.0, 2.0), 0.2, 0.2), ((2.0, 15.0), 0.2, 0.2 / 3), ((60.0,), 0.2, 0.05)]
    + [((), 10.0, 0.2), ((30.0,), 0.02, 0.02)],
)
def test_monitors_are_looked_at_once_per_frame_of_the_fastest(
    node: ManagerNode, rates_hz: tuple[float, ...], period_s: float, look_s: float
) -> None:
    timer = node._look_timer = SimpleNamespace(timer_period_ns=0)  # type: ignore[assignment]
    node._in_force = Parameters(control_period_s=period_s)
    node._set_look_period([AppDecision("front", "s0", "cpu", 9.0, 0.1, 0.8, rate_hz=hz) for hz in rates_hz])
    assert timer.timer_period_ns == pytest.approx(1e9 * look_s, abs=1)


def test_bytes_that_are_no_message_are_named_and_nothing_else_is_lost(node: ManagerNode) -> None:
    said: list[str] = []
    node.get_logger = lambda: SimpleNamespace(warning=lambda text, **_: said.append(text))  # type: ignore
    data = [b"", b"\0\1\0\0", bytes(serialize_message(msg.DeviceTelemetry())), b"\0\1\0\0" + b"\xff" * 40]
    taken = [(message, {"received_timestamp": 0}) for message in data]
    node._silent = {"": (SimpleNamespace(take=lambda: taken), node._collector(topics.TELEMETRY))}  # type: ignore
    node._take(node._silent)
    assert len(node._inputs) == 1
    assert len(said) == 3 and all("DeviceTelemetry: " in text and "\n" not in text for text in said)


def test_a_step_takes_what_came_silently_and_has_all_in_the_order_in_which_it_came(node: ManagerNode) -> None:
    """Between two steps only monitors are looked at."""

    class Stepped(Exception):
        pass

    def step(now_ns: int, monitors: Monitors) -> None:
        raise Stepped([item.message.header.stamp_ns for item in monitors.inputs])

    def listen(topic: Topic, message: type, *stamps_s: int) -> None:
        taken = [
            (serialize_message(message(header=StdHeader(stamp=Time(sec=s)))), {"received_timestamp": s})
            for s in stamps_s
        ]
        inbox = SimpleNamespace(take=lambda: [taken.pop(0) for _ in list(taken)])
        node._silent[topic.of("front")] = inbox, node._collector(topic, "front")  # type: ignore[assignment]

    node._apps = {"front": _App([], None, answered_ns=0)}  # type: ignore[arg-type]
    node._manager = SimpleNamespace(step=step, urgent=lambda frame: False)  # type: ignore[assignment]
    node.get_clock = lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=9))  # type: ignore
    frame = partial(msg.InferenceMonitor, app="front", subnet_id="s0", processor="cpu")
    listen(topics.MONITOR, frame, 2, 5)  # type: ignore[arg-type]
    listen(topics.TELEMETRY, msg.DeviceTelemetry, 1, 4, 6)
    node._look()
    assert [came_ns for came_ns, _ in node._inputs] == [2, 5]
    node._keep(3, numbered(3 * S))
    with pytest.raises(Stepped) as raised:
        ManagerNode._step(node)
    assert raised.value.args[0] == [1 * S, 2 * S, 3 * S, 4 * S, 5 * S, 6 * S]
    assert node._inputs == []


def test_an_application_that_answers_no_commands_is_an_error_until_it_does(
    node: ManagerNode,
) -> None:
    """By the clock by which commands are renewed: none is while the simulation is paused."""
    app = SimpleNamespace(app="front")
    node._manager.state.apps, node._decision = {"front": AppState("front")}, SimpleNamespace(apps=[app])  # type: ignore
    node._in_force, node._stepped_ns = Parameters(), 6 * S
    node._apps = {"front": _App([], None, answered_ns=0)}  # type: ignore[arg-type]
    found = node._applications_status()
    assert found.level == Level.ERROR and found.message.startswith("front answers no commands")
    node.time_ns = 6 * S  # type: ignore[attr-defined]
    state = msg.SubnetState(subnet_id="s0", processor="cpu")
    node._collector(topics.SUBNET_STATE, "front")(serialize_message(state), {"received_timestamp": 0})
    found = node._applications_status()
    assert found.level == Level.OK and found.message == "1 managed of 1 seen"
