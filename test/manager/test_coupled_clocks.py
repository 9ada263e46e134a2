"""Networks elsewhere that the CPU launches: their time follows its clock too (board file, launch_share)."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec
import numpy as np
import pytest
from manager_problems import brute_force, calm, coupled, make_problem, random_demands, solved
from simulated_robot import Plant, PlantApp, make_library

from dynofa_ros.device.board import BoardError, load_board, power_model
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.grid import asked, make_grid
from dynofa_ros.manager.ladder import allocate
from dynofa_ros.manager.plan import forecast, make_plan
from dynofa_ros.manager.problem import DIVIDERS, Demand, Problem
from dynofa_ros.manager.solver import best_for
from dynofa_ros.messages import AppTargets, DomainFrequency
from dynofa_ros.paths import share_file

SHARES = (0.2, 0.9)


def two_or_more_processors(seed: int) -> Problem:
    problem = make_problem(seed, most_levels=3)
    return coupled(calm(problem), SHARES[seed % 2])


def test_the_least_power_over_pairs_of_clocks_equals_brute_force() -> None:
    outcomes = {"feasible": 0, "infeasible": 0, "launched": 0}
    for seed in range(200):
        problem = two_or_more_processors(seed)
        demands = random_demands(problem, np.random.default_rng(20_000 + seed))
        expected = brute_force(problem, demands)
        point = solved(problem, demands)
        assert (point is None) == (expected == inf), seed
        if point is None:
            outcomes["infeasible"] += 1
            continue
        assert point.power_w == pytest.approx(expected, rel=1e-12), seed
        outcomes["feasible"] += 1
        if problem.launcher is not None and "gpu" in point.mapping:
            outcomes["launched"] += 1
            assert "cpu" in point.levels, seed
    assert min(outcomes.values()) > 30, outcomes


def test_the_most_for_one_application_equals_brute_force() -> None:
    some = 0
    for seed in range(60):
        problem = two_or_more_processors(seed)
        demands = random_demands(problem, np.random.default_rng(40_000 + seed))
        app = seed % len(problem.apps)
        best = None
        for divider in DIVIDERS:
            for level in range(len(problem.apps[app].accuracies)):
                tried = list(demands)
                tried[app] = Demand(level, divider)
                if best is None and brute_force(problem, tuple(tried)) < inf:
                    best = divider, level
        with np.errstate(all="ignore"):
            assert best_for(make_grid(problem, 1.0), asked(demands), app, DIVIDERS) == best, seed
        some += best is not None
    assert some > 20


def test_the_forecast_agrees() -> None:
    agreed = 0
    for seed in range(100):
        problem = two_or_more_processors(seed)
        outcome = allocate(problem)
        expected = forecast(problem, make_plan(problem, outcome))
        assert expected.power_w == pytest.approx(outcome.point.power_w), seed
        if outcome.feasible:
            assert not any(expected.violations[:3]), seed
            agreed += 1
    assert agreed > 30


def test_least_latency_and_hopeless_deadlines_have_an_answer() -> None:
    for seed in range(40):
        problem = replace(two_or_more_processors(seed), least_latency=bool(seed % 2))
        tight = tuple(replace(app, latency_target_ms=3.0) for app in problem.apps)
        hopeless = replace(problem, apps=tight)
        plan = make_plan(hopeless, allocate(hopeless))
        assert forecast(hopeless, plan).applicable and not plan.feasible, seed
        assert allocate(problem).point.power_w > 0.0


def test_without_a_share_nothing_is_coupled() -> None:
    problem = make_problem(11)
    assert problem.launcher is None and make_grid(problem, 1.0).parts == ()


def test_the_manager_holds_the_clock_of_the_cpu_for_the_gpu() -> None:
    """And the read-back time of a frame is compared with what this clock makes of it."""
    board = msgspec.structs.replace(load_board("xavier_nx"), launch_share={"gpu": 0.8})
    targets = AppTargets("front", 60.0, accuracy_target=0.79)
    library = make_library("front")
    reference = (DomainFrequency("gpu", 1_109_250_000),)
    gpu = tuple(replace(e, processor="gpu", reference_frequencies=reference) for e in library.entries)
    app = PlantApp(targets, replace(library, entries=gpu), camera_hz=15.0)
    plant = Plant(RuntimeManager(), [app], model=power_model(board))
    plant.run(5.0)
    last = plant.decisions[-1]
    assert last.apps[0].processor == "gpu"
    assert any(band.domain.startswith("cpu") and band.min_hz == band.max_hz for band in last.bands)
    free = Plant(RuntimeManager(), [PlantApp(targets, replace(library, entries=gpu), camera_hz=15.0)])
    free.run(5.0)
    assert not any(b.domain.startswith("cpu") and b.min_hz == b.max_hz for b in free.decisions[-1].bands)


@pytest.mark.parametrize(
    ("line", "message"), [("cpu: 0.5", "launch_share.cpu"), ("gpu: 1.5", "between 0 and 1"), ("gpu: 0.4", "")]
)
def test_a_wrong_share_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = share_file("config", "boards", "xavier_nx.yaml").read_text()
    path.write_text(f"{text}\nlaunch_share:\n  {line}  # guess\n")
    if not message:
        board = load_board(path)
        assert board.launch_share == {"gpu": 0.4} and "launch_share.gpu" in board.guesses
        return
    with pytest.raises(BoardError, match=message):
        load_board(path)
