"""BN statistics of sub-networks from images.

The weights hold one set of running means and variances, those of the largest network; a sub-network sums over
fewer channels and needs its own (Cai et al., ICLR 2020). The recipe is the official `set_running_statistics`:
every layer is normalised by its batch while batch means and biased batch variances are averaged, weighted by
the batch size, usually over 2000 training images.

The images are read and prepared as the perception node prepares a frame (datasets/reader.py and the space's
``preprocess``), not by the official evaluation recipe (shorter side to resolution / 0.875, then the centre):
statistics must be those of what the network will see, and the crop changes the scale of objects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import SUFFIXES, Image, image_files, read_image, readable
from dynofa_ros.library.library import Library
from dynofa_ros.supernet.masked import calibrate
from dynofa_ros.supernet.supernet import Supernet


def choose_images(
    folder: Path, number: int, seed: int, skip_broken: bool = False
) -> tuple[list[Path], tuple[str, ...]]:
    """At most ``number`` image files of a folder and its sub-folders, drawn by the seed, and why others that
    were drawn cannot be decoded.

    Raises DataError naming the folder, or all these files unless they shall be skipped.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    files = image_files(folder)
    drawn = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[:number]]
    kept, notes = readable(drawn, skip_broken)
    if not kept:
        raise DataError(f"{folder} holds no image ({' '.join(sorted(SUFFIXES))})")
    return kept, notes


def batches(files: Sequence[Path], preprocess: Callable[[Image], np.ndarray], size: int) -> Iterator[Tensor]:
    """Network inputs as a perception node makes them with ``preprocess``, float32 (<= size, *input shape).

    One batch is in memory at a time.
    """
    for start in range(0, len(files), size):
        images = [preprocess(read_image(path)) for path in files[start : start + size]]
        yield torch.from_numpy(np.concatenate(images)).contiguous(memory_format=torch.channels_last)


def library_statistics(
    library: Library,
    supernet: Supernet,
    files: Sequence[Path],
    batch: int = 64,
    on_batch: Callable[[int], None] = lambda total: None,
) -> dict[str, dict[str, np.ndarray]]:
    """BN statistics by sub-network. Sub-networks of one input size share the decoded images.

    on_batch is called after every batch of every sub-network, with their number in all.
    """
    weights = {key: torch.tensor(np.asarray(array)) for key, array in supernet.weights.items()}
    by_size: dict[Hashable, dict[str, Any]] = {}
    for entry in library.entries:
        config = library.config(entry)
        by_size.setdefault(supernet.space.preparation(config), {})[entry.id] = config
    total = sum(map(len, by_size.values())) * -(-len(files) // batch)
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for own in by_size.values():
        plans = {subnet_id: supernet.plan(config) for subnet_id, config in own.items()}
        preprocess = functools.partial(supernet.space.preprocess, config=next(iter(own.values())))
        means = {subnet_id: WeightedMean() for subnet_id in own}
        for images in batches(files, preprocess, batch):
            for subnet_id, plan in plans.items():
                means[subnet_id].add(calibrate(plan, weights, [images]), len(images))
                on_batch(total)
        statistics |= {subnet_id: mean.value() for subnet_id, mean in means.items()}
    return statistics


def use_threads(number: int | None = None) -> None:
    """Threads of torch; None = one per physical core: with hyper-threads they spin on each other."""
    torch.set_num_threads(number or psutil.cpu_count(logical=False) or torch.get_num_threads())


class WeightedMean:
    """Running mean of named arrays, in double precision."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._weight = 0

    def add(self, arrays: Mapping[str, np.ndarray], weight: int) -> None:
        for key, array in arrays.items():
            self._sums[key] = self._sums.get(key, 0.0) + weight * array.astype(np.float64)
        self._weight += weight

    def value(self) -> dict[str, np.ndarray]:
        """The mean so far, float32."""
        return {key: (total / self._weight).astype(np.float32) for key, total in self._sums.items()}
