"""The task `detection`: boxes with their classes, in the pixels of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynofa_ros.application.task import IMAGE, Answer, Option, Output, Task, register_task
from dynofa_ros.messages import (
    BoundingBox2D,
    ClassHypothesis,
    Detection2D,
    Detection2DArray,
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
VISION_DETECTIONS = Topic("perception/{app}/vision_detections", "vision_msgs/msg/Detection2DArray")
VISION_LABELS = Topic(
    "perception/{app}/vision_label_info", "vision_msgs/msg/LabelInfo", depth=1, latched=True
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
    metric = "mAP50:95"
    outputs = (
        Output(DETECTIONS),
        Output(LABEL_INFO),
        Output(VISION_DETECTIONS, sent_as=VISION_TYPES),
        Output(VISION_LABELS, sent_as=VISION_TYPES),
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
        return Answer({DETECTIONS: result, VISION_DETECTIONS: result}, score)


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
