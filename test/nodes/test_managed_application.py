"""What a program of others may hand to a ManagedApplication, without a running node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from std_msgs.msg import Header as RosHeader

from dynofa_ros.messages import Header
from dynofa_ros.nodes.managed_application import ManagedApplication
from dynofa_ros.nodes.perception_parameters import PROGRAM_PARAMETERS, with_defaults


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"latency": 5.0}, "default of latency: no such parameter: there are latency_target_ms, "),
        ({"rate_hz": -1.0}, "default of rate_hz must be a number from 0.1 to 240.0 Hz, got -1.0"),
        ({"rate_hz": "x"}, "default of rate_hz must be a number from 0.1 to 240.0 Hz, got 'x'"),
    ],
)
def test_a_default_that_cannot_be_is_named(defaults: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_defaults(PROGRAM_PARAMETERS, defaults)


def test_a_whole_number_leaves_the_type_of_a_parameter() -> None:
    """Else `-p rate_hz:=5.5` would be refused."""
    found = {spec.name: spec.default for spec in with_defaults(PROGRAM_PARAMETERS, {"rate_hz": 5})}
    assert type(found["rate_hz"]) is float and found["rate_hz"] == 5
    assert [*found] == [spec.name for spec in PROGRAM_PARAMETERS]


@pytest.mark.parametrize("header", [Header(7 * 10**9, "lens"), RosHeader(frame_id="lens")])
def test_a_program_may_decode_to_either_header(header: Any) -> None:
    if isinstance(header, RosHeader):
        header.stamp.sec = 7
    node = SimpleNamespace(decode=lambda message: (header, message))
    found = ManagedApplication._decoded(node, "request")  # type: ignore[arg-type]
    assert found == (Header(7 * 10**9, "lens"), "request")
