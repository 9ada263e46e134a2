"""Inputs of the manager node between two steps, without a graph."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from dynofa_ros.msg import SubnetState
from rclpy.serialization import serialize_message

from dynofa_ros import topics
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.inputs import Input, Parameters, make_input
from dynofa_ros.manager.refusals import Refusals
from dynofa_ros.messages import AppTargets, Header
from dynofa_ros.nodes.manager_node import MAX_INPUTS, ManagerNode, _App
from dynofa_ros.ros.diagnostics import Level


@pytest.fixture
def node() -> ManagerNode:
    """A node whose control period is long; a step only takes what is there."""
    made = ManagerNode.__new__(ManagerNode)
    made._inputs, made._last_step_s, made.taken = [], time.monotonic(), []  # type: ignore[attr-defined]
    made._lost_inputs = made._known_lost = 0
    made._manager = SimpleNamespace(state=SimpleNamespace(refusals=Refusals()))  # type: ignore[assignment]
    made._silent, made._in_force = {}, Parameters(control_period_s=3600.0)

    def step() -> None:
        made.taken.append(len(made._inputs))  # type: ignore[attr-defined]
        made._inputs = []

    made._step = step  # type: ignore[method-assign]
    return made


def numbered(number: int) -> Input:
    return make_input("perception/front/targets", AppTargets("front", 50.0, header=Header(number)))


def test_a_step_comes_before_inputs_are_lost(node: ManagerNode) -> None:
    for number in range(1, MAX_INPUTS + 10):
        node._take(numbered(number))
    assert node.taken == [MAX_INPUTS] and len(node._inputs) == 9  # type: ignore[attr-defined]
    assert node._monitors_status().level == Level.OK


def test_lost_inputs_are_a_warning_that_ends(node: ManagerNode) -> None:
    for number in range(1, MAX_INPUTS + 4):
        node._keep(numbered(number))  # and no step
    found = node._monitors_status()
    assert found.level == Level.WARN and "3 inputs were lost" in found.message
    found = node._monitors_status()
    assert found.level == Level.OK and found.values["lost_inputs"] == 3


def test_an_application_that_answers_no_commands_is_an_error_until_it_does(node: ManagerNode) -> None:
    app = SimpleNamespace(app="front")
    node._manager.state.apps, node._decision = {"front": AppState("front")}, SimpleNamespace(apps=[app])  # type: ignore
    node._in_force, node._stepped_s = Parameters(), time.monotonic()
    node._apps = {"front": _App([], None, answered_s=node._stepped_s - 6.0)}  # type: ignore[arg-type]
    found = node._applications_status()
    assert found.level == Level.ERROR and found.message.startswith("front answers no commands")
    node._collector(topics.SUBNET_STATE, "front")(
        serialize_message(SubnetState(subnet_id="s0", processor="cpu"))
    )
    found = node._applications_status()
    assert found.level == Level.OK and found.message == "1 managed of 1 seen"
