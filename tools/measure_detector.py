#!/usr/bin/env python3
"""Figures of the demo detector: parity, time of the choice of boxes, geometry, precision, BN statistics.

    python tools/measure_detector.py --scenes 500 --json detector.json

Times are those of the thread itself: what other processes take from it does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from demo_pictures import drawn_scenes
from rich.progress import track

from dynofa_ros.application.detection import DEMO
from dynofa_ros.application.networks import demo_library, demo_weights
from dynofa_ros.demo.signs import CLASS_NAMES, SCENES_HELD_OUT_SEED
from dynofa_ros.library.library import load_library, load_statistics
from dynofa_ros.library.precision import CALIBRATION, MeasuredPrecision
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.boxes import CANDIDATES, average_precision, select
from dynofa_ros.supernet.masked import fixed_statistics, masked_forward
from dynofa_ros.supernet.preprocess import letterbox, letterbox_scale, normalised
from dynofa_ros.supernet.supernet import Supernet, load_supernet

FRAMES = ((360, 640), (480, 640), (720, 1280), (1080, 1920), (1024, 1280), (517, 333), (90, 200))
INPUTS = ((160, 256), (288, 512))
CALLS = 1000


def parity(supernet: Supernet, config: Any, statistics: Any, images: np.ndarray) -> tuple[float, float]:
    """Largest difference of ONNX Runtime to the masked forward in float64: boxes in px, scores."""
    plan = supernet.plan(config)
    weights = {k: torch.from_numpy(np.array(a)).double() for k, a in supernet.weights.items()}
    normalise = fixed_statistics(weights, statistics, plan.bn_epsilon)
    with torch.inference_mode():
        expected = masked_forward(plan, weights, torch.from_numpy(images).double(), normalise).numpy()
    rows = supernet.prepare(config, statistics=statistics, threads=1)(images)
    error = np.abs(rows - expected)
    return float(error[..., :4].max()), float(error[..., 4:].max())


def selection_ms(cells: int, candidates: int = CANDIDATES) -> np.ndarray:
    """Times of the choice among ``cells`` predictions of which so many are sure enough, (CALLS,) ms."""
    rng = np.random.default_rng(0)
    rows = np.zeros((cells, 4 + len(CLASS_NAMES)), np.float32)
    corners = rng.uniform(0, [480, 256], (cells, 2))
    rows[:, :4] = np.concatenate([corners, corners + rng.uniform(16, 96, (cells, 2))], 1)
    sure = rng.choice(cells, candidates, replace=False)
    rows[sure, 4 + rng.integers(len(CLASS_NAMES), size=candidates)] = rng.uniform(0.4, 1, candidates)
    times = []
    for _ in range(CALLS + 1):
        began = time.thread_time_ns()
        select(rows, 0.35, 0.6)
        times.append((time.thread_time_ns() - began) / 1e6)
    return np.array(times[1:])


def round_trip_px(frame: tuple[int, int], fitted: tuple[int, int]) -> float:
    """Largest distance, px of the image, of the sides of a rectangle in an image of a size, (H, W), from
    where an input of another size shows them, mapped back."""
    (rows, columns), (height, width) = frame, fitted
    left, top, right, bottom = columns // 2, rows // 3, columns - 9, rows - 7
    image = np.zeros((rows, columns, 3), np.uint8)
    image[top:bottom, left:right] = 255
    black, white = (normalised(np.full((1, 1, 3), v, np.uint8))[0, 0, 0] for v in (0, 255))
    share = (letterbox(image, height, width)[0, 0] - black) / (white - black)  # of a pixel that is white
    share[np.isclose(share, -black / (white - black)) | (share < 0.02)] = 0  # outside of the image, or black
    across, down = letterbox_scale(image.shape, height, width)
    errors: list[float] = []
    for profile, scale, truth in (
        (share.max(0), across, (left, right)),
        (share.max(1), down, (top, bottom)),
    ):
        length, centre = profile.sum(), (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
        errors += [
            abs((centre - length / 2) / scale - truth[0]),
            abs((centre + length / 2) / scale - truth[1]),
        ]
    return max(errors)


def precisions(
    supernet: Supernet, scenes: int, folder: Path, entries: dict[str, tuple[Any, Any]]
) -> Iterator[dict[str, Any]]:
    """Of every entry with its own statistics, and with those that all share, on held-out scenes."""
    data = drawn_scenes(SCENES_HELD_OUT_SEED, scenes + CALIBRATION, folder)
    parts = np.split(np.arange(len(data.images)), [CALIBRATION])
    measured = MeasuredPrecision(supernet, data, (parts[0], parts[1]))
    alike = [(boxes, 0 * labels) for boxes, labels in measured.truth]
    for name, (config, own) in track(list(entries.items()), "precision"):
        run, rows = supernet.prepare(config, statistics=own, threads=1), list[np.ndarray]()

        def kept(images: np.ndarray) -> np.ndarray:
            rows.append(run(images))  # noqa: B023 - of this entry
            return rows[-1]  # noqa: B023

        of_classes = average_precision(measured.truth, measured.found(kept, config))
        again = iter(rows)

        def of_any_class(images: np.ndarray) -> np.ndarray:
            found = next(again)  # noqa: B023 - of the same image
            return np.concatenate([found[..., :4], found[..., 4:].max(-1, keepdims=True)], -1)

        row = {
            "id": name,
            "map50_95": of_classes.map50_95,
            "map50": of_classes.map50,
            "any_class_ap50": average_precision(alike, measured.found(of_any_class, config)).map50,
        }
        found = measured.found(supernet.prepare(config, threads=1), config)
        yield row | {"shared_bn_map50_95": average_precision(measured.truth, found).map50_95}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=500, help="held-out ones (default 500)")
    parser.add_argument("--library", type=Path, default=share_file(*demo_library(DEMO)))
    parser.add_argument("--only", nargs="*", help="entries of the library (default: all)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    supernet = load_supernet(DEMO, share_file(*demo_weights(DEMO)))
    library = load_library(args.library, supernet.weights)
    statistics = load_statistics(args.library, library)
    chosen = [e for e in library if args.only is None or e.id in args.only]
    entries = {e.id: (library.config(e), statistics[e.id]) for e in chosen}

    scene = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for row in precisions(supernet, args.scenes, Path(folder), entries):
            config, own = entries[row["id"]]
            px, score = parity(supernet, config, own, supernet.space.preprocess(scene, config))
            rows.append(row | {"parity_px": px, "parity_score": score})
    cells = len(supernet.plan(supernet.space.largest).layers[-1].cells()[0])  # type: ignore[attr-defined]
    times = selection_ms(cells)
    trip = max(round_trip_px(frame, fitted) for frame in FRAMES for fitted in INPUTS)

    columns = [name for name in rows[0] if name != "id"]
    print("| sub-network | " + " | ".join(columns) + " |\n|" + "---|" * (1 + len(columns)))
    for row in rows:
        print(f"| `{row['id']}` | " + " | ".join(f"{row[name]:.3g}" for name in columns) + " |")
    print(
        f"select and NMS, {CANDIDATES} candidates of {cells} cells: median {np.median(times):.2f} ms, "
        f"p95 {np.percentile(times, 95):.2f} ms"
    )
    print(f"sides of a box, to the input and back: {trip:.2f} px of the image at most")
    if args.json:
        document = {
            "scenes": args.scenes,
            "entries": rows,
            "selection_ms": {f"p{p}": float(np.percentile(times, p)) for p in (50, 95)},
            "round_trip_px": trip,
        }
        args.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
