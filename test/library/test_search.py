"""Pareto search: genomes, objectives, the front, budgets; the official search that it is compared with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.bench import search as benchmark
from dynofa_ros.library.accuracy import load_predictor
from dynofa_ros.library.genomes import Batch, Genomes
from dynofa_ros.library.latency_table import load_latency_table, summed_latency
from dynofa_ros.library.search import search, thin
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space, official_spaces

SPACE = load_space("ofa_mbv3_w1.2")
TABLE = load_latency_table(share_file("config", "latency_tables", "xavier_nx_gpu.yaml"))
PREDICTOR = load_predictor(SPACE.name)


def size(batch: Batch) -> np.ndarray:
    """A latency that every gene with an effect raises."""
    return 1.0 + batch.rows.sum(axis=1)


@pytest.mark.parametrize("name", (*official_spaces(), DEMO_SPACE))
def test_canonical_rows_are_the_same_networks_and_equal_if_the_networks_are(name: str) -> None:
    space = load_space(name)
    genomes, rng = Genomes(space), np.random.default_rng(0)
    rows = genomes.random(rng, 40)
    canonical = genomes.canonical(rows)
    for row, other in zip(rows, canonical, strict=True):
        assert space.plan(genomes.decode(row)) == space.plan(genomes.decode(other))
    scrambled = np.where(canonical == rows, rows, rng.integers(0, genomes.sizes, rows.shape))
    assert (genomes.canonical(scrambled) == canonical).all()
    assert genomes.decode(np.zeros(len(genomes.sizes), int)) == space.smallest
    assert genomes.decode(genomes.sizes - 1) == space.largest


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_fast_objectives_agree_with_one_sub_network_at_a_time(seed: int) -> None:
    genomes = Genomes(SPACE, TABLE.input_sizes)
    batch = Batch(genomes, genomes.canonical(genomes.random(np.random.default_rng(seed), 8)))
    accuracy, latency = PREDICTOR.objective()(batch), summed_latency(TABLE.block_costs())(batch)
    assert accuracy == pytest.approx(PREDICTOR.predict(batch.configs), abs=1e-6)
    assert latency == pytest.approx([TABLE.latency_ms(config) for config in batch.configs])


def test_the_front_ascends_and_the_seed_decides_it() -> None:
    costs = TABLE.block_costs()

    def run(seed: int) -> list:
        return search(
            SPACE,
            PREDICTOR.objective(),
            summed_latency(costs),
            evaluations=3000,
            seed=seed,
            input_sizes=costs.input_sizes,
        )

    front = run(1)
    assert len(front) >= 30
    for before, after in pairwise(front):
        assert before.latency_ms < after.latency_ms and before.accuracy < after.accuracy
    assert front == run(1) != run(2)
    assert front[0].latency_ms == pytest.approx(TABLE.latency_ms(front[0].config))


def test_a_known_front_is_found() -> None:
    """Accuracy that only the first two kernels and the resolution raise: the rest must be the smallest."""
    space = load_space(DEMO_SPACE)

    def accuracy(batch: Batch) -> np.ndarray:
        kernel = batch.genes[:, space.columns["kernel_sizes"]]
        return (kernel[:, 0] + kernel[:, 1]) / 100 + (batch.input_sizes - 64) / 4000

    front = search(space, accuracy, size, evaluations=20_000, seed=0, input_sizes=(64, 128))
    assert [(c.accuracy, c.latency_ms) for c in front] == [
        pytest.approx(point) for point in ((0, 1), (0.016, 2), (0.026, 3), (0.036, 4), (0.046, 5), (0.056, 6))
    ]
    assert front[-1].config.kernel_sizes[:3] == (7, 7, 3) and front[-1].config.resolution == 128


@pytest.mark.parametrize("budget", (1, 2, 17, 500))
def test_the_budget_holds_and_nothing_is_evaluated_twice(budget: int) -> None:
    seen: list[bytes] = []

    def accuracy(batch: Batch) -> np.ndarray:
        seen.extend(row.tobytes() for row in batch.rows)
        return batch.rows.sum(axis=1) ** 0.5 / 100

    search(load_space("ofa_resnet50"), accuracy, size, evaluations=budget, seed=0)
    assert len(seen) == len(set(seen)) == budget


def test_too_slow_and_unknown_latencies_are_never_evaluated() -> None:
    def latency(batch: Batch) -> np.ndarray:
        return np.where(batch.rows[:, 0] == 1, np.nan, size(batch))

    def accuracy(batch: Batch) -> np.ndarray:
        assert (size(batch) <= 40).all() and not (batch.rows[:, 0] == 1).any()
        return size(batch) / 1000

    front = search(load_space(DEMO_SPACE), accuracy, latency, evaluations=2000, seed=0, max_latency_ms=40)
    assert 30 < front[-1].latency_ms <= 40


def test_an_exhausted_space_and_one_without_a_fast_network_end() -> None:
    space = load_space(DEMO_SPACE)
    assert search(space, size, size, evaluations=100, seed=0, max_latency_ms=0.5) == []
    constant = search(space, lambda batch: np.full(len(batch.rows), 0.5), size, evaluations=300, seed=0)
    assert [c.config for c in constant] == [space.smallest]


def test_an_unknown_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution = 130 is not allowed"):
        search(SPACE, size, size, evaluations=10, seed=0, input_sizes=(128, 130))


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=60, unique=True), st.integers(1, 40))
def test_thinning_keeps_as_many_as_wanted_and_the_ends(latencies: list[float], number: int) -> None:
    latencies.sort()
    chosen = thin(latencies, number)
    assert len(chosen) == min(number, len(latencies))
    assert chosen == sorted(set(chosen)) and chosen[-1] < len(latencies)
    assert chosen[0] == 0
    assert number == 1 or chosen[-1] == len(latencies) - 1


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=60, unique=True), st.integers(1, 40))
def test_thinning_by_strength_keeps_as_many_and_the_ends(latencies: list[float], number: int) -> None:
    latencies.sort()
    accuracies = np.sort(np.random.default_rng(len(latencies)).random(len(latencies))).tolist()
    chosen = thin(latencies, number, accuracies)
    assert len(chosen) == min(number, len(latencies)) and chosen == sorted(set(chosen))
    assert chosen[0] == 0 and chosen[-1] < len(latencies)
    assert number == 1 or chosen[-1] == len(latencies) - 1


def test_thinning_by_strength_takes_the_higher_of_two_neighbours() -> None:
    latencies, accuracies = np.geomspace(1, 100, 41), np.linspace(0.5, 0.9, 41)
    accuracies[11:] += 0.05  # a step of the front: its upper edge, not the foot before it
    assert thin(latencies.tolist(), 5, accuracies.tolist())[1] == 11


def test_thinning_is_even_in_the_logarithm() -> None:
    assert thin(np.geomspace(1, 100, 41).tolist(), 5) == [0, 10, 20, 30, 40]


def test_the_benchmark_compares_both_searches() -> None:
    shares: list[float] = []
    found = benchmark.run(shares.append, seed=0, points=8, generations=4)
    assert found["points"] == 8 and found["evaluations"] == 8 * 100 * 5
    assert {t["table"] for t in found["tables"]} == set(benchmark.TABLES)
    assert all(t["official_runs"] >= 8 and t["official_dominated"] >= 1 for t in found["tables"])
    assert found["dominated_by_official"] == sum(t["dominated_by_official"] for t in found["tables"])
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1


def test_dominated_needs_one_better_figure() -> None:
    points = np.array([[0.7, 10.0], [0.8, 20.0]])
    for other, number in (((0.7, 10.0), 0), ((0.71, 10.0), 1), ((0.8, 9.0), 2), ((0.9, 30.0), 0)):
        assert benchmark.dominated(points, np.array([other])) == number


def test_the_official_search_keeps_its_limit_and_gives_up_where_nothing_meets_it() -> None:
    genomes, rng = Genomes(SPACE, TABLE.input_sizes), np.random.default_rng(0)
    objectives = PREDICTOR.objective(), summed_latency(TABLE.block_costs())
    best = benchmark.official_search(genomes, *objectives, 24.0, 3, 0.1, rng)
    assert best is not None and best[1] <= 24.0 and 0.75 < best[0] < 0.85
    assert benchmark.official_search(genomes, *objectives, 1.0, 3, 0.1, rng) is None
