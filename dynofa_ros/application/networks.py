"""The networks of one application: a supernet with its libraries, prepared on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from dynofa_ros.application.emulation import stretch_factor
from dynofa_ros.latency import domains_of, reference_hz
from dynofa_ros.library.library import (
    Entry,
    Library,
    LibraryError,
    check_weights,
    load_library,
    load_statistics,
)
from dynofa_ros.messages import DomainState
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.engines.engine import Runner
from dynofa_ros.supernet.registry import DEMO_SPACE, EngineError, load_engine, load_space, require_processor
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import Pauses, Prepared, prepare_subnet
from dynofa_ros.supernet.weights import WeightsError, memory_mapped


def demo_weights(space: str = DEMO_SPACE) -> tuple[str, ...]:
    """Where the package has the weights of a space."""
    return "config", "weights", f"{space}.safetensors"


def demo_library(name: str = DEMO_SPACE) -> tuple[str, ...]:
    """Where the package has a library of these weights."""
    return "config", "libraries", "demo", f"cpu_{name}.yaml"


DEMO_WEIGHTS, DEMO_LIBRARY = demo_weights(), demo_library()


# What applications of one process run, by all that it is made of: they share one copy of each.
_SHARED: WeakValueDictionary[tuple[Any, ...], Runner] = WeakValueDictionary()
_PREPARING: defaultdict[tuple[Any, ...], Lock] = defaultdict(Lock)  # or each would make one at the same time


@dataclass(frozen=True)
class SubnetKey:
    """What is prepared: a library entry, and the intra-op threads it runs with."""

    processor: str
    subnet_id: str
    threads: int = 1


class Libraries(ABC):
    """What an application can run: a library per processor, and what its entries stand for."""

    def __init__(self, libraries: Mapping[str, Library]) -> None:
        self.libraries = dict(libraries)
        self.unreached: dict[str, str] = {}  # processors that have a library only, and why
        self.pauses = Pauses()  # of the requests that they answer

    @property
    def accuracy_metric(self) -> str:
        """What the accuracies of the libraries are by."""
        return ", ".join(dict.fromkeys(library.accuracy_metric for library in self.libraries.values()))

    @abstractmethod
    def prepare(self, key: SubnetKey) -> Prepared[SubnetKey]:
        """An entry ready to run. Raises KeyError (unknown entry), EngineError or ValueError."""

    def worth_holding(self, processor: str) -> Iterable[SubnetKey]:
        """What is to be prepared before anybody asks for it, of a processor first; nothing by default."""
        return ()

    def keep_reached(self) -> None:  # noqa: B027 - most are reached everywhere
        """Set the libraries aside of processors that are not reached on this machine."""

    def without(self, processor: str) -> str:
        """Why nothing can run on ``processor``, in one line; empty if it has a library."""
        if processor in self.libraries:
            return ""
        known = ", ".join(self.libraries) or "none"
        return self.unreached.get(processor) or (
            f"processor {processor!r} has no library: there is one for {known}"
        )

    def entry(self, processor: str, subnet_id: str, cluster: str = "", threads: int = 0) -> Entry | None:
        """The library entry of a sub-network in a placement, None if there is none.

        With other threads where none has these; without a cluster of any cluster where none has none.
        """
        library = self.libraries.get(processor)
        if library is None:
            return None
        found = library.find(subnet_id, cluster, threads) or library.find(subnet_id, cluster)
        if found is None and not cluster:
            found = library.find(subnet_id, threads=threads) or library.find(subnet_id)
        return found

    def pin_refusal(self, subnet_id: str) -> str:
        """Why a sub-network cannot be pinned, in one line; empty if it can, or if none is."""
        if not subnet_id or self.processors_of(subnet_id):
            return ""
        known = ", ".join(e.id for library in self.libraries.values() for e in library)
        return f"subnet_id must be empty or one of {known}, got {subnet_id!r}"

    def processors_of(self, subnet_id: str) -> list[str]:
        return [p for p, library in self.libraries.items() if library.find(subnet_id)]

    def reference_hz(self, processor: str, cluster: str = "") -> float:
        """Reference clock of a cluster, else of the slowest domain of a processor; 0 = none is named."""
        named = self.libraries[processor].reference_frequencies
        own = domains_of(processor, (clock.domain for clock in named))
        return reference_hz(named, (cluster,), reference_hz(named, own, 0.0))

    def stretch_factor(
        self, key: SubnetKey, clocks: Iterable[DomainState], slowdown: float, cluster: str = ""
    ) -> float:
        """Factor on an inference of an entry at ``clocks`` of a device that is ``slowdown`` times slower."""
        entry = self.entry(key.processor, key.subnet_id, cluster, key.threads)
        assert entry is not None
        known = {clock.domain: clock for clock in clocks}
        own = [known[domain] for domain in domains_of(cluster or key.processor, known)]
        reference = self.reference_hz(key.processor, cluster)
        return stretch_factor(own, entry.alpha_ms, entry.beta_ms, reference, slowdown)


class Networks(Libraries):
    """One set of weights and, per processor, the library of sub-networks that may run on it."""

    def __init__(
        self,
        supernet: Supernet,
        libraries: Mapping[str, Library],
        statistics: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
        engine: str,
    ) -> None:
        super().__init__(libraries)
        self.supernet, self.weights = supernet, supernet.weights
        self._engine_name = engine
        self._statistics = statistics
        self._engine = load_engine(engine)

    @classmethod
    def load(
        cls, weights: str, libraries: str, engine: str, demo: tuple[str, str] = (DEMO_SPACE, DEMO_SPACE)
    ) -> Networks:
        """Read the files. Empty names stand for what is part of the package.

        libraries: one path per processor, separated by commas, all of one space. demo: space and library of
        the package.
        Raises LibraryError, WeightsError or EngineError, in one line that names file and reason.
        """
        paths = [Path(p.strip()).expanduser() for p in libraries.split(",") if p.strip()] or [
            share_file(*demo_library(demo[1]))
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
        space = load_space(spaces.pop())
        if not weights and space.name != demo[0]:
            raise WeightsError(f"weights is empty: give the path of a checkpoint of {space.name}")
        loaded = memory_mapped(
            space, Path(weights).expanduser() if weights else share_file(*demo_weights(space.name))
        )
        for path, library in by_processor.values():
            check_weights(library, loaded, path)
        statistics = {p: load_statistics(path, library) for p, (path, library) in by_processor.items()}
        return cls(
            Supernet(space, loaded),
            {p: library for p, (_, library) in by_processor.items()},
            statistics,
            engine,
        )

    def worth_holding(self, processor: str) -> Iterable[SubnetKey]:
        """Every entry, so that a switch need not prepare any."""
        for name in sorted(self.libraries, key=processor.__ne__):
            yield from (SubnetKey(name, e.id, e.threads or 1) for e in self.libraries[name])

    def keep_reached(self) -> None:
        for processor in list(self.libraries):
            try:
                require_processor(self._engine_name, processor)
            except EngineError as error:
                self.unreached[processor] = str(error)
                del self.libraries[processor]

    def prepare(self, key: SubnetKey) -> Prepared[SubnetKey]:
        """Materialise an entry and run it until it is warm, as ``prepare_subnet`` says."""
        entry = self.entry(key.processor, key.subnet_id, threads=key.threads)
        if entry is None:
            raise KeyError(f"{key.subnet_id} is not in the library of {key.processor}")
        own = self._statistics[key.processor].get(entry.id)
        made_of = (self.weights.digest, self._engine_name, key.processor, key.threads, str(entry.config))
        # Further threads of an engine are bound to CPUs with those of their application.
        shared = own is None and self._engine.concurrent and key.threads == 1
        with _PREPARING[made_of] if shared else nullcontext():
            prepared = prepare_subnet(
                key,
                self.supernet,
                self.libraries[key.processor].config(entry),
                self._engine,
                statistics=own,
                threads=key.threads,
                processor=key.processor,
                known=_SHARED.get(made_of) if shared else None,
                compiled=True,
                wait=self.pauses.wait,
            )
            if shared:
                _SHARED[made_of] = prepared.run
        return prepared
