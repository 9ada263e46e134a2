"""Sub-networks as rows of integers, for batches: how a search, a predictor and a table see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dynofa_ros.supernet.space import SearchSpace


class Genomes:
    """Rows of genes: the space's own (``SearchSpace.encode``), then the position of the input size among
    those to choose from. Gene i takes the values 0 to sizes[i] - 1."""

    def __init__(self, space: SearchSpace, input_sizes: Sequence[int] | None = None) -> None:
        """``input_sizes``: None = all of the space. Raises ValueError naming one that it does not have."""
        self.space = space
        self.input_sizes = np.array(space.input_sizes if input_sizes is None else sorted(input_sizes))
        for size in self.input_sizes:
            space.config(**{space.size_entry: int(size)})
        self.sizes = np.array([*space.gene_sizes, len(self.input_sizes)])

    def random(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Rows drawn half uniformly, half with every entry at the same level, which spans the latencies."""
        uniform = rng.integers(0, self.sizes, (number, len(self.sizes)))
        level = np.floor(rng.random((number, 1)) * self.sizes).astype(int)
        level[:, -1] = uniform[:, -1]
        return np.where(np.arange(number)[:, None] % 2, level, uniform)

    def canonical(self, rows: np.ndarray) -> np.ndarray:
        """Rows with 0 for every gene without effect, so that equal sub-networks are equal rows."""
        return np.concatenate([self.space.canonical(rows[:, :-1]), rows[:, -1:]], axis=1)

    def encode(self, configs: Sequence[Any]) -> np.ndarray:
        """The rows of checked configurations, (N, genes)."""
        sizes = [self.space.input_size(config) for config in configs]
        positions = np.searchsorted(self.input_sizes, np.array(sizes, int))
        return np.concatenate([self.space.encode(configs), positions[:, None]], axis=1)

    def decode(self, row: np.ndarray) -> Any:
        """The sub-network of a row."""
        return self.space.decode(row[:-1], int(self.input_sizes[row[-1]]))


@dataclass(frozen=True)
class Batch:
    """Sub-networks to be evaluated: as arrays, which is fast, or one by one."""

    genomes: Genomes
    rows: np.ndarray

    @property
    def input_sizes(self) -> np.ndarray:
        """(N,)"""
        return np.asarray(self.genomes.input_sizes[self.rows[:, -1]])

    @property
    def genes(self) -> np.ndarray:
        """(N, G), as ``SearchSpace.encode`` has them."""
        return self.rows[:, :-1]

    @cached_property
    def configs(self) -> list[Any]:
        return [self.genomes.decode(row) for row in self.rows]


Objective = Callable[[Batch], np.ndarray]  # one value per sub-network, (N,)
