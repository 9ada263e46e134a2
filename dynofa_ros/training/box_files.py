"""Training objective for detectors on a data set of images with boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dynofa_ros.datasets.boxes import BoxData, Marked
from dynofa_ros.supernet.families.detector import DetectorSpace
from dynofa_ros.training.detection import Detection, Example
from dynofa_ros.training.images import Cache, coloured, held_out

ZOOM = (0.6, 1.3)  # of the image in its frame
LEAST_SEEN = 0.4  # share of a box that must be in the frame


class BoxFiles(Detection):
    """The images of a data set; a share is held out. Images of rare classes are drawn more often."""

    def __init__(self, space: DetectorSpace, data: BoxData, share: float, seed: int) -> None:
        self.space, self.labels = space, data.names
        out, empty = np.zeros(len(data.images), bool), np.array([not len(i.boxes) for i in data.images])
        for part in (~empty, empty):  # a share of those with boxes, and of those without
            out[part] = held_out(int(part.sum()), share, seed)
        self._trained = [image for image, part in zip(data.images, out, strict=True) if not part]
        self.tested = [image for image, part in zip(data.images, out, strict=True) if part]
        self.aspect = data.aspect
        self._cache = Cache(space.input_sizes[-1] // 2)
        self._chance = _chances(self._trained, len(data.names))

    def example(self, rng: np.random.Generator) -> Example:
        chosen = self._trained[int(rng.choice(len(self._trained), p=self._chance))]
        return moved(self._read(chosen), rng)

    def held_out(self) -> Sequence[Example]:
        return [self._read(image) for image in self.tested]

    def _read(self, marked: Marked) -> Example:
        image = self._cache.read(marked.path)
        scale = np.float32(image.shape[1] / marked.size[1])
        return Example(image, marked.boxes * scale, marked.labels)


def _chances(images: Sequence[Marked], classes: int) -> np.ndarray:
    """How often each image is drawn: by the square root of how rare its rarest class is (Gupta et al.,
    CVPR 2019)."""
    present = np.array([np.bincount(i.labels, minlength=classes) > 0 for i in images])
    share = present.mean(0).clip(1 / len(images))
    repeats = np.where(present, np.sqrt(1 / share), 1.0).max(1)
    return np.asarray(repeats / repeats.sum())


def moved(example: Example, rng: np.random.Generator) -> Example:
    """Zoomed and shifted within its frame, colours a little off; boxes follow and are cut at the edge."""
    height, width = example.image.shape[:2]
    zoom = rng.uniform(*ZOOM)
    room = np.array([width, height]) * (1 - zoom)
    shift = rng.uniform(np.minimum(room, 0), np.maximum(room, 0))
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    image = cv2.warpAffine(coloured(example.image, rng), matrix, (width, height), flags=cv2.INTER_LINEAR)
    boxes = example.boxes * np.float32(zoom) + np.tile(shift, 2).astype(np.float32)
    seen = boxes.clip(0, np.array([width, height, width, height], np.float32))
    area, whole = ((b[:, 2:] - b[:, :2]).prod(1) for b in (seen, boxes))
    kept = area > LEAST_SEEN * whole
    return Example(image, seen[kept], example.labels[kept])
