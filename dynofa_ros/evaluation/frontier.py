"""Policies at equal misses and accuracy: sweeps of one knob, and the least energy of a mix of their runs.

A policy is a set of runs of one scene, one for each value of its knob (`policies.constants.KNOBS`). A random
choice among them has the mean of their energies, misses, accuracies and times above a power cap; the least
energy of such a mix with no more than some share of misses, no more than some shortfall of accuracy, and no
more time above the cap than is tolerated, is a small linear program. It is the line between two neighbours of
the knob, and it makes the oracle O1m a mix of operating points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import inf, isfinite
from typing import Any

import numpy as np
from scipy.optimize import linprog

from dynofa_ros.evaluation.policies import make_policy
from dynofa_ros.evaluation.policies.constants import DEFAULT, KNOBS
from dynofa_ros.evaluation.score import (
    OVER_CAP_PERCENT,
    cap_violation,
    miss_percent,
    reversals,
    shortfall,
)
from dynofa_ros.recording.metrics import mean
from dynofa_ros.simulation.log import Run
from dynofa_ros.simulation.scene import NewParameters, Scene
from dynofa_ros.simulation.simulator import simulate

ORACLES = ("O1m", "O1m_rest")
WARY = {"O1m": (0.5, 1.0, 1.4, 2.0), "O1m_rest": (1.0, 1.4)}  # of an oracle with several applications
PEAKS_ALONE, PEAKS = (0.0, 1.0), (0.0, 0.5, 1.0)  # of an oracle under a power cap, and with several
FAR_TOO_MANY, HARDLY_ANY = 5.0, 0.25  # misses (%)
EQUAL_ACCURACY_POINTS = 0.1  # below the targets
NO_DIFFERENCE = 1e-3  # of energies


@dataclass(frozen=True)
class Point:
    """One run, or the mean over the seeds. ``below_points``: of accuracy, below the targets. ``wary``,
    ``peaks``: of an oracle (see `oracles.Oracle`). ``over_cap_percent``: of the time under a power cap."""

    policy: str
    knob: float
    wary: float
    seed: int
    energy_j: float
    miss_percent: float
    below_points: float
    reversals_per_min: float
    peaks: float = 1.0
    over_cap_percent: float = 0.0

    @property
    def key(self) -> tuple[str, float, float, float]:
        """What is the same for all seeds."""
        return self.policy, self.knob, self.wary, self.peaks


def point_of(run: Run, knob: float, wary: float = 1.0, peaks: float = 1.0) -> Point:
    """The figures of a run: of all of it, its start included."""
    answered = [f for f in run.frames if isfinite(f.latency_ms)]
    turned = sum(reversals(run).values()) / (run.scene.duration_s / 60.0)
    below = 100.0 * shortfall(answered, run.scene)
    energy_j, misses = run.samples[-1].energy_j, miss_percent(run.frames)
    over = cap_violation(run.samples)["cap_violation_percent"]
    over = over if isfinite(over) else 0.0
    return Point(run.policy, knob, wary, run.seed, energy_j, misses, below, turned, peaks, over)


def sweep(scene: Scene, seeds: Sequence[int], policies: Iterable[str]) -> list[Point]:
    """All policies over the values of their knobs on the same requests, noise and true libraries."""
    memories: dict[int, dict[Any, Any]] = {seed: {} for seed in seeds}
    points = []
    several = len(scene.apps) > 1
    asked = [scene.parameters, *(e.parameters for e in scene.timeline if isinstance(e, NewParameters))]
    capped = any(isfinite(parameters.power_cap_w) for parameters in asked)
    for policy in policies:
        wary = WARY[policy] if policy in ORACLES and several else (1.0,)
        peaks = (PEAKS if several else PEAKS_ALONE) if policy in ORACLES and capped else (1.0,)
        for guesses in product(wary, peaks):

            def run(value: float, policy: str = policy, guesses: Any = guesses) -> list[Point]:
                found = []
                for seed in seeds:
                    oracle = {"memory": memories[seed], **dict(zip(("wary", "peaks"), guesses, strict=True))}
                    own = oracle if policy in ORACLES else {}
                    made = make_policy(policy, **own, **{KNOBS[policy][0]: value})
                    found.append(point_of(simulate(scene, made, seed), value, *guesses))
                return found

            points += _sweep(KNOBS[policy][2], DEFAULT.get(policy), run)
    return points


def _sweep(values: Sequence[float], itself: float | None, run: Callable[[float], list[Point]]) -> list[Point]:
    """The ends, the policy by itself, and what lies between, unless that can say nothing: two neighbours are
    alike, both miss far too much, or the thriftier one misses next to nothing."""
    known: dict[float, list[Point]] = {}

    def at(value: float) -> Point:
        if value not in known:
            known[value] = run(value)
        return mean_points(known[value])[0]

    def between(low: int, high: int) -> None:
        thrifty, careful = at(values[low]), at(values[high])
        differ = abs(thrifty.energy_j / careful.energy_j - 1.0)
        differ += abs(thrifty.miss_percent - careful.miss_percent)
        hopeless = min(thrifty.miss_percent, careful.miss_percent) > FAR_TOO_MANY
        if high - low > 1 and not (differ < NO_DIFFERENCE or hopeless or thrifty.miss_percent < HARDLY_ANY):
            between(low, (low + high) // 2)
            between((low + high) // 2, high)

    middle = 0 if itself is None else values.index(itself)
    for low, high in pairwise(sorted({0, middle, len(values) - 1})):
        between(low, high)
    return [point for value in sorted(known) for point in known[value]]


def least_energy_j(points: Sequence[Point], misses: float, below: float = EQUAL_ACCURACY_POINTS) -> float:
    """Least energy of a mix with no more than these misses (%) and points below the targets, and no more time
    above a cap than `OVER_CAP_PERCENT`; inf if none."""
    known = [p for p in points if isfinite(p.energy_j + p.miss_percent + p.below_points)]
    if not known:
        return inf
    limits = np.array([(p.miss_percent, p.below_points, p.over_cap_percent) for p in known]).T
    found = linprog(
        [p.energy_j for p in known],
        A_ub=limits,
        b_ub=[misses + 1e-9, below + 1e-9, OVER_CAP_PERCENT + 1e-9],
        A_eq=np.ones((1, len(known))),
        b_eq=[1.0],
    )
    return float(found.fun) if found.status == 0 else inf


def mean_points(points: Iterable[Point]) -> list[Point]:
    """The mean over the seeds for every policy and value of its knob."""
    groups: dict[tuple[str, float, float, float], list[Point]] = {}
    for point in points:
        groups.setdefault(point.key, []).append(point)
    return [
        replace(
            own[0],
            energy_j=mean(p.energy_j for p in own),
            miss_percent=mean(p.miss_percent for p in own),
            below_points=mean(p.below_points for p in own),
            reversals_per_min=mean(p.reversals_per_min for p in own),
            over_cap_percent=mean(p.over_cap_percent for p in own),
        )
        for own in groups.values()
    ]


def default_point(points: Iterable[Point], policy: str) -> Point | None:
    """The policy as it is by itself."""
    return next((p for p in points if (p.policy, p.knob) == (policy, DEFAULT[policy])), None)


def dominating(points: Sequence[Point], ours: Point, baselines: Iterable[str]) -> list[str]:
    """Baselines that with one value of their knob take less energy at no more misses, no less accuracy and no
    more time above a power cap."""
    return [
        name
        for name in baselines
        if any(
            p.energy_j < ours.energy_j * (1.0 - NO_DIFFERENCE)
            and p.miss_percent <= ours.miss_percent + 1e-9
            and p.below_points <= ours.below_points + 1e-9
            and p.over_cap_percent <= ours.over_cap_percent + 1e-9
            for p in points
            if p.policy == name
        )
    ]


def by_policy(points: Iterable[Point]) -> Mapping[str, list[Point]]:
    """The points of every policy; those of both oracles as one, which may do either."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(ORACLES[0] if point.policy in ORACLES else point.policy, []).append(point)
    return found
