"""The layers of a vision Transformer, as layers.py has those of a ConvNet.

Between patch embedding and mean an image is tokens, (1 + side * side, features): the class token, then the
patches row by row. Relative positions are those of AutoFormer (Chen et al., ICCV 2021; model/module of
microsoft/Cream, AutoFormer): a table per axis, whose row 0 stands wherever a class token takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dynofa_ros.supernet.builder import GraphBuilder
from dynofa_ros.supernet.layers import (
    Arrays,
    Cost,
    Cut,
    Forward,
    Layer,
    Normalise,
    Op,
    Shape,
    activation_function,
)

LAYER_NORM_EPSILON = 1e-5


def _integers(graph: GraphBuilder, *values: int) -> str:
    return graph.node("Constant", value_ints=list(values))


@dataclass(frozen=True)
class PatchEmbedding(Layer):
    """An image of side * patch px to tokens: one product per patch, the class token, positions added."""

    key: str
    patch: int
    side: int
    width: int

    @property
    def tokens(self) -> int:
        return 1 + self.side**2

    def shape(self, inputs: Shape) -> Shape:
        return (self.tokens, self.width)

    def cost(self, outputs: Shape) -> Cost:
        weights = 3 * self.patch**2 * self.width
        params = weights + self.width * (2 + self.tokens)  # bias, class token, positions
        return Cost(weights * self.side**2, params, weights, 5, "pointwise")

    def stored(self) -> dict[str, Shape]:
        return {
            f"{self.key}.proj.weight": (self.width, 3, self.patch, self.patch),
            f"{self.key}.proj.bias": (self.width,),
            "cls_token": (1, 1, self.width),
            "pos_embed": (1, self.tokens, self.width),
        }

    def cut(self, weights: Arrays) -> Cut:
        n = self.width
        return {
            "weight": weights[f"{self.key}.proj.weight"][:n],
            "bias": weights[f"{self.key}.proj.bias"][:n],
            "class": weights["cls_token"][0, :, :n],
            "positions": weights["pos_embed"][0, :, :n],
        }

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        import torch
        from torch.nn import functional

        a = op.arrays

        def run(x: Any) -> Any:
            patches = functional.conv2d(x, a["weight"], a["bias"], self.patch).flatten(2).transpose(1, 2)
            first = a["class"].expand(len(patches), 1, self.width)
            return torch.cat([first, patches], 1) + a["positions"]

        return run

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        a = op.arrays
        added = a["positions"] + np.concatenate([a["class"], np.tile(a["bias"], (self.side**2, 1))])
        x = graph.node("Conv", x, graph.constant(a["weight"]), **graph.window(self.patch, self.patch, 0))
        x = graph.node("Reshape", x, _integers(graph, 0, self.width, self.side**2))
        x = graph.node("Transpose", x, perm=[0, 2, 1])
        x = graph.node("Pad", x, _integers(graph, 0, 1, 0, 0, 0, 0))  # a row of zeros for the class token
        return graph.node("Add", x, graph.constant(added))


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer normalisation over the active features alone."""

    key: str
    width: int

    def cost(self, outputs: Shape) -> Cost:
        return Cost(params=2 * self.width)

    def stored(self) -> dict[str, Shape]:
        return {f"{self.key}.{name}": (self.width,) for name in ("weight", "bias")}

    def cut(self, weights: Arrays) -> Cut:
        return {name: weights[f"{self.key}.{name}"][: self.width] for name in ("weight", "bias")}

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        weight, bias = op.arrays["weight"], op.arrays["bias"]
        return lambda x: functional.layer_norm(x, (self.width,), weight, bias, LAYER_NORM_EPSILON)

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        weights = [graph.constant(op.arrays[name]) for name in ("weight", "bias")]
        return graph.node("LayerNormalization", x, *weights, axis=-1, epsilon=LAYER_NORM_EPSILON)


