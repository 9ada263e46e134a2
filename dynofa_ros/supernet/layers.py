"""Layers of convolutional networks: parameters, cost, slicing and export of each.

A layer carries its shapes, cost, arrays in a checkpoint, cut out of the shared weights, torch forward and
ONNX nodes. Channels are prefixes of the stored ones. Only the torch forward imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np

from dynofa_ros.supernet.builder import Array, Arrays, Cut, GraphBuilder

Shape = tuple[int, ...]  # of one image: (channels, height, width), or (tokens, features)
Forward = Callable[[Any], Any]  # torch tensor in, torch tensor out
Normalise = Callable[[Any, str], Any]  # batch normalisation in training: tensor, name of its arrays
STATISTICS = ("running_mean", "running_var")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor`` that does not lose more than 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Cost:
    """What a layer takes. weights: values read, without biases; kind: of its multiply-accumulates."""

    macs: int = 0
    params: int = 0
    weights: int = 0
    nodes: int = 1
    kind: str = ""


@dataclass(frozen=True)
class Op:
    """A layer with the arrays that it runs on; ``branches`` as the layer's."""

    layer: Layer
    arrays: Cut = field(default_factory=dict)
    branches: tuple[tuple[Op, ...], ...] = ()

    def all_arrays(self) -> Iterator[Array]:
        """Its arrays and those of inner operations."""
        yield from self.arrays.values()
        for branch in self.branches:
            for op in branch:
                yield from op.all_arrays()


def cut(layer: Layer, weights: Arrays) -> Op:
    """A layer with its part of the shared weights, NumPy or torch; batch normalisation is not folded."""
    branches = tuple(tuple(cut(inner, weights) for inner in branch) for branch in layer.branches)
    return Op(layer, layer.cut(weights), branches)


def mapped(op: Op, change: Callable[[Layer, Cut], Cut]) -> Op:
    """The same operation on changed arrays, inner ones too."""
    branches = tuple(tuple(mapped(inner, change) for inner in branch) for branch in op.branches)
    return Op(op.layer, change(op.layer, op.arrays), branches)


class Layer(ABC):
    """One layer. Those without weights need only ``forward`` and ``export``."""

    @property
    def branches(self) -> tuple[tuple[Layer, ...], ...]:
        """Layers inside this one, by path."""
        return ()

    def branch_inputs(self, inputs: Shape) -> tuple[Shape, ...]:
        """Shape of what each path begins with; by default all begin with the input."""
        return (inputs,) * len(self.branches)

    @property
    def block(self) -> str:
        """The elastic block that it belongs to ("blocks.3"), empty if to none."""
        key = str(getattr(self, "key", ""))
        return ".".join(key.split(".")[:2]) if key.startswith("blocks.") else ""

    def shape(self, inputs: Shape) -> Shape:
        """Shape of the result."""
        return inputs

    def cost(self, outputs: Shape) -> Cost:
        """What it takes to make a result of a shape."""
        return Cost()

    def stored(self) -> dict[str, Shape]:
        """Shape of its arrays in a checkpoint, by official name, at its own width."""
        return {}

    def cut(self, weights: Arrays) -> Cut:
        """Its part of the shared weights, NumPy or torch."""
        return {}

    def fold(self, arrays: Cut, weights: Arrays, statistics: Arrays, epsilon: float) -> Cut:
        """``arrays`` with batch normalisation folded into them; NumPy only.

        Raises ValueError naming statistics that do not have the active width.
        """
        return arrays

    @abstractmethod
    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        """Its torch function."""

    @abstractmethod
    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        """Add its nodes behind the value named ``x``; returns the name of the result."""


