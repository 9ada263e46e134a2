"""Engines: what executes a materialised sub-network. Each file of this room but onnx_graph has one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from dynofa_ros.supernet.graphs import Arrays, Graph, GraphRunner, Runner
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.materialise import Subnet

ImageFunction = Callable[[np.ndarray], np.ndarray]  # float32 (N, *input shape) to (N, *output shape)


class Engine(ABC):
    """One runtime."""

    concurrent = False  # whether several threads may run a prepared sub-network at the same time
    keeps_files = False  # whether what it makes of a sub-network stays on disk for the next time

    @abstractmethod
    def processors(self) -> tuple[str, ...]:
        """The processors that it reaches on this machine."""

    def prepare(self, subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
        """A sub-network ready to run; processor None = the fastest that the engine finds.

        The CPU stands in for a processor that it does not reach here: see ``registry.require_processor``.
        Raises EngineError with the runtime's reason.
        """
        graphs = subnet.graphs.items()
        prepared = {name: self.prepare_graph(graph, threads, processor) for name, graph in graphs}
        return Runner(prepared, {name: graph.inputs for name, graph in graphs})

    def is_compiled(self, subnet: Subnet, processor: str | None) -> bool:
        """Whether preparing takes a moment; False = minutes, unless it is done ahead of time."""
        return True

    @abstractmethod
    def prepare_graph(self, graph: Graph, threads: int, processor: str | None) -> GraphRunner:
        """One graph ready to run. Arguments and errors as those of ``prepare``."""


def takes_batches(graph: Graph) -> bool:
    """Whether its one input is a batch of any size."""
    return len(graph.inputs) == 1 and graph.inputs[0].shape[:1] == ("N",)


def one_by_one(run: GraphRunner, graph: Graph) -> GraphRunner:
    """A batch through a function that was compiled for one row."""

    def rows(inputs: Arrays) -> Arrays:
        ((name, batch),) = inputs.items()
        found = [run({name: row[None]}) for row in batch]
        return {value.name: np.concatenate([f[value.name] for f in found]) for value in graph.outputs}

    return rows


def as_images(images: Any, shape: Shape) -> np.ndarray:
    """Contiguous float32 (N, *shape) of a tensor or array. Raises ValueError naming the shape expected."""
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"images have shape {array.shape}: expected (N, {expected}) float32")
    return np.ascontiguousarray(array, np.float32)
