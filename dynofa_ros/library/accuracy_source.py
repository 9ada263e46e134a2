"""What the accuracy of a library is measured on: images, images with boxes or sentences, or a predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynofa_ros.datasets.boxes import read_boxes
from dynofa_ros.datasets.reader import readable
from dynofa_ros.library.accuracy import (
    CALIBRATION_SHARE,
    FileImages,
    MeasuredAccuracy,
    labelled_files,
    load_predictor,
    rough,
    split,
)
from dynofa_ros.library.genomes import Objective
from dynofa_ros.library.library import Processor
from dynofa_ros.library.profiling import Runs
from dynofa_ros.library.sentences import MeasuredSentences, read_pairs
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.supernet import Supernet

OnStep = Callable[[str, int], None]

PREDICTED_ACCURACY = (
    "accuracy: predicted; the predictor promises 4.5 to 6.9 points more than was measured on ImageNet, "
    "so it ranks sub-networks and is no accuracy to expect"
)
IMAGE_ACCURACY = (
    "accuracy: measured on {scored} images of {folder}, read and prepared as the perception node prepares a "
    "frame{statistics}; the scored images also chose the sub-networks"
)
BOX_ACCURACY = (
    "accuracy: mAP50:95 by pycocotools on {scored} images of {folder}, prepared as the perception node "
    "prepares a frame{statistics}; the scored images also chose the "
    "sub-networks, and images that the weights were trained on would rate too high"
)
SENTENCE_ACCURACY = (
    "accuracy: measured, {metric} on {count} sentences of {file}, target {target}; the scored sentences also "
    "chose the sub-networks. Latency is that of a sentence of {size} tokens"
)
METRIC_NAMES = {"bleu": "BLEU / 100", "exact": "exact match"}
BN_ACCURACY = " with BN statistics from {} others"


@dataclass(frozen=True)
class Request:
    """What to build.

    images, data, pairs: what accuracy is measured on, by the task of the space; none = the predictor. images:
    an ImageFolder; data: images with boxes; pairs: sentences with their references, translated to ``target``
    and scored by ``metric``. ``count`` of them are used; skip_broken: without those that cannot be decoded;
    held_out: files that alone are scored, none = drawn.
    weights: a checkpoint; None = random ones, and a library that is bound to none. latency_table: None =
    measured here, as ``runs`` says. board, processor: None = those of the table, else this machine.
    max_latency_ms holds for the table or the fitted model. configs: sub-networks to measure, as other
    programs describe them (``SearchSpace.imported``); none = searched.
    """

    space: str
    evaluations: int
    board: str | None = None
    processor: Processor | None = None
    weights: Path | None = None
    images: Path | None = None
    data: Path | None = None
    pairs: Path | None = None
    target: str = ""
    metric: str = "bleu"
    count: int = 2000
    skip_broken: bool = False
    held_out: frozenset[Path] = frozenset()
    latency_table: Path | None = None
    runs: Runs = field(default_factory=Runs)
    points: int = 32
    seed: int = 0
    configs: tuple[Mapping[str, Any], ...] = ()
    min_accuracy: float = 0.0
    max_latency_ms: float = float("inf")


@dataclass(frozen=True)
class Source:
    """An objective, the input sizes for which it holds, what the library says about it; scored: images."""

    objective: Objective
    input_sizes: Sequence[int]
    note: str
    metric: str = "top-1"
    scored: int = 0


def predicted(space: SearchSpace) -> Source:
    predictor = load_predictor(space.name)
    return Source(predictor.objective(), predictor.inputs.input_sizes, PREDICTED_ACCURACY)


def from_pairs(request: Request, supernet: Supernet, on_step: OnStep) -> Source:
    assert request.pairs is not None and supernet.space.sizes is not None
    pairs = read_pairs(request.pairs, request.count, request.seed)
    objective = MeasuredSentences(
        supernet,
        pairs,
        request.target,
        request.metric,
        on_subnet=lambda: on_step("measuring accuracy", request.evaluations),
    )
    note = SENTENCE_ACCURACY.format(
        metric=METRIC_NAMES[request.metric],
        count=len(pairs),
        file=request.pairs.name,
        target=request.target,
        size=supernet.space.sizes[1],
    )
    return Source(objective, supernet.space.input_sizes, note, METRIC_NAMES[request.metric])


def from_images(request: Request, supernet: Supernet, on_step: OnStep) -> Source:
    assert request.images is not None
    space = supernet.space
    files, labels = labelled_files(request.images, supernet.weights)
    parts = _parts(files, request, space)
    drawn = [files[i] for part in parts for i in part]
    sound = set(readable(drawn, request.skip_broken, lambda: on_step("checking images", len(drawn)))[0])
    calibration, scored = (
        FileImages(space, [files[i] for i in kept], labels[kept])
        for kept in ([i for i in part if files[i] in sound] for part in parts)
    )
    objective = MeasuredAccuracy(
        supernet,
        calibration,
        scored,
        *_run_on(request),
        on_subnet=lambda: on_step("measuring accuracy", request.evaluations),
    )
    number = len(calibration.files)
    statistics = BN_ACCURACY.format(number) + rough(number) if space.batch_normalised else ""
    note = IMAGE_ACCURACY.format(scored=len(scored.files), folder=request.images.name, statistics=statistics)
    return Source(objective, space.input_sizes, note, scored=len(scored.files))


def _parts(files: Sequence[Path], request: Request, space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """As ``split``; where images were held out of a training, these are scored and no others."""
    if not request.held_out:
        return split(len(files), request.count, request.seed, space.batch_normalised)
    out = np.array([file in request.held_out for file in files])
    drawn = np.random.default_rng(request.seed).permutation(np.flatnonzero(~out))
    number = round(request.count * CALIBRATION_SHARE) if space.batch_normalised else 0
    return drawn[:number], np.flatnonzero(out)


def _run_on(request: Request) -> tuple[str, str]:
    """Engine and processor that accuracy is measured on: those of the library, if it is of this machine."""
    return request.runs.engine, request.runs.processor if request.latency_table is None else "cpu"


def from_boxes(request: Request, supernet: Supernet, on_step: OnStep) -> tuple[Supernet, Source]:
    """The supernet with inputs of the aspect of the images, and the accuracy of its sub-networks on them."""
    from dynofa_ros.library.precision import CALIBRATION, MeasuredPrecision

    assert request.data is not None
    data = read_boxes(request.data, request.skip_broken, lambda total: on_step("checking images", total))
    space = supernet.space.with_aspect(data.aspect)
    shaped = Supernet(space, supernet.weights)
    objective = MeasuredPrecision(
        shaped,
        data,
        _parts([image.path for image in data.images], request, space),
        *_run_on(request),
        on_subnet=lambda: on_step("measuring accuracy", request.evaluations),
    )
    calibration, scored = objective.numbers
    calibrated = BN_ACCURACY.format(calibration) + rough(calibration, CALIBRATION)
    statistics = f",{calibrated}" if space.batch_normalised else ""
    note = BOX_ACCURACY.format(scored=scored, folder=request.data.name, statistics=statistics)
    return shaped, Source(objective, space.input_sizes, note, "mAP50:95", scored)
