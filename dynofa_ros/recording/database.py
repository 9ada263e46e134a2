"""The sqlite files of rosbag2, in all versions of their tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import ReaderMetadata

from dynofa_ros.recording.mcap_file import FORMATS, Message, in_order

# Rows of a page that is cut off read as NULL.
WHOLE = "typeof(topic_id) = 'integer' AND typeof(timestamp) = 'integer' AND typeof(data) = 'blob'"


class Database:
    """As much of rosbags' Sqlite3Reader as a bag needs, which refuses a database for an unknown definition.

    ``damage``: why not every message can be read, as where the file is cut off; those before are. Else empty.
    Raises sqlite3.Error, and ValueError for what runs when it is read (a view, a computed column) and need
    never end.
    """

    damage = ""

    def __init__(self, file: Path) -> None:
        self._file = sqlite3.connect(
            f"file:{quote(str(file))}?immutable=1", uri=True, check_same_thread=False
        )
        try:
            if missing := _missing_bytes(file):
                self.damage = f"{missing} bytes are missing at its end"
                self._file.execute("PRAGMA writable_schema = ON")  # else a short file is not looked into
            self._check_tables()
            spans = self._spans()
            self.connections = self._topics({topic: count for topic, (count, _, _) in spans.items()})
        except BaseException:
            self.close()
            raise
        start = min((first for _, first, _ in spans.values()), default=0)
        end = max((last + 1 for _, _, last in spans.values()), default=0)
        count = sum(count for count, _, _ in spans.values())
        self.metadata = ReaderMetadata(end - start, start, end, count, None, None, None, None)

    def messages(self, connections: Collection[Connection]) -> Iterator[Message]:
        """(connection, time of receipt in ns, CDR) of these connections, by time."""
        own = {c.id: c for c in connections}
        rows = self._file.execute(
            "SELECT topic_id, timestamp, data FROM messages"
            f" WHERE topic_id IN ({','.join('?' * len(own))}) AND {WHOLE}"
            f" ORDER BY {'id' if self.damage else 'timestamp'}",
            list(own),
        )
        found = ((own[topic], time_ns, data) for topic, time_ns, data in rows)
        return in_order(self._whole(found)) if self.damage else found

    @staticmethod
    def _whole(messages: Iterator[Message]) -> Iterator[Message]:
        with suppress(sqlite3.DatabaseError):
            yield from messages

    def _spans(self) -> dict[int, tuple[int, int, int]]:
        """Number of messages, first and last time of each topic that has any."""
        known = f"FROM messages WHERE {WHOLE.rpartition(' AND ')[0]}"
        per_topic = f"SELECT topic_id, count(*), min(timestamp), max(timestamp) {known} GROUP BY topic_id"
        try:
            if not self.damage:
                rows = self._file.execute(per_topic).fetchall()
                return {topic: (count, first, last) for topic, count, first, last in rows}
        except sqlite3.DatabaseError as error:
            self.damage = str(error)
        times: dict[int, list[int]] = {}
        with suppress(sqlite3.DatabaseError):
            for topic, time_ns in self._file.execute(f"SELECT topic_id, timestamp {known} ORDER BY id"):
                times.setdefault(topic, []).append(time_ns)
        if not times:
            raise sqlite3.DatabaseError(self.damage)
        return {topic: (len(found), min(found), max(found)) for topic, found in times.items()}

    def close(self) -> None:
        self._file.close()

    def _check_tables(self) -> None:
        found = self._file.execute(
            "SELECT name FROM sqlite_master"
            " WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'"
            " UNION ALL SELECT m.name FROM sqlite_master m, pragma_table_xinfo(m.name) c WHERE c.hidden"
        ).fetchone()
        if found:
            raise ValueError(f"{found[0]} is no plain table: rosbag2 writes no other")

    def _topics(self, counts: dict[int, int]) -> list[Connection]:
        definitions = {}
        if self._file.execute("PRAGMA table_info(message_definitions)").fetchall():
            definitions = {
                kind: MessageDefinition(FORMATS.get(encoding, MessageDefinitionFormat.NONE), text)
                for kind, encoding, text in self._file.execute(
                    "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
                )
            }
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        return [
            Connection(
                id_,
                name,
                kind,
                definitions.get(kind, none),
                "",
                counts.get(id_, 0),
                ConnectionExtRosbag2(form, []),
                self,
            )
            for id_, name, kind, form in self._file.execute(
                "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
            )
        ]


def _missing_bytes(file: Path) -> int:
    """How much shorter a database is than its head says."""
    page_bytes, pages = _pages(file)
    return max(0, page_bytes * pages - file.stat().st_size)


def torn_bytes(file: Path) -> int:
    """Size of what is there of a page that is cut off: sqlite takes zeros for the rest of it."""
    page_bytes, _ = _pages(file)
    size = file.stat().st_size
    return size % page_bytes if size > page_bytes > 0 else 0


def _pages(file: Path) -> tuple[int, int]:
    """Size and number of the pages by the head (sqlite.org, file format, section 1.3); 0 in another file."""
    with file.open("rb") as stream:
        head = stream.read(32)
    if not head.startswith(b"SQLite format 3\0"):
        return 0, 0
    page_bytes = int.from_bytes(head[16:18], "big")
    return 65536 if page_bytes == 1 else page_bytes, int.from_bytes(head[28:], "big")
