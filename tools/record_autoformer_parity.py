#!/usr/bin/env python3
"""Record what the official AutoFormer answers, for test/supernet/test_autoformer.py.

    python tools/record_autoformer_parity.py CREAM/AutoFormer

The argument is that folder of a checkout of github.com/microsoft/Cream; it needs nothing but torch. Weights,
images and configurations are drawn as test/helpers/autoformer_reference.py says; only the answers are kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "helpers"))
import autoformer_reference as reference

from dynofa_ros.bench.static_networks import official_class
from dynofa_ros.supernet.families.autoformer import SIZES
from dynofa_ros.supernet.registry import load_space


def official(folder: Path, space: Any) -> Any:
    """The official supernet of a space, with the arguments of the published ones."""
    sys.path.insert(0, str(folder))
    name, arguments = space.official_network
    net = official_class(name)(num_classes=reference.CLASSES, **arguments)
    drawn = {name: torch.from_numpy(array) for name, array in reference.weights(space).items()}
    net.load_state_dict(drawn, strict=True)
    return net.eval()


def record(folder: Path, name: str) -> None:
    """Write the answers to both images, and the number of parameters, of every configuration of a space."""
    space = load_space(name)
    net, images = official(folder, space), torch.from_numpy(reference.images())
    rows = []
    for config in reference.configurations(space):
        net.set_sample_config(**space.official_entries(config))
        with torch.inference_mode():
            logits = [[float(f"{v:.9g}") for v in row] for row in net(images).tolist()]
        params = net.get_sampled_params_numel(space.official_entries(config)["config"])
        rows.append({"config": config.to_dict(), "params": params, "logits": logits})
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    target = reference.FOLDER / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(f"[\n{lines}\n]\n")
    print(f"{target}: {len(rows)} sub-networks")


if __name__ == "__main__":
    for size_name in SIZES:
        record(Path(sys.argv[1]).resolve(), size_name)
