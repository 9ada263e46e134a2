"""Gemma 3n: a language model without an encoder, nested as in MatFormer (Devvrit et al., NeurIPS 2024).

Elastic is the feed-forward width of every layer, the first features of each. Facts are those of the text
model of huggingface/transformers, models/gemma3n/modeling_gemma3n.py: several copies of the hidden state, one
of which is worked on (AltUp), a low-rank path beside attention (Laurel), an embedding per layer, attention
that sees a window in all but every fifth layer, and last layers that use the keys and values of earlier ones.

``encode`` reads all of a prompt but its last token, which is the first one of the output; ``step`` writes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from dynofa_ros.supernet.builder import Array, Arrays, NodeBuilder
from dynofa_ros.supernet.graphs import Graph, Value, Written
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.registry import Family
from dynofa_ros.supernet.space import CLASSES, Config, Plan
from dynofa_ros.supernet.transformer_graphs import ASKED, READ, Parts, found, likeliest
from dynofa_ros.supernet.translating import TextPlan, TranslatorSpace

END, BEGIN = 1, 2  # token ids
EPSILON, SMALLEST = 1e-6, 1e-5  # of norms, and of a mean square that is divided by
LOCAL, WHOLE = 1e4, 1e6  # bases of rotary positions: of layers with a window, and of the others
SOFT_LIMIT = 30.0  # of logits
FLOAT, INTEGER, TO_END = 1, 7, 2**31 - 1  # types of ONNX, and the end of a slice
BY_HEAD, MERGED, KEY = [0, 2, 3, 1, 4], [0, 3, 1, 2, 4], [0, 1, 2, 4, 3]
SCALES = tuple(f"{n}_layernorm" for n in ("input", "post_attention", "pre_feedforward", "post_feedforward"))
SCALES += ("altup.router_norm", "laurel.post_laurel_norm", "post_per_layer_input_norm")


@dataclass(frozen=True)
class Dimensions:
    """What is not elastic; those of E4B.

    shared: how many of the last layers have no keys and values of their own. period: every how manieth layer
    has no window. unlisted: last words without an embedding per layer. sparse: first layers that keep only
    the largest features of the gate, those above the quantile ``sparsity`` of a normal distribution.
    """

    ffns: tuple[int, ...] = (8192, 16384)
    layers: int = 35
    width: int = 2048
    heads: int = 8
    key_heads: int = 2
    head_width: int = 256
    shared: int = 15
    period: int = 5
    window: int = 512
    copies: int = 4
    rank: int = 64
    per_layer: int = 256
    unlisted: int = 256
    sparse: int = 10
    sparsity: float = 0.95

    @property
    def own_layers(self) -> int:
        """Layers with keys and values of their own."""
        return self.layers - self.shared

    def windowed(self, layer: int) -> bool:
        return (layer + 1) % self.period > 0

    def keys_of(self, layer: int) -> int:
        """The layer whose keys and values a layer uses."""
        alike = (
            i for i in range(min(layer + 1, self.own_layers)) if self.windowed(i) == self.windowed(layer)
        )
        return max(alike)


SPACES = {"gemma3n_e4b": Dimensions()}


class Gemma3nConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A sub-network. beam: 1, the likeliest token is taken."""

    beam: int
    ffn: tuple[int, ...]


