"""Latency of sub-networks on this machine, measured the way a perception node runs them."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
import psutil

from dynofa_ros.library.library import Entry, Latency, Library, pareto_front
from dynofa_ros.supernet.registry import require_processor
from dynofa_ros.supernet.supernet import Supernet

Statistics = Mapping[str, Mapping[str, np.ndarray]]

WARM_UP = 5
UNDISTURBED = 0.25  # quantile of the rounds for differences: other work on the machine only ever adds time
# Memory that a prepared sub-network takes, per byte of its parameters: the engine packs its own copy.
BYTES_PER_PARAMETER_BYTE = 2.0
BYTES_PER_SUBNET = 20 * 2**20  # activations and the engine itself
MEMORY_SHARE = 0.5  # of what is free, for prepared sub-networks


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
class Job:
    """A sub-network to measure; statistics: its own."""

    config: Any
    threads: int = 1
    statistics: Mapping[str, np.ndarray] | None = None


def measure(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = WARM_UP,
    pause_s: float = 0.0,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[], None] = lambda: None,
    shuffle: np.random.Generator | None = None,
) -> dict[str, np.ndarray]:
    """Milliseconds per call and round, interleaved so that a slow spell of the machine hits all alike.

    pause_s: idle time before each inference. Back to back, caches and clocks are warmer than a camera's
    frame ever finds them: small networks then look up to 40 % faster than they are.
    shuffle: another order in every round, so that none always follows the same other one.
    """
    times: dict[str, list[float]] = {k: [] for k in calls}
    order = list(calls)
    for number in range(warm_up + rounds):
        if shuffle is not None:
            shuffle.shuffle(order)
        for key in order:
            if pause_s > 0:
                time.sleep(pause_s)
            start = clock()
            calls[key]()
            if number >= warm_up:
                times[key].append((clock() - start) / 1e6)
        on_round()
    return {k: np.array(v) for k, v in times.items()}


def memory_groups(needed: Mapping[str, int], limit: int) -> list[list[str]]:
    """Keys in groups that need at most ``limit`` bytes each, every group with the first key among them.

    One group where everything fits. The first key is there to compare the groups by. A key that does not
    fit beside it makes a group of its own with it, above the limit.
    """
    keys = list(needed)
    reference, rest = keys[0], keys[1:]
    groups: list[list[str]] = [[reference]]
    for key in rest:
        used = sum(needed[k] for k in groups[-1])
        if used + needed[key] > limit and len(groups[-1]) > 1:
            groups.append([reference])
        groups[-1].append(key)
    return groups


@contextmanager
def running_on(cpus: Collection[int]) -> Iterator[None]:
    """Bind the calling thread to CPU numbers, as the perception node binds its inference thread; empty = no
    change. Raises ValueError naming the CPUs that this process may not use."""
    before = os.sched_getaffinity(0)
    if not set(cpus) <= before:
        raise ValueError(f"CPUs {sorted(cpus)} must be among {sorted(before)}")
    os.sched_setaffinity(0, cpus or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_subnets(
    supernet: Supernet,
    jobs: Mapping[str, Job],
    runs: Runs,
    seed: int,
    *,
    memory_limit: int | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[int], None] = lambda total: None,
    size: int | None = None,
) -> dict[str, np.ndarray]:
    """Milliseconds per inference and round of each sub-network, interleaved in an order drawn by the seed.

    size: of the request, None = the usual one.
    memory_limit in bytes, None = half of what is free: more sub-networks are measured in groups, scaled to
    each other by the first, which is in all of them.
    on_round gets the number of rounds in all.
    Raises EngineError, or ValueError for CPUs that this process may not use.
    """
    require_processor(runs.engine, runs.processor)
    limit = int(psutil.virtual_memory().available * MEMORY_SHARE) if memory_limit is None else memory_limit
    plans = {key: supernet.plan(job.config) for key, job in jobs.items()}
    needed = {
        key: int(4 * plan.params * BYTES_PER_PARAMETER_BYTE) + BYTES_PER_SUBNET for key, plan in plans.items()
    }
    groups, shuffle = memory_groups(needed, limit), np.random.default_rng(seed)
    total = len(groups) * (WARM_UP + runs.rounds)
    measured: list[Mapping[str, np.ndarray]] = []
    for group in groups:
        calls = {}
        for key in group:
            config = jobs[key].config
            run = supernet.prepare(
                config,
                runs.engine,
                statistics=jobs[key].statistics,
                threads=jobs[key].threads,
                processor=runs.processor,
            )
            calls[key] = partial(supernet.space.exercise, run, config, size)
        del run
        with running_on(runs.affinity):
            measured.append(
                measure(
                    calls,
                    runs.rounds,
                    WARM_UP,
                    runs.pause_s,
                    clock,
                    lambda: on_round(total),
                    shuffle,
                )
            )
        del calls  # before the next group takes its memory
        gc.collect()
    return joined(measured, next(iter(jobs)))


def profile(
    library: Library,
    supernet: Supernet,
    runs: Runs,
    *,
    threads: Sequence[int] = (),
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    statistics: Statistics | None = None,
    memory_limit: int | None = None,
    on_round: Callable[[int], None] = lambda total: None,
    quantile: float = 0.5,
) -> Library:
    """The library with the latencies of this machine; entries that are no longer on the front leave it.

    threads: every sub-network is measured with each of these numbers of threads, all interleaved, and has one
    entry for each that names it. Empty: with one thread, in entries that name none.
    alpha and beta keep their shares, because one clock frequency cannot tell them apart. Energies leave: they
    were those of another machine or processor.
    quantile: of the rounds, taken for the latency.
    The other arguments: ``measure_subnets``.
    Raises EngineError, or ValueError for CPUs that this process may not use or more threads than those.
    """
    cpus = len(runs.affinity or os.sched_getaffinity(0))
    if too_many := [n for n in threads if n > cpus]:
        raise ValueError(f"threads = {too_many[0]} must be at most {cpus}, the CPUs that may be used")
    wanted = {
        _key(e.id, number): msgspec.structs.replace(e, threads=number, cluster=None)
        for number in threads or (None,)
        for e in reversed(library.entries)  # of several entries of one id the first counts
    }
    wanted = dict(reversed(wanted.items()))
    own = statistics or {}
    jobs = {key: Job(library.config(e), e.threads or 1, own.get(e.id)) for key, e in wanted.items()}
    times = measure_subnets(
        supernet, jobs, runs, seed, memory_limit=memory_limit, clock=clock, on_round=on_round
    )
    shares = fixed_shares(supernet, jobs, runs, seed, clock)
    entries = pareto_front([_remeasured(e, times[key], shares[key], quantile) for key, e in wanted.items()])
    return msgspec.structs.replace(
        library, processor=runs.processor, weights_sha256=supernet.weights.digest, entries=entries
    )


def fixed_shares(
    supernet: Supernet,
    jobs: Mapping[str, Job],
    runs: Runs,
    seed: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, float | None]:
    """The share of each sub-network's time that does not grow with the request (`latency.size_factor`); None
    in a space whose requests have one size.

    From the times at the smaller and the larger of ``space.sizes``.
    """
    space = supernet.space
    if space.sizes is None:
        return dict.fromkeys(jobs)
    small, usual, large = space.sizes
    few = replace(runs, pause_s=0.0)
    short, long = (
        measure_subnets(supernet, jobs, few, seed, clock=clock, size=size) for size in (small, large)
    )
    shares: dict[str, float | None] = {}
    for key in jobs:
        quick, slow = (np.quantile(times[key], UNDISTURBED) for times in (short, long))
        each = (slow - quick) / (large - small)
        fixed = quick - each * small
        shares[key] = round(float(np.clip(fixed / (fixed + each * usual), 0, 1)), 4)
    return shares


def _key(subnet_id: str, threads: int | None) -> str:
    return subnet_id if threads is None else f"{subnet_id} with {threads} threads"


def joined(groups: Sequence[Mapping[str, np.ndarray]], reference: str) -> dict[str, np.ndarray]:
    """Times of all groups at the speed of the first: the entry in common says how much slower another was."""
    medians = [float(np.median(group[reference])) for group in groups]
    times: dict[str, np.ndarray] = {}
    for group, median in zip(groups, medians, strict=True):
        times = {k: v * (medians[0] / median) for k, v in group.items()} | times
    return times


def _remeasured(entry: Entry, times_ms: np.ndarray, fixed_share: float | None, quantile: float) -> Entry:
    median, p95 = (float(round(v, 4)) for v in np.quantile(times_ms, (quantile, 0.95)))
    share = entry.alpha_ms / (entry.alpha_ms + entry.beta_ms)
    return msgspec.structs.replace(
        entry,
        latency_ms=Latency(median, p95),
        latency_source="measured",
        alpha_ms=median * share,
        beta_ms=median * (1 - share),
        energy_j=None,
        fixed_share=entry.fixed_share if fixed_share is None else fixed_share,
    )
