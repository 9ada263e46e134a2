"""Writes a rosbag2 (mcap, message definitions embedded) that stays readable if this process is killed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter

from dynofa_ros.recording.bag import typestore

BAG_VERSION: Literal[8] = 8  # the newest that every supported distribution (Humble on) reads

# Records that end an MCAP file without an index (mcap.dev/spec): DataEnd and Footer, all offsets 0, magic.
_END_OF_FILE = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + b"\x89MCAP0\r\n"


class BagWriter:
    """An open bag. `path`: its folder, which must not exist.

    Raises OSError or rosbags' WriterError if it cannot be created or written. Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Connection] = {}

    @staticmethod
    def knows(message_type: str) -> bool:
        """Whether the definition of the type ("std_msgs/msg/String") is known, so that it can be embedded."""
        return message_type in typestore().fielddefs

    def has_topic(self, topic: str) -> bool:
        """Whether the topic was added."""
        return topic in self._connections

    def add_topic(self, topic: str, message_type: str, offered: Sequence[Qos]) -> None:
        """Add a topic of a known type. offered: QoS of its publishers."""
        self._connections[topic] = self._writer.add_connection(
            topic, message_type, typestore=typestore(), offered_qos_profiles=offered
        )

    def write(self, topic: str, time_ns: int, data: bytes) -> None:
        """Append one serialised message of a topic that was added; time_ns: receipt, system clock."""
        self._writer.write(self._connections[topic], time_ns, data)

    def flush(self) -> None:
        """Put what was written so far on disk as a complete file without index, then go on behind it.

        A process killed after this leaves an .mcap file that any reader opens (without metadata.yaml).
        """
        storage = self._writer.storage
        if not isinstance(storage, McapWriter):
            return
        if storage.chunk.bio.tell():
            storage.close_chunk()
        position = storage.bio.tell()
        storage.bio.write(_END_OF_FILE)
        storage.bio.flush()
        storage.bio.seek(position)

    def close(self) -> None:
        """Write index and metadata."""
        self._writer.close()

    def abort(self) -> None:
        """Close after an error, leaving what is on disk. Never raises."""
        with suppress(OSError):  # what is still buffered cannot be written on a full disk either
            self._writer.abort()
