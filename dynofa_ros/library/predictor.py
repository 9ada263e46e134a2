"""Accuracy predictor: the top-1 accuracy of a sub-network from its description alone. NumPy only.

The one for `ofa_mbv3_w1.2` is the once-for-all project's (config/predictors/, MIT licence): a perceptron
128-400-400-400-1 on three one-hot groups,

    20 blocks x kernel 3, 5, 7  |  20 blocks x expansion 3, 4, 6  |  8 bins of 16 px from 112 px on

where a skipped block is all zero. Against measured ImageNet accuracy it promises 4.5 to 7 points too much:
it ranks sub-networks, and a library states how it was calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dynofa_ros.library.genomes import to_indices
from dynofa_ros.library.library import LibraryError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.space import SubnetConfig, load_space

SPACES = ("ofa_mbv3_w1.2",)
BLOCKS = 20
BIN_START_PX, BIN_PX, BINS = 112, 16, 8
LOWEST_PX, HIGHEST_PX = 160, 224  # below, it rates smaller images higher
FEATURES = 2 * 3 * BLOCKS + BINS
LAYERS = (0, 2, 4, 6)  # the official names; between them are the ReLUs


@dataclass(frozen=True)
class AccuracyPredictor:
    """``layers``: (weight (out, in), bias (out,)) of each layer, float32."""

    space: str
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def predict(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        """Top-1 accuracy (0..1) of each sub-network, shape (N,). Raises ValueError as `encode` does."""
        return self.predict_encoded(self.encode(configs))

    def predict_encoded(self, x: np.ndarray) -> np.ndarray:
        """Top-1 accuracy (0..1) of rows that `encode` or `encode_indices` made: (N, 128) -> (N,)."""
        *hidden, (weight, bias) = self.layers
        for inner, offset in hidden:
            x = np.maximum(x @ inner.T + offset, 0.0)
        return np.asarray(x @ weight.T + bias)[:, 0]

    def encode(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        """The network's input for each sub-network, (N, 128) float32.

        Every 16 px share a bin, so that 208 to 220 px are predicted alike.
        Raises ValueError naming the entry for a resolution below 160 px or above 224 px.
        """
        return self.encode_indices(*to_indices(load_space(self.space), configs))

    def encode_indices(
        self,
        resolution: np.ndarray,
        kernel_index: np.ndarray,
        expand_index: np.ndarray,
        active: np.ndarray,
    ) -> np.ndarray:
        """`encode` on arrays: resolution (N,) px, indices of the allowed values and active (N, 20).

        Raises ValueError as `encode` does.
        """
        refused = np.flatnonzero((resolution < LOWEST_PX) | (resolution > HIGHEST_PX))
        if refused.size:
            raise ValueError(
                f"resolution = {resolution[refused[0]]} (sub-network {refused[0]}): the accuracy predictor "
                f"of {self.space} holds for {LOWEST_PX} to {HIGHEST_PX} px only"
            )
        number = len(resolution)
        one_hot = np.eye(3, dtype=np.float32)
        mask = active[..., None].astype(np.float32)
        bins = np.eye(BINS, dtype=np.float32)[(resolution - BIN_START_PX) // BIN_PX]
        groups = (one_hot[kernel_index] * mask, one_hot[expand_index] * mask)
        return np.concatenate([*(g.reshape(number, 3 * BLOCKS) for g in groups), bins], axis=1)


def load_predictor(space_name: str) -> AccuracyPredictor:
    """The accuracy predictor of a search space.

    Raises LibraryError for a space that has none, saying what is possible, or for a damaged file.
    """
    if space_name not in SPACES:
        raise LibraryError(
            f"there is no accuracy predictor for {space_name} (only for {', '.join(SPACES)}): "
            "accuracy must come from images: give --images DIR"
        )
    name = f"{space_name}.safetensors"
    try:
        path = share_file("config", "predictors", name)
        arrays = load_file(path)
        layers = tuple((arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in LAYERS)
    except (OSError, SafetensorError, KeyError) as error:
        raise LibraryError(f"the accuracy predictor {name} cannot be read: {error}") from None
    return AccuracyPredictor(space_name, layers)
