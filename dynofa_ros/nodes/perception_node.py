"""Perception node: an application that answers camera images, as a ROS node."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
from rclpy.qos import ReliabilityPolicy

from dynofa_ros import topics
from dynofa_ros.application.application import Application
from dynofa_ros.application.task import IMAGE
from dynofa_ros.application.worker import MalformedRequest
from dynofa_ros.convert import from_ros
from dynofa_ros.messages import Header
from dynofa_ros.nodes import perception_status as status
from dynofa_ros.nodes.managed_application import NetworkNode
from dynofa_ros.nodes.perception_parameters import PARAMETERS
from dynofa_ros.ros.arrivals import Arrivals
from dynofa_ros.ros.claim import publishers
from dynofa_ros.ros.diagnostics import Status
from dynofa_ros.ros.images import ImageDecoder, MalformedImage, default_converter
from dynofa_ros.ros.run import run
from dynofa_ros.supernet.switching import SWITCH_INTERVAL_S
from dynofa_ros.topics import Topic

YIELD_S = 1e-4
IMAGE_TYPES = (topics.IMAGE.kind, topics.COMPRESSED_IMAGE.kind)


class PerceptionNode(NetworkNode):
    """One application that answers images: its topics are `perception/<node name>/...`."""

    request = IMAGE
    malformed = "image dropped"

    def __init__(self, **arguments: Any) -> None:
        self._reliable = False
        super().__init__("front", specs=PARAMETERS, **arguments)

    def configure(self) -> None:
        try:
            default_converter()
        except ImportError as error:
            raise RuntimeError(str(error)) from error
        super().configure()

    def listen(self, application: Application) -> None:
        self._decoder = ImageDecoder(self.value("significant_bits"))
        self._reliable = self._wants_reliable()
        self._subscribe_images(application)

    def _image_topic(self) -> Topic:
        compressed = self.value("image_transport") == "compressed"
        return topics.COMPRESSED_IMAGE if compressed else topics.IMAGE

    def _wants_reliable(self) -> bool:
        """As the parameter says; with `auto` as all publishers offer, and as before while there are none."""
        if (asked := self.value("reliability")) != "auto":
            return bool(asked == "reliable")
        name = self.full_name(self._image_topic(), self.app)
        offered = {info.qos_profile.reliability for info in self.get_publishers_info_by_topic(name)}
        return offered == {ReliabilityPolicy.RELIABLE} if offered else self._reliable

    def _subscribe_images(self, application: Application) -> None:
        self._arrivals = Arrivals()
        topic = replace(self._image_topic(), reliable=self._reliable)
        self._images = self.subscribe(topic, partial(self._on_image, application), self.app, foreign=True)

    def _on_image(self, application: Application, message: Any, info: dict[str, Any]) -> None:
        stamp = message.header.stamp
        self._arrivals.add(time.monotonic(), stamp.sec + 1e-9 * stamp.nanosec, info)
        if application.accept(message):
            # Let go of the interpreter, so that the worker starts now and not at the next switch.
            time.sleep(YIELD_S)

    def watch(self, application: Application) -> None:
        if (reliable := self._wants_reliable()) != self._reliable:
            self._reliable = reliable
            self.unsubscribe(self._images)
            self._subscribe_images(application)

    def decode(self, message: Any) -> tuple[Header, Any]:
        try:
            return from_ros(message.header), self._decoder.decode(message)
        except MalformedImage as error:
            raise MalformedRequest(str(error)) from error

    def input_status(self, application: Application) -> Status:
        cameras = sorted(publishers(self, self._images.topic_name).values())
        return status.images(application, self._where_images_are, self._arrivals, self._reliable, cameras)

    def _where_images_are(self) -> str:
        """For a user whose images do not come: what is published, and where."""
        topic, kind = self._images.topic_name, f"sensor_msgs/msg/{self._images.msg_type.__name__}"
        found = {publisher.topic_type for publisher in self.get_publishers_info_by_topic(topic)}
        if kind in found and self._reliable and self.value("reliability") == "reliable":
            advice = "with reliability = reliable the camera must publish reliably"
            return f"{topic} is published, but nothing arrives; {advice}"
        if kind in found:
            return f"{topic} is published, but nothing arrives; check the camera and the network"
        if found:
            return f"{topic} carries {', '.join(sorted(found))}; this node takes {kind}"
        others = [
            f"{name} ({other})"
            for name, kinds in self.get_topic_names_and_types()
            for other in kinds
            if other in IMAGE_TYPES and self.count_publishers(name)
        ]
        return f"nobody publishes {topic} ({kind}); images are on {', '.join(others) or 'no topic'}"


def main() -> int:
    # Between the executor and the inference thread the interpreter changes only every 5 ms by default; a
    # frame would wait that long for its turn several times.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    cv2.setNumThreads(1)  # a resize is too short to be worth waking other cores for
    return run(PerceptionNode)


if __name__ == "__main__":
    raise SystemExit(main())
