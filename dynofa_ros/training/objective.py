"""Interface of a training objective: batches, losses and a score; one class per task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dynofa_ros.supernet.masked import batch_statistics, masked_forward
from dynofa_ros.supernet.space import Plan, SearchSpace

BN_MOMENTUM = 0.1


@dataclass(frozen=True)
class Batch:
    """images: float32 (N, 3, H, W); a subclass adds tensors of what is to be learnt from them."""

    images: Tensor

    def to(self: AnyBatch, device: torch.device) -> AnyBatch:
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Objective(ABC):
    """One task on one data set. labels: names of its classes."""

    space: SearchSpace
    labels: tuple[str, ...]

    @abstractmethod
    def size(self, rng: np.random.Generator) -> Mapping[str, int]:
        """The entries of a configuration that are the input's size, drawn for one step."""

    @abstractmethod
    def batch(self, size: Mapping[str, int], count: int, rng: np.random.Generator) -> Any:
        """A ``Batch`` of training images of that size."""

    @abstractmethod
    def taught(self, raw: Tensor, batch: Any, plan: Plan) -> tuple[Tensor, Any]:
        """Loss of the largest sub-network on the truth, and what it predicts as a target for the others."""

    @abstractmethod
    def distilled(self, raw: Tensor, soft: Any, batch: Any, plan: Plan) -> Tensor:
        """Loss of another sub-network on what the largest one predicts."""

    @abstractmethod
    def score(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy of the smallest and of the largest sub-network on held-out data, by name."""

    def plan(self, config: Any) -> Plan:
        """The layers of which ``taught`` and ``distilled`` take the result."""
        return self.space.plan(config, len(self.labels))

    def raw(self, plan: Plan, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        """Predictions in training, normalised by the batch; the shared statistics follow."""
        return masked_forward(plan, weights, images, batch_statistics(weights, plan.bn_epsilon, BN_MOMENTUM))
