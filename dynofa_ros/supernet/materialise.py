"""A sub-network cut once out of the shared weights: kernels transformed, batch normalisation folded.

NumPy only, so that a process with the ONNX Runtime engine needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dynofa_ros.supernet.layers import (
    AveragePool,
    Conv,
    GlobalPool,
    Layer,
    MaxPool,
    Residual,
    SqueezeExcite,
)
from dynofa_ros.supernet.plan import Plan

Array = np.ndarray
Statistics = Mapping[str, Array]


@dataclass(frozen=True)
class ConvOp:
    """y = activation(conv(x) + bias); weight (O, I / groups, k, k), padding k // 2."""

    weight: Array
    bias: Array | None
    stride: int
    groups: int
    activation: str


@dataclass(frozen=True)
class SqueezeExciteOp:
    """y = x * hard_sigmoid(expand(relu(reduce(mean(x))))); 1x1 weights (O, I, 1, 1)."""

    reduce_weight: Array
    reduce_bias: Array
    expand_weight: Array
    expand_bias: Array


@dataclass(frozen=True)
class ResidualOp:
    """y = activation(ops(x) + shortcut(x)); an empty shortcut is the identity."""

    ops: tuple[Op, ...]
    shortcut: tuple[Op, ...]
    activation: str


@dataclass(frozen=True)
class LinearOp:
    """Flatten, then y = x W^T + b; weight (classes, features)."""

    weight: Array
    bias: Array


Pool = MaxPool | AveragePool | GlobalPool  # have no weights: the layer is its own operation
Op = ConvOp | SqueezeExciteOp | ResidualOp | Pool | LinearOp


@dataclass(frozen=True)
class Subnet:
    """A materialised sub-network, ready for an engine."""

    ops: tuple[Op, ...]
    resolution: int
    nbytes: int


def active_kernel(weights: Mapping[str, Array], layer: Conv) -> Array:
    """The active prefix of a convolution's weights, at the active kernel size (Cai et al., 3.2)."""
    weight = weights[layer.weight_key][: layer.out_channels, : layer.in_channels // layer.groups]
    for key, size, target in layer.transforms:
        margin = (size - target) // 2
        centre = weight[:, :, margin : size - margin, margin : size - margin].reshape(
            *weight.shape[:2], target**2
        )
        weight = (centre @ weights[key].T).reshape(*weight.shape[:2], target, target)
    return weight


def _conv(layer: Conv, weights: Mapping[str, Array], statistics: Statistics, epsilon: float) -> ConvOp:
    kernel = active_kernel(weights, layer)
    bias = None
    if layer.normalised:
        key, n = layer.bn_key, layer.out_channels
        mean, variance = (
            statistics.get(f"{key}.{leaf}", weights[f"{key}.{leaf}"])[:n]
            for leaf in ("running_mean", "running_var")
        )
        scale = weights[f"{key}.weight"][:n] / np.sqrt(variance + epsilon)
        kernel = kernel * scale[:, None, None, None]
        bias = np.ascontiguousarray(weights[f"{key}.bias"][:n] - mean * scale, np.float32)
    return ConvOp(
        np.ascontiguousarray(kernel, np.float32), bias, layer.stride, layer.groups, layer.activation
    )


def _squeeze_excite(layer: SqueezeExcite, weights: Mapping[str, Array]) -> SqueezeExciteOp:
    key, n, m = layer.key, layer.channels, layer.reduced
    slices = (
        weights[f"{key}.reduce.weight"][:m, :n],
        weights[f"{key}.reduce.bias"][:m],
        weights[f"{key}.expand.weight"][:n, :m],
        weights[f"{key}.expand.bias"][:n],
    )
    return SqueezeExciteOp(*(np.ascontiguousarray(s, np.float32) for s in slices))


def _op(layer: Layer, weights: Mapping[str, Array], statistics: Statistics, epsilon: float) -> Op:
    if isinstance(layer, Conv):
        return _conv(layer, weights, statistics, epsilon)
    if isinstance(layer, SqueezeExcite):
        return _squeeze_excite(layer, weights)
    if isinstance(layer, Residual):
        ops, shortcut = (
            tuple(_op(inner, weights, statistics, epsilon) for inner in branch)
            for branch in (layer.layers, layer.shortcut)
        )
        return ResidualOp(ops, shortcut, layer.activation)
    if isinstance(layer, Pool):
        return layer
    weight = weights[f"{layer.key}.weight"][:, : layer.in_features]
    return LinearOp(np.ascontiguousarray(weight), weights[f"{layer.key}.bias"])


def _nbytes(op: Op) -> int:
    if isinstance(op, ResidualOp):
        return sum(map(_nbytes, op.ops + op.shortcut))
    return sum(v.nbytes for v in vars(op).values() if isinstance(v, np.ndarray))


def materialise(plan: Plan, weights: Mapping[str, Array], statistics: Statistics | None = None) -> Subnet:
    """Cut ``plan`` out of ``weights``, normalised by the sub-network's own BN ``statistics`` where given.

    Raises ValueError naming the statistics that do not have the active width.
    """
    for layer in plan.flat():
        if statistics and isinstance(layer, Conv) and layer.normalised:
            for leaf in ("running_mean", "running_var"):
                own = statistics.get(f"{layer.bn_key}.{leaf}")
                if own is not None and own.shape != (layer.out_channels,):
                    raise ValueError(
                        f"BN statistics {layer.bn_key}.{leaf} have shape {own.shape}: "
                        f"expected ({layer.out_channels},)"
                    )
    ops = tuple(_op(layer, weights, statistics or {}, plan.bn_epsilon) for layer in plan.layers)
    return Subnet(ops, plan.resolution, sum(map(_nbytes, ops)))
