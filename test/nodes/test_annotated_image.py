"""The annotated image of a detector over DDS: made while somebody subscribes, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_client import TIMEOUT_S, RosClient
from ros_domain import own_domain
from sensor_msgs.msg import Image

from dynofa_ros import topics
from dynofa_ros.application import detection
from dynofa_ros.application.detection import ANNOTATED_IMAGE
from dynofa_ros.demo.signs import SCENES_HELD_OUT_SEED, render_scene
from dynofa_ros.nodes.perception_node import PerceptionNode

pytestmark = pytest.mark.live

DOMAIN_ID = own_domain()
APP = "front"
SCENE = render_scene(SCENES_HELD_OUT_SEED, 0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was drawn so far."""
    made: list[Any] = []
    draw = detection.annotated_image
    monkeypatch.setattr(detection, "annotated_image", lambda *given: made.append(draw(*given)) or made[-1])
    return made


@pytest.fixture
def node(drawn: list[Any]) -> Iterator[PerceptionNode]:
    """In its own process it could not be watched drawing."""
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN_ID)
    values = {"task": "detection", "latency_target_ms": 5000.0, "rate_hz": 100.0, "score_threshold": 0.05}
    given = [Parameter(name, value=value) for name, value in values.items()]
    node = PerceptionNode(context=context, namespace="/perception", parameter_overrides=given)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join(TIMEOUT_S)
    node.end()
    rclpy.shutdown(context=context)


@pytest.fixture
def client(node: PerceptionNode) -> Iterator[RosClient]:
    client = RosClient("client", DOMAIN_ID, "/perception", f"/perception/{APP}")
    yield client
    client.close()


def test_it_is_made_while_somebody_subscribes(
    client: RosClient, node: PerceptionNode, drawn: list[Any]
) -> None:
    found: list[Any] = []
    client.subscribe(topics.DETECTIONS, found.append, APP)
    camera = client.publisher(replace(topics.IMAGE, reliable=True), APP)
    client.wait(camera.get_subscription_count, "the node")
    rows, columns = SCENE.image.shape[:2]
    picture = Image(height=rows, width=columns, step=3 * columns, encoding="rgb8", data=SCENE.image.tobytes())
    picture.header.frame_id = "lens"

    def sent() -> None:
        """The node may find this camera later than the camera finds the node: again and again."""
        camera.publish(picture)
        client.spin(0.2)

    def answered(number: int) -> None:
        del found[:]
        for second in range(number):
            picture.header.stamp.sec = 1 + second
            client.wait(lambda: sent() or (found and found[-1].header == picture.header), "boxes")

    answered(3)
    assert found[-1].detections and not drawn, "nobody looks"

    shown: list[Image] = []
    viewer = client.subscribe(ANNOTATED_IMAGE, shown.append, APP)
    name = viewer.topic_name
    assert name == f"/perception/{APP}/annotated_image"

    def seen() -> bool:
        answered(1)
        client.spin(0.1)
        return bool(shown)

    client.wait(seen, "an annotated image")
    image = shown[-1]
    assert (image.height, image.width, image.encoding) == (rows, columns, "bgr8")
    assert image.header == picture.header
    changed = (np.array(image.data).reshape(rows, columns, 3)[..., ::-1] != SCENE.image).any(2)
    assert 0.001 < changed.mean() < 0.5, "lines and words, on the image itself"
    box = found[-1].detections[0].bbox  # its left side is drawn where the box says
    left, middle = round(box.center.position.x - box.size_x / 2), round(box.center.position.y)
    assert changed[middle, max(0, left - 1) : left + 2].any()

    client.node.destroy_subscription(viewer)
    client.wait(lambda: not node.count_subscribers(name), "the end of the subscription")
    answered(2)  # what was begun before
    before = len(drawn)
    answered(3)
    client.spin(0.2)
    assert len(drawn) == before > 0
