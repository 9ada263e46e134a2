"""Detection: which cells are to find which box, the loss, and batches of images with boxes.

The cells of a box are fixed by its place and size alone (centre sampling, Tian et al., ICCV 2019), so that
every sub-network learns the same ones. Scores learn how well their box fits (quality focal loss, Li et al.,
NeurIPS 2020), boxes the generalised overlap (Rezatofighi et al., CVPR 2019).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dynofa_ros.supernet.boxes import (
    MEASURED_OVERLAP,
    MEASURED_SCORE,
    Precision,
    average_precision,
    select,
)
from dynofa_ros.supernet.families.detector import STRIDES, Boxes, DetectorSpace, fitting_height
from dynofa_ros.supernet.masked import calibrate
from dynofa_ros.supernet.preprocess import letterbox, letterbox_scale
from dynofa_ros.supernet.space import Plan
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights
from dynofa_ros.training.objective import Batch, Objective

CENTRE_STRIDES = 1.5  # radius of the cells around the centre of a box
SIDES_PX = ((0, 56), (36, 128), (96, np.inf))  # longer side of the boxes that a level finds
BOX_WEIGHT = 2.0
STATISTICS_SEED = 5
LEAST_WIDTH = 256  # px, of training inputs: in smaller ones too few boxes can be seen to learn from
PRIOR = 0.01  # score of every class at the start


@dataclass(frozen=True)
class Example:
    """BGR uint8 (H, W, 3); boxes (n, 4), px: left, top, right, bottom; labels (n,)."""

    image: NDArray[Any]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class BoxBatch(Batch):
    """Of every cell that has a box: its image, its cell, the box (M, 4), px of the input, and its class."""

    image: Tensor
    cell: Tensor
    boxes: Tensor
    labels: Tensor


def assigned(boxes: NDArray[np.float32], cells: Boxes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the cells that have a box, and of their boxes; boxes (n, 4), px of the input.

    A cell that several boxes claim has the smallest. A box that no cell lies in has the nearest of its level.
    """
    centres, strides = cells.cells()
    if not len(boxes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    longest, area = extent.max(1), extent.prod(1)
    low, high = (np.array([s[i] for s in SIDES_PX])[np.searchsorted(STRIDES, strides)] for i in (0, 1))
    fits = (longest[:, None] >= low) & (longest[:, None] < high)  # (n, cells)
    away = np.abs(centres - middle[:, None])  # (n, cells, 2)
    inside = (away < extent[:, None] / 2).all(2)
    claims = fits & inside & (away < CENTRE_STRIDES * strides[:, None]).all(2)
    for box in np.flatnonzero(~claims.any(1)):
        claims[box, np.where(fits[box], away[box].sum(1), np.inf).argmin()] = True
    owner = np.where(claims, area[:, None], np.inf).argmin(0)
    cell = np.flatnonzero(claims.any(0))
    return cell, owner[cell]


def generalised_overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes (M, 4), pair by pair."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = inner / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def quality_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over all scores; target: 0..1."""
    weight = (target - logits.detach().sigmoid()).square()
    return (weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


class Detection(Objective):
    """Detection on examples that a subclass reads; ``aspect``: their usual height by width."""

    space: DetectorSpace
    aspect: float

    @abstractmethod
    def example(self, rng: np.random.Generator) -> Example:
        """One of the training set."""

    @abstractmethod
    def held_out(self) -> Sequence[Example]:
        """Those that accuracy is measured on, always the same."""

    def size(self, rng: np.random.Generator) -> Mapping[str, int]:
        widths = np.array([w for w in self.space.input_sizes if w >= LEAST_WIDTH])
        width = int(rng.choice(widths, p=widths**-2.0 / (widths**-2.0).sum()))  # as much time for every size
        return {"width": width, "height": fitting_height(width, self.aspect)}

    def batch(self, size: Mapping[str, int], count: int, rng: np.random.Generator) -> BoxBatch:
        examples = [self.example(rng) for _ in range(count)]
        return collated(examples, size["height"], size["width"])

    def plan(self, config: Any) -> Plan:
        """Without the last layer: logits and raw distances."""
        plan = super().plan(config)
        return Plan(plan.layers[:-1], plan.input_shape, plan.bn_epsilon)

    def taught(self, raw: Tensor, batch: BoxBatch, plan: Plan) -> tuple[Tensor, Tensor]:
        logits, iou, boxes = self._matched(raw, batch, plan)
        target = torch.zeros_like(logits)
        target[batch.image, batch.labels, batch.cell] = iou.detach()
        loss = quality_focal(logits, target) / max(1, len(iou)) + boxes
        return loss, logits.detach().sigmoid()

    def distilled(self, raw: Tensor, soft: Tensor, batch: BoxBatch, plan: Plan) -> Tensor:
        logits, iou, boxes = self._matched(raw, batch, plan)
        return quality_focal(logits, soft) / max(1, len(iou)) + boxes

    def _matched(self, raw: Tensor, batch: BoxBatch, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, classes, cells); overlap of the cells that have a box (M,); loss of their boxes."""
        raw = raw.float()
        _, height, width = plan.input_shape
        found = Boxes(height, width).sides(raw[:, :4])[batch.image, :, batch.cell]
        iou, giou = generalised_overlap(found, batch.boxes)
        return raw[:, 4:], iou, BOX_WEIGHT * (1 - giou).sum() / max(1, len(iou))

    def score(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """mAP50 and mAP50:95 of the smallest and of the largest sub-network, each with its own statistics."""
        supernet = Supernet(self.space, load_weights(self.space, dict(weights)))
        scores: dict[str, float] = {}
        for name, config in (("smallest", self.space.smallest), ("largest", self.space.largest)):
            config = self.space.resized(config, height=fitting_height(config.width, self.aspect))
            precision = measured(supernet, config, self.statistics(weights, config), self.held_out())
            scores |= {f"{name}_map50": precision.map50, f"{name}_map50_95": precision.map50_95}
        return scores

    def statistics(
        self, weights: Mapping[str, Tensor], config: Any, batches: int = 2
    ) -> dict[str, NDArray[Any]]:
        """A sub-network's own BN statistics on training examples, in batches of 16."""
        rng = np.random.default_rng(STATISTICS_SEED)
        size = {"height": config.height, "width": config.width}
        images = [self.batch(size, 16, rng).images for _ in range(batches)]
        plan = self.space.plan(config, len(self.labels))
        return calibrate(plan, {name: value.detach().cpu() for name, value in weights.items()}, images)


def measured(
    supernet: Supernet, config: Any, statistics: Mapping[str, NDArray[Any]], examples: Sequence[Example]
) -> Precision:
    """Average precision of a sub-network on examples."""
    run = supernet.prepare(config, statistics=statistics, threads=1)
    found = []
    for example in examples:
        rows = run(supernet.space.preprocess(example.image, config))[0]
        scale = supernet.space.scale(example.image.shape, config)
        found.append(select(rows, MEASURED_SCORE, MEASURED_OVERLAP, scale))
    return average_precision([(example.boxes, example.labels) for example in examples], found)


def collated(examples: Sequence[Example], height: int, width: int) -> BoxBatch:
    """Examples fitted into an input."""
    cells = Boxes(height, width)
    images, parts = [], []
    for index, example in enumerate(examples):
        images.append(letterbox(example.image, height, width))
        scale = letterbox_scale(example.image.shape, height, width)
        boxes = example.boxes * np.array(scale * 2, np.float32)
        cell, owner = assigned(boxes, cells)
        parts.append((np.full(len(cell), index), cell, boxes[owner], example.labels[owner]))
    columns = (torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True))
    return BoxBatch(torch.from_numpy(np.concatenate(images)), *columns)


def begun(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a detector with a fresh class layer: every score begins at PRIOR."""
    bias = torch.full_like(weights["head.classes.bias"], float(np.log(PRIOR / (1 - PRIOR))))
    return {**weights, "head.classes.bias": bias}
