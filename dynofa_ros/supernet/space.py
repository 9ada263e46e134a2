"""Search spaces: what can be masked, and the checked description of one sub-network.

Architecture facts are those of the once-for-all project (Cai et al., ICLR 2020); every width is rounded
to a multiple of 8 as in MobileNet.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Allowed = tuple[int, ...] | tuple[float, ...]
ELASTIC = ("kernel_sizes", "expand_ratios", "depths", "widths")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor`` that does not lose more than 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class SubnetConfig:
    """One masked architecture and its input resolution; entries of skipped blocks have no effect."""

    resolution: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]  # whole numbers where the space has whole ones
    depths: tuple[int, ...]
    widths: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The ``config`` mapping of a library file."""
        elastic = {name: list(getattr(self, name)) for name in ELASTIC}
        return {"resolution": self.resolution, **elastic}


class Architecture(Protocol):
    """The declaration of a family of networks."""

    bn_epsilon: float

    @property
    def choices(self) -> dict[str, tuple[Allowed, ...]]:
        """Allowed values, ascending, of every entry of every elastic dimension that it has."""
        ...

    def active_blocks(self, depths: Sequence[int]) -> tuple[bool, ...]:
        """Which of the stored blocks run."""
        ...


@dataclass(frozen=True)
class Stage:
    """A run of inverted-bottleneck blocks; the first one strides, the others are residual."""

    width: int
    stride: int
    activation: str
    squeeze_excite: bool = False
    depths: tuple[int, ...] = (2, 3, 4)


@dataclass(frozen=True)
class MobileNet:
    """Inverted bottlenecks with elastic kernel, expansion and depth: MobileNetV3 and ProxylessNAS.

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

    @property
    def choices(self) -> dict[str, tuple[Allowed, ...]]:
        blocks = sum(stage.depths[-1] for stage in self.stages)
        return {
            "kernel_sizes": ((3, 5, 7),) * blocks,
            "expand_ratios": ((3, 4, 6),) * blocks,
            "depths": tuple(stage.depths for stage in self.stages),
        }

    def active_blocks(self, depths: Sequence[int]) -> tuple[bool, ...]:
        stages = zip(self.stages, depths, strict=True)
        return tuple(i < depth for stage, depth in stages for i in range(stage.depths[-1]))


@dataclass(frozen=True)
class BottleneckStage:
    """A run of bottleneck blocks; ``widths`` are the output widths to choose from."""

    widths: tuple[int, ...]
    stride: int
    base_depth: int


@dataclass(frozen=True)
class ResNet:
    """ResNet-D with elastic width, expansion (share of the output width) and depth.

    The first depth keeps the residual convolution of the stem (2) or skips it; the others are blocks beyond
    the base depth of a stage. Widths are indices: stem, stem output, one per stage.
    """

    stem_widths: tuple[int, ...]
    stem_outputs: tuple[int, ...]
    stages: tuple[BottleneckStage, ...]
    expand_ratios: tuple[float, ...]
    bn_epsilon: float
    extra_depths: tuple[int, ...] = (0, 1, 2)

    @property
    def choices(self) -> dict[str, tuple[Allowed, ...]]:
        blocks = sum(stage.base_depth + self.extra_depths[-1] for stage in self.stages)
        return {
            "expand_ratios": (self.expand_ratios,) * blocks,
            "depths": (self.extra_depths,) * (1 + len(self.stages)),
            "widths": (tuple(range(len(self.stem_widths))),) * (2 + len(self.stages)),
        }

    def active_blocks(self, depths: Sequence[int]) -> tuple[bool, ...]:
        return tuple(
            i < stage.base_depth + extra
            for stage, extra in zip(self.stages, depths[1:], strict=True)
            for i in range(stage.base_depth + self.extra_depths[-1])
        )


@dataclass(frozen=True)
class SearchSpace:
    """A named architecture with the input resolutions it was trained for."""

    name: str
    architecture: MobileNet | ResNet
    resolutions: range

    @property
    def bn_epsilon(self) -> float:
        return self.architecture.bn_epsilon

    @property
    def choices(self) -> dict[str, tuple[Allowed, ...]]:
        """Allowed values of every entry of the four elastic dimensions; one that it lacks has no entries."""
        return dict.fromkeys(ELASTIC, ()) | self.architecture.choices

    def active_blocks(self, config: SubnetConfig) -> tuple[bool, ...]:
        """Per entry of ``expand_ratios``: does the block run, or is it skipped by its stage's depth."""
        return self.architecture.active_blocks(config.depths)

    def config(
        self,
        *,
        kernel_sizes: int | Sequence[int] | None = None,
        expand_ratios: float | Sequence[float] | None = None,
        depths: int | Sequence[int] | None = None,
        widths: int | Sequence[int] | None = None,
        resolution: int | None = None,
    ) -> SubnetConfig:
        """A checked sub-network. A scalar holds for every entry that has a choice; None means the largest.

        Raises ValueError naming the entry, its value and the allowed values.
        """
        choices = self.choices
        return SubnetConfig(
            _one("resolution", self.resolutions[-1] if resolution is None else resolution, self.resolutions),
            self._entries("kernel_sizes", kernel_sizes, choices),
            self._entries("expand_ratios", expand_ratios, choices),
            self._entries("depths", depths, choices),
            self._entries("widths", widths, choices),
        )

    def _entries(self, name: str, value: Any, choices: dict[str, tuple[Allowed, ...]]) -> tuple[Any, ...]:
        allowed = choices[name]
        if value is None:
            return tuple(a[-1] for a in allowed)
        # an array of no dimension is a number, though it has a __len__
        scalar = not isinstance(value, Sequence | np.ndarray) or np.ndim(value) == 0
        if not allowed and (scalar or len(value)):
            raise ValueError(f"{name} = {value!r} is not allowed: {self.name} has none, leave it out")
        if scalar:
            elastic = [a for a in allowed if len(a) > 1]
            return tuple(_one(name, value, elastic[0]) if len(a) > 1 else a[0] for a in allowed)
        if len(value) != len(allowed):
            raise ValueError(
                f"{name} has {len(value)} entries: it must be one number or {len(allowed)} of them"
            )
        return tuple(_one(f"{name}[{i}]", v, a) for i, (v, a) in enumerate(zip(value, allowed, strict=True)))

    @property
    def largest(self) -> SubnetConfig:
        """The whole supernet at its highest resolution."""
        return self.config()

    @property
    def smallest(self) -> SubnetConfig:
        lowest: dict[str, Any] = {name: [a[0] for a in allowed] for name, allowed in self.choices.items()}
        return self.config(**lowest, resolution=self.resolutions[0])

    def random(self, rng: np.random.Generator) -> SubnetConfig:
        """Every entry and the resolution drawn uniformly."""
        drawn: dict[str, Any] = {
            name: [rng.choice(a).item() for a in allowed] for name, allowed in self.choices.items()
        }
        return self.config(**drawn, resolution=int(rng.choice(self.resolutions)))


