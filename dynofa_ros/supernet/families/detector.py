"""Detectors: the elastic body of a once-for-all MobileNetV3 under a neck and a head that never change.

The output widths of the stages are not elastic, so that one neck and one head serve every sub-network. The
neck is a feature pyramid with a bottom-up path (Lin et al., CVPR 2017; Liu et al., CVPR 2018) of depthwise
separable 5x5 convolutions; the head predicts, without anchor boxes, at every cell of three levels the
distances to the four sides and a score per class (Tian et al., ICCV 2019).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from dynofa_ros.supernet.families.mobilenet import (
    DEMO_WIDTH,
    WIDTHS,
    MobileNet,
    MobileNetSpace,
    mobilenet_v3,
)
from dynofa_ros.supernet.layers import (
    Arrays,
    Conv,
    Cost,
    Cut,
    Forward,
    GraphBuilder,
    Layer,
    Normalise,
    Op,
    Residual,
    Shape,
    chain,
)
from dynofa_ros.supernet.registry import DEMO_SPACE, Family
from dynofa_ros.supernet.space import CLASSES, Config, Plan

if TYPE_CHECKING:
    from dynofa_ros.supernet.preprocess import Image

STRIDES = (8, 16, 32)  # px between the cells of a level
TAPS = (2, 4, 5)  # stages whose results the neck takes
STEP_PX = STRIDES[-1]  # sides of an input are multiples
DEMO_INPUT_WIDTHS, INPUT_WIDTHS, HEIGHTS = range(160, 513, 32), range(256, 961, 32), range(32, 961, 32)
ASPECT = 9 / 16  # height by width of a camera, where no height is given
SUFFIX = "_detector"
Value = TypeVar("Value")


class DetectorConfig(Config, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sub-network and its input, px; entries of skipped blocks have no effect."""

    height: int = 0
    width: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int | float, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Pyramid(Layer):
    """Body, neck and head: raw predictions (4 + classes, cells), level by level.

    body: to each tap from the one before; laterals: from each tap to the width of the neck; top_down: behind
    the sums of the middle and of the fine level; bottom_up: to the next coarser level; towers: of each level.
    """

    body: tuple[tuple[Layer, ...], ...]
    laterals: tuple[tuple[Layer, ...], ...]
    top_down: tuple[tuple[Layer, ...], ...]
    bottom_up: tuple[tuple[Layer, ...], ...]
    towers: tuple[tuple[Layer, ...], ...]
    width: int
    classes: int
    key: str = "head"

    @property
    def branches(self) -> tuple[tuple[Layer, ...], ...]:
        return (*self.body, *self.laterals, *self.top_down, *self.bottom_up, *self.towers)

    def _levels(
        self,
        run: Callable[[int, Value], Value],
        add: Callable[[Value, Value], Value],
        double: Callable[[Value], Value],
        x: Value,
    ) -> list[Value]:
        """How the branches, by index, are wired, for tensors, names of ONNX values and shapes alike."""
        taps: list[Value] = []
        for branch in range(3):
            x = run(branch, x)
            taps.append(x)
        fine, middle, coarse = (run(3 + level, tap) for level, tap in enumerate(taps))
        middle = run(6, add(middle, double(coarse)))
        fine = run(7, add(fine, double(middle)))
        middle = add(middle, run(8, fine))
        coarse = add(coarse, run(9, middle))
        return [run(10 + level, x) for level, x in enumerate((fine, middle, coarse))]

    def _shapes(self, inputs: Shape) -> tuple[list[Shape], list[Shape]]:
        """Shapes of the levels, and of the inputs of the branches."""
        started: list[Shape] = [()] * len(self.branches)

        def run(branch: int, shape: Shape) -> Shape:
            started[branch] = shape
            for layer in self.branches[branch]:
                shape = layer.shape(shape)
            return shape

        levels = self._levels(run, lambda a, b: a, lambda s: (s[0], 2 * s[1], 2 * s[2]), inputs)
        return levels, started

    def branch_inputs(self, inputs: Shape) -> tuple[Shape, ...]:
        return tuple(self._shapes(inputs)[1])

    def shape(self, inputs: Shape) -> Shape:
        return (4 + self.classes, sum(rows * columns for _, rows, columns in self._shapes(inputs)[0]))

    def cost(self, outputs: Shape) -> Cost:
        weights = outputs[0] * self.width
        return Cost(weights * outputs[1], weights + outputs[0] + 3, weights, 12, "pointwise")

    def stored(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.key}.scales.weight": (len(STRIDES),)}
        for name, rows in (("boxes", 4), ("classes", self.classes)):
            shapes |= {f"{self.key}.{name}.weight": (rows, self.width), f"{self.key}.{name}.bias": (rows,)}
        return shapes

    def cut(self, weights: Arrays) -> Cut:
        return {key.removeprefix(f"{self.key}."): weights[key] for key in self.stored()}

    def _predictor(self, arrays: Mapping[str, Any], level: int, concatenate: Any) -> tuple[Any, Any]:
        """Weight and bias of the convolution of a level: all share it up to a factor of the distances."""
        factor = arrays["scales.weight"][level]
        weight = concatenate([arrays["boxes.weight"] * factor, arrays["classes.weight"]])
        bias = concatenate([arrays["boxes.bias"] * factor, arrays["classes.bias"]])
        return weight[:, :, None, None], bias

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        import torch
        from torch.nn import functional

        steps = [chain(ops, normalise) for ops in op.branches]
        predictors = [self._predictor(op.arrays, level, torch.cat) for level in range(len(STRIDES))]

        def double(x: Any) -> Any:
            return functional.interpolate(x, scale_factor=2, mode="nearest")

        def run(x: Any) -> Any:
            levels = self._levels(lambda branch, y: steps[branch](y), torch.add, double, x)
            raw = [functional.conv2d(y, *p).flatten(2) for y, p in zip(levels, predictors, strict=True)]
            return torch.cat(raw, 2)

        return run

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        twice = graph.node("Constant", value_floats=[1.0, 1.0, 2.0, 2.0])

        def double(y: str) -> str:
            form = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return graph.node("Resize", y, "", twice, mode="nearest", **form)

        def run(branch: int, y: str) -> str:
            return graph.sequence(y, op.branches[branch])

        levels = self._levels(run, lambda a, b: graph.node("Add", a, b), double, x)
        flat = graph.node("Constant", value_ints=[0, 4 + self.classes, -1])
        predicted = [
            graph.conv(y, *self._predictor(op.arrays, i, np.concatenate)) for i, y in enumerate(levels)
        ]
        return graph.node("Concat", *(graph.node("Reshape", y, flat) for y in predicted), axis=2)


