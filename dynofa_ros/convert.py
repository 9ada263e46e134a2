"""Messages of ROS from the dataclasses of `messages`, and back: one function each way for all of them.

The messages may be those of rclpy or those that rosbags reads from a recording; importing this module needs
neither. Every number is cast here. A function is compiled once per message type, so that a conversion costs
what code written by hand does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from enum import Enum, IntFlag
from functools import cache
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from dynofa_ros.errors import printable
from dynofa_ros.messages import MESSAGES, Header, Parameter, ParameterValue

NANOSECONDS = 1_000_000_000
MOST_ELEMENTS = 10_000  # of an array in a message
PACKAGE = "dynofa_ros"

# rcl_interfaces/ParameterType: number, the field of ParameterValue, type in Python (of the elements).
_PARAMETER_TYPES = (
    (1, "bool_value", bool),
    (2, "integer_value", int),
    (3, "double_value", float),
    (4, "string_value", str),
    (6, "bool_array_value", bool),
    (7, "integer_array_value", int),
    (8, "double_array_value", float),
    (9, "string_array_value", str),
)
_CASTS: dict[Any, str] = {str: "{}", int: "int({})", float: "float({})", bool: "bool({})"}

Constructors = Callable[[str], Callable[..., Any]]


def stamp_ns(stamp: Any) -> int:
    """Time of a builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def from_ros(message: Any) -> Any:
    """The dataclass of a message of this package, of std_msgs/Header or of rcl_interfaces/Parameter.

    A field that the message lacks has the dataclass's default; text is made printable. Raises TypeError for
    a message of another type, ValueError, naming message and field, for a field that is missing or has no
    meaning.
    """
    return _reader_of(message.__class__)(message)


def ros_types(name: str) -> Any:
    """The class of rclpy of "std_msgs/msg/Header". Raises ImportError in one line if it is not installed."""
    package, kind, message = name.split("/")
    try:
        return getattr(import_module(f"{package}.{kind}"), message)
    except (ImportError, AttributeError):
        raise ImportError(f"the Python messages of {name} are not installed") from None


def to_ros(value: Any, types: Constructors = ros_types) -> Any:
    """The message of a dataclass, or of a subclass of it, whose further fields are left out.

    types: what makes a message of a type from its fields by name.
    """
    return _writer(value.__class__, types)(value)


@cache
def message_type(cls: type) -> type:
    """The dataclass of `messages` that a class is, or that it extends. Raises TypeError if there is none."""
    for base in cls.__mro__:
        if base in (Header, Parameter) or MESSAGES.get(base.__name__) is base:
            return base
    raise TypeError(f"{cls.__name__} is no message of {PACKAGE}")


def message_class(name: str) -> type:
    """The dataclass of "dynofa_ros/msg/AppTargets", or of "AppTargets". Raises TypeError if there is none."""
    known = {"Header": Header, "Parameter": Parameter} | MESSAGES
    kind = name.rpartition("/")[2]
    if kind not in known:
        raise TypeError(f"{name} is no message of {PACKAGE}")
    return known[kind]


# --- ROS -> dataclass ------------------------------------------------------------------------------------


@cache
def _reader_of(ros_class: type) -> Callable[[Any], Any]:
    return _reader(message_class(ros_class.__name__.rpartition("__")[2]))


@cache
def _reader(cls: type) -> Callable[[Any], Any]:
    if cls is Header:
        return lambda m: Header(stamp_ns(m.stamp), printable(m.frame_id))
    if cls is Parameter:
        return lambda m: Parameter(printable(m.name), parameter_value(m.value))
    scope: dict[str, Any] = {"stamp_ns": stamp_ns, "bounded": _bounded, "printable": printable}
    sources = {
        name: _read(f"m.{name}", hint, scope)
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }
    readers: dict[str, Callable[[Any], Any]] = {}
    scope |= {
        "new": cls.__new__,
        "fill": filler(cls),
        "cls": cls,
        "careful": lambda m: _read_carefully(cls, readers, m),
    }
    readers |= {name: eval(f"lambda m: {source}", scope) for name, source in sources.items()}
    items = ", ".join(f"{name!r}: {source}" for name, source in sources.items())
    code = (
        "def read(m):\n"
        " try:\n"
        f"  values = {{{items}}}\n"
        " except (AttributeError, LookupError, TypeError, ValueError):\n"
        "  return careful(m)\n"
        " made = new(cls)\n"
        " fill(made, values)\n"
        " return made\n"
    )
    exec(code, scope)
    return scope["read"]


def filler(cls: type) -> Callable[[Any, dict[str, Any]], None]:
    """Sets all fields of a new instance, which the constructor of a frozen dataclass does one by one: four
    times as slow."""
    return next(vars(base)["__dict__"] for base in cls.__mro__ if "__dict__" in vars(base)).__set__


