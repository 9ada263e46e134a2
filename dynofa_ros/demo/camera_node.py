"""The demo's camera: generated signs or scenes, a folder of images, or a recorded bag, for some apps."""

from __future__ import annotations

import array
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from builtin_interfaces.msg import Time
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from dynofa_ros.application.detection import detections
from dynofa_ros.convert import to_ros
from dynofa_ros.demo import camera_bag
from dynofa_ros.demo.camera_bag import BagFrame, CameraTopic
from dynofa_ros.demo.camera_sources import (
    ENCODERS,
    FolderSource,
    Picture,
    Source,
    scene_picture,
    sign_picture,
)
from dynofa_ros.demo.signs import CLASS_NAMES
from dynofa_ros.demo.source import SourceNode, names_of
from dynofa_ros.messages import Detection2DArray
from dynofa_ros.msg import ClassHypothesis, Classification
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.ros.run import run
from dynofa_ros.topics import (
    CAMERA_FINISHED,
    COMPRESSED_IMAGE,
    GROUND_TRUTH,
    IMAGE,
    TRUE_BOXES,
    camera_frame_id,
)

SPECS = (
    ParameterSpec("apps", "front", "applications that get images, separated by commas", dynamic=False),
    ParameterSpec("rate_hz", 15.0, "images per second of the generator and of a folder", "Hz", 0.1, 240.0),
    ParameterSpec("width", 1280, "image width", "px", 16, 7680, dynamic=False),
    ParameterSpec("height", 720, "image height", "px", 16, 4320, dynamic=False),
    ParameterSpec("encoding", "rgb8", "image encoding", choices=tuple(ENCODERS), dynamic=False),
    ParameterSpec(
        "seed", 0, "another seed, other pictures or order", minimum=0, maximum=10**6, dynamic=False
    ),
    ParameterSpec(
        "images", "", "folder of images, a sub-folder per class; empty = generated signs", dynamic=False
    ),
    ParameterSpec(
        "scenes", False, "generated scenes of several signs with their boxes, not single signs", dynamic=False
    ),
    ParameterSpec("bag", "", "rosbag2 to play once instead", dynamic=False),
    ParameterSpec("bag_topic", "", "camera topic of the bag; empty = its only one", dynamic=False),
)
READY_POLL_S = 0.05
# A publisher knows of its subscriber a little before the subscriber knows of it; an image sent in
# between would be lost.
MATCH_SETTLE_S = 0.5


class CameraNode(SourceNode):
    """Publishes images for `perception/<app>` and what they show on demo/.../ground_truth."""

    def __init__(self) -> None:
        super().__init__("camera", SPECS)
        self._apps: list[str] = []
        self._source: Source | None = None
        self._camera: CameraTopic | None = None
        self._images: list[Publisher] = []

    def configure(self) -> None:
        super().configure()
        self._apps, truths = names_of(self.value("apps")), GROUND_TRUTH
        if not self._apps:
            raise ValueError("apps must name at least one application")
        if self.value("bag"):
            self._camera = camera_bag.find_camera(Path(self.value("bag")), self.value("bag_topic"))
            for problem in self._camera.problems:
                self.get_logger().warning(problem)
        elif self.value("images"):
            folder, warn = Path(self.value("images")), self.get_logger().warning
            self._source = FolderSource(folder, self.value("seed"), warn)
        else:
            drawn, truths = (scene_picture, TRUE_BOXES) if self.value("scenes") else (sign_picture, truths)
            self._source = partial(drawn, self.value("seed"))
        compressed = self._camera is not None and self._camera.transport == "compressed"
        images = replace(COMPRESSED_IMAGE if compressed else IMAGE, reliable=True)
        self._images = [self.advertise(images, app) for app in self._apps]
        self._truths = self.advertise(truths)
        self._finished = self.advertise(CAMERA_FINISHED)

    def cleanup(self) -> None:
        self._source, self._camera = None, None

    def work(self) -> None:
        (self._generate if self._camera is None else self._play)()

    def _generate(self) -> None:
        """One thread prepares the next images in the second half of the period before their time.

        In the first half perception works on the present ones, on the same cores.
        """
        due_ns = time.monotonic_ns()
        sequence = 0
        while self.sleep_until(due_ns - round(0.5e9 / self.value("rate_hz"))):
            prepared = [
                self._prepare(sequence * len(self._apps) + i, app) for i, app in enumerate(self._apps)
            ]
            due_ns = max(due_ns, time.monotonic_ns())  # late: no catching up
            if not self.sleep_until(due_ns):
                return
            for publisher, (image, picture) in zip(self._images, prepared, strict=True):
                image.header.stamp = self.get_clock().now().to_msg()
                publisher.publish(image)
                self._publish_truth(image.header.stamp, image.header.frame_id, picture)
            sequence += 1
            due_ns += round(1e9 / self.value("rate_hz"))

    def _prepare(self, index: int, app: str) -> tuple[Image, Picture]:
        assert self._source is not None
        width, height, encoding = self.value("width"), self.value("height"), self.value("encoding")
        picture = self._source(index).shown(width, height)
        pixels = ENCODERS[encoding](picture.rgb)
        message = Image(width=width, height=height, encoding=encoding, step=pixels.nbytes // height)
        message.header.frame_id = camera_frame_id(app)
        message.data = array.array("B", pixels.tobytes())  # rclpy is 40 times slower with an ndarray
        return message, picture

    def _play(self) -> None:
        assert self._camera is not None
        if not self._wait_for_perception():
            return
        recorded = camera_bag.frames(self._camera, self.get_logger().warning)
        if camera_bag.play(recorded, self._publish_recorded, self.sleep_until):
            self.get_logger().info(f"played {self.sent} images of {self._camera.name}")
            self._finished.publish(Empty())

    def _publish_recorded(self, recorded: BagFrame) -> None:
        stamp_ns, frame_id = recorded.frame
        stamp = Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
        for publisher in self._images:
            publisher.publish(recorded.data)  # the very bytes that were recorded
            self._publish_truth(stamp, frame_id, None)

    def _wait_for_perception(self) -> bool:
        """Perception subscribes when it becomes active. False = this node was stopped first."""
        while any(publisher.get_subscription_count() == 0 for publisher in self._images):
            if self.stopping.wait(READY_POLL_S):
                return False
        return not self.stopping.wait(MATCH_SETTLE_S)

    def _publish_truth(self, stamp: Time, frame_id: str, picture: Picture | None) -> None:
        if picture is not None and picture.boxes is not None:
            truth: Any = to_ros(Detection2DArray(detections=detections(picture.boxes, CLASS_NAMES)))
        else:
            label = picture.label if picture and not self.value("scenes") else None  # it has no boxes
            truth = Classification()
            truth.results = [] if label is None else [ClassHypothesis(class_id=label, score=1.0)]
        truth.header.stamp, truth.header.frame_id = stamp, frame_id
        self._truths.publish(truth)
        self.sent += 1


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run dynofa_ros camera_node`."""
    cv2.setNumThreads(1)  # the pictures are small, and the cores belong to perception
    return run(CameraNode, args=args)


if __name__ == "__main__":
    raise SystemExit(main())
