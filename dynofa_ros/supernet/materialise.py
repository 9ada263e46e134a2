"""A sub-network cut once out of the shared weights: kernels transformed, batch normalisation folded.

NumPy only, so that a process with the ONNX Runtime engine needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dynofa_ros.supernet.layers import Arrays, Cut, Layer, Op, Shape
from dynofa_ros.supernet.space import Plan

Statistics = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subnet:
    """A materialised sub-network, ready for an engine."""

    ops: tuple[Op, ...]
    input_shape: Shape  # of one image
    output_shape: Shape  # of its result

    @property
    def nbytes(self) -> int:
        return sum(op.nbytes for op in self.ops)


def cut(layer: Layer, weights: Arrays) -> Op:
    """A layer with its part of the shared weights, NumPy or torch; batch normalisation is not folded."""
    branches = tuple(tuple(cut(inner, weights) for inner in branch) for branch in layer.branches)
    return Op(layer, layer.cut(weights), branches)


def mapped(op: Op, change: Callable[[Layer, Cut], Cut]) -> Op:
    """The same operation on changed arrays, inner ones too."""
    branches = tuple(tuple(mapped(inner, change) for inner in branch) for branch in op.branches)
    return Op(op.layer, change(op.layer, op.arrays), branches)


def materialise(
    plan: Plan, weights: Mapping[str, np.ndarray], statistics: Statistics | None = None
) -> Subnet:
    """Cut ``plan`` out of ``weights``, normalised by the sub-network's own BN ``statistics`` where given.

    Raises ValueError naming the statistics that do not have the active width.
    """

    def fold(layer: Layer, arrays: Cut) -> Cut:
        folded = layer.fold(arrays, weights, statistics or {}, plan.bn_epsilon)
        return {name: np.ascontiguousarray(array, np.float32) for name, array in folded.items()}

    shape = plan.input_shape
    for layer in plan.layers:
        shape = layer.shape(shape)
    ops = tuple(mapped(cut(layer, weights), fold) for layer in plan.layers)
    return Subnet(ops, plan.input_shape, shape)
