"""What the recorded figures of the official AutoFormer were made of: drawn weights, images, configurations.

Arrays are drawn by ``numpy.random.default_rng(seed)`` in the order of their sorted official names, each as
``standard_normal(shape, float32)`` times SCALES (first pattern that its name contains), norm weights plus 1;
matrices are divided by the root of their inputs. All biases are random: with those of a fresh network, zero,
a wrong bias would pass. What makes the first tokens is small, as in a trained network: the epsilon of the
first normalisations would not be seen otherwise.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, SEED, CONFIGS = 16, 7, 41  # configurations beside the largest, smallest and searched ones
FOLDER = Path(__file__).resolve().parents[1] / "data" / "autoformer"
SCALES = (
    ("norm", 0.2),
    ("embeddings_table", 0.5),
    ("patch_embed_super", 0.02),
    ("cls_token", 0.02),
    ("pos_embed", 0.02),
    ("bias", 0.5),
    ("weight", 1.0),
)
# the sub-networks that the authors found and published (experiments/subnet, RETRAIN)
SEARCHED: dict[str, dict[str, Any]] = {
    "autoformer_tiny": {
        "embed": 192,
        "depth": 13,
        "heads": [3] * 10 + [4, 3, 3, 3],
        "mlp_ratios": [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5, 3],
    },
    "autoformer_small": {
        "embed": 384,
        "depth": 13,
        "heads": [6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7, 5],
        "mlp_ratios": [3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4, 3],
    },
    "autoformer_base": {
        "embed": 576,
        "depth": 14,
        "heads": [9] * 5 + [10, 9, 9, 10, 9, 10, 9, 9, 10, 8, 8],
        "mlp_ratios": [3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5, 3, 3],
    },
}


def weights(space: Any) -> dict[str, np.ndarray]:
    """Every array of the supernet, by official name."""
    rng = np.random.default_rng(SEED)
    drawn = {}
    for name, shape in sorted(space.parameter_shapes(CLASSES).items()):
        scale = next(value for part, value in SCALES if part in name)
        if name.endswith("weight") and len(shape) > 1:
            scale /= prod(shape[1:]) ** 0.5
        array = rng.standard_normal(shape, np.float32) * np.float32(scale)
        drawn[name] = array + np.float32(1) if "norm.weight" in name else array
    return drawn


def images() -> np.ndarray:
    """Two images, float32 (2, 3, 224, 224): a colour each, blocks of 32 px, and noise."""
    rng = np.random.default_rng(SEED + 1)
    colour, blocks, noise = (
        rng.standard_normal((2, 3, side, side), np.float32).repeat(224 // side, 2).repeat(224 // side, 3)
        for side in (1, 7, 224)
    )
    return np.asarray(colour + blocks + noise)


def configurations(space: Any) -> list[Any]:
    """The largest, the smallest, the one that the authors found, and CONFIGS drawn ones."""
    rng = np.random.default_rng(SEED + 2)
    found = space.config(**SEARCHED[space.name])
    return [space.largest, space.smallest, found, *(space.random(rng) for _ in range(CONFIGS))]
