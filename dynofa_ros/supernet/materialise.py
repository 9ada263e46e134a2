"""A sub-network cut once out of the shared weights: kernels transformed, batch normalisation folded.

NumPy only, so that a process with the ONNX Runtime engine needs no torch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dynofa_ros.supernet.graphs import Chain, Graph
from dynofa_ros.supernet.space import Plan, Statistics


@dataclass(frozen=True, eq=False)
class Subnet:
    """A sub-network for an engine. cut: makes its graphs.

    digest: the same for sub-networks of which an engine makes the same; None where nobody says so.
    """

    cut: Callable[[], Mapping[str, Graph]]
    digest: str | None = None

    @cached_property
    def graphs(self) -> Mapping[str, Graph]:
        """By name, "network" where there is one; cut out of the weights when they are first asked for.

        Raises ValueError naming statistics that do not have the active width.
        """
        return self.cut()

    @property
    def is_cut(self) -> bool:
        """Whether anybody asked for its graphs."""
        return "graphs" in self.__dict__

    @property
    def nbytes(self) -> int:
        """Of its weights; what its graphs have in common counts once."""
        arrays = {id(array): array for graph in self.graphs.values() for array in graph.arrays()}
        return sum(int(array.nbytes) for array in arrays.values())

    @property
    def network(self) -> Chain:
        """The graph of an image network."""
        (graph,) = self.graphs.values()
        assert isinstance(graph, Chain)
        return graph


def materialise(
    plan: Plan, weights: Mapping[str, np.ndarray], statistics: Statistics | None = None
) -> Subnet:
    """``plan`` on ``weights``, normalised by the sub-network's own BN ``statistics`` where given."""
    return Subnet(partial(plan.graphs, weights, statistics or {}))


def subnet_digest(weights_digest: str, described: object, statistics: Statistics | None = None) -> str:
    """SHA-256 over all that a sub-network is made of, the code of this room among it; its weights are not
    read. described: by whose representation it differs from others."""
    hasher = hashlib.sha256(f"{_code_digest()} {weights_digest} {described!r}".encode())
    for key, array in sorted((statistics or {}).items()):
        hasher.update(key.encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


@functools.cache
def _code_digest() -> str:
    hasher = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        hasher.update(file.read_bytes())
    return hasher.hexdigest()
