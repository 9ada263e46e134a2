"""Everything between a plan and a network that answers its first frame as fast as its hundredth."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from dynofa_ros.supernet.engines.engine import Prepare
from dynofa_ros.supernet.materialise import Statistics, materialise
from dynofa_ros.supernet.plan import Plan
from dynofa_ros.supernet.switching import Key, Prepared
from dynofa_ros.supernet.weights import Weights

# ONNX Runtime learns in its first run how much memory the network needs, and asks for it in the second.
WARM_UP_RUNS = 2


def prepare_subnet(
    key: Key,
    plan: Plan,
    weights: Weights,
    engine: Prepare,
    *,
    statistics: Statistics | None = None,
    threads: int = 1,
    processor: str | None = None,
    warm_up_input: Callable[[Prepared[Key]], Any] | None = None,
) -> Prepared[Key]:
    """Cut a sub-network out of the weights, hand it to the engine, run it until it is warm.

    warm_up_input: what it is run with; None = an image.
    Raises ValueError (statistics of another width) or EngineError.
    """
    subnet = materialise(plan, weights, statistics)
    weights.release()
    prepared = Prepared(key, engine(subnet, threads, processor), plan.resolution, subnet.nbytes)
    if warm_up_input is None:
        tensors = np.zeros((1, 3, plan.resolution, plan.resolution), np.float32)
    else:
        tensors = warm_up_input(prepared)
    for _ in range(WARM_UP_RUNS):
        prepared.run(tensors)
    trim_memory()
    return prepared


def trim_memory() -> None:
    """Give memory that was freed back to the system; glibc would keep what an engine needed to start."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
