"""The graph of RF-DETR (Robinson et al., arXiv 2511.09554), node by node: images in, boxes with scores out.

A DINOv2 body whose attention is within windows but for every third block; a projector of its four taps to one
map; the likeliest places of the map as first boxes; layers of a decoder, each of attention among the queries
and of deformable attention to the map (Zhu et al., ICLR 2021). Facts are those of the package rfdetr 1.11.2,
models/.

Tokens are (N * windows^2, 1 + T, width) in the body and (N, S, hidden) behind it, the map row by row. Weights
come cut and ready to multiply from the right; scales of attention and of layers, and constant factors of the
offsets, are part of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynofa_ros.supernet.builder import Array, NodeBuilder, gelu
from dynofa_ros.supernet.graphs import Graph, Value, Written
from dynofa_ros.supernet.transformer_graphs import Parts

PATCH = 16  # px
FINE, COARSE = 1e-6, 1e-5  # epsilons of layer normalisation, in body and projector, and behind them
BLOCKS = 3  # of the projector
BY_HEAD, TURNED = [0, 2, 1, 3], [0, 2, 1]
WINDOWED = [0, 2, 1, 3, 4]  # rows of patches to windows, and windows to rows


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a checkpoint is of. side: of its input, px; depth: blocks of the body, of which every third is a
    tap; layers: of the decoder; groups: of queries, in training."""

    side: int
    layers: int
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 256
    feed_forward: int = 2048
    self_heads: int = 8
    cross_heads: int = 16
    points: int = 2
    queries: int = 300
    groups: int = 13


@dataclass(frozen=True, kw_only=True)
class Size(Trained):
    """What the graph must know beside the weights: ``side``, ``layers`` and ``queries`` are its own."""

    windows: int
    classes: int

    @property
    def cells(self) -> int:
        """Cells of a side of the map."""
        return self.side // PATCH

    @property
    def chosen(self) -> int:
        """Queries that begin at a place of the map; the others begin where they were trained to."""
        return min(self.queries, self.cells**2)


def spans_windows(block: int) -> bool:
    """Whether the attention of a block of the body is among all tokens, not within windows."""
    return block > 0 and block % 3 == 0