def _read(source: str, hint: Any, scope: dict[str, Any]) -> str:
    """Expression for the value of a field of a ROS message that `source` is."""
    if get_origin(hint) is Annotated:
        return f"stamp_ns({source})"
    if get_origin(hint) is tuple:
        element = _read("v", get_args(hint)[0], scope)
        return f"tuple([{element} for v in bounded({source})])"
    if hint is str:  # names come from whoever publishes, and are shown on terminals
        return f"printable({source})"
    if hint in _CASTS:
        return _CASTS[hint].format(source)
    name = hint.__name__
    if issubclass(hint, Enum):
        scope[name] = members(hint)  # a call of the class would cost four times as much
        return f"{name}[int({source})]"
    scope[f"read_{name}"] = _reader(hint)
    return f"read_{name}({source})"


def _bounded(values: Any) -> Any:
    check_count(len(values))
    return values


def check_count(count: int) -> None:
    """Raises ValueError for more elements than an array of any message of the package has."""
    if count > MOST_ELEMENTS:
        raise ValueError(f"{count} elements: at most {MOST_ELEMENTS} are accepted")


def members(enum: type[Enum]) -> dict[int, Any]:
    """The members of a type by their number; of flags every combination of the 8 bits that a message has."""
    return {n: enum(n) for n in range(256)} if issubclass(enum, IntFlag) else {m.value: m for m in enum}


def _read_carefully(cls: type, readers: dict[str, Callable[[Any], Any]], message: Any) -> Any:
    """Field by field: with defaults for what is missing, and errors that name the field."""
    values = {}
    for field in fields(cls):
        if not hasattr(message, field.name):
            if field.default is MISSING:
                raise ValueError(f"{cls.__name__} has no field {field.name}")
            values[field.name] = field.default
            continue
        try:
            values[field.name] = readers[field.name](message)
        except LookupError as error:
            raise ValueError(f"{cls.__name__}.{field.name} = {error} has no meaning") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{cls.__name__}.{field.name}: {error}") from error
    return cls(**values)


def parameter_value(message: Any) -> ParameterValue:
    """Value of a rcl_interfaces/ParameterValue; None = not set. ValueError for an unknown type."""
    kind = int(message.type)
    if kind == 0:
        return None
    for number, name, cast in _PARAMETER_TYPES:
        if number == kind:
            value = getattr(message, name)
            if number < 5:
                return cast(value)
            return tuple(cast(v) for v in value)
    raise ValueError(f"a parameter of type {kind} is not supported")


# --- dataclass -> ROS ------------------------------------------------------------------------------------


@cache
def _writer(cls: type, types: Constructors) -> Callable[[Any], Any]:
    base = message_type(cls)
    if base is Header:
        header, time = types("std_msgs/msg/Header"), types("builtin_interfaces/msg/Time")
        return lambda v: header(stamp=_time(v.stamp_ns, time), frame_id=v.frame_id)
    if base is Parameter:
        return _parameter_writer(types)
    time = types("builtin_interfaces/msg/Time")
    scope: dict[str, Any] = {
        "make": types(f"{PACKAGE}/msg/{base.__name__}"),
        "stamp": lambda ns: _time(ns, time),
    }
    items = ", ".join(
        f"{name}={_write(f'm.{name}', hint, scope, types)}"
        for name, hint in get_type_hints(base, include_extras=True).items()
    )
    return eval(f"lambda m: make({items})", scope)


def _write(source: str, hint: Any, scope: dict[str, Any], types: Constructors) -> str:
    """Expression for the value in a ROS message of a field that `source` is."""
    if get_origin(hint) is Annotated:
        return f"stamp({source})"
    if get_origin(hint) is tuple:
        element = _write("v", get_args(hint)[0], scope, types)
        return f"list({source})" if element == "v" else f"[{element} for v in {source}]"
    cast = int if issubclass(hint, Enum) else hint
    if cast in _CASTS:
        return _CASTS[cast].format(source)
    scope[f"write_{hint.__name__}"] = _writer(hint, types)
    return f"write_{hint.__name__}({source})"


def _time(time_ns: int, make: Callable[..., Any]) -> Any:
    seconds, nanoseconds = divmod(int(time_ns), NANOSECONDS)
    return make(sec=seconds, nanosec=nanoseconds)


def _parameter_writer(types: Constructors) -> Callable[[Parameter], Any]:
    parameter, value = types("rcl_interfaces/msg/Parameter"), types("rcl_interfaces/msg/ParameterValue")
    made: dict[Any, Any] = {}  # they rarely change, decisions come five times a second

    def write(p: Parameter) -> Any:
        key = (p.name, type(p.value), p.value)
        if key not in made:
            if len(made) > 1000:
                made.clear()
            made[key] = parameter(name=p.name, value=value(**parameter_fields(p.value)))
        return made[key]

    return write


def parameter_fields(value: ParameterValue) -> dict[str, Any]:
    """Fields of a rcl_interfaces/ParameterValue. Raises TypeError for a value of another type."""
    if value is None:
        return {"type": 0}
    array = isinstance(value, tuple)
    first = (value[0] if value else "") if isinstance(value, tuple) else value
    for number, name, kind in _PARAMETER_TYPES:
        if type(first) is kind and array == (number > 5):
            return {"type": number, name: list(value) if isinstance(value, tuple) else value}
    raise TypeError(f"{value!r} is no value of a parameter")
