"""The graphs of a materialised sub-network: each one computation with named inputs and outputs.

Most sub-networks are one graph, a chain of layers from ``images`` to ``logits``. Others need several: a
translator has one that reads the sentence and one that makes the next token. An engine prepares each of them
alone and knows nothing else about a sub-network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynofa_ros.supernet.builder import Array, GraphBuilder, NodeBuilder
from dynofa_ros.supernet.layers import Cut, Layer, Op, Shape, chain, mapped

Put = Callable[[Array], Any]  # a NumPy array on the device of a torch function
Compute = Callable[[Sequence[Any]], Sequence[Any]]  # torch tensors in, torch tensors out

Arrays = dict[str, np.ndarray]
GraphRunner = Callable[[Arrays], Arrays]  # inputs by name in, outputs by name out


@dataclass(frozen=True)
class Runner:
    """A prepared sub-network: a function for each of its graphs, and the inputs that it takes.

    mapped: whether its weights are in files, and take memory of their own only while there is plenty.
    """

    graphs: Mapping[str, GraphRunner]
    inputs: Mapping[str, Sequence[Value]]

    @property
    def mapped(self) -> bool:
        return all(getattr(run, "mapped", False) for run in self.graphs.values())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The one graph of an image network: float32 (N, *input shape) in, (N, *output shape) out."""
        run, (declared,) = self.graphs["network"], self.inputs["network"]
        if declared.shape[0] == 1 and len(images) > 1:
            return np.concatenate([run({"images": image[None]})["logits"] for image in images])
        return run({"images": images})["logits"]


@dataclass(frozen=True)
class Value:
    """An input or output. shape: numbers, and names of dimensions that vary; integer: int64, else float32."""

    name: str
    shape: tuple[int | str, ...]
    integer: bool = False


class Graph(ABC):
    """One computation."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @abstractmethod
    def arrays(self) -> Iterator[np.ndarray]:
        """The weights that it runs on."""

    def model(self) -> bytes | None:
        """Of a graph that is an ONNX model already: that, with the inputs and outputs declared here."""
        return None

    @abstractmethod
    def export(self, builder: GraphBuilder) -> Sequence[str]:
        """Add its ONNX nodes; its inputs are values of their names. Returns the names of its outputs."""

    @abstractmethod
    def compute(self, put: Put) -> Compute:
        """Its torch function, inputs and outputs in the order of their declaration."""


@dataclass(frozen=True)
class Chain(Graph):
    """Layers one after the other. Shapes are of one image, and of its result."""

    ops: tuple[Op, ...]
    input_shape: Shape
    output_shape: Shape

    @property
    def inputs(self) -> tuple[Value, ...]:  # type: ignore[override]
        return (Value("images", ("N", *self.input_shape)),)

    @property
    def outputs(self) -> tuple[Value, ...]:  # type: ignore[override]
        return (Value("logits", ("N", *self.output_shape)),)

    def arrays(self) -> Iterator[np.ndarray]:
        return (array for op in self.ops for array in op.all_arrays())

    def export(self, builder: GraphBuilder) -> Sequence[str]:
        return [builder.sequence("images", self.ops)]

    def compute(self, put: Put) -> Compute:
        def on_device(layer: Layer, arrays: Cut) -> Cut:
            return {name: put(array) for name, array in arrays.items()}

        run = chain([mapped(op, on_device) for op in self.ops])
        return lambda inputs: [run(*inputs)]


Build = Callable[[NodeBuilder, Mapping[str, Array], Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Written(Graph):
    """A graph whose nodes one function writes. In torch the same function runs on a builder that computes.

    build: (builder, weights by name, values of the inputs) -> values of the outputs.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weights: Mapping[str, Array]
    build: Build

    def arrays(self) -> Iterator[np.ndarray]:
        return iter(self.weights.values())

    def export(self, builder: GraphBuilder) -> Sequence[str]:
        return self.build(builder, self.weights, [value.name for value in self.inputs])

    def compute(self, put: Put) -> Compute:
        from dynofa_ros.supernet.eager import EagerBuilder

        held = {id(array): put(array) for array in self.weights.values()}  # one array may have several names
        weights = {name: held[id(array)] for name, array in self.weights.items()}
        return lambda inputs: self.build(EagerBuilder(put), weights, inputs)
