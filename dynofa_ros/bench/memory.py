"""Memory of a perception process that switches, against one that runs a single static network.

Both children import what a perception node imports. PSS (proportional set size) counts pages that are shared
with other processes by their share; the parent samples it while the children work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dynofa_ros.bench.switching import preparation
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import CACHE_BYTES, Switched, Switcher
from dynofa_ros.supernet.weights import load_weights, save_weights

SAMPLE_S = 0.01
FRAMES_PER_SUBNET = 5
TIMEOUT_S = 300.0


def peak_pss_mb(arguments: list[str]) -> float:
    """Largest PSS (MB) of this module run with ``arguments``. Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", "dynofa_ros.bench.memory", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        peak, end = 0.0, time.monotonic() + TIMEOUT_S
        while child.poll() is None and time.monotonic() < end:
            try:
                peak = max(peak, psutil.Process(child.pid).memory_full_info().pss / 1e6)
            except (psutil.Error, OSError):  # it ended between the two lines
                break
            time.sleep(SAMPLE_S)
        if child.poll() is None and time.monotonic() >= end:
            child.kill()
        _, errors = child.communicate()
    if child.returncode != 0:
        raise RuntimeError(f"the measured process failed: {errors.strip().splitlines()[-1:] or 'timeout'}")
    return peak


def run(supernet: Supernet, configs: Mapping[str, Any], *, cache_bytes: int = CACHE_BYTES) -> dict[str, Any]:
    """The ``memory`` figures of the benchmark: peak while cycling ``configs`` over peak with the largest."""
    space = supernet.space
    params = {key: supernet.plan(config).params for key, config in configs.items()}
    largest = max(configs, key=lambda k: params[k])
    with tempfile.TemporaryDirectory() as folder:
        weights, static = (Path(folder, n) for n in ("w.safetensors", "static.onnx"))
        save_weights(weights, supernet.weights)
        _write_static(supernet, configs[largest], static)
        alone = peak_pss_mb(["static", str(static), str(space.input_size(configs[largest]))])
        cycling = cycling_pss_mb(space.name, weights, configs, cache_bytes)
        supernet_bytes = weights.stat().st_size
    return {
        "pss_ratio": cycling / alone,
        "pss_cycling_mb": cycling,
        "pss_static_mb": alone,
        "weights_ratio": supernet_bytes / (4 * sum(params.values())),
        "cache_mb": cache_bytes / 1e6,
        "subnets": len(configs),
    }


def cycling_pss_mb(space: str, weights: Path, configs: Mapping[str, Any], cache_bytes: int) -> float:
    """Largest PSS (MB) of a process that goes through sub-networks of a file of weights."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder, "jobs.json")
        jobs.write_text(json.dumps({k: c.to_dict() for k, c in configs.items()}))
        return peak_pss_mb(["dynamic", space, str(weights), str(jobs), str(cache_bytes)])


def _write_static(supernet: Supernet, config: Any, path: Path) -> None:
    from dynofa_ros.supernet.engines.onnx_graph import build_model

    path.write_bytes(build_model(supernet.materialise(config).network).SerializeToString())


# --- the measured processes -----------------------------------------------------------------------------


def _static(path: str, side: str) -> None:
    import onnxruntime

    from dynofa_ros.supernet.engines.onnxruntime import session_options

    session = onnxruntime.InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
    image = np.zeros((1, 3, int(side), int(side)), np.float32)
    for _ in range(30 * FRAMES_PER_SUBNET):
        session.run(None, {"images": image})


def _dynamic(space_name: str, weights: str, jobs: str, cache_bytes: str) -> None:
    space = load_space(space_name)
    configs = {k: space.from_mapping(c) for k, c in json.loads(Path(jobs).read_text()).items()}
    supernet = Supernet(space, load_weights(space, weights))
    prepare = preparation(supernet, configs, "onnxruntime", 1)
    switcher: Switcher[str] = Switcher(prepare, int(cache_bytes))
    switcher.activate(next(iter(configs)))

    failures: list[str] = []

    def report(switched: Switched[str]) -> None:
        if switched.error:
            failures.append(f"{switched.key}: {switched.error}")

    for key, config in configs.items():
        switcher.request(key, report)
        image = np.zeros((1, *supernet.plan(config).input_shape), np.float32)
        frames = 0
        while frames < FRAMES_PER_SUBNET and not failures:
            network = switcher.current
            if network is not None and network.key == key:
                network.run(image)
                frames += 1
            else:
                time.sleep(0.001)
    switcher.close()
    if failures:
        raise SystemExit(failures[0])


def _main(mode: str, *arguments: str) -> None:
    import dynofa_ros.nodes.perception_node  # noqa: F401 - what a perception process has in memory anyway

    if mode == "static":
        _static(*arguments)
    else:
        _dynamic(*arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
