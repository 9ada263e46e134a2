"""The networks of the published comparison as plans of this package's own layers, with random weights.

Built from the numbers in config/published/comparison.yaml, so that all of them run in the same engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np

from dynofa_ros.files import read_yaml
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.layers import Classifier, Conv, GlobalPool, Layer, Residual, make_divisible
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.space import Plan

OURS_SPACE = "ofa_mbv3_w1.2"
SIDE_PX, CLASSES, BN_EPSILON, ACTIVATION = 224, 1000, 1e-5, "relu6"
MOBILENET_V1 = (  # stride, output width (Howard et al., 2017, table 1)
    (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512),
    (1, 512), (1, 512), (1, 512), (1, 512), (2, 1024), (1, 1024),
)  # fmt: skip
MOBILENET_V2 = (  # expansion, output width, blocks, stride (Sandler et al., 2018, table 2)
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
WIDTHS = tuple(n / 100 for n in range(20, 101))  # among which the width of an operation count is looked for


class PublishedSubnet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sub-network of Dynamic-OFA; name: "<library>/<level>", config: as a library file holds it."""

    name: str
    accuracy: float
    xavier_nx_gpu_ms: float
    config: dict[str, Any]


class AutoSlimNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    macs_m: float
    accuracy: float
    channels: tuple[int, ...]


class AutoSlim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Blocks are (stride, kernel)."""

    blocks: tuple[tuple[int, int], ...]
    networks: tuple[AutoSlimNetwork, ...]


class MobileNetPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``width`` None = the one whose operation count comes closest."""

    macs_m: float
    accuracy: float
    width: float | None = None


