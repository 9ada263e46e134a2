"""The points of a characterisation: which clocks, which sub-networks, and how long each is busy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import msgspec
import numpy as np

from dynofa_ros.latency import processor_of
from dynofa_ros.library.library import Library
from dynofa_ros.library.testbench import references_hz
from dynofa_ros.messages import DeviceCapabilities

MOST_REPEATS = 20  # times more inferences where clocks lie close together
PARTIAL_SHARE = 0.5  # of the time busy, for the power of a processor that waits


class SweepError(RuntimeError):
    """A sweep that cannot begin, or a journal that is not its own."""


class Settings(msgspec.Struct, frozen=True):
    """Per point: ``window_s`` of power samples and ``repeats`` inferences, fewer after ``longest_s``."""

    frequencies: int | None = 8  # per domain; None = all
    repeats: int = 40
    window_s: float = 3.0
    longest_s: float = 20.0
    seed: int = 0


class Point(msgspec.Struct, frozen=True):
    """Pinned clocks, and the sub-network that runs; ``share`` of the time busy, 0 = nothing runs.

    ``repeats``: inferences wanted, in multiples of the settings' number. ``cluster``: clock domain of the
    CPUs that compute, "" = no particular one; ``threads``: 0 = whatever the rig takes.
    """

    clocks: tuple[tuple[str, int], ...]
    processor: str = ""
    subnet_id: str = ""
    share: float = 0.0
    repeats: int = 1
    cluster: str = ""
    threads: int = 0

    @property
    def key(self) -> str:
        clocks = ",".join(f"{name}={hz}" for name, hz in self.clocks)
        place = f"/{self.cluster or 'anywhere'} x{self.threads}" if self.cluster or self.threads else ""
        return f"{self.processor or 'idle'}/{self.subnet_id}/{self.share:g}/{clocks}{place}"


def choose_clocks(table: Sequence[int], number: int | None, reference_hz: float) -> tuple[int, ...]:
    """``number`` clocks spread over a table, ends included, and the one next to the reference; None = all."""
    if number is None or number >= len(table):
        return tuple(table)
    indices = np.linspace(0, len(table) - 1, max(number, 1)).round().astype(int)
    nearest = min(table, key=lambda hz: abs(hz - reference_hz))
    return tuple(sorted({table[i] for i in indices} | {nearest}))


def plan_points(
    capabilities: DeviceCapabilities,
    libraries: Mapping[str, Library],
    settings: Settings,
    clusters: Sequence[str] = (),
    threads: Sequence[int] = (),
) -> tuple[Point, ...]:
    """All points, in a random order that the seed decides, so that slow drifts hit all clocks alike.

    libraries: by processor. Domains of one processor with the same table change together; what is not
    swept stays parked. clusters, threads: on the CPU every sub-network is measured on each of these clock
    domains, alone, with each of these numbers of threads. Raises SweepError if the device has no processor of
    a library, or no such cluster.
    """
    _check_clusters(capabilities, clusters)
    tables = {d.domain: d.frequencies_hz for d in capabilities.domains if d.can_write and d.frequencies_hz}
    points: list[Point] = []
    for processor, library in libraries.items():
        if processor not in capabilities.processors:
            known = ", ".join(capabilities.processors) or "none"
            raise SweepError(f"{capabilities.board} has no processor {processor!r} (it has {known})")
        references = references_hz(library, tables)
        parked = _parked(tables, references)
        ids = list(dict.fromkeys(entry.id for entry in library))
        for cluster in clusters if processor == "cpu" and clusters else ("",):
            own = [
                name for name in tables if name == cluster or not cluster and processor_of(name) == processor
            ]
            sweep = list(_sweep(tables, parked, cluster or processor, references, settings.frequencies))
            repeats = _repeats([min((hz for name, hz in c if name in own), default=1) for c in sweep])
            for clocks, number in product(sweep, threads if processor == "cpu" and threads else (0,)):
                place = cluster, number
                points += [Point(clocks, processor, name, 1.0, repeats, *place) for name in ids]
                points.append(Point(clocks, processor, ids[-1], PARTIAL_SHARE, 1, *place))
    parked = _parked(tables, {})
    for processor in {processor_of(name) or name: None for name in tables}:
        points += map(Point, _sweep(tables, parked, processor, {}, settings.frequencies))
    unique = list({point.key: point for point in points}.values())
    random.Random(settings.seed).shuffle(unique)
    return tuple(unique)


def _check_clusters(capabilities: DeviceCapabilities, clusters: Sequence[str]) -> None:
    known = [d.domain for d in capabilities.domains if processor_of(d.domain) == "cpu"]
    if missing := [name for name in clusters if name not in known]:
        raise SweepError(
            f"{capabilities.board or 'this computer'} has no CPU cluster {missing[0]!r} "
            f"(it has {', '.join(known) or 'none'})"
        )


def _repeats(clocks_hz: Sequence[int]) -> int:
    """How many times more inferences tell alpha from beta as well as over a range of clocks of 1 : 2.

    Their errors grow with the inverse of the range of f_ref / f.
    """
    spread = max(clocks_hz) / min(clocks_hz) - 1.0
    return MOST_REPEATS if spread <= 0.0 else min(MOST_REPEATS, max(1, math.ceil(spread**-2)))


def _parked(tables: Mapping[str, Sequence[int]], references: Mapping[str, int]) -> dict[str, int]:
    """Clocks of the domains that are not swept: the reference, else the top of CPU and memory, which feed
    the others, and the bottom of the rest."""
    return {
        name: min(table, key=lambda hz: abs(hz - references[name]))
        if name in references
        else (max(table) if name.startswith(("cpu", "emc")) else min(table))
        for name, table in tables.items()
    }


def _sweep(
    tables: Mapping[str, Sequence[int]],
    parked: dict[str, int],
    processor: str,
    references: Mapping[str, int],
    number: int | None,
) -> Iterator[tuple[tuple[str, int], ...]]:
    """Clocks of all domains, one group of the processor's (or the one domain's) after the other swept."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, table in tables.items():
        if processor in (processor_of(name), name):
            groups.setdefault(tuple(table), []).append(name)
    for table, names in groups.items():
        reference_hz = references.get(names[0], max(table))
        for hz in choose_clocks(table, number, reference_hz):
            yield tuple((parked | dict.fromkeys(names, hz)).items())
    if not groups:  # no clock of it can be set: measure at the one it has
        yield tuple(parked.items())
