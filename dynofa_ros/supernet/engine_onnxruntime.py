"""ONNX Runtime engine: the graph is written node by node from the materialised sub-network, not traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from dynofa_ros.supernet.engines import EngineError, Runner
from dynofa_ros.supernet.materialise import (
    ConvOp,
    GlobalPoolOp,
    LinearOp,
    Op,
    ResidualOp,
    SqueezeExciteOp,
    Subnet,
)

OPSET, IR_VERSION = 17, 8  # HardSwish is an operator since 14; both are known to ONNX Runtime 1.12 and later
PROVIDERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("CUDAExecutionProvider", {"use_tf32": "0"}),  # TF32 rounds products to 10 bits
    ("CPUExecutionProvider", {}),
)


class _Graph:
    """Nodes and initialisers, growing at the end."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def activation(self, x: str, name: str) -> str:
        if name == "h_swish":
            return self.node("HardSwish", x)
        return self.node("Relu", x) if name == "relu" else x

    def conv(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1, groups: int = 1
    ) -> str:
        kernel = weight.shape[-1]
        inputs = [x, self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        shape = {
            "kernel_shape": [kernel] * 2,
            "pads": [kernel // 2] * 4,
            "strides": [stride] * 2,
            "group": groups,
        }
        return self.node("Conv", *inputs, **shape)

    def append(self, x: str, op: Op) -> str:
        """Add one operation on the value named ``x``; returns the name of its result."""
        if isinstance(op, ConvOp):
            return self.activation(self.conv(x, op.weight, op.bias, op.stride, op.groups), op.activation)
        if isinstance(op, SqueezeExciteOp):
            y = self.conv(self.node("GlobalAveragePool", x), op.reduce_weight, op.reduce_bias)
            y = self.conv(self.node("Relu", y), op.expand_weight, op.expand_bias)
            return self.node("Mul", x, self.node("HardSigmoid", y, alpha=1 / 6, beta=0.5))
        if isinstance(op, ResidualOp):
            y = x
            for inner in op.ops:
                y = self.append(y, inner)
            return self.node("Add", y, x)
        if isinstance(op, GlobalPoolOp):
            return self.node("GlobalAveragePool", x)
        assert isinstance(op, LinearOp)
        flat = self.node("Flatten", x)
        return self.node("Gemm", flat, self.constant(op.weight), self.constant(op.bias), transB=1)


def build_model(subnet: Subnet) -> onnx.ModelProto:
    """The ONNX model of a sub-network: input ``images`` (N, 3, R, R), output ``logits`` (N, classes)."""
    graph, x = _Graph(), "images"
    for op in subnet.ops:
        x = graph.append(x, op)
    graph.nodes[-1].output[0] = "logits"
    last = subnet.ops[-1]
    assert isinstance(last, LinearOp)
    float32 = onnx.TensorProto.FLOAT
    images = helper.make_tensor_value_info("images", float32, ["N", 3, subnet.resolution, subnet.resolution])
    logits = helper.make_tensor_value_info("logits", float32, ["N", last.weight.shape[0]])
    body = helper.make_graph(graph.nodes, "subnet", [images], [logits], graph.initialisers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def prepare(subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
    """An inference session with ``threads`` intra-op threads (0 = 1).

    On the CPU for processor "cpu", else on the best provider present.

    Raises EngineError with ONNX Runtime's reason.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # waiting threads would spin on cores that the robot's other nodes need
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    providers = [p for p in PROVIDERS[-1 if processor == "cpu" else 0 :] if p[0] in available]
    try:
        session = onnxruntime.InferenceSession(
            build_model(subnet).SerializeToString(), options, providers=providers
        )
    except Exception as error:  # the runtime raises its own unrelated exception types
        raise EngineError(f"onnxruntime refused the sub-network: {error}") from error
    return lambda images: session.run(["logits"], {"images": images})[0]
