"""Files made to harm who reads them, and readers that take more than one call. No pytest: forks import it."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import struct
import sys
import zipfile
import zlib
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from confined import Outcome, outcome_of

from dynofa_ros.recording.bag import open_bag
from dynofa_ros.recording.mcap_file import MCAP_MAGIC

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GIB = 1 << 30
BOMB = 5 << 28  # bytes: more than a reader may have


def zeros(size: int) -> io.BufferedReader:
    """So many NULs, which need no memory."""

    class Zeros(io.RawIOBase):
        left = size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            count = min(len(buffer), self.left)
            buffer[:count] = bytes(count)
            self.left -= count
            return count

    return io.BufferedReader(Zeros(), 1 << 20)


def packed_zeros(size: int) -> bytes:
    """A zstd frame of so many NULs."""
    out, compressor = io.BytesIO(), zstd.ZstdCompressor()
    source = zeros(size)
    while block := source.read(1 << 20):
        out.write(compressor.compress(block))
    return out.getvalue() + compressor.flush()


def sparse(path: Path, size: int, head: bytes = b"") -> Path:
    """A file of a size that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


# --- YAML -----------------------------------------------------------------------------------------------


def _laughs(line: str, times: int = 9, levels: int = 12) -> bytes:
    """Each level names the one below it nine times: 9**12 nodes."""
    lines = [line.format(0, "x")]
    for level in range(1, levels):
        lines.append(line.format(level, ", ".join([f"*a{level - 1}"] * times)))
    return "\n".join(lines).encode() + b"\n"


@cache
def yaml_documents() -> dict[str, bytes]:
    """YAML that is none, or more than it seems; by what it does."""
    return {
        "alias bomb": _laughs("a{0}: &a{0} [{1}]"),
        "alias bomb of tables": _laughs("a{0}: &a{0} {{k: [{1}]}}"),
        "merge bomb": b"a0: &a0 {k: v}\n"
        + b"".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n".encode() for n in range(1, 12)),
        "alias of itself": b"&a [*a, *a]\n",
        "table of itself": b"&a {k: *a}\n",
        "brackets": b"[" * 200_000,
        "closed brackets": b"[" * 3000 + b"]" * 3000,
        "braces": b"{a: " * 200_000,
        "dashes": b"- " * 200_000 + b"x",
        "questions": b"? " * 200_000 + b"x",
        "two million items": b"- 1\n" * 2_000_000,
        "two million keys": b"".join(b"k%d: 1\n" % n for n in range(2_000_000)),
        "scalar of 200 MB": b"name: " + b"x" * 200_000_000,
        "many documents": b"--- {a: 1}\n" * 200_000,
        "object": b'!!python/object/apply:os.system ["touch outside/owned"]\n',
        "object in a key": b"name: !!python/object/new:subprocess.Popen [[touch, outside/owned]]\n",
        "module": b"name: !!python/module:antigravity\n",
        "unknown tag": b"name: !<tag:example.org,2000:x\x1b> 1\n",
        "hexadecimal number": b"schema_version: 0x" + b"f" * 2_000_000,
        "decimal number": b"schema_version: " + b"9" * 1_000_000,
        "sexagesimal number": b"schema_version: " + b"1" + b":59" * 300_000,
        "infinite": b"schema_version: .inf\nname: .nan\n",
        "no date": b"name: 2001-99-99\n",
        "no base 64": b"name: !!binary '=%'\n",
        "controls": b"name: \x1b[2J\x07\n",
        "escaped controls": b'"\\e[2J\\e]0;owned\\a\\u202e": 1\n',
        "NULs": bytes(1000),
        "no UTF-8": b"name: \xff\xfe\xfd\n",
        "UTF-16": "name: x".encode("utf-16"),
        "lone surrogate": b'name: "\\ud800"\n',
        "key of 1 MB": b"x" * 1_000_000 + b": 1\n",
        "nothing": b"",
        "a word": b"hello",
        "keys that are lists": b"? [1, 2]\n: 3\n",
        "a set": b"!!set {a, b}\n",
        "null": b"~\n",
    }


