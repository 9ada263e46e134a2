"""Accuracy of detectors: mean average precision on images with boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dynofa_ros.datasets.boxes import BoxData, Marked
from dynofa_ros.datasets.reader import read_image
from dynofa_ros.library.accuracy import CALIBRATION_SHARE, MeasuredAccuracy
from dynofa_ros.library.library import ImagesError
from dynofa_ros.supernet.boxes import MEASURED_OVERLAP, MEASURED_SCORE, average_precision, select
from dynofa_ros.supernet.engines.engine import Runner
from dynofa_ros.supernet.preprocess import letterbox_scale
from dynofa_ros.supernet.supernet import Supernet

BATCH = 16


class MeasuredPrecision(MeasuredAccuracy):
    """mAP50:95 of detectors as the objective of a search, on images that are prepared as the node does it."""

    def __init__(
        self,
        supernet: Supernet,
        data: BoxData,
        count: int,
        seed: int,
        on_subnet: Callable[[], object] = lambda: None,
    ) -> None:
        """Of at most ``count`` images a quarter is for BN statistics. Raises ImagesError for too few, or for
        a class that the weights do not know."""
        labels = supernet.weights.labels or tuple(map(str, range(supernet.weights.classes)))
        if unknown := [name for name in data.names if name not in labels]:
            known = ", ".join(labels[:3])
            raise ImagesError(
                f"{supernet.weights.source} has no class {unknown[0]!r}: "
                f"it knows {len(labels)}, such as {known}"
            )
        self._index = np.array([labels.index(name) for name in data.names])
        drawn = np.random.default_rng(seed).permutation(len(data.images))[:count]
        first = max(2, round(len(drawn) * CALIBRATION_SHARE))
        if len(drawn) <= first:
            raise ImagesError(f"{len(drawn)} images are too few: at least 3 are needed, 500 are usual")
        calibration, scored = ([data.images[i] for i in part] for part in (drawn[:first], drawn[first:]))
        super().__init__(supernet, calibration, scored, on_subnet=on_subnet)

    @property
    def numbers(self) -> tuple[int, int]:
        """Of images for BN statistics, and of those that are scored."""
        return len(self._calibration), len(self._scored)

    def _inputs(self, config: Any) -> Iterator[np.ndarray]:
        files: Sequence[Marked] = self._calibration
        for start in range(0, len(files), BATCH):
            part = [self._shown(marked, config) for marked in files[start : start + BATCH]]
            if len(part) > 1 or start == 0:  # one image alone would weigh too much
                yield np.concatenate(part)

    def _shown(self, marked: Marked, config: Any) -> np.ndarray:
        return self._supernet.space.preprocess(read_image(marked.path), config)

    def _rate(self, run: Runner, config: Any) -> float:
        truth, found = [], []
        for marked in self._scored:
            rows = run(self._shown(marked, config))[0]
            scale = letterbox_scale(marked.size, config.height, config.width)
            found.append(select(rows, MEASURED_SCORE, MEASURED_OVERLAP, scale))
            truth.append((marked.boxes, self._index[marked.labels]))
        return average_precision(truth, found).map50_95
