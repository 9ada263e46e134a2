"""What the oracles know: the true board, and how much applications delay each other there.

Two periodic applications can only overlap as far as the true offsets of their cameras allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import permutations
from math import ceil, gcd

import numpy as np

from dynofa_ros.device.board import Board, power_model, processor_domains
from dynofa_ros.device.power_model import constant_power_w, domain_power
from dynofa_ros.evaluation.policies.oracle_solver import Overlap, Place
from dynofa_ros.evaluation.policies.profile import Array, Levels, Tables, make_levels, on_processor, times_ms
from dynofa_ros.latency import processor_of
from dynofa_ros.messages import AppTargets, SubnetEntry
from dynofa_ros.simulation.processors import CORES_EXPONENT

FEW = 4  # applications up to which offsets of cameras are reckoned with
GOVERNOR_TIPPING = 0.8  # schedutil: 1.25 x utilisation
MOST_OFFSETS = 64
SAME_S = 1e-6


def asked_accuracies(entries: Sequence[SubnetEntry], wanted: float, floor: float) -> tuple[float, ...]:
    """Accuracies from the one wanted (at most the best) down to the floor; the best if none reaches that."""
    known = sorted({e.accuracy for e in entries})
    top = next((a for a in known if a >= wanted), known[-1])
    between = [a for a in known if floor <= a <= top]
    if not between:
        between = [next((a for a in known if a >= floor), known[-1])]
    return tuple(reversed(between))


@dataclass(frozen=True, eq=False)
class OracleModel:
    """Processors on offer at a temperature, and every application's entries and times there."""

    board: Board
    temperature_c: float
    levels: Mapping[str, Levels]
    entries: Mapping[tuple[str, str], tuple[SubnetEntry, ...]]
    times_ms: Mapping[tuple[str, str], Array]
    shares: Mapping[tuple[str, str], tuple[float, ...]]  # of the cores, that the threads of an entry take

    def place(self, name: str, outside: float) -> Place:
        """A processor with a utilisation from outside."""
        levels = self.levels[name]
        slope = levels.busy_w - levels.idle_w
        return Place(name, levels.idle_w + slope * outside, slope, self.idle_w(name, outside))

    def idle_w(self, name: str, outside: float) -> float:
        """Power of a processor that hosts nobody: the CPU has its governor's clock, others the lowest."""
        levels = self.levels[name]
        hz = float(levels.speed_hz[0])
        if processor_of(name) == "cpu":
            lowest_hz = min(self.board.domains[d].start_min_hz for d in levels.domains)
            hz = float(levels.speed_hz[-1]) if outside > GOVERNOR_TIPPING else float(lowest_hz)
        level = int(np.abs(levels.speed_hz - hz).argmin())
        if not outside:
            return float(levels.unused_w[level])
        return float(levels.idle_w[level] + outside * (levels.busy_w[level] - levels.idle_w[level]))

    def constant_w(self, outside: Mapping[str, float]) -> float:
        """Power that no choice changes; ``outside``: utilisation of the processors that nobody can use."""
        model = power_model(self.board)
        total = constant_power_w(model, self.temperature_c)
        if "emc" in self.board.domains:
            hz = self.board.domains["emc"].start_max_hz
            total += domain_power(model, "emc", hz, self.temperature_c).unused_w
        return total + sum(self.idle_w(name, share) for name, share in outside.items())

    def most_w(self) -> float:
        """Power with everything busy at its top clock."""
        return self.constant_w({}) + sum(float(levels.busy_w[-1]) for levels in self.levels.values())


def make_model(
    board: Board, tables: Tables, libraries: Mapping[str, Sequence[SubnetEntry]], temperature_c: float
) -> OracleModel:
    """The model for the clocks on offer."""
    levels = {
        name: make_levels(board, name, tables, temperature_c)
        for name in _places(board, libraries)
        if any(tables.get(d) for d in processor_domains(board, name))
    }
    pairs = [(app, name) for app in libraries for name in levels]
    entries = {(app, name): on_processor(libraries[app], name) for app, name in pairs}
    times = {
        (app, name): times_ms(own, levels[name], _speed(board, name, tables))
        for (app, name), own in entries.items()
        if own
    }
    cores = {name: sum(board.domains[d].cores for d in processor_domains(board, name)) for name in levels}
    shares = {
        (app, name): tuple(
            min(1.0, e.threads / cores[name]) if e.threads else 1.0 for e in entries[app, name]
        )
        for app, name in times
    }
    own = {pair: entries[pair] for pair in times}
    return OracleModel(board, temperature_c, levels, own, times, shares)


def _places(board: Board, libraries: Mapping[str, Sequence[SubnetEntry]]) -> tuple[str, ...]:
    """Processors, and the clusters of the CPU instead of it if a library names any."""
    if not any(e.cluster for library in libraries.values() for e in library):
        return board.processors
    others = tuple(name for name in board.processors if name != "cpu")
    return (*processor_domains(board, "cpu"), *others)


