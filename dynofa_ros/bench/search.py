"""Library search against the once-for-all project's evolutionary search, with the same number of evaluations.

Both search all of `ofa_mbv3_w1.2` with the same accuracy predictor and the same latency tables (Jetson
Xavier NX, gpu and cpu). The official search (Cai et al., ICLR 2020, section 3.4) maximises accuracy under one
latency limit per run. It gets one run for each of our points, with that point's latency as the limit, so that
it needs only a little more accuracy to dominate it; only its evaluations of the accuracy count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dynofa_ros.bench.timing import Progress, part, silent
from dynofa_ros.library.accuracy import load_predictor
from dynofa_ros.library.genomes import Batch, Genomes, Objective
from dynofa_ros.library.latency_table import load_latency_table, summed_latency
from dynofa_ros.library.search import search, thin
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space

SPACE, TABLES = "ofa_mbv3_w1.2", ("xavier_nx_gpu", "xavier_nx_cpu")
POINTS, GENERATIONS = 32, 93
POPULATION, PARENTS, MUTANTS = 100, 25, 50
MUTATE_PROBABILITIES = (0.4, 0.1)  # as Dynamic-OFA sets it, and the default of the official class
ATTEMPTS = 2000  # draws per child below the limit; a limit that a first population cannot meet is left out
Points = np.ndarray  # (N, 2): accuracy, latency


def run(
    progress: Progress = silent, *, seed: int = 0, points: int = POINTS, generations: int = GENERATIONS
) -> dict[str, Any]:
    """Seconds of the slower table, the least number of points, and how many points of ours any run of the
    official search dominates, over all tables and settings; each table's own figures under `tables`."""
    rows = [
        _compare(name, seed, points, generations, part(progress, i, len(TABLES)))
        for i, name in enumerate(TABLES)
    ]
    return {
        "seconds": max(row["seconds"] for row in rows),
        "points": min(row["points"] for row in rows),
        "dominated_by_official": sum(row["dominated_by_official"] for row in rows),
        "evaluations": rows[0]["evaluations"],
        "seed": seed,
        "tables": rows,
    }


def _compare(name: str, seed: int, points: int, generations: int, progress: Progress) -> dict[str, Any]:
    space, evaluations = load_space(SPACE), points * POPULATION * (generations + 1)
    costs = load_latency_table(share_file("config", "latency_tables", f"{name}.yaml")).block_costs()
    accuracy, latency = load_predictor(SPACE).objective(), summed_latency(costs)
    start = time.perf_counter()
    front = search(
        space,
        accuracy,
        latency,
        evaluations=evaluations,
        seed=seed,
        input_sizes=costs.input_sizes,
    )
    kept = thin([c.latency_ms for c in front], points, [c.accuracy for c in front])
    chosen = [front[i] for i in kept]
    seconds = time.perf_counter() - start
    ours = np.array([(c.accuracy, c.latency_ms) for c in chosen])
    genomes, rng = Genomes(space, costs.input_sizes), np.random.default_rng(seed)
    official, runs = [], [(p, limit) for p in MUTATE_PROBABILITIES for limit in ours[:, 1]]
    for number, (probability, limit) in enumerate(runs):
        progress(number / len(runs))
        official.append(official_search(genomes, accuracy, latency, limit, generations, probability, rng))
    found = np.array([best for best in official if best is not None]).reshape(-1, 2)
    return {
        "table": name,
        "seconds": round(seconds, 2),
        "points": len(ours),
        "evaluations": evaluations,
        "dominated_by_official": dominated(ours, found),
        "official_runs": len(found),
        "official_dominated": dominated(found, ours),
    }


def dominated(points: Points, others: Points) -> int:
    """How many of ``points`` are beaten by one of ``others``: no worse in both figures, better in one."""
    accuracy, latency = (points[:, None, k] - others[None, :, k] for k in (0, 1))
    worse = (accuracy <= 0) & (latency >= 0) & ((accuracy < 0) | (latency > 0))
    return int(worse.any(axis=1).sum())


def official_search(
    genomes: Genomes,
    accuracy: Objective,
    latency: Objective,
    limit_ms: float,
    generations: int,
    mutate_probability: float,
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """(accuracy, latency) of the best sub-network within a limit; None if random draws never meet the limit.

    Per generation the best 25 of 100 stay and have 50 mutants (kernel and expansion of a block are redrawn
    together) and 50 children of two (every entry from either); each is redrawn until it meets the limit.
    """
    first, second = (genomes.space.columns[name] for name in genomes.space.per_block)
    sizes = genomes.sizes

    def meeting(make: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> bool:
        """Fills ``rows`` with what ``make`` draws for their positions; False if some never meet the limit."""
        pending = np.arange(len(rows))
        for _ in range(ATTEMPTS):
            drawn = make(pending)
            met = latency(Batch(genomes, drawn)) <= limit_ms
            rows[pending[met]] = drawn[met]
            pending = pending[~met]
            if not len(pending):
                return True
        return False

    def mutants(parents: np.ndarray) -> np.ndarray:
        changed = rng.random(parents.shape) < mutate_probability
        changed[:, second] = changed[:, first]
        return np.where(changed, rng.integers(0, sizes, parents.shape), parents)

    def mixtures(mothers: np.ndarray, fathers: np.ndarray) -> np.ndarray:
        return np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)

    rows = np.zeros((POPULATION, len(sizes)), int)
    if not meeting(lambda pending: rng.integers(0, sizes, (len(pending), len(sizes))), rows):
        return None
    values = accuracy(Batch(genomes, rows))
    for _ in range(generations):
        best = np.argsort(-values, kind="stable")[:PARENTS]
        rows, values = rows[best], values[best]
        parents = rows[rng.integers(0, PARENTS, MUTANTS)]
        mothers, fathers = rows[rng.integers(0, PARENTS, (2, POPULATION - MUTANTS))]
        new_mutants, new_mixtures = parents.copy(), mothers.copy()  # they stay where nothing meets the limit
        meeting(lambda i, p=parents: mutants(p[i]), new_mutants)  # type: ignore[misc]
        meeting(lambda i, m=mothers, f=fathers: mixtures(m[i], f[i]), new_mixtures)  # type: ignore[misc]
        children = np.concatenate([new_mutants, new_mixtures])
        rows = np.concatenate([rows, children])
        values = np.concatenate([values, accuracy(Batch(genomes, children))])
    winner = int(values.argmax())
    return float(values[winner]), float(latency(Batch(genomes, rows[winner : winner + 1]))[0])
