"""The parameter table: what is accepted, what is refused and why, and what `ros2 param` shows of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs rclpy")

from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from dynofa_ros.ros import parameters
from dynofa_ros.ros.parameters import ParameterError, ParameterSpec

LATENCY = ParameterSpec("latency_target_ms", 33.0, "time allowed", unit="ms", minimum=1.0, maximum=1000.0)
POWER = ParameterSpec("power_cap_w", math.inf, "power allowed", unit="W", minimum=0, allow_infinite=True)
PRIORITY = ParameterSpec("priority", 5, "importance", minimum=0, maximum=10)
OBJECTIVE = ParameterSpec("objective", "quality", "what to optimise", choices=("quality", "energy"))
WEIGHTS = ParameterSpec("weights", "", "file of weights", dynamic=False)
WRITES = ParameterSpec("allow_writes", False, "may write", dynamic=False)
OFFSET = ParameterSpec("offset", 0.0, "any number")
SPECS = (LATENCY, POWER, PRIORITY, OBJECTIVE, WEIGHTS, WRITES, OFFSET)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (LATENCY, 33.0),
        (LATENCY, 33),
        (LATENCY, 1.0),
        (LATENCY, 1000),
        (POWER, math.inf),
        (POWER, 0),
        (PRIORITY, 0),
        (PRIORITY, 10),
        (OBJECTIVE, "energy"),
        (WEIGHTS, ""),
        (WRITES, True),
        (OFFSET, -1e300),
    ],
)
def test_accepted(spec: ParameterSpec, value: object) -> None:
    assert parameters.check(spec, value) is None


@pytest.mark.parametrize(
    ("spec", "value", "reason"),
    [
        (LATENCY, -5.0, "latency_target_ms must be a number from 1.0 to 1000.0 ms, got -5.0"),
        (LATENCY, math.nan, "latency_target_ms must be a number from 1.0 to 1000.0 ms, got nan"),
        (LATENCY, math.inf, "latency_target_ms must be a number from 1.0 to 1000.0 ms, got inf"),
        (LATENCY, "fast", "latency_target_ms must be a number from 1.0 to 1000.0 ms, got 'fast'"),
        (LATENCY, True, "latency_target_ms must be a number from 1.0 to 1000.0 ms, got True"),
        (LATENCY, None, "latency_target_ms must be a number from 1.0 to 1000.0 ms, got None"),
        (LATENCY, [33.0], "latency_target_ms must be a number from 1.0 to 1000.0 ms, got [33.0]"),
        (POWER, math.nan, "power_cap_w must be a number, or .inf for no limit, of at least 0.0 W, got nan"),
        (POWER, -math.inf, "power_cap_w must be a number, or .inf for no limit, of at least 0.0 W, got -inf"),
        (PRIORITY, 11, "priority must be an integer from 0 to 10, got 11"),
        (PRIORITY, 5.0, "priority must be an integer from 0 to 10, got 5.0"),
        (PRIORITY, True, "priority must be an integer from 0 to 10, got True"),
        (OBJECTIVE, "speed", "objective must be one of 'quality', 'energy', got 'speed'"),
        (OBJECTIVE, 1, "objective must be one of 'quality', 'energy', got 1"),
        (WEIGHTS, 1, "weights must be text, got 1"),
        (WRITES, 1, "allow_writes must be true or false, got 1"),
        (OFFSET, math.inf, "offset must be a finite number, got inf"),
    ],
)
def test_refused_with_the_name_the_value_and_what_is_allowed(
    spec: ParameterSpec, value: object, reason: str
) -> None:
    assert parameters.check(spec, value) == reason


@given(st.one_of(st.floats(), st.integers()))
def test_a_number_is_accepted_exactly_inside_the_range(value: float) -> None:
    assert (parameters.check(LATENCY, value) is None) == (1.0 <= value <= 1000.0)


def test_ints_become_floats_only_where_a_float_is_wanted() -> None:
    assert type(parameters.coerce(LATENCY, 33)) is float
    assert parameters.coerce(LATENCY, True) is True
    assert type(parameters.coerce(PRIORITY, 5)) is int


@pytest.mark.parametrize(
    "arguments",
    [
        {"default": 0.5, "minimum": 1.0},
        {"default": math.nan},
        {"default": math.inf},
        {"default": "x", "choices": ("a", "b")},
        {"default": 1.0, "maximum": 2.0, "allow_infinite": True},
    ],
)
def test_a_table_that_contradicts_itself_is_an_error(arguments: dict) -> None:
    with pytest.raises(ValueError, match="p"):
        ParameterSpec(name="p", description="p", **arguments)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (LATENCY, "time allowed: a number from 1.0 to 1000.0 ms [DYNAMIC]"),
        (POWER, "power allowed: a number, or .inf for no limit, of at least 0.0 W [DYNAMIC]"),
        (OBJECTIVE, "what to optimise: one of 'quality', 'energy' [DYNAMIC]"),
        (WRITES, "may write: true or false [START-UP]"),
    ],
)
def test_descriptions_end_with_unit_range_and_when(spec: ParameterSpec, text: str) -> None:
    assert parameters.descriptor(spec).description == text


def test_descriptors_carry_ranges_and_read_only() -> None:
    (latency_range,) = parameters.descriptor(LATENCY).floating_point_range
    assert (latency_range.from_value, latency_range.to_value) == (1.0, 1000.0)
    (power_range,) = parameters.descriptor(POWER).floating_point_range
    assert (power_range.from_value, power_range.to_value) == (0.0, math.inf)
    (priority_range,) = parameters.descriptor(PRIORITY).integer_range
    assert (priority_range.from_value, priority_range.to_value) == (0, 10)
    assert not parameters.descriptor(OBJECTIVE).read_only
    assert parameters.descriptor(WEIGHTS).read_only
    assert not parameters.descriptor(WRITES).integer_range


def test_a_start_up_parameter_cannot_be_set_later() -> None:
    table = {spec.name: spec for spec in SPECS}
    assert parameters.refusal(table, {"weights": "x"}) == "weights can only be set at start-up"
    assert parameters.refusal(table, {"priority": 3, "objective": "energy"}) is None


def node_with(context: Context, **overrides: object) -> Node:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    return Node("table", context=context, parameter_overrides=given)


def test_declaration_takes_the_defaults_and_the_overrides(context: Context) -> None:
    node = node_with(context, latency_target_ms=20, power_cap_w=15.5, weights="file")
    parameters.declare(node, SPECS)
    values = {spec.name: node.get_parameter(spec.name).value for spec in SPECS}
    assert values == {
        "latency_target_ms": 20.0,
        "power_cap_w": 15.5,
        "priority": 5,
        "objective": "quality",
        "weights": "file",
        "allow_writes": False,
        "offset": 0.0,
    }
    assert node.get_parameter("latency_target_ms").type_ == Parameter.Type.DOUBLE
    assert node.describe_parameter("weights").read_only
    node.destroy_node()


@pytest.mark.parametrize("value", ["fast", -5.0, math.nan, True, [1.0, 2.0]])
def test_a_bad_value_at_start_up_is_one_clear_error(context: Context, value: object) -> None:
    node = node_with(context, latency_target_ms=value)
    with pytest.raises(ParameterError, match=r"latency_target_ms must be .* from 1\.0 to 1000\.0 ms, got"):
        parameters.declare(node, SPECS)
    node.destroy_node()
