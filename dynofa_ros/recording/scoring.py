"""How well recorded answers agree with the truth, by the metric of the application's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import Any

from dynofa_ros.library.library import LibraryError

TOP1, EXACT, BLEU, PRECISION = "top-1", "exact match", "BLEU / 100", "mAP50:95"
Box = tuple[str, float, float, float, float, float]  # class, score, px: left, top, right, bottom


def score(metric: str, answers: Sequence[Any], truths: Sequence[Any]) -> float:
    """A share 0..1 that rises; NaN where there is none, or where the package that computes it is missing.

    Classes and texts, or the boxes of each image as a sequence of ``Box``.
    """
    if not answers:
        return nan
    try:
        return _SCORES[metric](answers, truths)
    except (ImportError, LibraryError):  # sacrebleu or pycocotools is not installed
        return nan


def boxes_of(message: Any) -> tuple[Box, ...]:
    """The boxes of a Detection2DArray, each with its likeliest class."""
    boxes: list[Box] = []
    for detection in message.detections:
        best, box = detection.results[0].hypothesis, detection.bbox
        x, y, half_x, half_y = box.center.position.x, box.center.position.y, box.size_x / 2, box.size_y / 2
        boxes.append((best.class_id, float(best.score), x - half_x, y - half_y, x + half_x, y + half_y))
    return tuple(boxes)


def _equal(answers: Sequence[Any], truths: Sequence[Any]) -> float:
    return sum(answer == truth for answer, truth in zip(answers, truths, strict=True)) / len(answers)


def _bleu(answers: Sequence[str], truths: Sequence[str]) -> float:
    from dynofa_ros.library.sentences import bleu

    return bleu(answers, truths)


def _precision(answers: Sequence[Sequence[Box]], truths: Sequence[Sequence[Box]]) -> float:
    import numpy as np

    from dynofa_ros.supernet.boxes import Found, average_precision

    labels = {name: index for index, name in enumerate(sorted({b[0] for boxes in truths for b in boxes}))}

    def found(boxes: Sequence[Box]) -> Found:
        own = [box for box in boxes if box[0] in labels]
        return Found(
            np.array([box[2:] for box in own], np.float32).reshape(-1, 4),
            np.array([box[1] for box in own], np.float32),
            np.array([labels[box[0]] for box in own], np.int64),
        )

    true = [(f.boxes, f.labels) for f in map(found, truths)]
    return average_precision(true, map(found, answers)).map50_95


_SCORES: dict[str, Callable[[Sequence[Any], Sequence[Any]], float]] = {
    TOP1: _equal,
    EXACT: _equal,
    BLEU: _bleu,
    PRECISION: _precision,
}
