"""The choice of a sub-network for one request: the most accurate one that fits its size and what is left."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.application.request_controller import RequestController
from dynofa_ros.messages import SubnetEntry

GRANTED = tuple(  # 20..80 ms
    SubnetEntry(f"n{n}", "cpu", 0.3 + 0.02 * n, 20.0 * (n + 1), nan, nan, nan, (), 0.25, 10.0)
    for n in range(4)
)


def exact() -> RequestController:
    """One that has seen that requests take what is expected."""
    controller = RequestController()
    for _ in range(200):
        controller.observe(10.0, 10.0)
    return controller


def chosen(controller: RequestController, size: float, left_ms: float, waiting_ms: float = inf) -> str:
    return controller.choose(GRANTED, size, left_ms, waiting_ms, 200.0, 0.02).id


def test_small_requests_get_a_larger_network() -> None:
    controller = exact()
    assert chosen(controller, 10.0, 65.0) == "n2"
    assert chosen(controller, 2.0, 65.0) == "n3"  # 80 ms * (0.25 + 0.75 * 0.2) = 32 ms
    assert chosen(controller, 20.0, 65.0) == "n0"  # 20 ms * 1.75 = 35 ms, n1 takes 70 ms


def test_who_has_waited_gets_a_smaller_one_and_who_is_late_the_quickest() -> None:
    controller = exact()
    assert [chosen(controller, 10.0, left) for left in (90.0, 50.0, 5.0, -3.0)] == ["n3", "n1", "n0", "n0"]


def test_time_is_left_for_the_request_behind() -> None:
    assert chosen(exact(), 10.0, 90.0, waiting_ms=75.0) == "n1"  # 75 ms less the 20 ms of the quickest


def test_where_requests_come_often_one_may_come_soon() -> None:
    seldom, often = exact(), exact()
    for n in range(64):
        seldom.arrive(10_000.0 * n)
        often.arrive(100.0 * n)
    near = [c.choose(GRANTED, 10.0, 90.0, inf, 95.0, 0.02).id for c in (seldom, often)]
    assert near == ["n3", "n2"]


def test_what_small_requests_leave_of_the_tolerated_misses_is_for_larger_ones() -> None:
    """One in 25 requests takes twice as long: too many, unless few requests take the risk."""
    controller = RequestController()
    for n in range(200):
        controller.observe(10.0, 20.0 if n % 25 == 0 else 10.0)

    def chosen(left_ms: float) -> str:
        return controller.choose(GRANTED, 10.0, left_ms, inf, 200.0, 0.05).id

    assert chosen(100.0) == "n1", "n2 and n3 may take 120 and 160 ms"
    assert [chosen(200.0) for _ in range(8)] == ["n3"] * 8  # without a risk
    later = [chosen(100.0) for _ in range(10)]
    assert later[0] == "n3" and later.count("n1") >= 4, "what was kept is used up"


def test_what_takes_longer_than_expected_is_learned() -> None:
    controller = exact()
    for ratio in np.random.default_rng(0).lognormal(0.3, 0.1, 300):
        controller.observe(10.0, 10.0 * ratio)
    assert controller.margin(0.02) == pytest.approx(np.exp(0.3 + 2.17 * 0.1), rel=0.1)
    assert chosen(controller, 10.0, 65.0) == "n0"


def test_what_is_not_known_is_not_learned() -> None:
    controller = exact()
    controller.observe(nan, 50.0)
    controller.observe(0.0, 50.0)
    assert controller.margin(0.02) == 1.0
    assert chosen(controller, nan, 65.0) == "n2"  # as at reference size


@given(
    st.floats(1.0, 100.0),
    st.floats(-50.0, 500.0),
    st.floats(0.0, 300.0),
    st.lists(st.floats(0.5, 3.0), max_size=50),
)
def test_more_time_never_gives_a_worse_network(
    size: float, left_ms: float, more_ms: float, ratios: list[float]
) -> None:
    def accuracy(left: float) -> float:
        controller = RequestController()
        for ratio in ratios:
            controller.observe(10.0, 10.0 * ratio)
        return controller.choose(GRANTED, size, left, inf, 400.0, 0.05).accuracy

    assert accuracy(left_ms + more_ms) >= accuracy(left_ms)
