#!/usr/bin/env python3
"""Record what the official RF-DETR answers, for test/supernet/test_rfdetr.py.

    pip install rfdetr==1.11.2      # in an environment of its own
    PYTHONPATH=. python tools/record_rfdetr_parity.py

Weights, images and configurations are those of test/helpers/rfdetr_reference.py; only answers are kept. A
network with fewer layers in its decoder is recorded as the auxiliary output of the whole one.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rfdetr.config import RFDETRNanoConfig
from rfdetr.models import _defaults, lwdetr
from rfdetr.models.backbone import dinov2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "helpers"))
import rfdetr_reference as reference

from dynofa_ros.supernet.families.rfdetr import PATCH, Trained


def official(trained: Trained, queries: int, windows: int, side: int) -> Any:
    """The official network of these sizes."""
    read = dinov2.get_config
    body = {"hidden_size": trained.width, "num_attention_heads": trained.heads}
    dinov2.get_config = lambda size, registers: read(size, registers) | body
    dinov2.size_to_width = dinov2.size_to_width | {"small": trained.width}
    config = RFDETRNanoConfig(
        num_classes=reference.CLASSES - 1,
        hidden_dim=trained.hidden,
        dec_layers=trained.layers,
        sa_nheads=trained.self_heads,
        ca_nheads=trained.cross_heads,
        dec_n_points=trained.points,
        num_queries=queries,
        group_detr=trained.groups,
        num_windows=windows,
        resolution=side,
        positional_encoding_size=trained.side // PATCH,
        pretrain_weights=None,
        device="cpu",
    )
    defaults = replace(_defaults.MODEL_DEFAULTS, dim_feedforward=trained.feed_forward)
    net = lwdetr.build_model_from_config(config, defaults=defaults)
    dinov2.get_config = read
    return net.eval()


def rows(side: int, output: dict[str, Any]) -> np.ndarray:
    """Boxes in px and probabilities of the queries that are kept, (images, queries, 4 + classes)."""
    boxes, scores = output["pred_boxes"] * side, output["pred_logits"].sigmoid()
    sides = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    return np.asarray(torch.cat([*sides, scores], -1)[:, :: reference.EVERY])


def main() -> None:
    """Write the answers of all configurations."""
    kept: dict[str, Any] = {}
    for name, runs in reference.RUNS.items():
        space, started = reference.space(name), time.perf_counter()
        drawn = {key: torch.from_numpy(array) for key, array in reference.weights(space).items()}
        drawn["_kp_active_mask"] = drawn["_kp_active_mask"].bool()
        groups = space.trained.groups
        for side, queries, windows in runs:
            net = official(space.trained, queries, windows, side)
            # one with fewer queries takes the first of the first group
            own = {
                key: drawn[key][: queries * groups] for key in ("refpoint_embed.weight", "query_feat.weight")
            }
            net.load_state_dict(drawn | own, strict=True)
            with torch.inference_mode():
                output = net(torch.from_numpy(reference.images(side)))
            layers = [*output["aux_outputs"], output]
            for count, layer in enumerate(layers, start=1):
                kept[f"{name}.{side}.{queries}.{windows}.{count}"] = rows(side, layer)
        print(f"{name}: {len(runs)} runs, {time.perf_counter() - started:.0f} s")
    np.savez_compressed(reference.FILE, **kept)


if __name__ == "__main__":
    main()
