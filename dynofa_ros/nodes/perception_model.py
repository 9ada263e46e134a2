"""The networks of one application: a supernet with its libraries, prepared on demand. No ROS here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynofa_ros.library.format import (
    Entry,
    Library,
    LibraryError,
    check_weights,
    load_library,
    load_statistics,
)
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.convert import memory_mapped
from dynofa_ros.supernet.engines import load_engine
from dynofa_ros.supernet.plan import make_plan
from dynofa_ros.supernet.preparation import prepare_subnet
from dynofa_ros.supernet.space import DEMO_SPACE, load_space
from dynofa_ros.supernet.switching import Prepared
from dynofa_ros.supernet.weights import Weights, WeightsError

DEMO_WEIGHTS = ("config", "weights", f"{DEMO_SPACE}.safetensors")
DEMO_LIBRARY = ("config", "libraries", "demo", f"cpu_{DEMO_SPACE}.yaml")


@dataclass(frozen=True)
class SubnetKey:
    """What is prepared: a library entry, and the intra-op threads it runs with."""

    processor: str
    subnet_id: str
    threads: int = 1


class Networks:
    """One set of weights and, per processor, the library of sub-networks that may run on it."""

    def __init__(
        self,
        weights: Weights,
        libraries: Mapping[str, Library],
        statistics: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
        engine: str,
    ) -> None:
        self.weights = weights
        self.libraries = dict(libraries)
        self._statistics = statistics
        self._prepare_for_engine = load_engine(engine)

    @classmethod
    def load(cls, weights: str, libraries: str, engine: str) -> Networks:
        """Read the files. Empty names stand for the demo supernet that is part of the package.

        libraries: one path per processor, separated by commas, all of one space.
        Raises LibraryError, WeightsError or EngineError, in one line that names file and reason.
        """
        paths = [Path(p.strip()).expanduser() for p in libraries.split(",") if p.strip()] or [
            share_file(*DEMO_LIBRARY)
        ]
        read = {path: load_library(path) for path in paths}
        spaces = {library.space for library in read.values()}
        if len(spaces) > 1:
            raise LibraryError(
                f"library: the files are of several spaces ({', '.join(sorted(spaces))}), expected one"
            )
        by_processor: dict[str, tuple[Path, Library]] = {}
        for path, library in read.items():
            if library.processor in by_processor:
                raise LibraryError(f"library: {path} is a second one for processor {library.processor}")
            by_processor[library.processor] = (path, library)
        space = spaces.pop()
        if not weights and space != DEMO_SPACE:
            raise WeightsError(f"weights is empty: give the path of a checkpoint of {space}")
        loaded = memory_mapped(
            load_space(space), Path(weights).expanduser() if weights else share_file(*DEMO_WEIGHTS)
        )
        for path, library in by_processor.values():
            check_weights(library, loaded, path)
        statistics = {p: load_statistics(path, library) for p, (path, library) in by_processor.items()}
        return cls(loaded, {p: library for p, (_, library) in by_processor.items()}, statistics, engine)

    def entry(self, processor: str, subnet_id: str) -> Entry | None:
        """The library entry of a key, None if there is none."""
        library = self.libraries.get(processor)
        return library.find(subnet_id) if library else None

    def processors_of(self, subnet_id: str) -> list[str]:
        return [p for p, library in self.libraries.items() if library.find(subnet_id)]

    def prepare(self, key: SubnetKey) -> Prepared[SubnetKey]:
        """Materialise an entry and warm it up. Raises KeyError (unknown entry), EngineError or ValueError."""
        entry = self.entry(key.processor, key.subnet_id)
        if entry is None:
            raise KeyError(f"{key.subnet_id} is not in the library of {key.processor}")
        library = self.libraries[key.processor]
        space, config = load_space(library.space), library.config(entry)
        own = self._statistics[key.processor].get(entry.id)
        return prepare_subnet(
            key,
            make_plan(space, config),
            self.weights,
            self._prepare_for_engine,
            statistics=own,
            threads=key.threads,
            processor=key.processor,
        )

    def reference_hz(self, processor: str) -> float:
        """Reference clock of a processor: of its domains the slowest. 0 = the library names none."""
        frequencies = self.libraries[processor].reference_frequencies_hz
        return float(min((f for d, f in frequencies.items() if d.startswith(processor)), default=0))

    def label(self, index: int) -> str:
        return self.weights.labels[index] if self.weights.labels else str(index)


def top_classes(logits: np.ndarray, count: int) -> list[tuple[int, float]]:
    """(class index, softmax probability) of the ``count`` likeliest classes; logits float32 (classes,)."""
    exponent = np.exp(logits - logits.max())
    probabilities = exponent / exponent.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(i), float(probabilities[i])) for i in order]
