"""The mask of a sub-network: which prefix slices of which weights it runs, layer by layer.

A plan is a pure description. The masked torch forward, the materialised engines, the shapes that a
checkpoint must have and the operation counts are all walks over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynofa_ros.supernet.layers import (
    AveragePool,
    Classifier,
    Conv,
    GlobalPool,
    Layer,
    MaxPool,
    Residual,
    Simple,
    SqueezeExcite,
    flat,
)
from dynofa_ros.supernet.space import MobileNet, ResNet, SearchSpace, Stage, SubnetConfig, make_divisible


@dataclass(frozen=True)
class Plan:
    """A sub-network as a sequence of layers."""

    layers: tuple[Layer, ...]
    resolution: int
    bn_epsilon: float

    def flat(self) -> Iterator[Simple]:
        """Every layer in execution order, residual blocks opened."""
        return flat(self.layers)


def make_plan(space: SearchSpace, config: SubnetConfig) -> Plan:
    """The layers of one sub-network of ``space``."""
    net = space.architecture
    layers = _mobilenet(net, config) if isinstance(net, MobileNet) else _resnet(net, config)
    return Plan(tuple(layers), config.resolution, net.bn_epsilon)


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


def _mobilenet(net: MobileNet, config: SubnetConfig) -> list[Layer]:
    stem, first, act = net.stem_width, "blocks.0.conv", net.activation
    first_block = (
        Conv(f"{first}.depth_conv", stem, stem, kernel=3, groups=stem, activation=net.first_activation),
        Conv(f"{first}.point_linear", stem, net.first_width),
    )
    layers: list[Layer] = [Conv("first_conv", 3, stem, kernel=3, stride=2, activation=act)]
    layers += [Residual(first_block)] if net.first_residual else first_block
    inputs, block = net.first_width, 0
    for stage, depth in zip(net.stages, config.depths, strict=True):
        for position in range(stage.depths[-1]):
            kernel, expand = config.kernel_sizes[block], config.expand_ratios[block]
            block += 1
            if position >= depth:
                continue
            stride = stage.stride if position == 0 else 1
            body = _inverted_bottleneck(f"blocks.{block}.conv", inputs, stage, kernel, expand, stride)
            layers += [Residual(body)] if position else body
            inputs = stage.width
    mixed = net.feature_width
    if net.final_width is None:
        layers += [Conv("feature_mix_layer", inputs, mixed, activation=act), GlobalPool()]
    else:
        layers += [Conv("final_expand_layer", inputs, net.final_width, activation=act), GlobalPool()]
        layers += [Conv("feature_mix_layer", net.final_width, mixed, activation=act, normalised=False)]
    return [*layers, Classifier("classifier.linear", mixed)]


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


def _resnet(net: ResNet, config: SubnetConfig) -> list[Layer]:
    stem, inputs = net.stem_widths[config.widths[0]], net.stem_outputs[config.widths[1]]
    layers: list[Layer] = [Conv("input_stem.0", 3, stem, 3, 2, activation="relu", elastic=True)]
    if config.depths[0] == net.extra_depths[-1]:
        layers += [Residual((Conv("input_stem.1.conv", stem, stem, 3, activation="relu", elastic=True),))]
    layers += [Conv("input_stem.2", stem, inputs, 3, activation="relu", elastic=True), MaxPool(3, 2)]
    stored = (
        (stage, position, config.widths[2 + number])
        for number, stage in enumerate(net.stages)
        for position in range(stage.base_depth + net.extra_depths[-1])
    )
    for block, ((stage, position, width), active) in enumerate(
        zip(stored, net.active_blocks(config.depths), strict=True)
    ):
        if active:
            outputs, first = stage.widths[width], position == 0
            expand, stride = config.expand_ratios[block], stage.stride if first else 1
            layers.append(_bottleneck(f"blocks.{block}", inputs, outputs, expand, stride, first))
            inputs = outputs
    return [*layers, GlobalPool(), Classifier("classifier.linear.linear", inputs)]


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
    macs, parameters, _ = _count(plan.layers, plan.resolution, classes)
    return macs, parameters


def _count(layers: Sequence[Layer], side: int, classes: int) -> tuple[int, int, int]:
    """(multiply-accumulates, parameters, side of the result)."""
    macs = parameters = 0
    for layer in layers:
        if isinstance(layer, Residual):
            for branch in (layer.shortcut, layer.layers):
                more_macs, more_parameters, after = _count(branch, side, classes)
                macs, parameters = macs + more_macs, parameters + more_parameters
            side = after
        elif isinstance(layer, Conv):
            side = (side - 1) // layer.stride + 1
            weights = layer.out_channels * layer.in_channels // layer.groups * layer.kernel**2
            macs += weights * side * side
            parameters += weights + (2 * layer.out_channels if layer.normalised else 0)
        elif isinstance(layer, SqueezeExcite):
            macs += 2 * layer.channels * layer.reduced
            parameters += 2 * layer.channels * layer.reduced + layer.channels + layer.reduced
        elif isinstance(layer, MaxPool | AveragePool):
            side = (side - 1) // layer.stride + 1
        elif isinstance(layer, GlobalPool):
            side = 1
        else:
            macs += layer.in_features * classes
            parameters += layer.in_features * classes + classes
    return macs, parameters, side