@dataclass(frozen=True)
class Linear(Layer):
    """The same product for every token, then an activation; "weight" of its cut is (inputs, outputs)."""

    key: str
    inputs: int
    outputs: int
    activation: str = ""

    def shape(self, inputs: Shape) -> Shape:
        return (*inputs[:-1], self.outputs)

    def cost(self, outputs: Shape) -> Cost:
        weights = self.inputs * self.outputs
        return Cost(weights * prod(outputs[:-1]), weights + self.outputs, weights, 2, "pointwise")

    def stored(self) -> dict[str, Shape]:
        return {f"{self.key}.weight": (self.outputs, self.inputs), f"{self.key}.bias": (self.outputs,)}

    def cut(self, weights: Arrays) -> Cut:
        weight = weights[f"{self.key}.weight"][: self.outputs, : self.inputs]
        return {"weight": weight.T, "bias": weights[f"{self.key}.bias"][: self.outputs]}

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        from torch.nn import functional

        weight, bias = op.arrays["weight"].T, op.arrays["bias"]
        activate = activation_function(self.activation)
        return lambda x: activate(functional.linear(x, weight, bias))

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        x = graph.node("MatMul", x, graph.constant(op.arrays["weight"]))
        return graph.activation(graph.node("Add", x, graph.constant(op.arrays["bias"])), self.activation)


