"""The interface on which layers and graphs write their nodes: ONNX export and torch implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Array = Any  # a NumPy array, or a torch tensor in training
Arrays = Mapping[str, Array]
Cut = dict[str, Array]  # a layer's own arrays by role: "weight", "bias"


class NodeBuilder(Protocol):
    """Nodes to compute with: those of an ONNX graph, whose values are names, or done at once in torch."""

    def constant(self, array: Array) -> Any: ...
    def node(self, operator: str, *inputs: Any, **attributes: Any) -> Any: ...
    def nodes(self, operator: str, outputs: int, *inputs: Any, **attributes: Any) -> Sequence[Any]: ...


def gelu(builder: NodeBuilder, x: Any) -> Any:
    """An operator of ONNX only since opset 20; runtimes recognise this form."""
    root, one, half = (builder.node("Constant", value_float=v) for v in (2**0.5, 1.0, 0.5))
    y = builder.node("Erf", builder.node("Div", x, root))
    return builder.node("Mul", builder.node("Mul", x, builder.node("Add", y, one)), half)


class GraphBuilder(NodeBuilder, Protocol):
    """An ONNX graph to add nodes to, as engines/onnx_graph.py has it; values are known by their names."""

    def window(self, kernel: int, stride: int, padding: int) -> dict[str, list[int]]: ...
    def activation(self, x: str, name: str) -> str: ...
    def conv(self, x: str, weight: Array, bias: Array, stride: int = 1, groups: int = 1) -> str: ...
    def sequence(self, x: str, ops: Sequence[Any]) -> str: ...
