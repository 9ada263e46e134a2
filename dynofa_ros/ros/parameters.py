"""One declarative table of parameters per node: defaults, units, ranges, validation, declaration.

rclpy alone refuses `33` for a double, accepts NaN inside any range, and words its reasons differently
from distribution to distribution. Here a table of `ParameterSpec` is the only source, and one reason
names the parameter, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from dynofa_ros.errors import one_line

Value = bool | int | float | str

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class ParameterError(Exception):
    """A parameter has a value it must not have; the text is one line that says what is allowed."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a node. The type of `default` is the type of the parameter.

    minimum, maximum: allowed range, inclusive, for int and float; None = no bound on that side.
    choices: the only allowed values, for str and int.
    dynamic: may be set while the node runs; otherwise only at start-up.
    allow_infinite: float only; +inf (YAML `.inf`) means "no limit"; needs maximum None.
    unset: to set it, be it to its default, says something: the parameters file has it as a comment.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | tuple[int, ...] = ()
    dynamic: bool = True
    allow_infinite: bool = False
    unset: bool = False

    def __post_init__(self) -> None:
        if self.allow_infinite and self.maximum is not None:
            raise ValueError(f"{self.name}: a parameter with a maximum cannot be infinite")
        reason = check(self, self.default)
        if reason is not None:
            raise ValueError(f"default of {reason}")


def coerce(spec: ParameterSpec, value: Any) -> Any:
    """An int given for a float parameter as a float; any other value unchanged."""
    if isinstance(spec.default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def check(spec: ParameterSpec, value: Any) -> str | None:
    """Why `value` is refused, in one line that names parameter, value and what is allowed; None = allowed."""
    if _is_allowed(spec, coerce(spec, value)):
        return None
    return f"{spec.name} must be {allowed(spec)}, got {one_line(repr(value), 100)}"


def _is_allowed(spec: ParameterSpec, value: Any) -> bool:
    if type(value) is not type(spec.default):  # exact: a bool is no int
        return False
    if spec.choices:
        return value in spec.choices
    if isinstance(value, (bool, str)):
        return True
    if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not spec.allow_infinite)):
        return False
    if spec.minimum is not None and value < spec.minimum:
        return False
    return spec.maximum is None or value <= spec.maximum


def allowed(spec: ParameterSpec) -> str:
    """What is allowed, in words: "a number from 1.0 to 1000.0 ms"."""
    if spec.choices:
        return "one of " + ", ".join(repr(choice) for choice in spec.choices)
    if isinstance(spec.default, bool):
        return "true or false"
    if isinstance(spec.default, str):
        return "text"
    if spec.allow_infinite:
        kind = "a number, or .inf for no limit,"
    elif isinstance(spec.default, int):
        kind = "an integer"
    else:
        kind = "a finite number" if None in (spec.minimum, spec.maximum) else "a number"
    bounds = _bounds(spec)
    unit = f" {spec.unit}" if bounds and spec.unit else f" in {spec.unit}" if spec.unit else ""
    return kind + bounds + unit


def _bounds(spec: ParameterSpec) -> str:
    as_default = type(spec.default)  # 0 of a float parameter reads 0.0
    if spec.minimum is not None and spec.maximum is not None:
        return f" from {as_default(spec.minimum)} to {as_default(spec.maximum)}"
    if spec.minimum is not None:
        return f" of at least {as_default(spec.minimum)}"
    return f" of at most {as_default(spec.maximum)}" if spec.maximum is not None else ""


def describe(spec: ParameterSpec) -> str:
    """Text for `ros2 param describe`: meaning, what is allowed with its unit, and when it can be set."""
    return f"{spec.description}: {allowed(spec)} {'[DYNAMIC]' if spec.dynamic else '[START-UP]'}"


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """ROS descriptor with text, range and read_only."""
    message = ParameterDescriptor(name=spec.name, description=describe(spec), read_only=not spec.dynamic)
    bounded = spec.minimum is not None or spec.maximum is not None
    if isinstance(spec.default, float) and bounded:
        low = -math.inf if spec.minimum is None else float(spec.minimum)
        high = math.inf if spec.maximum is None else float(spec.maximum)
        message.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif isinstance(spec.default, int) and not isinstance(spec.default, bool) and bounded:
        least = _INT64_MIN if spec.minimum is None else int(spec.minimum)
        most = _INT64_MAX if spec.maximum is None else int(spec.maximum)
        message.integer_range = [IntegerRange(from_value=least, to_value=most)]
    return message


def declare(node: Node, specs: Iterable[ParameterSpec]) -> None:
    """Declare all parameters with the values given at start-up (YAML, command line) or the defaults.

    Raises ParameterError for the first value that is not allowed.
    """
    for spec in specs:
        value = _start_value(node, spec)
        reason = check(spec, value)
        if reason is not None:
            raise ParameterError(reason)
        node.declare_parameter(spec.name, coerce(spec, value), descriptor(spec), ignore_override=True)


def _start_value(node: Node, spec: ParameterSpec) -> Any:
    """The override of any type: a typed declaration would throw on `33` for a double (all distributions)."""
    untyped = ParameterDescriptor(dynamic_typing=True)
    value: Any = node.declare_parameter(spec.name, spec.default, untyped).value
    node.undeclare_parameter(spec.name)
    return value


def refusal(specs: Mapping[str, ParameterSpec], changes: Mapping[str, Any]) -> str | None:
    """Why a set at run time is refused, None if every change is allowed. Every name must be in `specs`."""
    for name, value in changes.items():
        if not specs[name].dynamic:
            return f"{name} can only be set at start-up"
        reason = check(specs[name], value)
        if reason is not None:
            return reason
    return None
