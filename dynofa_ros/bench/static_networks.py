"""What the bench compares with: a sub-network deployed alone, and the official dynamic forward.

The static network is the official extracted one (``get_active_subnet``) where the package ``ofa`` is
installed, else the same layers as ordinary torch modules. Either is deployed as an expert would: batch
normalisation fused, torch's own activations, channels last; for other engines exported with torch.onnx.
"""

from __future__ import annotations

import collections.abc
import copy
import importlib
import io
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynofa_ros.supernet.engines.engine import ImageFunction
from dynofa_ros.supernet.layers import (
    Array,
    AveragePool,
    Classifier,
    Conv,
    GlobalPool,
    Layer,
    MaxPool,
    Op,
    Residual,
    Shape,
    SqueezeExcite,
)
from dynofa_ros.supernet.materialise import Subnet
from dynofa_ros.supernet.registry import EngineError, load_space
from dynofa_ros.supernet.space import SearchSpace

OPSET = 17
OFFICIAL = "ofa.imagenet_classification.elastic_nn.networks"
STATISTICS_BATCH = (4, 3, 160, 160)


@dataclass(frozen=True)
class Official:
    """The official supernet of a space with random weights and BN statistics of a batch of random images."""

    net: Any
    space: SearchSpace

    @property
    def extracts(self) -> bool:
        """Whether the official code makes a network of its own of a sub-network."""
        return hasattr(self.net, "get_active_subnet")

    def static(self, config: Any) -> nn.Module:
        """The extracted sub-network."""
        self._activate(self.net, config)
        return self.net.get_active_subnet(preserve_weight=True).eval()

    def dynamic(self, config: Any) -> ImageFunction:
        """The supernet's own forward with this sub-network active; all of them share the weights."""
        shared = {id(t): t for t in (*self.net.parameters(), *self.net.buffers())}
        net = copy.deepcopy(self.net, shared)
        self._activate(net, config)
        return torch_runner(net, torch.contiguous_format)

    def _activate(self, net: Any, config: Any) -> None:
        activate = net.set_active_subnet if self.extracts else net.set_sample_config  # of ofa, of AutoFormer
        activate(**self.space.official_entries(config))


def official_class(name: str) -> Any:
    """A class of the package ofa, or of another module on the path ("module:class"). Raises ImportError."""
    module, _, kind = name.rpartition(":")
    # removed from torch; AutoFormer's code asks it for container types
    sys.modules.setdefault("torch._six", types.SimpleNamespace(container_abcs=collections.abc))  # type: ignore[arg-type]
    return getattr(importlib.import_module(module or OFFICIAL), kind)


def official(space: str, seed: int = 0) -> Official | None:
    """The official supernet of a space; None if its code is not installed, or there is none."""
    declared = load_space(space)
    if declared.official_network is None:
        return None
    name, arguments = declared.official_network
    try:
        kind = official_class(name)
    except ImportError:
        return None
    torch.manual_seed(seed)
    net = kind(**arguments).requires_grad_(False)
    if not declared.batch_normalised:
        return Official(net.eval(), declared)
    net.set_max_net()
    normalisations = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in normalisations]
    for module in normalisations:
        module.momentum = 1.0
    net.train()
    with torch.no_grad():
        net(torch.randn(STATISTICS_BATCH))
    for module, momentum in zip(normalisations, momenta, strict=True):
        module.momentum = momentum
    return Official(net.eval(), declared)


def deployed(module: Any) -> nn.Module:
    """``module`` as a graph engine likes it best: every batch normalisation fused, and torch's own modules in
    place of the official activations and means."""
    children = dict(module.named_children())
    if isinstance(children.get("conv"), nn.Conv2d) and isinstance(children.get("bn"), nn.BatchNorm2d):
        module.conv = nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.bn)
        module.bn = nn.Identity()
    for name, child in module.named_children():
        own = REPLACEMENTS.get(type(child).__name__)
        setattr(module, name, own(child) if own else deployed(child))
    return module


def _pool(official_pool: Any) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    return pool if official_pool.keep_dim else nn.Sequential(pool, nn.Flatten())


def _gate(*layers: nn.Module) -> nn.Module:
    return _Gate(nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers, nn.Hardsigmoid(inplace=True)))


