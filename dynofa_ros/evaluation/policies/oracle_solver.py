"""Exact operating points for the oracles: processor mapping x sub-network x clock levels, by full tables.

Written independently of `dynofa_ros.manager`, so that the manager can be judged against it. For given
accuracies, dividers and stretched deadlines the least power of each processor is tabulated for every subset
of applications it may host, and the best split found by trying all of them.

An application on a processor at a level takes guard * slowdown * (alpha + beta * f_ref / f), and for every
other one there the time that their jobs overlap, times the contention and the share of the cores that both
together ask for too much (that is the law of `simulation.processors`, exactly, for two jobs).

Two limits of power: ``limit_w`` of the mean, ``cap_w`` of the means over 0.1 s, where a processor that is
busy for a while takes more than in the mean. The least power under a cap is exact for one application; for
several the cap is given weights, from none to all, until it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from math import inf
from typing import TypeVar

import numpy as np

from dynofa_ros.evaluation.policies.profile import Array
from dynofa_ros.manager.placement import place_of
from dynofa_ros.messages import SubnetEntry

LOAD_CEILING = 0.92
CAP_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the fullest 0.1 s against the mean
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Place:
    """One processor. ``base_w``, ``slope_w``: per level, power = base + slope * load. ``idle_w``: no host.

    ``awake_w``: per level, while it has no work at this moment; less than base only where it rests.
    """

    name: str
    base_w: Array
    slope_w: Array
    idle_w: float
    awake_w: Array


@dataclass(frozen=True, eq=False)
class Choice:
    """One application on one processor: entries in ascending accuracy, ``unit_ms`` entries x levels.

    ``shares``: of the cores, that the threads of each entry take; empty = all.
    """

    entries: tuple[SubnetEntry, ...]
    unit_ms: Array
    slowdown: float  # expected time / unit time
    guard: float  # time that must fit / expected time
    shares: tuple[float, ...] = ()

    @property
    def modes(self) -> tuple[float, ...]:
        """The shares that there are."""
        return tuple(sorted(set(self.shares))) or (1.0,)

    def quickest(self, accuracy: float, share: float) -> tuple[Array, np.ndarray]:
        """Least unit time per level with at least an accuracy, at a share of the cores, and the entry that
        has it; inf: none."""
        shares = self.shares or (1.0,) * len(self.entries)
        known = zip(self.entries, shares, strict=True)
        enough = np.array([e.accuracy >= accuracy - 1e-12 and own == share for e, own in known])
        masked = np.where(enough[:, None], self.unit_ms, inf)
        return masked.min(axis=0), masked.argmin(axis=0)


@dataclass(frozen=True, eq=False)
class Client:
    """One application. ``accuracies``: what it may be asked for, the best first. ``fullest_load``: busy share
    of the fullest 0.1 s that count, of expected times in ms."""

    name: str
    priority: int
    rate_hz: float
    budget_ms: float
    accuracies: tuple[float, ...]
    choices: Mapping[str, Choice]
    fullest_load: Callable[[Array], Array] = np.ones_like


@dataclass(frozen=True)
class Asked:
    """What each application gets: place in its accuracies, divider of its rate, factor on its deadline."""

    levels: tuple[int, ...]
    dividers: tuple[int, ...]
    stretches: tuple[float, ...]

    def at(self, app: int, level: int) -> Asked:
        """Another accuracy for one application."""
        return replace(self, levels=put(self.levels, app, level))

    @property
    def whole(self) -> bool:
        """Whether all rates and deadlines are kept."""
        return max(self.dividers, default=1) == 1 and max(self.stretches, default=1.0) == 1.0


def put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    """The values with another one at a place."""
    return (*values[:place], value, *values[place + 1 :])


# (processor, guarded times, expected times), both applications x levels -> time that another one adds:
# application x other x levels
Overlap = Callable[[str, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Question:
    """Everything an operating point is chosen from. ``known``: answers found so far, whatever the limit of
    the mean power."""

    clients: tuple[Client, ...]
    places: tuple[Place, ...]
    constant_w: float
    limit_w: float
    overlap: Overlap
    cap_w: float = inf
    known: dict[tuple[Asked, float], Answer | None] = field(default_factory=dict)

    def unlimited(self) -> Question:
        """The same without limits of power."""
        return replace(self, limit_w=inf, cap_w=inf)


@dataclass(frozen=True)
class Answer:
    """An operating point; ``levels`` of the processors that host an application."""

    asked: Asked
    entries: tuple[SubnetEntry, ...]
    levels: dict[str, int]
    power_w: float
    fullest_w: float  # over the fullest 0.1 s


def solve(question: Question, asked: Asked) -> Answer | None:
    """Least power that gives everybody what is asked, None if nothing does."""
    key = asked, question.cap_w
    if key not in question.known:
        question.known[key] = _cheapest(question, asked)
    answer = question.known[key]
    return answer if answer is not None and answer.power_w <= question.limit_w else None


def _cheapest(question: Question, asked: Asked) -> Answer | None:
    modes = [_modes(question, place) for place in question.places]
    # Every combination of numbers of threads on its own: mean and fullest x modes x subsets x levels.
    powers = [
        np.stack([_power(question, asked, place, own) for own in each], axis=1)
        for place, each in zip(question.places, modes, strict=True)
    ]
    if question.cap_w < inf:
        _rule_out(question, powers)
    for weight in CAP_WEIGHTS if question.cap_w < inf else CAP_WEIGHTS[:1]:
        with np.errstate(invalid="ignore"):
            weighed = [np.fmin((1.0 - weight) * mean + weight * fullest, inf) for mean, fullest in powers]
        answer = _answer(question, asked, modes, powers, weighed)
        if answer is None or answer.fullest_w <= question.cap_w:
            return answer
    return None


def _rule_out(question: Question, powers: Sequence[Array]) -> None:
    """What breaks the cap with all other processors at their least."""
    tables = zip(powers, question.places, strict=True)
    least = [min(float(fullest[:, 1:].min()), place.idle_w) for (_, fullest), place in tables]
    for power, own in zip(powers, least, strict=True):
        power[:, question.constant_w + sum(least) - own + power[1] > question.cap_w] = inf


def _answer(
    question: Question,
    asked: Asked,
    modes: Sequence[Sequence[tuple[float, ...]]],
    powers: Sequence[Array],
    weighed: Sequence[Array],
) -> Answer | None:
    """The operating point of least ``weighed`` power."""
    tables = zip(weighed, question.places, strict=True)
    subsets = _split([_least(power.min(axis=0), place) for power, place in tables])
    if subsets is None:
        return None
    entries: list[SubnetEntry | None] = [None] * len(question.clients)
    levels, total_w = {}, np.full(2, question.constant_w)
    for k, (place, subset) in enumerate(zip(question.places, subsets, strict=True)):
        if not subset:
            total_w += place.idle_w
            continue
        own = weighed[k][:, subset]
        mode, level = divmod(int(own.argmin()), own.shape[1])
        levels[place.name] = level
        total_w += powers[k][:, mode, subset, level]
        for i, client in enumerate(question.clients):
            if subset >> i & 1:
                choice = client.choices[place.name]
                accuracy = client.accuracies[asked.levels[i]]
                entries[i] = choice.entries[int(choice.quickest(accuracy, modes[k][mode][i])[1][level])]
    placed = tuple(e for e in entries if e is not None)
    return Answer(asked, placed, levels, *total_w.tolist())


def _modes(question: Question, place: Place) -> list[tuple[float, ...]]:
    """All combinations of the shares of the cores that the applications can take on a processor."""
    own = [client.choices.get(place.name) for client in question.clients]
    return list(product(*(choice.modes if choice is not None else (1.0,) for choice in own)))


def _power(question: Question, asked: Asked, place: Place, modes: tuple[float, ...]) -> Array:
    """Power of a processor, in the mean and over the fullest 0.1 s: 2 x subsets x levels; inf where a
    deadline or the load ceiling breaks.

    modes: share of the cores that each application takes.
    """
    clients = question.clients
    if not any(place.name in client.choices for client in clients):
        return np.full((2, 1 << len(clients), 1), inf)
    expected = np.full((len(clients), len(place.base_w)), inf)
    guarded, fullest = expected.copy(), np.zeros_like(expected)
    for i, client in enumerate(clients):
        choice = client.choices.get(place.name)
        if choice is not None:
            unit_ms, _ = choice.quickest(client.accuracies[asked.levels[i]], modes[i])
            expected[i] = unit_ms * choice.slowdown
            guarded[i] = expected[i] * choice.guard
            fullest[i] = modes[i] * client.fullest_load(expected[i])
    rates = np.array([1e-3 * c.rate_hz / d for c, d in zip(clients, asked.dividers, strict=True)])
    budgets = np.array([c.budget_ms * s for c, s in zip(clients, asked.stretches, strict=True)])
    shares = np.array(modes)
    added = _added(question, place.name, guarded, expected, shares)
    busy = rates[:, None] * expected  # of its own time: one frame after the other
    busy = np.where((busy > LOAD_CEILING) & (shares < 1.0)[:, None], inf, busy)
    nothing = np.zeros((1, 1, expected.shape[1]))
    load = _sums(nothing, shares[None, :, None] * busy)[0]
    most = np.minimum(1.0, _sums(nothing, fullest[None])[0])
    total = _sums(guarded[:, None], added)
    late = total > budgets[:, None, None] * (1.0 + 1e-9)
    bad = ~(load <= LOAD_CEILING) | (late & _members(len(clients)).T[:, :, None]).any(axis=0)
    with np.errstate(invalid="ignore"):
        busy_w = place.base_w + place.slope_w
        fullest_w = place.awake_w + (busy_w - place.awake_w) * most
        return np.where(bad, inf, np.stack([place.base_w + place.slope_w * load, fullest_w]))


def _added(question: Question, place: str, guarded: Array, expected: Array, shares: Array) -> Array:
    """Time that another one adds: application x other x levels. ``shares``: of the cores."""
    with np.errstate(invalid="ignore"):
        added = question.overlap(place, guarded, expected)
        # Jobs wait for each other as far as both together ask for more cores than there are.
        added = added * np.maximum(0.0, shares[:, None] + shares[None] - 1.0)[:, :, None]
    added = np.where(np.isfinite(added), added, inf)
    everyone = np.arange(len(shares))
    added[everyone, everyone] = 0.0
    return added


def times_of(question: Question, answer: Answer) -> list[tuple[float, float]]:
    """Expected time of every application at an operating point, alone, and the factor by which the others
    there make it longer."""
    homes = [place_of(entry) for entry in answer.entries]
    found = [(0.0, 1.0)] * len(homes)
    for place, level in answer.levels.items():
        expected, shares = np.full((len(homes), 1), inf), np.ones(len(homes))
        guards = expected.copy()
        hosted = [i for i, home in enumerate(homes) if home == place]
        for i in hosted:
            choice = question.clients[i].choices[place]
            number = choice.entries.index(answer.entries[i])
            expected[i], guards[i] = choice.slowdown * choice.unit_ms[number, level], choice.guard
            shares[i] = choice.shares[number] if choice.shares else 1.0
        guarded = expected * guards
        added = _added(question, place, guarded, expected, shares)
        for i in hosted:
            longer = sum(float(added[i, j, 0]) for j in hosted)
            found[i] = float(expected[i, 0]), 1.0 + longer / float(guarded[i, 0])
    return found


def _sums(empty: Array, parts: Array) -> Array:
    """``empty`` + the sum of the parts of every subset: x, parts, levels -> x, subsets, levels."""
    count = parts.shape[1]
    sums = np.empty((len(parts), 1 << count, parts.shape[2]))
    sums[:, :1] = empty
    for bit in range(count):
        half = 1 << bit
        np.add(sums[:, :half], parts[:, bit, None], out=sums[:, half : 2 * half])
    return sums


def _least(power: Array, place: Place) -> Array:
    """Least power of a processor for every subset."""
    least: Array = power.min(axis=1)
    least[0] = place.idle_w
    return least


def _split(tables: Sequence[Array]) -> list[int] | None:
    """The subset of each processor with the least sum; None if there is no finite one."""
    rest, part, starts = _pairs(len(tables[0]))
    sums = [tables[0]]
    for table in tables[1:]:
        sums.append(np.minimum.reduceat(sums[-1][rest] + table[part], starts))
    left = len(tables[0]) - 1
    if not sums[-1][left] < inf:
        return None
    subsets = [0] * len(tables)
    for k in range(len(tables) - 1, 0, -1):
        end = starts[left + 1] if left + 1 < len(starts) else len(part)
        window = slice(int(starts[left]), int(end))
        subsets[k] = int(part[window][(sums[k - 1][rest[window]] + tables[k][part[window]]).argmin()])
        left ^= subsets[k]
    subsets[0] = left
    return subsets


@lru_cache(maxsize=16)
def _members(count: int) -> np.ndarray:
    """Subsets x applications: whether it is a member."""
    return (np.arange(1 << count)[:, None] >> np.arange(count) & 1).astype(bool)


@lru_cache(maxsize=16)
def _pairs(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (rest, part) of all sets, and where those of each set start."""
    rest: list[int] = []
    part: list[int] = []
    starts: list[int] = []
    for whole in range(size):
        starts.append(len(part))
        taken = whole
        while True:
            part.append(taken)
            rest.append(whole ^ taken)
            if not taken:
                break
            taken = (taken - 1) & whole
    return np.array(rest), np.array(part), np.array(starts)
