"""The latency model: what it counts, what it recovers, and that its table says the same as itself."""

from __future__ import annotations

import numpy as np
import pytest

from dynofa_ros.library.genomes import Batch, Genomes
from dynofa_ros.library.latency_model import FEATURES, LatencyModel, fit_model, spread_subnets, work_by_block
from dynofa_ros.library.profiling import Job, Runs, measure_subnets
from dynofa_ros.supernet.layers import SqueezeExcite
from dynofa_ros.supernet.registry import DEMO_SPACE, EngineError, load_space, official_spaces
from dynofa_ros.supernet.supernet import load_supernet

OPERATIONS = [i for i, name in enumerate(FEATURES) if "operations" in name]
COEFFICIENTS = np.array([0.5, 0.01, 0.05, 0.02, 0.06, 0.05, 0.04, 0.1, 2.0, 0.3])


@pytest.mark.parametrize("name", (*official_spaces(), DEMO_SPACE))
def test_operations_are_those_of_the_plan(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(1)
    for _ in range(5):
        plan = space.plan(space.random(rng), classes=0)
        work = sum(work_by_block(plan).values())
        attention = sum(2 * a.channels * a.reduced for a, *_ in plan.costs() if isinstance(a, SqueezeExcite))
        assert work[OPERATIONS].sum() * 1e6 + attention == pytest.approx(plan.macs)


@pytest.mark.parametrize("name", ("ofa_mbv3_w1.2", "ofa_resnet50"))
def test_a_fit_recovers_the_model_that_made_the_latencies(name: str) -> None:
    space = load_space(name)
    genomes = Genomes(space)
    plans = [space.plan(config) for config in spread_subnets(genomes, 64, 0)]
    truth = LatencyModel(COEFFICIENTS, np.zeros(0))
    exact = np.array([truth.latency_ms(plan) for plan in plans])
    rng = np.random.default_rng(0)
    disturbed = exact[:, None] * (1 + rng.exponential(0.02, (len(plans), 20)))
    disturbed[3] *= 3  # the machine was busy all the time that this one ran
    model = fit_model(plans, disturbed)
    new = [space.plan(space.random(rng)) for _ in range(20)]
    ratios = np.array([model.latency_ms(plan) / truth.latency_ms(plan) for plan in new])
    assert ratios == pytest.approx(np.ones(20), abs=0.03)
    assert np.median(model.errors) < 0.02 < model.errors.max()


@pytest.mark.parametrize("name", official_spaces())
def test_the_objective_says_what_the_model_says(name: str) -> None:
    space, model = load_space(name), LatencyModel(COEFFICIENTS, np.zeros(0))
    genomes = Genomes(space, (160, 192, 224))
    batch = Batch(genomes, genomes.canonical(genomes.random(np.random.default_rng(0), 12)))
    one_by_one = [model.latency_ms(space.plan(config)) for config in batch.configs]
    assert model.objective(space, (160, 192, 224))(batch) == pytest.approx(one_by_one)


def test_spread_sub_networks_hold_the_ends_and_none_twice() -> None:
    space = load_space("ofa_mbv3_w1.2")
    configs = spread_subnets(Genomes(space), 64, 0)
    assert space.smallest in configs and space.largest in configs
    assert 50 <= len(configs) == len(set(configs))


def test_sub_networks_are_measured_round_by_round() -> None:
    supernet, rounds = load_supernet(DEMO_SPACE), []
    space = supernet.space
    runs = Runs(rounds=8, pause_s=0.0)
    jobs = {"small": Job(space.smallest), "large": Job(space.largest)}
    times = measure_subnets(supernet, jobs, runs, 0, on_round=rounds.append)
    assert [t.shape for t in times.values()] == [(8,)] * 2 and rounds == [13] * 13
    assert np.median(times["small"]) < np.median(times["large"])


def test_an_engine_that_is_not_there_is_an_error() -> None:
    supernet = load_supernet(DEMO_SPACE)
    with pytest.raises(EngineError, match="'tflite' is unknown"):
        measure_subnets(supernet, {"a": Job(supernet.space.smallest)}, Runs(engine="tflite"), 0)
    with pytest.raises(EngineError, match="reaches no npu"):
        measure_subnets(supernet, {"a": Job(supernet.space.smallest)}, Runs(processor="npu"), 0)
