"""Vision Transformers with elastic embedding, depth, heads and feed-forward width: AutoFormer tiny to base.

Chen et al., ICCV 2021; facts are those of microsoft/Cream, folder AutoFormer. Heads have 64 features whatever
the embedding, which is one for all blocks; depth runs a prefix of the blocks. Some supernets are wider than
their widest sub-network: what lies beyond is in a checkpoint, but no sub-network uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dynofa_ros.supernet.layers import Classifier, Layer, Residual, Shape
from dynofa_ros.supernet.registry import Family
from dynofa_ros.supernet.space import Config, Plan, SearchSpace
from dynofa_ros.supernet.transformer_layers import (
    LayerNorm,
    Linear,
    PatchEmbedding,
    PatchMean,
    RelativeAttention,
)

IMAGE_PX, PATCH_PX = 224, 16
SIDE = IMAGE_PX // PATCH_PX
HEAD_WIDTH, REACH = 64, 14
# of one official file or the other: the supernets', the searched sub-networks' and those of NNI
MLP_RATIOS = (3.0, 3.5, 4.0)
# the class of the official supernets, and their arguments
OFFICIAL = "model.supernet_transformer:Vision_TransformerSuper"
PUBLISHED = {"mlp_ratio": MLP_RATIOS[-1], "qkv_bias": True, "gp": True, "relative_position": True}
PUBLISHED |= {"change_qkv": True, "max_relative_position": REACH}


@dataclass(frozen=True)
class Size:
    """One supernet. ``stored_embed``: width of its checkpoint."""

    stored_embed: int
    embeds: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]


SIZES = {
    "autoformer_tiny": Size(256, (192, 216, 240), (12, 13, 14), (3, 4)),
    "autoformer_small": Size(448, (320, 384, 448), (12, 13, 14), (5, 6, 7)),
    "autoformer_base": Size(640, (528, 576, 624), (14, 15, 16), (8, 9, 10)),
}


class AutoFormerConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A sub-network; heads and mlp_ratios are per block, those of skipped blocks have no effect."""

    resolution: int
    embed: tuple[int, ...]  # one number
    depth: tuple[int, ...]  # one number
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]


class AutoFormerSpace(SearchSpace):
    """The sub-networks of one size. The input is fixed: positions were learnt for it."""

    input_sizes = range(IMAGE_PX, IMAGE_PX + 1)
    config_type, shown, per_block = AutoFormerConfig, ("embed", "depth"), ("heads", "mlp_ratios")
    independent_blocks, head = False, "head.weight"  # the embedding is every block's

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.size = name, size
        blocks = size.depths[-1]
        self.choices = {
            "embed": (size.embeds,),
            "depth": (size.depths,),
            "heads": (size.heads,) * blocks,
            "mlp_ratios": (MLP_RATIOS,) * blocks,
        }
        arguments = {"embed_dim": size.stored_embed, "depth": blocks, "num_heads": size.heads[-1]}
        self.official_network = OFFICIAL, {**arguments, **PUBLISHED}

    def active(self, genes: np.ndarray) -> np.ndarray:
        depth = np.array(self.size.depths)[genes[:, self.columns["depth"]]]
        return np.asarray(np.arange(self.size.depths[-1]) < depth)

    def label(self, config: AutoFormerConfig) -> str:
        return f"e{config.embed[0]}d{config.depth[0]}"

    def official_entries(self, config: AutoFormerConfig) -> dict[str, Any]:
        depth = config.depth[0]
        entries = {"layer_num": depth, "embed_dim": [config.embed[0]] * depth}
        entries |= {"num_heads": list(config.heads[:depth]), "mlp_ratio": list(config.mlp_ratios[:depth])}
        return {"config": entries}

    def layers(self, config: AutoFormerConfig, classes: int) -> Sequence[Layer]:
        (embed,), (depth,) = config.embed, config.depth
        hidden = [int(embed * ratio) for ratio in config.mlp_ratios[:depth]]
        return _layers(embed, config.heads[:depth], hidden, classes)

    def parameter_shapes(self, classes: int) -> dict[str, Shape]:
        """Those of the stored supernet, which is wider than the widest sub-network of tiny and base."""
        blocks, embed = self.size.depths[-1], self.size.stored_embed
        stored = _layers(
            embed, [self.size.heads[-1]] * blocks, [int(embed * MLP_RATIOS[-1])] * blocks, classes
        )
        return Plan(tuple(stored), (3, IMAGE_PX, IMAGE_PX), self.bn_epsilon).stored()


def _layers(embed: int, heads: Sequence[int], hidden: Sequence[int], classes: int) -> list[Layer]:
    layers: list[Layer] = [PatchEmbedding("patch_embed_super", PATCH_PX, SIDE, embed)]
    for block, (own, middle) in enumerate(zip(heads, hidden, strict=True)):
        key = f"blocks.{block}"
        attention = RelativeAttention(f"{key}.attn", embed, own, HEAD_WIDTH, SIDE, REACH)
        projection = Linear(f"{key}.attn.proj", attention.features, embed)
        feed_forward = Linear(f"{key}.fc1", embed, middle, "gelu"), Linear(f"{key}.fc2", middle, embed)
        layers += [
            Residual((LayerNorm(f"{key}.attn_layer_norm", embed), attention, projection)),
            Residual((LayerNorm(f"{key}.ffn_layer_norm", embed), *feed_forward)),
        ]
    return [*layers, LayerNorm("norm", embed), PatchMean(), Classifier("head", embed, classes)]


# Their weights have to be supplied: none are known to `dynofa weights`.
FAMILY = Family({name: partial(AutoFormerSpace, name, size) for name, size in SIZES.items()})
