"""Accuracy of sub-networks on a folder of labelled images, by the official recipe.

The layout is torchvision's ImageFolder: one folder per class. Images are resized to 1 / 0.875 of the
resolution, cropped in the centre and normalised by the ImageNet statistics. Every sub-network gets BN
statistics of its own first, from images that are not scored.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dynofa_ros.library.calibration import ImagesError, WeightedMean
from dynofa_ros.library.search import Batch
from dynofa_ros.supernet.engines.engine import Runner, load_engine
from dynofa_ros.supernet.masked import calibrate
from dynofa_ros.supernet.materialise import materialise
from dynofa_ros.supernet.plan import make_plan
from dynofa_ros.supernet.preprocess import MEAN, STD
from dynofa_ros.supernet.space import SubnetConfig
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import Weights

CROP_SHARE = 0.875
CACHE_BYTES = 2**30
CALIBRATION_SHARE = 0.25
BATCH = 64
Statistics = dict[str, np.ndarray]


class LabelledImages(Protocol):
    """Images at any resolution, with their classes."""

    labels: np.ndarray  # (N,) class indices of the network's head

    def batches(self, resolution: int) -> Iterator[np.ndarray]:
        """Network inputs in the order of the labels, float32 (n, 3, resolution, resolution)."""
        ...


class FolderImages:
    """Image files as network inputs. The last resolutions stay in memory, decoded, as far as they fit."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], cache_bytes: int = CACHE_BYTES) -> None:
        self.files = tuple(files)
        self.labels = np.array(labels)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._scale = (1 / (255 * np.array(STD, np.float32))).reshape(3, 1, 1)
        self._offset = (np.array(MEAN, np.float32) / np.array(STD, np.float32)).reshape(3, 1, 1)

    def batches(self, resolution: int) -> Iterator[np.ndarray]:
        """As LabelledImages. Raises ImagesError naming a file that cannot be decoded."""
        size = len(self.files) * 3 * resolution**2
        if size <= self._cache_bytes and resolution not in self._cache:
            while self._cache and size + sum(a.nbytes for a in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            self._cache[resolution] = self._decode(self.files, resolution)
        cached = self._cache.get(resolution)
        for start in range(0, len(self.files), BATCH):
            part = slice(start, start + BATCH)
            pixels = self._decode(self.files[part], resolution) if cached is None else cached[part]
            planes = pixels.transpose(0, 3, 1, 2).astype(np.float32)
            planes *= self._scale
            planes -= self._offset
            yield planes

    def _decode(self, files: Sequence[str], resolution: int) -> np.ndarray:
        """RGB, uint8 (len(files), resolution, resolution, 3)."""
        with ThreadPoolExecutor(psutil.cpu_count(logical=False)) as pool:  # decoding leaves the GIL
            return np.stack(list(pool.map(lambda file: read_image(file, resolution), files)))


def read_image(file: str | Path, resolution: int) -> np.ndarray:
    """An image resized and cropped, RGB uint8 (resolution, resolution, 3). Raises ImagesError naming it."""
    from torchvision.transforms import functional as transforms

    try:
        with Image.open(file) as image:
            resized = transforms.resize(image.convert("RGB"), math.ceil(resolution / CROP_SHARE))
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImagesError(f"{file} is not an image that Pillow can decode: {error}") from None
    return np.asarray(transforms.center_crop(resized, [resolution, resolution]))


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


def split(images: FolderImages, count: int, seed: int) -> tuple[FolderImages, FolderImages]:
    """Images for BN statistics and others to score, at most ``count`` together, drawn by the seed.

    Raises ImagesError if there are too few.
    """
    drawn = np.random.default_rng(seed).permutation(len(images.files))[:count]
    first = max(2, round(len(drawn) * CALIBRATION_SHARE))  # batch statistics need more than one image
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
        calibration: LabelledImages,
        scored: LabelledImages,
        engine: str = "onnxruntime",
        on_subnet: Callable[[], object] = lambda: None,
    ) -> None:
        """Raises EngineError for an engine that is not there."""
        self._supernet = supernet
        self._weights: dict[str, Tensor] = {
            k: torch.tensor(np.asarray(v)) for k, v in supernet.weights.items()
        }
        self._calibration, self._scored = calibration, scored
        self._prepare = load_engine(engine)
        self._threads = psutil.cpu_count(logical=False) or 1
        self._on_subnet = on_subnet
        self.statistics: dict[SubnetConfig, Statistics] = {}

    def __call__(self, batch: Batch) -> np.ndarray:
        """One value per sub-network, (N,)."""
        values = np.zeros(len(batch.configs))
        for i in np.argsort([c.resolution for c in batch.configs], kind="stable"):  # decoded once each
            values[i] = self.score(batch.configs[i])
            self._on_subnet()
        return values

    def score(self, config: SubnetConfig) -> float:
        """Share of the scored images whose class the sub-network names first."""
        plan, mean = make_plan(self._supernet.space, config), WeightedMean()
        for images in self._calibration.batches(config.resolution):
            tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            mean.add(calibrate(plan, self._weights, [tensor]), len(images))
        self.statistics[config] = mean.value()
        subnet = materialise(plan, self._supernet.weights, self.statistics[config])
        return accuracy(self._prepare(subnet, self._threads, "cpu"), self._scored, config.resolution)


def accuracy(run: Runner, images: LabelledImages, resolution: int) -> float:
    """Top-1 accuracy (0..1) of a prepared sub-network."""
    found = np.concatenate([run(batch).argmax(axis=1) for batch in images.batches(resolution)])
    return float((found == images.labels).mean())
