"""Degradation of an oracle where not everything fits: the objective `quality`, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from dynofa_ros.evaluation.policies.oracle_solver import Answer, Asked, Question, put, solve

DIVIDERS = (1, 2, 3, 4)
STRETCHES = (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0, inf)  # of a deadline that cannot be held


def best(question: Question) -> Answer:
    """Everything at its target at the least power; else what the objective `quality` gives up.

    First accuracies, the most important class losing least (exact for one or two applications of a class;
    of more, an equal loss for all and then the rest to each in turn). If not even the floors fit: rates, then
    deadlines, of the least important first, then the power limit; what had no effect is taken back, to
    the most important first. Raises ValueError if an application cannot run anywhere.
    """
    count = len(question.clients)
    every = Asked((0,) * count, (1,) * count, (1.0,) * count)
    answer = solve(question, every)
    if answer is not None:
        return answer
    lowest = tuple(len(c.accuracies) - 1 for c in question.clients)
    first = _first_feasible(question, _concessions(question, lowest))
    if first is not None:
        return _raise_accuracies(question, _take_back(question, first))
    answer = solve(question.unlimited(), Asked(lowest, (DIVIDERS[-1],) * count, (inf,) * count))
    if answer is None:
        raise ValueError("an application has no processor that it can run on")
    return answer


def _first_feasible(question: Question, steps: Sequence[Asked]) -> Asked | None:
    """The first one that can be given; each asks for less than the one before."""
    if solve(question, steps[-1]) is None:
        return None
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if solve(question, steps[middle]) is not None else (middle + 1, high)
    return steps[high]


def _concessions(question: Question, lowest: tuple[int, ...]) -> list[Asked]:
    """Floors for all, then one more step of the ladder after the other."""
    count = len(lowest)
    dividers, stretches = [1] * count, [1.0] * count
    steps = [Asked(lowest, tuple(dividers), tuple(stretches))]
    order = sorted(range(count), key=lambda i: (-question.clients[i].priority, -i))
    for priority in sorted({c.priority for c in question.clients}, reverse=True):
        for divider in DIVIDERS[1:]:
            for i in order:
                if question.clients[i].priority == priority:
                    dividers[i] = divider
                    steps.append(Asked(lowest, tuple(dividers), tuple(stretches)))
    for i in order:
        stretches[i] = inf
        steps.append(Asked(lowest, tuple(dividers), tuple(stretches)))
    return steps


def _take_back(question: Question, asked: Asked) -> Asked:
    """Deadlines, then rates, as far as those of all others allow."""
    for i in sorted(range(len(asked.levels)), key=lambda i: (question.clients[i].priority, i)):
        for name, values in (("stretches", STRETCHES), ("dividers", DIVIDERS)):
            now = getattr(asked, name)
            milder = (replace(asked, **{name: put(now, i, value)}) for value in values if value < now[i])
            asked = next((trial for trial in milder if solve(question, trial) is not None), asked)
    return asked


def _raise_accuracies(question: Question, asked: Asked) -> Answer:
    for priority in sorted({c.priority for c in question.clients}):
        members = [i for i, c in enumerate(question.clients) if c.priority == priority]
        if len(members) == 2:
            asked = _raise_two(question, asked, *members)
            continue
        if len(members) > 2:
            asked = _raise_equally(question, asked, members)
        for i in members:
            steps = [asked.at(i, level) for level in range(asked.levels[i] + 1)]
            asked = _first_feasible(question, steps) or asked
    answer = solve(question, asked)
    assert answer is not None
    return answer


def _raise_two(question: Question, asked: Asked, first: int, second: int) -> Asked:
    """Least sum of both losses: a walk along the border of what is feasible."""
    a, b = (question.clients[i].accuracies for i in (first, second))
    best_sum, best_asked = -inf, asked
    level = asked.levels[second]
    for place in range(asked.levels[first] + 1):
        trial = asked.at(first, place).at(second, level)
        if solve(question, trial) is None:
            continue
        while level > 0 and solve(question, trial.at(second, level - 1)) is not None:
            level -= 1
        if a[place] + b[level] > best_sum + 1e-12:
            best_sum, best_asked = a[place] + b[level], trial.at(second, level)
    return best_asked


def _raise_equally(question: Question, asked: Asked, members: Sequence[int]) -> Asked:
    losses = sorted({round(c.accuracies[0] - a, 9) for c in (question.clients[i] for i in members)
                     for a in c.accuracies})  # fmt: skip

    def at(loss: float) -> Asked:
        result = asked
        for i in members:
            accuracies = question.clients[i].accuracies
            within = [n for n, a in enumerate(accuracies) if accuracies[0] - a <= loss + 1e-9]
            result = result.at(i, within[-1])
        return result

    return _first_feasible(question, [at(loss) for loss in losses]) or asked
