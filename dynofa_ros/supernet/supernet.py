"""Class Supernet: the Python interface to one set of weights and its sub-networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynofa_ros.supernet.engines.engine import as_images
from dynofa_ros.supernet.graphs import Graph, Runner
from dynofa_ros.supernet.materialise import Subnet, subnet_digest
from dynofa_ros.supernet.registry import load_engine, load_space
from dynofa_ros.supernet.space import Plan, SearchSpace, Statistics
from dynofa_ros.supernet.weights import Weights, load_weights

if TYPE_CHECKING:
    from torch import Tensor


class Supernet:
    """A search space with one set of weights. Every sub-network shares them until it is activated."""

    def __init__(self, space: SearchSpace, weights: Weights) -> None:
        self.space = space
        self.weights = weights

    def plan(self, config: Any) -> Plan:
        """The layers of one sub-network, with the classes of the weights."""
        return self.space.plan(config, self.weights.classes)

    def materialise(self, config: Any, statistics: Statistics | None = None) -> Subnet:
        """One sub-network, cut out of the weights where its graphs are asked for.

        ``statistics``: its own BN means and variances; the shared ones where None.
        Raises ValueError for a configuration of another space.
        """
        plan, weights = self.plan(self.space.checked(config)), self.weights

        def cut() -> Mapping[str, Graph]:
            graphs = plan.graphs(weights, statistics or {})
            weights.release()
            return graphs

        if weights.mapping is None:  # they may change: nothing is kept of them
            return Subnet(cut)
        return Subnet(cut, subnet_digest(weights.digest, (self.space.name, config, plan), statistics))

    def prepare(
        self,
        config: Any,
        engine: str = "onnxruntime",
        *,
        statistics: Statistics | None = None,
        threads: int = 0,
        processor: str | None = None,
    ) -> Runner:
        """One sub-network ready in an engine: float32 arrays (N, 3, R, R) in, logits (N, classes) out.

        ``processor``: None = the fastest that the engine finds.
        Raises ValueError as ``materialise`` and its graphs do, EngineError for the engine.
        """
        prepare = load_engine(engine).prepare
        return prepare(self.materialise(config, statistics), threads, processor)

    def activate(
        self,
        config: Any,
        engine: str = "torch",
        *,
        statistics: Statistics | None = None,
        threads: int = 0,
    ) -> Callable[[Any], Tensor]:
        """As ``prepare``, for use from Python: takes a tensor or array, returns the logits as a tensor."""
        import torch

        run = self.prepare(config, engine, statistics=statistics, threads=threads)
        shape = self.plan(config).input_shape

        def forward(images: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(run(as_images(images, shape))))

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
