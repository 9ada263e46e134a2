"""Accuracy of sub-networks: predicted from their description, or measured on a folder of labelled images.

The predictor for `ofa_mbv3_w1.2` is the once-for-all project's (config/predictors/, MIT licence): a
perceptron 128-400-400-400-1. Against measured ImageNet accuracy it promises 4.5 to 7 points too much: it
ranks sub-networks, and a library states how it was calibrated.

Measured as the perception node answers: images are read by datasets/reader.py, which turns them as a camera's
driver would, and prepared by the space of the supernet. Every sub-network with batch normalisation gets BN
statistics of its own first, from images that are not scored; only that needs torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dynofa_ros.datasets.classes import class_files
from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import plain_name, read_image
from dynofa_ros.library.genomes import Batch, Objective
from dynofa_ros.library.library import LibraryError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.engines.engine import ImageFunction
from dynofa_ros.supernet.registry import load_engine, load_space, official_spaces, require_processor
from dynofa_ros.supernet.space import PredictorInput, SearchSpace
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import Weights

LAYERS = (0, 2, 4, 6)  # of the predictor by the official names; between them are the ReLUs
CACHE_BYTES = 2**30
CALIBRATION_SHARE = 0.25
FEW = 256  # images below which BN statistics are rough
BATCH, LEAST_BATCH = 64, 16
BATCH_PIXELS = BATCH * 224**2  # larger inputs come in smaller batches
Statistics = dict[str, np.ndarray]


@dataclass(frozen=True)
class AccuracyPredictor:
    """``layers``: (weight (out, in), bias (out,)) of each layer, float32; ``inputs``: what they see."""

    space: str
    inputs: PredictorInput
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def predict(self, configs: Sequence[Any]) -> np.ndarray:
        """Top-1 accuracy (0..1) of each sub-network, shape (N,). Raises ValueError as `encode` does."""
        return self.predict_encoded(self.encode(configs))

    def predict_encoded(self, x: np.ndarray) -> np.ndarray:
        """Top-1 accuracy (0..1) of rows that `encode` made: (N, features) -> (N,)."""
        *hidden, (weight, bias) = self.layers
        for inner, offset in hidden:
            x = np.maximum(x @ inner.T + offset, 0.0)
        return np.asarray(x @ weight.T + bias)[:, 0]

    def encode(self, configs: Sequence[Any]) -> np.ndarray:
        """The network's input for each sub-network, (N, features) float32.

        Raises ValueError naming an input size for which it does not hold.
        """
        space = load_space(self.space)
        sizes = np.array([space.input_size(config) for config in configs], int)
        return self.inputs.encode(sizes, space.encode(configs))

    def objective(self) -> Objective:
        """Accuracy (0..1) that it promises, for a search; float64 after its own float32."""

        def promised(batch: Batch) -> np.ndarray:
            return self.predict_encoded(self.inputs.encode(batch.input_sizes, batch.genes)).astype(float)

        return promised


def load_predictor(space_name: str) -> AccuracyPredictor:
    """The accuracy predictor of a search space.

    Raises LibraryError for a space that has none, saying what is possible, or for a damaged file.
    """
    known = {name: space.predictor for name in official_spaces() if (space := load_space(name)).predictor}
    inputs = known.get(space_name)
    if inputs is None:
        raise LibraryError(
            f"there is no accuracy predictor for {space_name} (only for {', '.join(known)}): "
            "accuracy must come from images: give --images DIR"
        )
    try:
        arrays = load_file(share_file("config", "predictors", inputs.file))
        layers = tuple((arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in LAYERS)
    except (OSError, SafetensorError, KeyError) as error:
        raise LibraryError(f"the accuracy predictor {inputs.file} cannot be read: {error}") from None
    return AccuracyPredictor(space_name, inputs, layers)


# --- measured ---------------------------------------------------------------------------------------------


class Images(Protocol):
    """Images at any size. labels: of those that are scored, (N,), class indices of the network's head."""

    labels: np.ndarray

    def batches(self, config: Any) -> Iterator[np.ndarray]:
        """Inputs of a sub-network in the order of the images, float32 (n, *input shape)."""
        ...


