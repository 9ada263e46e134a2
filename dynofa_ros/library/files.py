"""Library files as a command works on them: found, opened with their weights, saved with their statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from dynofa_ros.files import check_writable
from dynofa_ros.library.library import (
    Library,
    LibraryError,
    check_weights,
    load_library,
    load_statistics,
    save_library,
    save_statistics,
)
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import Weights, WeightsError, load_weights

Statistics = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class OpenLibrary:
    """A library file, the supernet it was made for and its sub-networks' own BN statistics."""

    path: Path
    library: Library
    supernet: Supernet
    statistics: Statistics


def open_library(path: Path | None, weights: Path) -> OpenLibrary:
    """Read a library and its weights; without a path, the one library that was made for these weights.

    It is looked for in the working folder and one level below, then in the package's own libraries. Raises
    LibraryError or WeightsError in one line.
    """
    found = path or find_library(weights, Path.cwd())
    library = load_library(found)
    space = load_space(library.space)
    loaded = load_weights(space, weights)
    check_weights(library, loaded, found)
    return OpenLibrary(found, library, Supernet(space, loaded), load_statistics(found, library))


def find_library(weights: Path, folder: Path) -> Path:
    """The only library with the digest of ``weights``. Raises LibraryError naming what there is instead."""
    by_space: dict[str, Weights | None] = {}
    here = [*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]
    for paths in (here, share_file("config", "libraries").rglob("*.yaml")):
        matching = [p for p in sorted(paths) if _made_for(p, weights, by_space)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(str(p) for p in matching)
            raise LibraryError(f"several libraries were made for {weights}: name one of {names}")
    raise LibraryError(f"no library here or in the package was made for {weights}: name the library file")


def _made_for(path: Path, weights: Path, by_space: dict[str, Weights | None]) -> bool:
    try:
        library = load_library(path)
    except LibraryError:  # another YAML file
        return False
    if library.space not in by_space:
        try:
            by_space[library.space] = load_weights(load_space(library.space), weights)
        except WeightsError:
            if not weights.is_file():
                raise
            by_space[library.space] = None
    loaded = by_space[library.space]
    return loaded is not None and library.weights_sha256 == loaded.digest


def require_writable(path: Path) -> None:
    """Raises LibraryError before work whose library could not be written."""
    try:
        if path.exists() and not path.is_file():  # also an empty name, which is the working folder
            raise LibraryError(f"{str(path)!r} is no file: name the library to write with --out")
        check_writable(path)
    except OSError as error:
        raise LibraryError(
            f"{path} cannot be written: choose another place with --out ({error.strerror})"
        ) from None


def save_with_statistics(path: Path, library: Library, statistics: Statistics) -> Library:
    """Write a library and, beside it, the statistics of its entries, if there are any; returns it as written.

    Statistics are written first and named by their content, so that the library that is there stays whole
    until it is replaced; then its statistics go, if this function named them and no library beside it has
    them too. Raises OSError if a file cannot be written; what is there is then as it was.
    """
    own = {e.id: statistics[e.id] for e in library.entries if e.id in statistics}
    before = _statistics_file(path)
    if not own:
        library = msgspec.structs.replace(library, bn_statistics=None)
        save_library(path, library)
    else:
        file = path.with_name(f"{path.stem}_bn_{_token(own)}.safetensors")
        new = not file.exists()
        try:
            library = msgspec.structs.replace(library, bn_statistics=save_statistics(file, own))
            save_library(path, library)
        except BaseException:
            if new:
                file.unlink(missing_ok=True)
            raise
    if before is not None and before.name.startswith(f"{path.stem}_bn_") and not _named(before):
        before.unlink(missing_ok=True)
    return library


def _named(statistics: Path) -> bool:
    """Whether a library beside ``statistics`` names it: the new one, or a copy of the old one.

    By its text: also a library that a later version wrote, or that is broken, needs its statistics.
    """
    for path in statistics.parent.glob("*.y*ml*"):  # also backups such as l.yaml.bak
        try:
            if statistics.name.encode() in path.read_bytes():
                return True
        except OSError:  # unreadable or a folder: it cannot say that it needs nothing
            if not path.is_dir():
                return True
    return False


def _statistics_file(path: Path) -> Path | None:
    try:
        statistics = load_library(path).bn_statistics
    except LibraryError:
        return None
    return path.with_name(statistics.file) if statistics else None


def _token(statistics: Statistics) -> str:
    hasher = hashlib.sha256()
    for subnet, key, array in _items(statistics):
        hasher.update(
            f"{subnet}/{key}{array.shape}".encode() + np.ascontiguousarray(array, np.float32).tobytes()
        )
    return hasher.hexdigest()[:8]


def _items(statistics: Statistics) -> Iterable[tuple[str, str, np.ndarray]]:
    return ((s, k, array) for s, own in sorted(statistics.items()) for k, array in sorted(own.items()))


def renewed_notes(notes: Iterable[str], note: str, outdated: tuple[str, ...]) -> tuple[str, ...]:
    """Notes with ``note`` at the end, without those that begin with an ``outdated`` word."""
    return (*(n for n in notes if not n.startswith(outdated)), note)
