"""Reference engine: a materialised sub-network in eager torch, channels last, on the CPU or a CUDA device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from dynofa_ros.supernet.engines import Runner
from dynofa_ros.supernet.materialise import ConvOp, GlobalPoolOp, LinearOp, Op, ResidualOp, Subnet

ACTIVATIONS = {
    "": lambda x: x,
    "relu": functional.relu_,
    "h_swish": lambda x: functional.hardswish(x, inplace=True),
}


def _tensor(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    if array is None:
        return None
    tensor = torch.tensor(array, device=device)  # a copy: memory-mapped weights are read-only
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class _Op(torch.nn.Module):
    """One operation with its weights on the device."""

    # buffers; an operation registers those that it has
    weight: Tensor
    bias: Tensor | None
    reduce_weight: Tensor
    reduce_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor

    def __init__(self, op: Op, device: torch.device) -> None:
        super().__init__()
        self.op = op
        for name, value in vars(op).items():
            if isinstance(value, np.ndarray) or value is None:
                self.register_buffer(name, _tensor(value, device))
        self.inner = (
            torch.nn.ModuleList(_Op(o, device) for o in op.ops) if isinstance(op, ResidualOp) else None
        )

    def forward(self, x: Tensor) -> Tensor:
        op = self.op
        if isinstance(op, ConvOp):
            y = functional.conv2d(
                x, self.weight, self.bias, op.stride, op.weight.shape[-1] // 2, 1, op.groups
            )
            return ACTIVATIONS[op.activation](y)
        if isinstance(op, ResidualOp):
            y = x
            for inner in self.inner or ():
                y = inner(y)
            return y + x
        if isinstance(op, GlobalPoolOp):
            return x.mean((2, 3), keepdim=True)
        if isinstance(op, LinearOp):
            return functional.linear(x.flatten(1), self.weight, self.bias)
        y = functional.conv2d(x.mean((2, 3), keepdim=True), self.reduce_weight, self.reduce_bias)
        y = functional.conv2d(functional.relu_(y), self.expand_weight, self.expand_bias)
        return x * functional.hardsigmoid(y)


def prepare(subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
    """Put the sub-network on the CPU for processor "cpu", else on the CUDA device where there is one.

    ``threads`` > 0 sets torch's intra-op threads, which are one setting per process.
    """
    device = torch.device("cuda" if processor != "cpu" and torch.cuda.is_available() else "cpu")
    if threads > 0:
        torch.set_num_threads(threads)
    network = torch.nn.Sequential(*(_Op(op, device) for op in subnet.ops)).eval()

    def run(images: np.ndarray) -> np.ndarray:
        # TensorFloat-32 would round the products to 10 bits: another network than on the CPU
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            x = torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)
            return network(x).cpu().numpy()

    return run
