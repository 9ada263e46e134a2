"""Translating Transformers of HAT (Wang et al., ACL 2020): WMT'14 En-De (space0), IWSLT'14 De-En (space1).

Facts are those of mit-han-lab/hardware-aware-transformers, fairseq/models/transformer_super.py. Embeddings
run the first features, each side its own number; feed-forward parts the first features, depth the first
layers of the decoder. Queries, keys and values always have 512 features, which the heads divide among them. A
layer of the decoder looks at the last one, two or three layers of the encoder, one after the other in time:
spans 1, 2 and 3 are the official -1, 1 and 2. What a layer adds is normalised after it, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from dynofa_ros.supernet.builder import Array
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.registry import Family
from dynofa_ros.supernet.space import CLASSES, Config, Plan
from dynofa_ros.supernet.transformer_graphs import Size, sinusoids
from dynofa_ros.supernet.translating import TranslatorPlan, TranslatorSpace, beside

PAD, END = 1, 2  # token ids of fairseq; an output begins with the end, too
LAYERS, STORED_EMBED, QKV = 6, 640, 512
EMBEDS, SPANS = (512, 640), (1, 2, 3)
BEAMS = (1, 2, 4, 5)
USUAL_TOKENS = 30  # of a sentence in the authors' latency measurements
BUFFERS = ("version", "embed_positions._float_tensor")  # stored by fairseq, of no use here
NORMS = {"self_attn_layer_norm": "self_norm", "encoder_attn_layer_norm": "cross_norm"}
NORMS |= {"final_layer_norm": "ffn_norm"}


@dataclass(frozen=True)
class Trained:
    """What differs between the supernets. source_words: of the source's own vocabulary; None = both sides
    have one vocabulary and one embedding, which gives the words, too."""

    ffns: tuple[int, ...]
    heads: tuple[int, ...]
    source_words: int | None


SPACES = {
    "hat_wmt14ende_space0": Trained((1024, 2048, 3072), (4, 8), None),
    "hat_iwslt14deen_space1": Trained((512, 1024, 2048), (2, 4), 8848),
}


class HatConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A sub-network. Depth and embeddings are one number, the others per layer; those of skipped layers have
    no effect."""

    beam: int
    encoder_embed: tuple[int, ...]
    decoder_embed: tuple[int, ...]
    decoder_depth: tuple[int, ...]
    encoder_ffn: tuple[int, ...]
    decoder_ffn: tuple[int, ...]
    encoder_heads: tuple[int, ...]
    decoder_heads: tuple[int, ...]
    cross_heads: tuple[int, ...]
    spans: tuple[int, ...]


