"""From a decoded camera image to the network's input: one way for camera, training and calibration."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # uint8 here, but OpenCV's stubs promise no element type
# ImageNet statistics, RGB, of images scaled to 0..1: what the official once-for-all weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SCALE = (1 / (255 * np.array(STD, np.float32))).reshape(3, 1, 1)
_OFFSET = (np.array(MEAN, np.float32) / np.array(STD, np.float32)).reshape(3, 1, 1)


def preprocess(bgr: Image, resolution: int) -> NDArray[np.float32]:
    """Largest centre square, resized by area, normalised.

    Takes BGR uint8 (H, W, 3) of any size, as ros/images.py decodes it; returns RGB planes,
    float32 (1, 3, resolution, resolution).
    """
    height, width = bgr.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = bgr[top : top + side, left : left + side]
    # Halving is vectorised, resizing by area to an odd ratio is not: together they take half the time.
    while side % 2 == 0 and side >= 4 * resolution:
        side //= 2
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    if side != resolution:
        interpolation = cv2.INTER_AREA if side > resolution else cv2.INTER_LINEAR
        square = cv2.resize(square, (resolution, resolution), interpolation=interpolation)
    planes = square[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    planes *= _SCALE
    planes -= _OFFSET
    return planes[None]
