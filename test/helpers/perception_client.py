"""The other side of the perception node: starts it as a process, and is its camera, manager and user."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from dynofa_ros.msg import (
    Classification,
    SubnetState,
)
from ros_client import RosClient
from ros_domain import own_domain
from sensor_msgs.msg import Image

from dynofa_ros import topics
from dynofa_ros.application.networks import Networks
from dynofa_ros.demo.camera_sources import compose
from dynofa_ros.demo.signs import render_sample

DOMAIN_ID = own_domain()
NAMESPACE, APP = "/robot2/perception", "rear"
LIBRARY = Networks.load("", "", "onnxruntime").libraries["cpu"]
SMALLEST, LARGEST = LIBRARY.entries[0], LIBRARY.entries[-1]


def start(*arguments: str, domain_id: int = DOMAIN_ID) -> subprocess.Popen:
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    command = [sys.executable, "-m", "dynofa_ros.nodes.perception_node", "--ros-args"]
    command += ["-r", f"__node:={APP}", "-r", f"__ns:={NAMESPACE}", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


class Client(RosClient):
    """Camera, manager and user of one perception node."""

    RECEIVED = {
        "classification": topics.CLASSIFICATION,
        "monitor": topics.MONITOR,
        "targets": topics.TARGETS,
        "library": topics.LIBRARY,
        "subnet_state": topics.SUBNET_STATE,
    }

    def __init__(self, domain_id: int = DOMAIN_ID, process: subprocess.Popen[str] | None = None) -> None:
        super().__init__("client", domain_id, NAMESPACE, f"{NAMESPACE}/{APP}")
        self.process = process
        self.received: dict[str, list[Any]] = {name: [] for name in self.RECEIVED}
        for name, topic in self.RECEIVED.items():
            self.subscribe(topic, self.received[name].append, APP)
        self.image = self.publisher(replace(topics.IMAGE, reliable=True), APP)
        self.compressed = self.publisher(replace(topics.COMPRESSED_IMAGE, reliable=True), APP)
        self.command = self.publisher(topics.SUBNET_COMMAND, APP)
        self.dvfs = self.publisher(topics.DVFS_STATE)

    def wait_for_node(self) -> None:
        """Until the node has published what is latched and subscribes to what is sent here."""
        for latched in ("library", "subnet_state"):
            self.wait(lambda latched=latched: self.received[latched], f"the node's {latched}")
        for publisher in (self.image, self.command):
            self.wait(publisher.get_subscription_count, f"the node's subscription of {publisher.topic_name}")

    def answer(self, message: Any, publisher: Any = None) -> Classification:
        """Send one image, again until it is answered; its result. Its monitor is the only one kept."""
        publisher, sent_s = publisher or self.image, -math.inf

        def answered() -> Any:
            nonlocal sent_s
            if time.monotonic() - sent_s > 1.0:
                publisher.publish(message)
                sent_s = time.monotonic()
            return self.answers("classification", message) and self.answers("monitor", message)

        self.received["monitor"][:] = self.wait(answered, "the answer to an image and its monitor")[:1]
        return self.answers("classification", message)[0]

    def answers(self, name: str, message: Any) -> list[Any]:
        """What came for an image; an earlier one that was sent twice may still be answered."""
        return [found for found in self.received[name] if found.header == message.header]

    def forget(self, *topics: str) -> None:
        for name in topics or self.received:
            self.received[name].clear()

    def state(self, status: int, subnet_id: str | None = None, decision_id: int | None = None) -> SubnetState:
        def matches() -> Any:
            found = [s for s in self.received["subnet_state"] if s.status == status]
            found = [s for s in found if decision_id in (None, s.decision_id)]
            return found and (subnet_id is None or found[-1].subnet_id == subnet_id) and found[-1]

        return self.wait(matches, f"state {status} of {subnet_id}")


SCENE = compose(render_sample(7, 1)[0], 320, 180)  # small enough for the default shared memory of Fast DDS
STAMP = iter(range(1, 10_000))


def image(sent_as: str = "bgr8", **fields: Any) -> Image:
    encoders = {
        "bgr8": lambda rgb: rgb[..., ::-1],
        "rgb8": lambda rgb: rgb,
        "bgra8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA),
    }
    data = np.ascontiguousarray(encoders[sent_as](SCENE))
    message = Image(height=data.shape[0], width=data.shape[1], encoding=sent_as, step=data.strides[0])
    message.header.stamp.sec, message.header.stamp.nanosec = next(STAMP), 123
    message.header.frame_id = "rear_optical"
    message.data = data.tobytes()
    for name, value in fields.items():
        setattr(message, name, value)
    return message
