"""Engines: what executes a materialised sub-network. Each is a function from Subnet to a callable."""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import numpy as np

from dynofa_ros.supernet.materialise import Subnet

ENGINES = ("onnxruntime", "torch")


class EngineError(RuntimeError):
    """An engine that is unknown, not installed, or refuses the sub-network."""


class Runner(Protocol):
    """A prepared sub-network: float32 (N, 3, R, R) in, float32 logits (N, classes) out, both NumPy."""

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class Prepare(Protocol):
    """``prepare(subnet, threads, processor)``; processor None = the fastest that the engine finds."""

    def __call__(self, subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner: ...


def load_engine(name: str) -> Prepare:
    """The ``prepare(subnet, threads) -> Runner`` of an engine. Raises EngineError naming the choices."""
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is unknown: choose one of {', '.join(ENGINES)}")
    if importlib.util.find_spec(name) is None:
        raise EngineError(f"engine {name!r} is not installed: pip install {name}, or choose another engine")
    if name == "torch":
        from dynofa_ros.supernet import engine_torch

        return engine_torch.prepare
    from dynofa_ros.supernet import engine_onnxruntime

    return engine_onnxruntime.prepare


def as_images(images: Any, resolution: int) -> np.ndarray:
    """Contiguous float32 NCHW of a tensor or array. Raises ValueError naming the shape that is expected."""
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if array.ndim != 4 or array.shape[1:] != (3, resolution, resolution):
        raise ValueError(
            f"images have shape {array.shape}: expected (N, 3, {resolution}, {resolution}) float32"
        )
    return np.ascontiguousarray(array, np.float32)
