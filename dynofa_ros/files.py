"""Files that are never half-written, and files of others, which may be of any size and content."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import yaml

from dynofa_ros.errors import one_line

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST_TEXT = 1 << 24  # bytes of a file that a person or this package writes as text
MOST_NODES = 200_000  # of a YAML document, those behind an alias counted at every use; 500 bytes each
DEEPEST = 50
LONGEST_NUMBER = 100  # digits
_NUMBER = re.compile(r"[-+.\d][-+.:,_\da-fA-FxobT]*$")
_ALLOWED_CONTROLS = dict.fromkeys(map(ord, "\0\t\n\r"))  # of texts, and of kernel files as data
T = TypeVar("T")


def read_bounded(path: Path, most: int = LARGEST_TEXT, flags: int = 0) -> bytes:
    """Content of an ordinary file of at most ``most`` bytes; a pipe is not waited for.

    ``flags``: more of ``os.open``, e.g. O_NOFOLLOW. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))
    return data


@overload
def read_yaml(path: Path) -> Any: ...
@overload
def read_yaml(path: Path, kind: type[T]) -> T: ...


def read_yaml(path: Path, kind: Any = Any) -> Any:
    """Content of a YAML file as a type that msgspec knows. Raises OSError, and DecodeError in one line."""
    return decode_yaml(read_bounded(path), kind)


def decode_yaml(data: bytes, kind: Any = Any) -> Any:
    """A YAML document whose aliases stand for no more than MOST_NODES. Raises msgspec.DecodeError."""
    try:
        check_yaml(data)
        return msgspec.yaml.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(one_line(error)) from None
    except (ValueError, yaml.YAMLError, msgspec.DecodeError) as error:  # ValueError: no date, no number
        raise msgspec.DecodeError(one_line(error)) from None


@contextmanager
def read_errors(path: Path, kind: type[Exception], what: str = "") -> Iterator[None]:
    """What is wrong with a file that is read and checked inside becomes one line of ``kind``, which names it.

    ``what``: what it is not, before the reason.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, msgspec.DecodeError) as error:  # ValidationError is a DecodeError
        raise kind(f"{path}: {what}{one_line(error)}") from None


def check_yaml(data: bytes) -> None:
    """Raises DecodeError for a document that is too large, before it is, or could disturb a terminal."""
    anchored: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, number of nodes before it
    count = 0
    for event in yaml.parse(data, Loader=YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchored:
                raise msgspec.DecodeError(f"alias {event.anchor!r} is not defined before it, or holds itself")
            count += anchored[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        if isinstance(event, yaml.ScalarEvent):
            _check_scalar(event)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                anchored[anchor] = count - before
        if count > MOST_NODES or len(open_nodes) > DEEPEST:
            raise msgspec.DecodeError(
                f"more than {MOST_NODES} values (aliases counted at each use) or nested deeper than {DEEPEST}"
            )


def write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the old file or the whole new one, also after a power cut; a failure leaves nothing.

    A pipe or device, such as /dev/null, is written as it is. Raises OSError.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody has put there
    try:
        with temporary.open("xb") as file:  # a new file: follows no link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names none
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


def _check_scalar(scalar: yaml.ScalarEvent) -> None:
    if not scalar.value.translate(_ALLOWED_CONTROLS).isprintable():
        raise msgspec.DecodeError(f"{scalar.value[:40]!r} holds control characters")
    if scalar.implicit[0] and len(scalar.value) > LONGEST_NUMBER and _NUMBER.match(scalar.value):
        # of YAML 1.1: a number to base 60 takes time that grows with the square of its length
        line = scalar.start_mark.line + 1
        raise msgspec.DecodeError(
            f"line {line}: {scalar.value[:20]}... is no number: it has {len(scalar.value)} digits"
        )


def _os_error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def natural(path: Path | str) -> tuple[Any, ...]:
    """Key of the order in which people count: 2.png before 10.png."""
    parts = re.split(r"(\d+)", str(path))
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts), str(path)


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
