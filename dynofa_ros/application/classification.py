"""The task `classification`: the likeliest classes of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dynofa_ros.application.task import IMAGE, Answer, Option, Output, Task, register_task
from dynofa_ros.messages import ClassHypothesis, Classification
from dynofa_ros.supernet.switching import Prepared
from dynofa_ros.supernet.weights import Weights
from dynofa_ros.topics import CLASSIFICATION, Topic

VISION_RESULT = Topic(
    "perception/{app}/vision_classification", "vision_msgs/msg/Classification", "perception", ("user",)
)
VISION_TYPES = {
    "dynofa_ros/msg/Classification": "vision_msgs/msg/Classification",
    "dynofa_ros/msg/ClassHypothesis": "vision_msgs/msg/ObjectHypothesis",
}


@register_task
class ImageClassification(Task):
    """The centre square of an image in, the probabilities of the likeliest classes out."""

    name = "classification"
    request = IMAGE
    outputs = (Output(CLASSIFICATION), Output(VISION_RESULT, sent_as=VISION_TYPES))
    options = (Option("top_k", 5, "classes per result", minimum=1, maximum=100),)

    def __init__(self, weights: Weights) -> None:
        if weights.task != self.name:
            raise ValueError(
                f"task classification: {weights.source} is for {weights.task}: set task to {weights.task}"
            )
        self._labels = weights.labels

    def postprocess(
        self, outputs: Any, request: Any, network: Prepared[Any], options: Mapping[str, Any]
    ) -> Answer:
        best = top_classes(outputs[0], options["top_k"])
        result = Classification(results=tuple(ClassHypothesis(self.label(i), p) for i, p in best))
        return Answer({CLASSIFICATION: result, VISION_RESULT: result}, best[0][1])

    def label(self, index: int) -> str:
        """Name of a class; its number where the weights carry no names."""
        return self._labels[index] if self._labels else str(index)


def top_classes(logits: np.ndarray, count: int) -> list[tuple[int, float]]:
    """(class index, softmax probability) of the ``count`` likeliest classes; logits float32 (classes,)."""
    exponent = np.exp(logits - logits.max())
    probabilities = exponent / exponent.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(i), float(probabilities[i])) for i in order]
