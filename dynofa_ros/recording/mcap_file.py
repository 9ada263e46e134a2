"""The bytes of an mcap file, also of one that its recorder did not close; no read is larger than a record."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 28  # of a message, a chunk or a record: 10 pictures of 4K
MCAP_MAGIC = b"\x89MCAP0\r\n"
# An empty DataEnd and a Footer without summary: a reader then scans the records (mcap.dev, section Records).
_MCAP_END = b"\x0f" + (4).to_bytes(8, "little") + bytes(4) + b"\x02" + (20).to_bytes(8, "little") + bytes(20)


def allowed(size: int) -> int:
    """``size``. Raises ValueError if it is more than one record may have."""
    if size > MOST_BYTES:
        raise ValueError(f"a record of {size} bytes: at most {MOST_BYTES} are accepted")
    return size


def ends_with_magic(file: Path) -> bool:
    """Whether its recorder closed it."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - len(MCAP_MAGIC)))
        return stream.read() == MCAP_MAGIC


def last_whole_record(file: Path) -> int:
    """Where the last whole record before the end of the data ends. Raises ValueError if it is no mcap."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(8) != MCAP_MAGIC:
            raise ValueError("the file does not begin as an mcap file")
        end = 8
        while len(head := stream.read(9)) == 9 and head[0] not in (0x02, 0x0F):
            following = end + 9 + int.from_bytes(head[1:], "little")
            if following > size:
                break
            end = following
            stream.seek(end)
    return end


@dataclass
class Mcap:
    """As much of a path as rosbags needs: it opens a file, or its whole records and an end behind them."""

    path: Path
    end: int | None = None

    def open(self, mode: str) -> io.BufferedReader:
        if self.end is None:
            return _BoundedReader(self.path.open("rb", buffering=0))
        return _BoundedReader(_WithEnd(self.path, self.end, _MCAP_END + MCAP_MAGIC))

    def __fspath__(self) -> str:
        return str(self.path)


class _WithEnd(io.RawIOBase):
    """The first bytes of a file, and others behind them."""

    def __init__(self, path: Path, size: int, end: bytes) -> None:
        super().__init__()
        self._file, self._size, self._end, self._at = path.open("rb"), size, end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size + len(self._end)}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._size:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._size - self._at))
        else:
            data = self._end[self._at - self._size :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _BoundedReader(io.BufferedReader):
    """A file of which no read takes more than a record may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(allowed(size or 0))
