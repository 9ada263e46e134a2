"""Several static models instead of a supernet: the same sub-networks, each in an ONNX file of its own.

Both are switched by the same code, so that what differs is what the files are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynofa_ros.bench import switching
from dynofa_ros.bench.memory import cycling_pss_mb
from dynofa_ros.library.own_networks import usual_config
from dynofa_ros.supernet.engines.onnx_graph import build_graph, for_one_row, with_weights
from dynofa_ros.supernet.families.onnx_files import NetworksFile, own_weights
from dynofa_ros.supernet.onnx_adapter import read_model
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import save_weights

SPACE = "onnx_classification"
SHOWN = ("warm_p99_ms", "cold_p50_ms", "cold_p99_ms", "delayed_share_extra")


def as_files(supernet: Supernet, configs: Mapping[str, Any], folder: Path) -> tuple[NetworksFile, Supernet]:
    """The sub-networks as files with a batch of 1, and what switches among them."""
    digests = {}
    for key, config in configs.items():
        model = with_weights(for_one_row(build_graph(supernet.materialise(config).network)))
        path = folder / f"{key}.onnx"
        path.write_bytes(model.SerializeToString())
        digests[path.name] = read_model(path).sha256
    listed = NetworksFile(1, "classification", supernet.weights.classes, (), digests)
    return listed, Supernet(load_space(SPACE), own_weights(listed, folder / "networks.yaml"))


def run(
    supernet: Supernet,
    configs: Mapping[str, Any],
    *,
    segments: int = 60,
    on_segment: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The ``static_models`` figures of the benchmark, of both: switching, PSS with all held, disk."""
    import msgspec
    import onnx
    import yaml

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed, static = as_files(supernet, configs, folder)
        (folder / "networks.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(listed)))
        files = {
            key: usual_config(
                f"{key}.onnx",
                onnx.load_model_from_string(read_model(folder / f"{key}.onnx").data),
                {},
                listed.classes,
                listed.task,
            )
            for key in configs
        }
        weights = folder / "weights.safetensors"
        save_weights(weights, supernet.weights)
        found: dict[str, Any] = {"subnets": len(configs)}
        for kind, net, own, source in (
            ("supernet", supernet, configs, weights),
            ("static", static, files, folder / "networks.yaml"),
        ):
            switched = switching.run(net, own, segments=segments, on_segment=on_segment)
            if switched["errors"]:
                raise RuntimeError(f"{kind}: {switched['errors'][0]}")
            sizes = [source] if kind == "supernet" else list(folder.glob("*.onnx"))
            found[kind] = {
                **{figure: switched[figure] for figure in SHOWN},
                "pss_mb": cycling_pss_mb(net.space.name, source, own, switching.HELD),
                "disk_mb": sum(path.stat().st_size for path in sizes) / 1e6,
            }
    return found
