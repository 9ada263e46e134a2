"""Labelled images: one folder per class, as torchvision's ImageFolder has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import broken, image_files
from dynofa_ros.files import natural


@dataclass(frozen=True)
class Classes:
    """Image files with the place of their class among ``names``."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: np.ndarray  # (number of files,)
    notes: tuple[str, ...] = ()  # what was left out, and why


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, in natural order. Raises DataError if ``folder`` is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    folders = [p for p in sorted(folder.iterdir(), key=natural) if p.is_dir() and not p.name.startswith(".")]
    return {p.name: image_files(p) for p in folders}


def read_classes(
    folder: Path, skip_broken: bool = False, on_file: Callable[[int], object] = lambda total: None
) -> Classes:
    """Every image of every class folder, in natural order; each is decoded once.

    on_file gets the number of files, once per file. Raises DataError with all that is wrong.
    """
    found = class_files(folder)
    files = [(path, name) for name, paths in found.items() for path in paths]
    problems = broken([path for path, _ in files], lambda: on_file(len(files)))
    notes = tuple(problems.values()) if skip_broken else ()
    kept = [(path, name) for path, name in files if path not in problems]
    lines = [] if skip_broken else list(problems.values())
    have = {name for _, name in kept}
    lines += [f"{folder / name}: the class has no image" for name in found if name not in have]
    if len(found) < 2:
        lines.append(f"{folder} has {len(found)} class folders: at least two are needed, one per class")
    if lines:
        raise DataError(*lines)
    names = tuple(found)
    return Classes(names, tuple(p for p, _ in kept), np.array([names.index(n) for _, n in kept]), notes)
