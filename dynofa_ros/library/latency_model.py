"""A latency model of this processor, fitted to measured sub-networks: a search can ask for any other.

Latency is a sum over layers of what they compute and move, with a non-negative coefficient per kind of work.
It ranks sub-networks well enough to search on; what ends up in a library is measured again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from dynofa_ros.library.fit import robust_fit
from dynofa_ros.library.latency_table import BlockCosts
from dynofa_ros.library.profiling import (
    MEMORY_SHARE,
    joined,
    measure,
    memory_groups,
    require_processor,
    running_on,
)
from dynofa_ros.library.search import Batch, Genomes, Objective, summed_latency
from dynofa_ros.supernet.engines.engine import load_engine
from dynofa_ros.supernet.layers import (
    AveragePool,
    Classifier,
    Conv,
    GlobalPool,
    Layer,
    MaxPool,
    Residual,
    SqueezeExcite,
)
from dynofa_ros.supernet.materialise import materialise
from dynofa_ros.supernet.plan import Plan, count, make_plan
from dynofa_ros.supernet.space import SearchSpace, SubnetConfig
from dynofa_ros.supernet.supernet import Supernet

# Kinds of work. Operations are multiply-accumulates.
FEATURES = (
    "network",
    "layers",
    "dense operations",
    "pointwise operations",
    "depthwise 3x3 operations",
    "depthwise 5x5 operations",
    "depthwise 7x7 operations",
    "values written",
    "values re-weighted by squeeze-and-excite",
    "weights read",
)
NOISE = 0.02  # relative standard deviation of what is fitted
UNDISTURBED = 0.1  # quantile of the rounds that is fitted: other work on the machine only ever adds time
FOLDS = 5
WARM_UP = 5
SUBNET_BYTES, PACKED = 20 * 2**20, 2  # of an engine with its activations; copies of the weights in it
FIXED = ""  # the part of a network that no choice but the resolution changes


@dataclass(frozen=True)
class Runs:
    """How inferences are run: as the perception node that will use the library runs them."""

    engine: str = "onnxruntime"
    threads: int = 1
    processor: str = "cpu"
    affinity: Collection[int] = ()
    rounds: int = 20
    pause_s: float = 0.02


@dataclass(frozen=True)
class LatencyModel:
    """coefficients: ms per unit of each of FEATURES, in millions but for the first two; (len(FEATURES),).

    errors: relative, of networks that a fit without them predicted.
    """

    coefficients: np.ndarray
    errors: np.ndarray

    def latency_ms(self, plan: Plan) -> float:
        return float(sum(work_by_block(plan).values()) @ self.coefficients)

    def objective(self, space: SearchSpace, resolutions: Sequence[int]) -> Objective:
        """The model for a search, as a table where the work of a block depends on no other block."""
        if space.choices["kernel_sizes"]:
            return summed_latency(self.block_costs(space, resolutions))

        def one_by_one(batch: Batch) -> np.ndarray:
            return np.array([self.latency_ms(make_plan(space, config)) for config in batch.configs])

        return one_by_one

    def block_costs(self, space: SearchSpace, resolutions: Sequence[int]) -> BlockCosts:
        """The model as a latency table of a space without elastic width."""
        kernels, expands = (space.choices[name][0] for name in ("kernel_sizes", "expand_ratios"))
        blocks = range(1, len(space.choices["kernel_sizes"]) + 1)
        fixed = np.zeros(len(resolutions))
        costs = np.zeros((len(resolutions), len(blocks), len(kernels), len(expands)))
        for r, resolution in enumerate(resolutions):
            for k, kernel in enumerate(kernels):
                for e, expand in enumerate(expands):
                    config = space.config(
                        kernel_sizes=int(kernel), expand_ratios=expand, resolution=int(resolution)
                    )
                    work = work_by_block(make_plan(space, config))
                    costs[r, :, k, e] = [work[f"blocks.{b}"] @ self.coefficients for b in blocks]
                    fixed[r] = (work[FIXED] + work["blocks.0"]) @ self.coefficients
        return BlockCosts(tuple(map(int, resolutions)), fixed, costs)


def work_by_block(plan: Plan) -> dict[str, np.ndarray]:
    """The work of every block, by the beginning of its layers' names, and of what is FIXED; (len(FEATURES),)
    each, operations and values in millions."""
    work = {FIXED: np.zeros(len(FEATURES))}
    work[FIXED][0] = 1
    _add_work(plan.layers, (plan.resolution, 3), work)
    return work


def _add_work(
    layers: Sequence[Layer], shape: tuple[int, int], work: dict[str, np.ndarray]
) -> tuple[int, int]:
    """Adds the layers' work; shape = (side, channels) of the input. Returns that of the output."""
    side, channels = shape
    for layer in layers:
        if isinstance(layer, Residual):
            _add_work(layer.shortcut, (side, channels), work)
            side, channels = _add_work(layer.layers, (side, channels), work)
            own = work[_block(layer.layers[0])]
            own[1] += 1
            own[7] += side * side * channels / 1e6
            continue
        own = work.setdefault(_block(layer), np.zeros(len(FEATURES)))
        own[1] += 1
        if isinstance(layer, Conv):
            side, channels = (side - 1) // layer.stride + 1, layer.out_channels
            weights = layer.out_channels * layer.in_channels // layer.groups * layer.kernel**2
            own[_kind(layer)] += weights * side * side / 1e6
            own[9] += weights / 1e6
        elif isinstance(layer, SqueezeExcite):
            own[1] += 3  # mean, two convolutions, product
            own[8] += side * side * channels / 1e6
            own[9] += 2 * layer.channels * layer.reduced / 1e6
        elif isinstance(layer, MaxPool | AveragePool):
            side = (side - 1) // layer.stride + 1
        elif isinstance(layer, GlobalPool):
            side = 1
        else:
            assert isinstance(layer, Classifier)
            channels = 0  # as many for every sub-network: part of "network"
            own[9] += layer.in_features * 1e-3
        own[7] += side * side * channels / 1e6
    return side, channels