def chain(ops: Sequence[Op], normalise: Normalise | None = None) -> Forward:
    """Operations in turn as a torch function; ``normalise``: batch normalisation, where it is not folded."""
    steps = [op.layer.forward(op, normalise) for op in ops]

    def run(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return run


def activation_function(name: str) -> Forward:
    """The torch function of an activation, the identity for ""."""
    from torch.nn import functional

    known = {"relu": functional.relu, "relu6": functional.relu6, "h_swish": functional.hardswish}
    if name in known:
        return partial(known[name], inplace=True)
    return {"gelu": functional.gelu, "": lambda x: x}[name]


def _strided(inputs: Shape, stride: int) -> Shape:
    channels, *sides = inputs
    return (channels, *((side - 1) // stride + 1 for side in sides))


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution, batch normalisation, activation; padding is kernel // 2.

    ``elastic`` layers carry a doubled name in a checkpoint ("conv.conv.weight"), because the official
    implementation wraps them; ``stored_kernel`` is the kernel size of the stored weights.
    ``activation``: "", "relu", "relu6" or "h_swish".
    """

    key: str
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = ""
    normalised: bool = True
    elastic: bool = False
    stored_kernel: int = 0

    @property
    def weight_key(self) -> str:
        return f"{self.key}.conv.conv.weight" if self.elastic else f"{self.key}.conv.weight"

    @property
    def bn_key(self) -> str:
        return f"{self.key}.bn.bn" if self.elastic else f"{self.key}.bn"

    def _matrices(self, smallest: int) -> list[tuple[str, int, int]]:
        """(key, from, to) of the matrices that lead from the stored to the ``smallest`` kernel size."""
        sizes = range(self.stored_kernel, smallest, -2)
        return [(f"{self.key}.conv.{size}to{size - 2}_matrix", size, size - 2) for size in sizes]

    def shape(self, inputs: Shape) -> Shape:
        return (self.out_channels, *_strided(inputs, self.stride)[1:])

    def cost(self, outputs: Shape) -> Cost:
        weights = self.out_channels * self.in_channels // self.groups * self.kernel**2
        dense = "pointwise" if self.kernel == 1 else "dense"
        kind = f"depthwise {self.kernel}x{self.kernel}" if self.groups > 1 else dense
        params = weights + (2 * self.out_channels if self.normalised else 0)
        return Cost(weights * prod(outputs[1:]), params, weights, kind=kind)

    def stored(self) -> dict[str, Shape]:
        side = self.stored_kernel or self.kernel
        kernel: Shape = (self.out_channels, self.in_channels // self.groups, side, side)
        shapes = {self.weight_key: kernel}
        shapes |= {key: (size**2, size**2) for key, _, size in self._matrices(3)}
        if self.normalised:
            shapes |= {
                f"{self.bn_key}.{leaf}": (self.out_channels,) for leaf in ("weight", "bias", *STATISTICS)
            }
            shapes[f"{self.bn_key}.num_batches_tracked"] = ()
        return shapes

    def cut(self, weights: Arrays) -> Cut:
        """The active prefix of the weights, at the active kernel size (Cai et al., 3.2)."""
        weight = weights[self.weight_key][: self.out_channels, : self.in_channels // self.groups]
        for key, size, target in self._matrices(self.kernel):
            margin = (size - target) // 2
            centre = weight[:, :, margin : size - margin, margin : size - margin]
            rows = centre.reshape(*weight.shape[:2], target**2)
            weight = (rows @ weights[key].T).reshape(*weight.shape[:2], target, target)
        return {"weight": weight}

    def fold(self, arrays: Cut, weights: Arrays, statistics: Arrays, epsilon: float) -> Cut:
        if not self.normalised:
            return arrays
        n, own = self.out_channels, {leaf: statistics.get(f"{self.bn_key}.{leaf}") for leaf in STATISTICS}
        for leaf, array in own.items():
            if array is not None and array.shape != (n,):
                raise ValueError(
                    f"BN statistics {self.bn_key}.{leaf} have shape {array.shape}: expected ({n},)"
                )
        mean, variance = (
            weights[f"{self.bn_key}.{leaf}"][:n] if array is None else array for leaf, array in own.items()
        )
        scale = weights[f"{self.bn_key}.weight"][:n] / np.sqrt(variance + epsilon)
        bias = weights[f"{self.bn_key}.bias"][:n] - mean * scale
        return {"weight": arrays["weight"] * scale[:, None, None, None], "bias": bias}

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        weight, bias = op.arrays["weight"], op.arrays.get("bias")
        settings = (self.stride, self.kernel // 2, 1, self.groups)
        activate = activation_function(self.activation)
        if normalise is None or not self.normalised:
            return lambda x: activate(functional.conv2d(x, weight, bias, *settings))
        by, key = normalise, self.bn_key
        return lambda x: activate(by(functional.conv2d(x, weight, bias, *settings), key))

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        x = graph.conv(x, op.arrays["weight"], op.arrays.get("bias"), self.stride, self.groups)
        return graph.activation(x, self.activation)


@dataclass(frozen=True)
class SqueezeExcite(Layer):
    """Channel attention: mean, reduce, ReLU, expand, hard sigmoid, multiply."""

    key: str
    channels: int

    @property
    def reduced(self) -> int:
        return make_divisible(self.channels // 4)

    def cost(self, outputs: Shape) -> Cost:
        weights = 2 * self.channels * self.reduced
        return Cost(weights, weights + self.channels + self.reduced, weights, 4, "squeeze-and-excite")

    def stored(self) -> dict[str, Shape]:
        n, m, key = self.channels, self.reduced, self.key
        shapes: dict[str, Shape] = {f"{key}.reduce.weight": (m, n, 1, 1), f"{key}.reduce.bias": (m,)}
        return shapes | {f"{key}.expand.weight": (n, m, 1, 1), f"{key}.expand.bias": (n,)}

    def cut(self, weights: Arrays) -> Cut:
        return {
            key.removeprefix(f"{self.key}."): weights[key][tuple(map(slice, shape[:2]))]
            for key, shape in self.stored().items()
        }

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        reduce, expand = ((op.arrays[f"{n}.weight"], op.arrays[f"{n}.bias"]) for n in ("reduce", "expand"))

        def run(x: Any) -> Any:
            y = functional.relu_(functional.conv2d(x.mean((2, 3), keepdim=True), *reduce))
            return x * functional.hardsigmoid(functional.conv2d(y, *expand))

        return run

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        a, y = op.arrays, graph.node("GlobalAveragePool", x)
        y = graph.conv(y, a["reduce.weight"], a["reduce.bias"])
        y = graph.conv(graph.node("Relu", y), a["expand.weight"], a["expand.bias"])
        return graph.node("Mul", x, graph.node("HardSigmoid", y, alpha=1 / 6, beta=0.5))


@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over kernel x kernel, padding kernel // 2."""

    kernel: int
    stride: int

    def shape(self, inputs: Shape) -> Shape:
        return _strided(inputs, self.stride)

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        return lambda x: functional.max_pool2d(x, self.kernel, self.stride, self.kernel // 2)

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        return graph.node("MaxPool", x, **graph.window(self.kernel, self.stride, self.kernel // 2))


@dataclass(frozen=True)
class AveragePool(Layer):
    """Mean over stride x stride; a window over the edge is the mean of what lies inside."""

    stride: int

    def shape(self, inputs: Shape) -> Shape:
        return _strided(inputs, self.stride)

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        return lambda x: functional.avg_pool2d(x, self.stride, ceil_mode=True)

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        return graph.node("AveragePool", x, **graph.window(self.stride, self.stride, 0), ceil_mode=1)


@dataclass(frozen=True)
class Residual(Layer):
    """``activation(layers(x) + shortcut(x))``; an empty shortcut is the identity."""

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
    activation: str = ""

    @property
    def branches(self) -> tuple[tuple[Layer, ...], ...]:
        return (self.layers, self.shortcut)

    @property
    def block(self) -> str:
        return self.layers[0].block

    def shape(self, inputs: Shape) -> Shape:
        for layer in self.layers:
            inputs = layer.shape(inputs)
        return inputs

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        body, shortcut = (chain(ops, normalise) for ops in op.branches)
        activate = activation_function(self.activation)
        return lambda x: activate(body(x) + shortcut(x))

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        body, shortcut = (graph.sequence(x, ops) for ops in op.branches)
        return graph.activation(graph.node("Add", body, shortcut), self.activation)


@dataclass(frozen=True)
class GlobalPool(Layer):
    """Mean over height and width, kept as 1x1."""

    def shape(self, inputs: Shape) -> Shape:
        return (inputs[0], 1, 1)

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        return lambda x: x.mean((2, 3), keepdim=True)

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        return graph.node("GlobalAveragePool", x)


@dataclass(frozen=True)
class Classifier(Layer):
    """Linear layer on the first ``in_features`` flattened features."""

    key: str
    in_features: int
    classes: int

    def shape(self, inputs: Shape) -> Shape:
        return (self.classes,)

    def cost(self, outputs: Shape) -> Cost:
        weights = self.in_features * self.classes
        return Cost(weights, weights + self.classes, weights)

    def stored(self) -> dict[str, Shape]:
        return {f"{self.key}.weight": (self.classes, self.in_features), f"{self.key}.bias": (self.classes,)}

    def cut(self, weights: Arrays) -> Cut:
        weight = weights[f"{self.key}.weight"][:, : self.in_features]
        return {"weight": weight, "bias": weights[f"{self.key}.bias"]}

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        return lambda x: functional.linear(x.flatten(1), op.arrays["weight"], op.arrays["bias"])

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        weights = [graph.constant(op.arrays[name]) for name in ("weight", "bias")]
        return graph.node("Gemm", graph.node("Flatten", x), *weights, transB=1)
