"""Pareto search over a whole search space: the most accurate sub-networks at every latency.

Evolution of an archive that many latency targets share: parents are the best within a target, children differ
from one of them, or from a mixture of two, in a few genes, and may serve any target. With the same number of
evaluations the official search finds nothing better: `dynofa bench --only search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynofa_ros.library.genomes import Batch, Genomes, Objective
from dynofa_ros.supernet.space import SearchSpace

TARGETS, ELITE = 64, 15  # latency targets, and how many sub-networks within each may have children
EVALUATIONS_PER_TARGET = 150  # with a small budget there are fewer targets
LARGEST_BATCH, BATCHES = 1000, 16  # a small budget goes in BATCHES batches
CROSSOVER = 0.3
# The number of mutated genes is geometric. In the second half of the budget small steps are used up.
GENES, LATE_GENES = 0.6, 0.3
PATIENCE = 50  # batches in a row without a new sub-network: the space is exhausted


@dataclass(frozen=True)
class Candidate:
    config: Any
    accuracy: float
    latency_ms: float


@dataclass(frozen=True)
class _Scored:
    """Sub-networks with their figures; rows (N, genes), the others (N,)."""

    rows: np.ndarray
    accuracy: np.ndarray
    latency: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> _Scored:
        return _Scored(self.rows[chosen], self.accuracy[chosen], self.latency[chosen])

    def joined(self, other: _Scored) -> _Scored:
        return _Scored(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.accuracy, other.accuracy]),
            np.concatenate([self.latency, other.latency]),
        )


def search(
    space: SearchSpace,
    accuracy: Objective,
    latency: Objective,
    *,
    evaluations: int,
    seed: int,
    input_sizes: Sequence[int] | None = None,
    max_latency_ms: float = float("inf"),
    on_batch: Callable[[int], None] = lambda total: None,
) -> list[Candidate]:
    """The Pareto front of what ``evaluations`` of the accuracy find, ascending in latency and accuracy.

    latency: ms, any cost that should be small; sub-networks above max_latency_ms or with a latency that is
    not finite are not evaluated for accuracy. input_sizes: those to choose from, None = all of the space.
    on_batch gets the number of batches in all. Deterministic under the seed, if the objectives are.
    Raises ValueError naming an input size that the space does not have.
    """
    genomes, rng = Genomes(space, input_sizes), np.random.default_rng(seed)
    size = int(np.clip(evaluations // BATCHES, 1, LARGEST_BATCH))
    targets = int(np.clip(evaluations // EVALUATIONS_PER_TARGET, 1, TARGETS))
    seen: set[bytes] = set()
    archive = _Scored(np.zeros((0, len(genomes.sizes)), int), np.zeros(0), np.zeros(0))
    children = np.concatenate([_extremes(genomes, evaluations // 3), genomes.random(rng, size)])
    total = 1 + -(-max(0, evaluations - len(children)) // size)
    used = idle = 0
    while used < evaluations and idle < PATIENCE:
        rows = _unseen(genomes.canonical(children), seen)
        found = _evaluate(genomes, rows, accuracy, latency, max_latency_ms, evaluations - used)
        used += len(found.rows)
        idle = 0 if len(found.rows) else idle + 1
        archive, parents = _survivors(archive.joined(found), targets)
        if len(archive.rows):
            genes = GENES if 2 * used < evaluations else LATE_GENES
            children = _children(genomes, archive.rows, parents, size, genes, rng)
        else:  # nothing is fast enough so far
            children = genomes.random(rng, size)
        on_batch(total)
    front = archive[_front(archive)]
    configs = Batch(genomes, front.rows).configs
    return [
        Candidate(c, float(a), float(t))
        for c, a, t in zip(configs, front.accuracy, front.latency, strict=True)
    ]


def _extremes(genomes: Genomes, number: int) -> np.ndarray:
    """Rows of the smallest and of the largest sub-network at input sizes spread over all, at least of one
    each: a small budget hardly finds the largest at a small input, which often is on the front."""
    sizes = len(genomes.input_sizes)
    places = np.linspace(0, sizes - 1, min(sizes, max(1, number // 2))).round().astype(int)
    rows = np.repeat([0 * genomes.sizes, genomes.sizes - 1], len(places), 0)
    rows[:, -1] = np.concatenate([places, sizes - 1 - places])
    return rows[np.arange(len(rows)).reshape(2, -1).T.ravel()]  # in turns


def thin(latencies: Sequence[float], number: int, accuracies: Sequence[float] | None = None) -> list[int]:
    """``number`` positions of a front of ascending latencies (all, if there are no more), both ends included.

    They are spread as evenly over the logarithm as can be; with ``accuracies`` the strongest near each place.
    """
    if len(latencies) <= number:
        return list(range(len(latencies)))
    logs = np.log(latencies)
    chosen: list[int] = []
    for place, wanted in enumerate(np.linspace(logs[0], logs[-1], number)):
        first = chosen[-1] + 1 if chosen else 0
        last = len(logs) - (number - place)  # leaves one for each that follows
        chosen.append(int(np.clip(np.abs(logs - wanted).argmin(), first, last)))
    if number > 1:
        chosen[-1] = len(logs) - 1  # also where the last ones are too close for the logarithm
    if accuracies is None or number < 3:
        return chosen
    return _strongest(logs, np.asarray(accuracies), chosen)


def _strongest(logs: np.ndarray, accuracies: np.ndarray, even: list[int]) -> list[int]:
    """Each inner position moved, by half a step of log latency at most, to where the front stands highest
    above the line between the two neighbours: elsewhere the search has found less than there is."""
    chosen, reach = [even[0]], (logs[-1] - logs[0]) / (len(even) - 1) / 2
    for before, place, after in zip(even, even[1:], even[2:], strict=False):
        slope = (accuracies[after] - accuracies[before]) / (logs[after] - logs[before])
        near = np.arange(chosen[-1] + 1, after)
        near = near[np.abs(logs[near] - logs[place]) <= reach]
        height = accuracies[near] - slope * logs[near]
        chosen.append(int(near[height.argmax()]) if len(near) else max(place, chosen[-1] + 1))
    return [*chosen, even[-1]]


def _unseen(rows: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """Rows that are not in ``seen``, each once; they are from now on."""
    fresh = []
    for i, row in enumerate(rows.astype(np.uint8)):
        key = row.tobytes()
        if key not in seen:
            seen.add(key)
            fresh.append(i)
    return rows[fresh]


def _evaluate(
    genomes: Genomes, rows: np.ndarray, accuracy: Objective, latency: Objective, limit: float, number: int
) -> _Scored:
    times = np.asarray(latency(Batch(genomes, rows)), float) if len(rows) else np.zeros(0)
    fast = np.flatnonzero(np.isfinite(times) & (times <= limit))[:number]
    rows, times = rows[fast], times[fast]
    values = np.asarray(accuracy(Batch(genomes, rows)), float) if len(rows) else np.zeros(0)
    return _Scored(rows, values, times)


def _front(scored: _Scored) -> np.ndarray:
    """Positions of those that no other beats in latency and accuracy, ascending in both."""
    order = np.lexsort((-scored.accuracy, scored.latency))
    best = np.maximum.accumulate(scored.accuracy[order])
    return order[np.concatenate([[True], scored.accuracy[order][1:] > best[:-1]])[: len(order)]]


def _survivors(scored: _Scored, targets: int) -> tuple[_Scored, np.ndarray]:
    """The front and the best within each target, and for each target the positions of its best: (T, E).

    Targets are even in log latency over the front; sub-networks far below a target may be among its best.
    """
    scored = scored[np.argsort(scored.latency, kind="stable")]
    front = _front(scored)
    keep = np.zeros(len(scored.rows), bool)
    keep[front] = True
    if not len(front):
        return scored, np.zeros((0, 0), int)
    limits = np.geomspace(scored.latency[front[0]], scored.latency[front[-1]], targets)
    ends = np.searchsorted(
        scored.latency, limits * (1 + 1e-9), side="right"
    )  # the ends are within themselves
    best = [np.argsort(-scored.accuracy[:end], kind="stable")[:ELITE] for end in ends]
    for positions in best:
        keep[positions] = True
    place = np.cumsum(keep) - 1
    return scored[np.flatnonzero(keep)], np.stack([np.resize(place[positions], ELITE) for positions in best])


def _children(
    genomes: Genomes,
    rows: np.ndarray,
    parents: np.ndarray,
    number: int,
    genes: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Mutants, and mutated mixtures of two, with parents that are within the same target."""
    target = rng.integers(0, len(parents), number)
    mothers, fathers = parents[target, rng.integers(0, parents.shape[1], (2, number))]
    crossed = rng.random(number) < CROSSOVER
    shape = (number, len(genomes.sizes))
    from_father = crossed[:, None] & (rng.random(shape) < 0.5)
    children = np.where(from_father, rows[fathers], rows[mothers])
    mutations = rng.geometric(genes, number) - crossed  # a mixture is change enough
    mutated = rng.random(shape).argsort(axis=1) < mutations[:, None]
    return np.where(mutated, rng.integers(0, genomes.sizes, shape), children)
