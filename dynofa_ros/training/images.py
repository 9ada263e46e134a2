"""Images of a training: kept in memory, cropped at random, a share of them held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynofa_ros.datasets.reader import read_image

CACHE_BYTES = 2**30
LEAST_CUT = 0.6  # of the shorter side
GAIN = 0.15  # of every colour, at most


class Cache:
    """Decoded images, shrunk to a shorter side of at least ``side`` px, as many as fit into CACHE_BYTES."""

    def __init__(self, side: int) -> None:
        self._side, self._bytes = side, 0
        self._images: dict[Path, NDArray[Any]] = {}

    def read(self, path: Path) -> NDArray[Any]:
        """BGR uint8. Raises DataError as read_image does."""
        if path in self._images:
            return self._images[path]
        image = read_image(path)
        factor = self._side / min(image.shape[:2])
        if factor < 1:
            size = tuple(max(1, round(factor * side)) for side in image.shape[1::-1])
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if self._bytes + image.nbytes <= CACHE_BYTES:
            self._images[path] = image
            self._bytes += image.nbytes
        return image


def cut_out(image: NDArray[Any], side: int, rng: np.random.Generator) -> NDArray[Any]:
    """A random square of an image, side x side px, its colours a little off."""
    edge = max(1, round(min(image.shape[:2]) * rng.uniform(LEAST_CUT, 1)))
    top, left = (int(rng.integers(length - edge + 1)) for length in image.shape[:2])
    square = image[top : top + edge, left : left + edge]
    interpolation = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return coloured(cv2.resize(square, (side, side), interpolation=interpolation), rng)


def coloured(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """The same with another white balance and exposure."""
    return (image * rng.uniform(1 - GAIN, 1 + GAIN, 3)).clip(0, 255).astype(np.uint8)


def held_out(number: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which of ``number`` examples are not trained on: at least one of two or more."""
    count = max(0, min(max(1, round(share * number)), number - 1))
    chosen = np.zeros(number, bool)
    chosen[np.random.default_rng([seed, number]).permutation(number)[:count]] = True
    return chosen
