"""The graphs of a translating Transformer (Vaswani et al., 2017; pre-norm, tied embeddings), node by node.

``encode`` reads a sentence once: token ids to the keys and values that the decoder's layers look at. ``step``
makes one token: it takes the keys and values of the tokens before it and returns them with its own. Keys are
(N, heads, e, T) and values (N, heads, T, e), so that no step transposes anything; those of the sentence have
one row whatever the beam. ``hidden`` is the same network over whole sentences at once, as training needs it.

Weights come cut and ready to multiply from the right (``Cut`` of a family): the scale of attention is part of
the query's, and query, key and value of self-attention are one array.
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


def sinusoids(width: int) -> np.ndarray:
    """Positions, float32 (LONGEST, width): sines, then cosines, as in fairseq."""
    half = width // 2
    angles = np.arange(LONGEST)[:, None] * np.exp(np.arange(half) * (-np.log(1e4) / (half - 1)))
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


@dataclass(frozen=True)
class Size:
    """What the graphs must know beside the weights. first_tokens: ids that only begin an output."""

    width: int
    heads: int
    encoder_depth: int
    decoder_depth: int
    words: int
    first_tokens: tuple[int, ...]

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Writer:
    """Parts of the network on a builder. ``one``: values are of one token, (N, width), else (N, T, width)."""

    def __init__(self, builder: NodeBuilder, weights: Mapping[str, Array], size: Size, one: bool = False):
        self.node, self._builder, self._weights = builder.node, builder, weights
        self._size, self._one = size, one
        self._constants: dict[str, Any] = {}

    def weight(self, name: str) -> Any:
        if name not in self._constants:
            self._constants[name] = self._builder.constant(self._weights[name])
        return self._constants[name]

    def integers(self, *values: int) -> Any:
        return self.node("Constant", value_ints=list(values))

    def embedded(self, tokens: Any, positions: Any) -> Any:
        scale = self.node("Constant", value_float=self._size.width**0.5)
        x = self.node("Mul", self.node("Gather", self.weight("embedding.weight"), tokens), scale)
        return self.node("Add", x, self.node("Gather", self.weight("positions"), positions))

    def norm(self, x: Any, key: str) -> Any:
        weights = self.weight(f"{key}.weight"), self.weight(f"{key}.bias")
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def product(self, x: Any, key: str) -> Any:
        return self.node("MatMul", x, self.weight(key))

    def by_head(self, x: Any, perm: list[int]) -> Any:
        heads, width = self._size.heads, self._size.head_width
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
        y = self.product(self.norm(x, f"{block}.self_norm"), f"{block}.self.qkv")
        thirds = self.integers(*[self._size.width] * 3)
        query, key, value = self._builder.nodes("Split", 3, y, thirds, axis=-1)
        key, value = self.by_head(key, KEY), self.by_head(value, OTHER)
        if past:
            key = self.node("Concat", past[0], key, axis=3)
            value = self.node("Concat", past[1], value, axis=2)
        y = self.attended(self.by_head(query, OTHER), key, value, mask)
        return self.node("Add", x, self.product(y, f"{block}.self.out")), key, value

    def cross_attention(self, x: Any, block: str, memory: Sequence[Any], mask: Any = None) -> Any:
        query = self.product(self.norm(x, f"{block}.cross_norm"), f"{block}.cross.query")
        y = self.attended(self.by_head(query, OTHER), memory[0], memory[1], mask)
        return self.node("Add", x, self.product(y, f"{block}.cross.out"))

    def feed_forward(self, x: Any, block: str) -> Any:
        y = self.norm(x, f"{block}.ffn_norm")
        for key in (f"{block}.fc1", f"{block}.fc2"):
            y = self.node("Add", self.product(y, f"{key}.weight"), self.weight(f"{key}.bias"))
            y = self.node("Relu", y) if key.endswith("fc1") else y
        return self.node("Add", x, y)

    def encoded(self, source: Any, positions: Any, mask: Any = None) -> list[Any]:
        """Keys and values of the sentence for every layer of the decoder, two after the other."""
        x = self.embedded(source, positions)
        for i in range(self._size.encoder_depth):
            x, _, _ = self.self_attention(x, f"encoder.{i}", mask)
            x = self.feed_forward(x, f"encoder.{i}")
        x = self.norm(x, "encoder.norm")
        return [
            self.by_head(self.product(x, f"decoder.{i}.cross.{part}"), perm)
            for i in range(self._size.decoder_depth)
            for part, perm in (("key", KEY), ("value", OTHER))
        ]

    def decoded(
        self, x: Any, memory: Sequence[Any], mask: Any = None, causal: Any = None, past: Sequence[Any] = ()
    ) -> tuple[Any, list[Any]]:
        """(hidden states, keys and values of every layer, two after the other)."""
        present = []
        for i in range(self._size.decoder_depth):
            block, own = f"decoder.{i}", slice(2 * i, 2 * i + 2)
            x, key, value = self.self_attention(x, block, causal, past[own])
            x = self.cross_attention(x, block, memory[own], mask)
            x = self.feed_forward(x, block)
            present += [key, value]
        return self.norm(x, "decoder.norm"), present


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
    return writer.decoded(writer.embedded(target, next(places)), memory, *masks)[0]


def graphs(size: Size, weights: Mapping[str, Array], beam: int) -> dict[str, Graph]:
    """``encode``, and ``step`` for as many hypotheses as the beam has.

    A step of N hypotheses takes token (N,), position (1,), and the keys and values of the past and the
    sentence. Its results: log-probabilities "scores" and "tokens" (N, 2 * beam) of the likeliest
    continuations, that of the end (N, 1), and the keys and values with the token's own. Log-probabilities are
    among what an output may hold: words and the end.
    """
    e, h = size.head_width, size.heads

    def pairs(name: str, rows: int | str, length: str) -> tuple[Value, ...]:
        kinds = (("key", (rows, h, e, length)), ("value", (rows, h, length, e)))
        layers = range(size.decoder_depth)
        return tuple(Value(f"{name}_{kind}.{i}", shape) for i in layers for kind, shape in kinds)

    never = np.zeros(size.words, np.float32)
    never[[PAD, UNKNOWN, *size.first_tokens]] = -1e9
    memory = pairs("cross", 1, "S")

    def encode(builder: NodeBuilder, own: Mapping[str, Array], inputs: Sequence[Any]) -> Sequence[Any]:
        return Writer(builder, own, size).encoded(*inputs)

    def step(builder: NodeBuilder, own: Mapping[str, Array], inputs: Sequence[Any]) -> Sequence[Any]:
        writer, count = Writer(builder, own, size, one=True), 2 * size.decoder_depth
        token, position = inputs[:2]
        past, cross = inputs[2 : 2 + count], inputs[2 + count :]
        x, present = writer.decoded(writer.embedded(token, position), cross, past=past)
        logits = writer.node("Gemm", x, writer.weight("embedding.weight"), writer.weight("never"), transB=1)
        logits = writer.node("LogSoftmax", logits, axis=-1)
        scores, tokens = builder.nodes("TopK", 2, logits, writer.integers(2 * beam), axis=-1)
        return [scores, tokens, writer.node("Gather", logits, writer.integers(END), axis=1), *present]

    asked = (Value("token", ("N",), integer=True), Value("position", (1,), integer=True))
    found = (
        Value("scores", ("N", 2 * beam)),
        Value("tokens", ("N", 2 * beam), integer=True),
        Value("end", ("N", 1)),
    )
    text = (Value("source", (1, "S"), integer=True), Value("positions", ("S",), integer=True))
    every = {**weights, "never": never}
    shared = {"embedding.weight", "positions"}
    reading = {
        name: array
        for name, array in every.items()
        if name in shared or name.startswith("encoder.") or name.endswith(("cross.key", "cross.value"))
    }
    writing = {n: a for n, a in every.items() if n in shared or n not in reading}
    return {
        "encode": Written(text, memory, reading, encode),
        "step": Written(
            (*asked, *pairs("past", "N", "T"), *memory),
            (*found, *pairs("own", "N", "T1")),
            writing,
            step,
        ),
    }
