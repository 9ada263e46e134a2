"""A latency model of this processor, fitted to measured sub-networks: a search can ask for any other.

Latency is a sum over layers of what they compute and move, with a non-negative coefficient per kind of work.
It ranks sub-networks well enough to search on; what ends up in a library is measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dynofa_ros.library.fit import robust_fit
from dynofa_ros.library.genomes import Batch, Genomes, Objective
from dynofa_ros.library.latency_table import BlockCosts, summed_latency
from dynofa_ros.supernet.space import Plan, SearchSpace

# Kinds of work. Operations are multiply-accumulates, by the kinds that layers name (``Cost.kind``).
OPERATIONS = ("dense", "pointwise", "depthwise 3x3", "depthwise 5x5", "depthwise 7x7")
REWEIGHTED = "squeeze-and-excite"
FEATURES = (
    "network",
    "layers",
    *(f"{kind} operations" for kind in OPERATIONS),
    "values written",
    "values re-weighted by squeeze-and-excite",
    "weights read",
)
NOISE = 0.02  # relative standard deviation of what is fitted
UNDISTURBED = 0.1  # quantile of the rounds that is fitted: other work on the machine only ever adds time
FOLDS = 5
FIXED = ""  # the part of a network that no choice but the resolution changes


@dataclass(frozen=True)
class LatencyModel:
    """coefficients: ms per unit of each of FEATURES, in millions but for the first two; (len(FEATURES),).

    errors: relative, of networks that a fit without them predicted.
    """

    coefficients: np.ndarray
    errors: np.ndarray

    def latency_ms(self, plan: Plan) -> float:
        return float(sum(work_by_block(plan).values()) @ self.coefficients)

    def objective(self, space: SearchSpace, input_sizes: Sequence[int]) -> Objective:
        """The model for a search, as a table where the work of a block depends on no other block."""
        if space.variants:
            return summed_latency(self.block_costs(space, input_sizes))

        def one_by_one(batch: Batch) -> np.ndarray:
            return np.array([self.latency_ms(space.plan(config)) for config in batch.configs])

        return one_by_one

    def block_costs(self, space: SearchSpace, input_sizes: Sequence[int]) -> BlockCosts:
        """The model as a latency table of a space with ``variants``."""
        blocks = space.active(np.zeros((1, len(space.gene_sizes)), int)).shape[1]
        fixed, costs = np.zeros(len(input_sizes)), np.zeros((len(input_sizes), blocks, space.variants))
        for row, size in enumerate(input_sizes):
            for variant in range(space.variants):
                work = work_by_block(space.plan(space.uniform(variant, int(size))))
                costs[row, :, variant] = [
                    work.pop(f"blocks.{b}") @ self.coefficients for b in range(1, blocks + 1)
                ]
                fixed[row] = sum(work.values()) @ self.coefficients
        return BlockCosts(tuple(map(int, input_sizes)), fixed, costs)


def work_by_block(plan: Plan) -> dict[str, np.ndarray]:
    """The work of every block, by the beginning of its layers' names, and of what is FIXED; (len(FEATURES),)
    each, operations and values in millions."""
    work = {FIXED: np.zeros(len(FEATURES))}
    work[FIXED][0] = 1
    for layer, cost, shape in plan.costs():
        own, written = work.setdefault(layer.block, np.zeros(len(FEATURES))), prod(shape) / 1e6
        own[FEATURES.index("layers")] += cost.nodes
        own[FEATURES.index("values written")] += written
        own[FEATURES.index("weights read")] += cost.weights / 1e6
        if cost.kind in OPERATIONS:
            own[FEATURES.index(f"{cost.kind} operations")] += cost.macs / 1e6
        elif cost.kind == REWEIGHTED:
            own[FEATURES.index("values re-weighted by squeeze-and-excite")] += written
    return work


def fit_model(plans: Sequence[Plan], times_ms: np.ndarray) -> LatencyModel:
    """Non-negative, robust least squares on relative errors, with the errors of a cross-validation.

    times_ms: of each plan in several rounds, (N, rounds).
    """
    latencies_ms = np.quantile(times_ms, UNDISTURBED, axis=1)
    design = np.stack([sum(work_by_block(plan).values()) for plan in plans])
    folds, fitted = np.arange(len(plans)) % FOLDS, np.zeros(len(plans))
    for fold in range(FOLDS):
        inside = folds != fold
        fitted[~inside] = design[~inside] @ _coefficients(design[inside], latencies_ms[inside])
    return LatencyModel(_coefficients(design, latencies_ms), np.abs(fitted / latencies_ms - 1))


def _coefficients(design: np.ndarray, latencies_ms: np.ndarray) -> np.ndarray:
    scale = np.abs(design).max(axis=0)
    there = scale > 0  # work that this space does not have costs nothing
    values = np.zeros(len(FEATURES))
    fit = robust_fit(design[:, there] / scale[there], latencies_ms, NOISE * latencies_ms)
    values[there] = fit.values / scale[there]
    return values


def spread_subnets(genomes: Genomes, number: int, seed: int) -> list[Any]:
    """Different sub-networks from the smallest to the largest."""
    rows = genomes.random(np.random.default_rng(seed), number)
    rows[0], rows[1] = 0, genomes.sizes - 1
    configs = [genomes.decode(row) for row in genomes.canonical(rows)]
    return list(dict.fromkeys(configs))
