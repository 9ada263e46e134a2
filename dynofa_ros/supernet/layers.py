"""The layers of which every network is made: one vocabulary for masks, engines and operation counts.

Channels are prefixes of the stored ones: a layer names how many of the first it uses, never which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynofa_ros.supernet.space import make_divisible

ACTIVATIONS = ("", "relu", "relu6", "h_swish")


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
    activation: str = ""  # one of ACTIVATIONS
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
class MaxPool:
    """Maximum over kernel x kernel, padding kernel // 2."""

    kernel: int
    stride: int


@dataclass(frozen=True)
class AveragePool:
    """Mean over stride x stride; a window over the edge is the mean of what lies inside."""

    stride: int


@dataclass(frozen=True)
class Residual:
    """``activation(layers(x) + shortcut(x))``; an empty shortcut is the identity."""

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
    activation: str = ""


@dataclass(frozen=True)
class GlobalPool:
    """Mean over height and width, kept as 1x1."""


@dataclass(frozen=True)
class Classifier:
    """Linear layer on the first ``in_features`` flattened features."""

    key: str
    in_features: int


Simple = Conv | SqueezeExcite | MaxPool | AveragePool | GlobalPool | Classifier
Layer = Simple | Residual


def flat(layers: Sequence[Layer]) -> Iterator[Simple]:
    """Every layer in execution order, residual blocks opened, the shortcut last."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from flat(layer.layers)
            yield from flat(layer.shortcut)
        else:
            yield layer
