"""The demo's camera: generated signs, a folder of images, or a recorded bag, for one or several apps."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from builtin_interfaces.msg import Time
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image
from std_msgs.msg import Empty, String

from dynofa_ros.demo import camera_bag
from dynofa_ros.demo.camera_bag import BagFrame, CameraTopic
from dynofa_ros.demo.camera_sources import ENCODERS, FolderSource, Picture, SignSource, Source, compose
from dynofa_ros.msg import ClassHypothesis, Classification
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.one_line import one_line
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.ros.run import run
from dynofa_ros.topics import (
    CAMERA_FINISHED,
    COMPRESSED_IMAGE,
    ERRORS,
    GROUND_TRUTH,
    IMAGE,
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
    ParameterSpec("bag", "", "rosbag2 to play once instead", dynamic=False),
    ParameterSpec("bag_topic", "", "camera topic of the bag; empty = its only one", dynamic=False),
)
READY_POLL_S = 0.05
# A publisher knows of its subscriber a little before the subscriber knows of it; an image sent in
# between would be lost.
MATCH_SETTLE_S = 0.5


class CameraNode(ManagedNode):
    """Publishes images for `perception/<app>` and what they show on demo/camera/ground_truth."""

    def __init__(self) -> None:
        super().__init__("camera", SPECS, namespace="demo")
        self._apps: list[str] = []
        self._source: Source | None = None
        self._camera: CameraTopic | None = None
        self._images: list[Publisher] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._published = 0
        self._problem = ""
        self.diagnostics.add("camera", self._status)

    def configure(self) -> None:
        self._apps = [app.strip() for app in self.value("apps").split(",") if app.strip()]
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
            self._source = SignSource(self.value("seed"))
        compressed = self._camera is not None and self._camera.transport == "compressed"
        images = replace(COMPRESSED_IMAGE if compressed else IMAGE, reliable=True)
        self._images = [self.advertise(images, app) for app in self._apps]
        self._truths = self.advertise(GROUND_TRUTH)
        self._finished = self.advertise(CAMERA_FINISHED)
        self._errors = self.advertise(ERRORS)

    def activate(self) -> None:
        self._stopping.clear()
        self._published, self._problem = 0, ""
        work = self._generate if self._camera is None else self._play
        self._thread = threading.Thread(target=self._work, args=(work,), name="camera")
        self._thread.start()

    def deactivate(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def cleanup(self) -> None:
        self._source, self._camera = None, None

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the thread's last chance to say what happened
            self._problem = one_line(error)
            self.get_logger().error(self._problem)
            self._errors.publish(String(data=f"demo/camera: {self._problem}"))

    def _generate(self) -> None:
        """One thread prepares the next images in the second half of the period before their time.

        In the first half perception works on the present ones, on the same cores.
        """
        due_ns = time.monotonic_ns()
        sequence = 0
        while self._sleep_until(due_ns - round(0.5e9 / self.value("rate_hz"))):
            prepared = [
                self._prepare(sequence * len(self._apps) + i, app) for i, app in enumerate(self._apps)
            ]
            due_ns = max(due_ns, time.monotonic_ns())  # late: no catching up
            if not self._sleep_until(due_ns):
                return
            for publisher, (image, label) in zip(self._images, prepared, strict=True):
                image.header.stamp = self.get_clock().now().to_msg()
                publisher.publish(image)
                self._publish_truth(image.header.stamp, image.header.frame_id, label)
            sequence += 1
            due_ns += round(1e9 / self.value("rate_hz"))

    def _prepare(self, index: int, app: str) -> tuple[Image, str | None]:
        assert self._source is not None
        picture: Picture = self._source.picture(index)
        width, height, encoding = self.value("width"), self.value("height"), self.value("encoding")
        pixels = ENCODERS[encoding](compose(picture.rgb, width, height))
        message = Image(width=width, height=height, encoding=encoding, step=pixels.nbytes // height)
        message.header.frame_id = camera_frame_id(app)
        message.data = array.array("B", pixels.tobytes())  # rclpy is 40 times slower with an ndarray
        return message, picture.label

    def _play(self) -> None:
        assert self._camera is not None
        if not self._wait_for_perception():
            return
        recorded = camera_bag.frames(self._camera, self.get_logger().warning)
        if camera_bag.play(recorded, self._publish_recorded, self._sleep_until):
            self.get_logger().info(f"played {self._published} images of {self._camera.name}")
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
            if self._stopping.wait(READY_POLL_S):
                return False
        return not self._stopping.wait(MATCH_SETTLE_S)

    def _publish_truth(self, stamp: Time, frame_id: str, label: str | None) -> None:
        truth = Classification()
        truth.header.stamp, truth.header.frame_id = stamp, frame_id
        truth.results = [] if label is None else [ClassHypothesis(class_id=label, score=1.0)]
        self._truths.publish(truth)
        self._published += 1

    def _sleep_until(self, steady_ns: int) -> bool:
        """False = this node was stopped meanwhile."""
        return not self._stopping.wait(max(0.0, (steady_ns - time.monotonic_ns()) / 1e9))

    def _status(self) -> Status:
        values: dict[str, Any] = {"images_published": self._published, "apps": ", ".join(self._apps)}
        if self._problem:
            return Status(Level.ERROR, self._problem, values)
        return Status(Level.OK, "publishing" if self.active else "inactive", values)


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run dynofa_ros camera_node`."""
    cv2.setNumThreads(1)  # the pictures are small, and the cores belong to perception
    return run(CameraNode, args=args)


if __name__ == "__main__":
    raise SystemExit(main())
