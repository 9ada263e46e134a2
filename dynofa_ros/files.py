"""Files that are never half-written."""

from __future__ import annotations

import errno
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the old file or the whole new one, also after a power cut; a failure leaves nothing.

    A pipe or device, such as /dev/null, is written as it is. Raises OSError.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def check_writable(path: Path) -> None:
    """Before work whose result could not be written: raises the OSError of ``write_atomically``."""
    if path.is_dir():
        raise _os_error(errno.EISDIR, path)
    place = path
    if path.is_file() or not path.exists():  # what counts is the folder in which it will be replaced
        place = next(p for p in path.absolute().parents if p.exists())
        if not place.is_dir():
            raise _os_error(errno.ENOTDIR, path)
    if not os.access(place, os.W_OK):
        raise _os_error(errno.EACCES, path)


def _os_error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically; NaN and infinite numbers become null. Raises OSError."""
    text = json.dumps(to_json(value), indent=2) + "\n"
    # /dev/stdout is a link: what it leads to is written, not the link replaced
    write_atomically(path.resolve() if path.is_file() else path, text.encode())


def to_json(value: Any) -> Any:
    """``value`` with NaN and infinite numbers as None, for json.dumps."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
