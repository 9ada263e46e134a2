"""What the recorded figures of the official RF-DETR were made of: drawn weights, images, configurations.

Most are of a reduced model, which has the official number of blocks and all parts at a fraction of their
widths, some of the nano in full size. Arrays are drawn as those of AutoFormer are (autoformer_reference.py),
times SCALES; those of norms and of layer scales around their means. All biases are random: with those of a
fresh network, zero, a wrong bias would pass.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from dynofa_ros.supernet.families.rfdetr import SPACES, RfDetrConfig, RfDetrSpace, Trained

CLASSES, SEED, IMAGES = 6, 7, 2
EVERY = 5  # every how manieth query is kept
FILE = Path(__file__).resolve().parents[1] / "data" / "rfdetr.npz"
REDUCED = Trained(
    side=256, layers=3, width=48, heads=3, hidden=32, feed_forward=64, self_heads=4, cross_heads=8, groups=2
)
TRAINED = {"reduced": REDUCED, "nano": SPACES["rfdetr_nano"]}
# (input px, queries, windows); each with all numbers of layers of the decoder
RUNS = {
    "reduced": [(192, 300, 2), (256, 100, 1), (256, 200, 4), (320, 300, 1), (384, 100, 2), (384, 300, 4)],
    "nano": [(192, 100, 2), (256, 300, 4)],
}
SCALES = (
    ("enc_output.", 0.02),  # small, so that the epsilon of what follows is seen
    ("norm", 0.2),
    (".bn.", 0.2),
    ("stages.0.1.", 0.2),
    ("lambda1", 0.2),
    ("embeddings", 0.3),
    ("refpoint_embed", 0.1),
    ("layers.2.weight", 0.3),
    ("class_embed", 2.0),
    ("bias", 0.2),
    ("", 1.0),
)
MEANS = (("lambda1", 0.5), ("norm", 1.0), ("bn.weight", 1.0), ("stages.0.1.weight", 1.0))


def space(name: str) -> RfDetrSpace:
    return RfDetrSpace(name, TRAINED[name])


def weights(own: RfDetrSpace, classes: int = CLASSES) -> dict[str, np.ndarray]:
    """Every array of the supernet, by official name."""
    rng = np.random.default_rng(SEED)
    drawn: dict[str, np.ndarray] = {}
    for name, shape in sorted(own.parameter_shapes(classes).items()):
        scale = next(value for part, value in SCALES if part in name)
        if name.endswith("weight") and len(shape) > 1 and "embed.weight" not in name:
            scale /= prod(shape[1:]) ** 0.5
        mean = next((value for part, value in MEANS if part in name and not name.endswith("bias")), 0.0)
        drawn[name] = rng.standard_normal(shape, np.float32) * np.float32(scale) + np.float32(mean)
    return drawn


def images(side: int) -> np.ndarray:
    """Float32 (IMAGES, 3, side, side)."""
    return np.random.default_rng(SEED + side).standard_normal((IMAGES, 3, side, side), np.float32)


def configurations(own: RfDetrSpace) -> list[RfDetrConfig]:
    """Those of RUNS, in the order of the file."""
    return [
        own.config(resolution=side, queries=queries, windows=windows, decoder_layers=layers)
        for side, queries, windows in RUNS[own.name]
        for layers in range(1, own.trained.layers + 1)
    ]
