"""A graph builder whose values are torch tensors: nodes are computed at once, with gradients.

One function that writes the nodes of a graph (``graphs.Written``) is its ONNX export, its torch engine and,
on slices of the shared weights, its masked forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, axis: int, epsilon: float) -> Tensor:
    return functional.layer_norm(x, x.shape[axis:], weight, bias, epsilon)


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    # as ONNX has it: 0 keeps the length of a dimension
    return x.reshape([length or x.shape[i] for i, length in enumerate(shape.tolist())])


def _gemm(x: Tensor, weight: Tensor, bias: Tensor, transB: int) -> Tensor:  # noqa: N803 - ONNX's name
    return functional.linear(x, weight if transB else weight.T, bias)


def _gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    if axis == 0 and indices.ndim:
        return functional.embedding(indices, x) if x.ndim == 2 else x[indices]
    return x.select(axis, int(indices)) if indices.ndim == 0 else x.index_select(axis, indices)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": lambda x, axis: x.log_softmax(axis),
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Softmax": lambda x, axis: x.softmax(axis),
    "Split": lambda x, lengths, axis: x.split(lengths.tolist(), axis),
    "TopK": lambda x, k, axis: x.topk(int(k), axis),
    "Transpose": lambda x, perm: x.permute(perm),
}


class EagerBuilder:
    """The operators that written graphs use, with the meaning that ONNX gives them."""

    def __init__(self, put: Callable[[Any], Tensor] = torch.as_tensor) -> None:
        """``put``: a NumPy array on the device where nodes are computed."""
        self._put = put

    def constant(self, array: Any) -> Tensor:
        return array if isinstance(array, Tensor) else self._put(array)

    def node(self, operator: str, *inputs: Any, **attributes: Any) -> Any:
        if operator == "Constant":
            return torch.tensor(next(iter(attributes.values())))
        return OPERATORS[operator](*inputs, **attributes)

    def nodes(self, operator: str, outputs: int, *inputs: Any, **attributes: Any) -> Any:
        return self.node(operator, *inputs, **attributes)
