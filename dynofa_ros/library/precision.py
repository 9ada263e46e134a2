"""Accuracy of detectors: mean average precision on images with boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dynofa_ros.datasets.boxes import BoxData
from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import plain_name
from dynofa_ros.library.accuracy import FileImages, MeasuredAccuracy
from dynofa_ros.supernet.boxes import MEASURED_OVERLAP, MEASURED_SCORE, Found, average_precision, select
from dynofa_ros.supernet.engines.engine import ImageFunction
from dynofa_ros.supernet.supernet import Supernet

CALIBRATION = 128  # images for BN statistics at most: 8 batches of 16 were enough for detectors


class MeasuredPrecision(MeasuredAccuracy):
    """mAP50:95 of detectors as the objective of a search, on images that are prepared as the node does it."""

    def __init__(
        self,
        supernet: Supernet,
        data: BoxData,
        parts: tuple[np.ndarray, np.ndarray],
        engine: str = "onnxruntime",
        processor: str = "cpu",
        on_subnet: Callable[[], object] = lambda: None,
    ) -> None:
        """parts: positions of images for BN statistics, of which CALIBRATION are taken, and of those that are
        scored. Raises DataError for a class that the weights do not know."""
        named = supernet.weights.labels or map(str, range(supernet.weights.classes))
        labels = tuple(map(plain_name, named))
        if unknown := [name for name in data.names if name not in labels]:
            known = f"it knows {len(labels)}, such as {', '.join(labels[:3])}"
            advice = "" if supernet.weights.labels else ": name them with `dynofa weights label`"
            raise DataError(f"{supernet.weights.source} has no class {unknown[0]!r}: {known}{advice}")
        index = np.array([labels.index(name) for name in data.names])
        used = (parts[0][:: max(1, -(-len(parts[0]) // CALIBRATION))], parts[1])
        self._marked = [data.images[i] for i in parts[1]]
        self.truth = [(marked.boxes, index[marked.labels]) for marked in self._marked]
        self.numbers = len(used[0]), len(used[1])  # of images for BN statistics, and of scored ones
        calibration, scored = (
            FileImages(supernet.space, [data.images[i].path for i in part]) for part in used
        )
        super().__init__(supernet, calibration, scored, engine, processor, on_subnet)

    def _rate(self, run: ImageFunction, config: Any) -> float:
        return average_precision(self.truth, self.found(run, config)).map50_95

    def found(self, run: ImageFunction, config: Any) -> list[Found]:
        """What a sub-network finds in each scored image, in px of the image."""
        # one by one, as in the node: some networks find another number of boxes in every image
        rows = (run(image[None])[0] for batch in self._scored.batches(config) for image in batch)
        scales = (self._supernet.space.scale(marked.size, config) for marked in self._marked)
        overlap = 1.0 if self._supernet.space.one_row_each else MEASURED_OVERLAP
        return [select(row, MEASURED_SCORE, overlap, s) for row, s in zip(rows, scales, strict=True)]
