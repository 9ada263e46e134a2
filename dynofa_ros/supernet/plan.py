"""The mask of a sub-network: which prefix slices of which weights it runs, layer by layer.

A plan is a pure description. The masked torch forward, the materialised engines, the shapes that a
checkpoint must have and the operation counts are all walks over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dynofa_ros.supernet.space import SearchSpace, Stage, SubnetConfig, make_divisible


@dataclass(frozen=True)
class Conv:
    """Convolution, batch normalisation, activation; padding is kernel // 2.

    ``elastic`` layers carry a doubled name in a checkpoint ("conv.conv.weight"), because the official
    implementation wraps them; ``stored_kernel`` is the kernel size of the stored weights.
    """

    key: str
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = ""  # "", "relu" or "h_swish"
    normalised: bool = True
    elastic: bool = False
    stored_kernel: int = 0

    @property
    def weight_key(self) -> str:
        return f"{self.key}.conv.conv.weight" if self.elastic else f"{self.key}.conv.weight"

    @property
    def bn_key(self) -> str:
        return f"{self.key}.bn.bn" if self.elastic else f"{self.key}.bn"

    @property
    def transforms(self) -> tuple[tuple[str, int, int], ...]:
        """(key, from, to) of the kernel matrices that lead from the stored to the active kernel size."""
        steps = tuple((f"{self.key}.conv.{k}to{k - 2}_matrix", k, k - 2) for k in (7, 5))
        return tuple(s for s in steps if s[1] <= self.stored_kernel and s[1] > self.kernel)


@dataclass(frozen=True)
class SqueezeExcite:
    """Channel attention: mean, reduce, ReLU, expand, hard sigmoid, multiply."""

    key: str
    channels: int

    @property
    def reduced(self) -> int:
        return make_divisible(self.channels // 4)


@dataclass(frozen=True)
class Residual:
    """``layers(x) + x``."""

    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class GlobalPool:
    """Mean over height and width, kept as 1x1."""


@dataclass(frozen=True)
class Classifier:
    """Linear layer on the flattened features."""

    key: str
    in_features: int


Layer = Conv | SqueezeExcite | Residual | GlobalPool | Classifier


@dataclass(frozen=True)
class Plan:
    """A sub-network as a sequence of layers."""

    layers: tuple[Layer, ...]
    resolution: int
    bn_epsilon: float

    def flat(self) -> Iterator[Conv | SqueezeExcite | GlobalPool | Classifier]:
        """Every layer in execution order, residual blocks opened."""
        for layer in self.layers:
            if isinstance(layer, Residual):
                for inner in layer.layers:
                    assert not isinstance(inner, Residual)
                    yield inner
            else:
                yield layer


def _elastic_block(
    key: str, inputs: int, stage: Stage, kernel: int, expand: int, stride: int
) -> tuple[Layer, ...]:
    middle = make_divisible(round(inputs * expand))
    expansion = Conv(f"{key}.inverted_bottleneck", inputs, middle, activation=stage.activation, elastic=True)
    depthwise = Conv(
        f"{key}.depth_conv",
        middle,
        middle,
        kernel,
        stride,
        groups=middle,
        activation=stage.activation,
        elastic=True,
        stored_kernel=7,
    )
    attention = (SqueezeExcite(f"{key}.depth_conv.se.fc", middle),) if stage.squeeze_excite else ()
    projection = Conv(f"{key}.point_linear", middle, stage.width, elastic=True)
    return (expansion, depthwise, *attention, projection)


def make_plan(space: SearchSpace, config: SubnetConfig) -> Plan:
    """The layers of one sub-network of ``space``."""
    stem = space.stem_width
    layers: list[Layer] = [
        Conv("first_conv", 3, stem, kernel=3, stride=2, activation="h_swish"),
        Residual(
            (
                Conv("blocks.0.conv.depth_conv", stem, stem, kernel=3, groups=stem, activation="relu"),
                Conv("blocks.0.conv.point_linear", stem, stem),
            )
        ),
    ]
    inputs, block = stem, 0
    for stage, depth in zip(space.stages, config.depths, strict=True):
        for position in range(stage.max_depth):
            kernel, expand = config.kernel_sizes[block], config.expand_ratios[block]
            block += 1
            if position >= depth:
                continue
            key, stride = f"blocks.{block}.conv", stage.stride if position == 0 else 1
            body = _elastic_block(key, inputs, stage, kernel, expand, stride)
            layers += [Residual(body)] if position else body
            inputs = stage.width
    layers += [
        Conv("final_expand_layer", inputs, space.final_width, activation="h_swish"),
        GlobalPool(),
        Conv(
            "feature_mix_layer",
            space.final_width,
            space.feature_width,
            activation="h_swish",
            normalised=False,
        ),
        Classifier("classifier.linear", space.feature_width),
    ]
    return Plan(tuple(layers), config.resolution, space.bn_epsilon)


def parameter_shapes(space: SearchSpace, classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a checkpoint of ``space``, by its official name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in make_plan(space, space.largest).flat():
        if isinstance(layer, Conv):
            kernel = layer.stored_kernel or layer.kernel
            shapes[layer.weight_key] = (layer.out_channels, layer.in_channels // layer.groups, kernel, kernel)
            if layer.stored_kernel:
                for size in (7, 5):
                    side = (size - 2) ** 2
                    shapes[f"{layer.key}.conv.{size}to{size - 2}_matrix"] = (side, side)
            if layer.normalised:
                for leaf in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{layer.bn_key}.{leaf}"] = (layer.out_channels,)
                shapes[f"{layer.bn_key}.num_batches_tracked"] = ()
        elif isinstance(layer, SqueezeExcite):
            shapes[f"{layer.key}.reduce.weight"] = (layer.reduced, layer.channels, 1, 1)
            shapes[f"{layer.key}.reduce.bias"] = (layer.reduced,)
            shapes[f"{layer.key}.expand.weight"] = (layer.channels, layer.reduced, 1, 1)
            shapes[f"{layer.key}.expand.bias"] = (layer.channels,)
        elif isinstance(layer, Classifier):
            shapes[f"{layer.key}.weight"] = (classes, layer.in_features)
            shapes[f"{layer.key}.bias"] = (classes,)
    return shapes


def count(plan: Plan, classes: int) -> tuple[int, int]:
    """(multiply-accumulates, parameters) of convolutions and linear layers, and BN folded away."""
    side, macs, parameters = plan.resolution, 0, 0
    for layer in plan.flat():
        if isinstance(layer, Conv):
            side = (side - 1) // layer.stride + 1
            weights = layer.out_channels * layer.in_channels // layer.groups * layer.kernel**2
            macs += weights * side * side
            parameters += weights + (2 * layer.out_channels if layer.normalised else 0)
        elif isinstance(layer, SqueezeExcite):
            macs += 2 * layer.channels * layer.reduced
            parameters += 2 * layer.channels * layer.reduced + layer.channels + layer.reduced
        elif isinstance(layer, GlobalPool):
            side = 1
        elif isinstance(layer, Classifier):
            macs += layer.in_features * classes
            parameters += layer.in_features * classes + classes
    return macs, parameters
