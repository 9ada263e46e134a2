"""The library file: the Pareto sub-networks of one space on one board and processor, as checked YAML."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dynofa_ros.device.board import DOMAIN_NAME
from dynofa_ros.errors import one_line
from dynofa_ros.files import read_bounded, read_errors, read_yaml, write_atomically
from dynofa_ros.latency import CLUSTERED, processor_of
from dynofa_ros.messages import DomainFrequency, SubnetEntry
from dynofa_ros.supernet.checkpoint import check_header
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.weights import Weights, WeightsError

Processor = Literal["cpu", "gpu", "npu"]
LARGEST = 2**63 - 1  # a whole number that messages and arrays hold
OPTIONAL = ("threads", "cluster", "fixed_share", "reference_size")  # written where they are known
MOST_THREADS = 255  # that messages hold
LARGEST_STATISTICS = 1 << 28  # bytes; a sub-network has 100 kB


FigureSource = Literal["measured", "published", "predicted", "declared"]


class LibraryError(ValueError):
    """A library that does not fit the schema, its space or its weights."""


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds of one inference at the reference frequencies."""

    median: float
    p95: float


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sub-network, as measured in one placement. config: the mapping that its family checks.

    accuracy: 0..1; latency = alpha_ms + beta_ms * f_reference / f; energy_j: None = unknown.
    threads: intra-op threads it was measured with, None = whatever the engine takes. cluster: clock domain
    of the CPUs it was measured on ("cpu0"), None = no particular one.
    Where the time depends on the size of a request, the latency is that of a request of reference_size units,
    of which fixed_share does not depend on the size (`latency.size_factor`); None = the size does not matter.
    Sources: "declared" = by whoever wrote the program. macs, params: None = unknown, or it has none.
    """

    id: str
    config: dict[str, Any]
    accuracy: float
    accuracy_source: FigureSource
    latency_ms: Latency
    latency_source: FigureSource
    alpha_ms: float
    beta_ms: float
    macs: int | None
    params: int | None
    energy_j: float | None = None
    threads: int | None = None
    cluster: str | None = None
    fixed_share: float | None = None
    reference_size: float | None = None

    @property
    def placement(self) -> tuple[str, int]:
        """Cluster and threads, in the order of the file's groups; "" and 0 where none is named."""
        return self.cluster or "", self.threads or 0

    @property
    def label(self) -> str:
        """Its id with its placement, where it has one: "s1 on cpu0 x2"."""
        cluster, threads = self.placement
        return self.id + f" on {cluster}" * bool(cluster) + f" x{threads}" * bool(threads)


class StatisticsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per sub-network BN statistics, in a file beside the library."""

    file: str
    sha256: str


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A strict Pareto front per placement: its entries ascend in latency and in accuracy.

    A placement is a cluster with a number of threads. Placements do not compete with each other: more threads
    and faster cores are quicker, fewer threads and slower cores take less energy, so both stay. The same
    sub-network has the same id in all of them.
    weights_sha256: None = published or predicted figures, bound to no particular file of weights.
    """

    schema_version: Literal[1]
    space: str
    weights_sha256: str | None
    board: str
    processor: Processor
    reference_frequencies_hz: dict[str, int]
    notes: tuple[str, ...]
    entries: tuple[Entry, ...]
    bn_statistics: StatisticsFile | None = None
    accuracy_metric: str = "top-1"  # what its accuracies are: a share 0..1 that rises

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def reference_frequencies(self) -> tuple[DomainFrequency, ...]:
        """The reference clocks as messages have them."""
        return tuple(DomainFrequency(d, hz) for d, hz in self.reference_frequencies_hz.items())

    def subnet_entries(self, slowdown: float = 1.0) -> tuple[SubnetEntry, ...]:
        """The entries as an application publishes them. slowdown: factor on every latency."""
        return tuple(self.subnet_entry(entry, slowdown) for entry in self.entries)

    def subnet_entry(self, entry: Entry, slowdown: float = 1.0) -> SubnetEntry:
        """One of the entries as an application publishes it."""
        return SubnetEntry(
            id=entry.id,
            processor=self.processor,
            threads=entry.threads or 0,
            cluster=entry.cluster or "",
            accuracy=entry.accuracy,
            latency_ms=slowdown * entry.latency_ms.median,
            alpha_ms=slowdown * entry.alpha_ms,
            beta_ms=slowdown * entry.beta_ms,
            energy_j=math.nan if entry.energy_j is None else entry.energy_j,
            reference_frequencies=self.reference_frequencies,
            fixed_share=1.0 if entry.fixed_share is None else entry.fixed_share,
            reference_size=entry.reference_size or 0.0,
        )

    def config(self, entry: Entry) -> Any:
        """The checked configuration of an entry. Raises what SearchSpace.from_mapping does."""
        return load_space(self.space).from_mapping(entry.config)

    def find(self, subnet_id: str, cluster: str | None = None, threads: int | None = None) -> Entry | None:
        """The first entry of a sub-network, with this cluster and these threads where they are given ("" and
        0 = entries that name none)."""
        for entry in self.entries:
            same = cluster in (None, entry.placement[0]) and threads in (None, entry.placement[1])
            if entry.id == subnet_id and same:
                return entry
        return None

    @property
    def placements(self) -> tuple[tuple[str, int], ...]:
        """(cluster, threads) of the entries, in the order of the file."""
        return tuple(dict.fromkeys(e.placement for e in self.entries))

    def best_within(self, latency_ms: float) -> Entry:
        """The most accurate entry whose median latency is within ``latency_ms``, else the fastest.

        Of equal ones the one that comes first in the file.
        """
        fitting = [e for e in self.entries if e.latency_ms.median <= latency_ms]
        if not fitting:
            return min(self.entries, key=lambda e: e.latency_ms.median)
        return max(fitting, key=lambda e: e.accuracy)


