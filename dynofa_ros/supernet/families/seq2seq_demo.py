"""The demo translator: an encoder-decoder with elastic depth and feed-forward width on both sides.

One backbone, several targets, chosen by the first token of the output. Depth runs a prefix of the layers,
width the first features of each feed-forward part. tools/train_seq2seq_demo.py trained the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dynofa_ros.supernet.builder import Array
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.registry import Family
from dynofa_ros.supernet.space import CLASSES, Config, Plan
from dynofa_ros.supernet.transformer_graphs import END, PAD, UNKNOWN, Size, sinusoids
from dynofa_ros.supernet.translating import TranslatorPlan, TranslatorSpace, beside

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
class Seq2SeqPlan(TranslatorPlan):
    """A sub-network. depths, ffns: of encoder and decoder."""

    depths: tuple[int, int]
    ffns: tuple[int, int]
    usual_tokens = USUAL_TOKENS

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
        heads = {
            f"{block}.{kind}": HEADS
            for block, _ in self._blocks()
            for kind in (("self", "cross") if block.startswith("decoder") else ("self",))
        }
        encoder, decoder = self.depths
        excluded = (PAD, UNKNOWN, *FIRST_TOKENS)
        return Size(WIDTH, heads, encoder, (1,) * decoder, self.words, END, excluded)

    def cut(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        own: dict[str, Array] = {}
        scale = (WIDTH // HEADS) ** -0.5
        for name, shape in self.stored().items():
            array = weights[name][tuple(map(slice, shape))]
            key, _, _ = name.rpartition(".")
            if array.ndim > 1 and key != "embedding":
                own[key] = array.T * (scale if key.endswith(".query") else 1)
            else:
                own[name] = array
        own["output"] = own.pop("embedding.weight")
        positions = sinusoids(WIDTH)
        for side in ("encoder", "decoder"):
            own |= {f"{side}.embedding": own["output"], f"{side}.positions": positions}
        for block, _ in self._blocks():
            parts = [own.pop(f"{block}.self.{part}") for part in ("query", "key", "value")]
            own[f"{block}.self.qkv"] = beside(parts)
        return own

    def products(self) -> Iterator[tuple[str, Shape, int | None]]:
        for name, shape in self.stored().items():
            read = name.startswith("encoder") or ".cross.key" in name or ".cross.value" in name
            yield name, shape, None if len(shape) == 1 else int(read)


class Seq2SeqSpace(TranslatorSpace):
    """The sub-networks of the demo translator."""

    name, input_sizes = NAME, BEAMS
    usual_tokens, first, end = USUAL_TOKENS, FIRST_TOKENS[0], END
    choices = {
        "encoder_depth": ((2, 3, 4),),
        "decoder_depth": ((1, 2, 3, 4),),
        "encoder_ffn": ((192, 384, 768),),
        "decoder_ffn": ((192, 384, 768),),
    }
    config_type, per_block = Seq2SeqConfig, ()
    head = "embedding.weight"

    def plan(self, config: Seq2SeqConfig, classes: int = CLASSES) -> Plan:
        depths = config.encoder_depth[0], config.decoder_depth[0]
        ffns = config.encoder_ffn[0], config.decoder_ffn[0]
        return Seq2SeqPlan((), (), 0.0, config.beam, classes, depths, ffns)

    def label(self, config: Seq2SeqConfig) -> str:
        return f"e{config.encoder_depth[0]}d{config.decoder_depth[0]}b{config.beam}"

    def describe(self, config: Seq2SeqConfig) -> dict[str, str]:
        return {
            "encoder": f"{config.encoder_depth[0]} x {config.encoder_ffn[0]}",
            "decoder": f"{config.decoder_depth[0]} x {config.decoder_ffn[0]}",
            "beam": str(config.beam),
        }


FAMILY = Family({NAME: Seq2SeqSpace})
