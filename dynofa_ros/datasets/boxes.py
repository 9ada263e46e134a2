"""Images with boxes: every image decoded, every box within its image, all that is wrong named at once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.datasets.layouts import Box, read_layout
from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import plain_name, read_image
from dynofa_ros.files import natural

MOST_ASPECT = 8.0  # an input of a strip of 4 x 2000 px would have 100 times the pixels of a camera's
EDGE_PX = 2.0  # a box may end that far outside its image, and is cut there


@dataclass(frozen=True)
class Marked:
    """An image file with boxes (n, 4), px: left, top, right, bottom, and labels (n,) of the names."""

    path: Path
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    size: tuple[int, int] = (0, 0)  # height, width


@dataclass(frozen=True)
class BoxData:
    """A data set; names of classes without an example are left out. notes: what was left out, and why."""

    layout: str
    names: tuple[str, ...]
    images: tuple[Marked, ...]
    notes: tuple[str, ...] = ()

    @property
    def aspect(self) -> float:
        """The usual height by width of its images, of which inputs have at most MOST_ASPECT."""
        usual = np.median([image.size[0] / image.size[1] for image in self.images])
        return float(usual.clip(1 / MOST_ASPECT, MOST_ASPECT))


def read_boxes(
    folder: Path, skip_broken: bool = False, on_file: Callable[[int], object] = lambda total: None
) -> BoxData:
    """The data set of a folder; every image is decoded once.

    skip_broken: leave broken images and boxes out. on_file gets the number of files, once per file. Raises
    DataError with all that is wrong, one line each.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    layout = read_layout(folder)
    problems = list(layout.problems)
    images = _each_once(layout.images)
    marked: list[tuple[Path, tuple[int, int], list[tuple[str, NDArray[np.float32]]]]] = []
    for path, boxes in images:
        on_file(len(images))
        try:
            height, width = read_image(path).shape[:2]
        except DataError as error:
            problems.append(str(error))
            continue
        kept = {}
        for box in boxes:
            try:
                sides = _sides(box, height, width)
                kept[box.name, sides.tobytes()] = box.name, sides
            except ValueError as error:
                problems.append(f"{box.place}: {error}")
        marked.append((path, (height, width), list(kept.values())))
    if problems and not skip_broken:
        raise DataError(*problems)
    names = tuple(sorted({n for _, _, own in marked for n, _ in own}, key=natural))
    if not names:
        raise DataError(*problems, f"{folder} has no box in {len(marked)} images: nothing could be learnt")
    found = tuple(
        Marked(
            path,
            np.array([sides for _, sides in own], np.float32).reshape(-1, 4),
            np.array([names.index(name) for name, _ in own], np.int64),
            size,
        )
        for path, size, own in marked
    )
    unused = [n for n in dict.fromkeys(map(plain_name, layout.declared)) if n not in names]
    notes = [*layout.notes, *(f"{folder}: class {n!r} has no example and is left out" for n in unused)]
    if empty := sum(not len(image.boxes) for image in found):
        notes.append(f"{folder}: {empty} of {len(found)} images have no box: nothing is to be found in them")
    return BoxData(layout.name, names, found, (*problems, *notes))


def _each_once(images: Sequence[tuple[Path, list[Box]]]) -> list[tuple[Path, list[Box]]]:
    """With all boxes of a file that is listed several times: a part of them must not be held out."""
    merged: dict[str, tuple[Path, list[Box]]] = {}
    for path, boxes in images:
        merged.setdefault(os.path.realpath(path), (path, []))[1].extend(boxes)
    return list(merged.values())


def _sides(box: Box, height: int, width: int) -> NDArray[np.float32]:
    """Left, top, right, bottom in px, within the image. Raises ValueError saying what is wrong."""
    if box.reason or not box.name:
        raise ValueError(box.reason or "it has no class")
    try:
        left, top, wide, high = (float(v) for v in box.sides)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"box {list(box.sides)}: four numbers are expected") from None
    if box.relative:
        left, top, wide, high = left * width, top * height, wide * width, high * height
    text = f"box of {wide:g} x {high:g} px at {left:g}, {top:g}"
    if not all(map(math.isfinite, (left, top, wide, high))) or wide <= 0 or high <= 0:
        raise ValueError(f"{text}: width and height must be more than 0")
    sides = np.array([left, top, left + wide, top + high])
    limits = np.tile([width, height], 2)
    cut = sides.clip(0, limits).astype(np.float32)
    if (sides < -EDGE_PX).any() or (sides > limits + EDGE_PX).any() or not (cut[2:] > cut[:2]).all():
        raise ValueError(f"{text} is not inside its image of {width} x {height} px")
    return cut