def _one(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    # bool is an int to Python, NumPy numbers are not: accept what equals an allowed value
    if not isinstance(value, bool | np.bool_ | str | bytes):
        try:
            number = float(value) if isinstance(allowed[0], float) else operator.index(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        for choice in allowed:
            if number == choice or math.isclose(number, choice, rel_tol=1e-6):  # 0.2 in float32 is not 0.2
                return choice
    raise ValueError(f"{name} = {value!r} is not allowed: it must be {_allowed_text(allowed)}")


def _allowed_text(allowed: Sequence[Any]) -> str:
    if isinstance(allowed, range):
        return f"a multiple of {allowed.step} in {allowed[0]}..{allowed[-1]}"
    return f"one of {', '.join(map(str, allowed))}" if len(allowed) > 1 else str(allowed[0])


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
    depths = ((2, 3, 4),) * 5 + ((1,),)
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


def resnet50() -> ResNet:
    """The once-for-all ResNet-50D."""
    multipliers = (0.65, 0.8, 1.0)
    stem_outputs = tuple(make_divisible(64 * m) for m in multipliers)
    return ResNet(
        stem_widths=tuple(make_divisible(w // 2) for w in stem_outputs),
        stem_outputs=stem_outputs,
        stages=tuple(
            BottleneckStage(tuple(make_divisible(width * m) for m in multipliers), stride, base)
            for width, stride, base in ((256, 1, 2), (512, 2, 2), (1024, 2, 4), (2048, 2, 2))
        ),
        expand_ratios=(0.2, 0.25, 0.35),
        bn_epsilon=1e-5,
    )


OFFICIAL_RESOLUTIONS = range(128, 225, 4)
DEMO_SPACE = "ofa_mbv3_demo"
DEMO_WIDTH = 0.35
OFFICIAL_SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")
SPACE_NAMES = (
    "ofa_mbv3_w<width>, ofa_proxyless_w<width> (for example ofa_mbv3_w1.2), ofa_resnet50, " + DEMO_SPACE
)
FAMILIES = {"mbv3": mobilenet_v3, "proxyless": proxyless}


def load_space(name: str) -> SearchSpace:
    """The search space of a name. Raises ValueError naming the known ones."""
    if name == DEMO_SPACE:
        return SearchSpace(name, mobilenet_v3(DEMO_WIDTH), range(64, 129, 4))
    if name == "ofa_resnet50":
        return SearchSpace(name, resnet50(), OFFICIAL_RESOLUTIONS)
    match = re.fullmatch(r"ofa_(mbv3|proxyless)_w((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)", name)
    if match and 0.1 <= float(match[2]) <= 8:
        return SearchSpace(name, FAMILIES[match[1]](float(match[2])), OFFICIAL_RESOLUTIONS)
    raise ValueError(f"space {name!r} is unknown: known are {SPACE_NAMES}, with a width in 0.1..8")
