"""The demo translator: an encoder-decoder with elastic depth and feed-forward width on both sides.

One backbone, several targets, chosen by the first token of the output. Depth runs a prefix of the layers,
width the first features of each feed-forward part. The beam is part of a sub-network: it is one of the ways
in which time is traded for quality. tools/train_seq2seq_demo.py trained the weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynofa_ros.supernet.builder import Array
from dynofa_ros.supernet.graphs import Graph
from dynofa_ros.supernet.layers import Cost, Layer, Shape
from dynofa_ros.supernet.registry import Family, register_family
from dynofa_ros.supernet.space import CLASSES, Config, Plan, SearchSpace, Statistics
from dynofa_ros.supernet.transformer_graphs import END, Size, graphs, sinusoids
from dynofa_ros.supernet.transformer_layers import Linear

if TYPE_CHECKING:
    from dynofa_ros.supernet.graphs import Runner

NAME = "seq2seq_demo"
WIDTH, HEADS = 192, 6
BEAMS = (1, 2, 4)
FIRST_TOKENS = (3, 4)  # behind padding, end and unknown
USUAL_TOKENS = 10  # of a sentence, its end included


class Seq2SeqConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A sub-network; one number each."""

    beam: int
    encoder_depth: tuple[int, ...]
    decoder_depth: tuple[int, ...]
    encoder_ffn: tuple[int, ...]
    decoder_ffn: tuple[int, ...]


@dataclass(frozen=True)
class Seq2SeqPlan(Plan):
    """A sub-network with a vocabulary of ``words``."""

    depths: tuple[int, int]  # of encoder and decoder
    ffns: tuple[int, int]
    beam: int
    words: int

    def _blocks(self) -> list[tuple[str, int]]:
        """Key and feed-forward width of every layer."""
        sides = zip(("encoder", "decoder"), self.depths, self.ffns, strict=True)
        return [(f"{side}.{i}", ffn) for side, depth, ffn in sides for i in range(depth)]

    def stored(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"embedding.weight": (self.words, WIDTH)}

        def norm(key: str) -> None:
            shapes.update({f"{key}.weight": (WIDTH,), f"{key}.bias": (WIDTH,)})

        for block, ffn in self._blocks():
            for attention in ("self", "cross") if block.startswith("decoder") else ("self",):
                norm(f"{block}.{attention}_norm")
                parts = ("query", "key", "value", "out")
                shapes |= {f"{block}.{attention}.{part}.weight": (WIDTH, WIDTH) for part in parts}
            norm(f"{block}.ffn_norm")
            shapes |= {f"{block}.fc1.weight": (ffn, WIDTH), f"{block}.fc1.bias": (ffn,)}
            shapes |= {f"{block}.fc2.weight": (WIDTH, ffn), f"{block}.fc2.bias": (WIDTH,)}
        norm("encoder.norm")
        norm("decoder.norm")
        return shapes

    @property
    def size(self) -> Size:
        return Size(WIDTH, HEADS, *self.depths, self.words, FIRST_TOKENS)

    def cut(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Its part of the weights, NumPy or torch, as ``transformer_graphs`` wants it."""
        own: dict[str, Array] = {"positions": sinusoids(WIDTH)}
        scale = (WIDTH // HEADS) ** -0.5
        for name, shape in self.stored().items():
            own[name] = array = weights[name][tuple(map(slice, shape))]
            key, _, kind = name.rpartition(".")
            if array.ndim > 1 and key != "embedding":
                product = own.pop(name).T * (scale if key.endswith(".query") else 1)
                own[name if ".fc" in key else key] = product
        for block, _ in self._blocks():
            parts = [own.pop(f"{block}.self.{part}") for part in ("query", "key", "value")]
            own[f"{block}.self.qkv"] = _beside(parts)
        return own

    def graphs(self, weights: Mapping[str, np.ndarray], statistics: Statistics) -> dict[str, Graph]:
        cut = {n: np.ascontiguousarray(a, np.float32) for n, a in self.cut(weights).items()}
        return graphs(self.size, cut, self.beam)

    def costs(self) -> Iterator[tuple[Layer, Cost, Shape]]:
        """Of a usual sentence, without the scores of attention: for every array what its products take."""
        for name, shape in self.stored().items():
            size = int(np.prod(shape))
            layer = Linear(name.rpartition(".")[0], shape[-1], shape[0])
            if len(shape) == 1:
                yield layer, Cost(params=size, nodes=0), (0,)
            elif name.startswith("encoder") or ".cross.key" in name or ".cross.value" in name:
                written = USUAL_TOKENS, shape[0]
                yield layer, Cost(USUAL_TOKENS * size, size, size, 1, "pointwise"), written
            else:  # one product for every token: weights are read anew, whatever the beam
                rows = USUAL_TOKENS * self.beam
                weights = USUAL_TOKENS * size
                yield layer, Cost(rows * size, size, weights, USUAL_TOKENS, "dense"), (rows, shape[0])


def _beside(parts: list[Array]) -> Array:
    """Matrices beside each other; those of training are torch's."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, 1)
    import torch

    return torch.cat(parts, 1)


class Seq2SeqSpace(SearchSpace):
    """The sub-networks of the demo translator. Their beam stands where others have the size of an image."""

    name, task, input_sizes, size_entry = NAME, "translation", BEAMS, "beam"
    choices = {
        "encoder_depth": ((2, 3, 4),),
        "decoder_depth": ((1, 2, 3, 4),),
        "encoder_ffn": ((192, 384, 768),),
        "decoder_ffn": ((192, 384, 768),),
    }
    config_type, per_block, independent_blocks = Seq2SeqConfig, (), False
    sizes = (USUAL_TOKENS // 2, USUAL_TOKENS, 2 * USUAL_TOKENS)
    head = "embedding.weight"

    def active(self, genes: np.ndarray) -> np.ndarray:
        return np.zeros((len(genes), 0), bool)

    def layers(self, config: Seq2SeqConfig, classes: int) -> list[Layer]:
        return []

    def plan(self, config: Seq2SeqConfig, classes: int = CLASSES) -> Plan:
        depths = config.encoder_depth[0], config.decoder_depth[0]
        ffns = config.encoder_ffn[0], config.decoder_ffn[0]
        return Seq2SeqPlan((), (), 0.0, depths, ffns, config.beam, classes)

    def label(self, config: Seq2SeqConfig) -> str:
        return f"e{config.encoder_depth[0]}d{config.decoder_depth[0]}b{config.beam}"

    def describe(self, config: Seq2SeqConfig) -> dict[str, str]:
        return {
            "encoder": f"{config.encoder_depth[0]} x {config.encoder_ffn[0]}",
            "decoder": f"{config.decoder_depth[0]} x {config.decoder_ffn[0]}",
            "beam": str(config.beam),
        }

    def exercise(self, run: Runner, config: Seq2SeqConfig, size: int | None = None) -> None:
        """A sentence of ``size`` tokens to as many, both with their end."""
        from dynofa_ros.supernet.decoding import generate

        length = size or USUAL_TOKENS
        source = [*range(5, 4 + length), END]
        deque(generate(run, source, FIRST_TOKENS[0], min_length=length, max_length=length), 0)


@register_family
class Seq2SeqDemo(Family):
    """The space of the translator that is part of the package."""

    spaces, official = NAME, ()

    def space(self, name: str) -> SearchSpace | None:
        return Seq2SeqSpace() if name == NAME else None
