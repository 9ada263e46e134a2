"""The dataclasses of the messages are those of msg/*.msg, and both ways of converting them lose nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from rclpy.parameter import Parameter as RosParameter
from rclpy.serialization import deserialize_message, serialize_message

from dynofa_ros import cdr, messages
from dynofa_ros.convert import from_ros, ros_types, to_ros
from dynofa_ros.messages import CONSTANTS, MESSAGES, Header, InferenceMonitor, Parameter, Stamped, SubnetState
from dynofa_ros.recording.bag import typestore
from dynofa_ros.recording.text_log import message_types

FILES = sorted((Path(__file__).resolve().parents[2] / "msg").glob("*.msg"))
LINE = re.compile(r"(?P<type>[\w/]+)(?P<array>\[\])?\s+(?P<name>\w+)(\s*=\s*(?P<value>\d+))?\s*(#.*)?")
OF_ROS = {"string": str, "bool": bool, "std_msgs/Header": Header, "rcl_interfaces/Parameter": Parameter}
OF_ROS |= {f"{sign}int{bits}": int for sign in ("", "u") for bits in (8, 16, 32, 64)}
OF_ROS |= {"float32": float, "float64": float, "builtin_interfaces/Time": messages.Time}


def lines_of(path: Path) -> list[re.Match[str]]:
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert all(found), path
    return [line for line in found if line]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fields_order_types_and_constants_are_those_of_the_file(path: Path) -> None:
    cls = MESSAGES[path.stem]
    hints = get_type_hints(cls, include_extras=True)
    written: list[tuple[str, Any]] = []
    constants: dict[str, int] = {}
    for line in lines_of(path):
        if line["value"] is not None:
            constants[line["name"].removeprefix("THROTTLE_")] = int(line["value"])
            continue
        kind = OF_ROS.get(line["type"]) or MESSAGES[line["type"]]
        written.append((line["name"], tuple[kind, ...] if line["array"] else kind))  # type: ignore[valid-type]
    own = [(f.name, int if is_enum(hints[f.name]) else hints[f.name]) for f in fields(cls)]
    assert own == written
    enum = CONSTANTS.get(cls)
    assert constants == ({name: int(member) for name, member in enum.__members__.items()} if enum else {})


def is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def test_there_is_a_dataclass_for_every_file_and_none_beyond() -> None:
    assert sorted(MESSAGES) == [path.stem for path in FILES]
    own = {c for c in vars(messages).values() if isinstance(c, type) and c.__module__ == messages.__name__}
    enums = {c for c in own if issubclass(c, Enum)}
    assert own == {*MESSAGES.values(), *enums, Header, Parameter, Stamped} and enums == set(
        CONSTANTS.values()
    )


# --- conversion --------------------------------------------------------------------------------------


def example(cls: type, seed: int = 1) -> Any:
    """A message with another value in every field; numbers that float32 holds exactly."""
    if cls is Header:
        return Header(3_000_000_000 * seed + 17, f"frame {seed}")
    if cls is Parameter:
        return Parameter(f"parameter {seed}", 0.5 * seed)
    values = {}
    for n, (name, hint) in enumerate(get_type_hints(cls, include_extras=True).items(), start=seed):
        values[name] = example_value(hint, n)
    return cls(**values)


def example_value(hint: Any, n: int) -> Any:
    if get_origin(hint) is Annotated:
        return 5_000_000_000 * n + 3
    if get_origin(hint) is tuple:
        return tuple(example_value(get_args(hint)[0], n + k) for k in range(3))
    simple: dict[Any, Any] = {str: f"text {n}", int: n, float: 0.25 * n, bool: n % 2 == 0}
    if hint in simple:
        return simple[hint]
    return list(hint)[n % len(hint)] if is_enum(hint) else example(hint, n)


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def through_a_recording(value: Any) -> Any:
    kind = f"dynofa_ros/msg/{type(value).__name__}"
    store = typestore()
    return store.deserialize_cdr(store.serialize_cdr(to_ros(value, message_types), kind), kind)


WAYS = [lambda value: over_the_wire(to_ros(value)), through_a_recording]


def through_cdr(value: Any) -> Any:
    return cdr.reader(f"dynofa_ros/msg/{type(value).__name__}", ros_types)(serialize_message(to_ros(value)))


READABLE = sorted(set(MESSAGES) - {"ManagerDecision"})  # that one holds parameters


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("name", READABLE)
def test_cdr_is_read_as_rclpy_reads_it(name: str, seed: int) -> None:
    value = example(MESSAGES[name], seed)
    value = replace(value, **{f.name: "x" * seed for f in fields(value) if f.type == "str"})
    again = through_cdr(value)
    assert again == value and repr(again) == repr(from_ros(over_the_wire(to_ros(value))))
    empty = from_ros(ros_types(f"dynofa_ros/msg/{name}")())
    assert repr(through_cdr(empty)) == repr(empty)


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_cdr_is_written_as_rclpy_writes_it(name: str, seed: int) -> None:
    value = example(MESSAGES[name], seed)
    value = replace(value, **{f.name: "\u00e4" * seed for f in fields(value) if f.type == "str"})
    if "parameters" in vars(value):
        parameters = tuple(Parameter(f"p{n}", v) for n, v in enumerate((True, 7, math.inf, "text", None)))
        value = replace(value, parameters=parameters)
    empty = from_ros(ros_types(f"dynofa_ros/msg/{name}")())
    for message in (value, empty):
        data, ros = cdr.to_cdr(message), to_ros(message)
        # Not byte by byte: the padding of rclpy's is what was in memory.
        assert repr(deserialize_message(data, type(ros))) == repr(ros)


def test_numbers_of_numpy_are_written_too() -> None:
    value = example(InferenceMonitor)
    numbers = {f.name: v for f in fields(value) if type(v := getattr(value, f.name)) in (int, float)}
    assert len(numbers) > 10
    odd = {name: np.int64(v) if type(v) is int else np.float64(v) for name, v in numbers.items()}
    assert cdr.to_cdr(replace(value, **odd)) == cdr.to_cdr(value)


def test_what_is_no_plain_cdr_is_refused() -> None:
    read = cdr.reader("dynofa_ros/msg/InferenceMonitor", ros_types)
    good = bytes(serialize_message(to_ros(example(InferenceMonitor))))
    for bad in (b"", good[:40], b"\x00\x00" + good[2:], good[:4] + b"\xff" * 60):
        with pytest.raises(ValueError, match="dynofa_ros/msg/InferenceMonitor: "):
            read(bad)
    state = cdr.reader("dynofa_ros/msg/SubnetState", ros_types)
    unknown = to_ros(example(SubnetState))
    unknown.status = 77
    with pytest.raises(ValueError, match="damaged, or of another version .77."):
        state(bytes(serialize_message(unknown)))
    with pytest.raises(TypeError, match="parameters"):
        cdr.reader("dynofa_ros/msg/ManagerDecision", ros_types)


@pytest.mark.parametrize("name", READABLE)
def test_cdr_that_is_cut_anywhere_is_refused(name: str) -> None:
    """All but the end of a text: its closing zero and padding are not needed to read it."""
    whole = bytes(serialize_message(to_ros(example(MESSAGES[name]))))
    read = cdr.reader(f"dynofa_ros/msg/{name}", ros_types)
    for length in range(len(whole) - 5):
        with pytest.raises(ValueError, match=f"dynofa_ros/msg/{name}: "):
            read(whole[:length])


@pytest.mark.parametrize("way", WAYS, ids=["rclpy", "rosbags"])
@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_message_comes_back_as_it_was(name: str, way: Callable[[Any], Any]) -> None:
    value = example(MESSAGES[name])
    again = from_ros(way(value))
    assert again == value
    assert getattr(again, "header", None) == getattr(value, "header", None)  # it is no part of ==
    assert all(type(getattr(again, f.name)) is type(getattr(value, f.name)) for f in fields(value))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_what_rclpy_makes_by_default_can_be_read(name: str) -> None:
    assert isinstance(from_ros(ros_types(f"dynofa_ros/msg/{name}")()), MESSAGES[name])


def lacking(message: Any, *names: str) -> Any:
    """A message of an older version of the package."""
    kept = {n: getattr(message, n) for n in message.get_fields_and_field_types() if n not in names}
    return type(type(message).__name__, (SimpleNamespace,), {})(**kept)


def test_a_field_that_is_missing_has_its_default() -> None:
    value = example(messages.InferenceMonitor)
    older = lacking(to_ros(value), "threads", "cluster", "end_to_end_ms")
    again = from_ros(older)
    assert math.isnan(again.end_to_end_ms)
    assert replace(again, end_to_end_ms=0.0) == replace(value, threads=0, cluster="", end_to_end_ms=0.0)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_field_without_default_is_missed_by_its_name(name: str) -> None:
    value = example(MESSAGES[name])
    for field in fields(value):
        if field.default is MISSING:
            with pytest.raises(ValueError, match=f"{name} has no field {field.name}"):
                from_ros(lacking(to_ros(value), field.name))


def test_a_value_without_meaning_is_named() -> None:
    message = to_ros(example(messages.SubnetState))
    message.status = 77
    with pytest.raises(ValueError, match="SubnetState.status = 77 has no meaning"):
        from_ros(message)


def test_all_flags_together_can_be_read() -> None:
    flags = messages.ThrottleFlag.THERMAL | messages.ThrottleFlag.UNKNOWN
    value = replace(example(messages.DeviceTelemetry), throttle_flags=flags)
    assert from_ros(to_ros(value)).throttle_flags == flags


def test_numbers_of_numpy_are_cast() -> None:
    import numpy as np

    value = messages.FrequencyBand("gpu", np.int64(5), np.int64(7))
    assert type(to_ros(value).min_hz) is int
    raw = SimpleNamespace(domain="gpu", min_hz=np.uint64(5), max_hz=np.uint64(7))
    read = from_ros(type("FrequencyBand", (SimpleNamespace,), {})(**vars(raw)))
    assert read == value and type(read.min_hz) is int


def test_what_a_layer_adds_to_a_message_stays_there() -> None:
    @dataclass(frozen=True)
    class Reading(messages.TemperatureReading):
        reason: str = ""

    message = to_ros(Reading("CPU", 40.0, "why"))
    assert type(message).__name__ == "TemperatureReading"
    assert from_ros(message) == messages.TemperatureReading("CPU", 40.0)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(TypeError, match="int is no message"):
        to_ros(5)
    with pytest.raises(TypeError, match="SimpleNamespace is no message"):
        from_ros(SimpleNamespace())


@pytest.mark.parametrize(
    "value",
    [True, 7, 0.5, "text", (True, False), (1, 2), (0.5, 1.5), ("a", "b"), None],
    ids=str,
)
def test_a_parameter_of_every_type(value: Any) -> None:
    given = RosParameter("name", value=list(value) if isinstance(value, tuple) else value)
    assert from_ros(given.to_parameter_msg()) == Parameter("name", value)
    assert to_ros(Parameter("name", value)) == given.to_parameter_msg()
    decision = replace(example(messages.ManagerDecision), parameters=(Parameter("name", value),))
    assert from_ros(through_a_recording(decision)).parameters == decision.parameters


def test_equal_parameters_of_another_type_are_not_confused() -> None:
    kinds = [to_ros(Parameter("name", value)).value.type for value in (1, 1.0, True)]
    assert kinds == [2, 3, 1]
