"""The graphs of a translating Transformer (Vaswani et al., 2017), node by node.

``encode`` reads a sentence once: token ids to the keys and values that the decoder's layers look at. ``step``
makes one token: it takes the keys and values of the tokens before it and returns them with its own. Keys are
(N, heads, e, T) and values (N, heads, T, e), so that no step transposes anything; those of the sentence have
one row whatever the beam. ``hidden`` is the same network over whole sentences at once, as training needs it.

Weights come cut and ready to multiply from the right (``Cut`` of a family): the scale of attention is part of
the query's, and query, key and value of self-attention are one array. A product adds "<key>.bias" where there
is one. Embeddings and positions are per side, "encoder.embedding"; what gives the words is "output".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynofa_ros.supernet.builder import Array, NodeBuilder
from dynofa_ros.supernet.graphs import Graph, Value, Written
from dynofa_ros.supernet.transformer_layers import LAYER_NORM_EPSILON

KEY, OTHER = [0, 2, 3, 1], [0, 2, 1, 3]  # from (N, T, heads, e)
PAD, END, UNKNOWN = range(3)  # token ids; first tokens of the targets follow
LONGEST = 160  # positions that there are
READ = Value("source", (1, "S"), integer=True), Value("positions", ("S",), integer=True)  # by ``encode``
ASKED = Value("token", ("N",), integer=True), Value("position", (1,), integer=True)  # by ``step``


def found(beam: int) -> tuple[Value, ...]:
    """What ``step`` finds, beside keys and values."""
    likely = Value("scores", ("N", 2 * beam)), Value("tokens", ("N", 2 * beam), integer=True)
    return (*likely, Value("end", ("N", 1)))


def likeliest(builder: NodeBuilder, log_probabilities: Any, beam: int, end: int) -> list[Any]:
    """The values of ``found``."""
    count, last = (builder.node("Constant", value_ints=[n]) for n in (2 * beam, end))
    scores, tokens = builder.nodes("TopK", 2, log_probabilities, count, axis=-1)
    return [scores, tokens, builder.node("Gather", log_probabilities, last, axis=1)]


def sinusoids(width: int, first: int = 0) -> np.ndarray:
    """Positions, float32 (LONGEST, width): sines, then cosines, as in fairseq. first: number of the first."""
    half = width // 2
    places = np.arange(first, first + LONGEST)
    angles = places[:, None] * np.exp(np.arange(half) * (-np.log(1e4) / (half - 1)))
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


@dataclass(frozen=True)
class Size:
    """What the graphs must know beside the weights.

    width: features of queries, keys and values. heads: by attention, "decoder.0.cross". spans: how many of
    the encoder's last layers each layer of the decoder looks at. excluded: ids that an output cannot hold,
    so that they take no probability; unchosen: ids that take some, but are never chosen. post_norm: whether
    what a layer adds is normalised after, not before.
    """

    width: int
    heads: Mapping[str, int]
    encoder_depth: int
    spans: tuple[int, ...]
    words: int
    end: int
    excluded: tuple[int, ...] = ()
    unchosen: tuple[int, ...] = ()
    post_norm: bool = False

    @property
    def decoder_depth(self) -> int:
        return len(self.spans)

    def never(self, ids: Sequence[int]) -> np.ndarray:
        """What is added to the words so that ``ids`` are never among the likeliest, (words,)."""
        added = np.zeros(self.words, np.float32)
        added[list(ids)] = -1e9
        return added


class Parts:
    """What parts of a network are written with: a builder, and weights by name."""

    def __init__(self, builder: NodeBuilder, weights: Mapping[str, Array]) -> None:
        self.node, self._builder, self._weights = builder.node, builder, weights
        self._constants: dict[int, Any] = {}

    def weight(self, name: str) -> Any:
        array = self._weights[name]
        if id(array) not in self._constants:  # one array may have several names: tied embeddings
            self._constants[id(array)] = self._builder.constant(array)
        return self._constants[id(array)]

    def integers(self, *values: int) -> Any:
        return self.node("Constant", value_ints=list(values))

    def reshaped(self, x: Any, *shape: int) -> Any:
        return self.node("Reshape", x, self.integers(*shape))

    def scaled(self, x: Any, factor: float) -> Any:
        return self.node("Mul", x, self.node("Constant", value_float=float(factor)))

    def product(self, x: Any, key: str) -> Any:
        x, bias = self.node("MatMul", x, self.weight(key)), f"{key}.bias"
        return self.node("Add", x, self.weight(bias)) if bias in self._weights else x


class Writer(Parts):
    """Parts of the network on a builder. ``one``: values are of one token, (N, width), else (N, T, width)."""

    def __init__(self, builder: NodeBuilder, weights: Mapping[str, Array], size: Size, one: bool = False):
        super().__init__(builder, weights)
        self._size, self._one = size, one

    def embedded(self, side: str, tokens: Any, positions: Any) -> Any:
        embedding = f"{side}.embedding"
        x = self.node("Gather", self.weight(embedding), tokens)
        x = self.scaled(x, self._weights[embedding].shape[1] ** 0.5)
        return self.node("Add", x, self.node("Gather", self.weight(f"{side}.positions"), positions))

    def norm(self, x: Any, key: str) -> Any:
        weights = self.weight(f"{key}.weight"), self.weight(f"{key}.bias")
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def before(self, x: Any, key: str) -> Any:
        """What a part of a layer works on."""
        return x if self._size.post_norm else self.norm(x, key)

    def after(self, x: Any, added: Any, key: str) -> Any:
        """x with what the part made of it."""
        x = self.node("Add", x, added)
        return self.norm(x, key) if self._size.post_norm else x

    def finished(self, x: Any, side: str) -> Any:
        """The result of the last layer of a side."""
        return self.before(x, f"{side}.norm")

    def by_head(self, x: Any, attention: str, perm: list[int]) -> Any:
        heads = self._size.heads[attention]
        width = self._size.width // heads
        if self._one:
            return self.node(
                "Reshape", x, self.integers(-1, heads, *((width, 1) if perm == KEY else (1, width)))
            )
        return self.node("Transpose", self.node("Reshape", x, self.integers(0, 0, heads, width)), perm=perm)

    def attended(self, query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        """Before the output's product; mask is added to the scores."""
        scores = self.node("MatMul", query, key)
        if mask is not None:
            scores = self.node("Add", scores, mask)
        x = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        if self._one:
            return self.node("Reshape", x, self.integers(-1, self._size.width))
        x = self.node("Transpose", x, perm=OTHER)
        return self.node("Reshape", x, self.integers(0, 0, self._size.width))

    def self_attention(self, x: Any, block: str, mask: Any = None, past: Sequence[Any] = ()) -> Any:
        """(x with what was attended added, keys, values); ``past``: keys and values before these."""
        own, norm = f"{block}.self", f"{block}.self_norm"
        y = self.product(self.before(x, norm), f"{own}.qkv")
        thirds = self.integers(*[self._size.width] * 3)
        query, key, value = self._builder.nodes("Split", 3, y, thirds, axis=-1)
        key, value = self.by_head(key, own, KEY), self.by_head(value, own, OTHER)
        if past:
            key = self.node("Concat", past[0], key, axis=3)
            value = self.node("Concat", past[1], value, axis=2)
        y = self.attended(self.by_head(query, own, OTHER), key, value, mask)
        return self.after(x, self.product(y, f"{own}.out"), norm), key, value

    def cross_attention(self, x: Any, block: str, memory: Sequence[Any], mask: Any = None) -> Any:
        own, norm = f"{block}.cross", f"{block}.cross_norm"
        query = self.product(self.before(x, norm), f"{own}.query")
        y = self.attended(self.by_head(query, own, OTHER), memory[0], memory[1], mask)
        return self.after(x, self.product(y, f"{own}.out"), norm)

    def feed_forward(self, x: Any, block: str) -> Any:
        y = self.node("Relu", self.product(self.before(x, f"{block}.ffn_norm"), f"{block}.fc1"))
        return self.after(x, self.product(y, f"{block}.fc2"), f"{block}.ffn_norm")

    def repeated(self, parts: Sequence[Any], axis: int) -> Any:
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=axis)

    def encoded(self, source: Any, positions: Any, mask: Any = None) -> list[Any]:
        """Keys and values of the sentence for every layer of the decoder, two after the other."""
        x, layers = self.embedded("encoder", source, positions), list[Any]()
        for i in range(self._size.encoder_depth):
            x, _, _ = self.self_attention(x, f"encoder.{i}", mask)
            x = self.feed_forward(x, f"encoder.{i}")
            layers.insert(0, x)
        layers[0] = self.finished(x, "encoder")
        seen = {span: self.repeated(layers[:span], axis=1) for span in sorted(set(self._size.spans))}
        return [
            self.by_head(self.product(seen[span], f"{own}.{part}"), own, perm)
            for own, span in ((f"decoder.{i}.cross", span) for i, span in enumerate(self._size.spans))
            for part, perm in (("key", KEY), ("value", OTHER))
        ]

    def decoded(
        self, x: Any, memory: Sequence[Any], mask: Any = None, causal: Any = None, past: Sequence[Any] = ()
    ) -> tuple[Any, list[Any]]:
        """(hidden states, keys and values of every layer, two after the other)."""
        present = []
        for i, span in enumerate(self._size.spans):
            block, own = f"decoder.{i}", slice(2 * i, 2 * i + 2)
            x, key, value = self.self_attention(x, block, causal, past[own])
            seen = None if mask is None else self.repeated([mask] * span, axis=3)
            x = self.cross_attention(x, block, memory[own], seen)
            x = self.feed_forward(x, block)
            present += [key, value]
        return self.finished(x, "decoder"), present