@dataclass(frozen=True)
class RelativeAttention(Layer):
    """Attention of the first ``heads`` heads with relative positions of keys and values, before its
    projection: tokens of ``width`` in, tokens of heads * head_width out.

    Where the rows of both patches count alone, a table is indexed by (row of the query, row of the key), and
    columns likewise: exact, and tokens / side times smaller than a table of pairs. ``_membership`` spreads
    such scores over the keys, or sums attention by the row and the column of the key. Row 0 of the tables, of
    pairs with a class token, is subtracted from all others: for the keys that shifts a whole row of scores,
    which softmax does not see; for the values it adds the same to every token, so it is part of their bias.
    """

    key: str
    width: int
    heads: int
    head_width: int
    side: int
    reach: int  # offsets beyond it count as it

    @property
    def tokens(self) -> int:
        return 1 + self.side**2

    @property
    def features(self) -> int:
        return self.heads * self.head_width

    def shape(self, inputs: Shape) -> Shape:
        return (inputs[0], self.features)

    def cost(self, outputs: Shape) -> Cost:
        projected = 3 * self.width * self.features
        tables = 4 * (2 * self.reach + 2) * self.head_width
        pairs = self.heads * self.tokens**2 * (self.head_width + 2 * self.side)
        relative = 2 * self.features * self.side**3
        macs = projected * self.tokens + 2 * (pairs + relative)
        return Cost(macs, projected + 3 * self.features + tables, projected, 40, "pointwise")

    def _table(self, of: str, axis: str) -> str:
        return f"{self.key}.rel_pos_embed_{of}.embeddings_table_{axis}"

    def stored(self) -> dict[str, Shape]:
        table = (2 * self.reach + 2, self.head_width)
        return {
            f"{self.key}.qkv.weight": (3 * self.features, self.width),
            f"{self.key}.qkv.bias": (3 * self.features,),
            **{self._table(of, axis): table for of in "kv" for axis in "vh"},
        }

    def cut(self, weights: Arrays) -> Cut:
        """Rows of query, key and value take turns in the stored weight, but follow each other in the stored
        bias, so that the bias of a key depends on the number of heads: as the official code has it."""
        d, weight, bias = self.features, weights[f"{self.key}.qkv.weight"], weights[f"{self.key}.qkv.bias"]
        arrays: Cut = {}
        for n, name in enumerate(("query", "key", "value")):
            arrays[f"{name}.weight"] = weight[n : 3 * d : 3, : self.width].T
            arrays[f"{name}.bias"] = bias[n * d : (n + 1) * d]
        for name in ("query.weight", "query.bias"):
            arrays[name] = arrays[name] * self.head_width**-0.5
        place = np.arange(self.side)
        offsets = np.clip(place - place[:, None], -self.reach, self.reach) + self.reach + 1
        for axis in "vh":
            keys, values = (weights[self._table(of, axis)] for of in "kv")
            arrays[f"keys.{axis}"] = (keys[offsets] - keys[0]).swapaxes(1, 2)
            arrays[f"values.{axis}"] = values[offsets] - values[0]
            by_head = arrays["value.bias"].reshape(self.heads, self.head_width) + values[0]
            arrays["value.bias"] = by_head.reshape(d)
        return arrays

    def _membership(self) -> np.ndarray:
        """Row and column of every key, float32 (2 * side, tokens) of 0 and 1; the class token has none."""
        rows, columns = np.divmod(np.arange(self.side**2), self.side)
        place = np.arange(self.side)[:, None]
        patches = np.concatenate([place == rows, place == columns])
        return np.pad(patches, ((0, 0), (1, 0))).astype(np.float32)

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        import torch
        from torch.nn import functional

        a, side = op.arrays, self.side
        member = torch.as_tensor(self._membership(), device=a["query.bias"].device)

        def by_head(x: Any, name: str) -> Any:
            y = functional.linear(x, a[f"{name}.weight"].T, a[f"{name}.bias"])
            return y.reshape(-1, self.tokens, self.heads, self.head_width).transpose(1, 2)

        def grid(x: Any) -> Any:
            return x[:, :, 1:].reshape(-1, self.heads, side, side, x.shape[-1])

        def tokens(x: Any) -> Any:
            return functional.pad(x.reshape(-1, self.heads, side**2, x.shape[-1]), (0, 0, 1, 0))

        def run(x: Any) -> Any:
            query, key, value = (by_head(x, name) for name in ("query", "key", "value"))
            patches = grid(query)
            rows, columns = patches @ a["keys.v"], (patches.transpose(2, 3) @ a["keys.h"]).transpose(2, 3)
            relative = tokens(torch.cat([rows, columns], -1)) @ member
            attention = functional.softmax(query @ key.transpose(2, 3) + relative, -1)
            rows, columns = grid(attention @ member.T).split(side, -1)
            columns = (columns.transpose(2, 3) @ a["values.h"]).transpose(2, 3)
            y = attention @ value + tokens(rows @ a["values.v"] + columns)
            return y.transpose(1, 2).reshape(-1, self.tokens, self.features)

        return run

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        a, side, member = op.arrays, self.side, self._membership()
        flip = [0, 1, 3, 2, 4]  # columns before rows

        def product(y: str, array: np.ndarray) -> str:
            return graph.node("MatMul", y, graph.constant(array))

        def by_head(name: str, perm: list[int]) -> str:
            y = graph.node("Add", product(x, a[f"{name}.weight"]), graph.constant(a[f"{name}.bias"]))
            y = graph.node("Reshape", y, _integers(graph, 0, self.tokens, self.heads, self.head_width))
            return graph.node("Transpose", y, perm=perm)

        def grid(y: str, width: int) -> str:
            y = graph.node("Slice", y, *(_integers(graph, n) for n in (1, self.tokens, 2)))
            return graph.node("Reshape", y, _integers(graph, 0, self.heads, side, side, width))

        def tokens(y: str, width: int) -> str:
            y = graph.node("Reshape", y, _integers(graph, 0, self.heads, side**2, width))
            return graph.node("Pad", y, _integers(graph, 0, 0, 1, 0, 0, 0, 0, 0))

        def along_columns(y: str, array: np.ndarray) -> str:
            y = product(graph.node("Transpose", y, perm=flip), array)
            return graph.node("Transpose", y, perm=flip)

        query, key = by_head("query", [0, 2, 1, 3]), by_head("key", [0, 2, 3, 1])
        value, patches = by_head("value", [0, 2, 1, 3]), grid(query, self.head_width)
        offsets = product(patches, a["keys.v"]), along_columns(patches, a["keys.h"])
        relative = product(tokens(graph.node("Concat", *offsets, axis=-1), 2 * side), member)
        scores = graph.node("Add", graph.node("MatMul", query, key), relative)
        attention = graph.node("Softmax", scores, axis=-1)
        rows, columns = (grid(product(attention, part.T), side) for part in (member[:side], member[side:]))
        summed = graph.node("Add", product(rows, a["values.v"]), along_columns(columns, a["values.h"]))
        y = graph.node("Add", graph.node("MatMul", attention, value), tokens(summed, self.head_width))
        y = graph.node("Transpose", y, perm=[0, 2, 1, 3])
        return graph.node("Reshape", y, _integers(graph, 0, self.tokens, self.features))


@dataclass(frozen=True)
class PatchMean(Layer):
    """Mean over the patch tokens; the class token is left out."""

    def shape(self, inputs: Shape) -> Shape:
        return inputs[1:]

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        return lambda x: x[:, 1:].mean(1)

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        # INT32_MAX as the end: all that there are
        x = graph.node("Slice", x, *(_integers(graph, n) for n in (1, 2**31 - 1, 1)))
        return graph.node("ReduceMean", x, axes=[1], keepdims=0)
