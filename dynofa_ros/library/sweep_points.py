"""The points of a characterisation: which clocks, which sub-networks, and how long each is busy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from dynofa_ros.device.board import processor_of
from dynofa_ros.device.device import Capabilities
from dynofa_ros.library.library import Library
from dynofa_ros.library.testbench import references_hz

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

    ``repeats``: inferences wanted, in multiples of the settings' number.
    """

    clocks: tuple[tuple[str, int], ...]
    processor: str = ""
    subnet_id: str = ""
    share: float = 0.0
    repeats: int = 1

    @property
    def key(self) -> str:
        clocks = ",".join(f"{name}={hz}" for name, hz in self.clocks)
        return f"{self.processor or 'idle'}/{self.subnet_id}/{self.share:g}/{clocks}"


def choose_clocks(table: Sequence[int], number: int | None, reference_hz: float) -> tuple[int, ...]:
    """``number`` clocks spread over a table, ends included, and the one next to the reference; None = all."""
    if number is None or number >= len(table):
        return tuple(table)
    indices = np.linspace(0, len(table) - 1, max(number, 1)).round().astype(int)
    nearest = min(table, key=lambda hz: abs(hz - reference_hz))
    return tuple(sorted({table[i] for i in indices} | {nearest}))


def plan_points(
    capabilities: Capabilities, libraries: Mapping[str, Library], settings: Settings
) -> tuple[Point, ...]:
    """All points, in a random order that the seed decides, so that slow drifts hit all clocks alike.

    libraries: by processor. Domains of one processor with the same table change together; what is not
    swept stays parked. Raises SweepError if the device has no processor of a library.
    """
    tables = {d.domain: d.frequencies_hz for d in capabilities.domains if d.can_write and d.frequencies_hz}
    points: list[Point] = []
    for processor, library in libraries.items():
        if processor not in capabilities.processors:
            known = ", ".join(capabilities.processors) or "none"
            raise SweepError(f"{capabilities.board} has no processor {processor!r} (it has {known})")
        references = references_hz(library, tables)
        parked = _parked(tables, references)
        largest = library.entries[-1].id
        sweep = list(_sweep(tables, parked, processor, references, settings.frequencies))
        repeats = _repeats([min(hz for name, hz in c if processor_of(name) == processor) for c in sweep])
        for clocks in sweep:
            points += [Point(clocks, processor, entry.id, 1.0, repeats) for entry in library]
            points.append(Point(clocks, processor, largest, PARTIAL_SHARE))
    parked = _parked(tables, {})
    for processor in {processor_of(name) or name: None for name in tables}:
        points += map(Point, _sweep(tables, parked, processor, {}, settings.frequencies))
    unique = list({point.key: point for point in points}.values())
    random.Random(settings.seed).shuffle(unique)
    return tuple(unique)


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
