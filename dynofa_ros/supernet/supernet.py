"""The Python interface of a supernet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynofa_ros.supernet.engines.engine import Runner, as_images, load_engine
from dynofa_ros.supernet.materialise import Statistics, materialise
from dynofa_ros.supernet.plan import make_plan
from dynofa_ros.supernet.space import SearchSpace, SubnetConfig, load_space
from dynofa_ros.supernet.weights import Weights, load_weights

if TYPE_CHECKING:
    from torch import Tensor


class Supernet:
    """A search space with one set of weights. Every sub-network shares them until it is activated."""

    def __init__(self, space: SearchSpace, weights: Weights) -> None:
        self.space = space
        self.weights = weights

    def prepare(
        self,
        config: SubnetConfig,
        engine: str = "onnxruntime",
        *,
        statistics: Statistics | None = None,
        threads: int = 0,
    ) -> Runner:
        """Materialise one sub-network for an engine: float32 arrays (N, 3, R, R) in, logits (N, classes) out.

        ``statistics``: the sub-network's own BN means and variances; the shared ones where None.
        Raises ValueError for a configuration of another space, EngineError for the engine.
        """
        space = self.space
        checked = space.config(
            kernel_sizes=config.kernel_sizes,
            expand_ratios=config.expand_ratios,
            depths=config.depths,
            widths=config.widths,
            resolution=config.resolution,
        )
        return load_engine(engine)(materialise(make_plan(space, checked), self.weights, statistics), threads)

    def activate(
        self,
        config: SubnetConfig,
        engine: str = "torch",
        *,
        statistics: Statistics | None = None,
        threads: int = 0,
    ) -> Callable[[Any], Tensor]:
        """As ``prepare``, for use from Python: takes a tensor or array, returns the logits as a tensor."""
        import torch

        run = self.prepare(config, engine, statistics=statistics, threads=threads)

        def forward(images: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(run(as_images(images, config.resolution))))

        return forward


def load_supernet(space: str, weights: str | Path | Mapping[str, Any] | None = None) -> Supernet:
    """A supernet of a named space.

    ``weights``: path of a .safetensors or official torch checkpoint, or a state_dict; None gives random
    weights (1000 classes), useful for latency only. Raises ValueError for an unknown space and
    WeightsError (a ValueError) for weights that do not fit, naming the key.
    """
    declared = load_space(space)
    if weights is None:
        from dynofa_ros.supernet.masked import initial_weights

        weights = initial_weights(declared, classes=1000)
    return Supernet(declared, load_weights(declared, weights))
