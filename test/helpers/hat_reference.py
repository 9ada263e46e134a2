"""What the recorded figures of the official HAT were made of: drawn weights, sentences, configurations.

Arrays are drawn as those of AutoFormer are (autoformer_reference.py), times SCALES; those of norms are drawn
around their scale. All biases are random: with those of a fresh network, zero, a wrong bias would pass. Some
norms are small, so that their epsilon is seen. Vocabularies are small; all else has the official size.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dynofa_ros.supernet.families.hat import END, PAD, SPACES, STORED_EMBED, HatConfig, HatSpace
from dynofa_ros.supernet.transformer_graphs import sinusoids

WORDS, SEED, CONFIGS = 32, 7, 40  # configurations beside the largest, the smallest and a published one
FOLDER = Path(__file__).resolve().parents[1] / "data" / "hat"
SOURCES = ([7, 12, 9, 30, 17, 21, 5, 2], [11, 4, 28, 12, 2])  # the end, 2, included
TARGET = [2, 11, 8, 19, 3, 17]  # begins with the end
MAX_LENGTH = 10  # tokens made, the end included
PENALTIES = (0.6, 1.0, 0.0, 1.8)  # of length, in turn; the authors evaluate with the first two
ENDING = 2.0  # how much the end's word looks like a late position, so that outputs end early, too
SCALES = (
    ("final_layer_norm.weight", 1.0),
    ("norm.weight", 0.1),
    ("norm.bias", 0.1),
    ("in_proj_bias", 0.5),
    ("fc1.bias", 0.5),
    ("bias", 0.05),
    ("embed_", 2.0),
    ("encoder_attn.out_proj", 0.1),
    ("fc1", 10.0),
    ("fc2", 0.1),
    ("", 1.0),
)
# sub-networks that the authors found and published (configs/*/subtransformer), spans as they are here
PUBLISHED: dict[str, dict[str, Any]] = {
    "hat_wmt14ende_space0": {  # raspberrypi@6.0s_bleu@28.2
        "encoder_embed": 512,
        "decoder_embed": 512,
        "decoder_depth": 4,
        "encoder_ffn": 3072,
        "decoder_ffn": [2048, 2048, 3072, 3072, 1024, 1024],
        "encoder_heads": [4, 4, 4, 8, 8, 4],
        "decoder_heads": [4, 8, 8, 4, 4, 4],
        "cross_heads": [4, 8, 8, 8, 4, 4],
        "spans": [1, 1, 2, 1, 1, 1],
        "beam": 4,
    },
    "hat_iwslt14deen_space1": {  # titanxp@109.0ms_bleu@34.5
        "encoder_embed": 512,
        "decoder_embed": 512,
        "decoder_depth": 3,
        "encoder_ffn": 1024,
        "decoder_ffn": [1024, 1024, 2048, 512, 512, 512],
        "encoder_heads": 4,
        "decoder_heads": 4,
        "cross_heads": 4,
        "spans": [3, 1, 1, 1, 1, 1],
        "beam": 5,
    },
}


def space(name: str) -> HatSpace:
    """With a small vocabulary on both sides."""
    trained = SPACES[name]
    return HatSpace(name, replace(trained, source_words=trained.source_words and WORDS + 8))


def weights(own: HatSpace) -> dict[str, np.ndarray]:
    """Every array of the supernet, by official name."""
    rng = np.random.default_rng(SEED)
    drawn: dict[str, np.ndarray] = {}
    for name, shape in sorted(own.parameter_shapes(WORDS).items()):
        scale = next(value for part, value in SCALES if part in name)
        if len(shape) > 1:
            scale /= prod(shape[1:]) ** 0.5
        array = rng.standard_normal(shape, np.float32)
        if "norm.weight" in name:
            array = np.float32(1) + np.float32(0.2) * array
        drawn[name] = array * np.float32(scale)
    rise = np.diff(sinusoids(STORED_EMBED, PAD + 1)[[0, MAX_LENGTH - 2]], axis=0)[0]
    head = "encoder.embed_tokens.weight" if own.trained.source_words is None else own.head
    drawn[head][END] += np.float32(ENDING / np.linalg.norm(rise)) * rise
    if own.trained.source_words is None:
        drawn["decoder.embed_tokens.weight"] = drawn["encoder.embed_tokens.weight"]  # tied
    return drawn


def configurations(own: HatSpace) -> list[HatConfig]:
    """The largest, the smallest, a published one, and CONFIGS drawn ones."""
    rng = np.random.default_rng(SEED + 2)
    published = own.config(**PUBLISHED[own.name])
    return [own.largest, own.smallest, published, *(own.random(rng) for _ in range(CONFIGS))]