@dataclass(frozen=True)
class Boxes(Layer):
    """Raw predictions to boxes and scores: (4 + classes, cells) -> (cells, 4 + classes).

    A row is left, top, right, bottom in pixels of the input, then the probability of every class.
    """

    height: int
    width: int

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (cells, 2) as x, y, and strides (cells,), px, of all cells, level by level."""
        centres = [
            np.stack(np.meshgrid(*(np.arange(s // 2, side, s) for side in (self.width, self.height))), -1)
            for s in STRIDES
        ]
        flat = [c.reshape(-1, 2).astype(np.float32) for c in centres]
        return np.concatenate(flat), np.repeat(np.array(STRIDES, np.float32), [len(c) for c in flat])

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors and offsets, both (4, cells), from distances in strides to sides in px."""
        centres, strides = self.cells()
        factor = np.array([-1, -1, 1, 1], np.float32)[:, None] * strides
        return factor, np.concatenate([centres, centres], 1).T

    def sides(self, raw: Any) -> Any:
        """Torch: the four raw values of all cells, (N, 4, cells), as boxes in px of the same shape."""
        import torch
        from torch.nn import functional

        factor, offset = (torch.from_numpy(a).to(raw.device) for a in self._affine())
        return functional.softplus(raw) * factor + offset

    def shape(self, inputs: Shape) -> Shape:
        return (inputs[1], inputs[0])

    def forward(self, op: Op, normalise: Normalise | None) -> Forward:
        import torch

        return lambda x: torch.cat([self.sides(x[:, :4]), x[:, 4:].sigmoid()], 1).transpose(1, 2)

    def export(self, graph: GraphBuilder, x: str, op: Op) -> str:
        def rows(start: int, end: int) -> str:
            limits = [graph.node("Constant", value_ints=[v]) for v in (start, end, 1)]
            return graph.node("Slice", x, *limits)

        factor, offset = (graph.constant(a) for a in self._affine())
        distances = graph.node("Softplus", rows(0, 4))
        boxes = graph.node("Add", graph.node("Mul", distances, factor), offset)
        scores = graph.node("Sigmoid", rows(4, np.iinfo(np.int32).max))
        return graph.node("Transpose", graph.node("Concat", boxes, scores, axis=1), perm=[0, 2, 1])


