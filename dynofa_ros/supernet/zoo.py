"""Download of the official checkpoints: addresses, checksums, conversion to safetensors.

A download survives a cut: the part that came is kept, and the next call goes on from there.
"""

from __future__ import annotations

import http.client
import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from dynofa_ros.files import read_errors, read_yaml, write_atomically
from dynofa_ros.supernet.registry import DEMO_SPACE, families, load_space, official_spaces
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.weights import (
    SUFFIX,
    Checkpoint,
    Weights,
    WeightsError,
    agreement,
    file_sha256,
    fit,
    read_checkpoint,
    save_weights,
)

NAME = re.compile(r"\w[\w.-]*")  # becomes a file name
SHA256 = re.compile(r"[0-9a-f]{64}")
TIMEOUT_S = 30.0  # without a byte
PIECE = 1 << 16
LARGEST_FILE = 1 << 33  # bytes
Progress = Callable[[int, int], None]  # (bytes so far, bytes in all, 0 = unknown)


class CheckpointError(ValueError):
    """A checkpoint that cannot be fetched, or is not the one that was pinned; one line."""


class DownloadError(RuntimeError):
    """What kept the file from coming, in one line that names the URL."""


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
    with read_errors(path, CheckpointError):
        listed = read_yaml(path, _CheckpointList).checkpoints
        for name, checkpoint in listed.items():
            _check_listed(name, checkpoint)
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
    names = {DEMO_SPACE, *official_spaces(), *(checkpoint.space for checkpoint in listed.values())}
    names |= {f"{name}_detector" for name in names if name.startswith("ofa_mbv3")}
    names |= {name for family in families() for name in family.known if load_space(name).parameter_shapes(1)}
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
        try:
            download(listed.url, file, progress)
        except DownloadError as error:
            by_hand = f"put the file at {file} and run 'dynofa weights check {file}'"
            raise CheckpointError(f"{error}; by hand: {by_hand}") from None
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


# --- download -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """Which content a part belongs to; a part of another content must not be continued."""

    url: str
    version: str  # ETag or Last-Modified; empty if the server names none
    total: int  # bytes, 0 = unknown


def check_url(url: str) -> str:
    """``url``. Raises ValueError if it is none for HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is no URL: it must start with http:// or https://")
    return url


def download(url: str, target: Path, progress: Progress) -> None:
    """Fetch ``url`` into ``target``; until it is complete the bytes are in ``target``.part.

    A server that cannot continue, or has other content by now, is asked for the whole file again.
    Raises DownloadError, also for a web page in place of a file.
    """
    part, note = (target.with_name(target.name + suffix) for suffix in (".part", ".part.json"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        start, origin = _kept(part, note, url)
        if not start or start != origin.total:
            _receive(url, part, note, start, origin, progress)
        part.replace(target)
        note.unlink(missing_ok=True)
    except OSError as error:  # those of the network are DownloadErrors by now
        raise DownloadError(f"{url}: cannot be written to {target}: {error.strerror or error}") from None


def _kept(part: Path, note: Path, url: str) -> tuple[int, _Origin]:
    """Bytes that can be continued and where they came from; 0 if there are none."""
    try:
        origin = msgspec.json.decode(note.read_bytes(), type=_Origin)
        size = part.stat().st_size
    except (OSError, msgspec.DecodeError):
        return 0, _Origin(url, "", 0)
    return (size if origin.url == url and origin.version else 0), origin


def _receive(url: str, part: Path, note: Path, start: int, kept: _Origin, progress: Progress) -> None:
    response = _request(url, start)
    if start and (response.status != 206 or _origin(url, response) != kept or _first(response) != start):
        if response.status == 206:
            response.close()
            response = _request(url, 0)
        start = 0
    with response:
        origin = _origin(url, response)
        pieces = _pieces(response, url)
        first = next(pieces, b"")
        _refuse_page(url, response, b"" if start else first)
        note.write_bytes(msgspec.json.encode(origin))
        done = start
        with part.open("ab" if start else "wb") as file:
            for piece in chain((first,), pieces):
                done += file.write(piece)
                if done > LARGEST_FILE:
                    raise DownloadError(
                        f"{url}: larger than {LARGEST_FILE >> 30} GiB: no checkpoint of a list"
                    )
                progress(done, origin.total)
    if done < origin.total:
        raise DownloadError(
            f"{url}: cut after {done} of {origin.total} bytes: run the command again to go on"
        )


def _request(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "dynofa"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the file is shorter now
            return _request(url, 0)
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise DownloadError(f"{url}: not reached: {_reason(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: not reached: {_reason(error)}") from None
    return response


def _reason(error: object) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _origin(url: str, response: http.client.HTTPResponse) -> _Origin:
    headers = response.headers
    if response.status == 206:
        total = headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = headers.get("Content-Length", "")
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    return _Origin(url, version, int(total) if total.isdecimal() else 0)


def _first(response: http.client.HTTPResponse) -> int:
    """Position of the first byte of a partial answer, -1 if it does not say."""
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else -1


def _pieces(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """The body until its end or a cut, which shows in the number of bytes."""
    try:
        while piece := response.read(PIECE):
            yield piece
    except http.client.IncompleteRead as error:
        yield error.partial
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: cut: {_reason(error)}: run the command again to go on") from None


def _refuse_page(url: str, response: http.client.HTTPResponse, first: bytes) -> None:
    page = first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))
    if page or response.headers.get_content_type() == "text/html":
        raise DownloadError(f"{url}: is a web page, not a checkpoint")
