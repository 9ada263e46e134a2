"""A sub-network cut once out of the shared weights: kernels transformed, batch normalisation folded.

NumPy only, so that a process with the ONNX Runtime engine needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dynofa_ros.supernet.graphs import Chain, Graph
from dynofa_ros.supernet.space import Plan, Statistics


@dataclass(frozen=True)
class Subnet:
    """A materialised sub-network, ready for an engine: its graphs by name, "network" where there is one."""

    graphs: Mapping[str, Graph]

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
    """Cut ``plan`` out of ``weights``, normalised by the sub-network's own BN ``statistics`` where given.

    Raises ValueError naming the statistics that do not have the active width.
    """
    return Subnet(plan.graphs(weights, statistics or {}))
