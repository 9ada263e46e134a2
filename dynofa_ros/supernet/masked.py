"""Masked execution in plain torch: the supernet's own forward, differentiable, one set of weights.

Every layer slices the active prefix out of the shared weights at run time. That is what training needs;
inference runs the materialised sub-networks of the engines instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from dynofa_ros.supernet.layers import (
    AveragePool,
    Conv,
    GlobalPool,
    Layer,
    MaxPool,
    Residual,
    SqueezeExcite,
)
from dynofa_ros.supernet.plan import Plan, parameter_shapes
from dynofa_ros.supernet.space import SearchSpace

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
Normalise = Callable[[Tensor, str], Tensor]


def initial_weights(space: SearchSpace, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Random weights: He initialisation by fan-out, identity kernel matrices, unit normalisation."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for key, shape in parameter_shapes(space, classes).items():
        if key.endswith("_matrix"):
            value = torch.eye(shape[0])
        elif key.endswith("num_batches_tracked"):
            value = torch.zeros((), dtype=torch.int64)
        elif len(shape) == 4:
            value = torch.randn(shape, generator=generator) * (2 / (shape[0] * shape[2] * shape[3])) ** 0.5
            if shape[1] == 1:  # depthwise: the fan-out of one channel is its kernel area
                value *= shape[0] ** 0.5
        elif len(shape) == 2:
            value = torch.randn(shape, generator=generator) * 0.01
        else:
            value = torch.ones(shape) if key.endswith(("bn.weight", "running_var")) else torch.zeros(shape)
        weights[key] = value
    return weights


def _activate(x: Tensor, name: str) -> Tensor:
    if name == "relu":
        return functional.relu(x)
    if name == "relu6":
        return functional.relu6(x)
    return functional.hardswish(x) if name == "h_swish" else x


def active_kernel(weights: Mapping[str, Tensor], layer: Conv) -> Tensor:
    """The active prefix of a convolution's weights, transformed to the active kernel size."""
    weight = weights[layer.weight_key][: layer.out_channels, : layer.in_channels // layer.groups]
    for key, size, target in layer.transforms:
        margin = (size - target) // 2
        centre = weight[:, :, margin : size - margin, margin : size - margin].flatten(2)
        weight = functional.linear(centre, weights[key]).unflatten(2, (target, target))
    return weight


def batch_statistics(
    weights: MutableMapping[str, Tensor],
    epsilon: float,
    momentum: float | None,
    sink: dict[str, list[Tensor]] | None = None,
) -> Normalise:
    """Normalisation of train mode: by the batch. The shared running statistics follow by ``momentum``
    (None leaves them), and ``sink`` collects every layer's (mean, variance) for a calibration."""

    def normalise(x: Tensor, key: str) -> Tensor:
        n = x.shape[1]
        mean = var = None
        if momentum is not None:
            mean, var = weights[f"{key}.running_mean"][:n], weights[f"{key}.running_var"][:n]
        if sink is not None:
            sink.setdefault(f"{key}.running_mean", []).append(x.mean((0, 2, 3)))
            sink.setdefault(f"{key}.running_var", []).append(x.var((0, 2, 3), unbiased=False))
        scale, shift = weights[f"{key}.weight"][:n], weights[f"{key}.bias"][:n]
        return functional.batch_norm(x, mean, var, scale, shift, True, momentum or 0.0, epsilon)

    return normalise


def stored_statistics(
    weights: Mapping[str, Tensor], epsilon: float, own: Mapping[str, Tensor] | None = None
) -> Normalise:
    """Normalisation of inference: by the sub-network's own statistics if it has any, else the shared ones."""

    def normalise(x: Tensor, key: str) -> Tensor:
        n = x.shape[1]
        mean, var = (
            (own[f"{key}.{leaf}"] if own and f"{key}.{leaf}" in own else weights[f"{key}.{leaf}"])[:n]
            for leaf in ("running_mean", "running_var")
        )
        scale, shift = weights[f"{key}.weight"][:n], weights[f"{key}.bias"][:n]
        return functional.batch_norm(x, mean, var, scale, shift, False, 0.0, epsilon)

    return normalise


def _layer(x: Tensor, layer: Layer, weights: Mapping[str, Tensor], normalise: Normalise) -> Tensor:
    if isinstance(layer, Conv):
        kernel = active_kernel(weights, layer)
        x = functional.conv2d(x, kernel, None, layer.stride, layer.kernel // 2, 1, layer.groups)
        return _activate(normalise(x, layer.bn_key) if layer.normalised else x, layer.activation)
    if isinstance(layer, SqueezeExcite):
        key, n, m = layer.key, layer.channels, layer.reduced
        y = x.mean((2, 3), keepdim=True)
        y = functional.conv2d(y, weights[f"{key}.reduce.weight"][:m, :n], weights[f"{key}.reduce.bias"][:m])
        y = functional.conv2d(
            functional.relu(y), weights[f"{key}.expand.weight"][:n, :m], weights[f"{key}.expand.bias"][:n]
        )
        return x * functional.hardsigmoid(y)
    if isinstance(layer, Residual):
        y, shortcut = x, x
        for inner in layer.layers:
            y = _layer(y, inner, weights, normalise)
        for inner in layer.shortcut:
            shortcut = _layer(shortcut, inner, weights, normalise)
        return _activate(shortcut + y, layer.activation)
    if isinstance(layer, MaxPool):
        return functional.max_pool2d(x, layer.kernel, layer.stride, layer.kernel // 2)
    if isinstance(layer, AveragePool):
        return functional.avg_pool2d(x, layer.stride, ceil_mode=True)
    if isinstance(layer, GlobalPool):
        return x.mean((2, 3), keepdim=True)
    weight = weights[f"{layer.key}.weight"][:, : layer.in_features]
    return functional.linear(x.flatten(1), weight, weights[f"{layer.key}.bias"])


def masked_forward(plan: Plan, weights: Mapping[str, Tensor], images: Tensor, normalise: Normalise) -> Tensor:
    """Logits, float32 (N, classes), of one sub-network on images, float32 (N, 3, R, R)."""
    x = images
    for layer in plan.layers:
        x = _layer(x, layer, weights, normalise)
    return x


def calibrate(
    plan: Plan, weights: MutableMapping[str, Tensor], batches: list[Tensor]
) -> dict[str, np.ndarray]:
    """A sub-network's own BN statistics: batch means averaged over ``batches`` (Cai et al., section 3.3).

    Returns running_mean and running_var by official name, each of the active width.
    """
    sums: dict[str, list[Tensor]] = {}
    normalise = batch_statistics(weights, plan.bn_epsilon, None, sums)
    with torch.inference_mode():
        for images in batches:
            masked_forward(plan, weights, images, normalise)
    return {key: torch.stack(values).mean(0).numpy() for key, values in sums.items()}
