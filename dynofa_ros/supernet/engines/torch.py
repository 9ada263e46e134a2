"""Reference engine: a materialised sub-network in torch, channels last, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynofa_ros.supernet.engines.engine import Engine
from dynofa_ros.supernet.graphs import Arrays, Chain, Compute, Graph, GraphRunner
from dynofa_ros.supernet.layers import Shape


def _graphed(network: Compute, input_shape: Shape, device: torch.device) -> Compute:
    """The network captured once as a CUDA graph for one image: a replay costs one launch instead of ~100."""
    held = torch.zeros(1, *input_shape, device=device).contiguous(memory_format=torch.channels_last)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    # capture needs a warm allocator and chosen algorithms, off the main stream
    with torch.cuda.stream(stream):
        for _ in range(3):
            network([held])
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # "thread_local": the network that answers frames meanwhile may allocate
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits = network([held])

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if inputs[0].shape[0] != 1:
            return network(inputs)
        held.copy_(inputs[0])
        graph.replay()
        return logits

    return run


class Torch(Engine):
    """Eager torch on the CPU, CUDA graphs on a GPU."""

    def processors(self) -> tuple[str, ...]:
        return ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)

    def prepare_graph(self, graph: Graph, threads: int, processor: str | None) -> GraphRunner:
        """On the CPU for processor "cpu", else on the CUDA device where there is one.

        ``threads`` > 0 sets torch's intra-op threads, a setting of the thread that runs the network.
        """
        device = torch.device("cuda" if processor != "cpu" and torch.cuda.is_available() else "cpu")
        # TensorFloat-32 would round the products to 10 bits: another network than on the CPU
        torch.backends.cudnn.allow_tf32 = False
        with torch.inference_mode():
            compute = graph.compute(lambda array: _tensor(array, device))
            if device.type == "cuda" and isinstance(graph, Chain):
                compute = _graphed(compute, graph.input_shape, device)

        def run(inputs: Arrays) -> Arrays:
            if threads > 0 and torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                found = compute([_on_device(inputs[value.name], device) for value in graph.inputs])
                values = zip(graph.outputs, found, strict=True)
                return {value.name: tensor.cpu().numpy() for value, tensor in values}

        return run


def _on_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.tensor(array, device=device)  # a copy: memory-mapped weights are read-only
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


ENGINE = Torch()
