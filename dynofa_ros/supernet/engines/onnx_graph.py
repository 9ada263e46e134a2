"""A sub-network as an ONNX model, written node by node from its description, not traced."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dynofa_ros.supernet.layers import AveragePool, GlobalPool, MaxPool
from dynofa_ros.supernet.materialise import ConvOp, LinearOp, Op, ResidualOp, SqueezeExciteOp, Subnet

OPSET, IR_VERSION = 17, 8  # HardSwish is an operator since 14; both are known to ONNX Runtime 1.12 and later
FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Graph:
    """``model`` names its weights as external data, ``weights`` holds them: no copy is made of either."""

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]

    @property
    def digest(self) -> str:
        """SHA-256 over structure, resolution and weights: two sub-networks have the same names for both."""
        hasher = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        for array in self.weights.values():
            hasher.update(array.data)
        return hasher.hexdigest()


class _Builder:
    """Nodes and weights, growing at the end."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(array, np.float32)
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def activation(self, x: str, name: str) -> str:
        if name == "relu6":
            return self.node("Clip", x, "zero", "six")
        return self.node({"relu": "Relu", "h_swish": "HardSwish"}[name], x) if name else x

    def conv(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1, groups: int = 1
    ) -> str:
        kernel = weight.shape[-1]
        inputs = [x, self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        return self.node("Conv", *inputs, **_window(kernel, stride, kernel // 2), group=groups)

    def sequence(self, x: str, ops: tuple[Op, ...]) -> str:
        """Add operations one after the other on the value named ``x``; returns the name of the result."""
        for op in ops:
            x = self.append(x, op)
        return x

    def append(self, x: str, op: Op) -> str:
        if isinstance(op, ConvOp):
            return self.activation(self.conv(x, op.weight, op.bias, op.stride, op.groups), op.activation)
        if isinstance(op, SqueezeExciteOp):
            y = self.conv(self.node("GlobalAveragePool", x), op.reduce_weight, op.reduce_bias)
            y = self.conv(self.node("Relu", y), op.expand_weight, op.expand_bias)
            return self.node("Mul", x, self.node("HardSigmoid", y, alpha=1 / 6, beta=0.5))
        if isinstance(op, ResidualOp):
            total = self.node("Add", self.sequence(x, op.ops), self.sequence(x, op.shortcut))
            return self.activation(total, op.activation)
        if isinstance(op, MaxPool):
            return self.node("MaxPool", x, **_window(op.kernel, op.stride, op.kernel // 2))
        if isinstance(op, AveragePool):
            return self.node("AveragePool", x, **_window(op.stride, op.stride, 0), ceil_mode=1)
        if isinstance(op, GlobalPool):
            return self.node("GlobalAveragePool", x)
        flat = self.node("Flatten", x)
        return self.node("Gemm", flat, self.constant(op.weight), self.constant(op.bias), transB=1)


def _window(kernel: int, stride: int, padding: int) -> dict[str, list[int]]:
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}


def _external(name: str, array: np.ndarray) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=FLOAT, dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")
    return tensor


def build_graph(subnet: Subnet) -> Graph:
    """Input ``images``, float32 (N, 3, R, R); output ``logits``, float32 (N, classes)."""
    builder = _Builder()
    builder.sequence("images", subnet.ops)
    builder.nodes[-1].output[0] = "logits"
    last = subnet.ops[-1]
    assert isinstance(last, LinearOp)
    images = helper.make_tensor_value_info("images", FLOAT, ["N", 3, subnet.resolution, subnet.resolution])
    logits = helper.make_tensor_value_info("logits", FLOAT, ["N", last.weight.shape[0]])
    bounds = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    used = {name for node in builder.nodes for name in node.input}
    initialisers = [b for b in bounds if b.name in used]
    initialisers += [_external(name, array) for name, array in builder.weights.items()]
    body = helper.make_graph(builder.nodes, "subnet", [images], [logits], initialisers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return Graph(model, builder.weights)


def build_model(subnet: Subnet) -> onnx.ModelProto:
    """The graph with its weights inside: a model that stands alone, for a file or another engine."""
    graph = build_graph(subnet)
    for tensor in graph.model.graph.initializer:
        if tensor.name in graph.weights:
            tensor.CopyFrom(numpy_helper.from_array(graph.weights[tensor.name], tensor.name))
    return graph.model
