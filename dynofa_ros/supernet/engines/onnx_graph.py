"""A graph of a sub-network as an ONNX model, written node by node from its description, not traced."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dynofa_ros.supernet.builder import gelu
from dynofa_ros.supernet.graphs import Graph, Value
from dynofa_ros.supernet.layers import Op

OPSET, IR_VERSION = 17, 8  # HardSwish is an operator since 14; both are known to ONNX Runtime 1.12 and later
FLOAT, INTEGER = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@dataclass(frozen=True)
class Model:
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


class GraphBuilder:
    """Nodes and weights, growing at the end. Layers add themselves to it (``Layer.export``)."""

    def __init__(self) -> None:
        self.steps: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(array, np.float32)
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"x{len(self.steps)}"
        self.steps.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def nodes(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> Sequence[str]:
        """A node with several outputs."""
        names = [f"x{len(self.steps)}.{i}" for i in range(outputs)]
        self.steps.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def renamed(self, names: Mapping[str, str]) -> list[onnx.NodeProto]:
        """The nodes with other names for some values."""
        for node in self.steps:
            for values in (node.input, node.output):
                values[:] = [names.get(value, value) for value in values]
        return self.steps

    def activation(self, x: str, name: str) -> str:
        if name == "relu6":
            return self.node("Clip", x, "zero", "six")
        if name == "gelu":
            return str(gelu(self, x))
        return self.node({"relu": "Relu", "h_swish": "HardSwish"}[name], x) if name else x

    def window(self, kernel: int, stride: int, padding: int) -> dict[str, list[int]]:
        """Attributes of a square sliding window."""
        return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}

    def conv(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1, groups: int = 1
    ) -> str:
        kernel = weight.shape[-1]
        inputs = [x, self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        return self.node("Conv", *inputs, **self.window(kernel, stride, kernel // 2), group=groups)

    def sequence(self, x: str, ops: Sequence[Op]) -> str:
        """Add operations one after the other on the value named ``x``; returns the name of the result."""
        for op in ops:
            x = op.layer.export(self, x, op)
        return x


def _external(name: str, array: np.ndarray) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=FLOAT, dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")
    return tensor


def _information(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, INTEGER if value.integer else FLOAT, value.shape)


def build_graph(graph: Graph) -> Model:
    """The graph as a model, inputs and outputs under their names."""
    given = graph.model()
    if given is not None:
        return Model(onnx.load_model_from_string(given), {})
    builder = GraphBuilder()
    found = builder.renamed(dict(zip(graph.export(builder), (v.name for v in graph.outputs), strict=True)))
    inputs, outputs = ([_information(value) for value in values] for values in (graph.inputs, graph.outputs))
    bounds = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    used = {name for node in found for name in node.input}
    initialisers = [b for b in bounds if b.name in used]
    initialisers += [_external(name, array) for name, array in builder.weights.items()]
    body = helper.make_graph(found, "subnet", inputs, outputs, initialisers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return Model(model, builder.weights)


def for_one_row(model: Model) -> Model:
    """The same for batches of one: with all sizes known more can be compiled, and a DLA takes no other."""
    body = model.model.graph
    for value in (*body.input, *body.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def with_weights(built: Model) -> onnx.ModelProto:
    """The model with its weights inside: it stands alone, for a file or another engine."""
    for tensor in built.model.graph.initializer:
        if tensor.name in built.weights:
            tensor.CopyFrom(numpy_helper.from_array(built.weights[tensor.name], tensor.name))
    return built.model


def build_model(graph: Graph) -> onnx.ModelProto:
    """The graph as a model with its weights inside."""
    return with_weights(build_graph(graph))
