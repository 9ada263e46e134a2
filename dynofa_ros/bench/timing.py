"""Side-by-side timing: every contender once per round, in a new order each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np

Progress = Callable[[float], None]  # takes the share of the work that is done, 0..1
Contenders = Mapping[str, Callable[[], object]]
Times = dict[str, list[np.ndarray]]  # milliseconds: per contender and repeat, one value per round

MIN_ROUNDS = 2


def silent(share: float) -> None:
    """A progress without a display."""


def images(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """One random image as a batch."""
    return np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32)


def call(runner: Callable[[np.ndarray], object], shape: Sequence[int]) -> Callable[[], object]:
    """A contender that runs a network on the same image each time."""
    image = images(shape)
    return lambda: runner(image)


def part(progress: Progress, index: int, count: int) -> Progress:
    """The progress of one of ``count`` equal parts of some work."""
    return lambda share: progress((index + share) / count)


def interleaved(
    groups: Sequence[Contenders],
    rounds: int,
    *,
    warm_up: int = 1,
    limit_s: float = inf,
    seed: int = 0,
    progress: Progress = silent,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Milliseconds of every contender, one value per round after ``warm_up`` rounds.

    A slow spell of the machine hits all alike, and no contender always finds the caches that the same other
    one left: so judge by medians and by ratios within a round. Contenders that disturb each other (thread
    pools whose threads spin for a while) belong in groups of their own: a round runs group after group.
    The rounds end after ``limit_s``, but not before the second.
    """
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for group in groups for name in group}
    began = clock()
    for number in range(-warm_up, rounds):
        for group in (groups[i] for i in rng.permutation(len(groups))):
            for name in rng.permutation(list(group)).tolist():
                start = clock()
                group[name]()
                if number >= 0:
                    times[name].append((clock() - start) / 1e6)
        progress((number + warm_up + 1) / (rounds + warm_up))
        if number + 1 >= MIN_ROUNDS and clock() - began > limit_s * 1e9:
            break
    return {name: np.array(values) for name, values in times.items()}


def repeated(
    prepare: Callable[[], Contenders],
    rounds: int,
    *,
    repeats: int = 5,
    limit_s: float = inf,
    progress: Progress = silent,
) -> Times:
    """``interleaved`` in ``repeats`` parts, each with contenders prepared anew.

    Where its memory happens to lie makes one and the same network up to 15 % slower for as long as it exists:
    what is to be compared within 3 % must be prepared several times.
    """
    each = max(MIN_ROUNDS, round(rounds / repeats))
    times: Times = {}
    for index in range(repeats):
        share = part(progress, index, repeats)
        found = interleaved([prepare()], each, limit_s=limit_s / repeats, seed=index, progress=share)
        for name, values in found.items():
            times.setdefault(name, []).append(values)
    return times


def median(times: Sequence[np.ndarray]) -> float:
    """Median over all rounds."""
    return float(np.median(np.concatenate(times)))


def ratios(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Median over the repeats of the median of the ratios within each round; least and largest repeat."""
    medians = [float(np.median(a / b)) for a, b in zip(ours, others, strict=True)]
    return float(np.median(medians)), min(medians), max(medians)
