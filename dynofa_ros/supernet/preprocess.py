"""From a decoded camera image to the network's input: one way for camera, training and calibration."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # uint8 here, but OpenCV's stubs promise no element type
# ImageNet statistics, RGB, of images scaled to 0..1: what the official once-for-all weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocess(bgr: Image, resolution: int) -> NDArray[np.float32]:
    """Largest centre square, resized by area, normalised.

    Takes BGR uint8 (H, W, 3) of any size, as ros/images.py decodes it; returns RGB planes,
    float32 (1, 3, resolution, resolution).
    """
    return normalised(resized(middle(bgr, 1, 1), resolution, resolution))[None]


def middle(image: Image, height: int, width: int) -> Image:
    """The largest part in the middle of an image with the aspect height : width."""
    rows = min(image.shape[0], max(1, round(image.shape[1] * height / width)))
    columns = min(image.shape[1], max(1, round(image.shape[0] * width / height)))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]


def resized(bgr: Image, rows: int, columns: int) -> Image:
    """An image of that size: by area where it shrinks.

    Halving is vectorised, resizing by area to an odd ratio is not: together they take half the time.
    """
    while min(bgr.shape[:2]) >= 4 * max(rows, columns) and not any(side % 2 for side in bgr.shape[:2]):
        bgr = cv2.resize(bgr, (bgr.shape[1] // 2, bgr.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if bgr.shape[:2] != (rows, columns):
        interpolation = cv2.INTER_AREA if bgr.shape[0] > rows else cv2.INTER_LINEAR
        bgr = cv2.resize(bgr, (columns, rows), interpolation=interpolation)
    return bgr


def letterbox_scale(image: tuple[int, ...], height: int, width: int) -> tuple[float, float]:
    """Pixels of a network's input per pixel of an image of shape (H, W, ...) fitted into it, across and down.

    The two differ by what rounding to whole rows and columns makes of them.
    """
    rows, columns = letterbox_size(image, height, width)
    return columns / image[1], rows / image[0]


def letterbox(bgr: Image, height: int, width: int) -> NDArray[np.float32]:
    """The whole image in the top left corner of the input, in its own aspect; the rest is the mean colour.

    Takes BGR uint8 (H, W, 3) of any size; returns RGB planes, float32 (1, 3, height, width).
    """
    rows, columns = letterbox_size(bgr.shape, height, width)
    planes = np.zeros((1, 3, height, width), np.float32)
    planes[0, :, :rows, :columns] = normalised(resized(bgr, rows, columns))
    return planes


def letterbox_size(image: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """Rows and columns that an image of shape (H, W, ...) has when it is fitted into an input."""
    scale = min(height / image[0], width / image[1])
    return max(1, round(scale * image[0])), max(1, round(scale * image[1]))


def normalised(
    bgr: Image, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> NDArray[np.float32]:
    """BGR uint8 (H, W, 3) -> RGB planes, float32 (3, H, W), of images scaled to 0..1."""
    planes: NDArray[Any] = bgr[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    spread = np.array(std, np.float32)
    planes *= (1 / (255 * spread)).reshape(3, 1, 1)
    planes -= (np.array(mean, np.float32) / spread).reshape(3, 1, 1)
    return planes
