"""Image files to pixels, in one way for training, calibration and accuracy, and lists of them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.files import natural, read_bounded

LARGEST_IMAGE = 1 << 30  # bytes of a file
if hasattr(cv2, "setLogLevel"):
    cv2.setLogLevel(0)  # what is wrong with a file is said in one line, by who reads it
Image = NDArray[Any]  # BGR, uint8 (H, W, 3)
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def plain_name(name: str) -> str:
    """A name as it is compared: without blanks around it, accents in one way (Unicode NFC)."""
    return unicodedata.normalize("NFC", name.strip())


def files_of(folder: Path) -> list[Path]:
    """Files of a folder and its sub-folders, also linked ones, in natural order; none that is hidden.

    Raises OSError naming a folder that cannot be read.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder around it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found, key=natural)


def _raise(error: OSError) -> None:
    raise error


def image_files(folder: Path) -> list[Path]:
    """Those of ``files_of`` that are images by their names."""
    return [path for path in files_of(folder) if path.suffix.lower() in SUFFIXES]


def read_lines(path: Path) -> list[str]:
    """Lines of a text, without blanks around them. Raises DataError naming the file."""
    try:
        text = read_bounded(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"{path}: cannot be read: {reason}") from None
    return [line.strip() for line in text.splitlines()]


def read_names(path: Path) -> tuple[str, ...]:
    """Names of a file, one per line. Raises DataError naming it where it has none, or one twice."""
    names = tuple(plain_name(line) for line in read_lines(path) if line)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise DataError(f"{path}: {f'{twice[0]!r} is there twice' if twice else 'it has no name'}")
    return names


def read_image(path: Path) -> Image:
    """BGR, uint8 (H, W, 3), turned as its EXIF orientation says; of 16 bits the high 8, without alpha.

    Raises DataError naming the file and the reason.
    """
    try:
        data = read_bounded(path, LARGEST_IMAGE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    reason = "it is empty" if not data else incomplete(data)
    pixels = None
    if reason is None:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise DataError(f"{path}: not a whole image that OpenCV can decode{f' ({reason})' if reason else ''}")
    return pixels


def broken(files: Sequence[Path], on_file: Callable[[], object] = lambda: None) -> dict[Path, str]:
    """The files that cannot be decoded, each with one line that says why."""
    problems: dict[Path, str] = {}
    for path in files:
        try:
            read_image(path)
        except DataError as error:
            problems[path] = str(error)
        on_file()
    return problems


def readable(
    files: Sequence[Path], skip_broken: bool, on_file: Callable[[], object] = lambda: None
) -> tuple[list[Path], tuple[str, ...]]:
    """The files that can be decoded, and why the others cannot, one line each.

    Raises DataError with all these lines unless they shall be skipped.
    """
    problems = broken(files, on_file)
    if problems and not skip_broken:
        raise DataError(*problems.values())
    return [path for path in files if path not in problems], tuple(problems.values())


_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in coded data FF 00 is a byte, D0..D7 restart


def incomplete(data: bytes) -> str | None:
    """Why a JPEG or PNG is not whole. OpenCV before 5.0 fills what is cut off: gray, or the last picture."""
    if data.startswith(b"\xff\xd8"):
        return None if _has_jpeg_end(data) else "the JPEG is cut off: it has no end marker"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None if _has_png_end(data) else "the PNG is cut off: it has no end chunk"
    return None


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the segments (ITU-T T.81, annex B) lead to an EOI marker; a thumbnail's lies inside one."""
    at = 2
    while found := _NEXT_MARKER.search(data, at):
        marker = data[found.end() - 1]
        if marker == 0xD9:
            return True
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        at = found.end() + max(length, 2)
    return False


def _has_png_end(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at <= len(data)
    return False
