"""The example of docs/own_node.md as a real process, under a real manager over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from geometry_msgs.msg import PolygonStamped
from ros_client import TIMEOUT_S, RosClient
from ros_domain import own_domain
from sensor_msgs.msg import Image

from dynofa_ros import topics
from dynofa_ros.topics import Topic

pytestmark = [pytest.mark.live]

DOMAIN_ID = own_domain()
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "corners_node.py"
APP, CAMERA = "corners", Topic("image", "sensor_msgs/msg/Image", depth=1)
FOUND = Topic("corners/found", "geometry_msgs/msg/PolygonStamped")


@pytest.fixture
def client() -> Iterator[RosClient]:
    client = RosClient("client", DOMAIN_ID, "/", f"/{APP}")
    yield client
    client.close()


@pytest.fixture
def processes(client: RosClient) -> Iterator[list[subprocess.Popen]]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN_ID)}
    manager = (
        "from dynofa_ros.entry_point import node; raise SystemExit(node('dynofa_ros.nodes.manager_node'))"
    )
    commands = [sys.executable, str(EXAMPLE)], [sys.executable, "-c", manager]
    started = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    yield started
    for process in started:
        process.send_signal(signal.SIGTERM)
    codes = [process.wait(TIMEOUT_S) for process in started]
    assert codes == [0, 0], [process.stderr and process.stderr.read() for process in started]


def test_the_example_follows_the_manager(client: RosClient, processes: list[subprocess.Popen]) -> None:
    libraries, states, monitors, decisions = [], [], [], []
    found: list[PolygonStamped] = []
    for topic, received in (
        (topics.LIBRARY, libraries),
        (topics.SUBNET_STATE, states),
        (topics.MONITOR, monitors),
        (topics.DECISION, decisions),
        (FOUND, found),
    ):
        client.subscribe(topic, received.append, APP)
    camera = client.publisher(replace(CAMERA, name="/image"))
    drawn = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (720, 1280), np.uint8), (0, 0), 3)
    picture = Image(height=720, width=1280, step=1280, encoding="mono8", data=drawn.tobytes())
    picture.header.frame_id = "lens"

    def play() -> None:
        client.spin(0.1)
        picture.header.stamp = client.node.get_clock().now().to_msg()
        camera.publish(picture)

    def commanded(subnet_id: str) -> bool:
        """A frame of this level, answered by the command of a decision."""
        play()
        return bool(monitors) and monitors[-1].subnet_id == subnet_id and monitors[-1].decision_id > 0

    client.process = processes[0]
    client.wait(lambda: libraries, "the library of the example")
    client.wait(lambda: decisions, "the manager's decisions")  # only the last few wait for who finds it late
    times = {entry.id: entry.latency_ms for entry in libraries[0].entries}
    assert "w1280" in times and "w640" in times and all(ms > 0 for ms in times.values())
    assert not client.set_parameter("latency_target_ms", 40 * times["w1280"])
    client.wait(lambda: commanded("w1280"), "the best level, by the manager")
    assert monitors[-1].app == APP and monitors[-1].header.frame_id == "lens"
    assert 0 < monitors[-1].inference_ms <= monitors[-1].latency_ms

    assert "from 1.0 to" in client.set_parameter("latency_target_ms", 0.1)
    client.set_parameter("latency_target_ms", max(1.0, 0.6 * times["w1280"]))

    def smaller() -> bool:
        play()
        return monitors[-1].subnet_id != "w1280" and monitors[-1].decision_id > 0

    client.wait(smaller, "a level that holds the tighter target")
    monitor = monitors[-1]

    def decided() -> list:
        """The decision that this frame names: it has a topic of its own, so it may come after the frame."""
        return [d for d in decisions if d.decision_id == monitor.decision_id]

    client.wait(decided, "the decision that the frame names")
    assert [(app.app, app.subnet_id) for app in decided()[0].apps] == [(APP, monitor.subnet_id)]
    client.wait(lambda: play() or found, "corners")
    assert found[-1].header.frame_id == "lens" and len(found[-1].polygon.points) > 50
    usual = (0, "requests are taken")
    client.wait(lambda: play() or client.diagnostics.get("input") == usual, "diagnostics")
