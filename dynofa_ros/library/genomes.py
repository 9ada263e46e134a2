"""Sub-networks as arrays of indices into what their search space allows, for batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynofa_ros.supernet.space import SearchSpace, SubnetConfig


class Indices(NamedTuple):
    """N sub-networks with B blocks: kernel and expansion as positions among the allowed values."""

    resolution: np.ndarray  # (N,) px
    kernel: np.ndarray  # (N, B)
    expand: np.ndarray  # (N, B)
    active: np.ndarray  # (N, B) bool: False for a block that depth skips


def to_indices(space: SearchSpace, configs: Sequence[SubnetConfig]) -> Indices:
    """The arrays of checked configurations of a space with elastic kernel and expansion."""
    kernels, expands = space.choices["kernel_sizes"], space.choices["expand_ratios"]
    shape = (len(configs), len(kernels))
    return Indices(
        np.array([c.resolution for c in configs], np.int64),
        np.searchsorted(kernels[0], np.array([c.kernel_sizes for c in configs]).reshape(shape)),
        np.searchsorted(expands[0], np.array([c.expand_ratios for c in configs]).reshape(shape)),
        np.array([space.active_blocks(c) for c in configs], bool).reshape(shape),
    )
