"""The SROS2 policy: as the table of topics says, no more than each node needs, and no less than it has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
import write_policy as tool
from ros_domain import own_domain

from dynofa_ros import topics
from dynofa_ros.application.task import further_topics
from dynofa_ros.topics import TOPICS

DOMAIN_ID = own_domain()
CHILDREN = {"policy": {"enclaves"}, "enclaves": {"enclave"}, "enclave": {"profiles"}, "profiles": {"profile"}}
CHILDREN |= {"profile": {"topics", "services", "actions"}}
CHILDREN |= {f"{kind}s": {kind} for kind in ("topic", "service", "action")}
VERBS = {"topics": ("publish", "subscribe"), "services": ("reply", "request"), "actions": ("execute", "call")}
ATTRIBUTES = {"policy": {"version"}, "enclave": {"path"}, "profile": {"ns", "node"}}


def allowed(
    enclave: str, what: str, apps: tuple[str, ...] = ("front",), texts: tuple[str, ...] = ()
) -> set[str]:
    """Full names of what an enclave may publish, subscribe, reply or request."""
    found: set[str] = set()
    for path, namespace, node, rules in tool.enclaves(apps, "", texts):
        if path == enclave:
            for _, verb, names in rules:
                found |= {n.replace("~", f"{namespace}/{node}", 1) for n in names if verb == what}
    return found


def test_the_committed_policy_is_that_of_the_topics() -> None:
    assert tool.POLICY.read_text() == tool.policy(["front"]), "run python tools/write_policy.py"


@pytest.mark.parametrize("namespace", ["", "/robot1"])
def test_layout_of_sros2(namespace: str) -> None:
    """As sros2/policy/schemas/policy.xsd says, which is not part of this repository."""
    root = ElementTree.fromstring(tool.policy(["front", "rear"], namespace, ["translator"]).encode())
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        assert len(element) or element.tag in ("topic", "service", "action")
        if element.tag in VERBS:
            ((verb, value),) = element.attrib.items()
            assert value == "ALLOW"
            assert verb in VERBS[element.tag]
        else:
            assert set(element.attrib) == ATTRIBUTES.get(element.tag, set())
    names = [element.text or "" for element in root.iter() if element.tag in ("topic", "service", "action")]
    assert all(name.startswith(("/", "~/")) for name in names) and not any("*" in name for name in names)


ROBOT = [*(t for t in TOPICS if t.sender != "demo"), *further_topics()]


@pytest.mark.parametrize("topic", ROBOT, ids=lambda t: t.name)
def test_each_topic_has_the_senders_of_the_table_alone(topic: topics.Topic) -> None:
    apps, texts = ("front", "rear"), ("translator",)
    spoken = topic.name.startswith(topics.LANGUAGE)
    device, nodes = {"/dynofa/device", "/dynofa/simulated_device"}, {f"/perception/{app}" for app in apps}
    for app in texts if spoken else apps:
        name = topic.name if topic.name.startswith("/") else "/" + topic.of(app)
        paths = [path for path, *_ in tool.enclaves(apps, "", texts)]
        senders = {path for path in paths if name in allowed(path, "publish", apps, texts)}
        expected = {"manager": {"/dynofa/manager"}, "device": device, "camera": {"/camera"}}
        expected |= {"perception": {f"/perception/{app}"}, "user": {"/client"}}
        expected["language"] = {f"/language/{app}"}
        expected["every node"] = {"/dynofa/manager", "/language/translator", *device, *nodes}
        assert senders == expected[topic.sender]


def test_nobody_but_the_operator_sets_parameters() -> None:
    for path, *_ in tool.enclaves(("front",)):
        assert bool(allowed(path, "request")) == (path == "/operator")


@pytest.fixture
def graph() -> Iterator[Any]:
    """The three nodes as processes, and a node that sees them."""
    import rclpy
    from rclpy.context import Context

    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"from dynofa_ros.nodes.{module} import main; raise SystemExit(main())"]
            + ["--ros-args", "-r", f"__node:={name}", *parameters],
            env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN_ID)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for module, name, *parameters in (
            ("manager_node", "manager"),
            ("device_node", "device", "-p", "backend:=simulated"),
            ("perception_node", "front", "-r", "__ns:=/perception"),
        )
    ]
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN_ID)
    node = rclpy.create_node("reader", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)
    for process in started:
        process.terminate()
    for process in started:
        process.wait(90)


@pytest.mark.live
def test_nodes_have_nothing_that_the_policy_forbids(graph: Any) -> None:
    places = {
        ("manager", "/dynofa"): "/dynofa/manager",
        ("device", "/dynofa"): "/dynofa/simulated_device",
        ("front", "/perception"): "/perception/front",
    }
    deadline_s = time.monotonic() + 120.0
    needed = {  # of each node, so that what is compared is the node as it works
        "/dynofa/manager": "/" + topics.SUBNET_COMMAND.of("front"),
        "/dynofa/simulated_device": "/" + topics.TELEMETRY.name,
        "/perception/front": "/" + topics.MONITOR.of("front"),
    }
    while not all(complete(of_node(graph, *n), needed[e]) for n, e in places.items()):
        assert time.monotonic() < deadline_s, "the nodes did not become active"
        time.sleep(0.2)
    time.sleep(3.0)  # what is subscribed on discovery
    for place, enclave in places.items():
        for what, names in of_node(graph, *place).items():
            assert names <= allowed(enclave, what), f"{enclave} may not {what}"


def complete(found: dict[str, set[str]], published: str) -> bool:
    return bool(published in found["publish"] and found["subscribe"] and found["reply"])


def of_node(graph: Any, name: str, namespace: str) -> dict[str, set[str]]:
    """What a node has, as far as it was discovered."""
    queries = {
        "publish": graph.get_publisher_names_and_types_by_node,
        "subscribe": graph.get_subscriber_names_and_types_by_node,
        "reply": graph.get_service_names_and_types_by_node,
        "request": graph.get_client_names_and_types_by_node,
    }
    if (name, namespace) not in graph.get_node_names_and_namespaces():
        return dict.fromkeys(queries, set())
    return {what: {entry[0] for entry in query(name, namespace)} for what, query in queries.items()}
