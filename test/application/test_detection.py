"""The task `detection` without ROS: boxes in pixels of the image, names, nothing found, wrong weights."""

from __future__ import annotations

import math
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dynofa_ros.application.classification import ImageClassification
from dynofa_ros.application.detection import (
    ANNOTATED_IMAGE,
    ANNOTATIONS,
    VISION_DETECTIONS,
    VISION_LABELS,
    VISION_TYPES,
    ObjectDetection,
)
from dynofa_ros.application.networks import Networks
from dynofa_ros.application.task import IMAGE, tasks
from dynofa_ros.convert import ros_types, to_ros
from dynofa_ros.messages import Header, VisionClass
from dynofa_ros.supernet.weights import Weights
from dynofa_ros.topics import DETECTIONS, LABEL_INFO

FRAME = np.zeros((720, 1280, 3), np.uint8)  # fitted into 144 x 256: 0.2 px per px
NETWORK = SimpleNamespace(scale=lambda shape: (0.2, 0.2), one_row_each=False)
OPTIONS = {"score_threshold": 0.5, "overlap_threshold": 0.5}


def task(labels: tuple[str, ...] = ("cup", "stop")) -> ObjectDetection:
    return ObjectDetection(Weights({}, 2, task="detection").with_labels(labels))


def found(*rows: tuple[float, ...], options=OPTIONS):
    outputs = np.array([rows], np.float32).reshape(1, -1, 6)
    return task().postprocess(outputs, FRAME, NETWORK, options)


def test_boxes_are_in_pixels_of_the_image_the_surest_first():
    answer = found((10, 20, 30, 60, 0.6, 0.1), (100, 100, 140, 120, 0.2, 0.9), (0, 0, 9, 9, 0.4, 0.4))
    first, second = answer.results[DETECTIONS].detections
    assert answer.score == pytest.approx(0.9)
    assert [d.results[0].hypothesis.class_id for d in (first, second)] == ["stop", "cup"]
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == pytest.approx((600, 550))
    assert (second.bbox.size_x, second.bbox.size_y) == pytest.approx((100, 200))
    assert answer.results[VISION_DETECTIONS] is answer.results[DETECTIONS]


def test_a_box_ends_at_the_edge_of_the_image():
    (only,) = found((-20, 100, 20, 200, 0.9, 0)).results[DETECTIONS].detections
    assert (only.bbox.center.position.x, only.bbox.size_x) == pytest.approx((50, 100))
    assert only.bbox.center.position.y + only.bbox.size_y / 2 == pytest.approx(720)


def test_nothing_found_is_an_empty_array():
    answer = found((10, 20, 30, 60, 0.4, 0.1))
    assert answer.results[DETECTIONS].detections == ()
    assert math.isnan(answer.score)


def test_thresholds_are_those_of_the_moment():
    rows = (10, 20, 30, 60, 0.4, 0.1), (12, 20, 32, 60, 0.3, 0.1)
    loose = {"score_threshold": 0.2, "overlap_threshold": 0.95}
    numbers = [len(found(*rows, options=o).results[DETECTIONS].detections) for o in (OPTIONS, loose)]
    assert numbers == [0, 2]


def test_the_classes_are_announced():
    info = task().announcements()
    assert info[LABEL_INFO].class_map == (VisionClass(0, "cup"), VisionClass(1, "stop"))
    assert set(info) == {LABEL_INFO, VISION_LABELS}
    assert [c.class_name for c in task(()).announcements()[LABEL_INFO].class_map] == ["0", "1"]


def test_weights_of_the_other_task_are_refused():
    with pytest.raises(ValueError, match="task detection: .* is of a classifier and no detector"):
        ObjectDetection(Weights({}, 2, source="w.safetensors"))
    with pytest.raises(ValueError, match="task classification: .* is for detection: set task to detection"):
        ImageClassification(Weights({}, 2, task="detection"))


def test_it_is_a_task_of_images_whose_library_has_its_metric():
    assert tasks(IMAGE)["detection"] is ObjectDetection
    networks = Networks.load("", "", "onnxruntime", ObjectDetection.demo({}))
    assert networks.accuracy_metric == "mAP50:95"