def _speed(board: Board, processor: str, tables: Tables) -> float:
    """Speed of a processor of which a mode leaves some cores, as the simulated one has it."""
    cores = {d: board.domains[d].cores for d in processor_domains(board, processor)}
    left = sum(n for d, n in cores.items() if d in tables)
    return float((left / sum(cores.values())) ** CORES_EXPONENT)


@dataclass
class Cameras:
    """Time of image 0 of every application whose images come at its rate; others are not periodic."""

    first_s: dict[str, float] = field(default_factory=dict)
    _last: dict[str, tuple[int, float]] = field(default_factory=dict)
    _irregular: set[str] = field(default_factory=set)
    _period_s: dict[str, float] = field(default_factory=dict)

    def observe(self, app: str, index: int, arrived_s: float) -> None:
        """Takes the number and the time of an image."""
        before = self._last.get(app)
        self._last[app] = (index, arrived_s)
        if before is None or index == before[0] or app in self._irregular:
            return
        period_s = (arrived_s - before[1]) / (index - before[0])
        if abs(period_s - self._period_s.setdefault(app, period_s)) > SAME_S:
            self._irregular.add(app)
            self.first_s.pop(app, None)
        elif app not in self.first_s:
            self.first_s[app] = arrived_s - index * period_s

    def known(self, apps: Sequence[str]) -> tuple[bool, ...]:
        """Of which applications the offset is known."""
        return tuple(app in self.first_s for app in apps)

    def worst(self, targets: AppTargets, other: AppTargets, own_ms: Array, other_ms: Array) -> Array | None:
        """Longest overlap (ms, per level) of a job with those of another application; None = unknown."""
        if targets.app not in self.first_s or other.app not in self.first_s:
            return None
        if any(abs(self._period_s[t.app] * t.rate_hz - 1.0) > 1e-6 for t in (targets, other)):
            return None  # the targets ask for another rate than the camera has
        offset_ms = 1e3 * (self.first_s[other.app] - self.first_s[targets.app])
        offsets = offsets_ms(offset_ms, (targets.rate_hz, other.rate_hz))
        return worst_overlap_ms(offsets, 1e3 / other.rate_hz, own_ms, other_ms)


@lru_cache(maxsize=1024)
def offsets_ms(offset_ms: float, rates_hz: tuple[float, float]) -> Array:
    """All offsets in [0, period of the other) at which its images come after one of the first's."""
    own, other = (1000 / Fraction(hz).limit_denominator(1000) for hz in rates_hz)
    step = Fraction(gcd(own.numerator * other.denominator, other.numerator * own.denominator),
                    own.denominator * other.denominator)  # fmt: skip
    count = min(int(other / step), MOST_OFFSETS)
    return np.sort((offset_ms + float(other) * np.arange(count) / count) % float(other))


def worst_overlap_ms(offsets: Array, period_ms: float, own_ms: Array, other_ms: Array) -> Array:
    """Longest total overlap of one job that starts at 0 with jobs that start at an offset + k periods."""
    finite = own_ms[np.isfinite(own_ms)]
    last = min(20, ceil(float(finite.max()) / period_ms)) if len(finite) else 0
    total = np.zeros((len(offsets), len(own_ms)))
    for k in range(-1, last + 1):
        start = (offsets + k * period_ms)[:, None]
        total += np.maximum(
            0.0, np.minimum(own_ms - np.maximum(start, 0.0), other_ms + np.minimum(start, 0.0))
        )
    worst: Array = total.max(axis=0)
    return worst


def overlap_law(
    targets: Sequence[AppTargets], contention: Mapping[str, float], cameras: Cameras | None
) -> Overlap:
    """Time that one application adds to another's: their overlap x the contention of the processor.

    With the offsets of the cameras, and few applications: the longest overlap there is. Else, if they meet in
    more than miss_tolerance of the frames, the worst case. For many, or without cameras: the worst case
    times the chance of meeting.
    """
    rates = np.array([1e-3 * t.rate_hz for t in targets])[None, :, None]
    tolerances = np.array([t.miss_tolerance for t in targets])[:, None, None]
    known = cameras if cameras is not None and len(targets) <= FEW else None

    def added(processor: str, own_ms: Array, other_ms: Array) -> Array:
        own, other = own_ms[:, None], other_ms[None]
        share = contention.get(processor_of(processor) or processor, 0.0)
        meet = np.minimum(1.0, rates * (own + other))
        if known is None:
            return share * np.minimum(own, other) * meet
        overlap = np.where(meet < tolerances, 0.0, np.minimum(own, np.ceil(rates * own) * other))
        here = np.flatnonzero(np.isfinite(own_ms).any(axis=1)).tolist()  # who can be on this processor
        for i, j in permutations(here, 2):
            worst = known.worst(targets[i], targets[j], own_ms[i], other_ms[j])
            if worst is not None:
                overlap[i, j] = worst
        return share * overlap

    return added
