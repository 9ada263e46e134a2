"""The table of topics: names below the user's namespace, applications, QoS."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from dynofa_ros import topics
from dynofa_ros.convert import ros_types
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import Topic


@pytest.mark.parametrize(
    ("namespace", "root"),
    [
        ("/perception", "/"),
        ("/robot1/perception", "/robot1"),
        ("/fleet/robot1/dynofa", "/fleet/robot1"),
        ("/robot1/demo", "/robot1"),
        ("/", "/"),
        ("", "/"),
        ("/robot1/perception/", "/robot1"),
        ("/robot1", "/robot1"),
        ("/robot2", "/robot2"),
        ("/fleet/robot1", "/fleet/robot1"),
        ("/dynofa_team", "/dynofa_team"),
        ("/dynofa/dynofa", "/dynofa"),
        ("/perception/dynofa", "/perception"),
    ],
)
def test_root_is_the_namespace_without_the_level_of_the_nodes(namespace: str, root: str) -> None:
    assert topics.root_namespace(namespace) == root


@pytest.mark.parametrize(
    ("namespace", "full"),
    [
        ("/perception", "/dynofa/device/telemetry"),
        ("/robot1/dynofa", "/robot1/dynofa/device/telemetry"),
        ("/robot1", "/robot1/dynofa/device/telemetry"),
        ("/", "/dynofa/device/telemetry"),
    ],
)
def test_topics_are_relative_to_the_root(namespace: str, full: str) -> None:
    assert topics.absolute(namespace, topics.TELEMETRY.name) == full
    assert topics.relative_to_root(namespace, full) == topics.TELEMETRY.name


def test_absolute_topics_stay() -> None:
    assert topics.absolute("/robot1/perception", topics.DIAGNOSTICS.name) == "/diagnostics"


@pytest.mark.parametrize(
    ("namespace", "full", "app"),
    [
        ("/dynofa", "/perception/front/targets", "front"),
        ("/robot1/dynofa", "/robot1/perception/rear/targets", "rear"),
        ("/robot1", "/robot1/perception/rear/targets", "rear"),
        ("/robot1", "/robot2/perception/rear/targets", None),
        ("/robot1", "/perception/rear/targets", None),
        ("/robot1/dynofa", "/robot2/perception/rear/targets", None),
        ("/robot1/dynofa", "/perception/rear/targets", None),
        ("/robot1/dynofa", "/robot10/perception/rear/targets", None),
        ("/dynofa", "/robot1/perception/rear/targets", None),
        ("/dynofa", "/perception/front/monitor", None),
        ("/dynofa", "/perception/front/image/targets", None),
        ("/dynofa", "/perception/targets", None),
        ("/robot1/dynofa", "/robot1", None),
    ],
)
def test_only_apps_of_the_own_namespace_are_found(namespace: str, full: str, app: str | None) -> None:
    assert topics.app_of(namespace, full, topics.TARGETS) == app


def test_app_topics_round_trip() -> None:
    relative = topics.MONITOR.of("front")
    assert relative == "perception/front/monitor" and topics.MONITOR.match(relative) == "front"
    full = topics.absolute("/r/perception", relative)
    assert topics.app_of("/r/dynofa", full, topics.MONITOR) == "front"
    assert topics.MONITOR.root(full) == "/r" and topics.MONITOR.root("/r/perception/front/image") is None


def test_names_are_not_taken_for_patterns() -> None:
    assert Topic("a.b/{app}", "").match("a.b/x") == "x"
    assert Topic("a.b/{app}", "").match("a-b/x") is None


def test_the_manager_hears_what_the_table_says() -> None:
    named = {topic.name.rpartition("/")[2] for topic in topics.MANAGER_INPUTS}
    states = {"targets", "library", "subnet_state", "capabilities", "power_model", "dvfs_state"}
    assert named == states | {"monitor", "telemetry"}
    assert {t.name.rpartition("/")[2] for t in topics.MANAGER_INPUTS if t.latched} == states


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.name)
def test_every_type_exists_and_every_name_is_there_once(topic: Topic) -> None:
    assert ros_types(topic.kind).__name__ == topic.kind.rpartition("/")[2]
    assert [other.name for other in topics.TOPICS].count(topic.name) == 1


@pytest.mark.parametrize(
    ("topic", "reliable", "latched", "depth"),
    [
        (topics.IMAGE, False, False, 1),
        (topics.COMPRESSED_IMAGE, False, False, 1),
        (topics.CLASSIFICATION, True, False, 5),
        (topics.MONITOR, True, False, 5),
        (topics.TARGETS, True, True, 1),
        (topics.LIBRARY, True, True, 1),
        (topics.SUBNET_STATE, True, True, 1),
        (topics.SUBNET_COMMAND, True, True, 1),
        (topics.TELEMETRY, True, False, 5),
        (topics.CAPABILITIES, True, True, 1),
        (topics.POWER_MODEL, True, True, 1),
        (topics.DVFS_STATE, True, True, 1),
        (topics.DVFS_COMMAND, True, True, 1),
        (topics.SIMULATED_LOAD, True, False, 5),
        (topics.DECISION, True, True, 5),
        (topics.MANAGER_STATE, True, True, 1),
        (topics.DIAGNOSTICS, True, False, 1),
    ],
)
def test_qos_is_what_the_interface_promises(topic: Topic, reliable: bool, latched: bool, depth: int) -> None:
    profile = qos_of(topic)
    assert profile.depth == depth
    assert (profile.reliability == ReliabilityPolicy.RELIABLE) == reliable
    assert (profile.durability == DurabilityPolicy.TRANSIENT_LOCAL) == latched
