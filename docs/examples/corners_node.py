"""Corners of a camera image, managed by dynofa_ros: a program with a quality knob and no neural network.

python3 corners_node.py --ros-args -r image:=/camera/image_raw -p latency_target_ms:=8.0
"""

from __future__ import annotations

import cv2
import numpy as np
from geometry_msgs.msg import Point32, PolygonStamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from dynofa_ros import Level, ManagedApplication, run

# Share of the corners of a picture that are found again within 2 px where it is turned by 5 degrees, over 100
# pictures of streets. The times are measured at the start, on this computer.
LEVELS = [
    Level("w160", accuracy=0.12, settings={"width": 160}),
    Level("w320", accuracy=0.40, settings={"width": 320}),
    Level("w640", accuracy=0.73, settings={"width": 640}),
    Level("w1280", accuracy=0.77, settings={"width": 1280}),
]


def corners(gray: np.ndarray, width: int) -> np.ndarray:
    """The 300 strongest corners, float32 (N, 2) px, searched in the image at a width."""
    scale = min(1.0, width / gray.shape[1])
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = cv2.goodFeaturesToTrack(small, maxCorners=300, qualityLevel=0.01, minDistance=max(2, 16 * scale))
    return np.zeros((0, 2), np.float32) if found is None else (found[:, 0] + 0.5) / scale - 0.5


class Corners(ManagedApplication):
    """Takes `image` (mono8, bgr8 or rgb8), publishes the corners on `~/found`."""

    def __init__(self) -> None:
        super().__init__("corners", LEVELS, defaults={"latency_target_ms": 20.0})
        self.found = self.create_lifecycle_publisher(PolygonStamped, "~/found", 5)
        self.create_subscription(Image, "image", self.accept, qos_profile_sensor_data)

    def answer(self, image: Image, level: Level) -> np.ndarray:
        pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
        channels = 1 if image.encoding == "mono8" else 3
        pixels = pixels[:, : image.width * channels].reshape(image.height, image.width, channels)
        gray = pixels[..., 0] if channels == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        return corners(np.ascontiguousarray(gray), level.settings["width"])

    def publish(self, found: np.ndarray, image: Image) -> None:
        message = PolygonStamped(header=image.header)
        message.polygon.points = [Point32(x=float(x), y=float(y)) for x, y in found]
        self.found.publish(message)

    def sample(self) -> Image:
        noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (720, 1280), np.uint8), (0, 0), 3)
        return Image(height=720, width=1280, step=1280, encoding="mono8", data=noise.tobytes())


if __name__ == "__main__":
    raise SystemExit(run(Corners))
