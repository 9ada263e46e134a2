"""Images that a camera sent and that never arrived, from those that did."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from dynofa_ros.ros.arrivals import WINDOW_S, Arrivals


def numbered(number: int) -> dict[str, Any]:
    return {"publication_sequence_number": number, "publisher_gid": {"data": b"1"}}


def unnumbered(number: int) -> dict[str, Any]:
    """As on Humble."""
    return {"source_timestamp": number}


both = pytest.mark.parametrize("info", [numbered, unnumbered])
Info = Callable[[int], dict[str, Any]]


def heard(
    info: Info, camera_hz: float, comes: Callable[[int], bool], seconds: float = 3.0, stamped: bool = True
) -> Arrivals:
    """What a node hears of a camera whose stamps and messages jitter by some ms."""
    arrivals, choice = Arrivals(), random.Random(3)
    for n in range(1, round(seconds * camera_hz)):
        at_s = n / camera_hz
        if comes(n):
            stamp_s = 1e6 + at_s + choice.uniform(0.0, 2e-3)
            arrivals.add(at_s + choice.uniform(0.0, 4e-3), stamp_s if stamped else 0.0, info(n))
    return arrivals


def share(arrivals: Arrivals, rate_hz: float) -> float:
    lost, due = arrivals.lost(rate_hz)
    return lost / due


@both
@pytest.mark.parametrize("stamped", [True, False])
def test_three_of_four_lost_are_seen_within_three_seconds(info: Info, stamped: bool) -> None:
    """720p at 25 Hz, best effort, without shared memory: 228 of 300 were lost."""
    choice = random.Random(1)
    arrivals = heard(info, 25.0, lambda n: choice.random() < 0.24, stamped=stamped)
    assert share(arrivals, 25.0) == pytest.approx(0.76, abs=0.12)


@both
@pytest.mark.parametrize(("camera_hz", "rate_hz"), [(25.0, 25.0), (30.0, 15.0), (10.0, 15.0), (29.97, 30.0)])
def test_nothing_is_lost_of_a_camera_of_another_rate(info: Info, camera_hz: float, rate_hz: float) -> None:
    arrivals = heard(info, camera_hz, lambda n: True, seconds=8.0)
    lost, due = arrivals.lost(rate_hz)
    assert lost == 0 and due == pytest.approx(8.0 * min(camera_hz, rate_hz), rel=0.06)


@both
@pytest.mark.parametrize(
    ("camera_hz", "rate_hz", "jitter"),
    [(30.0, 30.0, 0.2), (30.0, 30.0, 0.4), (15.0, 30.0, 0.3), (28.0, 30.0, 0.3), (30.0, 15.0, 0.4)],
)
def test_images_that_come_early_and_late_are_not_lost(
    info: Info, camera_hz: float, rate_hz: float, jitter: float
) -> None:
    """jitter: of each image, in periods of the camera."""
    for lost_share, seed in ((0.0, 1), (0.0, 2), (0.3, 3)):
        choice, arrivals = random.Random(seed), Arrivals()
        for n in range(1, round(10.0 * camera_hz)):
            at_s = (n + choice.uniform(-jitter, jitter)) / camera_hz
            if choice.random() >= lost_share:
                arrivals.add(at_s, 1e6 + at_s, info(n))
        lost, due = arrivals.lost(rate_hz)
        if not lost_share:
            assert lost < max(3, 0.02 * due)
        elif camera_hz <= rate_hz:
            assert lost / due == pytest.approx(0.3, abs=0.07)


@both
def test_what_would_not_have_been_due_is_no_loss(info: Info) -> None:
    """30 Hz for an application of 15 Hz: a single lost image leaves enough, three in a row do not."""
    assert heard(info, 30.0, lambda n: n % 7 != 0).lost(15.0)[0] == 0
    assert share(heard(info, 30.0, lambda n: n % 12 > 2), 15.0) > 0.1


def test_every_second_lost_is_seen_by_the_numbers_alone() -> None:
    assert share(heard(numbered, 25.0, lambda n: n % 2 == 0), 25.0) == pytest.approx(0.5, abs=0.02)
    assert heard(unnumbered, 25.0, lambda n: n % 2 == 0).lost(25.0)[0] == 0, (
        "a camera of 12.5 Hz looks the same"
    )


@both
def test_a_camera_that_pauses_or_starts_again_loses_nothing(info: Info) -> None:
    arrivals = heard(info, 25.0, lambda n: True)
    for n in range(1, 30):
        arrivals.add(5.5 + n / 25.0, 2.5 + n / 25.0, info(n))  # again from 1, its clock was set back
    for n in range(30, 60):
        arrivals.add(9.0 + n / 25.0, 6.0 + n / 25.0, info(n))
    assert arrivals.lost(25.0)[0] == 0


@both
def test_a_loss_is_forgotten_when_it_is_over(info: Info) -> None:
    assert heard(info, 25.0, lambda n: n > 75 or n % 5 > 1, seconds=3.0).lost(25.0)[0] > 10
    assert heard(info, 25.0, lambda n: n > 75 or n % 5 > 1, seconds=3.5 + WINDOW_S).lost(25.0)[0] == 0


def test_of_a_few_images_nothing_is_said() -> None:
    assert heard(numbered, 25.0, lambda n: n % 9 == 0, seconds=1.0).lost(25.0) == (0, 0)


def test_eight_of_nine_lost_are_seen_within_three_seconds() -> None:
    assert share(heard(numbered, 25.0, lambda n: n % 9 == 0), 25.0) == pytest.approx(8 / 9, abs=0.01)