class FileImages:
    """Image files, prepared as the perception node prepares a frame. The last inputs stay in memory, as far
    as they fit."""

    def __init__(
        self,
        space: SearchSpace,
        files: Sequence[Path],
        labels: np.ndarray | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.files = tuple(files)
        self.labels = np.zeros(0, int) if labels is None else labels
        self._space, self._cache_bytes = space, cache_bytes
        self._cache: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def batches(self, config: Any) -> Iterator[np.ndarray]:
        """As Images. Raises DataError naming a file that cannot be decoded."""
        shape, key = self._space.plan(config).input_shape, self._space.preparation(config)
        size = 4 * len(self.files) * prod(shape)
        if size <= self._cache_bytes and key not in self._cache:
            while self._cache and size + sum(a.nbytes for a in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            self._cache[key] = self._prepared(self.files, config)
        cached = self._cache.get(key)
        number = int(np.clip(BATCH_PIXELS // prod(shape[1:]), LEAST_BATCH, BATCH))
        for start in range(0, len(self.files), number):
            part = slice(start, start + number)
            yield self._prepared(self.files[part], config) if cached is None else cached[part]

    def _prepared(self, files: Sequence[Path], config: Any) -> np.ndarray:
        prepare = partial(self._space.preprocess, config=config)
        with ThreadPoolExecutor(psutil.cpu_count(logical=False)) as pool:  # decoding leaves the GIL
            return np.concatenate(list(pool.map(lambda file: prepare(read_image(file)), files)))


def labelled_files(folder: Path, weights: Weights) -> tuple[list[Path], np.ndarray]:
    """The images of a folder, one folder per class, and the class indices of the head of ``weights``.

    A class is found by its folder's name among the labels of the weights; weights without labels count the
    folders in natural order. Raises DataError naming the folder and what is wrong.
    """
    found = class_files(folder)
    if not found:
        raise DataError(f"{folder}: expected one folder of images per class, there is none")
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(*(f"{folder / name}: the class has no image" for name in empty))
    if weights.labels:
        labels = tuple(map(plain_name, weights.labels))
        unknown = [name for name in found if name not in labels]
        if unknown:
            known = ", ".join(weights.labels[:3])
            raise DataError(
                f"{folder / unknown[0]}: {weights.source} has no class {unknown[0]!r}: "
                f"name the folders as its {weights.classes} labels are, such as {known}"
            )
        index = [labels.index(name) for name in found]
    elif len(found) != weights.classes:  # fewer folders would be counted as the wrong classes
        raise DataError(
            f"{folder} has {len(found)} class folders: {weights.source} knows {weights.classes} "
            "classes and names none, so every class needs its folder, in the order of the head"
        )
    else:
        index = list(range(len(found)))
    lengths = [len(files) for files in found.values()]
    return [file for files in found.values() for file in files], np.repeat(index, lengths)


def split(number: int, count: int, seed: int, calibrated: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Positions of images for BN statistics, none if not ``calibrated``, and of others to score.

    At most ``count`` together, drawn by the seed. Raises DataError if there are too few.
    """
    drawn = np.random.default_rng(seed).permutation(number)[:count]
    # batch statistics need more than one image
    first = max(2, round(len(drawn) * CALIBRATION_SHARE)) if calibrated else 0
    if len(drawn) <= first:
        raise DataError(f"{len(drawn)} images are too few: at least {first + 1} are needed, 2000 are usual")
    return np.sort(drawn[:first]), np.sort(drawn[first:])


def rough(images: int, few: int = FEW) -> str:
    """A warning where BN statistics are of few images."""
    return f" (few: {few} and more give steadier statistics)" if images < few else ""


class MeasuredAccuracy:
    """Accuracy (0..1) of sub-networks as the objective of a search. Keeps what BN statistics each had."""

    def __init__(
        self,
        supernet: Supernet,
        calibration: Images,
        scored: Images,
        engine: str = "onnxruntime",
        processor: str = "cpu",
        on_subnet: Callable[[], object] = lambda: None,
    ) -> None:
        """calibration: of use with batch normalisation only. Raises EngineError for an engine that is not
        there, or does not reach the processor."""
        require_processor(engine, processor)
        self._supernet = supernet
        self._calibration, self._scored = calibration, scored
        self._engine, self._processor = load_engine(engine), processor
        self._threads = psutil.cpu_count(logical=False) or 1
        self._on_subnet = on_subnet
        self.statistics: dict[Any, Statistics] = {}

    def __call__(self, batch: Batch) -> np.ndarray:
        """One value per sub-network, (N,)."""
        values = np.zeros(len(batch.configs))
        for i in np.argsort(batch.input_sizes, kind="stable"):  # decoded once each
            values[i] = self.score(batch.configs[i])
        return values

    def score(self, config: Any) -> float:
        """Accuracy (0..1) of a sub-network on the scored images."""
        if self._supernet.space.batch_normalised:
            self.statistics[config] = self._own_statistics(config)
            statistics: Statistics | None = self.statistics[config]
        else:
            statistics = None
        subnet = self._supernet.materialise(config, statistics)
        run = self._engine.prepare(subnet, self._threads, self._processor)

        def answer(images: np.ndarray) -> np.ndarray:
            """Raises ValueError for answers that are none: unlike them, their accuracy looks like one."""
            if np.isnan(found := run(images)).any():
                raise ValueError(f"{self._supernet.space.label(config)}: its outputs are no numbers (NaN)")
            return found

        value = self._rate(answer, config)
        self._on_subnet()
        return value

    @cached_property
    def _weights(self) -> dict[str, Any]:
        import torch

        from dynofa_ros.library.calibration import use_threads

        use_threads()
        return {key: torch.tensor(np.asarray(array)) for key, array in self._supernet.weights.items()}

    def _own_statistics(self, config: Any) -> Statistics:
        import torch

        from dynofa_ros.library.calibration import WeightedMean
        from dynofa_ros.supernet.masked import calibrate

        plan, mean = self._supernet.plan(config), WeightedMean()
        for number, images in enumerate(self._calibration.batches(config)):
            if len(images) > 1 or number == 0:  # the variance of one image alone is too small
                tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
                mean.add(calibrate(plan, self._weights, [tensor]), len(images))
        return mean.value()

    def _rate(self, run: ImageFunction, config: Any) -> float:
        return accuracy(run, self._scored, config)


def accuracy(run: ImageFunction, images: Images, config: Any) -> float:
    """Top-1 accuracy (0..1) of a prepared sub-network."""
    found = np.concatenate([run(batch).argmax(axis=1) for batch in images.batches(config)])
    return float((found == images.labels).mean())
