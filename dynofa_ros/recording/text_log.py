"""Messages as text: reference logs that live in a repository, where a changed message is a changed line.

The first line says what the others are made of: {"note": ..., "topics": {topic: message type}, "fields":
{message type: [names]}}. Every other line is one message, [topic, [values of its fields]]; null stands for
what is as in the topic's last message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys.store import Typestore

from dynofa_ros.files import write_atomically
from dynofa_ros.messages import MESSAGES
from dynofa_ros.recording.bag import BagError, typestore

Message = tuple[str, str, Any]  # topic, message type ("std_msgs/msg/String"), message of rosbags
_EMPTY: dict[str, Any] = {"string": "", "bool": False, "float32": 0.0, "float64": 0.0}
_ELEMENTS = {"bool": "bool", "byte": "uint8", "char": "uint8"}  # NumPy's names where they are others


def write_log(path: Path, note: str, messages: Iterable[Message]) -> None:
    """Write a log. Raises OSError if the file cannot be written."""
    store = typestore()
    topics: dict[str, str] = {}
    last: dict[str, Any] = {}
    lines = []
    for topic, kind, message in messages:
        values = _values(plain(message, kind, store))
        lines.append(json.dumps([topic, _changes(values, last.get(topic))], separators=(",", ":")))
        topics[topic], last[topic] = kind, values
    kinds = all_types(topics.values(), store)
    named = {kind: [n for n, _ in store.fielddefs[kind][1]] for kind in kinds}
    head = json.dumps({"note": note, "topics": topics, "fields": named}, separators=(",", ":"))
    write_atomically(path, "\n".join([head, *lines, ""]).encode())


def read_log(path: Path, *, lenient: bool = False) -> Iterator[Message]:
    """The messages of a log. lenient: see `make`; without it such a field is a BagError."""
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        known = json.loads(head)
        last: dict[str, Any] = {}
        for line in lines:
            topic, changes = json.loads(line)
            values = last[topic] = _changed(changes, last.get(topic))
            kind = known["topics"][topic]
            yield topic, kind, make(kind, values, lenient=lenient, names=known["fields"])
    except OSError as error:
        raise BagError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BagError(f"{path} is not a log of messages of this version: {error}") from error


@cache
def _defaults(kind: str) -> dict[str, Any]:
    """What fields are taken to be that a message of this package lacks."""
    cls = MESSAGES.get(kind.rpartition("/")[2])
    own = fields(cls) if cls else ()
    return {f.name: f.default for f in own if f.default is not MISSING and f.name != "header"}


def message_types(kind: str) -> Callable[..., Any]:
    """What makes a message of rosbags of its fields by name: for `convert.to_ros`."""
    return lambda **values: make(kind, values)


def make(
    kind: str, source: Any, *, lenient: bool = True, names: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """A message of rosbags from a mapping or an object with the names of its fields.

    names: by message type, those of its fields where the source and its parts are lists of values.
    What the source lacks is as `messages` has it by default; where there is no default it is zero or empty if
    ``lenient``, else a ValueError that names it.
    """
    store = typestore()
    if source is None:
        source = {}
    elif names is not None:
        source = dict(zip(names[kind], source, strict=True))
    values = {}
    for name, description in store.fielddefs[kind][1]:
        found = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
        if found is None:
            found = _defaults(kind).get(name)
            if found is None and not lenient:
                raise ValueError(f"its {kind} has no {name}")
        values[name] = _decode(found, description, lenient, names)
    return store.types[kind](**values)


def _decode(value: Any, description: Any, lenient: bool, names: Mapping[str, Sequence[str]] | None) -> Any:
    node, detail = description
    if node.name == "NAME":
        return make(detail, value, lenient=lenient, names=names)
    if node.name == "BASE":
        if value is None:
            return _EMPTY.get(detail[0], 0)
        return float(np.float32(value)) if detail[0] == "float32" else type(_EMPTY.get(detail[0], 0))(value)
    element = detail[0]
    values = [_decode(item, element, lenient, names) for item in (() if value is None else value)]
    if element[0].name != "BASE" or element[1][0] == "string":
        return values
    return np.array(values, dtype=_ELEMENTS.get(element[1][0], element[1][0]))


def plain(message: Any, kind: str, store: Typestore) -> dict[str, Any]:
    """A message of rosbags as dicts, lists and leaves."""
    return {name: _plain(getattr(message, name), what, store) for name, what in store.fielddefs[kind][1]}


def _plain(value: Any, description: Any, store: Typestore) -> Any:
    node, detail = description
    if node.name == "NAME":
        return plain(value, detail, store)
    if node.name != "BASE":
        return [_plain(item, detail[0], store) for item in value]
    if detail[0] == "float32":
        return np.float32(value)
    return value.item() if isinstance(value, np.generic) else value


def _values(value: Any) -> Any:
    """Plain data without the names of fields."""
    if isinstance(value, dict | list):
        return [_values(item) for item in (value.values() if isinstance(value, dict) else value)]
    # as few digits as tell it from its neighbours
    return float(str(value)) if isinstance(value, np.float32) else value


def _changes(values: Any, before: Any) -> Any:
    """None for what is as before."""
    if isinstance(values, list) and isinstance(before, list) and len(values) == len(before) > 0:
        changes = [_changes(value, old) for value, old in zip(values, before, strict=True)]
        return None if all(change is None for change in changes) else changes
    # NaN is no change of NaN, but -0.0 is one of 0.0, and True of 1
    return None if repr(values) == repr(before) else values


def _changed(changes: Any, before: Any) -> Any:
    """Inverse of `_changes`."""
    if isinstance(changes, list) and isinstance(before, list) and len(changes) == len(before):
        return [_changed(change, old) for change, old in zip(changes, before, strict=True)]
    return before if changes is None else changes


def all_types(kinds: Iterable[str], store: Typestore) -> list[str]:
    """These message types and all that they are made of."""
    found: dict[str, None] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found[kind] = None
            waiting += [name for _, what in store.fielddefs[kind][1] for name in _parts(what)]
    return sorted(found)


def _parts(description: Any) -> Iterator[str]:
    """The message types that a field is made of."""
    node, detail = description
    if node.name == "NAME":
        yield detail
    elif node.name != "BASE":
        yield from _parts(detail[0])