def special_files(folder: Path) -> dict[str, Path]:
    """What has the name of a file and is none, or never ends; by what it is."""
    import os

    folder.mkdir()
    (folder / "directory").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "circle").symlink_to("circle")
    (folder / "closed").write_text("name: x\n")
    return {
        "directory": folder / "directory",
        "fifo": folder / "fifo",
        "circle of links": folder / "circle",
        "endless": Path("/dev/zero"),
        "random": Path("/dev/urandom"),
        "100 GB of holes": sparse(folder / "sparse.yaml", 100_000_000_000),
        "missing": folder / "missing",
        "name too long": folder / ("x" * 300),
    }


# --- checkpoints ------------------------------------------------------------------------------------------


def safetensors(header: Any, values: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def _tensor(shape: list[Any], offsets: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@cache
def safetensors_files() -> dict[str, bytes]:
    """Headers that promise what does not follow."""
    many = {f"t{n}": _tensor([0], [0, 0]) for n in range(400_000)}
    return {
        "header of 8 EB": safetensors(b"{}", length=2**63),
        "header of 90 MB": safetensors(b"{" + b" " * 90_000_000 + b"}"),
        "400,000 arrays": safetensors(many),
        "nested header": safetensors(b'{"a":' + b"[" * 100_000),
        "tera shape": safetensors({"a": _tensor([2**40], [0, 4])}, bytes(4)),
        "overflowing shape": safetensors({"a": _tensor([2**33, 2**33], [0, 4])}, bytes(4)),
        "shape of 2**64": safetensors({"a": _tensor([2**64], [0, 4])}, bytes(4)),
        "negative shape": safetensors({"a": _tensor([-1], [0, 4])}, bytes(4)),
        "empty shape of exabytes": safetensors({"a": _tensor([2**50, 0], [0, 0])}),
        "many dimensions": safetensors({"a": _tensor([1] * 100_000, [0, 4])}, bytes(4)),
        "offsets beyond the end": safetensors({"a": _tensor([1], [2**40, 2**40 + 4])}, bytes(4)),
        "offsets backwards": safetensors({"a": _tensor([1], [4, 0])}, bytes(4)),
        "overlapping arrays": safetensors({"a": _tensor([1], [0, 4]), "b": _tensor([1], [0, 4])}, bytes(4)),
        "a gap": safetensors({"a": _tensor([1], [4, 8])}, bytes(8)),
        "fractional offsets": safetensors({"a": _tensor([1], [0.5, 4.5])}, bytes(5)),
        "unknown type": safetensors({"a": _tensor([1], [0, 4], "PICKLE")}, bytes(4)),
        "other keys": safetensors({"a": {"dtype": "F32", "run": "touch outside/owned"}}),
        "metadata of numbers": safetensors({"__metadata__": {"labels": 7}}),
        "metadata of controls": safetensors({"__metadata__": {"labels": "\x1b[2J,\n"}}),
        "name of controls": safetensors({"\x1b[2Jowned\n": _tensor([1], [0, 4])}, bytes(4)),
        "no JSON": safetensors(b"\xff\xfe{}"),
        "JSON with NaN": safetensors(b'{"a": NaN}'),
        "cut": safetensors({"a": _tensor([1], [0, 4])}),
        "seven bytes": bytes(7),
        "nothing": b"",
    }


class _Call:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _zip(pickled: bytes, compression: int = zipfile.ZIP_STORED, **others: bytes) -> bytes:
    """A checkpoint as torch writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, data in others.items():
            archive.writestr(f"archive/data/{name}", data)
    return out.getvalue()


class _TorchPickler(pickle.Pickler):
    """Pickles a storage as torch does: by its number of values in a file of the archive."""

    def persistent_id(self, item: Any) -> Any:
        return item.reference if isinstance(item, Storage) else None


class Storage:
    def __init__(self, count: int, file: str = "0") -> None:
        import torch

        self.reference = ("storage", torch.FloatStorage, file, "cpu", count)


def _pickled(item: Any) -> bytes:
    out = io.BytesIO()
    _TorchPickler(out, protocol=2).dump(item)
    return out.getvalue()


def _tensor_call(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    from torch._utils import _rebuild_tensor_v2

    arguments = Storage(count), offset, size, stride, False, OrderedDict()
    return _pickled({"a": _Call(_rebuild_tensor_v2, *arguments)})


TORCH = (
    "os.system",
    "os.system, old format",
    "Popen",
    "eval",
    "open",
    "getattr",
    "import",
    "no pickle",
    "endless string",
    "endless bytes",
    "bytearray of 100 GB",
    "nested tuples",
    "memo of 2**31",
    "shared lists",
    "storage of a tera",
    "tensor of a tera by stride 0",
    "tensor beyond its storage",
    "negative offset",
    "negative size",
    "overflowing size",
    "number",
    "zip bomb in the pickle",
    "zip bomb in the values",
    "members outside",
    "no zip",
    "tar",
    "nothing",
)


def torch_files(outside: Path) -> dict[str, bytes]:
    """Checkpoints that run something, or grow."""
    import os
    import subprocess

    def bomb(member: str) -> bytes:
        """A member of a gigabyte of zeros in 6 MB, as torch never writes it."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in ("data.pkl", "version", "data/0"):
                with archive.open(f"archive/{name}", "w", force_zip64=True) as target:
                    if name == member:
                        source = zeros(BOMB)
                        while block := source.read(1 << 22):
                            target.write(block)
                    elif name == "data.pkl":
                        target.write(_tensor_call(BOMB // 4, (BOMB // 4,), (1,)))
        return out.getvalue()

    owned = str(outside / "owned")
    laughs: Any = []
    for _ in range(30):
        laughs = [laughs] * 10
    return {
        "os.system": _zip(pickle.dumps(_Call(os.system, f"touch {owned}"), 2)),
        "os.system, old format": pickle.dumps(_Call(os.system, f"touch {owned}"), 2),
        "Popen": _zip(pickle.dumps(_Call(subprocess.Popen, ["touch", owned]), 2)),
        "eval": _zip(pickle.dumps(_Call(eval, f"open({owned!r}, 'w')"), 2)),
        "open": _zip(pickle.dumps(_Call(open, owned, "w"), 2)),
        "getattr": _zip(b"\x80\x02cbuiltins\ngetattr\n."),
        "import": _zip(b"\x80\x02cantigravity\nopen\n."),
        "no pickle": _zip(b"hello"),
        "endless string": _zip(b"\x80\x04\x8d" + struct.pack("<Q", 2**62)),
        "endless bytes": _zip(b"\x80\x05\x96" + struct.pack("<Q", 2**40)),
        "bytearray of 100 GB": _zip(pickle.dumps(_Call(bytearray, 100 * GIB), 2)),
        "nested tuples": _zip(b"\x80\x02)" + b"\x85" * 1_000_000 + b"."),
        "memo of 2**31": _zip(b"\x80\x02K\x01r\xff\xff\xff\x7f."),
        "shared lists": _zip(pickle.dumps({"a": laughs}, 2)),
        "storage of a tera": _zip(_tensor_call(2**40, (2**40,), (1,)), **{"0": bytes(4)}),
        "tensor of a tera by stride 0": _zip(_tensor_call(1, (2**40,), (0,)), **{"0": bytes(4)}),
        "tensor beyond its storage": _zip(_tensor_call(1, (1000,), (1,)), **{"0": bytes(4)}),
        "negative offset": _zip(_tensor_call(1, (1,), (1,), -5), **{"0": bytes(4)}),
        "negative size": _zip(_tensor_call(1, (-1,), (1,)), **{"0": bytes(4)}),
        "overflowing size": _zip(_tensor_call(1, (2**62, 2**62), (0, 0)), **{"0": bytes(4)}),
        "number": _zip(pickle.dumps(7, 2)),
        "zip bomb in the pickle": bomb("data.pkl"),
        "zip bomb in the values": bomb("data/0"),
        "members outside": _zip(pickle.dumps({}, 2), **{"../../../outside/owned": b"x"}),
        "no zip": b"PK\x03\x04" + bytes(100),
        "tar": b"archive/data.pkl".ljust(257, b"\0") + b"ustar\0" + bytes(249),
        "nothing": b"",
    }


# --- bags -------------------------------------------------------------------------------------------------


def record(op: int, content: bytes, length: int | None = None) -> bytes:
    return bytes([op]) + struct.pack("<Q", len(content) if length is None else length) + content


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<I", len(data)) + data


STRING = "string data"
TEXT = "std_msgs/msg/String"


def mcap(
    *records: bytes,
    definition: str | bytes = STRING,
    kind: str = TEXT,
    topic: str = "/text",
    encoding: str = "ros2msg",
    profile: str = "ros2",
    summary: bytes = b"",
    qos: bytes = b"",
) -> bytes:
    """A file with one channel; without a summary, a reader scans the records."""
    schema = record(3, struct.pack("<H", 1) + string(kind) + string(encoding) + string(definition))
    own = string("offered_qos_profiles") + string(qos) if qos else b""
    channel = record(4, struct.pack("<HH", 1, 1) + string(topic) + string("cdr") + string(own))
    head = MCAP_MAGIC + record(1, string(profile) + string("test")) + schema + channel
    data = head + b"".join(records) + record(15, bytes(4))
    footer = struct.pack("<QQI", len(data) if summary else 0, 0, 0)
    return data + summary + record(2, footer) + MCAP_MAGIC


def message(data: bytes, time_ns: int = 1) -> bytes:
    return record(5, struct.pack("<HIQQ", 1, 0, time_ns, time_ns) + data)


def chunk(packed: bytes, size: int, compression: str = "zstd", packed_size: int | None = None) -> bytes:
    head = struct.pack("<QQQI", 1, 1, size, 0) + string(compression)
    return record(6, head + struct.pack("<Q", len(packed) if packed_size is None else packed_size) + packed)


def cdr(text: str = "x", length: int | None = None) -> bytes:
    data = text.encode() + b"\0"
    return b"\0\1\0\0" + struct.pack("<I", len(data) if length is None else length) + data


def _text() -> bytes:
    return message(cdr())


HUGE = "dynofa_ros/msg/Huge"
# MCAP files whose numbers lie or whose content grows.
MCAP: dict[str, Callable[[], Any]] = {
    "chunk that grows": lambda: mcap(chunk(packed_zeros(BOMB), BOMB)),
    "chunk that says less": lambda: mcap(chunk(packed_zeros(BOMB), 100)),
    "message that grows": lambda: mcap(message(packed_zeros(BOMB))),
    "lz4 of nothing": lambda: mcap(chunk(bytes(100), 4 * GIB, "lz4")),
    "unknown compression": lambda: mcap(chunk(b"", 0, "\x1b[2J")),
    "chunk of exabytes": lambda: mcap(chunk(b"x" * 10, 2**63, "", 2**62)),
    "record of exabytes": lambda: mcap(record(5, b"", 2**63), _text()),
    "string of 4 GiB": lambda: mcap(message(cdr(length=2**32 - 1))),
    "QoS that laughs": lambda: mcap(_text(), qos=yaml_documents()["merge bomb"]),
    "no channel": lambda: mcap(record(5, struct.pack("<HIQQ", 9, 0, 1, 1) + cdr())),
    "array of 4 G structs": lambda: mcap(
        message(b"\0\1\0\0" + struct.pack("<I", 2**32 - 1)),
        definition=f"Empty[] data\n{'=' * 80}\nMSG: std_msgs/Empty\n",
        kind=HUGE,
    ),
    "fixed array of 4 G structs": lambda: mcap(
        message(b"\0\1\0\0" + bytes(1000)),
        definition=f"Empty[4000000000] data\n{'=' * 80}\nMSG: std_msgs/Empty\n",
        kind=HUGE,
    ),
    "fixed array of bytes": lambda: mcap(
        message(b"\0\1\0\0"), definition="uint8[9000000000000000000] data\n", kind=HUGE
    ),
    "definition of itself": lambda: mcap(message(cdr()), definition="Huge data\n", kind=HUGE),
    "laughing definition": lambda: mcap(
        message(b"\0\1\0\0" + bytes(64)),
        definition="A1[9] a\n"
        + "".join(f"{'=' * 80}\nMSG: dynofa_ros/A{n}\nA{n + 1}[99] a\n" for n in range(1, 12))
        + f"{'=' * 80}\nMSG: dynofa_ros/A12\nuint8 a\n",
        kind=HUGE,
    ),
    "code in a definition": lambda: mcap(message(cdr()), definition="string x=__import__('os')\n", kind=HUGE),
    "code in a type": lambda: mcap(_text(), kind="std_msgs/msg/x');open('outside/owned','w')#"),
    "definition of 20 MB": lambda: mcap(_text(), definition="uint8 a\n" * 2_500_000, kind=HUGE),
    "nested definition": lambda: mcap(_text(), definition="[" * 100_000, kind=HUGE),
    "another String": lambda: mcap(message(cdr()), definition="uint64 data\n"),
    "controls in a topic": lambda: mcap(message(cdr("\x1b[2J")), topic="/\x1b[2J\n"),
    "no UTF-8 in a topic": lambda: mcap(_text())[:60] + b"\xff" + mcap(_text())[61:],
    "footer that points outside": lambda: (
        mcap(_text())[:-36] + struct.pack("<QQI", 2**63, 2**63, 0) + MCAP_MAGIC
    ),
    "footer that points to the start": lambda: (
        mcap(_text())[:-36] + struct.pack("<QQI", 8, 8, 0) + MCAP_MAGIC
    ),
    "only magic": lambda: MCAP_MAGIC,
    "magic twice": lambda: MCAP_MAGIC * 2,
    "nothing": lambda: b"",
}


def database(path: Path, *statements: str) -> Path:
    """A database of rosbag2, after further statements."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE schema(schema_version INTEGER, ros_distro TEXT);"
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT,"
        " offered_qos_profiles TEXT, type_description_hash TEXT);"
        "CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT, encoding TEXT,"
        " encoded_message_definition TEXT, type_description_hash TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
        "INSERT INTO schema VALUES (4, 'x');"
        f"INSERT INTO topics VALUES (1, '/text', '{TEXT}', 'cdr', '', '');"
        f"INSERT INTO message_definitions VALUES (1, '{TEXT}', 'ros2msg', '{STRING}', '');"
        "INSERT INTO messages VALUES (1, 1, 1, x'0001000002000000780000');"
    )
    connection.executescript("".join(statements))
    connection.commit()
    connection.close()
    return path


_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
DATABASES = {
    "endless view of definitions": (
        "DROP TABLE message_definitions;",
        f"CREATE VIEW message_definitions AS {_ENDLESS} SELECT i AS id, 'x' AS topic_type, 'ros2msg' AS"
        " encoding, 'x' AS encoded_message_definition, '' AS type_description_hash FROM n;",
    ),
    "endless view of the schema": (
        "DROP TABLE schema;",
        f"CREATE VIEW schema AS {_ENDLESS} SELECT i AS schema_version FROM n WHERE i < 0;",
    ),
    "generated gigabyte": (
        "DROP TABLE messages;",
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER,"
        " data BLOB AS (zeroblob(999999999)));",
        "INSERT INTO messages(id, topic_id, timestamp) VALUES (1, 1, 1), (2, 1, 2);",
    ),
    "generated name": (
        "DROP TABLE topics;",
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, type TEXT, serialization_format TEXT,"
        " offered_qos_profiles TEXT, type_description_hash TEXT,"
        " name TEXT AS (printf('%.*c', 900000000, 'x')));",
        f"INSERT INTO topics VALUES (1, '{TEXT}', 'cdr', '', '');",
    ),
    "virtual table": (
        "DROP TABLE messages;",
        "CREATE VIRTUAL TABLE messages USING fts4(id, topic_id, timestamp, data);",
    ),
    "trigger": ("CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM messages; END;",),
    "message that grows": (),
    "times of text": ("UPDATE messages SET timestamp = 'x';",),
    "times of 2**63 - 1": (f"UPDATE messages SET timestamp = {2**63 - 1};",),
    "data of text": ("UPDATE messages SET data = 'hello';",),
    "null data": ("UPDATE messages SET data = NULL;",),
    "null topic": ("UPDATE topics SET name = NULL, type = NULL;",),
    "null definition": ("UPDATE message_definitions SET encoded_message_definition = NULL;",),
    "null QoS": ("UPDATE topics SET offered_qos_profiles = NULL;",),
    "QoS that laughs": (),
    "schema of the future": ("UPDATE schema SET schema_version = 999999999999;",),
    "schema of text": ("UPDATE schema SET schema_version = 'x';",),
    "no definition": ("DELETE FROM message_definitions;",),
    "no topics": ("DROP TABLE topics;",),
}


def database_file(path: Path, name: str) -> Path:
    """The database of DATABASES with this name."""
    database(path, *DATABASES[name])
    values = {
        "message that grows": packed_zeros(BOMB),
        "QoS that laughs": yaml_documents()["merge bomb"].decode(),
    }
    if name in values:
        with sqlite3.connect(path) as connection:
            column = (
                "messages SET data" if name == "message that grows" else "topics SET offered_qos_profiles"
            )
            connection.execute(f"UPDATE {column} = ?", (values[name],))
        connection.close()
    return path


def read_bag(path: Path) -> tuple[int, list[str]]:
    """Every message of a bag: how many could be read, and what was odd."""
    with open_bag(path) as bag:
        read = 0
        for connection, _, raw in bag.messages():
            try:
                bag.deserialize(raw, connection.msgtype)
                read += 1
            except Exception as error:  # as the readers of the package do
                bag.problems.append(f"{type(error).__name__}: {error}"[:200])
        return read, bag.problems


# --- snapshots ----------------------------------------------------------------------------------------------


def _packed(document: Any) -> str:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b64encode(zlib.compress(text, 1)).decode()


# States of a manager that are none.
SNAPSHOTS: dict[str, Callable[[], Any]] = {
    "128 MiB of blanks": lambda: _packed(b" " * (1 << 27)),
    "lists of nothing": lambda: _packed(b"[" + b"[]," * 20_000_000 + b"1]"),
    "nested": lambda: _packed(b"[" * 30_000_000),
    "deque of nothing": lambda: _packed({"classes": {}, "manager": ["deque", -1]}),
    "unknown class": lambda: _packed({"classes": {"Popen": []}, "manager": ["Popen"]}),
    "class that was not announced": lambda: _packed({"classes": {}, "manager": ["RuntimeManager"]}),
    "same of nothing": lambda: _packed({"classes": {}, "manager": ["same", 7]}),
    "no base 64": lambda: "\x1b[2J",
    "no zlib": lambda: b64encode(b"hello").decode(),
    "no JSON": lambda: _packed(b"hello"),
    "nothing": lambda: "",
}


def fit_demo(path: Path) -> None:
    """A checkpoint, read and fitted to the space of the demo."""
    from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
    from dynofa_ros.supernet.weights import load_weights

    load_weights(load_space(DEMO_SPACE), path)


def fit_each(paths: list[Path]) -> list[Outcome]:
    """The same of each of several."""
    return [outcome_of(fit_demo, path) for path in paths]
