"""Labelled images: one folder per class, as torchvision's ImageFolder has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import SUFFIXES, broken, files_of, image_files, plain_name
from dynofa_ros.files import natural

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Classes:
    """Image files with the place of their class among ``names``."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: np.ndarray  # (number of files,)
    notes: tuple[str, ...] = ()  # what was left out, and why


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, in natural order.

    Raises DataError if ``folder`` is none, has two classes of one name, or parts with the classes in them.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    folders = [p for p in sorted(folder.iterdir(), key=natural) if p.is_dir() and not p.name.startswith(".")]
    if folders and all(p.name.lower() in SPLITS and any(c.is_dir() for c in p.iterdir()) for p in folders):
        parts = ", ".join(path.name for path in folders)
        raise DataError(f"{folder}: has no classes, but {parts}: give one of them, {folders[0]}")
    found: dict[str, Path] = {}
    for path in folders:
        if (first := found.setdefault(plain_name(path.name), path)) != path:
            raise DataError(f"{str(first)!r} and {str(path)!r} are of one name: a class has one folder")
    return {name: image_files(path) for name, path in found.items()}


def read_classes(
    folder: Path, skip_broken: bool = False, on_file: Callable[[int], object] = lambda total: None
) -> Classes:
    """Every image of every class folder, in natural order; each is decoded once.

    on_file gets the number of files, once per file. Raises DataError with all that is wrong.
    """
    found = class_files(folder)
    files = [(path, name) for name, paths in found.items() for path in paths]
    problems = broken([path for path, _ in files], lambda: on_file(len(files)))
    others = [p for p in files_of(folder) if p.parent != folder and p.suffix.lower() not in SUFFIXES]
    kinds = ", ".join(sorted({path.suffix or path.name for path in others}))
    notes = [*problems.values()] if skip_broken else []
    notes += [f"{folder}: {len(others)} files of other kinds are left out ({kinds})"] * bool(others)
    kept = [(path, name) for path, name in files if path not in problems]
    lines = [] if skip_broken else list(problems.values())
    have = {name for _, name in kept}
    lines += [f"{folder / name}: the class has no image" for name in found if name not in have]
    if len(found) < 2:
        lines.append(f"{folder} has {len(found)} class folders: at least two are needed, one per class")
    if lines:
        raise DataError(*dict.fromkeys([*problems.values(), *lines]))
    names = tuple(found)
    labels = np.array([names.index(name) for _, name in kept])
    return Classes(names, tuple(path for path, _ in kept), labels, tuple(notes))
