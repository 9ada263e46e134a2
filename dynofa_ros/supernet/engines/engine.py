"""Engines: what executes a materialised sub-network. Each is a function from Subnet to a callable."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

import numpy as np

from dynofa_ros.supernet.materialise import Subnet

ENGINES = ("onnxruntime", "torch", "openvino")


class EngineError(RuntimeError):
    """An engine that is unknown, not installed, or refuses the sub-network."""


class Runner(Protocol):
    """A prepared sub-network: float32 (N, 3, R, R) in, float32 logits (N, classes) out, both NumPy."""

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class Prepare(Protocol):
    """``prepare(subnet, threads, processor)``; processor None = the fastest that the engine finds."""

    def __call__(self, subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner: ...


def _module(name: str) -> Any:
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is unknown: choose one of {', '.join(ENGINES)}")
    if importlib.util.find_spec(name) is None:
        raise EngineError(f"engine {name!r} is not installed: pip install {name}, or choose another engine")
    return importlib.import_module(f"dynofa_ros.supernet.engines.{name}")


def load_engine(name: str) -> Prepare:
    """The ``prepare(subnet, threads, processor) -> Runner`` of an engine.

    A processor that the engine does not reach here is stood in for by the CPU: see ``require_processor``.
    Raises EngineError naming the choices.
    """
    prepare: Prepare = _module(name).prepare
    return prepare


def require_processor(name: str, processor: str) -> None:
    """Raises EngineError naming what there is if the engine does not reach ``processor`` on this machine."""
    reached: tuple[str, ...] = _module(name).processors()
    if processor not in reached:
        raise EngineError(
            f"engine {name} reaches no {processor} here, only {', '.join(reached)}: "
            "install a build of it for that processor, or choose another engine"
        )


def as_images(images: Any, resolution: int) -> np.ndarray:
    """Contiguous float32 NCHW of a tensor or array. Raises ValueError naming the shape that is expected."""
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if array.ndim != 4 or array.shape[1:] != (3, resolution, resolution):
        raise ValueError(
            f"images have shape {array.shape}: expected (N, 3, {resolution}, {resolution}) float32"
        )
    return np.ascontiguousarray(array, np.float32)
