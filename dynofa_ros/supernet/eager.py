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


def _gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transB: int) -> Tensor:
    return functional.linear(x, weight if transB else weight.T, bias)


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor) -> Tensor:
    whole = [slice(None)] * x.ndim
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        whole[axis] = slice(start, end)
    return x[tuple(whole)]


def _gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    if axis == 0 and indices.ndim:
        return functional.embedding(indices, x) if x.ndim == 2 else x[indices]
    return x.select(axis, int(indices)) if indices.ndim == 0 else x.index_select(axis, indices)


def _pad(x: Tensor, pads: Tensor) -> Tensor:
    first, last = pads.view(2, -1).tolist()  # as ONNX has it: all beginnings, then all ends
    return functional.pad(x, [n for pair in zip(reversed(first), reversed(last), strict=True) for n in pair])


def _conv(x: Tensor, weight: Tensor, kernel_shape: list[int], strides: list[int], pads: list[int]) -> Tensor:
    return functional.conv2d(x, weight, None, strides, pads[:2])


def _gather_rows(x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    """GatherND of rows of one batch dimension: (N, S, C) and (N, k, 1) -> (N, k, C)."""
    return x.take_along_dim(indices, 1)


TYPES = {1: torch.float32, 7: torch.int64}  # by ONNX's number

OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Cast": lambda x, to: x.to(TYPES[to]),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "Cos": torch.cos,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Gather": _gather,
    "GatherND": _gather_rows,
    "Gemm": _gemm,
    "GridSample": lambda x, grid, mode, padding_mode, align_corners: functional.grid_sample(
        x, grid, mode, padding_mode, bool(align_corners)
    ),
    "LayerNormalization": _layer_norm,
    "Less": torch.lt,
    "LogSoftmax": lambda x, axis: x.log_softmax(axis),
    "MatMul": torch.matmul,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pad": _pad,
    "ReduceMax": lambda x, axes, keepdims: x.amax(axes, bool(keepdims)),
    "ReduceMean": lambda x, axes, keepdims: x.mean(axes, keepdim=bool(keepdims)),
    "ReduceSum": lambda x, axes, keepdims: x.sum(axes.tolist(), bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Slice": _slice,
    "Softmax": lambda x, axis: x.softmax(axis),
    "Split": lambda x, lengths, axis: x.split(lengths.tolist(), axis),
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
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
