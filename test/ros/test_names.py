"""Names relative to the user's namespace, and QoS of the topics."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dynofa_ros.ros import names, qos


@pytest.mark.parametrize(
    ("namespace", "root"),
    [
        ("/perception", "/"),
        ("/robot1/perception", "/robot1"),
        ("/fleet/robot1/dynofa", "/fleet/robot1"),
        ("/", "/"),
        ("", "/"),
        ("/robot1/perception/", "/robot1"),
    ],
)
def test_root_is_the_namespace_without_its_last_part(namespace: str, root: str) -> None:
    assert names.root_namespace(namespace) == root


@pytest.mark.parametrize(
    ("namespace", "full"),
    [
        ("/perception", "/dynofa/device/telemetry"),
        ("/robot1/dynofa", "/robot1/dynofa/device/telemetry"),
        ("/", "/dynofa/device/telemetry"),
    ],
)
def test_topics_are_relative_to_the_root(namespace: str, full: str) -> None:
    assert names.topic(namespace, names.TELEMETRY) == full
    assert names.relative_topic(namespace, full) == names.TELEMETRY


def test_absolute_topics_stay() -> None:
    assert names.topic("/robot1/perception", names.DIAGNOSTICS) == "/diagnostics"


@pytest.mark.parametrize(
    ("namespace", "full", "app"),
    [
        ("/dynofa", "/perception/front/targets", "front"),
        ("/robot1/dynofa", "/robot1/perception/rear/targets", "rear"),
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
    assert names.app_of_topic(namespace, full, "targets") == app


def test_app_topics_round_trip() -> None:
    relative = names.app_topic("front", "monitor")
    assert relative == "perception/front/monitor"
    assert names.app_of_topic("/r/dynofa", names.topic("/r/perception", relative), "monitor") == "front"


@pytest.mark.parametrize(
    ("profile", "reliable", "latched", "depth"),
    [
        (qos.IMAGE, False, False, 1),
        (qos.CLASSIFICATION, True, False, 5),
        (qos.MONITOR, True, False, 5),
        (qos.APP_STATE, True, True, 1),
        (qos.SUBNET_COMMAND, True, True, 1),
        (qos.TELEMETRY, True, False, 5),
        (qos.DEVICE_STATE, True, True, 1),
        (qos.DVFS_COMMAND, True, True, 1),
        (qos.SIMULATED_LOAD, True, False, 5),
        (qos.DECISION, True, True, 5),
        (qos.DIAGNOSTICS, True, False, 1),
    ],
)
def test_qos_is_what_the_interface_promises(
    profile: QoSProfile, reliable: bool, latched: bool, depth: int
) -> None:
    assert profile.depth == depth
    assert (profile.reliability == ReliabilityPolicy.RELIABLE) == reliable
    assert (profile.durability == DurabilityPolicy.TRANSIENT_LOCAL) == latched
