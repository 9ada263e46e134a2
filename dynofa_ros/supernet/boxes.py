"""Boxes of a detector: the choice among its predictions, and their average precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

CANDIDATES = 300  # the likeliest predictions, before overlapping ones are dropped
MEASURED_SCORE, MEASURED_OVERLAP = 0.01, 0.6  # thresholds under which accuracy is measured


@dataclass(frozen=True)
class Found:
    """boxes (n, 4): left, top, right, bottom; scores (n,), falling; labels (n,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


def select(
    rows: NDArray[np.float32], score: float, overlap: float, scale: tuple[float, float] = (1.0, 1.0)
) -> Found:
    """What a detector found: its rows (cells, 4 + classes), as families/detector.py has them.

    score: least one; overlap: IoU above which the less likely of two boxes of a class is dropped; scale: px
    of the network's input per px of the image, across and down; the boxes are returned in those of the image.
    """
    cell, label = np.nonzero(rows[:, 4:] >= score)
    scores = rows[cell, 4 + label]
    if len(scores) > CANDIDATES:
        best = np.argpartition(-scores, CANDIDATES)[:CANDIDATES]
        cell, label, scores = cell[best], label[best], scores[best]
    boxes = rows[cell, :4]
    if not len(boxes):
        return Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    apart = boxes + (label[:, None] * (np.ptp(boxes) + 1)).astype(np.float32)  # classes do not meet
    placed = np.concatenate([apart[:, :2], apart[:, 2:] - apart[:, :2]], 1)
    kept = np.array(cv2.dnn.NMSBoxes(placed.tolist(), scores.tolist(), score, overlap), int).reshape(-1)
    return Found(boxes[kept] / np.tile(np.array(scale, np.float32), 2), scores[kept], label[kept])


@dataclass(frozen=True)
class Precision:
    """Mean average precision over classes: at IoU 0.50 to 0.95 (the one of COCO), and at 0.50 alone."""

    map50_95: float
    map50: float


def average_precision(
    truth: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]], found: Iterable[Found]
) -> Precision:
    """Of ``found`` against ``truth``, (boxes, labels), image by image; by pycocotools. NaN without a box.

    Raises ImportError without pycocotools.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def box(sides: NDArray[np.float32]) -> list[float]:
        x, y, right, bottom = sides.tolist()
        return [x, y, right - x, bottom - y]

    labels = sorted({int(label) for _, all_labels in truth for label in all_labels})
    if not labels:
        return Precision(float("nan"), float("nan"))
    marks = [(i, b, label) for i, (boxes, of) in enumerate(truth) for b, label in zip(boxes, of, strict=True)]
    annotations = [
        {
            "id": n + 1,
            "image_id": i,
            "category_id": int(label),
            "bbox": box(b),
            "area": float((b[2:] - b[:2]).prod()),
            "iscrowd": 0,
        }
        for n, (i, b, label) in enumerate(marks)
    ]
    results = [
        {"image_id": i, "category_id": int(label), "bbox": box(b), "score": float(s)}
        for i, one in enumerate(found)
        for b, s, label in zip(one.boxes, one.scores, one.labels, strict=True)
        if int(label) in labels
    ]
    if not results:
        return Precision(0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": label} for label in labels],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return Precision(float(evaluation.stats[0]), float(evaluation.stats[1]))