def _block(layer: Layer) -> str:
    key = getattr(layer, "key", FIXED)
    return ".".join(key.split(".")[:2]) if key.startswith("blocks.") else FIXED


def _kind(layer: Conv) -> int:
    if layer.groups > 1:
        return 4 + (layer.kernel - 3) // 2
    return 3 if layer.kernel == 1 else 2


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


def spread_subnets(genomes: Genomes, number: int, seed: int) -> list[SubnetConfig]:
    """Different sub-networks from the smallest to the largest."""
    rows = genomes.random(np.random.default_rng(seed), number)
    rows[0], rows[1] = 0, genomes.sizes - 1
    configs = [genomes.decode(row) for row in genomes.canonical(rows)]
    return list(dict.fromkeys(configs))


def measure_subnets(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    runs: Runs,
    seed: int,
    on_round: Callable[[int], None] = lambda total: None,
) -> np.ndarray:
    """Milliseconds per sub-network and round, interleaved, (N, rounds).

    on_round gets the number of rounds in all. Raises EngineError, or ValueError for CPUs that this process
    may not use.
    """
    prepare = load_engine(runs.engine)
    require_processor(runs.engine, runs.processor)
    plans = {str(i): make_plan(supernet.space, config) for i, config in enumerate(configs)}
    needed = {
        key: SUBNET_BYTES + 4 * PACKED * count(plan, supernet.weights.classes)[1]
        for key, plan in plans.items()
    }
    groups = memory_groups(needed, int(psutil.virtual_memory().available * MEMORY_SHARE))
    rounds, shuffle = len(groups) * (WARM_UP + runs.rounds), np.random.default_rng(seed)
    measured: list[Mapping[str, np.ndarray]] = []
    for group in groups:
        runners = {
            k: prepare(materialise(plans[k], supernet.weights), runs.threads, runs.processor) for k in group
        }
        resolutions = {k: plans[k].resolution for k in group}
        with running_on(runs.affinity):
            measured.append(
                measure(
                    runners,
                    resolutions,
                    runs.rounds,
                    WARM_UP,
                    runs.pause_s,
                    on_round=lambda: on_round(rounds),
                    shuffle=shuffle,
                )
            )
        del runners  # before the next group takes its memory
        gc.collect()
    times = joined(measured, "0")
    return np.stack([times[key] for key in plans])
