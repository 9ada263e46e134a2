"""rosbag2 files without a ROS distribution, also damaged ones: what is whole in them is read.

A recorder that was killed leaves an sqlite file with a write-ahead log, or an mcap file without a footer; a
copied bag may lack its metadata.yaml; splits may overlap in time. Storage files are therefore opened one by
one, repaired where needed, and merged by time. What was repaired or is missing is in `Bag.problems`.
"""

from __future__ import annotations

import errno
import heapq
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dynofa_ros.errors import one_line
from dynofa_ros.files import natural, read_yaml
from dynofa_ros.paths import PACKAGE, share_file
from dynofa_ros.recording.database import Database, torn_bytes
from dynofa_ros.recording.mcap_file import (
    MOST_BYTES,
    McapFile,
    OtherMessagesError,
    allowed,
    ends_with_magic,
    last_whole_record,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LONGEST_DEFINITION = 1 << 18  # characters; the longest of common messages have 20,000
SPARE_BYTES = 1 << 30  # of the disk, that unpacking leaves free
STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a CDR message begins with 00
_Storage = McapFile | Database


class BagError(ValueError):
    """A bag cannot be read; the text is one line that names the bag and the reason."""


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """The standard ROS 2 messages and those of this package, from its installed .msg files."""
    store = get_typestore(Stores.LATEST)
    own = {}
    for path in sorted(share_file("msg").glob("*.msg")):
        own.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(own)
    return store


@dataclass
class Bag:
    """An open bag. ``connections``: one per topic and storage file, types by their names of today."""

    path: Path
    connections: list[Connection] = field(default_factory=list)
    typestore: Typestore = field(default_factory=typestore)
    problems: list[str] = field(default_factory=list)
    duration_ns: int = 0
    _storages: list[_Storage] = field(default_factory=list)

    def messages(
        self, connections: Collection[Connection] | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, time of receipt in ns, CDR) of these connections, or all, in the order of receipt.

        Raises BagError where the bag turns out damaged; what came before has been yielded. Messages that
        are missing without an error of the storage are in ``problems`` afterwards.
        """
        wanted = self.connections if connections is None else connections
        read = 0
        try:
            parts = [self._of_storage(storage, wanted) for storage in self._storages]
            for message in heapq.merge(*parts, key=lambda message: message[1]):
                read += 1
                yield message
        except Exception as error:  # rosbags, its databases and decompressors have errors of their own
            raise BagError(f"cannot read {self.path}: {one_line(error)}") from error
        if read < (promised := sum(c.msgcount for c in wanted)):
            self.problems.append(f"{self.path} is damaged: {promised - read} of {promised} messages are gone")

    def deserialize(self, raw: bytes, message_type: str) -> Any:
        """The message, by the definition in the bag or else by `typestore()`. Raises rosbags' errors."""
        return self.typestore.deserialize_cdr(raw, message_type)

    def _of_storage(
        self, storage: _Storage, wanted: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        own = {c.id: c for c in wanted if c.owner is storage}
        chosen = [c for c in storage.connections if c.id in own]
        for connection, time_ns, raw in storage.messages(chosen) if chosen else ():
            data = bytes(raw)
            yield own[connection.id], time_ns, _unpacked(data)


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """An open rosbag2: a folder, a storage file, or a folder that holds `bag/`.

    sqlite3 or mcap, compressed with zstd by file or by message or not, with or without metadata.yaml.
    Raises BagError if there is none, or nothing in it can be read.
    """
    with ExitStack() as stack:
        files, problems = _storage_files(path)
        bag = Bag(files[0].parent if len(files) > 1 else files[0], problems=problems)
        copies = _Copies(stack)
        for file in files:
            try:
                storage = _open_storage(file, copies, problems)
            except Exception as error:  # as in `Bag.messages`
                problems.append(f"cannot read {file}: {one_line(error)}")
                continue
            stack.callback(storage.close)
            bag._storages.append(storage)
        if not bag._storages:
            raise BagError(problems[-1])
        bag.connections = [
            c._replace(msgtype=_type_of_today(c.msgtype), owner=storage)
            for storage in bag._storages
            for c in storage.connections
            if isinstance(c.topic, str) and isinstance(c.msgtype, str)  # a database may hold NULL
        ]
        bag.typestore = _types_of(bag.connections, problems)
        spans = [s.metadata for s in bag._storages if s.metadata.message_count]
        if spans:
            bag.duration_ns = max(s.end_time for s in spans) - min(s.start_time for s in spans)
        yield bag


@dataclass
class _Copies:
    """A temporary folder for repaired copies, until ``stack`` ends: made for the first one."""

    stack: ExitStack

    @cached_property
    def folder(self) -> Path:
        """Raises BagError if there can be none."""
        try:
            return Path(self.stack.enter_context(TemporaryDirectory(prefix="dynofa_bag_")))
        except OSError as error:  # the text of the error names the folders that were tried
            raise BagError(
                f"its repaired copy needs a temporary folder ({one_line(error)}); set TMPDIR"
            ) from error


def _storage_files(path: Path) -> tuple[list[Path], list[str]]:
    """The storage files that a user means, in the order of their names, and what is odd about them."""
    if path.is_file():
        if path.suffix == ".bag":
            raise BagError(f"{path} is a ROS 1 bag: convert it with `rosbags-convert --src {path} --dst NEW`")
        if not path.name.endswith(STORAGE_SUFFIXES):
            raise BagError(f"{path} is no rosbag2: its name must end with {', '.join(STORAGE_SUFFIXES)}")
        return [path], []
    if not path.exists():
        raise BagError(f"{path} does not exist")
    for folder in (path, path / "bag"):
        found = [f for f in sorted(folder.glob("[!.]*"), key=natural) if f.name.endswith(STORAGE_SUFFIXES)]
        # A recorder that dies while it compresses leaves both: the uncompressed one is whole.
        found = [f for f in found if f.suffix != ".zstd" or f.with_suffix("") not in found]
        listed, problems = _listed(folder / "metadata.yaml")
        if not listed and len({_series(f.name) for f in found}) > 1:
            raise BagError(f"{folder} has several storage files and no metadata.yaml; name one of them")
        # A recorder that was killed has not listed its last file; a copy of some topics has another name.
        own = [f for f in found if _series(f.name) in map(_series, listed)]
        if own and len(own) < len(found):
            others = ", ".join(f.name for f in found if f not in own)
            problems.append(f"{folder} has {others}, which metadata.yaml does not name: left out")
            found = own
        missing = [name for name in listed if not any(f.name in (name, name + ".zstd") for f in found)]
        problems += [f"{folder / name}, which metadata.yaml names, is missing" for name in missing]
        if found:
            return found, problems
        if missing:
            raise BagError(problems[-1])
    if any(path.glob("*.bag")):
        raise BagError(f"{path} holds a ROS 1 bag: convert it with `rosbags-convert --src BAG --dst NEW`")
    raise BagError(f"{path} is not a rosbag2: no .mcap or .db3 file in it")


def _listed(metadata: Path) -> tuple[list[str], list[str]]:
    """Names of the storage files in a metadata.yaml, and why they cannot be had."""
    if not metadata.is_file():
        return [], []
    try:
        information = read_yaml(metadata)["rosbag2_bagfile_information"]
        return [Path(str(name)).name for name in information["relative_file_paths"]], []
    except (KeyError, TypeError):
        reason = "it has no list of relative_file_paths"
    except Exception as error:  # of PyYAML, which stands behind msgspec, of its absence
        reason = one_line(error)
    return [], [f"{metadata} is damaged and was not used: {reason}"]


def _series(name: str) -> str:
    """What the files of one recording are called, without their number."""
    return re.sub(r"(_\d+)?\..*$", "", name)


def _unpacked(message: bytes) -> bytes:
    """A message without its compression, if it has one. Raises ValueError for too long or cut ones."""
    if message[:4] != _ZSTD_MAGIC:
        return message
    decompressor = zstd.ZstdDecompressor()
    unpacked = decompressor.decompress(message, allowed(MOST_BYTES))
    if not decompressor.eof:
        raise ValueError(f"a compressed message is cut off, or larger than {MOST_BYTES >> 20} MiB")
    return unpacked


def _open_storage(file: Path, copies: _Copies, problems: list[str]) -> _Storage:
    """A storage file open for reading, from a repaired copy where it is damaged."""
    source = file.resolve()  # the log of a database lies beside the file itself, not beside a link to it
    if file.stat().st_size == 0:
        raise ValueError("the file is empty")
    if file.suffix == ".zstd":
        source = _decompressed(file, copies.folder, problems)
    if source.suffix == ".db3":
        database = Database(_recovered_database(source, copies, problems))
        if database.damage:
            problems.append(f"{file} is damaged ({database.damage}): read as far as it is whole")
        return database
    if ends_with_magic(source):
        try:
            storage = McapFile(source)
            storage.open()
            return storage
        except OtherMessagesError:
            raise
        except Exception as error:  # a damaged summary: the records may be whole
            problems.append(f"the summary of {file} was not used: {one_line(error)}")
    end = last_whole_record(source)
    lost = source.stat().st_size - end
    problems.append(f"{file} was not closed by its recorder: read without its last {lost} bytes")
    storage = McapFile(source, end)
    storage.open()
    return storage


def _decompressed(file: Path, folder: Path, problems: list[str]) -> Path:
    copy = folder / file.stem
    with zstd.open(file, "rb") as source, copy.open("wb") as target:
        try:
            while block := source.read(1 << 20):
                if shutil.disk_usage(folder).free < SPARE_BYTES + len(block):
                    raise OSError(errno.ENOSPC, "unpacked it does not fit on the disk", str(file))
                target.write(block)
        except (EOFError, zstd.ZstdError) as error:
            if not target.tell():
                raise ValueError(f"nothing of it can be unpacked: {one_line(error)}") from error
            problems.append(f"{file} is cut off: {one_line(error)}")
    return copy


def _recovered_database(file: Path, copies: _Copies, problems: list[str]) -> Path:
    """The database with what its recorder had committed to the write-ahead log, and without the part of a
    page that is cut off; a copy where there is either."""
    logs = [file.with_name(file.name + suffix) for suffix in ("-wal", "-journal")]
    logs = [log for log in logs if log.is_file() and log.stat().st_size]
    torn = torn_bytes(file)
    if not logs and not torn:
        return file
    copy = copies.folder / file.name
    for part in (file, *logs):
        if part != copy:  # a decompressed file is a copy already
            shutil.copyfile(part, copy.with_name(part.name))
    os.truncate(copy, copy.stat().st_size - torn)
    if not logs:
        return copy
    connection = sqlite3.connect(copy)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    finally:
        connection.close()
    problems.append(f"{file} was not closed by its recorder: its log was used")
    return copy


def _type_of_today(name: str) -> str:
    """`sensor_msgs/Image`, as the first recorders wrote it, is `sensor_msgs/msg/Image`."""
    package, _, kind = name.rpartition("/")
    return name if "/" in package or not package else f"{package}/msg/{kind}"


def _types_of(connections: list[Connection], problems: list[str]) -> Typestore:
    """The definitions in the bag; those of `typestore()` for the other types."""
    store = get_typestore(Stores.EMPTY)
    for kind, definition in dict.fromkeys((c.msgtype, c.msgdef) for c in connections):
        try:
            store.register(_defined(definition, kind))
        except Exception as error:  # of rosbags' parser, and of the code that it makes of a definition
            problems.append(f"the definition of {kind} is damaged: {one_line(error)}")
    store.register({n: fields for n, fields in typestore().fielddefs.items() if n not in store.fielddefs})
    return store


def _defined(definition: MessageDefinition, message_type: str) -> dict[str, Any]:
    if len(definition.data) > LONGEST_DEFINITION:  # rosbags' parser takes minutes
        raise ValueError(f"{len(definition.data)} characters: at most {LONGEST_DEFINITION} are accepted")
    if definition.format == MessageDefinitionFormat.MSG:
        return dict(get_types_from_msg(definition.data, message_type))
    found: dict[str, Any] = {}
    if definition.format == MessageDefinitionFormat.IDL:
        separator = "=" * 80 + "\n"
        for part in definition.data.split(separator):
            head, _, rest = part.partition("\n")
            found.update(get_types_from_idl(rest if head.startswith("IDL: ") else part) if part else {})
    return found