class MobileNetFamily(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    architecture: Literal["mobilenet_v1", "mobilenet_v2"]
    points: tuple[MobileNetPoint, ...]


class Gain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    speed_up: float
    gain_points: float


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """config/published/comparison.yaml. Accuracies are fractions."""

    dynamic_ofa: tuple[PublishedSubnet, ...]
    autoslim_mnasnet: AutoSlim
    mobilenets: dict[str, MobileNetFamily]
    published_gains: dict[str, Gain]


@dataclass(frozen=True)
class Network:
    """One point of the comparison; ``published_macs`` NaN where its authors gave none."""

    name: str
    family: str
    accuracy: float
    plan: Plan
    published_macs: float = float("nan")

    @property
    def macs(self) -> int:
        """Multiply-accumulates at the network's own input size."""
        return self.plan.macs


@lru_cache(maxsize=1)
def published() -> Published:
    """The published comparison. Raises FileNotFoundError, or msgspec.ValidationError naming the key."""
    path = share_file("config", "published", "comparison.yaml")
    return read_yaml(path, Published)


def networks() -> tuple[Network, ...]:
    """Every network of the comparison; the families of ours begin with "dynamic_ofa"."""
    data = published()
    found = list(_dynamic_ofa(data))
    for net in data.autoslim_mnasnet.networks:
        plan = autoslim_mnasnet(data.autoslim_mnasnet.blocks, net.channels)
        name = f"autoslim_mnasnet {net.macs_m:g}M"
        found.append(Network(name, "autoslim_mnasnet", net.accuracy, plan, net.macs_m * 1e6))
    for family, members in data.mobilenets.items():
        for point in members.points:
            width = point.width or width_of(members.architecture, point.macs_m * 1e6)
            plan = ARCHITECTURES[members.architecture](width)
            name = f"{family} {point.macs_m:g}M"
            found.append(Network(name, family, point.accuracy, plan, point.macs_m * 1e6))
    return tuple(found)


def _dynamic_ofa(data: Published) -> Iterator[Network]:
    space = load_space(OURS_SPACE)
    for subnet in data.dynamic_ofa:
        plan = space.plan(space.from_mapping(subnet.config))
        family = f"dynamic_ofa_{subnet.name.partition('/')[0]}"
        yield Network(f"dynamic_ofa {subnet.name}", family, subnet.accuracy, plan)


def _plan(layers: list[Layer], features: int) -> Plan:
    return Plan(
        (*layers, GlobalPool(), Classifier("classifier", features, CLASSES)),
        (3, SIDE_PX, SIDE_PX),
        BN_EPSILON,
    )


def _conv(
    key: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, act: str = ACTIVATION
) -> Conv:
    return Conv(key, inputs, outputs, kernel, stride, activation=act)


def _depthwise(key: str, channels: int, kernel: int, stride: int) -> Conv:
    return Conv(key, channels, channels, kernel, stride, groups=channels, activation=ACTIVATION)


def _inverted_residual(
    key: str, inputs: int, middle: int | None, outputs: int, kernel: int, stride: int
) -> tuple[Layer, ...]:
    """``middle`` None = no expansion."""
    expansion = () if middle is None else (_conv(f"{key}.expand", inputs, middle),)
    width = middle or inputs
    body = (
        *expansion,
        _depthwise(f"{key}.depthwise", width, kernel, stride),
        _conv(f"{key}.project", width, outputs, act=""),
    )
    return (Residual(body),) if stride == 1 and inputs == outputs else body


def mobilenet_v1(width: float) -> Plan:
    """MobileNetV1 at a width multiplier, widths rounded to multiples of 8."""
    inputs = make_divisible(32 * width)
    layers: list[Layer] = [_conv("stem", 3, inputs, 3, 2)]
    for number, (stride, full) in enumerate(MOBILENET_V1):
        outputs = make_divisible(full * width)
        layers += [
            _depthwise(f"{number}.depthwise", inputs, 3, stride),
            _conv(f"{number}.point", inputs, outputs),
        ]
        inputs = outputs
    return _plan(layers, inputs)


def mobilenet_v2(width: float) -> Plan:
    """MobileNetV2 at a width multiplier up to 1; its last convolution keeps 1280 channels."""
    inputs = make_divisible(32 * width)
    layers: list[Layer] = [_conv("stem", 3, inputs, 3, 2)]
    for stage, (expansion, full, blocks, first_stride) in enumerate(MOBILENET_V2):
        outputs = make_divisible(full * width)
        for block in range(blocks):
            middle = None if expansion == 1 else inputs * expansion
            stride = first_stride if block == 0 else 1
            layers += _inverted_residual(f"{stage}.{block}", inputs, middle, outputs, 3, stride)
            inputs = outputs
    return _plan([*layers, _conv("head", inputs, 1280)], 1280)


def autoslim_mnasnet(blocks: tuple[tuple[int, int], ...], channels: tuple[int, ...]) -> Plan:
    """MnasNet with the channel numbers that AutoSlim found. Raises ValueError for another number of them."""
    if len(channels) != 2 * len(blocks) + 2 or channels[-1] != CLASSES:
        raise ValueError(
            f"channels: {len(channels)} numbers that end with {channels[-1]} for {len(blocks)} blocks: "
            f"expected {2 * len(blocks) + 2} that end with {CLASSES} classes"
        )
    widths = iter(channels)
    inputs = next(widths)
    layers: list[Layer] = [_conv("stem", 3, inputs, 3, 2)]
    for number, (stride, kernel) in enumerate(blocks):
        middle = None if number == 0 else next(widths)
        outputs = next(widths)
        layers += _inverted_residual(str(number), inputs, middle, outputs, kernel, stride)
        inputs = outputs
    features = next(widths)
    return _plan([*layers, _conv("head", inputs, features)], features)


ARCHITECTURES = {"mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2}


def width_of(architecture: str, macs: float) -> float:
    """The least width multiplier whose operation count comes closest to ``macs``."""
    build = ARCHITECTURES[architecture]
    return min(WIDTHS, key=lambda width: abs(build(width).macs - macs))


def random_weights(plan: Plan, seed: int = 0) -> dict[str, np.ndarray]:
    """He-initialised weights by official name with unit normalisation: for latency only."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for key, shape in plan.stored().items():
        if key.endswith("_matrix"):
            weights[key] = np.eye(shape[0], dtype=np.float32)
        elif len(shape) > 1:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            weights[key] = (rng.standard_normal(shape) * scale).astype(np.float32)
        else:
            one = key.endswith(("bn.weight", "running_var"))
            weights[key] = np.full(shape, float(one), np.float32)
    return weights
