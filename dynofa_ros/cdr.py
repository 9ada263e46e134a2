"""The dataclasses of `messages` read from CDR, the bytes of a message on its way.

rclpy makes a Python object of every message, in its constructor, which takes five times as long as reading
the bytes. A function is compiled once per message type. It reads plain CDR, little endian: what the
middlewares of ROS 2 send from the computers that it supports. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from struct import Struct, unpack_from
from struct import error as StructError
from typing import Any, get_args, get_origin, get_type_hints

from dynofa_ros.convert import NANOSECONDS, check_count, filler, members, message_class
from dynofa_ros.errors import printable
from dynofa_ros.messages import Header, Parameter

PLAIN_LITTLE_ENDIAN = b"\x00\x01"
ENCAPSULATION = 4  # bytes before the message; alignment counts from behind them
_FORMATS = {"float": "f", "double": "d", "boolean": "?", "octet": "B"} | {
    f"{sign}int{bits}": letter.upper() if sign else letter
    for bits, letter in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))
    for sign in ("", "u")
}
_SEQUENCE = re.compile(r"sequence<(.+?)>")

Types = Callable[[str], Any]  # "std_msgs/msg/Header" to a class of rclpy


def reader(name: str, types: Types) -> Callable[[bytes], Any]:
    """What reads messages of "dynofa_ros/msg/AppTargets".

    It raises ValueError for bytes that are no such message in plain CDR. Raises TypeError for a message that
    holds parameters: their values have a type of their own each.
    """
    read = _reader(name, types)

    def checked(data: bytes) -> Any:
        if data[:2] != PLAIN_LITTLE_ENDIAN:
            raise ValueError(f"{name}: not in plain CDR")
        try:
            message, end = read(data, ENCAPSULATION)
        except (StructError, LookupError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: damaged, or of another version ({error})") from error
        if end > len(data):  # a slice ends early without an error
            raise ValueError(f"{name}: cut off: {len(data)} bytes of {end}")
        return message

    return checked


@cache
def _reader(name: str, types: Types) -> Callable[[bytes, int], tuple[Any, int]]:
    """From bytes and a place to the message there and the place behind it."""
    code = _Code(types)
    value = code.message(name)
    code.flush()
    lines = "\n ".join([*code.lines, f"return {value}, p"])
    exec(f"def read(d, p):\n {lines}\n", code.scope)
    read: Callable[[bytes, int], tuple[Any, int]] = code.scope["read"]
    return read


@dataclass
class _Code:
    """Lines of a function that reads ``d`` from ``p`` on. ``pending``: numbers to be read in one go."""

    types: Types
    lines: list[str] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[str, str]] = field(default_factory=list)
    numbers: Any = field(default_factory=count)

    def message(self, name: str) -> str:
        """Expression for a message that comes next."""
        cls = message_class(name)
        if cls is Parameter:
            raise TypeError("parameters cannot be read from CDR")
        if cls is Header:
            stamp, frame_id = self.stamp(), self.text()
            return f"{self.known(Header)}({stamp}, {frame_id})"
        hints = get_type_hints(cls)
        kinds: Mapping[str, str] = self.types(name).get_fields_and_field_types()
        items = ", ".join(f"{f!r}: {self.value(kind, hints[f])}" for f, kind in kinds.items())
        return f"{self.known(_filler(cls))}({{{items}}})"

    def value(self, kind: str, hint: Any) -> str:
        """Expression for a value of a kind, as ROS calls it, that comes next."""
        if sequence := _SEQUENCE.fullmatch(kind):
            return self.sequence(sequence[1], get_args(hint)[0] if get_origin(hint) is tuple else hint)
        if kind == "string":
            return self.text()
        if kind == "builtin_interfaces/Time":
            return self.stamp()
        if kind not in _FORMATS:
            return self.message(kind.replace("/", "/msg/"))
        number = self.number(_FORMATS[kind])
        return number if hint in (int, float, bool) else f"{self.known(members(hint))}[{number}]"

    def sequence(self, kind: str, hint: Any) -> str:
        length, place = self.number("I"), self.new()
        self.flush()
        self.lines.append(f"{self.known(check_count)}({length})")
        if kind in _FORMATS:
            letter, size = _FORMATS[kind], Struct(_FORMATS[kind]).size
            self.lines += [
                f"p += ({ENCAPSULATION} - p) % {size} if {length} else 0",
                f"{place} = {self.known(unpack_from)}(f'<{{{length}}}{letter}', d, p)",
                f"p += {size} * {length}",
            ]
            return place
        inner = _Code(self.types, scope=self.scope, numbers=self.numbers)
        element = inner.value(kind, hint)
        inner.flush()
        body = [*inner.lines, f"{place}.append({element})"]
        self.lines += [f"{place} = []", f"for _ in range({length}):", *(f" {line}" for line in body)]
        return f"tuple({place})"

    def text(self) -> str:
        length, text = self.number("I"), self.new()
        self.flush()
        cut = f"d[p : p + {length} - 1].decode()"
        self.lines += [f"{text} = {self.known(printable)}({cut})", f"p += {length}"]
        return text

    def stamp(self) -> str:
        seconds, nanoseconds = self.number("i"), self.number("I")
        return f"{seconds} * {NANOSECONDS} + {nanoseconds}"

    def number(self, letter: str) -> str:
        self.pending.append((self.new(), letter))
        return self.pending[-1][0]

    def flush(self) -> None:
        """Read the pending numbers: one structure for each way in which ``p`` may be aligned."""
        if not self.pending:
            return
        letters = [letter for _, letter in self.pending]
        structs = [_aligned(letters, start) for start in range(8)]
        unpack = self.known(tuple(s.unpack_from for s in structs))
        sizes = self.known(tuple(s.size for s in structs))
        names = ", ".join(name for name, _ in self.pending)
        self.lines += [f"a = p + {ENCAPSULATION} & 7", f"{names}, = {unpack}[a](d, p)", f"p += {sizes}[a]"]
        self.pending.clear()

    def new(self) -> str:
        return f"v{next(self.numbers)}"

    def known(self, thing: Any) -> str:
        """Name of a thing in the function."""
        name = f"k{next(self.numbers)}"
        self.scope[name] = thing
        return name


def _aligned(letters: list[str], start: int) -> Struct:
    """Numbers behind each other from an offset on, each aligned to its size."""
    parts, at = "<", start
    for letter in letters:
        size = Struct(f"<{letter}").size
        pad = -at % size
        parts += f"{pad}x{letter}" if pad else letter
        at += pad + size
    return Struct(parts)


def _filler(cls: type) -> Callable[[dict[str, Any]], Any]:
    """A frozen dataclass from a dict of all its fields; see `convert`."""
    fill = filler(cls)

    def make(values: dict[str, Any]) -> Any:
        made: Any = object.__new__(cls)
        fill(made, values)
        return made

    return make
