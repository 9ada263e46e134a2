"""Classification of own images: soft targets from the largest sub-network, batches with every class alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dynofa_ros.datasets.classes import Classes
from dynofa_ros.supernet.masked import calibrate
from dynofa_ros.supernet.preprocess import normalised, preprocess
from dynofa_ros.supernet.space import Plan, SearchSpace
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights
from dynofa_ros.training.images import Cache, cut_out, held_out
from dynofa_ros.training.objective import Batch, Objective

LABEL_SMOOTHING = 0.05
STATISTICS_SEED = 5


@dataclass(frozen=True)
class LabelBatch(Batch):
    """labels (N,)."""

    labels: Tensor


class Classification(Objective):
    """The images of class folders; a share of every class is held out."""

    def __init__(self, space: SearchSpace, data: Classes, share: float, seed: int) -> None:
        self.space, self.labels, self._data = space, data.names, data
        groups = [np.flatnonzero(data.labels == label) for label in range(len(data.names))]
        parts = [held_out(len(group), share, seed) for group in groups]
        self._trained = [group[~part] for group, part in zip(groups, parts, strict=True)]
        self.tested = np.concatenate([group[part] for group, part in zip(groups, parts, strict=True)])
        self._cache = Cache(int(1.3 * space.input_sizes[-1]))

    def size(self, rng: np.random.Generator) -> Mapping[str, int]:
        return {self.space.size_entry: int(rng.choice(np.array(self.space.input_sizes)))}

    def batch(self, size: Mapping[str, int], count: int, rng: np.random.Generator) -> LabelBatch:
        """Each class as often as any other, however many images it has."""
        (side,) = size.values()
        labels = rng.integers(len(self._trained), size=count)
        chosen = [int(rng.choice(self._trained[label])) for label in labels]
        images = [normalised(cut_out(self._cache.read(self._data.files[i]), side, rng)) for i in chosen]
        return LabelBatch(torch.from_numpy(np.stack(images)), torch.from_numpy(labels))

    def taught(self, raw: Tensor, batch: LabelBatch, plan: Plan) -> tuple[Tensor, Tensor]:
        loss = functional.cross_entropy(raw.float(), batch.labels, label_smoothing=LABEL_SMOOTHING)
        return loss, functional.softmax(raw.detach().float(), 1)

    def distilled(self, raw: Tensor, soft: Tensor, batch: LabelBatch, plan: Plan) -> Tensor:
        return functional.cross_entropy(raw.float(), soft)

    def score(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Top-1 of the smallest and of the largest sub-network, each with its own statistics."""
        supernet = Supernet(self.space, load_weights(self.space, dict(weights)))
        on_cpu = {name: value.detach().cpu() for name, value in weights.items()}
        return {
            f"{name}_top1": self._top1(supernet, on_cpu, config)
            for name, config in (("smallest", self.space.smallest), ("largest", self.space.largest))
        }

    def _top1(self, supernet: Supernet, weights: dict[str, Tensor], config: Any) -> float:
        side = self.space.input_size(config)
        statistics = None
        if self.space.batch_normalised:
            rng = np.random.default_rng(STATISTICS_SEED)
            batches = [self.batch({self.space.size_entry: side}, 32, rng).images for _ in range(8)]
            statistics = calibrate(supernet.plan(config), weights, batches)
        run = supernet.prepare(config, statistics=statistics, threads=1, processor="cpu")
        right = [run(self._shown(i, side)).argmax() == self._data.labels[i] for i in self.tested]
        return float(np.mean(right)) if right else math.nan

    def _shown(self, index: int, side: int) -> NDArray[np.float32]:
        return preprocess(self._cache.read(self._data.files[index]), side)
