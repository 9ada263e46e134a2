"""mcap files, also those that their recorder did not close or that other programs than rosbag2 wrote.

No read is larger than a record.
"""

from __future__ import annotations

import heapq
import io
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import storage_mcap
from rosbags.rosbag2.metadata import parse_qos

from dynofa_ros.files import check_yaml

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_BYTES = 1 << 28  # of a message, a chunk or a record: 10 pictures of 4K
MCAP_MAGIC = b"\x89MCAP0\r\n"
_FOOTER_HEAD = b"\x02" + (20).to_bytes(8, "little")
# An empty DataEnd and a Footer without summary: a reader then scans the records (mcap.dev, section Records).
_MCAP_END = b"\x0f" + (4).to_bytes(8, "little") + bytes(4) + _FOOTER_HEAD + bytes(20)
# A recorder that did not find a definition calls its encoding "unknown".
FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
WAITING_BYTES = 1 << 26  # of messages that are put in order
Message = tuple[Connection, int, bytes]


class OtherMessagesError(ValueError):
    """The file is whole, but its messages are none of ROS 2."""


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


def _bounded_qos(text: Any) -> list[Any]:
    try:
        check_yaml(str(text).encode())
        return parse_qos(text)
    except Exception:  # of YAML, and of words that it does not know; nothing here needs the QoS
        return []


# rosbags unpacks a chunk, and the YAML of a QoS, whatever they grow to. It compares the size of a chunk
# afterwards: one byte more than announced is enough for that. A topic in another encoding, of a definition
# that its recorder did not find, or with QoS of another distribution makes it refuse the whole file.
storage_mcap.DECOMPRESSORS.update(
    zstd=lambda data, size: zstd.ZstdDecompressor().decompress(data, allowed(size) + 1),
    lz4=lambda data, size: LZ4FrameDecompressor().decompress(data, allowed(size) + 1),
)
storage_mcap.read_string = lambda bio: storage_mcap.read_bytes(bio).decode(errors="replace")
storage_mcap.parse_qos = _bounded_qos  # type: ignore[assignment]
storage_mcap.get_msgdef = lambda schema: (
    MessageDefinition(FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE), schema.data)
    if schema
    else MessageDefinition(MessageDefinitionFormat.NONE, "")
)


class McapFile(storage_mcap.McapReader):
    """rosbags' reader, which also scans the records where the summary is not enough to find the messages.

    ``end``: where the whole records end, None for a file that was closed.
    """

    def __init__(self, file: Path, end: int | None = None) -> None:
        super().__init__(Mcap(file, end))  # type: ignore[arg-type]  # it needs no more of a path

    def _open(self) -> None:
        """Raises ValueError, OtherMessagesError for another profile; errors of rosbags."""
        bio: Any = self.bio
        if bio.read(9) != MCAP_MAGIC + b"\x01":
            raise ValueError("the file does not begin as an mcap file")
        profile = storage_mcap.read_string(io.BytesIO(storage_mcap.read_sized(bio)))
        if profile not in ("ros2", ""):
            raise OtherMessagesError(f"its messages are of the profile {profile[:40]!r}: it must be ros2")
        self.data_start, footer_start = bio.tell(), bio.seek(-37, io.SEEK_END)
        footer = bio.read()
        if footer[:9] != _FOOTER_HEAD:
            raise ValueError("the file has no footer")
        self.data_end = int.from_bytes(footer[9:17], "little") or footer_start
        if not self.data_start <= self.data_end <= footer_start:
            raise ValueError("its footer points outside")
        if self.data_end < footer_start:
            self.read_index()
        if not self._finds_messages():
            for part in (self.schemas, self.channels, self.connections, self.chunks):
                part.clear()
            self.meta_scan()
        numbers: Any = self.statistics
        counts = numbers.channel_message_counts
        self.connections = [c._replace(msgcount=counts.get(c.id, 0)) for c in self.connections]
        if numbers.message_count:
            self.metadata = self.metadata._replace(
                start_time=numbers.start_time,
                end_time=numbers.end_time + 1,
                message_count=numbers.message_count,
            )

    def _finds_messages(self) -> bool:
        """Whether the summary has the topics, their types, the counts, and which chunk holds which topic."""
        return (
            self.statistics is not None
            and self.statistics.channel_message_counts.keys() <= self.channels.keys()
            and bool(self.schemas or not self.channels)
            and all(chunk.channel_count for chunk in self.chunks)
        )

    def messages(  # type: ignore[override]
        self, connections: Collection[Connection]
    ) -> Iterator[Message]:
        """(connection, time of receipt in ns, data) of these connections, by time; see `in_order`."""
        if self.chunks:
            return super().messages(connections)
        return in_order(self.messages_scan(connections))


def in_order(messages: Iterable[Message], waiting_bytes: int = WAITING_BYTES) -> Iterator[Message]:
    """Messages by time, though recorders write those of several topics somewhat out of order.

    One that comes too late for that, as after a clock was set back, follows where it is.
    """
    waiting: list[tuple[int, int, Message]] = []
    size, number = 0, count()
    for message in messages:
        heapq.heappush(waiting, (message[1], next(number), message))
        size += len(message[2])
        while size > waiting_bytes:
            first = heapq.heappop(waiting)[2]
            size -= len(first[2])
            yield first
    while waiting:
        yield heapq.heappop(waiting)[2]


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
