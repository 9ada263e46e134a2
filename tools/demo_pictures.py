"""Sign pictures and scenes the way a perception node sees them: shown by the demo's camera."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dynofa_ros.datasets.boxes import BoxData, Marked
from dynofa_ros.demo.signs import CLASS_NAMES, SCENE_HEIGHT, SCENE_WIDTH, render_sample, render_scene
from dynofa_ros.supernet.preprocess import preprocess

CAMERA_PX = 720  # side of the scene in the demo camera's image


class Pictures:
    """``number`` scenes of one seed of the generator, with their labels."""

    def __init__(self, seed: int, number: int) -> None:
        rendered = [render_sample(seed, index) for index in range(number)]
        self.number = number
        self.labels = np.array([label for _, label in rendered])
        self._scenes = [np.ascontiguousarray(image[..., ::-1]) for image, _ in rendered]
        self._last: tuple[int, np.ndarray] | None = None

    def at(self, side: int) -> np.ndarray:
        """Network inputs, float32 (number, 3, side, side); the last side is kept."""
        if self._last is None or self._last[0] != side:
            self._last = (side, np.concatenate([_shown(scene, side) for scene in self._scenes]))
        return self._last[1]


def _shown(scene: np.ndarray, side: int) -> np.ndarray:
    shown = cv2.resize(scene, (CAMERA_PX, CAMERA_PX), interpolation=cv2.INTER_LINEAR)
    return preprocess(shown, side)


def drawn_scenes(seed: int, number: int, folder: Path) -> BoxData:
    """``number`` scenes of one seed of the generator with their boxes, their images as files of a folder."""
    images = []
    for index in range(number):
        scene, file = render_scene(seed, index), folder / f"{seed}_{index}.png"
        cv2.imwrite(str(file), scene.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])
        images.append(Marked(file, scene.boxes, scene.labels, (SCENE_HEIGHT, SCENE_WIDTH)))
    return BoxData("drawn", CLASS_NAMES, tuple(images))