class Writer(Parts):
    """Parts of the network on a builder."""

    def __init__(self, builder: NodeBuilder, weights: Mapping[str, Array], size: Size) -> None:
        super().__init__(builder, weights)
        self._size = size

    def split(self, x: Any, *lengths: int, axis: int = -1) -> Sequence[Any]:
        return self._builder.nodes("Split", len(lengths), x, self.integers(*lengths), axis=axis)

    def mlp(self, x: Any, key: str, layers: int) -> Any:
        for i in range(layers):
            x = self.product(x if i == 0 else self.node("Relu", x), f"{key}.{i}")
        return x

    def norm(self, x: Any, key: str, epsilon: float = COARSE) -> Any:
        weights = self.weight(f"{key}.weight"), self.weight(f"{key}.bias")
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def attended(self, parts: Sequence[Any], heads: int, length: int, width: int) -> Any:
        """Query, key and value of ``length`` tokens to what was attended, before the output's product."""
        query, key, value = (self.reshaped(x, -1, length, heads, width // heads) for x in parts)
        query, value = (self.node("Transpose", x, perm=BY_HEAD) for x in (query, value))
        scores = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 2, 3, 1]))
        x = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        return self.node("Transpose", x, perm=BY_HEAD)

    # --- body --------------------------------------------------------------------------------

    def body(self, images: Any) -> Any:
        """The taps beside each other, (N, S, 4 * width)."""
        size, width = self._size, self._size.width
        windows, inner = size.windows, size.cells // size.windows
        tokens, square = inner**2, {"kernel_shape": [PATCH] * 2, "strides": [PATCH] * 2, "pads": [0] * 4}
        x = self.node("Conv", images, self.weight("patches"), **square)
        x = self.node("Transpose", self.reshaped(x, 0, width, size.cells**2), perm=TURNED)
        x = self.node("Add", x, self.weight("positions"))
        if windows > 1:
            x = self.node("Transpose", self.reshaped(x, -1, inner, windows, inner, width), perm=WINDOWED)
            x = self.reshaped(x, -1, tokens, width)
        x = self.node("Pad", x, self.integers(0, 1, 0, 0, 0, 0))  # a row for the class token of each window
        x = self.node("Add", x, self.weight("class"))
        taps = []
        for i in range(size.depth):
            key = f"body.{i}"
            y = self.product(self.norm(x, f"{key}.norm1", FINE), f"{key}.qkv")
            length = (1 + tokens) * (windows**2 if spans_windows(i) else 1)
            y = self.attended(self.split(y, *[width] * 3), size.heads, length, width)
            x = self.node("Add", x, self.product(self.reshaped(y, -1, 1 + tokens, width), f"{key}.out"))
            y = gelu(self._builder, self.product(self.norm(x, f"{key}.norm2", FINE), f"{key}.fc1"))
            x = self.node("Add", x, self.product(y, f"{key}.fc2"))
            if i % 3 == 2:
                taps.append(self.norm(x, "body.norm", FINE))
        _, x = self.split(self.node("Concat", *taps, axis=2), 1, tokens, axis=1)
        if windows > 1:
            x = self.reshaped(x, -1, windows, inner, inner, 4 * width)
            x = self.node("Transpose", x, perm=WINDOWED)
        return self.reshaped(x, -1, size.cells**2, 4 * width)

    # --- projector ---------------------------------------------------------------------------

    def activated(self, x: Any, key: str) -> Any:
        """Normalised, then SiLU."""
        x = self.norm(x, f"{key}.bn", FINE)
        return self.node("Mul", x, self.node("Sigmoid", x))

    def memory(self, x: Any) -> Any:
        """The taps to the map, (N, S, hidden)."""
        half, cells = self._size.hidden // 2, self._size.cells
        square = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
        x = self.node("MatMul", x, self.weight("projector.cv1"))
        parts = list(self.split(self.activated(x, "projector.cv1"), half, half))
        for key in (f"projector.m.{i}" for i in range(BLOCKS)):
            x = parts[-1]
            for part in ("cv1", "cv2"):
                x = self.reshaped(self.node("Transpose", x, perm=TURNED), 0, half, cells, cells)
                x = self.node("Conv", x, self.weight(f"{key}.{part}"), **square)
                x = self.node("Transpose", self.reshaped(x, 0, half, cells**2), perm=TURNED)
                x = self.activated(x, f"{key}.{part}")
            parts.append(x)
        x = self.node("MatMul", self.node("Concat", *parts, axis=2), self.weight("projector.cv2"))
        return self.norm(self.activated(x, "projector.cv2"), "projector.norm", FINE)

    # --- boxes: centre and size, shares of the image -----------------------------------------

    def moved(self, change: Any, boxes: Any) -> Any:
        """Boxes after a change: centres move by shares of the size, sizes grow by an exponent."""
        (place, growth), (centre, extent) = self.split(change, 2, 2), self.split(boxes, 2, 2)
        centre = self.node("Add", self.node("Mul", place, extent), centre)
        return self.node("Concat", centre, self.node("Mul", self.node("Exp", growth), extent), axis=-1)

    def first_boxes(self, memory: Any) -> Any:
        """Where the queries begin, (N, queries, 4)."""
        size = self._size
        x = self.norm(self.product(memory, "places"), "places.norm")
        best = self.node("ReduceMax", self.product(x, "places.classes"), axes=[-1], keepdims=0)
        _, index = self._builder.nodes("TopK", 2, best, self.integers(size.chosen), axis=1)
        x = self.node("GatherND", x, self.reshaped(index, 0, size.chosen, 1), batch_dims=1)
        boxes = self.node("Gather", self.weight("grid"), index)
        boxes = self.moved(self.weight("queries.places"), self.moved(self.mlp(x, "places.boxes", 3), boxes))
        if size.chosen == size.queries:
            return boxes
        boxes = self.node("Pad", boxes, self.integers(0, 0, 0, 0, size.queries - size.chosen, 0))
        return self.node("Add", boxes, self.weight("queries.others"))

    def decoded(self, memory: Any, boxes: Any) -> Any:
        """What the queries found, (N, queries, hidden)."""
        size, hidden = self._size, self._size.hidden
        scaled = self.node("Mul", self.reshaped(boxes, 0, size.queries, 4, 1), self.weight("waves"))
        waves = self.node("Sin", self.node("Add", scaled, self.weight("phases")))
        place = self.mlp(self.reshaped(waves, 0, size.queries, 2 * hidden), "place", 2)
        centre, extent = self.split(self.reshaped(boxes, 0, size.queries, 1, 4), 2, 2)
        two, one = (self.node("Constant", value_float=v) for v in (2.0, 1.0))
        centre = self.node("Sub", self.node("Mul", centre, two), one)
        x = self.weight("queries.features")
        for i in range(size.layers):
            key = f"decoder.{i}"
            y = self.node("Add", x, place)
            parts = (
                *self.split(self.product(y, f"{key}.query_key"), hidden, hidden),
                self.product(x, f"{key}.value"),
            )
            y = self.attended(parts, size.self_heads, size.queries, hidden)
            x = self.node("Add", x, self.product(self.reshaped(y, -1, size.queries, hidden), f"{key}.out"))
            x = self.norm(x, f"{key}.norm1")
            y = self.sampled(self.node("Add", x, place), memory, centre, extent, f"{key}.cross")
            x = self.norm(self.node("Add", x, y), f"{key}.norm2")
            y = self.product(self.node("Relu", self.product(x, f"{key}.fc1")), f"{key}.fc2")
            x = self.norm(self.node("Add", x, y), f"{key}.norm3")
        return self.norm(x, "decoder.norm")

    def sampled(self, x: Any, memory: Any, centre: Any, extent: Any, key: str) -> Any:
        """Deformable attention: every head looks at a few places of the map around the box of its query."""
        size, heads, points = self._size, self._size.cross_heads, self._size.points
        head = size.hidden // heads
        seen = self.node("Transpose", self.product(memory, f"{key}.value"), perm=TURNED)
        seen = self.reshaped(seen, -1, head, size.cells, size.cells)
        offsets = self.reshaped(self.product(x, f"{key}.offsets"), 0, size.queries, heads * points, 2)
        places = self.node("Add", self.node("Mul", offsets, extent), centre)
        places = self.reshaped(places, 0, size.queries, heads, points * 2)
        places = self.reshaped(self.node("Transpose", places, perm=BY_HEAD), -1, size.queries, points, 2)
        form = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 0}
        seen = self.node("GridSample", seen, places, **form)  # (N * heads, head, queries, points)
        shares = self.reshaped(self.product(x, f"{key}.shares"), 0, size.queries, heads, points)
        shares = self.node("Transpose", self.node("Softmax", shares, axis=-1), perm=BY_HEAD)
        shares = self.reshaped(shares, -1, 1, size.queries, points)
        seen = self.node("ReduceSum", self.node("Mul", seen, shares), self.integers(-1), keepdims=0)
        seen = self.node("Transpose", self.reshaped(seen, -1, size.hidden, size.queries), perm=TURNED)
        return self.product(seen, f"{key}.out")

    def rows(self, images: Any) -> Any:
        """(N, queries, 4 + classes): left, top, right, bottom in px of the input, probability of every
        class."""
        memory = self.memory(self.body(images))
        boxes = self.first_boxes(memory)
        x = self.decoded(memory, boxes)
        centre, extent = self.split(self.moved(self.mlp(x, "boxes", 3), boxes), 2, 2)
        half, side = (self.node("Constant", value_float=v) for v in (0.5, float(self._size.side)))
        extent = self.node("Mul", extent, half)
        sides = self.node("Sub", centre, extent), self.node("Add", centre, extent)
        sides = self.node("Mul", self.node("Concat", *sides, axis=-1), side)
        return self.node("Concat", sides, self.node("Sigmoid", self.product(x, "classes")), axis=-1)


def detr_graph(size: Size, weights: Mapping[str, Array]) -> Graph:
    """The network as one graph, from "images" to "logits"."""

    def build(builder: NodeBuilder, own: Mapping[str, Array], inputs: Sequence[Any]) -> Sequence[Any]:
        return [Writer(builder, own, size).rows(*inputs)]

    images = Value("images", ("N", 3, size.side, size.side))
    return Written((images,), (Value("logits", ("N", size.queries, 4 + size.classes)),), weights, build)
