"""The official checkpoints: where they are, what was downloaded, and that it stays what it was."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from dynofa_ros.files import write_atomically
from dynofa_ros.supernet.convert import file_sha256, save_weights
from dynofa_ros.supernet.download import DownloadError, Progress, check_url, download
from dynofa_ros.supernet.space import DEMO_SPACE, OFFICIAL_SPACES, SearchSpace, load_space
from dynofa_ros.supernet.weights import (
    SUFFIX,
    Checkpoint,
    Weights,
    WeightsError,
    agreement,
    fit,
    read_checkpoint,
)

NAME = re.compile(r"\w[\w.-]*")  # becomes a file name
SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(ValueError):
    """A checkpoint that cannot be fetched, or is not the one that was pinned; one line."""


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one checkpoint is. size_mb is approximate; sha256: empty = pinned by the first download."""

    space: str
    url: str
    size_mb: float
    sha256: str = ""


class _CheckpointList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: Literal[1]
    checkpoints: dict[str, Listed]


@dataclass(frozen=True)
class Checked:
    """A checkpoint file that fits its space."""

    file: Path
    sha256: str
    space: SearchSpace
    weights: Weights


def load_list(path: Path) -> dict[str, Listed]:
    """The checkpoints of a list file by name. Raises CheckpointError naming file, key and reason."""
    try:
        listed = msgspec.yaml.decode(path.read_bytes(), type=_CheckpointList).checkpoints
        for name, checkpoint in listed.items():
            _check_listed(name, checkpoint)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    return listed


def _check_listed(name: str, checkpoint: Listed) -> None:
    try:
        if not NAME.fullmatch(name):
            raise ValueError("the name must be of letters, digits, '.', '-' and '_'")
        load_space(checkpoint.space)
        check_url(checkpoint.url)
        if checkpoint.sha256 and not SHA256.fullmatch(checkpoint.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits in lower case")
    except ValueError as error:
        raise ValueError(f"checkpoints.{name}: {error}") from None


def known_spaces(listed: Mapping[str, Listed]) -> list[SearchSpace]:
    """The spaces that a checkpoint is compared with when none is named."""
    names = {DEMO_SPACE, *OFFICIAL_SPACES, *(checkpoint.space for checkpoint in listed.values())}
    return [load_space(name) for name in sorted(names)]


# --- pinned digests -------------------------------------------------------------------------------------


def _pin_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _pinned(file: Path) -> str:
    """The digest that was pinned for ``file``, empty if none was. Raises CheckpointError if it is damaged."""
    pin = _pin_file(file)
    if not pin.is_file():
        return ""
    words = pin.read_text(errors="replace").split()
    if not words or not SHA256.fullmatch(words[0]):
        raise CheckpointError(f"{pin}: expected a SHA-256 in 64 hexadecimal digits; delete it to pin anew")
    return words[0]


def _pin(file: Path, digest: str) -> None:
    write_atomically(_pin_file(file), f"{digest}  {file.name}\n".encode())  # as `sha256sum -c` reads it


def _verify(file: Path, listed_sha256: str = "") -> str:
    """SHA-256 of ``file``. Raises CheckpointError with both digests if another one is pinned or listed."""
    digest = file_sha256(file)
    for place, expected in ((f"{_pin_file(file)} says", _pinned(file)), ("the list says", listed_sha256)):
        if expected and digest != expected:
            raise CheckpointError(f"{file} has SHA-256 {digest}, but {place} {expected}: it is another file")
    return digest


# --- check and fetch ------------------------------------------------------------------------------------


def recognise(checkpoint: Checkpoint, spaces: Sequence[SearchSpace]) -> SearchSpace:
    """The space that names and shapes of the arrays agree with most. Raises WeightsError if none does."""
    best = max(spaces, key=lambda space: agreement(space, checkpoint))
    if not agreement(best, checkpoint):
        names = ", ".join(space.name for space in spaces)
        raise WeightsError(f"{checkpoint.source}: fits none of the spaces {names}")
    return best


def check(file: Path, space: SearchSpace | Sequence[SearchSpace], listed_sha256: str = "") -> Checked:
    """Verify a file: its pinned digest if it has one, and that it fits ``space``, or one of several.

    Raises CheckpointError or WeightsError, in one line that names the file and the reason.
    """
    digest = _verify(file, listed_sha256) if file.is_file() else ""
    checkpoint = read_checkpoint(file)
    found = space if isinstance(space, SearchSpace) else recognise(checkpoint, space)
    return Checked(file, digest, found, fit(found, checkpoint))


def fetch(name: str, listed: Listed, folder: Path, progress: Progress) -> tuple[Checked, Path]:
    """Download a checkpoint into ``folder`` unless it is there, check it, write its memory-mappable form.

    Returns the checked file and the path of its .safetensors. The first file that fits is pinned: another
    one is refused from then on. Raises CheckpointError or WeightsError in one line.
    """
    file = folder / f"{name}{SUFFIX if urlsplit(listed.url).path.endswith(SUFFIX) else '.pth'}"
    if file.suffix != SUFFIX and importlib.util.find_spec("torch") is None:
        raise CheckpointError(
            f"{name} is a torch checkpoint and torch is not installed: fetch it on a machine with torch "
            f"and copy {file.with_suffix(SUFFIX).name} from there"
        )
    came = not file.is_file()
    if came:
        _download(listed.url, file, progress)
    try:
        checked = check(file, load_space(listed.space), listed.sha256)
    except (CheckpointError, WeightsError):
        if came:
            file.unlink(missing_ok=True)
        raise
    _pin(file, checked.sha256)
    mapped = file.with_suffix(SUFFIX)
    if mapped != file:
        save_weights(mapped, checked.weights)
    return checked, mapped


def _download(url: str, file: Path, progress: Progress) -> None:
    try:
        download(url, file, progress)
    except DownloadError as error:
        raise CheckpointError(
            f"{error}; by hand: put the file at {file} and run 'dynofa weights check {file}'"
        ) from None
