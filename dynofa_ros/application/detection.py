"""The task `detection`: boxes with their classes, in the pixels of the image."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from dynofa_ros.application.task import IMAGE, Answer, Option, Output, Task, Views, register_task
from dynofa_ros.convert import ros_types, to_ros
from dynofa_ros.messages import (
    BoundingBox2D,
    ClassHypothesis,
    Detection2D,
    Detection2DArray,
    Header,
    LabelInfo,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
    VisionClass,
)
from dynofa_ros.supernet.boxes import Found, select
from dynofa_ros.supernet.registry import DEMO_SPACE
from dynofa_ros.supernet.switching import Prepared
from dynofa_ros.supernet.weights import Weights
from dynofa_ros.topics import DETECTIONS, LABEL_INFO, Topic

DEMO = f"{DEMO_SPACE}_detector"
VISION_DETECTIONS = Topic(
    "perception/{app}/vision_detections", "vision_msgs/msg/Detection2DArray", "perception", ("user",)
)
VISION_LABELS = Topic(
    "perception/{app}/vision_label_info",
    "vision_msgs/msg/LabelInfo",
    "perception",
    ("user",),
    depth=1,
    latched=True,
)
ANNOTATED_IMAGE = Topic(
    "perception/{app}/annotated_image", "sensor_msgs/msg/Image", "perception", ("user",), depth=1
)
ANNOTATIONS = Topic(
    "perception/{app}/image_annotations", "foxglove_msgs/msg/ImageAnnotations", "perception", ("user",)
)
LINE_LOOP = 2  # foxglove_msgs/PointsAnnotation
Colour = tuple[int, int, int]
COLOURS: tuple[Colour, ...] = (
    *((60, 211, 255), (80, 200, 80), (255, 160, 60), (230, 110, 230), (60, 110, 255)),
    *((230, 220, 60), (180, 180, 255), (120, 230, 190)),
)
_SAME = (
    *("Detection2DArray", "Detection2D", "ObjectHypothesisWithPose"),
    *("BoundingBox2D", "Pose2D", "Point2D", "LabelInfo", "VisionClass"),
)
VISION_TYPES = {f"dynofa_ros/msg/{name}": f"vision_msgs/msg/{name}" for name in _SAME} | {
    "dynofa_ros/msg/ClassHypothesis": "vision_msgs/msg/ObjectHypothesis"
}


@register_task
class ObjectDetection(Task):
    """The whole image in, fitted into the network's input; the boxes that are sure enough out."""

    name = "detection"
    request = IMAGE
    outputs = (
        Output(DETECTIONS),
        Output(LABEL_INFO),
        Output(VISION_DETECTIONS, sent_as=VISION_TYPES),
        Output(VISION_LABELS, sent_as=VISION_TYPES),
        Output(ANNOTATED_IMAGE, view=True),
        Output(ANNOTATIONS, view=True),
    )
    options = (
        Option("score_threshold", 0.35, "boxes less sure are left out", minimum=0.01, maximum=1.0),
        Option(
            "overlap_threshold",
            0.6,
            "of two boxes of a class whose intersection over union is larger, the surer one stays",
            minimum=0.0,
            maximum=1.0,
        ),
    )

    @classmethod
    def demo(cls, options: Mapping[str, Any]) -> tuple[str, str]:
        return DEMO, DEMO

    def __init__(self, weights: Weights) -> None:
        if weights.task != self.name:
            raise ValueError(f"task detection: {weights.source} is of a classifier and no detector")
        self._names = weights.labels or tuple(map(str, range(weights.classes)))

    def announcements(self) -> Mapping[Topic, Any]:
        info = LabelInfo(class_map=tuple(VisionClass(i, name) for i, name in enumerate(self._names)))
        return {LABEL_INFO: info, VISION_LABELS: info}

    def postprocess(
        self, outputs: Any, request: Any, network: Prepared[Any], options: Mapping[str, Any]
    ) -> Answer:
        height, width = request.shape[:2]
        scale = network.scale(request.shape)
        overlap = 1.0 if network.one_row_each else options["overlap_threshold"]
        found = select(outputs[0], options["score_threshold"], overlap, scale)
        found.boxes[:, 0::2] = found.boxes[:, 0::2].clip(0, width)
        found.boxes[:, 1::2] = found.boxes[:, 1::2].clip(0, height)
        result = Detection2DArray(detections=detections(found, self._names))
        score = float(found.scores[0]) if len(found.scores) else float("nan")
        views: Views = {
            ANNOTATED_IMAGE: lambda header: annotated_image(header, request, found, self._names),
            ANNOTATIONS: lambda header: image_annotations(header, found, self._names),
        }
        return Answer({DETECTIONS: result, VISION_DETECTIONS: result}, score, views=views)


def detections(found: Found, names: Sequence[str]) -> tuple[Detection2D, ...]:
    """Boxes with their classes, as messages have them."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return tuple(
        Detection2D(
            (ObjectHypothesisWithPose(ClassHypothesis(names[label], score)),),
            BoundingBox2D(
                Pose2D(Point2D((left + right) / 2, (top + bottom) / 2)), right - left, bottom - top
            ),
        )
        for (left, top, right, bottom), score, label in rows
    )


def annotated_image(header: Header, bgr: np.ndarray, found: Found, names: Sequence[str]) -> Any:
    """A sensor_msgs/Image: the image, uint8 (H, W, 3), with its boxes; letters outside ASCII become `?`."""
    pixels = bgr.copy()
    width = max(1, round(min(pixels.shape[:2]) / 300))
    for sides, text, colour in _drawn(found, names):
        left, top, right, bottom = map(round, sides)
        cv2.rectangle(pixels, (left, top), (right, bottom), colour, width)
        font = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.5 * width, "thickness": width}
        place = left, max(top - 2 * width, cv2.getTextSize(text, **font)[0][1])  # within the image
        cv2.putText(pixels, text, place, color=colour, **font)
    return ros_types("sensor_msgs/msg/Image")(
        header=to_ros(header),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding="bgr8",
        step=pixels.strides[0],
        data=array("B", pixels.tobytes()),  # rclpy is 40 times slower with an ndarray
    )


def image_annotations(header: Header, found: Found, names: Sequence[str]) -> Any:
    """A foxglove_msgs/ImageAnnotations: boxes with their classes, of the image with this header."""

    def make(name: str, **fields: Any) -> Any:
        return ros_types(f"foxglove_msgs/msg/{name}")(**fields)

    stamp, lines, texts = to_ros(header).stamp, [], []
    for (left, top, right, bottom), text, colour in _drawn(found, names):
        sides = ((left, top), (right, top), (right, bottom), (left, bottom))
        corners = [make("Point2", x=x, y=y) for x, y in sides]
        blue, green, red = (value / 255 for value in colour)
        paint = make("Color", r=red, g=green, b=blue, a=1.0)
        line = {"type": LINE_LOOP, "points": corners, "outline_color": paint, "thickness": 2.0}
        lines.append(make("PointsAnnotation", timestamp=stamp, **line))
        label = {"position": corners[0], "text": text, "font_size": 12.0, "text_color": paint}
        texts.append(make("TextAnnotation", timestamp=stamp, **label))
    return make("ImageAnnotations", points=lines, texts=texts)


def _drawn(found: Found, names: Sequence[str]) -> Iterator[tuple[list[float], str, Colour]]:
    """Of each box its sides, px, what is written at it, and its colour, BGR: one per class."""
    for sides, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels, strict=True):
        yield sides, f"{names[label]} {score:.2f}", COLOURS[label % len(COLOURS)]