class Writer(Parts):
    """Parts of the network on a builder, of one sequence of T tokens; copies are (T, copies, width). Keys and
    values of the layers take turns in ``past``, of tokens made, ``read``, of the prompt, and ``present``."""

    def __init__(
        self, builder: NodeBuilder, weights: Arrays, own: Dimensions, past: Any = (), read: Any = ()
    ):
        super().__init__(builder, weights)
        self._own, self._past, self._read = own, past, read
        self.present: list[Any] = []
        self._seen: dict[int, list[Any]] = {}  # what layers look at

    def plus(self, x: Any, number: float) -> Any:
        return self.node("Add", x, self.node("Constant", value_float=float(number)))

    def mean(self, x: Any) -> Any:
        return self.node("ReduceMean", x, axes=[-1], keepdims=1)

    def power(self, x: Any) -> Any:
        return self.mean(self.node("Mul", x, x))

    def norm(self, x: Any, key: str | None) -> Any:
        """Divided by the root of its mean square, and scaled where there is a key."""
        x = self.node("Div", x, self.node("Sqrt", self.plus(self.power(x), EPSILON)))
        return x if key is None else self.node("Mul", x, self.weight(key))

    def gelu(self, x: Any) -> Any:
        """As it is approximated by tanh."""
        cubic = self.node("Mul", self.plus(self.scaled(self.node("Mul", x, x), 0.044715), 1), x)
        tanh = self.node("Tanh", self.scaled(cubic, (2 / np.pi) ** 0.5))
        return self.scaled(self.node("Mul", x, self.plus(tanh, 1)), 0.5)

    def copy(self, states: Any, number: int) -> Any:
        return self.node("Gather", states, self.node("Constant", value_int=number), axis=1)

    def alike(self, x: Any, key: str, first: Any) -> Any:
        """A product of x, as large as the first copy."""
        x = self.product(x, key)
        root = self.node("Sqrt", self.node("Max", self.power(x), self.node("Constant", value_float=SMALLEST)))
        return self.node("Div", self.node("Mul", x, self.node("Sqrt", self.power(first))), root)

    def angles(self, positions: Any) -> dict[bool, tuple[Any, Any]]:
        """Cosine and sine (T, head_width) of rotary positions, by whether a layer has a window."""
        steps = np.arange(0, self._own.head_width, 2) / self._own.head_width
        places, found = self.reshaped(self.node("Cast", positions, to=FLOAT), -1, 1), {}
        for windowed, base in ((True, LOCAL), (False, WHOLE)):
            turns = self._builder.constant((base**-steps)[None].astype(np.float32))
            angle = self.node("Mul", places, turns)
            angle = self.node("Concat", angle, angle, axis=-1)
            found[windowed] = self.node("Cos", angle), self.node("Sin", angle)
        return found

    def rotated(self, x: Any, angles: tuple[Any, Any]) -> Any:
        half = self._own.head_width // 2
        first, second = self._builder.nodes("Split", 2, x, self.integers(half, half), axis=-1)
        turned = self.node("Concat", self.node("Neg", second), first, axis=-1)
        return self.node("Add", self.node("Mul", x, angles[0]), self.node("Mul", turned, angles[1]))

    def masks(self, positions: Any) -> dict[bool, Any]:
        """What is added to scores (T, T): queries see no later key, in a window none too far before."""
        places = self.node("Cast", positions, to=FLOAT)
        ahead = self.node("Sub", self.reshaped(places, -1, 1), self.reshaped(places, 1, -1))
        zero = self.node("Constant", value_float=0.0)
        later = self.node("Min", ahead, zero)
        far = self.node("Max", self.plus(ahead, 1 - self._own.window), zero)
        return {False: self.scaled(later, 1e9), True: self.scaled(self.node("Sub", later, far), 1e9)}

    def by_head(self, x: Any, key: str, heads: int, norm: str | None, angles: Any = None) -> Any:
        """(1, key heads, heads of each, T, head_width), normalised and turned by its position."""
        own = self._own
        x = self.reshaped(self.product(x, key), 1, -1, own.key_heads, heads // own.key_heads, own.head_width)
        x = self.norm(self.node("Transpose", x, perm=BY_HEAD), norm)
        return self.rotated(x, angles) if angles else x

    def add_keys(self, x: Any, layer: int, angles: Any) -> None:
        """Keys (..., head_width, T) and values of a layer that has own ones."""
        block, own, seen = f"layers.{layer}.self_attn", self._own, []
        key = self.by_head(x, f"{block}.k_proj", own.key_heads, f"{block}.k_norm", angles)
        value = self.by_head(x, f"{block}.v_proj", own.key_heads, None)
        for y, axis in ((self.node("Transpose", key, perm=KEY), 4), (value, 3)):
            number = len(self.present)
            if self._past:
                y = self.node("Concat", self._past[number], y, axis=axis)
            self.present.append(y)
            if self._read:
                y = self.node("Concat", self._read[number], y, axis=axis)
                if own.windowed(layer):
                    y = self.node("Slice", y, *map(self.integers, (-own.window, TO_END, axis)))
            seen.append(y)
        self._seen[layer] = seen

    def attention(self, x: Any, layer: int, angles: Any, mask: Any) -> Any:
        block, own = f"layers.{layer}.self_attn", self._own
        query = self.by_head(x, f"{block}.q_proj", own.heads, f"{block}.q_norm", angles)
        keys, values = self._seen[own.keys_of(layer)]
        scores = self.node("MatMul", query, keys)
        if mask is not None:
            scores = self.node("Add", scores, mask)
        y = self.node("MatMul", self.node("Softmax", scores, axis=-1), values)
        y = self.reshaped(self.node("Transpose", y, perm=MERGED), -1, own.heads * own.head_width)
        return self.product(y, f"{block}.o_proj")

    def feed_forward(self, x: Any, layer: int) -> Any:
        block = f"layers.{layer}.mlp"
        gate = self.product(x, f"{block}.gate_proj")
        if layer < self._own.sparse:
            centred = self.node("Sub", gate, self.mean(gate))
            least = self.scaled(
                self.node("Sqrt", self.power(centred)), NormalDist().inv_cdf(self._own.sparsity)
            )
            gate = self.node("Relu", self.node("Sub", centred, least))
        y = self.node("Mul", self.gelu(gate), self.product(x, f"{block}.up_proj"))
        return self.product(y, f"{block}.down_proj")

    def routed(self, x: Any, block: str) -> Any:
        y = self.scaled(self.norm(x, f"{block}.router_norm"), 1 / self._own.width)
        return self.node("Tanh", self.product(y, f"{block}.modality_router"))

    def layer(self, states: Any, layer: int, added: Any, angles: Any, mask: Any) -> Any:
        """The copies after a layer. added: its own embedding of the tokens."""
        own, block, altup = self._own, f"layers.{layer}", f"layers.{layer}.altup"
        mix = self.product(self.routed(self.copy(states, 0), altup), f"{altup}.prediction_coefs")
        mix = self.reshaped(mix, -1, own.copies, own.copies)
        states = self.node("Add", self.node("MatMul", mix, states), states)
        first = self.copy(states, 0)
        x = self.norm(first, f"{block}.input_layernorm")
        laurel = self.product(self.product(x, f"{block}.laurel.linear_left"), f"{block}.laurel.linear_right")
        laurel = self.node("Add", x, self.norm(laurel, f"{block}.laurel.post_laurel_norm"))
        if layer < own.own_layers:
            self.add_keys(x, layer, angles)
        y = self.norm(self.attention(x, layer, angles, mask), f"{block}.post_attention_layernorm")
        x = self.scaled(self.node("Add", self.node("Add", first, y), laurel), 0.5**0.5)
        y = self.feed_forward(self.norm(x, f"{block}.pre_feedforward_layernorm"), layer)
        x = self.node("Add", x, self.norm(y, f"{block}.post_feedforward_layernorm"))
        shares = self.plus(self.product(self.routed(x, altup), f"{altup}.correction_coefs"), 1)
        new = self.reshaped(self.node("Sub", x, first), -1, 1, own.width)
        states = self.node("Add", self.node("Mul", new, self.reshaped(shares, -1, own.copies, 1)), states)
        y = self.node("Mul", self.copy(states, 0), self.weight(f"{altup}.correct_output_scale"))
        y = self.node("Mul", self.gelu(self.product(y, f"{block}.per_layer_input_gate")), added)
        y = self.norm(self.product(y, f"{block}.per_layer_projection"), f"{block}.post_per_layer_input_norm")
        others = self._builder.constant(np.float32(np.arange(own.copies)[:, None] > 0))  # not the first
        return self.node("Add", states, self.node("Mul", self.reshaped(y, -1, 1, own.width), others))

    def embedded(self, tokens: Any) -> tuple[Any, Any]:
        """The copies, and what every layer adds, (T, layers, per_layer)."""
        own = self._own
        x = self.scaled(self.node("Gather", self.weight("embed_tokens"), tokens), own.width**0.5)
        copies = [x, *(self.alike(x, f"altup_projections.{i}", x) for i in range(own.copies - 1))]
        parts = [self.reshaped(copy, -1, 1, own.width) for copy in copies]
        table = self._weights["embed_tokens_per_layer"]
        listed = self.node("Less", tokens, self.integers(table.shape[0]))
        listed = self.node("Mul", tokens, self.node("Cast", listed, to=INTEGER))
        added = self.scaled(self.node("Gather", self._builder.constant(table), listed), own.per_layer**0.5)
        projected = self.scaled(self.product(x, "per_layer_model_projection"), own.width**-0.5)
        projected, added = (self.reshaped(y, -1, own.layers, own.per_layer) for y in (projected, added))
        projected = self.norm(projected, "per_layer_projection_norm")
        added = self.scaled(self.node("Add", projected, added), 0.5**0.5)
        return self.node("Concat", *parts, axis=1), added

    def run(self, tokens: Any, positions: Any, layers: int) -> Any:
        """The copies after so many layers. A single token sees all that are past."""
        states, added = self.embedded(tokens)
        angles, masks = self.angles(positions), {} if self._past else self.masks(positions)
        for i in range(layers):
            windowed = self._own.windowed(i)
            states = self.layer(states, i, self.copy(added, i), angles[windowed], masks.get(windowed))
        return states

    def log_probabilities(self, states: Any) -> Any:
        """(T, words) from the copies after the last layer."""
        first = total = self.copy(states, 0)
        for i in range(1, self._own.copies):
            part = self.alike(self.copy(states, i), f"altup_unembed_projections.{i - 1}", first)
            total = self.node("Add", total, part)
        x = self.norm(self.scaled(total, 1 / self._own.copies), "norm")
        logits = self.node("Gemm", x, self.weight("embed_tokens"), transB=1)
        logits = self.node("Tanh", self.scaled(logits, 1 / SOFT_LIMIT))
        return self.node("LogSoftmax", self.scaled(logits, SOFT_LIMIT), axis=-1)


@dataclass(frozen=True)
class Gemma3nPlan(TextPlan):
    """A sub-network."""

    config: Gemma3nConfig
    own: Dimensions
    usual_tokens = 30

    def stored(self) -> dict[str, Shape]:
        own, width, spread = self.own, self.own.width, self.own.layers * self.own.per_layer
        shapes: dict[str, Shape] = {
            "embed_tokens": (self.words, width),
            "embed_tokens_per_layer": (self.words - own.unlisted, spread),
            "per_layer_model_projection": (spread, width),
            "per_layer_projection_norm": (own.per_layer,),
            "norm": (width,),
        }
        for name in ("altup_projections", "altup_unembed_projections"):
            shapes |= {f"{name}.{i}": (width, width) for i in range(own.copies - 1)}
        for i, ffn in enumerate(self.config.ffn):
            shapes |= {f"layers.{i}.{name}": shape for name, shape in self._layer(ffn, i).items()}
        return {n if n.endswith("scale") else f"{n}.weight": shape for n, shape in shapes.items()}

    def _layer(self, ffn: int, layer: int) -> dict[str, Shape]:
        own, width = self.own, self.own.width
        query, key = own.heads * own.head_width, own.key_heads * own.head_width
        shapes: dict[str, Shape] = dict.fromkeys(SCALES, (width,))
        shapes |= {
            "altup.correct_output_scale": (width,),
            "altup.correction_coefs": (own.copies, own.copies),
            "altup.prediction_coefs": (own.copies**2, own.copies),
            "altup.modality_router": (own.copies, width),
            "laurel.linear_left": (own.rank, width),
            "laurel.linear_right": (width, own.rank),
            "self_attn.q_proj": (query, width),
            "self_attn.q_norm": (own.head_width,),
            "self_attn.o_proj": (width, query),
            "mlp.gate_proj": (ffn, width),
            "mlp.up_proj": (ffn, width),
            "mlp.down_proj": (width, ffn),
            "per_layer_input_gate": (own.per_layer, width),
            "per_layer_projection": (width, own.per_layer),
        }
        if layer < own.own_layers:
            shapes |= {"self_attn.k_proj": (key, width), "self_attn.v_proj": (key, width)}
            shapes["self_attn.k_norm"] = (own.head_width,)
        return shapes

    def cut(self, weights: Arrays) -> dict[str, Array]:
        own: dict[str, Array] = {}
        for name, shape in self.stored().items():
            key = name.removesuffix(".weight")
            array = weights[name][tuple(map(slice, shape))]
            own[key] = array if array.ndim == 1 or key.startswith("embed_") else array.T
        return own

    def products(self) -> Iterator[tuple[str, Shape, int | None]]:
        """What a token that is made takes; one that is read takes about as much."""
        for name, shape in self.stored().items():
            yield name, shape, None if len(shape) == 1 or "tokens_per_layer" in name else 0

    def written(self, weights: Mapping[str, np.ndarray]) -> dict[str, Graph]:
        own, beam = self.own, self.beam

        def pairs(name: str, rows: int | str, length: str) -> list[Value]:
            e, h = own.head_width, own.key_heads
            values: list[Value] = []
            for i in range(own.own_layers):
                values.append(Value(f"{name}_key.{i}", (rows, h, 1, e, length)))
                values.append(Value(f"{name}_value.{i}", (rows, h, 1, length, e)))
            return values

        def encode(builder: NodeBuilder, held: Arrays, inputs: Sequence[Any]) -> Sequence[Any]:
            writer, (source, positions) = Writer(builder, held, own), inputs
            last = [writer.integers(n) for n in (-1, TO_END, 0)]
            offset = builder.node("Add", builder.node("Slice", positions, *last), writer.integers(1))
            writer.run(writer.reshaped(source, -1), positions, own.own_layers)
            return [offset, *writer.present]

        def step(builder: NodeBuilder, held: Arrays, inputs: Sequence[Any]) -> Sequence[Any]:
            count = 2 * own.own_layers
            token, position, offset = inputs[0], inputs[1], inputs[2 + count]
            writer = Writer(builder, held, own, inputs[2 : 2 + count], inputs[3 + count :])
            states = writer.run(token, builder.node("Add", position, offset), own.layers)
            return [*likeliest(builder, writer.log_probabilities(states), beam, END), *writer.present]

        memory = Value("offset", (1,), integer=True), *pairs("read", 1, "S")
        past, present = (pairs(name, "N", length) for name, length in (("past", "T"), ("own", "T1")))
        late = tuple(f"layers.{i}." for i in range(own.own_layers, own.layers))
        reading = {n: a for n, a in weights.items() if not n.startswith((*late, "norm", "altup_unembed"))}
        return {
            "encode": Written(READ, memory, reading, encode),
            "step": Written((*ASKED, *past, *memory), (*found(beam), *present), weights, step),
        }


class Gemma3nSpace(TranslatorSpace):
    """The sub-networks of one model."""

    config_type, input_sizes, per_block = Gemma3nConfig, (1,), ()
    usual_tokens, first, end = 30, BEGIN, END
    head = "embed_tokens.weight"

    def __init__(self, name: str, own: Dimensions) -> None:
        self.name, self.own = name, own
        self.choices = {"ffn": (own.ffns,) * own.layers}

    def plan(self, config: Gemma3nConfig, classes: int = CLASSES) -> Plan:
        return Gemma3nPlan((), (), 0.0, config.beam, classes, config, self.own)

    def label(self, config: Gemma3nConfig) -> str:
        return f"f{round(sum(config.ffn) / len(config.ffn))}"

    def describe(self, config: Gemma3nConfig) -> dict[str, str]:
        return {"ffn": ",".join(map(str, config.ffn))}


# The larger of the two published models; the smaller one is cut out of it.
FAMILY = Family({name: partial(Gemma3nSpace, name, own) for name, own in SPACES.items()})