class _Gate(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


REPLACEMENTS: dict[str, Callable[[Any], nn.Module]] = {
    "Hswish": lambda _: nn.Hardswish(inplace=True),
    "MyGlobalAvgPool2d": _pool,
    "SEModule": lambda se: _gate(se.fc.reduce, nn.ReLU(inplace=True), se.fc.expand),
}


class _Residual(nn.Module):
    def __init__(self, layer: Residual, branches: tuple[tuple[Op, ...], ...]) -> None:
        super().__init__()
        self.body, self.shortcut = (nn.Sequential(*map(_module, ops)) for ops in branches)
        self.activation = _activation(layer.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


def _activation(name: str) -> nn.Module:
    modules = {"relu": nn.ReLU, "relu6": nn.ReLU6, "h_swish": nn.Hardswish}
    return modules[name](inplace=True) if name else nn.Identity()


def _parameter(array: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(array), requires_grad=False)


def _convolution(weight: Array, bias: Array | None, stride: int, groups: int, activation: str) -> nn.Module:
    outputs, inputs, kernel, _ = weight.shape
    conv = nn.Conv2d(
        inputs * groups, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias is not None
    )
    conv.weight = _parameter(weight)
    if bias is not None:
        conv.bias = _parameter(bias)
    return nn.Sequential(conv, _activation(activation))


def _squeeze_excite(a: dict[str, Array]) -> nn.Module:
    reduce = _convolution(a["reduce.weight"], a["reduce.bias"], 1, 1, "relu")
    return _gate(reduce, _convolution(a["expand.weight"], a["expand.bias"], 1, 1, ""))


def _linear(a: dict[str, Array]) -> nn.Module:
    linear = nn.Linear(a["weight"].shape[1], a["weight"].shape[0])
    linear.weight, linear.bias = _parameter(a["weight"]), _parameter(a["bias"])
    return nn.Sequential(nn.Flatten(), linear)


MODULES: dict[type[Layer], Callable[[Any, Op], nn.Module]] = {
    Conv: lambda layer, op: _convolution(
        op.arrays["weight"], op.arrays.get("bias"), layer.stride, layer.groups, layer.activation
    ),
    SqueezeExcite: lambda layer, op: _squeeze_excite(op.arrays),
    Residual: lambda layer, op: _Residual(layer, op.branches),
    MaxPool: lambda layer, op: nn.MaxPool2d(layer.kernel, layer.stride, layer.kernel // 2),
    AveragePool: lambda layer, op: nn.AvgPool2d(layer.stride, ceil_mode=True),
    GlobalPool: lambda layer, op: nn.AdaptiveAvgPool2d(1),
    Classifier: lambda layer, op: _linear(op.arrays),
}


class _Function(nn.Module):
    """A layer of another family: its torch forward on weights of its own."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        own = {name: torch.tensor(array) for name, array in op.arrays.items()}
        self.run = op.layer.forward(Op(op.layer, own), None)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def _module(op: Op) -> nn.Module:
    make = MODULES.get(type(op.layer))
    return make(op.layer, op) if make else _Function(op)


def plain(subnet: Subnet) -> nn.Module:
    """The sub-network's layers as ordinary torch modules."""
    return nn.Sequential(*map(_module, subnet.network.ops)).eval()


def _placed(module: Any, layout: torch.memory_format) -> Any:
    return module.to(memory_format=layout)  # its type hints do not know this argument alone


def torch_runner(module: nn.Module, layout: torch.memory_format = torch.channels_last) -> ImageFunction:
    """A module as a function of NumPy images, in eager torch on the CPU."""
    placed = _placed(module, layout)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return placed(torch.from_numpy(images).contiguous(memory_format=layout)).numpy()

    return run


def compiled(module: nn.Module) -> ImageFunction:
    """A module under torch.compile with frozen weights; the first call takes many seconds."""
    fast: Any = torch.compile(_placed(module, torch.channels_last), options={"freezing": True})
    return torch_runner(fast)


def exported(module: nn.Module, shape: Shape) -> bytes:
    """The module as an ONNX file, traced by torch."""
    file: Any = io.BytesIO()  # its type hints know only paths
    images = torch.zeros(1, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls this exporter the old one; the new one needs onnxscript
        torch.onnx.export(module, (images,), file, opset_version=OPSET, dynamo=False)
    return file.getvalue()


def onnxruntime_runner(model: bytes, threads: int) -> ImageFunction:
    """A session on the CPU with the settings of our engine."""
    import onnxruntime

    from dynofa_ros.supernet.engines.onnxruntime import choose_providers, session_options

    chosen = choose_providers("cpu", onnxruntime.get_available_providers())
    session = onnxruntime.InferenceSession(model, session_options(threads), providers=chosen)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino_runner(model: bytes, threads: int) -> ImageFunction:
    """A compiled OpenVINO model on the CPU."""
    import openvino

    core = openvino.Core()
    # by default it rounds to bfloat16 where the processor can: another network, 1 % off
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled_model = core.compile_model(core.read_model(model), "CPU", settings)
    return lambda images: compiled_model([images])[0]


GRAPH_ENGINES: dict[str, Callable[[bytes, int], ImageFunction]] = {
    "onnxruntime": onnxruntime_runner,
    "openvino": openvino_runner,
}


def static_runner(engine: str, network: Any, threads: int) -> ImageFunction:
    """A static network in an engine: a ``deployed`` module for torch, else what ``exported`` made of it.

    Raises EngineError for an engine without a static peer.
    """
    if engine == "torch":
        return torch_runner(network)
    if engine not in GRAPH_ENGINES:
        raise EngineError(f"engine {engine!r} has no static peer: choose torch, {', '.join(GRAPH_ENGINES)}")
    return GRAPH_ENGINES[engine](network, threads)