class DetectorSpace(MobileNetSpace):
    """The sub-networks of one detector. All take images of any aspect, fitted into their input."""

    config_type = DetectorConfig
    size_entry = "width"
    task = "detection"
    head = "head.classes.weight"

    def __init__(self, name: str, net: MobileNet, input_widths: range, neck_width: int) -> None:
        super().__init__(name, net, input_widths)
        del self.choices["widths"]
        self.neck_width, self.aspect = neck_width, ASPECT

    def with_aspect(self, aspect: float) -> DetectorSpace:
        """The same space, whose inputs are by default as high by their width as images of an aspect."""
        space = copy(self)
        space.aspect = aspect
        return space

    def config(self, height: int | None = None, **entries: Any) -> DetectorConfig:
        """As of every space; height: by default that of images of its aspect (16:9), rounded up."""
        config = super().config(**entries)
        if height is None:
            height = fitting_height(config.width, self.aspect)
        elif height not in HEIGHTS:
            raise ValueError(
                f"height = {height!r} is not allowed: it must be a multiple of {STEP_PX} "
                f"in {HEIGHTS[0]}..{HEIGHTS[-1]}"
            )
        return msgspec.structs.replace(config, height=int(height))

    def label(self, config: Any) -> str:
        return f"{config.width}x{config.height}"

    def describe(self, config: Any) -> dict[str, str]:
        return {**super().describe(config), "px": self.label(config)}

    def preprocess(self, bgr: Image, config: Any) -> np.ndarray:
        from dynofa_ros.supernet.preprocess import letterbox  # loads OpenCV

        return letterbox(bgr, config.height, config.width)

    def scale(self, image: Shape, config: Any) -> tuple[float, float]:
        from dynofa_ros.supernet.preprocess import letterbox_scale

        return letterbox_scale(image, config.height, config.width)

    def plan(self, config: Any, classes: int = CLASSES) -> Plan:
        shape = (3, config.height, config.width)
        return Plan(tuple(self.layers(config, classes)), shape, self.bn_epsilon)

    def layers(self, config: Any, classes: int) -> Sequence[Layer]:
        parts, n = self.body(config), self.neck_width
        starts = (0, *(tap + 1 for tap in TAPS))
        body = tuple(
            tuple(layer for part in parts[start:end] for layer in part)
            for start, end in zip(starts, starts[1:], strict=False)
        )
        taps = [self.net.stages[tap - 1].width for tap in TAPS]
        pyramid = Pyramid(
            body=body,
            laterals=tuple(
                (Conv(f"neck.lateral.{i}", w, n, activation="h_swish"),) for i, w in enumerate(taps)
            ),
            top_down=tuple(_separable(f"neck.top_down.{i}", n) for i in range(2)),
            bottom_up=tuple(_separable(f"neck.bottom_up.{i}", n, stride=2) for i in range(2)),
            towers=tuple(
                tuple(Residual(_separable(f"head.tower.{level}.{i}", n)) for i in range(2))
                for level in range(len(STRIDES))
            ),
            width=n,
            classes=classes,
        )
        return (pyramid, Boxes(config.height, config.width))


def fitting_height(width: int, aspect: float) -> int:
    """Least height, px, at which the input of a width holds images of an aspect (height by width) whole."""
    steps = int(np.ceil(width * aspect / STEP_PX - 1e-6))
    return int(np.clip(STEP_PX * steps, HEIGHTS[0], HEIGHTS[-1]))


def _separable(key: str, width: int, stride: int = 1) -> tuple[Layer, ...]:
    depthwise = Conv(f"{key}.depth", width, width, 5, stride, groups=width, activation="h_swish")
    return (depthwise, Conv(f"{key}.point", width, width, activation="h_swish"))


class Detectors(Family):
    """A detector for every MobileNetV3."""

    spaces = f"{DEMO_SPACE}{SUFFIX}, ofa_mbv3_w<width>{SUFFIX}"

    def space(self, name: str) -> DetectorSpace | None:
        if name == DEMO_SPACE + SUFFIX:
            return DetectorSpace(name, mobilenet_v3(DEMO_WIDTH), DEMO_INPUT_WIDTHS, neck_width=48)
        match = re.fullmatch(rf"ofa_mbv3_w((?:0|[1-9][0-9]*)(?:\.[0-9]+)?){SUFFIX}", name)
        if match is None or not WIDTHS[0] <= float(match[1]) <= WIDTHS[1]:
            return None
        width = float(match[1])
        neck = 96 if width >= 0.75 else 48
        return DetectorSpace(name, mobilenet_v3(width), INPUT_WIDTHS, neck)


FAMILY = Detectors()
