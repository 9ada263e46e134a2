"""A training on own images, from the data set to weights and a picture of the learning curve."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynofa_ros.datasets.boxes import read_boxes
from dynofa_ros.datasets.classes import read_classes
from dynofa_ros.plots import APP_COLOURS, finish, new_figure, style
from dynofa_ros.supernet.families.detector import DetectorSpace
from dynofa_ros.supernet.masked import initial_weights
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.weights import OPTIONAL, WeightsError, load_weights, read_checkpoint, save_weights
from dynofa_ros.training.box_files import BoxFiles
from dynofa_ros.training.classification import Classification
from dynofa_ros.training.detection import begun
from dynofa_ros.training.loop import Settings, State, Training

LEAST_FITTING = 0.5  # share of the arrays that an initial checkpoint must have


@dataclass(frozen=True)
class Data:
    """What to learn. trained: number of images; held_out: files that are not; notes: what was left out.

    scored: how many that are held out have a class or a box; digest: of which files are trained on.
    """

    objective: Classification | BoxFiles
    trained: int
    held_out: frozenset[Path]
    notes: tuple[str, ...]
    scored: int
    digest: str


def read_data(
    space: SearchSpace,
    folder: Path,
    share: float,
    seed: int,
    skip_broken: bool,
    on_file: Callable[[int], object],
) -> Data:
    """The data set of a folder, as the task of the space needs it. Raises DataError with all problems."""
    if isinstance(space, DetectorSpace):
        boxes = read_boxes(folder, skip_broken, on_file)
        detection = BoxFiles(space, boxes, share, seed)
        out = frozenset(image.path for image in detection.tested)
        files = [image.path for image in boxes.images]
        scored = sum(len(image.boxes) > 0 for image in detection.tested)
        return Data(detection, len(files) - len(out), out, boxes.notes, scored, _digest(folder, files, out))
    classes = read_classes(folder, skip_broken, on_file)
    objective = Classification(space, classes, share, seed)
    out = frozenset(classes.files[i] for i in objective.tested)
    digest = _digest(folder, classes.files, out)
    return Data(objective, len(classes.files) - len(out), out, classes.notes, len(out), digest)


def _digest(folder: Path, files: Sequence[Path], out: frozenset[Path]) -> str:
    lines = [f"{os.path.relpath(path, folder)} {path in out}" for path in files]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def is_trainable(space: SearchSpace) -> bool:
    """Whether there is an objective for it: RF-DETR and ONNX files are trained elsewhere."""
    return isinstance(space, DetectorSpace) or (
        space.task == "classification" and bool(space.parameter_shapes(1))
    )


def first_weights(
    space: SearchSpace, labels: Sequence[str], init: Path | None, seed: int
) -> dict[str, Tensor]:
    """Random weights, and in their place what a checkpoint has by the same name and shape.

    The class layer is kept only if the checkpoint has the same labels. Raises WeightsError if it is of
    another network.
    """
    weights = initial_weights(space, len(labels), seed)
    if isinstance(space, DetectorSpace):
        weights = begun(weights)
    if init is None:
        return weights
    checkpoint = read_checkpoint(init)
    stored = {space.canonical_name(name): array for name, array in checkpoint.arrays.items()}
    class_layer = space.head.rpartition(".")[0]
    fitting: dict[str, Tensor] = {}
    for name, value in weights.items():
        array = stored.get(space.canonical_name(name))
        other = name.startswith(class_layer) and checkpoint.labels != tuple(labels)
        if array is not None and array.shape == tuple(value.shape) and not other:
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise WeightsError(f"{init}: {name} holds values that are no finite floats")
            fitting[name] = torch.from_numpy(np.array(array)).to(value.dtype)
    counted = [name for name in weights if not name.endswith(OPTIONAL)]
    share = sum(name in fitting for name in counted) / len(counted)
    if share < LEAST_FITTING:
        raise WeightsError(f"{init}: only {share:.0%} of its arrays are those of {space.name}: give another")
    return weights | fitting


def train(
    data: Data,
    weights: dict[str, Tensor],
    settings: Settings,
    folder: Path,
    out: Path,
    on_step: Callable[[State], None],
) -> dict[str, Any]:
    """Train, or go on; write the weights and the learning curve. Returns the last entry of the log."""
    training = Training(data.objective, weights, settings, folder)
    training.run(on_step)
    arrays = {k: v.detach().cpu() for k, v in training.weights.items() if not k.endswith(OPTIONAL)}
    save_weights(out, load_weights(data.objective.space, arrays).with_labels(data.objective.labels))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    draw_curve(log, out.with_suffix(".png"))
    return dict(log[-1])


def draw_curve(log: Sequence[dict[str, Any]], path: Path) -> None:
    """The loss and the scores of a training by its steps."""
    figure, axes = new_figure(2, 1, (7, 5), sharex=True)
    loss, score = axes[:, 0]
    loss.plot([e["step"] for e in log], [e["loss"] for e in log], color=APP_COLOURS[0])
    loss.set_ylabel("loss of the largest")
    names = [name for name in log[-1] if name not in ("step", "elapsed_s", "loss")]
    for name, colour in zip(names, APP_COLOURS, strict=False):
        points = [(e["step"], e[name]) for e in log if name in e]
        score.plot(*zip(*points, strict=True), marker="o", color=colour, label=name.replace("_", " "))
    score.set(ylabel="held-out images", xlabel="step", ylim=(0, 1))
    score.legend(frameon=False)
    for axis in (loss, score):
        style(axis)
    finish(figure, path, "Learning curve")