@pytest.mark.parametrize("topic", [DETECTIONS, LABEL_INFO], ids=lambda t: t.kind.rpartition("/")[2])
def test_the_message_is_that_of_ros(topic):
    value = (found((10, 20, 30, 60, 0.9, 0.1)).results | task().announcements())[topic]
    message = to_ros(value)
    assert type(message) is ros_types(topic.kind)
    if topic is DETECTIONS:
        assert message.detections[0].results[0].hypothesis.class_id == "cup"
        assert message.detections[0].bbox.center.position.x == pytest.approx(100)


def test_vision_msgs_get_the_same_fields():
    """Where vision_msgs is not installed its constructors are stood in for by records of what they get."""
    made = []

    def record(name, **values):
        made.append(name)
        return SimpleNamespace(**values)

    def types(name: str):
        target = VISION_TYPES.get(name, name)
        return partial(record, target) if target.startswith("vision_msgs/") else ros_types(target)

    message = to_ros(found((10, 20, 30, 60, 0.9, 0.1)).results[VISION_DETECTIONS], types=types)
    assert message.detections[0].results[0].hypothesis.class_id == "cup"
    assert message.detections[0].bbox.size_x == pytest.approx(100)
    assert set(made) == {f"vision_msgs/msg/{n}" for n in VISION_NAMES}


def test_the_annotated_image_has_the_boxes_and_the_header_and_leaves_the_image_as_it_was():
    view = found((20, 20, 60, 60, 0.9, 0.1)).views[ANNOTATED_IMAGE]
    message = view(Header(1_500_000_000, "lens"))
    assert type(message) is ros_types(ANNOTATED_IMAGE.kind)
    assert (message.header.stamp.sec, message.header.frame_id) == (1, "lens")
    assert (message.height, message.width, message.step) == (720, 1280, 3840)
    pixels = np.array(message.data).reshape(720, 1280, 3)
    assert pixels[200, 100].any() and pixels[100, 200].any(), "sides of the box, 5 times as far"
    assert not pixels[200, 200].any() and not pixels[500:].any() and not FRAME.any()


def test_a_box_of_foxglove_is_a_closed_line_with_its_class(monkeypatch: pytest.MonkeyPatch):
    """foxglove_msgs is stood in for by records of what its constructors get; their fields are those of
    foxglove-sdk/schemas/ros2."""
    fields = {
        "ImageAnnotations": {"circles", "points", "texts"},
        "PointsAnnotation": {"timestamp", "type", "points", "outline_color", "fill_color", "thickness"},
        "TextAnnotation": {"timestamp", "position", "text", "font_size", "text_color", "background_color"},
        "Point2": {"x", "y"},
        "Color": {"r", "g", "b", "a"},
    }

    def record(name: str, **values: Any) -> SimpleNamespace:
        assert set(values) <= fields[name]
        return SimpleNamespace(**values)

    module = ModuleType("foxglove_msgs.msg")
    vars(module).update({name: partial(record, name) for name in fields})
    monkeypatch.setitem(sys.modules, "foxglove_msgs", ModuleType("foxglove_msgs"))
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", module)
    view = found((10, 20, 30, 60, 0.6, 0.1), (100, 100, 140, 120, 0.2, 0.9)).views[ANNOTATIONS]
    message = view(Header(1_500_000_000, "lens"))
    line, _ = message.points
    assert line.type == 2 and line.timestamp.nanosec == 500_000_000
    assert [(p.x, p.y) for p in line.points] == [(500, 500), (700, 500), (700, 600), (500, 600)]
    assert [t.text for t in message.texts] == ["stop 0.90", "cup 0.60"]
    colours = [vars(t.text_color) for t in message.texts]
    assert colours[0] != colours[1] and all(0 <= v <= 1 for c in colours for v in c.values())


VISION_NAMES = ("Detection2DArray", "Detection2D", "ObjectHypothesisWithPose", "ObjectHypothesis") + (
    "BoundingBox2D",
    "Pose2D",
    "Point2D",
)
