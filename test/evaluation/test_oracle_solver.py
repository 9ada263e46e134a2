"""The oracles' solver equals trying everything; what it gives up is the least."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import numpy as np
import pytest

from dynofa_ros.evaluation.policies.oracle_ladder import DIVIDERS, best
from dynofa_ros.evaluation.policies.oracle_solver import (
    LOAD_CEILING,
    Asked,
    Choice,
    Client,
    Place,
    Question,
    solve,
)
from dynofa_ros.evaluation.policies.profile import Array
from dynofa_ros.messages import SubnetEntry

NAMES = ("cpu", "gpu", "npu")
CONTENTION = 0.4


def fullest_load(times_ms: Array) -> Array:
    return np.minimum(1.0, times_ms / 80.0)


def overlap(processor: str, own_ms: Array, other_ms: Array) -> Array:
    return CONTENTION * np.minimum(own_ms[:, None], other_ms[None])


def random_question(rng: np.random.Generator, apps: int, levels: int = 3, entries: int = 3) -> Question:
    clients = []
    for n in range(apps):
        choices = {}
        for name in rng.choice(NAMES, rng.integers(1, 4), replace=False):
            accuracies = np.sort(rng.choice(np.arange(0.7, 0.8, 0.01), entries, replace=False))
            times = np.sort(rng.uniform(10.0, 60.0, entries))
            library = tuple(
                SubnetEntry(f"s{i}", str(name), float(a), float(t), float(t), 0.0)
                for i, (a, t) in enumerate(zip(accuracies, times, strict=True))
            )
            speed = np.linspace(1.0, 0.4, levels)
            choices[str(name)] = Choice(
                library, times[:, None] * speed, float(rng.uniform(0.9, 1.4)), float(rng.uniform(1.0, 1.3))
            )
        known = {e.accuracy for c in choices.values() for e in c.entries}
        clients.append(
            Client(
                f"app{n}",
                int(rng.integers(0, 2)),
                float(rng.uniform(2.0, 15.0)),
                float(rng.uniform(15.0, 90.0)),
                tuple(sorted(known, reverse=True)),
                choices,
                fullest_load,
            )
        )
    bases_w = [np.sort(rng.uniform(0.2, 2.0, levels)) for _ in range(2 * len(NAMES))]
    places = tuple(
        Place(n, base_w, slope_w * 4.0 + 1.0, 0.1, base_w)
        for n, base_w, slope_w in zip(NAMES, bases_w[::2], bases_w[1::2], strict=True)
    )
    return Question(tuple(clients), places, 2.0, float(rng.choice([inf, 6.0, 9.0])), overlap)


def with_threads(question: Question, rng: np.random.Generator) -> Question:
    """The same where most entries were measured with one and with two of two cores."""

    def threaded(choice: Choice) -> Choice:
        if rng.random() < 0.2:
            return choice
        both = [
            (e, t, share) for e, t in zip(choice.entries, choice.unit_ms, strict=True) for share in (0.5, 1.0)
        ]
        return replace(
            choice,
            entries=tuple(replace(e, threads=int(2 * share)) for e, _, share in both),
            unit_ms=np.array([t * (1.6 if share < 1.0 else 1.0) for _, t, share in both]),
            shares=tuple(share for *_, share in both),
        )

    clients = tuple(
        replace(c, choices={name: threaded(choice) for name, choice in c.choices.items()})
        for c in question.clients
    )
    return replace(question, clients=clients, known={})


def brute_force(question: Question, asked: Asked) -> float:
    """Least power over all mappings, levels and entries; inf if nothing does."""
    least = inf
    clients = question.clients
    own = [list(c.choices) for c in clients]
    sizes = [range(len(p.base_w)) for p in question.places]
    for mapping in product(*own):
        for levels in product(*sizes):
            at = dict(zip(NAMES, levels, strict=True))
            options = [
                [
                    (
                        c.choices[k].unit_ms[e, at[k]] * c.choices[k].slowdown,
                        (c.choices[k].shares or [1.0] * 9)[e],
                    )
                    for e in range(len(c.choices[k].entries))
                    if c.choices[k].entries[e].accuracy >= c.accuracies[a] - 1e-12
                ]
                for c, k, a in zip(clients, mapping, asked.levels, strict=True)
            ]
            for chosen in product(*options):
                times, shares = zip(*chosen, strict=True)
                least = min(least, _power(question, asked, mapping, at, times, shares))
    return least


def _power(
    question: Question,
    asked: Asked,
    mapping: tuple[str, ...],
    at: dict[str, int],
    times: tuple[float, ...],
    shares: tuple[float, ...],
) -> float:
    clients = question.clients
    total = fullest = question.constant_w
    for place in question.places:
        members = [i for i, k in enumerate(mapping) if k == place.name]
        busy = {i: 1e-3 * clients[i].rate_hz / asked.dividers[i] * times[i] for i in members}
        load = sum(busy[i] * shares[i] for i in members)
        if any(share > LOAD_CEILING for share in busy.values()):
            return inf
        for i in members:
            guarded = times[i] * clients[i].choices[place.name].guard
            added = sum(
                CONTENTION * min(guarded, times[j]) * max(0.0, shares[i] + shares[j] - 1.0)
                for j in members
                if j != i
            )
            if guarded + added > clients[i].budget_ms * asked.stretches[i]:
                return inf
        if load > LOAD_CEILING:
            return inf
        level = at[place.name]
        most = min(1.0, sum(float(fullest_load(np.array(times[i]))) * shares[i] for i in members))
        total += place.base_w[level] + place.slope_w[level] * load if members else place.idle_w
        busy_w, awake_w = place.base_w[level] + place.slope_w[level], place.awake_w[level]
        fullest += awake_w + (busy_w - awake_w) * most if members else place.idle_w
    return total if total <= question.limit_w and fullest <= question.cap_w else inf


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_solve_equals_brute_force(seed: int, threads: bool) -> None:
    rng = np.random.default_rng(seed)
    question = random_question(rng, apps=int(rng.integers(1, 4)), levels=2, entries=2)
    if threads:
        question = with_threads(question, rng)
    count = len(question.clients)
    asked = Asked(
        tuple(int(rng.integers(0, len(c.accuracies))) for c in question.clients),
        tuple(int(rng.choice(DIVIDERS)) for _ in range(count)),
        tuple(float(rng.choice([1.0, 1.5, inf])) for _ in range(count)),
    )
    answer, least = solve(question, asked), brute_force(question, asked)
    assert (answer is None) == (least == inf)
    if answer is not None:
        assert answer.power_w == pytest.approx(least, rel=1e-12)
        for i, entry in enumerate(answer.entries):
            assert entry.accuracy >= question.clients[i].accuracies[asked.levels[i]] - 1e-12
            assert entry.processor in answer.levels


@pytest.mark.parametrize("threads", [False, True])
def test_a_cap_is_kept_in_the_fullest_windows(threads: bool) -> None:
    """Exactly by one application; several find a way whenever there is one, if not always the cheapest."""
    changed = alike = impossible = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        question = random_question(rng, apps=int(rng.integers(1, 4)), levels=2, entries=2)
        question = with_threads(question, rng) if threads else question
        # What is thriftiest in the mean need not be below a cap.
        places = (
            replace(p, awake_w=rng.uniform(0.0, 1.0, 2) * (p.base_w + p.slope_w)) for p in question.places
        )
        question = replace(question, places=tuple(places))
        count = len(question.clients)
        asked = Asked(tuple(len(c.accuracies) - 1 for c in question.clients), (1,) * count, (3.0,) * count)
        question = replace(question, limit_w=inf, known={})
        free = solve(question, asked)
        if free is None:
            continue
        capped = replace(question, cap_w=float(rng.uniform(0.7, 1.0)) * free.fullest_w)
        answer, least = solve(capped, asked), brute_force(capped, asked)
        assert (answer is None) == (least == inf)
        impossible += answer is None
        if answer is not None:
            assert answer.fullest_w <= capped.cap_w and answer.power_w >= least * (1.0 - 1e-12)
            assert answer.fullest_w < free.fullest_w
            changed += 1
            alike += answer.power_w <= least * (1.0 + 1e-12)
            assert count > 1 or answer.power_w == pytest.approx(least, rel=1e-12)
    assert changed >= 5 and impossible >= 5 and alike >= 0.6 * changed


def test_some_instances_are_infeasible_and_some_are_not() -> None:
    kinds = set()
    for seed in range(60):
        question = random_question(np.random.default_rng(seed), 2)
        whole = Asked((0, 0), (1, 1), (1.0, 1.0))
        kinds.add(solve(question, whole) is None)
    assert kinds == {True, False}


@pytest.mark.parametrize("seed", range(40))
def test_best_loses_the_least_accuracy_of_two(seed: int) -> None:
    question = random_question(np.random.default_rng(1000 + seed), 2)
    sizes = [range(len(c.accuracies)) for c in question.clients]
    floors = Asked(tuple(len(r) - 1 for r in sizes), (1, 1), (1.0, 1.0))
    answer = best(question)
    if solve(question, floors) is None:
        assert not answer.asked.whole or answer.power_w > question.limit_w
        return
    assert answer.asked.whole
    first, second = sorted(range(2), key=lambda i: (question.clients[i].priority, i))
    same_class = question.clients[0].priority == question.clients[1].priority

    def worth(levels: tuple[int, ...]) -> tuple[float, ...]:
        a = [c.accuracies[n] for c, n in zip(question.clients, levels, strict=True)]
        return (round(sum(a), 9),) if same_class else (a[first], a[second])

    possible = [
        worth(levels) for levels in product(*sizes) if solve(question, Asked(levels, (1, 1), (1.0, 1.0)))
    ]
    assert worth(answer.asked.levels) == max(possible)


@pytest.mark.parametrize("apps", [3, 5])
def test_nothing_is_given_up_in_vain(apps: int) -> None:
    conceded = 0
    for seed in range(12):
        question = random_question(np.random.default_rng(2000 + seed), apps)
        answer = best(question)
        assert len(answer.entries) == apps
        if answer.power_w > question.limit_w:
            continue
        asked = answer.asked
        for i in range(apps):
            if asked.dividers[i] > 1:
                conceded += 1
                whole = (*asked.dividers[:i], 1, *asked.dividers[i + 1 :])
                assert solve(question, replace(asked, dividers=whole)) is None
            if asked.levels[i] > 0:
                assert solve(question, asked.at(i, asked.levels[i] - 1)) is None
    assert conceded > 0


def test_what_cannot_run_at_all_is_an_error() -> None:
    client = Client("a", 0, 10.0, 50.0, (0.7,), {})
    place = Place("gpu", np.ones(2), np.ones(2), 0.1, np.ones(2))
    with pytest.raises(ValueError, match="no processor"):
        best(Question((client,), (place,), 1.0, inf, overlap))


def test_a_deadline_that_cannot_be_held_is_missed_by_little() -> None:
    entry = SubnetEntry("s", "gpu", 0.7, 40.0, 40.0, 0.0)
    choice = Choice((entry,), np.array([[80.0, 40.0]]), 1.0, 1.0)
    place = Place("gpu", np.array([0.5, 1.0]), np.array([1.0, 2.0]), 0.1, np.array([0.5, 1.0]))
    client = Client("a", 0, 10.0, 38.0, (0.7,), {"gpu": choice})
    answer = best(Question((client,), (place,), 1.0, inf, overlap))
    assert answer.asked.stretches == (1.1,) and answer.asked.dividers == (1,) and answer.levels == {"gpu": 1}
