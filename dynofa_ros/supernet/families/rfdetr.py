"""RF-DETR (Robinson et al., arXiv 2511.09554), nano to large; the published checkpoints load as they are.

Trained by sampling sub-networks, so that the input, the layers of the decoder, the queries and the windows of
the body may change without training. A published checkpoint is one point of that; what it is worth elsewhere
nobody has published, so that a library of it is measured on data. Images are stretched to the square input,
as in training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dynofa_ros.supernet.detr_graph import BLOCKS, PATCH, Size, Trained, detr_graph, spans_windows
from dynofa_ros.supernet.graphs import Graph
from dynofa_ros.supernet.layers import Cost, Layer, Shape
from dynofa_ros.supernet.registry import Family
from dynofa_ros.supernet.space import CLASSES, Config, Plan, SearchSpace, Statistics
from dynofa_ros.supernet.transformer_layers import Linear

if TYPE_CHECKING:
    from dynofa_ros.supernet.preprocess import Image

BODY, PROJECTOR, DECODER = (
    "backbone.0.encoder.encoder",
    "backbone.0.projector.stages.0",
    "transformer.decoder",
)
SIDES, QUERIES, WINDOWS = range(192, 705, 64), (100, 200, 300), (1, 2, 4)
FIRST_EXTENT = 0.05  # of a box before anything is known, share of the image
HEAD = "class_embed.weight"
UNUSED = ("_kp_active_mask", "refpoint_embed", "query_feat", f"{BODY}.embeddings.mask_token")  # in products


SPACES = {
    "rfdetr_nano": Trained(side=384, layers=2),
    "rfdetr_small": Trained(side=512, layers=3),
    "rfdetr_medium": Trained(side=576, layers=4),
    "rfdetr_large": Trained(side=704, layers=4),
}


class RfDetrConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A sub-network: side of the input, px, and one number each."""

    resolution: int
    decoder_layers: tuple[int, ...]
    queries: tuple[int, ...]
    windows: tuple[int, ...]


def interpolated(table: np.ndarray, side: int) -> np.ndarray:
    """A table (s, s, width) at another side: bicubic, smoothed where it shrinks, as torch does it."""
    before = len(table)
    scale = before / side
    reach, stretch = 2 * max(scale, 1.0), max(scale, 1.0)
    matrix = np.zeros((side, before))
    for i in range(side):
        centre = scale * (i + 0.5)
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), before)
        x = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2  # Keys, a = -0.5
        weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        matrix[i, first:last] = weights / weights.sum()
    return np.asarray(np.einsum("ai,bj,ijc->abc", matrix, matrix, table, optimize=True), np.float32)


