"""A file over HTTP that survives a cut: the part that came is kept, and the next call goes on from there."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

TIMEOUT_S = 30.0  # without a byte
PIECE = 1 << 16
Progress = Callable[[int, int], None]  # (bytes so far, bytes in all, 0 = unknown)


class DownloadError(RuntimeError):
    """What kept the file from coming, in one line that names the URL."""


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