@dataclass(frozen=True)
class HatPlan(TranslatorPlan):
    """A sub-network."""

    config: HatConfig
    source_words: int | None
    usual_tokens = USUAL_TOKENS

    @property
    def embeds(self) -> dict[str, int]:
        return {"encoder": self.config.encoder_embed[0], "decoder": self.config.decoder_embed[0]}

    def _layers(self) -> Iterator[tuple[str, int, str, int]]:
        """Side, number, official key and feed-forward width of every layer."""
        depth = self.config.decoder_depth[0]
        widths = {"encoder": self.config.encoder_ffn, "decoder": self.config.decoder_ffn[:depth]}
        for side, ffns in widths.items():
            for i, ffn in enumerate(ffns):
                yield side, i, f"{side}.layers.{i}", ffn

    def stored(self) -> dict[str, Shape]:
        """Without what fairseq stores beside the weights. Of attention to the encoder, queries use the first
        columns by the embedding of the decoder, keys and values by that of the encoder."""
        embeds, shapes = self.embeds, dict[str, Shape]()
        for side, embed in embeds.items():
            words = self.source_words if side == "encoder" and self.source_words else self.words
            shapes[f"{side}.embed_tokens.weight"] = words, embed
        if self.source_words:
            shapes["decoder.embed_out"] = self.words, embeds["decoder"]
        for side, _, key, ffn in self._layers():
            embed = embeds[side]
            shapes[f"{key}.fc1.weight"], shapes[f"{key}.fc1.bias"] = (ffn, embed), (ffn,)
            shapes[f"{key}.fc2.weight"], shapes[f"{key}.fc2.bias"] = (embed, ffn), (embed,)
            inputs = {"self_attn": embed}
            if side == "decoder":
                inputs["encoder_attn"] = max(embeds.values())
            for norm in (*(f"{name}_layer_norm" for name in inputs), "final_layer_norm"):
                shapes |= {f"{key}.{norm}.weight": (embed,), f"{key}.{norm}.bias": (embed,)}
            for name, columns in inputs.items():
                shapes[f"{key}.{name}.in_proj_weight"] = 3 * QKV, columns
                shapes[f"{key}.{name}.in_proj_bias"] = (3 * QKV,)
                shapes[f"{key}.{name}.out_proj.weight"] = embed, QKV
                shapes[f"{key}.{name}.out_proj.bias"] = (embed,)
        return shapes

    @property
    def size(self) -> Size:
        heads = {f"encoder.{i}.self": n for i, n in enumerate(self.config.encoder_heads)}
        heads |= {f"decoder.{i}.self": n for i, n in enumerate(self.config.decoder_heads)}
        heads |= {f"decoder.{i}.cross": n for i, n in enumerate(self.config.cross_heads)}
        spans = self.config.spans[: self.config.decoder_depth[0]]
        return Size(QKV, heads, LAYERS, spans, self.words, END, unchosen=(PAD,), post_norm=True)

    def cut(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        embeds, size, own = self.embeds, self.size, dict[str, Array]()
        for side, embed in embeds.items():
            # those of the widest sub-network, cut: not the sinusoids of the embedding's own width
            own[f"{side}.positions"] = sinusoids(STORED_EMBED, PAD + 1)[:, :embed]
            own[f"{side}.embedding"] = weights[f"{side}.embed_tokens.weight"][:, :embed]
        if self.source_words:
            own["output"] = weights["decoder.embed_out"][:, : embeds["decoder"]]
        else:
            own["output"] = own["decoder.embedding"]
        if len(set(embeds.values())) == 1:
            own["encoder.positions"] = own["decoder.positions"]
            if not self.source_words:
                own["encoder.embedding"] = own["output"]
        for side, i, key, ffn in self._layers():
            block, embed = f"{side}.{i}", embeds[side]
            own |= _linear(weights, f"{key}.fc1", f"{block}.fc1", embed, ffn)
            own |= _linear(weights, f"{key}.fc2", f"{block}.fc2", ffn, embed)
            own |= _linear(weights, f"{key}.self_attn.out_proj", f"{block}.self.out", QKV, embed)
            query, *others = _thirds(weights, f"{key}.self_attn", [embed] * 3, size.heads[f"{block}.self"])
            merged = (beside(list(parts)) for parts in zip(query, *others, strict=True))
            own[f"{block}.self.qkv"], own[f"{block}.self.qkv.bias"] = merged
            if side == "decoder":
                own |= _linear(weights, f"{key}.encoder_attn.out_proj", f"{block}.cross.out", QKV, embed)
                inputs = [embed, embeds["encoder"], embeds["encoder"]]
                cross = _thirds(weights, f"{key}.encoder_attn", inputs, size.heads[f"{block}.cross"])
                for name, (weight, bias) in zip(("query", "key", "value"), cross, strict=True):
                    own |= {f"{block}.cross.{name}": weight, f"{block}.cross.{name}.bias": bias}
            for official, name in NORMS.items():
                for kind in ("weight", "bias"):
                    if f"{key}.{official}.{kind}" in weights:
                        own[f"{block}.{name}.{kind}"] = weights[f"{key}.{official}.{kind}"][:embed]
        return own

    def products(self) -> Iterator[tuple[str, Shape, int | None]]:
        """Queries of attention to the encoder use columns by the embedding of the decoder, keys and values by
        that of the encoder; what tied embeddings share counts once."""
        encoder, decoder = self.embeds.values()
        for name, shape in self.stored().items():
            side, _, rest = name.partition(".")
            if rest == "embed_tokens.weight" and not self.source_words:
                beyond = (self.words, max(0, encoder - decoder))
                yield (name, beyond, None) if side == "encoder" else (name, shape, 0)
            elif rest.endswith("encoder_attn.in_proj_weight"):
                yield name, (QKV, decoder), 0
                yield name, (2 * QKV, encoder), self.config.spans[int(rest.split(".")[1])]
            elif len(shape) == 1 or rest == "embed_tokens.weight":
                yield name, shape, None
            else:
                yield name, shape, int(side == "encoder")


def _linear(weights: Mapping[str, Array], key: str, name: str, inputs: int, outputs: int) -> dict[str, Array]:
    weight, bias = weights[f"{key}.weight"][:outputs, :inputs].T, weights[f"{key}.bias"][:outputs]
    return {name: weight, f"{name}.bias": bias}


def _thirds(
    weights: Mapping[str, Array], key: str, inputs: list[int], heads: int
) -> list[tuple[Array, Array]]:
    """Weight and bias of query, key and value with so many inputs; the query's with attention's scale."""
    weight, bias = weights[f"{key}.in_proj_weight"], weights[f"{key}.in_proj_bias"]
    rows = [slice(third * QKV, (third + 1) * QKV) for third in range(3)]
    found = [(weight[own, :columns].T, bias[own]) for own, columns in zip(rows, inputs, strict=True)]
    scale = (QKV // heads) ** -0.5
    return [(found[0][0] * scale, found[0][1] * scale), *found[1:]]


class HatSpace(TranslatorSpace):
    """The sub-networks of one supernet."""

    config_type, input_sizes = HatConfig, BEAMS
    per_block = ("decoder_ffn", "decoder_heads", "cross_heads", "spans")
    usual_tokens, first, end = USUAL_TOKENS, END, END

    def __init__(self, name: str, trained: Trained) -> None:
        self.name, self.trained = name, trained
        self.head = "decoder.embed_out" if trained.source_words else "decoder.embed_tokens.weight"
        self.choices = {
            "encoder_embed": (EMBEDS,),
            "decoder_embed": (EMBEDS,),
            "decoder_depth": (tuple(range(1, LAYERS + 1)),),
            "encoder_ffn": (trained.ffns,) * LAYERS,
            "decoder_ffn": (trained.ffns,) * LAYERS,
            "encoder_heads": (trained.heads,) * LAYERS,
            "decoder_heads": (trained.heads,) * LAYERS,
            "cross_heads": (trained.heads,) * LAYERS,
            "spans": (SPANS,) * LAYERS,
        }

    def active(self, genes: np.ndarray) -> np.ndarray:
        return np.asarray(np.arange(LAYERS) <= genes[:, self.columns["decoder_depth"]])

    def plan(self, config: HatConfig, classes: int = CLASSES) -> Plan:
        return HatPlan((), (), 0.0, config.beam, classes, config, self.trained.source_words)

    def parameter_shapes(self, classes: int) -> dict[str, Shape]:
        plan = self.plan(self.largest, classes)
        return plan.stored() | {f"{side}.{name}": (1,) for side in ("encoder", "decoder") for name in BUFFERS}

    def label(self, config: HatConfig) -> str:
        return f"d{config.decoder_depth[0]}e{config.decoder_embed[0]}b{config.beam}"

    def describe(self, config: HatConfig) -> dict[str, str]:
        depth = config.decoder_depth[0]
        return {
            "embed": f"{config.encoder_embed[0]} {config.decoder_embed[0]}",
            "depth": str(depth),
            "ffn": ",".join(map(str, config.decoder_ffn[:depth])),
            "spans": ",".join(map(str, config.spans[:depth])),
            "beam": str(config.beam),
        }


# Their weights have to be supplied: none are known to `dynofa weights`.
FAMILY = Family({name: partial(HatSpace, name, trained) for name, trained in SPACES.items()})