def hidden(
    builder: NodeBuilder,
    weights: Mapping[str, Array],
    size: Size,
    source: Any,
    target: Any,
    masks: Sequence[Any],
) -> Any:
    """Last hidden states (N, T, width) of whole outputs, from source and target ids (N, S) and (N, T).

    masks: what is added to the scores for the source, (N, 1, 1, S), and for the target, (T, T).
    """
    writer = Writer(builder, weights, size)
    places = (writer.integers(*range(ids.shape[1])) for ids in (source, target))
    memory = writer.encoded(source, next(places), masks[0])
    return writer.decoded(writer.embedded("decoder", target, next(places)), memory, *masks)[0]


def graphs(size: Size, weights: Mapping[str, Array], beam: int) -> dict[str, Graph]:
    """``encode``, and ``step`` for as many hypotheses as the beam has.

    A step of N hypotheses takes token (N,), position (1,), and the keys and values of the past and the
    sentence. Its results: log-probabilities "scores" and "tokens" (N, 2 * beam) of the likeliest
    continuations, that of the end (N, 1), and the keys and values with the token's own.
    """

    def pairs(name: str, attention: str, rows: int | str, lengths: Sequence[str]) -> tuple[Value, ...]:
        values: list[Value] = []
        for i, length in enumerate(lengths):
            h = size.heads[f"decoder.{i}.{attention}"]
            e = size.width // h
            values += (
                Value(f"{name}_key.{i}", (rows, h, e, length)),
                Value(f"{name}_value.{i}", (rows, h, length, e)),
            )
        return tuple(values)

    memory = pairs("cross", "cross", 1, ["S" if span == 1 else f"S{span}" for span in size.spans])

    def encode(builder: NodeBuilder, own: Mapping[str, Array], inputs: Sequence[Any]) -> Sequence[Any]:
        return Writer(builder, own, size).encoded(*inputs)

    def step(builder: NodeBuilder, own: Mapping[str, Array], inputs: Sequence[Any]) -> Sequence[Any]:
        writer, count = Writer(builder, own, size, one=True), 2 * size.decoder_depth
        token, position = inputs[:2]
        past, cross = inputs[2 : 2 + count], inputs[2 + count :]
        x, present = writer.decoded(writer.embedded("decoder", token, position), cross, past=past)
        logits = writer.node("Gemm", x, writer.weight("output"), writer.weight("excluded"), transB=1)
        logits = writer.node("LogSoftmax", logits, axis=-1)
        if size.unchosen:
            logits = writer.node("Add", logits, writer.weight("unchosen"))
        return [*likeliest(builder, logits, beam, size.end), *present]

    crossing = ("cross.key", "cross.value", "cross.key.bias", "cross.value.bias")
    reading = {n: a for n, a in weights.items() if n.startswith("encoder.") or n.endswith(crossing)}
    writing = {n: a for n, a in weights.items() if n not in reading} | {"excluded": size.never(size.excluded)}
    if size.unchosen:
        writing["unchosen"] = size.never(size.unchosen)
    layers = range(size.decoder_depth)
    past, own = (pairs(n, "self", "N", [t for _ in layers]) for n, t in (("past", "T"), ("own", "T1")))
    return {
        "encode": Written(READ, memory, reading, encode),
        "step": Written((*ASKED, *past, *memory), (*found(beam), *own), writing, step),
    }
