"""Where the demo camera's pictures come from: the generator of signs and scenes, or a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import SUFFIXES, image_files, read_image
from dynofa_ros.demo.signs import (
    CAMERA_SEED,
    CLASS_NAMES,
    SCENES_CAMERA_SEED,
    render_sample,
    render_scene,
)
from dynofa_ros.supernet.boxes import Found
from dynofa_ros.supernet.preprocess import middle

Image = NDArray[Any]  # uint8; OpenCV's type stubs promise no more than an array

SIDE_BRIGHTNESS = 0.4
SIDE_PX = (16, 9)  # what is left of the picture in the blurred sides


class SourceError(ValueError):
    """A camera source cannot be used; the text is one line that names it and the reason."""


@dataclass(frozen=True)
class Picture:
    """RGB picture of any size and its true class, None if that is not known; or the boxes of a scene."""

    rgb: Image
    label: str | None
    boxes: Found | None = None  # labels: of CLASS_NAMES

    def shown(self, width: int, height: int) -> Picture:
        """As an image of the camera: a scene fills it, the centre square of another picture its middle."""
        if self.boxes is None:
            return replace(self, rgb=compose(self.rgb, width, height))
        rows, columns = self.rgb.shape[:2]
        scale = np.array([width / columns, height / rows] * 2, np.float32)
        boxes = replace(self.boxes, boxes=self.boxes.boxes * scale)
        return Picture(cv2.resize(self.rgb, (width, height), interpolation=cv2.INTER_LINEAR), None, boxes)


Source = Callable[[int], Picture]  # pictures without end: the same number >= 0 gives the same picture


def sign_picture(seed: int, index: int) -> Picture:
    """A pictogram of the demo supernet's generator. seed: another seed, other pictures."""
    rgb, label = render_sample(CAMERA_SEED + seed, index)
    return Picture(rgb, CLASS_NAMES[label])


def scene_picture(seed: int, index: int) -> Picture:
    """A scene with several signs, of the same generator. seed: another seed, other scenes."""
    scene = render_scene(SCENES_CAMERA_SEED + seed, index)
    boxes = Found(scene.boxes, np.ones(len(scene.boxes), np.float32), scene.labels)
    return Picture(scene.image, None, boxes)


class FolderSource:
    """Images of a folder in a shuffled order, again and again.

    One sub-folder per class (its name is the label), or images directly in the folder (label unknown).
    warn: called once for every file that cannot be decoded; it is left out.
    Raises SourceError if the folder holds no image, or none that can be decoded.
    """

    def __init__(self, folder: Path, seed: int, warn: Callable[[str], object]) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder")
        files = image_files(folder)
        if not files:
            raise SourceError(f"{folder} holds no image ({' '.join(sorted(SUFFIXES))})")
        order = np.random.default_rng(seed).permutation(len(files))
        self._files = [files[i] for i in order]
        self._folder = folder
        self._warn = warn

    def __call__(self, index: int) -> Picture:
        while self._files:
            path = self._files[index % len(self._files)]
            try:
                rgb = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)
            except DataError as error:
                self._warn(f"left out: {error}")
                self._files.remove(path)
                continue
            parts = path.relative_to(self._folder).parts
            return Picture(rgb, parts[0] if len(parts) > 1 else None)
        raise SourceError(f"{self._folder} holds no image that OpenCV can decode")


def compose(rgb: Image, width: int, height: int) -> Image:
    """The picture's centre square scaled into the centre of a width x height image, its blur on the sides."""
    square = middle(rgb, 1, 1)
    side = min(width, height)
    scaled = cv2.resize(square, (side, side), interpolation=cv2.INTER_LINEAR)
    if width == height:
        return scaled
    blurred = cv2.convertScaleAbs(
        cv2.resize(square, SIDE_PX, interpolation=cv2.INTER_AREA), alpha=SIDE_BRIGHTNESS
    )
    image = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = scaled
    return image


ENCODERS: dict[str, Callable[[Image], Image]] = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
    "rgba8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA),
    "bgra8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA),
    "mono8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
}
