"""What families of networks that make text have in common: they make it token by token, with a beam.

The beam is part of a sub-network: it is one of the ways in which time is traded for quality.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dynofa_ros.supernet.builder import Array
from dynofa_ros.supernet.graphs import Graph
from dynofa_ros.supernet.layers import Cost, Layer, Shape
from dynofa_ros.supernet.space import Plan, SearchSpace, Statistics
from dynofa_ros.supernet.transformer_graphs import Size, graphs
from dynofa_ros.supernet.transformer_layers import Linear

if TYPE_CHECKING:
    from dynofa_ros.supernet.graphs import Runner


@dataclass(frozen=True)
class TextPlan(Plan):
    """A sub-network whose output has a vocabulary of ``words``."""

    beam: int
    words: int
    usual_tokens: ClassVar[int]  # of a sentence, its end included

    @abstractmethod
    def cut(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Its part of the weights, NumPy or torch, as its graphs want it."""

    @abstractmethod
    def written(self, weights: Mapping[str, np.ndarray]) -> dict[str, Graph]:
        """``encode`` and ``step`` on what was cut."""

    @abstractmethod
    def products(self) -> Iterator[tuple[str, Shape, int | None]]:
        """Every array: its name, its shape, and how often a token that is read is multiplied by it. 0: each
        token of a hypothesis is instead; None: nothing is."""

    def costs(self) -> Iterator[tuple[Layer, Cost, Shape]]:
        """Of a usual sentence, without the scores of attention: for every array what its products take."""
        usual = self.usual_tokens
        for name, shape, times in self.products():
            size = prod(shape)
            layer = Linear(name.rpartition(".")[0], shape[-1], shape[0])
            if times is None:
                yield layer, Cost(params=size, nodes=0), (0,)
            elif times:
                rows = usual * times
                yield layer, Cost(rows * size, size, size, 1, "pointwise"), (rows, shape[0])
            else:  # one product for every token: weights are read anew, whatever the beam
                rows = usual * self.beam
                yield layer, Cost(rows * size, size, usual * size, usual, "dense"), (rows, shape[0])

    def graphs(self, weights: Mapping[str, np.ndarray], statistics: Statistics) -> dict[str, Graph]:
        cut = self.cut(weights)
        held = {id(a): np.ascontiguousarray(a, np.float32) for a in cut.values()}  # tied ones stay one array
        return self.written({name: held[id(a)] for name, a in cut.items()})


@dataclass(frozen=True)
class TranslatorPlan(TextPlan):
    """A sub-network of an encoder and a decoder; its weights are cut as ``transformer_graphs`` wants them."""

    @property
    @abstractmethod
    def size(self) -> Size: ...

    def written(self, weights: Mapping[str, np.ndarray]) -> dict[str, Graph]:
        return graphs(self.size, weights, self.beam)


class TranslatorSpace(SearchSpace):
    """Sub-networks whose beam stands where others have the size of an image.

    usual_tokens: of a sentence, its end included; first, end: the token that an output begins with, and the
    one that ends a sentence.
    """

    task, size_entry, independent_blocks = "translation", "beam", False
    usual_tokens: int
    first: int
    end: int

    @property
    def sizes(self) -> tuple[int, int, int]:  # type: ignore[override]
        return self.usual_tokens // 2, self.usual_tokens, 2 * self.usual_tokens

    def exercise(self, run: Runner, config: Any, size: int | None = None) -> None:
        """A sentence of ``size`` tokens to as many, both with their end."""
        from dynofa_ros.supernet.decoding import generate

        length = size or self.usual_tokens
        source = [5 + i % 16 for i in range(length - 1)]
        deque(generate(run, [*source, self.end], self.first, min_length=length, max_length=length), 0)


def beside(parts: list[Array]) -> Array:
    """Arrays one after the other along the last axis; those of training are torch's."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, -1)
    import torch

    return torch.cat(parts, -1)
