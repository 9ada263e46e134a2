"""The dataclasses of `messages` from CDR, the bytes of a message on its way, and back.

rclpy makes a Python object of every message, in its constructor, which takes five times as long as reading
the bytes. A function is compiled once per message type. It is plain CDR, little endian: what the
middlewares of ROS 2 send from the computers that it supports. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import count
from struct import Struct, unpack_from
from struct import error as StructError
from struct import pack as pack_values
from typing import Any, get_args, get_origin, get_type_hints

from dynofa_ros.convert import (
    NANOSECONDS,
    check_count,
    filler,
    members,
    message_class,
    message_type,
    parameter_fields,
    ros_types,
)
from dynofa_ros.errors import printable
from dynofa_ros.messages import Header, Parameter, ParameterValue

PLAIN_LITTLE_ENDIAN = b"\x00\x01"
ENCAPSULATION = 4  # bytes before the message; alignment counts from behind them
_FORMATS = {"float": "f", "double": "d", "boolean": "?", "octet": "B"} | {
    f"{sign}int{bits}": letter.upper() if sign else letter
    for bits, letter in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))
    for sign in ("", "u")
}
_TIME, _HEADER, _PARAMETER = "builtin_interfaces/Time", "std_msgs/Header", "rcl_interfaces/Parameter"
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


def to_cdr(value: Any) -> bytes:
    """The bytes of the message that a dataclass is, or that it extends: for a publisher of rclpy."""
    data = bytearray(PLAIN_LITTLE_ENDIAN + b"\0\0")
    _writer(value.__class__)(value, data)
    return bytes(data)


@cache
def _reader(name: str, types: Types) -> Callable[[bytes, int], tuple[Any, int]]:
    """From bytes and a place to the message there and the place behind it."""
    code = _Reading(types)
    value = code.message(name)
    code.flush()
    lines = "\n ".join([*code.lines, f"return {value}, p"])
    exec(f"def read(d, p):\n {lines}\n", code.scope)
    read: Callable[[bytes, int], tuple[Any, int]] = code.scope["read"]
    return read


@cache
def _writer(cls: type) -> Callable[[Any, bytearray], None]:
    """What adds a message to bytes."""
    code = _Writing(ros_types)
    code.message(f"dynofa_ros/{message_type(cls).__name__}", "m")
    code.flush()
    lines = "\n ".join(code.lines)
    exec(f"def write(m, d):\n {lines}\n", code.scope)
    write: Callable[[Any, bytearray], None] = code.scope["write"]
    return write


@dataclass
class _Lines:
    """Lines of a function, and what they use. ``pending``: numbers to be read or written in one go, by what
    they are called."""

    types: Types
    lines: list[str] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[str, str]] = field(default_factory=list)
    numbers: Any = field(default_factory=count)

    def structs(self) -> list[Struct]:
        """Of the pending numbers: one for each way in which their place may be aligned."""
        return [_aligned([letter for _, letter in self.pending], start) for start in range(8)]

    def new(self) -> str:
        return f"v{next(self.numbers)}"

    def known(self, thing: Any) -> str:
        """Name of a thing in the function."""
        name = f"k{next(self.numbers)}"
        self.scope[name] = thing
        return name


class _Reading(_Lines):
    """Reads ``d`` from ``p`` on."""

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
        if kind == _TIME:
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
        inner = _Reading(self.types, scope=self.scope, numbers=self.numbers)
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
        """Read the pending numbers."""
        if not self.pending:
            return
        structs = self.structs()
        unpack = self.known(tuple(s.unpack_from for s in structs))
        sizes = self.known(tuple(s.size for s in structs))
        names = ", ".join(name for name, _ in self.pending)
        self.lines += [f"a = p + {ENCAPSULATION} & 7", f"{names}, = {unpack}[a](d, p)", f"p += {sizes}[a]"]
        self.pending.clear()


class _Writing(_Lines):
    """Adds ``m`` to ``d``. Arguments ``source``: expressions for values of the dataclasses."""

    def message(self, kind: str, source: str) -> None:
        for name, field_kind in self.types(kind.replace("/", "/msg/")).get_fields_and_field_types().items():
            self.value(field_kind, f"{source}.{name}")

    def value(self, kind: str, source: str) -> None:
        if sequence := _SEQUENCE.fullmatch(kind):
            self.sequence(sequence[1], source)
        elif kind == "string":
            self.text(source)
        elif kind == _TIME:
            self.stamp(source)
        elif kind == _HEADER:
            self.stamp(f"{source}.stamp_ns")
            self.text(f"{source}.frame_id")
        elif kind == _PARAMETER:
            self.text(f"{source}.name")
            held = self.held(f"{self.known(_parameter_value)}({source}.value)")
            self.message("rcl_interfaces/ParameterValue", held)
        elif kind in _FORMATS:
            self.number(source, _FORMATS[kind])
        else:
            self.message(kind, source)

    def sequence(self, kind: str, source: str) -> None:
        held = self.held(source)
        self.number(f"len({held})", "I")
        self.flush()
        if kind in _FORMATS:
            letter, size = _FORMATS[kind], Struct(_FORMATS[kind]).size
            values = f"*{held}" if letter in "fd?" else f"*map(int, {held})"
            pack = f"{self.known(pack_values)}(f'<{{len({held})}}{letter}', {values})"
            self.lines.append(f"if len({held}): d += bytes(({ENCAPSULATION} - len(d)) % {size}) + {pack}")
            return
        inner, element = _Writing(self.types, scope=self.scope, numbers=self.numbers), self.new()
        inner.value(kind, element)
        inner.flush()
        self.lines += [f"for {element} in {held}:", *(f" {line}" for line in inner.lines)]

    def text(self, source: str) -> None:
        held = self.held(f"{source}.encode()")
        self.number(f"len({held}) + 1", "I")
        self.flush()
        self.lines.append(f"d += {held}")
        self.number("0", "B")

    def stamp(self, source: str) -> None:
        self.number(f"{source} // {NANOSECONDS}", "i")
        self.number(f"{source} % {NANOSECONDS}", "I")

    def number(self, source: str, letter: str) -> None:
        exact = letter in "fd?" or source.isdigit() or source.startswith("len(")
        self.pending.append((source if exact else f"int({source})", letter))

    def held(self, source: str) -> str:
        """Name of a value that is computed once."""
        name = self.new()
        self.lines.append(f"{name} = {source}")
        return name

    def flush(self) -> None:
        """Write the pending numbers."""
        if self.pending:
            pack = self.known(tuple(s.pack for s in self.structs()))
            sources = ", ".join(source for source, _ in self.pending)
            self.lines.append(f"d += {pack}[len(d) + {ENCAPSULATION} & 7]({sources})")
            self.pending.clear()


@lru_cache(maxsize=100, typed=True)
def _parameter_value(value: ParameterValue) -> Any:
    return ros_types("rcl_interfaces/msg/ParameterValue")(**parameter_fields(value))


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
