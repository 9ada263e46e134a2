"""The sqlite files of rosbag2, in all versions of their tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import ReaderMetadata

# A recorder that did not find a definition calls its encoding "unknown".
FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class Database:
    """As much of rosbags' Sqlite3Reader as a bag needs, which refuses a database for an unknown definition.

    Raises sqlite3.Error, and ValueError for what runs when it is read (a view, a computed column) and need
    never end.
    """

    def __init__(self, file: Path) -> None:
        self._file = sqlite3.connect(
            f"file:{quote(str(file))}?immutable=1", uri=True, check_same_thread=False
        )
        try:
            self._check_tables()
            self.connections = self._topics()
            times = "SELECT min(timestamp), max(timestamp) + 1, count(*) FROM messages"
            start, end, count = self._file.execute(times).fetchone()
        except BaseException:
            self.close()
            raise
        start, end = (start, end) if count else (0, 0)
        self.metadata = ReaderMetadata(end - start, start, end, count, None, None, None, None)

    def messages(self, connections: Collection[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, time of receipt in ns, CDR) of these connections, by time."""
        own = {c.id: c for c in connections}
        rows = self._file.execute(
            "SELECT topic_id, timestamp, data FROM messages"
            f" WHERE topic_id IN ({','.join('?' * len(own))}) AND typeof(data) = 'blob' ORDER BY timestamp",
            list(own),
        )
        for topic, time_ns, data in rows:
            yield own[topic], time_ns, data

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

    def _topics(self) -> list[Connection]:
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
                id_, name, kind, definitions.get(kind, none), "", count, ConnectionExtRosbag2(form, []), self
            )
            for id_, name, kind, form, count in self._file.execute(
                "SELECT topics.id, name, type, serialization_format, count(messages.id) FROM topics"
                " LEFT JOIN messages ON topics.id = messages.topic_id GROUP BY topics.id ORDER BY topics.id"
            )
        ]
