"""Inverted bottlenecks with elastic kernel, expansion and depth: MobileNetV3 and ProxylessNAS at any width.

Architecture facts are those of the once-for-all project (Cai et al., ICLR 2020); every width is rounded to a
multiple of 8 as in MobileNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dynofa_ros.supernet.layers import (
    Classifier,
    Conv,
    GlobalPool,
    Layer,
    Residual,
    SqueezeExcite,
    make_divisible,
)
from dynofa_ros.supernet.registry import DEMO_SPACE, Family
from dynofa_ros.supernet.space import CLASSES, PredictorInput, SearchSpace, SubnetConfig, TableLayout

KERNEL_SIZES, EXPAND_RATIOS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
WIDTHS = (0.1, 8.0)  # multipliers that make sense
DEMO_WIDTH = 0.35
DEMO_SIZES, OFFICIAL_SIZES = range(64, 129, 4), range(128, 225, 4)
PUBLISHED_SPACE = "ofa_mbv3_w1.2"  # has an accuracy predictor and latency tables
BIN_START_PX, BIN_PX, BINS = 112, 16, 8
PREDICTED_SIZES = range(160, 225, 4)  # below, the predictor rates smaller images higher


@dataclass(frozen=True)
class Stage:
    """A run of inverted-bottleneck blocks; the first one strides, the others are residual."""

    width: int
    stride: int
    activation: str
    squeeze_excite: bool = False
    depths: tuple[int, ...] = DEPTHS


@dataclass(frozen=True)
class MobileNet:
    """The declaration of a network.

    The head is expansion, pooling, feature mix; without a ``final_width`` feature mix, pooling.
    """

    stem_width: int
    first_width: int
    first_activation: str
    first_residual: bool
    stages: tuple[Stage, ...]
    final_width: int | None
    feature_width: int
    activation: str  # of stem and head
    bn_epsilon: float


def mobilenet_v3(width: float) -> MobileNet:
    """The once-for-all MobileNetV3 at a width multiplier."""
    stem, *widths = (make_divisible(w * width) for w in (16, 24, 40, 80, 112, 160))
    activations = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    squeeze_excites = (False, True, False, True, True)
    return MobileNet(
        stem_width=stem,
        first_width=stem,
        first_activation="relu",
        first_residual=True,
        stages=tuple(map(Stage, widths, (2, 2, 2, 1, 2), activations, squeeze_excites)),
        final_width=make_divisible(960 * width),
        feature_width=make_divisible(1280 * width),
        activation="h_swish",
        bn_epsilon=1e-5,
    )


def proxyless(width: float) -> MobileNet:
    """The once-for-all ProxylessNAS at a width multiplier; its sixth stage is one block that always runs."""
    stem, first, *widths, features = (
        make_divisible(w * width) for w in (32, 16, 24, 40, 80, 96, 192, 320, 1280)
    )
    depths = (DEPTHS,) * 5 + ((1,),)
    return MobileNet(
        stem_width=stem,
        first_width=first,
        first_activation="relu6",
        first_residual=False,
        stages=tuple(
            Stage(w, stride, "relu6", depths=depth)
            for w, stride, depth in zip(widths, (2, 2, 2, 1, 2, 1), depths, strict=True)
        ),
        final_width=None,
        feature_width=features,
        activation="relu6",
        bn_epsilon=1e-3,
    )


class MobileNetSpace(SearchSpace):
    """The sub-networks of one MobileNet."""

    def __init__(self, name: str, net: MobileNet, input_sizes: range) -> None:
        self.name, self.net, self.input_sizes, self.bn_epsilon = name, net, input_sizes, net.bn_epsilon
        self._stage = np.repeat(np.arange(len(net.stages)), [s.depths[-1] for s in net.stages])
        self._position = np.concatenate([np.arange(s.depths[-1]) for s in net.stages])
        self._shallowest = np.array([s.depths[0] for s in net.stages])
        self.choices = {
            "kernel_sizes": (KERNEL_SIZES,) * len(self._stage),
            "expand_ratios": (EXPAND_RATIOS,) * len(self._stage),
            "depths": tuple(stage.depths for stage in net.stages),
            "widths": (),
        }
        if name == PUBLISHED_SPACE:
            self.latency_table = TableLayout(self._table_keys, 2 * self._stage + (self._position > 0))
            self.predictor = PredictorInput(f"{name}.safetensors", PREDICTED_SIZES, self._features)

    def active(self, genes: np.ndarray) -> np.ndarray:
        depths = genes[:, self.columns["depths"]] + self._shallowest
        return np.asarray(self._position < depths[:, self._stage])

    def of_layers(self, network: Mapping[str, Any]) -> dict[str, Any]:
        found: list[tuple[int, int, float]] = []  # of every elastic block: width, kernel, expansion
        try:
            for block in network["blocks"][1:]:
                conv = block.get("mobile_inverted_conv") or block["conv"]
                middle, inputs = conv["mid_channels"], conv["in_channels"]
                expand = conv["expand_ratio"] if middle is None else middle / inputs
                found.append((int(conv["out_channels"]), int(conv["kernel_size"]), float(expand)))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError):
            raise ValueError(f"{self.name}: this net.config has a block of another kind") from None
        kernels, expansions, depths = [], [], []
        widths = [width for width, _, _ in found]
        for stage in self.net.stages:
            own = [block for block in found if block[0] == stage.width]
            spare = stage.depths[-1] - len(own)
            kernels += [kernel for _, kernel, _ in own] + [KERNEL_SIZES[0]] * spare
            expansions += [_nearest(expand) for _, _, expand in own] + [EXPAND_RATIOS[0]] * spare
            depths.append(len(own))
        if widths != [
            s.width for s, depth in zip(self.net.stages, depths, strict=True) for _ in range(depth)
        ]:
            raise ValueError(f"{self.name}: this net.config has blocks of widths {widths}, of another space")
        return {"kernel_sizes": kernels, "expand_ratios": expansions, "depths": depths}

    def _features(self, sizes: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """One-hot groups: blocks x kernel | blocks x expansion | bins of 16 px from 112 px on; a skipped
        block is all zero. Every 16 px share a bin, so that 208 to 220 px are predicted alike."""
        low, high = PREDICTED_SIZES[0], PREDICTED_SIZES[-1]
        refused = np.flatnonzero((sizes < low) | (sizes > high))
        if refused.size:
            raise ValueError(
                f"resolution = {sizes[refused[0]]} (sub-network {refused[0]}): the accuracy predictor "
                f"of {self.name} holds for {low} to {high} px only"
            )
        one_hot, mask = np.eye(3, dtype=np.float32), self.active(genes)[..., None].astype(np.float32)
        groups = (one_hot[genes[:, self.columns[name]]] * mask for name in self.per_block)
        bins = np.eye(BINS, dtype=np.float32)[(sizes - BIN_START_PX) // BIN_PX]
        return np.concatenate([*(g.reshape(len(sizes), 3 * mask.shape[1]) for g in groups), bins], axis=1)

    def body(self, config: Any) -> list[list[Layer]]:
        """The layers before the head: those of the stem, then those of every stage."""
        net, stem, first = self.net, self.net.stem_width, "blocks.0.conv"
        first_block = (
            Conv(f"{first}.depth_conv", stem, stem, kernel=3, groups=stem, activation=net.first_activation),
            Conv(f"{first}.point_linear", stem, net.first_width),
        )
        layers: list[Layer] = [Conv("first_conv", 3, stem, kernel=3, stride=2, activation=net.activation)]
        parts = [layers + ([Residual(first_block)] if net.first_residual else list(first_block))]
        inputs, block = net.first_width, 0
        for stage, depth in zip(net.stages, config.depths, strict=True):
            layers = []
            for position in range(stage.depths[-1]):
                kernel, expand = config.kernel_sizes[block], config.expand_ratios[block]
                block += 1
                if position >= depth:
                    continue
                stride = stage.stride if position == 0 else 1
                body = _inverted_bottleneck(f"blocks.{block}.conv", inputs, stage, kernel, expand, stride)
                layers += [Residual(body)] if position else body
                inputs = stage.width
            parts.append(layers)
        return parts

    def layers(self, config: SubnetConfig, classes: int) -> Sequence[Layer]:
        net, act = self.net, self.net.activation
        layers = [layer for part in self.body(config) for layer in part]
        inputs, mixed = net.stages[-1].width, net.feature_width
        if net.final_width is None:
            layers += [Conv("feature_mix_layer", inputs, mixed, activation=act), GlobalPool()]
        else:
            layers += [Conv("final_expand_layer", inputs, net.final_width, activation=act), GlobalPool()]
            layers += [Conv("feature_mix_layer", net.final_width, mixed, activation=act, normalised=False)]
        return [*layers, Classifier("classifier.linear", mixed, classes)]

    def _table_keys(self, input_size: int) -> tuple[list[str], list[list[str]]]:
        """Positions: of each stage the first block, and any later one."""
        side, channels = (input_size + 1) // 2, self.net.stem_width
        stem = f"{side}x{side}x{channels}"
        positions: list[list[str]] = []
        for stage in self.net.stages:
            for step, skip in ((stage.stride, 0), (1, 1)):
                before, side = f"{side}x{side}x{channels}", (side - 1) // step + 1
                flags = f"se:{stage.squeeze_excite:d}-hs:{stage.activation == 'h_swish':d}"
                positions.append(
                    [
                        f"expanded_conv-input:{before}-output:{side}x{side}x{stage.width}"
                        f"-expand:{channels * expand}-kernel:{kernel}-stride:{step}-idskip:{skip}-{flags}"
                        for kernel, expand in product(KERNEL_SIZES, EXPAND_RATIOS)
                    ]
                )
                channels = stage.width
        final, features = self.net.final_width, self.net.feature_width
        fixed = [
            f"Conv-input:{input_size}x{input_size}x3-output:{stem}",
            f"expanded_conv-input:{stem}-output:{stem}-expand:{self.net.stem_width}"
            "-kernel:3-stride:1-idskip:1-se:0-hs:0",
            f"Conv_1-input:{side}x{side}x{channels}-output:{side}x{side}x{final}",
            f"AvgPool2D-input:{side}x{side}x{final}-output:1x1x{final}",
            f"Conv_2-input:1x1x{final}-output:1x1x{features}",
            f"Logits-input:1x1x{features}-output:{CLASSES}",
        ]
        return fixed, positions


def _nearest(expand: float) -> int:
    """The expansion that a width, rounded to a multiple of 8, comes from."""
    return min(EXPAND_RATIOS, key=lambda known: abs(known - expand))


def _inverted_bottleneck(
    key: str, inputs: int, stage: Stage, kernel: int, expand: float, stride: int
) -> tuple[Layer, ...]:
    middle, act = make_divisible(round(inputs * expand)), stage.activation
    expansion = Conv(f"{key}.inverted_bottleneck", inputs, middle, activation=act, elastic=True)
    depthwise = Conv(
        f"{key}.depth_conv",
        middle,
        middle,
        kernel,
        stride,
        groups=middle,
        activation=act,
        elastic=True,
        stored_kernel=7,
    )
    attention = (SqueezeExcite(f"{key}.depth_conv.se.fc", middle),) if stage.squeeze_excite else ()
    projection = Conv(f"{key}.point_linear", middle, stage.width, elastic=True)
    return (expansion, depthwise, *attention, projection)


class MobileNets(Family):
    """Spaces by name; the width multiplier is part of it."""

    spaces = (
        f"ofa_mbv3_w<width>, ofa_proxyless_w<width> (a width in 0.1..8, as in ofa_mbv3_w1.2), {DEMO_SPACE}"
    )
    _declarations = {
        "mbv3": (mobilenet_v3, "OFAMobileNetV3"),
        "proxyless": (proxyless, "OFAProxylessNASNets"),
    }

    def space(self, name: str) -> SearchSpace | None:
        if name == DEMO_SPACE:
            return MobileNetSpace(name, mobilenet_v3(DEMO_WIDTH), DEMO_SIZES)
        match = re.fullmatch(r"ofa_(mbv3|proxyless)_w((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)", name)
        if match is None or not WIDTHS[0] <= float(match[2]) <= WIDTHS[1]:
            return None
        declare, official = self._declarations[match[1]]
        space = MobileNetSpace(name, declare(float(match[2])), OFFICIAL_SIZES)
        elastic: dict[str, Any] = {
            "ks_list": list(KERNEL_SIZES),
            "expand_ratio_list": list(EXPAND_RATIOS),
            "depth_list": list(DEPTHS),
        }
        space.official_network = (official, {"width_mult": float(match[2]), "dropout_rate": 0, **elastic})
        return space


FAMILY = MobileNets(official=("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3"))
