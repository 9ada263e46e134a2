#!/usr/bin/env python3
"""Make the demo's library from its trained supernet: search, measure, keep the Pareto front.

Sub-networks are chosen on validation images; the accuracy in the file is measured afterwards on held-out
images that chose nothing. Every image takes the way a camera frame takes (shown at 720 px, cropped, resized).

    python tools/build_demo_library.py --weights data/demo.safetensors
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.progress import track

from dynofa_ros.demo.pictures import Pictures
from dynofa_ros.demo.signs import HELD_OUT_SEED, TRAIN_SEED
from dynofa_ros.library.accuracy import BATCH, MeasuredAccuracy
from dynofa_ros.library.build import FITTED_SUBNETS, make_entry, named_entries
from dynofa_ros.library.genomes import Genomes, Objective
from dynofa_ros.library.latency_model import fit_model, spread_subnets
from dynofa_ros.library.library import (
    Entry,
    Library,
    load_library,
    load_statistics,
    pareto_front,
    save_library,
    save_statistics,
)
from dynofa_ros.library.profiling import Job, Runs, measure_subnets
from dynofa_ros.library.search import Candidate, search, thin
from dynofa_ros.supernet.registry import DEMO_SPACE
from dynofa_ros.supernet.supernet import Supernet, load_supernet

VALIDATION_SEED = 4
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


class CameraImages:
    """Pictures as Images."""

    def __init__(self, seed: int, number: int) -> None:
        self._pictures = Pictures(seed, number)
        self.labels = self._pictures.labels

    def batches(self, config: Any) -> Iterator[np.ndarray]:
        """Network inputs, float32 (n, 3, resolution, resolution)."""
        images = self._pictures.at(config.resolution)
        return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def latency_of(supernet: Supernet, runs: Runs) -> Objective:
    """A latency model of this machine."""
    genomes = Genomes(supernet.space)
    configs = spread_subnets(genomes, FITTED_SUBNETS, seed=0)
    model = fit_model([supernet.plan(config) for config in configs], measured(supernet, configs, runs))
    return model.objective(supernet.space, genomes.input_sizes.tolist())


def measured(supernet: Supernet, configs: Sequence[Any], runs: Runs) -> np.ndarray:
    """Milliseconds per sub-network and round, (N, rounds)."""
    jobs = {str(i): Job(config, runs.threads) for i, config in enumerate(configs)}
    return np.stack(list(measure_subnets(supernet, jobs, runs, seed=0).values()))


def measured_entries(
    supernet: Supernet, chosen: Sequence[Candidate], runs: Runs, held_out: MeasuredAccuracy
) -> list[Entry]:
    """Accuracy on held-out images, latency of this machine; what is still on the front."""
    times = measured(supernet, [c.config for c in chosen], runs)
    scored = [replace(c, accuracy=held_out.score(c.config)) for c in track(chosen, "held-out accuracy")]
    front = pareto_front([make_entry(supernet, c, "measured", t) for c, t in zip(scored, times, strict=True)])
    return named_entries(supernet.space, front)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path("data/demo.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("config"), help="gets weights/ and libraries/demo/")
    parser.add_argument("--evaluations", type=int, default=120)
    parser.add_argument("--entries", type=int, default=14)
    parser.add_argument("--validation", type=int, default=1_500)
    parser.add_argument("--held-out", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()

    supernet, runs = load_supernet(DEMO_SPACE, args.weights), Runs(rounds=args.rounds, pause_s=0.0)
    calibration = CameraImages(TRAIN_SEED, 512)
    progress = iter(track(range(args.evaluations), "searching"))
    validated = MeasuredAccuracy(
        supernet,
        calibration,
        CameraImages(VALIDATION_SEED, args.validation),
        on_subnet=lambda: next(progress),
    )
    front = search(
        supernet.space, validated, latency_of(supernet, runs), evaluations=args.evaluations, seed=0
    )
    chosen = [front[i] for i in thin([c.latency_ms for c in front], args.entries)]
    held_out = MeasuredAccuracy(supernet, calibration, CameraImages(HELD_OUT_SEED, args.held_out))
    entries = measured_entries(supernet, chosen, runs, held_out)

    library = Library(
        schema_version=1,
        space=DEMO_SPACE,
        weights_sha256=supernet.weights.digest,
        board="demo",
        processor="cpu",
        reference_frequencies_hz={f"cpu{n}": REFERENCE_HZ for n in (0, 2, 4)},
        notes=tuple(n.format(held_out=args.held_out) for n in NOTES),
        entries=tuple(entries),
    )
    library_path = args.out / "libraries" / "demo" / f"cpu_{DEMO_SPACE}.yaml"
    statistics = {e.id: held_out.statistics[library.config(e)] for e in entries}
    file = save_statistics(library_path.with_suffix(".safetensors"), statistics)
    save_library(library_path, msgspec.structs.replace(library, bn_statistics=file))
    weights_path = args.out / "weights" / f"{DEMO_SPACE}.safetensors"
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.weights, weights_path)
    load_statistics(library_path, load_library(library_path, supernet.weights))  # what is written must load
    for e in entries:
        print(f"{e.id:10s} {e.accuracy:.3f} {e.latency_ms.median:7.3f} ms {e.macs / 1e6:7.1f} MMACs")


if __name__ == "__main__":
    main()
