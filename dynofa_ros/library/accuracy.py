"""Accuracy of sub-networks: predicted from their description, or measured on a folder of labelled images.

The predictor for `ofa_mbv3_w1.2` is the once-for-all project's (config/predictors/, MIT licence): a
perceptron 128-400-400-400-1. Against measured ImageNet accuracy it promises 4.5 to 7 points too much: it
ranks sub-networks, and a library states how it was calibrated.

Measured by the official recipe: the layout is torchvision's ImageFolder, one folder per class. Images are
resized to 1 / 0.875 of the input size, cropped in the centre and normalised by the ImageNet statistics.
Every sub-network gets BN statistics of its own first, from images that are not scored.
Only that needs torch.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dynofa_ros.library.genomes import Batch, Objective
from dynofa_ros.library.library import ImagesError, LibraryError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.graphs import Runner
from dynofa_ros.supernet.preprocess import MEAN, STD
from dynofa_ros.supernet.registry import load_engine, load_space, official_spaces
from dynofa_ros.supernet.space import PredictorInput
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import Weights

LAYERS = (0, 2, 4, 6)  # of the predictor by the official names; between them are the ReLUs
CROP_SHARE = 0.875
CACHE_BYTES = 2**30
CALIBRATION_SHARE = 0.25
BATCH = 64
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


class LabelledImages(Protocol):
    """Images at any size, with their classes."""

    labels: np.ndarray  # (N,) class indices of the network's head

    def batches(self, side: int) -> Iterator[np.ndarray]:
        """Network inputs in the order of the labels, float32 (n, 3, side, side)."""
        ...


class FolderImages:
    """Image files as network inputs. The last sizes stay in memory, decoded, as far as they fit."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], cache_bytes: int = CACHE_BYTES) -> None:
        self.files = tuple(files)
        self.labels = np.array(labels)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._scale = (1 / (255 * np.array(STD, np.float32))).reshape(3, 1, 1)
        self._offset = (np.array(MEAN, np.float32) / np.array(STD, np.float32)).reshape(3, 1, 1)

    def batches(self, side: int) -> Iterator[np.ndarray]:
        """As LabelledImages. Raises ImagesError naming a file that cannot be decoded."""
        size = len(self.files) * 3 * side**2
        if size <= self._cache_bytes and side not in self._cache:
            while self._cache and size + sum(a.nbytes for a in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            self._cache[side] = self._decode(self.files, side)
        cached = self._cache.get(side)
        for start in range(0, len(self.files), BATCH):
            part = slice(start, start + BATCH)
            pixels = self._decode(self.files[part], side) if cached is None else cached[part]
            planes = pixels.transpose(0, 3, 1, 2).astype(np.float32)
            planes *= self._scale
            planes -= self._offset
            yield planes

    def _decode(self, files: Sequence[str], side: int) -> np.ndarray:
        """RGB, uint8 (len(files), side, side, 3)."""
        with ThreadPoolExecutor(psutil.cpu_count(logical=False)) as pool:  # decoding leaves the GIL
            return np.stack(list(pool.map(lambda file: read_image(file, side), files)))


def read_image(file: str | Path, side: int) -> np.ndarray:
    """An image resized and cropped, RGB uint8 (side, side, 3). Raises ImagesError naming it."""
    from torchvision.transforms import functional as transforms

    try:
        with Image.open(file) as image:
            resized = transforms.resize(image.convert("RGB"), math.ceil(side / CROP_SHARE))
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImagesError(f"{file} is not an image that Pillow can decode: {error}") from None
    return np.asarray(transforms.center_crop(resized, [side, side]))


def load_image_folder(folder: Path, weights: Weights) -> FolderImages:
    """The images of a folder, with the class indices of the head of ``weights``.

    A class is found by its folder's name among the labels of the weights; weights without labels count the
    folders in sorted order. Raises ImagesError naming the folder and what is wrong.
    """
    try:
        from torchvision.datasets import ImageFolder
    except ImportError:
        raise ImagesError(
            "accuracy from images needs torchvision: pip install 'dynofa_ros[images]'"
        ) from None
    if not folder.is_dir():
        raise ImagesError(f"{folder} is not a folder")
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:  # no class folder, or one without images
        reason = str(error).split(". ")[0].rstrip(".")
        raise ImagesError(f"{folder}: {reason}; expected one folder of images per class") from None
    if weights.labels:
        unknown = [name for name in found.classes if name not in weights.labels]
        if unknown:
            known = ", ".join(weights.labels[:3])
            raise ImagesError(
                f"{folder / unknown[0]}: {weights.source} has no class {unknown[0]!r}: "
                f"name the folders as its {weights.classes} labels are, such as {known}"
            )
        index = [weights.labels.index(name) for name in found.classes]
    elif len(found.classes) != weights.classes:  # fewer folders would be counted as the wrong classes
        raise ImagesError(
            f"{folder} has {len(found.classes)} class folders: {weights.source} knows {weights.classes} "
            "classes and names none, so every class needs its folder, in the order of the head"
        )
    else:
        index = list(range(len(found.classes)))
    return FolderImages([file for file, _ in found.samples], [index[target] for _, target in found.samples])


def split(
    images: FolderImages, count: int, seed: int, calibrated: bool = True
) -> tuple[FolderImages, FolderImages]:
    """Images for BN statistics, none if not ``calibrated``, and others to score, at most ``count`` together,
    drawn by the seed.

    Raises ImagesError if there are too few.
    """
    drawn = np.random.default_rng(seed).permutation(len(images.files))[:count]
    # batch statistics need more than one image
    first = max(2, round(len(drawn) * CALIBRATION_SHARE)) if calibrated else 0
    if len(drawn) <= first:
        raise ImagesError(f"{len(drawn)} images are too few: at least 3 are needed, 2000 are usual")
    parts = (np.sort(drawn[:first]), np.sort(drawn[first:]))
    calibration, scored = (
        FolderImages([images.files[i] for i in part], images.labels[part].tolist()) for part in parts
    )
    return calibration, scored


class MeasuredAccuracy:
    """Accuracy (0..1) of sub-networks as the objective of a search. Keeps what BN statistics each had."""

    def __init__(
        self,
        supernet: Supernet,
        calibration: Any,
        scored: Any,
        engine: str = "onnxruntime",
        on_subnet: Callable[[], object] = lambda: None,
    ) -> None:
        """calibration, scored: LabelledImages, or what a subclass takes.

        Raises EngineError for an engine that is not there.
        """
        import torch

        self._supernet = supernet
        self._weights = {key: torch.tensor(np.asarray(array)) for key, array in supernet.weights.items()}
        self._calibration, self._scored = calibration, scored
        self._engine = load_engine(engine)
        self._threads = psutil.cpu_count(logical=False) or 1
        self._on_subnet = on_subnet
        self.statistics: dict[Any, Statistics] = {}

    def __call__(self, batch: Batch) -> np.ndarray:
        """One value per sub-network, (N,)."""
        values = np.zeros(len(batch.configs))
        for i in np.argsort(batch.input_sizes, kind="stable"):  # decoded once each
            values[i] = self.score(batch.configs[i])
            self._on_subnet()
        return values

    def score(self, config: Any) -> float:
        """Accuracy (0..1) of a sub-network on the scored images."""
        import torch

        from dynofa_ros.library.calibration import WeightedMean
        from dynofa_ros.supernet.masked import calibrate

        plan = self._supernet.plan(config)
        if self._supernet.space.batch_normalised:
            mean = WeightedMean()
            for images in self._inputs(config):
                tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
                mean.add(calibrate(plan, self._weights, [tensor]), len(images))
            self.statistics[config] = mean.value()
        subnet = self._supernet.materialise(config, self.statistics.get(config))
        return self._rate(self._engine.prepare(subnet, self._threads, "cpu"), config)

    def _inputs(self, config: Any) -> Iterator[np.ndarray]:
        """Images for the BN statistics of a sub-network."""
        return self._calibration.batches(self._supernet.space.input_size(config))

    def _rate(self, run: Runner, config: Any) -> float:
        return accuracy(run, self._scored, self._supernet.space.input_size(config))


def accuracy(run: Runner, images: LabelledImages, side: int) -> float:
    """Top-1 accuracy (0..1) of a prepared sub-network on images of ``side`` px."""
    found = np.concatenate([run(batch).argmax(axis=1) for batch in images.batches(side)])
    return float((found == images.labels).mean())
