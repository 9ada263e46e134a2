"""A translating backbone of random weights with a tokenizer of its own, and its libraries: what tests answer
texts with. What it says is nonsense; how it says it is not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dynofa_ros.library.library import Entry, Latency, Library, save_library
from dynofa_ros.supernet.registry import load_space

SPACE = load_space("seq2seq_demo")
SPECIAL = ("<pad>", "</s>", "<unk>", "<de>", "<intent>")
LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'"
SIZES = ((2, 1, 192, 192, 1), (3, 2, 192, 384, 1), (4, 4, 768, 768, 1))  # depths, feed-forward widths, beam


def tokenizer() -> Tokenizer:
    """One token per letter."""
    words = {word: number for number, word in enumerate((*SPECIAL, *LETTERS))}
    made = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(list(SPECIAL))
    return made


def write_backbone(folder: Path, *, words: int | None = None) -> Path:
    """The file of the weights; ``words``: of the network, by default as many as the tokenizer has."""
    rng = np.random.default_rng(0)
    known = tokenizer()
    shapes = SPACE.parameter_shapes(known.get_vocab_size() if words is None else words)
    weights = {
        name: (rng.normal(0, 0.1, shape) + name.endswith("norm.weight")).astype(np.float16)
        for name, shape in shapes.items()
    }
    path = folder / "backbone.safetensors"
    save_file(weights, path, {"tokenizer": known.to_str()})
    return path


def write_library(folder: Path, target: str) -> Path:
    """Three sub-networks whose time is about 1, 2 and 4 ms and 0.1, 0.2 and 0.4 ms per token."""
    entries = []
    for number, (encoder, decoder, encoder_ffn, decoder_ffn, beam) in enumerate(SIZES):
        config = SPACE.config(
            encoder_depth=encoder,
            decoder_depth=decoder,
            encoder_ffn=encoder_ffn,
            decoder_ffn=decoder_ffn,
            beam=beam,
        )
        ms = 2.0 * 2**number
        entries.append(
            Entry(
                id=f"{target}{number}",
                config=config.to_dict(),
                accuracy=0.3 + 0.05 * number,
                accuracy_source="predicted",
                latency_ms=Latency(ms, 1.2 * ms),
                latency_source="predicted",
                alpha_ms=0.1 * ms,
                beta_ms=0.9 * ms,
                macs=1 + number,
                params=1 + number,
                fixed_share=0.5,
                reference_size=10.0,
            )
        )
    assert all(a.latency_ms.median < b.latency_ms.median for a, b in pairwise(entries))
    path = folder / f"{target}.yaml"
    metric = "exact match" if target == "intent" else "BLEU / 100"
    library = Library(1, "seq2seq_demo", None, "test", "cpu", {}, (), tuple(entries), accuracy_metric=metric)
    save_library(path, library)
    return path
