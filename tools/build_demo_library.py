#!/usr/bin/env python3
"""Make the demo's library from its trained supernet: sample, calibrate, measure, keep the Pareto front.

Candidates are chosen on validation images; the accuracy in the file is measured afterwards on held-out
images that chose nothing. Every image takes the way a camera frame takes (shown at 720 px, cropped, resized).

    python tools/build_demo_library.py --weights data/demo.safetensors
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from dynofa_ros.evaluation.pictures import Pictures
from dynofa_ros.library.format import (
    ConfigRecord,
    Entry,
    Latency,
    Library,
    load_library,
    load_statistics,
    pareto_front,
    save_library,
    save_statistics,
)
from dynofa_ros.library.profiling import measure
from dynofa_ros.supernet.masked import calibrate
from dynofa_ros.supernet.plan import count, make_plan
from dynofa_ros.supernet.signs import HELD_OUT_SEED, TRAIN_SEED
from dynofa_ros.supernet.space import (
    DEMO_SPACE,
    DEPTHS,
    EXPAND_RATIOS,
    KERNEL_SIZES,
    SearchSpace,
    SubnetConfig,
)
from dynofa_ros.supernet.supernet import Supernet, load_supernet

VALIDATION_SEED = 4
BETA_SHARE = 0.9
REFERENCE_HZ = 1_907_200_000
NOTES = (
    (
        "accuracy: measured on {held_out} held-out pictures of the sign generator, "
        "through the camera's crop and resize"
    ),
    (
        "latency: measured, onnxruntime, 1 thread, on the machine that built this file; "
        "`dynofa demo` measures it again"
    ),
    "alpha and beta: the share of beta (0.9) is a guess; one clock frequency cannot tell them apart",
    "reference frequencies: the top CPU clock of the simulated Jetson Xavier NX that the demo runs on",
)


def candidates(space: SearchSpace, number: int, rng: np.random.Generator) -> list[SubnetConfig]:
    """Half uniform ones over size and resolution, half random ones: the former span, the latter fill."""
    chosen = [space.largest, space.smallest]
    blocks, stages = len(space.blocks), len(space.stages)
    for i in range(number):
        resolution = int(rng.choice(space.resolutions))
        if i % 2:
            low = int(rng.integers(0, 3))
            sizes = {
                "kernel_sizes": int(rng.choice(KERNEL_SIZES[: low + 1])),
                "expand_ratios": EXPAND_RATIOS[low],
                "depths": int(rng.choice(DEPTHS)),
            }
        else:
            sizes = {
                "kernel_sizes": rng.choice(KERNEL_SIZES, blocks).tolist(),
                "expand_ratios": rng.choice(EXPAND_RATIOS, blocks).tolist(),
                "depths": rng.choice(DEPTHS, stages).tolist(),
            }
        chosen.append(space.config(resolution=resolution, **sizes))
    return sorted(set(chosen), key=lambda c: c.resolution)


def accuracy(run, images: np.ndarray, labels: np.ndarray) -> float:
    logits = np.concatenate([run(images[i : i + 64]) for i in range(0, len(images), 64)])
    return float((logits.argmax(1) == labels).mean())


def subnet_statistics(supernet: Supernet, weights: dict, config: SubnetConfig, pictures: Pictures) -> dict:
    images = torch.from_numpy(pictures.at(config.resolution))
    return calibrate(
        make_plan(supernet.space, config),
        weights,
        [b.contiguous(memory_format=torch.channels_last) for b in images.split(128)],
    )


def thin(entries: Iterable[Entry], number: int) -> tuple[Entry, ...]:
    """At most ``number`` entries of a front, spread evenly over the logarithm of latency, ends kept."""
    front = tuple(entries)
    if len(front) <= number:
        return front
    logs = np.log([e.latency_ms.median for e in front])
    wanted = np.linspace(logs[0], logs[-1], number)
    kept = sorted({int(np.abs(logs - w).argmin()) for w in wanted})
    return tuple(front[i] for i in kept)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path("data/demo.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("config"), help="gets weights/ and libraries/demo/")
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--entries", type=int, default=14)
    parser.add_argument("--validation", type=int, default=1_500)
    parser.add_argument("--held-out", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()

    supernet = load_supernet(DEMO_SPACE, args.weights)
    tensors = {k: torch.tensor(v) for k, v in supernet.weights.items()}
    configs = candidates(supernet.space, args.candidates, np.random.default_rng(0))
    calibration, validation = Pictures(TRAIN_SEED, 512), Pictures(VALIDATION_SEED, args.validation)
    ids = [f"s{i:02d}_r{c.resolution}" for i, c in enumerate(configs)]
    statistics = {
        i: subnet_statistics(supernet, tensors, c, calibration)
        for i, c in track(list(zip(ids, configs, strict=True)), "calibrating")
    }
    runners = {
        i: supernet.prepare(c, statistics=statistics[i], threads=1) for i, c in zip(ids, configs, strict=True)
    }
    scores = {
        i: accuracy(runners[i], validation.at(c.resolution), validation.labels)
        for i, c in track(list(zip(ids, configs, strict=True)), "validating")
    }
    times = measure(runners, {i: c.resolution for i, c in zip(ids, configs, strict=True)}, args.rounds)

    def entry(key: str, config: SubnetConfig) -> Entry:
        median, p95 = (round(float(v), 4) for v in np.percentile(times[key], (50, 95)))
        macs, params = count(make_plan(supernet.space, config), supernet.weights.classes)
        return Entry(
            id=key,
            config=ConfigRecord(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in config.to_dict().items()}
            ),
            accuracy=scores[key],
            accuracy_source="measured",
            latency_ms=Latency(median, p95),
            latency_source="measured",
            alpha_ms=round(median * (1 - BETA_SHARE), 5),
            beta_ms=round(median * BETA_SHARE, 5),
            macs=macs,
            params=params,
        )

    front = thin(pareto_front([entry(i, c) for i, c in zip(ids, configs, strict=True)]), args.entries)
    held_out, by_id = Pictures(HELD_OUT_SEED, args.held_out), dict(zip(ids, configs, strict=True))
    scores = {
        e.id: round(accuracy(runners[e.id], held_out.at(by_id[e.id].resolution), held_out.labels), 4)
        for e in track(front, "held-out accuracy")
    }
    final = pareto_front([entry(e.id, by_id[e.id]) for e in front])

    library_path = args.out / "libraries" / "demo" / f"cpu_{DEMO_SPACE}.yaml"
    own = save_statistics(library_path.with_suffix(".safetensors"), {e.id: statistics[e.id] for e in final})
    library = Library(
        schema_version=1,
        space=DEMO_SPACE,
        weights_sha256=supernet.weights.digest,
        board="demo",
        processor="cpu",
        reference_frequencies_hz={f"cpu{n}": REFERENCE_HZ for n in (0, 2, 4)},
        notes=tuple(n.format(held_out=args.held_out) for n in NOTES),
        entries=final,
        bn_statistics=own,
    )
    save_library(library_path, library)
    weights_path = args.out / "weights" / f"{DEMO_SPACE}.safetensors"
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.weights, weights_path)
    load_statistics(library_path, load_library(library_path, supernet.weights))  # what is written must load
    for e in final:
        print(f"{e.id:10s} {e.accuracy:.3f} {e.latency_ms.median:7.3f} ms {e.macs / 1e6:7.1f} MMACs")


if __name__ == "__main__":
    main()
