"""Search spaces: what can be masked, and the checked description of one sub-network.

Architecture facts are those of the once-for-all project (Cai et al., ICLR 2020); every width is rounded
to a multiple of 8 as in MobileNet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KERNEL_SIZES, EXPAND_RATIOS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor`` that does not lose more than 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class SubnetConfig:
    """One masked architecture and its input resolution; entries of skipped blocks have no effect."""

    resolution: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The ``config`` mapping of a library file."""
        return {
            "resolution": self.resolution,
            "kernel_sizes": list(self.kernel_sizes),
            "expand_ratios": list(self.expand_ratios),
            "depths": list(self.depths),
            "widths": list(self.widths),
        }


@dataclass(frozen=True)
class Stage:
    """A run of inverted-bottleneck blocks; the first one strides, the others are residual."""

    width: int
    stride: int
    activation: str
    squeeze_excite: bool
    max_depth: int = 4


@dataclass(frozen=True)
class SearchSpace:
    """An elastic inverted-bottleneck network (kernel, expansion, depth, resolution)."""

    name: str
    stem_width: int
    stages: tuple[Stage, ...]
    final_width: int
    feature_width: int
    resolutions: range
    bn_epsilon: float

    @property
    def blocks(self) -> tuple[Stage, ...]:
        """The stage of every elastic block, in order."""
        return tuple(stage for stage in self.stages for _ in range(stage.max_depth))

    def config(
        self,
        *,
        kernel_sizes: int | Sequence[int] | None = None,
        expand_ratios: int | Sequence[int] | None = None,
        depths: int | Sequence[int] | None = None,
        widths: int | Sequence[int] | None = None,
        resolution: int | None = None,
    ) -> SubnetConfig:
        """A checked sub-network. A scalar holds for every entry; None means the largest.

        Raises ValueError naming the entry, its value and the allowed values.
        """
        if widths is not None and not (isinstance(widths, Sequence) and len(widths) == 0):
            raise ValueError(f"widths: {self.name} has no elastic width, so it takes none (got {widths!r})")
        blocks = len(self.blocks)
        return SubnetConfig(
            _one("resolution", self.resolutions[-1] if resolution is None else resolution, self.resolutions),
            _entries("kernel_sizes", kernel_sizes, blocks, KERNEL_SIZES),
            _entries("expand_ratios", expand_ratios, blocks, EXPAND_RATIOS),
            _entries("depths", depths, len(self.stages), DEPTHS),
        )

    @property
    def largest(self) -> SubnetConfig:
        """The whole supernet at its highest resolution."""
        return self.config()

    @property
    def smallest(self) -> SubnetConfig:
        return self.config(
            kernel_sizes=KERNEL_SIZES[0],
            expand_ratios=EXPAND_RATIOS[0],
            depths=DEPTHS[0],
            resolution=self.resolutions[0],
        )


def _allowed_text(allowed: Sequence[int]) -> str:
    if isinstance(allowed, range):
        return f"a multiple of {allowed.step} in {allowed[0]}..{allowed[-1]}"
    return f"one of {', '.join(map(str, allowed))}"


def _one(name: str, value: Any, allowed: Sequence[int]) -> int:
    # bool is an int to Python, NumPy integers are not: accept what equals an allowed value as an integer
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) not in allowed:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {_allowed_text(allowed)}")
    return int(value)


def _entries(name: str, value: Any, count: int, allowed: Sequence[int]) -> tuple[int, ...]:
    if value is None:
        value = allowed[-1]
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return (_one(name, value, allowed),) * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries: it must be one number or {count} of them")
    return tuple(_one(f"{name}[{i}]", v, allowed) for i, v in enumerate(value))


def mobilenet_v3(name: str, width: float, resolutions: range) -> SearchSpace:
    """The once-for-all MobileNetV3 space at a width multiplier."""
    stem, *widths = (make_divisible(w * width) for w in (16, 24, 40, 80, 112, 160))
    strides = (2, 2, 2, 1, 2)
    activations = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    squeeze_excites = (False, True, False, True, True)
    stages = map(Stage, widths, strides, activations, squeeze_excites)
    return SearchSpace(
        name=name,
        stem_width=stem,
        stages=tuple(stages),
        final_width=make_divisible(960 * width),
        feature_width=make_divisible(1280 * width),
        resolutions=resolutions,
        bn_epsilon=1e-5,
    )


OFFICIAL_RESOLUTIONS = range(128, 225, 4)
DEMO_SPACE = "ofa_mbv3_demo"
DEMO_WIDTH = 0.35
SPACE_NAMES = f"ofa_mbv3_w<width> (for example ofa_mbv3_w1.2), {DEMO_SPACE}"


def load_space(name: str) -> SearchSpace:
    """The search space of a name. Raises ValueError naming the known ones."""
    if name == DEMO_SPACE:
        return mobilenet_v3(name, DEMO_WIDTH, range(64, 129, 4))
    match = re.fullmatch(r"ofa_mbv3_w(\d+(?:\.\d+)?)", name)
    if match and 0.1 <= float(match[1]) <= 8:
        return mobilenet_v3(name, float(match[1]), OFFICIAL_RESOLUTIONS)
    raise ValueError(f"space {name!r} is unknown: known are {SPACE_NAMES}, with a width in 0.1..8")
