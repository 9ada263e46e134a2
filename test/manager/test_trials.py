"""Entries of a library that are quicker than it says are found, and those that are not cost little."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulated_robot import SECOND, Plant, PlantApp, make_library, miss_share

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Input
from dynofa_ros.messages import AppTargets, SubnetLibrary

ENTRIES = make_library("front").entries
LEAST, NEXT = ENTRIES[2], ENTRIES[3]  # the least that has the accuracy, and one a little slower


def robot(quicker: float, deadline_ms: float = 40.0, rate_hz: float = 5.0) -> Plant:
    """The manager is told that `NEXT` takes 2 % longer than `LEAST`; ``quicker``: its true time over that."""
    wanted = AppTargets("front", deadline_ms, accuracy_target=LEAST.accuracy, rate_hz=rate_hz)
    total_ms = 1.02 * LEAST.latency_ms

    def told(item: Input) -> Input:
        if not isinstance(item.message, SubnetLibrary):
            return item
        return replace(item, message=with_time(item.message, total_ms))

    app = PlantApp(wanted, with_time(make_library("front"), quicker * total_ms), rate_hz)
    return Plant(RuntimeManager(), [app], tamper=told)


def with_time(library: SubnetLibrary, total_ms: float) -> SubnetLibrary:
    entries = tuple(
        replace(e, alpha_ms=0.15 * total_ms, beta_ms=0.85 * total_ms) if e.id == NEXT.id else e
        for e in library.entries
    )
    return replace(library, entries=entries)


def test_an_entry_that_is_quicker_than_the_library_says_is_found_and_kept() -> None:
    plant = robot(0.85)
    plant.run(45.0)
    late = [frame.subnet_id for frame in plant.frames if frame.time_ns > plant.now_ns - 15 * SECOND]
    assert late.count(NEXT.id) > 0.9 * len(late)
    assert miss_share(plant.frames, plant.now_ns - 28 * SECOND, plant.now_ns) < 0.03


@pytest.mark.parametrize("quicker", [1.01, 1.08, 1.2])
def test_an_entry_that_is_not_is_tried_once(quicker: float) -> None:
    plant = robot(quicker)
    plant.run(55.0)
    ran = [frame.subnet_id for frame in plant.frames]
    tries = sum(now == NEXT.id != before for before, now in zip(ran, ran[1:], strict=False))
    assert tries == 1
    assert ran[-100:].count(LEAST.id) == 100
    assert miss_share(plant.frames, plant.now_ns - 38 * SECOND, plant.now_ns) < 0.03


def test_nothing_is_tried_where_a_quicker_entry_would_lower_no_clock() -> None:
    plant = robot(0.85, deadline_ms=1000.0, rate_hz=2.0)
    plant.run(30.0)
    assert {frame.subnet_id for frame in plant.frames[2:]} == {LEAST.id}