@dataclass(frozen=True)
class RfDetrPlan(Plan):
    """A sub-network."""

    trained: Trained
    config: RfDetrConfig
    classes: int

    @property
    def size(self) -> Size:
        own = self.config
        ours = {"side": own.resolution, "layers": own.decoder_layers[0], "queries": own.queries[0]}
        return Size(**{**vars(self.trained), **ours}, windows=own.windows[0], classes=self.classes)

    def stored(self) -> dict[str, Shape]:
        t = self.trained
        width, hidden, half, grid = t.width, t.hidden, t.hidden // 2, t.side // PATCH
        shapes: dict[str, Shape] = {"_kp_active_mask": (0, 0)}
        shapes |= {"refpoint_embed.weight": (t.queries * t.groups, 4)}
        shapes |= {"query_feat.weight": (t.queries * t.groups, hidden)}
        shapes |= {f"{BODY}.embeddings.cls_token": (1, 1, width), f"{BODY}.embeddings.mask_token": (1, width)}
        shapes |= {f"{BODY}.embeddings.position_embeddings": (1, grid**2 + 1, width)}

        def linear(key: str, inputs: int, outputs: int) -> None:
            shapes[f"{key}.weight"], shapes[f"{key}.bias"] = (outputs, inputs), (outputs,)

        def norm(key: str, features: int = hidden) -> None:
            shapes[f"{key}.weight"] = shapes[f"{key}.bias"] = (features,)

        def conv(key: str, inputs: int, outputs: int, kernel: int) -> None:
            shapes[f"{key}.conv.weight"] = (outputs, inputs, kernel, kernel)
            norm(f"{key}.bn", outputs)

        def mlp(key: str, *widths: int) -> None:
            for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
                linear(f"{key}.layers.{i}", inputs, outputs)

        patches = f"{BODY}.embeddings.patch_embeddings.projection"
        shapes[f"{patches}.weight"], shapes[f"{patches}.bias"] = (width, 3, PATCH, PATCH), (width,)
        for key in (f"{BODY}.encoder.layer.{i}" for i in range(t.depth)):
            for part in ("query", "key", "value"):
                linear(f"{key}.attention.attention.{part}", width, width)
            linear(f"{key}.attention.output.dense", width, width)
            linear(f"{key}.mlp.fc1", width, 4 * width)
            linear(f"{key}.mlp.fc2", 4 * width, width)
            for i in (1, 2):
                norm(f"{key}.norm{i}", width)
                shapes[f"{key}.layer_scale{i}.lambda1"] = (width,)
        norm(f"{BODY}.layernorm", width)
        conv(f"{PROJECTOR}.0.cv1", 4 * width, hidden, 1)
        conv(f"{PROJECTOR}.0.cv2", (2 + BLOCKS) * half, hidden, 1)
        for i in range(BLOCKS):
            for part in ("cv1", "cv2"):
                conv(f"{PROJECTOR}.0.m.{i}.{part}", half, half, 3)
        norm(f"{PROJECTOR}.1")
        for key in (f"{DECODER}.layers.{i}" for i in range(self.config.decoder_layers[0])):
            shapes[f"{key}.self_attn.in_proj_weight"] = (3 * hidden, hidden)
            shapes[f"{key}.self_attn.in_proj_bias"] = (3 * hidden,)
            linear(f"{key}.self_attn.out_proj", hidden, hidden)
            linear(f"{key}.cross_attn.sampling_offsets", hidden, 2 * t.cross_heads * t.points)
            linear(f"{key}.cross_attn.attention_weights", hidden, t.cross_heads * t.points)
            linear(f"{key}.cross_attn.value_proj", hidden, hidden)
            linear(f"{key}.cross_attn.output_proj", hidden, hidden)
            linear(f"{key}.linear1", hidden, t.feed_forward)
            linear(f"{key}.linear2", t.feed_forward, hidden)
            for i in (1, 2, 3):
                norm(f"{key}.norm{i}")
        norm(f"{DECODER}.norm")
        mlp(f"{DECODER}.ref_point_head", 2 * hidden, hidden, hidden)
        for group in range(t.groups):
            linear(f"transformer.enc_output.{group}", hidden, hidden)
            norm(f"transformer.enc_output_norm.{group}")
            mlp(f"transformer.enc_out_bbox_embed.{group}", hidden, hidden, hidden, 4)
            linear(f"transformer.enc_out_class_embed.{group}", hidden, self.classes)
        linear("class_embed", hidden, self.classes)
        mlp("bbox_embed", hidden, hidden, hidden, 4)
        return shapes

    def graphs(self, weights: Mapping[str, np.ndarray], statistics: Statistics) -> dict[str, Graph]:
        cut = {name: np.ascontiguousarray(array, np.float32) for name, array in self.cut(weights).items()}
        return {"network": detr_graph(self.size, cut)}

    def cut(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Its part of the weights, as ``detr_graph`` wants it; of the queries the first group."""
        t, size, own = self.trained, self.size, dict[str, np.ndarray]()

        def linear(key: str, name: str, scale: Any = 1.0) -> None:
            """scale: of the outputs."""
            own[name], own[f"{name}.bias"] = (
                weights[f"{key}.weight"].T * scale,
                weights[f"{key}.bias"] * scale,
            )

        def norm(key: str, name: str) -> None:
            for kind in ("weight", "bias"):
                own[f"{name}.{kind}"] = weights[f"{key}.{kind}"]

        def mlp(key: str, name: str, layers: int) -> None:
            for i in range(layers):
                linear(f"{key}.layers.{i}", f"{name}.{i}")

        embeddings = f"{BODY}.embeddings"
        own["patches"] = weights[f"{embeddings}.patch_embeddings.projection.weight"]
        table, grid = weights[f"{embeddings}.position_embeddings"][0], t.side // PATCH
        places = table[1:].reshape(grid, grid, t.width)
        places = places if size.cells == grid else interpolated(places, size.cells)
        bias = weights[f"{embeddings}.patch_embeddings.projection.bias"]
        own["positions"] = places.reshape(-1, t.width) + bias
        own["class"] = np.zeros((1 + (size.cells // size.windows) ** 2, t.width), np.float32)
        own["class"][0] = weights[f"{embeddings}.cls_token"][0, 0] + table[0]
        for i in range(t.depth):
            key, name = f"{BODY}.encoder.layer.{i}", f"body.{i}"
            scales = ((t.width // t.heads) ** -0.5, 1.0, 1.0)
            parts = [f"{key}.attention.attention.{part}" for part in ("query", "key", "value")]
            pairs = list(zip(parts, scales, strict=True))
            own[f"{name}.qkv"] = np.concatenate([weights[f"{p}.weight"].T * s for p, s in pairs], 1)
            own[f"{name}.qkv.bias"] = np.concatenate([weights[f"{p}.bias"] * s for p, s in pairs])
            linear(f"{key}.attention.output.dense", f"{name}.out", weights[f"{key}.layer_scale1.lambda1"])
            linear(f"{key}.mlp.fc1", f"{name}.fc1")
            linear(f"{key}.mlp.fc2", f"{name}.fc2", weights[f"{key}.layer_scale2.lambda1"])
            norm(f"{key}.norm1", f"{name}.norm1")
            norm(f"{key}.norm2", f"{name}.norm2")
        norm(f"{BODY}.layernorm", "body.norm")
        for part in ("cv1", "cv2"):
            own[f"projector.{part}"] = weights[f"{PROJECTOR}.0.{part}.conv.weight"][:, :, 0, 0].T
            norm(f"{PROJECTOR}.0.{part}.bn", f"projector.{part}.bn")
            for i in range(BLOCKS):
                own[f"projector.m.{i}.{part}"] = weights[f"{PROJECTOR}.0.m.{i}.{part}.conv.weight"]
                norm(f"{PROJECTOR}.0.m.{i}.{part}.bn", f"projector.m.{i}.{part}.bn")
        norm(f"{PROJECTOR}.1", "projector.norm")
        linear("transformer.enc_output.0", "places")
        norm("transformer.enc_output_norm.0", "places.norm")
        linear("transformer.enc_out_class_embed.0", "places.classes")
        mlp("transformer.enc_out_bbox_embed.0", "places.boxes", 3)
        own |= self._constants(weights)
        mlp(f"{DECODER}.ref_point_head", "place", 2)
        rows = own["place.0"].reshape(4, -1, t.hidden)
        own["place.0"] = rows[[1, 0, 2, 3]].reshape(-1, t.hidden)  # of y, x, w, h; here x comes first
        for i in range(size.layers):
            key, name = f"{DECODER}.layers.{i}", f"decoder.{i}"
            merged, bias = (
                weights[f"{key}.self_attn.in_proj_weight"].T,
                weights[f"{key}.self_attn.in_proj_bias"],
            )
            scale = np.repeat([(t.hidden // t.self_heads) ** -0.5, 1.0], t.hidden).astype(np.float32)
            pair = slice(0, 2 * t.hidden)
            own[f"{name}.query_key"], own[f"{name}.query_key.bias"] = (
                merged[:, pair] * scale,
                bias[pair] * scale,
            )
            own[f"{name}.value"], own[f"{name}.value.bias"] = merged[:, 2 * t.hidden :], bias[2 * t.hidden :]
            linear(f"{key}.self_attn.out_proj", f"{name}.out")
            # a place is centre + offset / points * half the size, and a map reaches from -1 to 1
            linear(f"{key}.cross_attn.sampling_offsets", f"{name}.cross.offsets", 1.0 / t.points)
            linear(f"{key}.cross_attn.attention_weights", f"{name}.cross.shares")
            linear(f"{key}.cross_attn.value_proj", f"{name}.cross.value")
            linear(f"{key}.cross_attn.output_proj", f"{name}.cross.out")
            linear(f"{key}.linear1", f"{name}.fc1")
            linear(f"{key}.linear2", f"{name}.fc2")
            for j in (1, 2, 3):
                norm(f"{key}.norm{j}", f"{name}.norm{j}")
        norm(f"{DECODER}.norm", "decoder.norm")
        linear("class_embed", "classes")
        mlp("bbox_embed", "boxes", 3)
        return own

    def _constants(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Cells of the map as boxes, queries, and the waves that tell places apart."""
        size, hidden = self.size, self.trained.hidden
        centres = (np.arange(size.cells) + 0.5) / size.cells
        grid = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
        learned = weights["refpoint_embed.weight"][: size.queries]
        others = np.where(np.arange(size.queries)[:, None] < size.chosen, 0, learned)
        number = np.arange(hidden // 2)
        return {
            "grid": np.concatenate([grid, np.full_like(grid, FIRST_EXTENT)], 1),
            "queries.places": learned[None, : size.chosen],
            "queries.others": others,
            "queries.features": weights["query_feat.weight"][None, : size.queries],
            "waves": 2 * np.pi / 10000 ** (2 * (number // 2) / (hidden // 2)),
            "phases": np.where(number % 2, np.pi / 2, 0.0),  # sine and cosine in turn
        }

    def costs(self) -> Iterator[tuple[Layer, Cost, Shape]]:
        """A product for every array that is used, and those of attention."""
        t, size = self.trained, self.size
        cells, tokens = size.cells**2, size.cells**2 + size.windows**2
        rows = {  # that an array is multiplied with, by the beginning or the end of its name
            f"{BODY}.embeddings": cells,
            BODY: tokens,
            PROJECTOR: cells,
            "transformer.enc_out_bbox_embed.0": size.chosen,
            "transformer.enc_": cells,
            "value_proj.weight": cells,
        }
        for name, shape in self.stored().items():
            group = re.match(r"transformer\.enc_\w+\.(\d+)\.", name)
            if group and group[1] != "0" or name.startswith(UNUSED):
                continue
            parts, params = name.rpartition("."), prod(shape)
            if len(shape) in (2, 4):
                count = next(
                    (n for k, n in rows.items() if name.startswith(k) or name.endswith(k)), size.queries
                )
                kind = "dense" if shape[-1] == 3 else "pointwise"
                layer = Linear(parts[0], params // shape[0], shape[0])
                yield layer, Cost(params * count, params, params, 2, kind), (count, shape[0])
            else:
                yield Linear(parts[0], 0, 0), Cost(params=params), (0,)
        for i in range(t.depth):
            alone = (tokens // size.windows**2) ** 2 * size.windows**2
            pairs = tokens**2 if spans_windows(i) else alone
            attention = Linear(f"body.{i}.attention", t.width, t.width)
            yield attention, Cost(2 * pairs * t.width, nodes=6, kind="dense"), (t.heads, pairs)
        for i in range(size.layers):
            pairs = size.queries**2
            attention = Linear(f"decoder.{i}.attention", t.hidden, t.hidden)
            yield attention, Cost(2 * pairs * t.hidden, nodes=20, kind="dense"), (t.self_heads, pairs)


class RfDetrSpace(SearchSpace):
    """The sub-networks of one checkpoint."""

    task, head, config_type, input_sizes = "detection", HEAD, RfDetrConfig, SIDES
    per_block: tuple[str, ...] = ()
    shown = ("decoder_layers", "queries", "windows")
    independent_blocks, one_row_each = False, True

    def __init__(self, name: str, trained: Trained) -> None:
        self.name, self.trained = name, trained
        queries = tuple(q for q in QUERIES if q <= trained.queries) or (trained.queries,)
        layers = tuple(range(1, trained.layers + 1))
        self.choices = {"decoder_layers": (layers,), "queries": (queries,), "windows": (WINDOWS,)}

    @property
    def native(self) -> RfDetrConfig:
        """The sub-network that the published checkpoint is of."""
        return self.config(resolution=self.trained.side, windows=2)

    def plan(self, config: Any, classes: int = CLASSES) -> Plan:
        shape = (3, config.resolution, config.resolution)
        return RfDetrPlan((), shape, 0.0, self.trained, config, classes)

    def label(self, config: Any) -> str:
        return f"r{config.resolution}l{config.decoder_layers[0]}q{config.queries[0]}w{config.windows[0]}"

    def preprocess(self, bgr: Image, config: Any) -> np.ndarray:
        from dynofa_ros.supernet.preprocess import normalised, resized  # loads OpenCV

        return normalised(resized(bgr, config.resolution, config.resolution))[None]

    def scale(self, image: Shape, config: Any) -> tuple[float, float]:
        return config.resolution / image[1], config.resolution / image[0]


# Their weights have to be supplied: none are known to `dynofa weights`.
FAMILY = Family({name: partial(RfDetrSpace, name, trained) for name, trained in SPACES.items()})
