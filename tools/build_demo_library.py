#!/usr/bin/env python3
"""Make a library of the demo from its trained supernet: search, measure, keep the Pareto front.

Sub-networks are chosen on validation images; the accuracy in the file is measured afterwards on held-out
images that chose nothing. Every image takes the way a camera frame takes: a sign is shown at 720 px, cropped
and resized, a scene of the detector letterboxed.

    python tools/build_demo_library.py --weights data/demo.safetensors
    python tools/build_demo_library.py --space ofa_mbv3_demo_detector --weights DETECTOR.safetensors

With --library nothing is searched: its sub-networks keep their accuracies, and the smallest and the largest
sub-network of the space at the input sizes --sizes are measured beside them.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import psutil
import torch
from demo_pictures import Pictures, drawn_scenes
from rich.progress import track

from dynofa_ros.application.detection import DEMO as DETECTOR_SPACE
from dynofa_ros.demo.signs import HELD_OUT_SEED, SCENES_HELD_OUT_SEED, TRAIN_SEED
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
from dynofa_ros.library.precision import CALIBRATION, MeasuredPrecision
from dynofa_ros.library.profiling import Job, Runs, measure_subnets
from dynofa_ros.library.search import Candidate, search, thin
from dynofa_ros.supernet.registry import DEMO_SPACE
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.supernet import Supernet, load_supernet

VALIDATION_SEED, SCENES_VALIDATION_SEED = 4, 104
REFERENCE_HZ = 1_907_200_000
NOTES = (
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


@cache
def calibration_images() -> CameraImages:
    return CameraImages(TRAIN_SEED, 512)


def accuracy_on_signs(
    supernet: Supernet, seed: int, number: int, folder: Path, on_subnet: Callable[[], object]
) -> MeasuredAccuracy:
    return MeasuredAccuracy(supernet, calibration_images(), CameraImages(seed, number), on_subnet=on_subnet)


def precision_on_scenes(
    supernet: Supernet, seed: int, number: int, folder: Path, on_subnet: Callable[[], object]
) -> MeasuredAccuracy:
    """On ``number`` scenes, with BN statistics from others; folder: for their images."""
    data = drawn_scenes(seed, number + CALIBRATION, folder)
    parts = np.split(np.arange(len(data.images)), [CALIBRATION])
    return MeasuredPrecision(supernet, data, (parts[0], parts[1]), on_subnet=on_subnet)


@dataclass(frozen=True)
class Kind:
    """How accuracy is measured: on so many images of two seeds, for the search and for the file."""

    metric: str
    measure: Callable[[Supernet, int, int, Path, Callable[[], object]], MeasuredAccuracy]
    seeds: tuple[int, int]
    validation: int
    held_out: int
    evaluations: int
    note: str


KINDS = {
    DEMO_SPACE: Kind(
        "top-1",
        accuracy_on_signs,
        (VALIDATION_SEED, HELD_OUT_SEED),
        1_500,
        4_000,
        120,
        "accuracy: measured on {held_out} held-out pictures of the sign generator, "
        "through the camera's crop and resize",
    ),
    DETECTOR_SPACE: Kind(
        "mAP50:95",
        precision_on_scenes,
        (SCENES_VALIDATION_SEED, SCENES_HELD_OUT_SEED),
        80,
        500,
        128,
        "accuracy: mAP50:95 by pycocotools on {held_out} held-out scenes of the sign generator, letterboxed",
    ),
}


def latency_of(supernet: Supernet, runs: Runs) -> Objective:
    """A latency model of this machine."""
    genomes = Genomes(supernet.space)
    configs = spread_subnets(genomes, FITTED_SUBNETS, seed=0)
    model = fit_model([supernet.plan(config) for config in configs], measured(supernet, configs, runs))
    return model.objective(supernet.space, genomes.input_sizes.tolist())


def measured(supernet: Supernet, configs: Sequence[Any], runs: Runs) -> np.ndarray:
    """Milliseconds per sub-network and round, (N, rounds)."""
    jobs = {str(i): Job(config, runs.threads) for i, config in enumerate(configs)}
    # one thread: the time that other processes take from it does not count
    times = measure_subnets(supernet, jobs, runs, seed=0, clock=time.thread_time_ns)
    return np.stack(list(times.values()))


def measured_entries(
    supernet: Supernet,
    chosen: Sequence[Any],
    runs: Runs,
    held_out: MeasuredAccuracy,
    known: Mapping[Any, float],
) -> list[Entry]:
    """Accuracy on held-out images where it is not known, latency of this machine; what is on the front."""
    times = measured(supernet, chosen, runs)
    scored = [
        Candidate(c, known[c] if c in known else held_out.score(c), 0.0)
        for c in track(chosen, "held-out accuracy")
    ]
    front = pareto_front([make_entry(supernet, c, "measured", t) for c, t in zip(scored, times, strict=True)])
    return named_entries(supernet.space, front)


def extremes(space: SearchSpace, sizes: Sequence[int]) -> list[Any]:
    """The smallest and the largest sub-network at input sizes."""
    genes = np.zeros(len(space.gene_sizes), int), np.array(space.gene_sizes) - 1
    return [space.decode(g, size) for size in sizes for g in genes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", choices=KINDS, default=DEMO_SPACE)
    parser.add_argument("--weights", type=Path, default=Path("data/demo.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("config"), help="gets weights/ and libraries/demo/")
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--library", type=Path, help="take its sub-networks instead of a search")
    parser.add_argument("--sizes", type=int, nargs="*", default=(), help="with --library: of the extremes")
    parser.add_argument("--entries", type=int, default=18, help="that are measured")
    parser.add_argument("--validation", type=int, help="images of the search")
    parser.add_argument("--held-out", type=int, help="images of the accuracies in the file")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    space, kind = args.space, KINDS[args.space]
    evaluations, held_out = args.evaluations or kind.evaluations, args.held_out or kind.held_out

    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    supernet, runs = load_supernet(space, args.weights), Runs(rounds=args.rounds, pause_s=0.0)
    images = TemporaryDirectory()
    known: dict[Any, float] = {}
    if args.library:
        before = load_library(args.library, supernet.weights)
        known = {before.config(e): e.accuracy for e in before}
        chosen = list(dict.fromkeys([*known, *extremes(supernet.space, args.sizes)]))
    else:
        progress = iter(track(range(evaluations), "searching"))
        validated = kind.measure(
            supernet,
            kind.seeds[0],
            args.validation or kind.validation,
            Path(images.name),
            lambda: next(progress, None),
        )
        front = search(supernet.space, validated, latency_of(supernet, runs), evaluations=evaluations, seed=0)
        chosen = [front[i].config for i in thin([c.latency_ms for c in front], args.entries)]
    measure = kind.measure(supernet, kind.seeds[1], held_out, Path(images.name), lambda: None)
    if args.library:
        kept = load_statistics(args.library, before)
        measure.statistics.update({before.config(e): kept[e.id] for e in before})
    entries = measured_entries(supernet, chosen, runs, measure, known)

    library = Library(
        schema_version=1,
        space=space,
        weights_sha256=supernet.weights.digest,
        board="demo",
        processor="cpu",
        reference_frequencies_hz={f"cpu{n}": REFERENCE_HZ for n in (0, 2, 4)},
        notes=(kind.note.format(held_out=held_out), *NOTES),
        entries=tuple(entries),
        accuracy_metric=kind.metric,
    )
    library_path = args.out / "libraries" / "demo" / f"cpu_{space}.yaml"
    statistics = {e.id: measure.statistics[library.config(e)] for e in entries}
    library_path.parent.mkdir(parents=True, exist_ok=True)
    file = save_statistics(library_path.with_suffix(".safetensors"), statistics)
    save_library(library_path, msgspec.structs.replace(library, bn_statistics=file))
    weights_path = args.out / "weights" / f"{space}.safetensors"
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    if not (weights_path.exists() and weights_path.samefile(args.weights)):
        shutil.copyfile(args.weights, weights_path)
    load_statistics(library_path, load_library(library_path, supernet.weights))  # what is written must load
    for e in entries:
        print(f"{e.id:10s} {e.accuracy:.3f} {e.latency_ms.median:7.3f} ms {(e.macs or 0) / 1e6:7.1f} MMACs")


if __name__ == "__main__":
    main()
