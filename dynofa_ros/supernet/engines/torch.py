"""Reference engine: a materialised sub-network in torch, channels last, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from dynofa_ros.supernet.engines.engine import Runner
from dynofa_ros.supernet.layers import AveragePool, GlobalPool, MaxPool
from dynofa_ros.supernet.materialise import ConvOp, LinearOp, Op, ResidualOp, Subnet

Forward = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Forward] = {
    "": lambda x: x,
    "relu": functional.relu_,
    "relu6": lambda x: functional.relu6(x, inplace=True),
    "h_swish": lambda x: functional.hardswish(x, inplace=True),
}


def _sequence(ops: tuple[Op, ...], put: Callable[[Any], Any]) -> Forward:
    layers = [_forward(op, put) for op in ops]

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return run


def _forward(op: Op, put: Callable[[Any], Any]) -> Forward:
    """The operation as a function; ``put`` places an array on the device."""
    if isinstance(op, ConvOp):
        weight, bias, act = put(op.weight), put(op.bias), ACTIVATIONS[op.activation]
        stride, padding, groups = op.stride, op.weight.shape[-1] // 2, op.groups
        return lambda x: act(functional.conv2d(x, weight, bias, stride, padding, 1, groups))
    if isinstance(op, ResidualOp):
        body, shortcut = _sequence(op.ops, put), _sequence(op.shortcut, put)
        act = ACTIVATIONS[op.activation]
        return lambda x: act(body(x) + shortcut(x))
    if isinstance(op, MaxPool):
        kernel, step = op.kernel, op.stride
        return lambda x: functional.max_pool2d(x, kernel, step, kernel // 2)
    if isinstance(op, AveragePool):
        side = op.stride
        return lambda x: functional.avg_pool2d(x, side, ceil_mode=True)
    if isinstance(op, GlobalPool):
        return lambda x: x.mean((2, 3), keepdim=True)
    if isinstance(op, LinearOp):
        weight, bias = put(op.weight), put(op.bias)
        return lambda x: functional.linear(x.flatten(1), weight, bias)
    reduce, expand = (
        (put(op.reduce_weight), put(op.reduce_bias)),
        (put(op.expand_weight), put(op.expand_bias)),
    )

    def squeeze_excite(x: Tensor) -> Tensor:
        y = functional.relu_(functional.conv2d(x.mean((2, 3), keepdim=True), *reduce))
        return x * functional.hardsigmoid(functional.conv2d(y, *expand))

    return squeeze_excite


def _graphed(network: Forward, resolution: int, device: torch.device) -> Forward:
    """The network captured once as a CUDA graph for one image: a replay costs one launch instead of ~100."""
    held = torch.zeros(1, 3, resolution, resolution, device=device).contiguous(
        memory_format=torch.channels_last
    )
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(
        stream
    ):  # capture needs a warm allocator and chosen algorithms, off the main stream
        for _ in range(3):
            network(held)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # "thread_local": the network that answers frames meanwhile may allocate
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits = network(held)

    def run(x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            return network(x)
        held.copy_(x)
        graph.replay()
        return logits

    return run


def processors() -> tuple[str, ...]:
    """The processors that torch reaches on this machine."""
    return ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)


def prepare(subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
    """Put the sub-network on the CPU for processor "cpu", else on the CUDA device where there is one.

    ``threads`` > 0 sets torch's intra-op threads, which are a setting of the thread that runs the network.
    """
    device = torch.device("cuda" if processor != "cpu" and torch.cuda.is_available() else "cpu")
    # TensorFloat-32 would round the products to 10 bits: another network than on the CPU
    torch.backends.cudnn.allow_tf32 = False

    def put(array: np.ndarray | None) -> Tensor | None:
        if array is None:
            return None
        tensor = torch.tensor(array, device=device)  # a copy: memory-mapped weights are read-only
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    with torch.inference_mode():
        network = _sequence(subnet.ops, put)
        if device.type == "cuda":
            network = _graphed(network, subnet.resolution, device)

    def run(images: np.ndarray) -> np.ndarray:
        if threads > 0 and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            x = torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)
            return network(x).cpu().numpy()

    return run
