"""Masked execution in plain torch: the supernet's own forward, differentiable, one set of weights.

Every layer slices the active prefix out of the shared weights at run time. That is what training needs;
inference runs the materialised sub-networks of the engines instead.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from dynofa_ros.supernet.layers import Normalise, chain, cut
from dynofa_ros.supernet.space import Plan, SearchSpace


def initial_weights(space: SearchSpace, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Random weights: He initialisation by fan-out, identity kernel matrices, unit normalisation."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for key, shape in space.parameter_shapes(classes).items():
        if key.endswith("_matrix"):
            value = torch.eye(shape[0])
        elif key.endswith("num_batches_tracked"):
            value = torch.zeros((), dtype=torch.int64)
        elif len(shape) == 4:
            value = torch.randn(shape, generator=generator) * (2 / (shape[0] * shape[2] * shape[3])) ** 0.5
            if shape[1] == 1:  # depthwise: the fan-out of one channel is its kernel area
                value *= shape[0] ** 0.5
        elif len(shape) in (2, 3):
            value = torch.randn(shape, generator=generator) * 0.01
        else:
            value = torch.ones(shape) if key.endswith((".weight", "running_var")) else torch.zeros(shape)
        weights[key] = value
    return weights


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


def fixed_statistics(
    weights: Mapping[str, Tensor], statistics: Mapping[str, np.ndarray], epsilon: float
) -> Normalise:
    """Normalisation by a sub-network's own statistics, as `calibrate` returns them."""

    def normalise(x: Tensor, key: str) -> Tensor:
        mean, var = (
            torch.from_numpy(statistics[f"{key}.{leaf}"]).to(x.dtype)
            for leaf in ("running_mean", "running_var")
        )
        scale, shift = (weights[f"{key}.{leaf}"][: x.shape[1]] for leaf in ("weight", "bias"))
        return functional.batch_norm(x, mean, var, scale, shift, eps=epsilon)

    return normalise


def masked_forward(plan: Plan, weights: Mapping[str, Tensor], images: Tensor, normalise: Normalise) -> Tensor:
    """Logits, float32 (N, classes), of one sub-network on images, float32 (N, 3, R, R)."""
    logits: Tensor = chain([cut(layer, weights) for layer in plan.layers], normalise)(images)
    return logits


def calibrate(
    plan: Plan, weights: MutableMapping[str, Tensor], batches: Sequence[Tensor]
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
