"""ResNet-50D with elastic width, expansion (share of the output width) and depth, as once-for-all has it.

The first depth keeps the residual convolution of the stem (2) or skips it; the others are blocks beyond the
base depth of a stage. Widths are indices: stem, stem output, one per stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynofa_ros.supernet.layers import (
    AveragePool,
    Classifier,
    Conv,
    GlobalPool,
    Layer,
    MaxPool,
    Residual,
    make_divisible,
)
from dynofa_ros.supernet.registry import Family
from dynofa_ros.supernet.space import SearchSpace, SubnetConfig

WIDTHS, EXPAND_RATIOS, EXTRA_DEPTHS = (0.65, 0.8, 1.0), (0.2, 0.25, 0.35), (0, 1, 2)


@dataclass(frozen=True)
class Stage:
    """A run of bottleneck blocks; ``widths`` are the output widths to choose from."""

    widths: tuple[int, ...]
    stride: int
    base_depth: int

    @property
    def blocks(self) -> int:
        return self.base_depth + EXTRA_DEPTHS[-1]


class ResNetSpace(SearchSpace):
    """The sub-networks of ResNet-50D."""

    name, input_sizes, bn_epsilon = "ofa_resnet50", range(128, 225, 4), 1e-5
    independent_blocks = False  # widths are elastic
    official_network = (
        "OFAResNets",
        {
            "dropout_rate": 0,
            "depth_list": list(EXTRA_DEPTHS),
            "expand_ratio_list": list(EXPAND_RATIOS),
            "width_mult_list": list(WIDTHS),
        },
    )
    stem_outputs = tuple(make_divisible(64 * m) for m in WIDTHS)
    stem_widths = tuple(make_divisible(w // 2) for w in stem_outputs)
    stages = tuple(
        Stage(tuple(make_divisible(width * m) for m in WIDTHS), stride, base)
        for width, stride, base in ((256, 1, 2), (512, 2, 2), (1024, 2, 4), (2048, 2, 2))
    )

    def __init__(self) -> None:
        blocks = [stage.blocks for stage in self.stages]
        self._stage = np.repeat(np.arange(len(blocks)), blocks)
        self._beyond_base = np.concatenate([np.arange(s.blocks) - s.base_depth for s in self.stages])
        self.choices = {
            "kernel_sizes": (),
            "expand_ratios": (EXPAND_RATIOS,) * sum(blocks),
            "depths": (EXTRA_DEPTHS,) * (1 + len(blocks)),
            "widths": (tuple(range(len(WIDTHS))),) * (2 + len(blocks)),
        }

    def active(self, genes: np.ndarray) -> np.ndarray:
        extra = genes[:, self.columns["depths"]][:, 1:]  # a depth is its own position
        return np.asarray(self._beyond_base < extra[:, self._stage])

    def layers(self, config: SubnetConfig, classes: int) -> Sequence[Layer]:
        stem, inputs = self.stem_widths[config.widths[0]], self.stem_outputs[config.widths[1]]
        layers: list[Layer] = [Conv("input_stem.0", 3, stem, 3, 2, activation="relu", elastic=True)]
        if config.depths[0] == EXTRA_DEPTHS[-1]:
            layers += [Residual((Conv("input_stem.1.conv", stem, stem, 3, activation="relu", elastic=True),))]
        layers += [Conv("input_stem.2", stem, inputs, 3, activation="relu", elastic=True), MaxPool(3, 2)]
        block = 0
        for stage, extra, width in zip(self.stages, config.depths[1:], config.widths[2:], strict=True):
            outputs = stage.widths[width]
            for position in range(stage.blocks):
                key, expand, first = f"blocks.{block}", config.expand_ratios[block], position == 0
                block += 1
                if position < stage.base_depth + extra:
                    stride = stage.stride if first else 1
                    layers.append(_bottleneck(key, inputs, outputs, expand, stride, first))
                    inputs = outputs
        return [*layers, GlobalPool(), Classifier("classifier.linear.linear", inputs, classes)]


def _bottleneck(key: str, inputs: int, outputs: int, expand: float, stride: int, first: bool) -> Residual:
    middle = make_divisible(round(outputs * expand))
    body = (
        Conv(f"{key}.conv1", inputs, middle, activation="relu", elastic=True),
        Conv(f"{key}.conv2", middle, middle, 3, stride, activation="relu", elastic=True),
        Conv(f"{key}.conv3", middle, outputs, elastic=True),
    )
    pool = (AveragePool(stride),) if stride > 1 else ()
    shortcut = (*pool, Conv(f"{key}.downsample", inputs, outputs, elastic=True)) if first else ()
    return Residual(body, shortcut, "relu")


FAMILY = Family({ResNetSpace.name: ResNetSpace}, official=(ResNetSpace.name,))
