"""The fair comparison: drawn scenes at exactly equal misses and equal accuracy, and the gates on it.

Energies are least energies of `frontier.least_energy_j`: of ours, of every baseline, of the oracle, each
over its own knob. Who holds a scene holds it by the protocol: misses, accuracy, and the time above a power
cap; ``capped`` = False takes the same figures without regard to the cap. Pure functions of a Study.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, nan

import numpy as np

from dynofa_ros.evaluation.frontier import (
    ORACLES,
    Point,
    by_policy,
    default_point,
    dominating,
    least_energy_j,
    mean_points,
)
from dynofa_ros.evaluation.score import OVER_CAP_PERCENT
from dynofa_ros.evaluation.study import OURS, STATIC, Study

MISSES = (0.5, 1.0, 2.0)  # % at which policies are compared
TOLERATED = 1.0  # of the gates
ORACLE = ORACLES[0]


@dataclass(frozen=True)
class FairScene:
    """One drawn scene. ``gaps``: of ours over the oracle in %, one for each seed in which the oracle holds
    the tolerance; inf where ours does not. ``energies_j``: by policy and misses, inf where it cannot."""

    name: str
    title: str
    held: bool
    gaps: tuple[float, ...]
    ours: Point
    dominating: tuple[str, ...]
    energies_j: dict[str, dict[float, float]]
    resting_percent: float  # what resting between frames changes for the oracle

    @property
    def broken(self) -> bool:
        """Whether ours, as it is, misses more or is longer above a power cap than is tolerated."""
        return self.ours.miss_percent > TOLERATED or self.ours.over_cap_percent > OVER_CAP_PERCENT

    def change(self, other: str, misses: float) -> float:
        """Energy of ours against another policy in %; NaN if one of the two cannot."""
        own_j, other_j = (self.energies_j.get(name, {}).get(misses, inf) for name in (OURS, other))
        return percent(own_j, other_j) if isfinite(own_j) and isfinite(other_j) else nan


def percent(one: float, other: float) -> float:
    """Change against another in %."""
    return 100.0 * (one / other - 1.0)


def fair_scenes(study: Study, *, capped: bool = True) -> list[FairScene]:
    """All drawn scenes that were run."""
    return [_scene(study, name, capped) for name in study.drawn]


def _scene(study: Study, name: str, capped: bool) -> FairScene:
    points = study.points(name)
    if not capped:
        points = [replace(point, over_cap_percent=0.0) for point in points]
    means = mean_points(points)
    policies = by_policy(means)
    energies = {policy: {m: least_energy_j(own, m) for m in MISSES} for policy, own in policies.items()}
    gaps = []
    for seed in sorted({p.seed for p in points}):
        draw = by_policy(p for p in points if p.seed == seed)
        best_j = least_energy_j(draw[ORACLE], TOLERATED)
        if isfinite(best_j):
            gaps.append(percent(least_energy_j(draw[OURS], TOLERATED), best_j))
    ours = default_point(means, OURS)
    assert ours is not None
    held = isfinite(energies[ORACLE][TOLERATED])
    awake_j = least_energy_j([p for p in means if p.policy == ORACLE], TOLERATED)
    return FairScene(
        name=name,
        title=study.drawn[name].title,
        held=held,
        gaps=tuple(gaps),
        ours=ours,
        dominating=tuple(dominating(means, ours, (p for p in policies if p.startswith("B")))),
        energies_j=energies,
        resting_percent=percent(energies[ORACLE][TOLERATED], awake_j) if held and isfinite(awake_j) else nan,
    )


def others(scenes: list[FairScene]) -> list[str]:
    """The policies that ours is compared with: schedutil first, the oracle last."""
    names = dict.fromkeys(name for scene in scenes for name in scene.energies_j if name != OURS)
    return sorted(names, key=lambda name: (name == ORACLE, name != STATIC))


@dataclass(frozen=True)
class Summary:
    """Ours against another policy over the scenes in which both can hold the misses; changes in %."""

    other: str
    misses: float
    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    both: int
    only_ours: int
    only_other: int


def summaries(scenes: list[FairScene]) -> list[Summary]:
    """Every other policy at every share of misses."""
    found = []
    for other in others(scenes):
        for misses in MISSES:
            can = [
                tuple(isfinite(s.energies_j.get(name, {}).get(misses, inf)) for name in (OURS, other))
                for s in scenes
            ]
            changes = [c for s in scenes if isfinite(c := s.change(other, misses))]
            low, median, high = np.quantile(changes, (0.1, 0.5, 0.9)).tolist() if changes else (nan, nan, nan)
            alone = can.count((True, False)), can.count((False, True))
            found.append(Summary(other, misses, median, low, high, len(changes), *alone))
    return found


def gap_quantile(scenes: list[FairScene], share: float) -> float:
    """Over all draws; a draw that ours cannot hold is above all others."""
    known = [gap for scene in scenes for gap in scene.gaps]
    return float(np.quantile(known, share, method="higher")) if known else nan