def _finite(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high or value == math.inf:
        limit = f"in {low:g}..{high:g}" if math.isfinite(high) else f"finite and at least {low:g}"
        raise LibraryError(f"{name} = {str(value)[:40]} is not allowed: it must be {limit}")


def _check_entry(library: Library, index: int, entry: Entry) -> None:
    if not entry.id or "/" in entry.id:  # it begins keys of the file of statistics
        raise LibraryError(f"entries[{index}].id = {entry.id!r} is not allowed: it must be a name without /")
    place = f"entries[{index}] ({entry.id})"
    try:
        library.config(entry)
    except msgspec.ValidationError as error:
        reason, at, where = str(error).partition(" - at `$")
        raise LibraryError(f"{reason} - at `$.entries[{index}].config{where if at else '`'}") from None
    except ValueError as error:
        raise LibraryError(f"{place}.config: {error}") from None
    _finite(f"{place}.accuracy", entry.accuracy, 0, 1)
    _finite(f"{place}.latency_ms.median", entry.latency_ms.median, 1e-6)
    _finite(f"{place}.latency_ms.p95", entry.latency_ms.p95, entry.latency_ms.median)
    _finite(f"{place}.alpha_ms", entry.alpha_ms, 0)
    _finite(f"{place}.beta_ms", entry.beta_ms, 0)
    for name in ("macs", "params"):
        if (count := getattr(entry, name)) is not None:
            _finite(f"{place}.{name}", count, 1, LARGEST)
    if entry.energy_j is not None:
        _finite(f"{place}.energy_j", entry.energy_j, 0)
    if entry.threads is not None:
        _finite(f"{place}.threads", entry.threads, 1, MOST_THREADS)
    if (entry.fixed_share is None) != (entry.reference_size is None):
        raise LibraryError(f"{place}: fixed_share and reference_size must both be there, or neither")
    if entry.fixed_share is not None and entry.reference_size is not None:
        _finite(f"{place}.fixed_share", entry.fixed_share, 0, 1)
        _finite(f"{place}.reference_size", entry.reference_size, 1e-6)
    cluster = entry.cluster
    named = cluster is not None and DOMAIN_NAME.fullmatch(cluster) and processor_of(cluster) == CLUSTERED
    if cluster is not None and not (named and library.processor == CLUSTERED):
        raise LibraryError(
            f"{place}.cluster = {cluster!r} is not allowed on processor {library.processor}: it must be a "
            "clock domain of the cpu, such as cpu0, in a library of the cpu"
        )
    if not math.isclose(entry.alpha_ms + entry.beta_ms, entry.latency_ms.median, rel_tol=0.05):
        raise LibraryError(f"{place}: alpha_ms + beta_ms must be latency_ms.median within 5 %")


def check_library(library: Library) -> None:
    """Raises LibraryError naming the key and the reason for what the schema alone cannot refuse."""
    load_space(library.space)
    if library.weights_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", library.weights_sha256):
        raise LibraryError(
            f"weights_sha256 = {library.weights_sha256!r} is not 64 hexadecimal digits or null"
        )
    if not library.entries:
        raise LibraryError("entries is empty: a library needs at least one sub-network")
    for index, entry in enumerate(library.entries):
        _check_entry(library, index, entry)
    for name, frequency in library.reference_frequencies_hz.items():
        if not DOMAIN_NAME.fullmatch(name):
            raise LibraryError(
                f"reference_frequencies_hz.{name}: a clock domain is named cpu<number>, gpu, npu or emc"
            )
        _finite(f"reference_frequencies_hz.{name}", frequency, 1, LARGEST)
    if library.bn_statistics is not None:
        file = library.bn_statistics.file
        if file in ("", "..") or Path(file).name != file:
            raise LibraryError(
                f"bn_statistics.file = {file!r} is not allowed: it must name a file beside the library"
            )
    for cluster, threads in library.placements:
        own = [(n, e) for n, e in enumerate(library.entries) if e.placement == (cluster, threads)]
        where = f" with {threads} threads" * bool(threads) + f" on {cluster}" * bool(cluster)
        ids = [e.id for _, e in own]
        for place, ((_, before), (index, after)) in enumerate(pairwise(own), start=1):
            if after.id in ids[:place]:
                raise LibraryError(f"entries[{index}].id = {after.id!r} is not unique{where}")
            if not (after.latency_ms.median > before.latency_ms.median and after.accuracy > before.accuracy):
                raise LibraryError(
                    f"entries[{index}] ({after.id}) breaks the Pareto front{where}: "
                    f"it must be slower and more accurate than {before.id}"
                )
    _check_configs(library)


def _check_configs(library: Library) -> None:
    """Raises LibraryError for an id that stands for two sub-networks, or one of two accuracies."""
    first: dict[str, Entry] = {}
    for index, entry in enumerate(library.entries):
        same = first.setdefault(entry.id, entry)
        if (entry.config, entry.accuracy) != (same.config, same.accuracy):
            raise LibraryError(
                f"entries[{index}] ({entry.id}): config and accuracy must be those of the first entry "
                "with this id"
            )


def load_library(path: str | Path, weights: Weights | None = None) -> Library:
    """Read and check a library file; with ``weights``, also that it was made for them.

    Raises LibraryError naming the file, the key and the reason.
    """
    path = Path(path)
    with read_errors(path, LibraryError):
        library = read_yaml(path, Library)
        check_library(library)
    if weights is not None:
        check_weights(library, weights, path)
    return library


def check_weights(library: Library, weights: Weights, path: Path) -> None:
    """Raises LibraryError naming the file if the library was made for other weights."""
    if library.weights_sha256 is not None and library.weights_sha256 != weights.digest:
        raise LibraryError(
            f"{path}: weights_sha256 {library.weights_sha256[:12]} is not that of {weights.source} "
            f"({weights.digest[:12]}): the library was made for other weights"
        )


def library_text(library: Library) -> str:
    """The YAML of a library, the lists of a configuration on one line each so that a diff can be read."""
    head = msgspec.to_builtins(library)
    if library.accuracy_metric == Library.__struct_defaults__[-1]:
        del head["accuracy_metric"]  # as older files
    entries = [
        {k: v for k, v in e.items() if v is not None or k not in OPTIONAL} for e in head.pop("entries")
    ]

    def dump(value: Any, flow: bool | None) -> str:
        return yaml.safe_dump(value, sort_keys=False, default_flow_style=flow, width=110, allow_unicode=True)

    return dump(head, False) + dump({"entries": entries}, None)


def save_library(path: str | Path, library: Library) -> None:
    """Check and write. Raises LibraryError as check_library does, OSError if it cannot be written."""
    check_library(library)
    write_atomically(Path(path), library_text(library).encode())


def save_statistics(path: Path, statistics: Mapping[str, Mapping[str, np.ndarray]]) -> StatisticsFile:
    """Write the BN statistics of several sub-networks; keys are "<subnet id>/<official BN name>"."""
    arrays = {
        f"{subnet}/{key}": np.ascontiguousarray(array, np.float32)
        for subnet, own in statistics.items()
        for key, array in own.items()
    }
    data = save(arrays)
    write_atomically(path, data)
    return StatisticsFile(path.name, hashlib.sha256(data).hexdigest())


def load_statistics(library_path: str | Path, library: Library) -> dict[str, dict[str, np.ndarray]]:
    """BN statistics by sub-network; empty where the library has none.

    Raises LibraryError naming the file if it is missing, damaged or not the one the library was made with.
    """
    if library.bn_statistics is None:
        return {}
    path = Path(library_path).parent / library.bn_statistics.file
    try:
        data = read_bounded(path, LARGEST_STATISTICS)
        digest = hashlib.sha256(data).hexdigest()
        if digest != library.bn_statistics.sha256:
            raise LibraryError(
                f"{path}: sha256 is {digest[:12]}, the library names {library.bn_statistics.sha256[:12]}"
            )
        check_header(path, data)
        arrays = load(data)
    except OSError as error:
        raise LibraryError(f"{path}: BN statistics cannot be read: {error.strerror}") from None
    except (SafetensorError, WeightsError) as error:
        raise LibraryError(f"{path}: not a safetensors file: {one_line(error)}") from None
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        subnet, _, key = name.partition("/")
        statistics.setdefault(subnet, {})[key] = array
    return statistics


def pareto_front(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries that no other of their placement beats in latency and accuracy, ascending in both.

    One placement after the other, in ascending order.
    """
    fronts: dict[tuple[str, int], list[Entry]] = {
        placement: [] for placement in sorted({e.placement for e in entries})
    }
    for entry in sorted(entries, key=lambda e: (e.latency_ms.median, -e.accuracy)):
        front = fronts[entry.placement]
        if not front or (
            entry.accuracy > front[-1].accuracy and entry.latency_ms.median > front[-1].latency_ms.median
        ):
            front.append(entry)
    return tuple(entry for front in fronts.values() for entry in front)
