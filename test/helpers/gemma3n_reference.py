"""What the recorded figures of the public Gemma 3n were made of: a tiny model, drawn weights, a prompt.

Layers are of all kinds: with and without a window, with keys of their own and with those of others, sparse
and not; the prompt and the output are longer than the window.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynofa_ros.supernet.families.gemma3n import Dimensions, Gemma3nConfig, Gemma3nSpace

WORDS, SEED, CONFIGS = 40, 17, 20  # configurations beside the largest and the smallest
FILE = Path(__file__).resolve().parents[1] / "data" / "gemma3n.npz"
PROMPT, TARGET = [2, 11, 7, 36, 9, 4, 30], [39, 8, 22, 5, 17, 6, 33, 12]  # the last words are not listed
GREEDY = 12  # tokens that are made
TINY = Dimensions(
    ffns=(16, 24, 32),
    layers=6,
    width=32,
    heads=4,
    key_heads=2,
    head_width=8,
    shared=3,
    period=3,
    window=4,
    copies=3,
    rank=4,
    per_layer=6,
    unlisted=4,
    sparse=2,
    sparsity=0.6,
)


class Space(Gemma3nSpace):
    """With a step that names the probability of every word."""

    input_sizes = (1, WORDS // 2)  # type: ignore[assignment]


SPACE = Space("gemma3n_tiny", TINY)


def weights() -> dict[str, np.ndarray]:
    """Every array of the model, by its public name."""
    rng = np.random.default_rng(SEED)
    drawn: dict[str, np.ndarray] = {}
    for name, shape in sorted(SPACE.parameter_shapes(WORDS).items()):
        array = rng.standard_normal(shape, np.float32)
        scale = 0.5 if len(shape) == 1 or "embed_tokens" in name else shape[1] ** -0.5
        drawn[name] = array * np.float32(scale) + np.float32("norm" in name)
    return drawn


def configurations() -> list[Gemma3nConfig]:
    """The largest, the smallest, and CONFIGS drawn ones, all with a beam of one."""
    rng = np.random.default_rng(SEED)
    found = [SPACE.largest, SPACE.smallest, *(SPACE.random(rng) for _ in range(CONFIGS))]
    return [SPACE.resized(config, beam=1) for config in found]
