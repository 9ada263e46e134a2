"""Tables of a study: what is compared with what, as numbers and as cells of Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

from dynofa_ros.evaluation.goals import EQUAL_MISS_POINTS
from dynofa_ros.evaluation.study import (
    ENERGY,
    ORACLE,
    OURS,
    STATIC,
    SWEEP,
    SWEEP_SCENES,
    Interval,
    Study,
    interval,
)

PART_NAMES = {
    "ours_subnet": "sub-network only",
    "ours_dvfs": "DVFS only",
    "ours_mapping": "mapping only",
    OURS: "all",
}
PER_FRAME = "O1f"
MISSES = "miss_percent"
SWEEP_OTHERS, AS_IT_IS = (STATIC, "B1", ORACLE), "as in the board file"
EQUAL_ACCURACY = 0.005  # below the targets

Row = tuple[str, ...]
Cell = Callable[[Study, str, str], str]  # scene and policy -> text


def decomposition(study: Study) -> dict[str, dict[str, Interval]]:
    """Change of energy against B4 by scene and part; unequal misses are marked with a star."""
    found: dict[str, dict[str, Interval]] = {}
    for scene in dict.fromkeys(r["scenario"] for r in study.scores.get("parts", [])):
        bars = found.setdefault(scene, {})
        for policy, name in PART_NAMES.items():
            group = "main" if policy == OURS else "parts"
            change = study.change(scene, STATIC, policy, group=group, base="main")
            if isfinite(change[0]):
                misses = study.mean(scene, policy, MISSES, group), study.mean(scene, STATIC, MISSES)
                bars[name + _star(*misses)] = change
    return found


def _sweep(study: Study) -> list[tuple[str, str, str]]:
    """Scene, group and name of every variant of the power model; nothing if none was run."""
    groups = ["main", *(g for g in study.scores if g.startswith(SWEEP))]
    names = {g: AS_IT_IS if g == "main" else g.removeprefix(SWEEP) for g in groups}
    return [(scene, g, names[g]) for scene in SWEEP_SCENES for g in groups if len(groups) > 1]


def sensitivity(study: Study) -> dict[str, dict[str, Interval]]:
    """Change of energy of ours against B4 by scene and variant of the board."""
    found: dict[str, dict[str, Interval]] = {}
    for scene, group, name in _sweep(study):
        change = study.change(scene, STATIC, group=group)
        found.setdefault(scene, {}).update({name: change} if isfinite(change[0]) else {})
    return found


def sweep_table(study: Study) -> list[Row]:
    """Ours against B4, B1 and O1q for every variant of the power model: rows of scene, variant, changes."""
    rows: list[Row] = []
    for scene, group, name in _sweep(study):
        if study.has(scene, OURS, group):
            changes = (study.change(scene, other, group=group)[0] for other in SWEEP_OTHERS)
            rows.append((scene, name, *(f"{c:+.1f} %" if isfinite(c) else "–" for c in changes)))
    return rows


def near(one: float, other: float) -> bool:
    """Whether two shares of misses (%) are equal enough for energies to be compared."""
    return abs(one - other) <= EQUAL_MISS_POINTS


def _star(misses: float, others: float) -> str:
    """The mark of energies that are no comparison."""
    return "" if near(misses, others) else " *"


def best_baseline(study: Study, scene: str) -> str | None:
    """Least energy of those that miss about as little and are as near to the accuracy targets."""
    misses, below = (study.mean(scene, OURS, key) for key in (MISSES, "accuracy_shortfall"))
    fair = [
        policy
        for policy in study.policies
        if policy.startswith("B")
        and study.mean(scene, policy, MISSES) <= misses + EQUAL_MISS_POINTS
        and study.mean(scene, policy, "accuracy_shortfall") <= below + EQUAL_ACCURACY
    ]
    return min(fair, key=lambda policy: study.mean(scene, policy, ENERGY), default=None)


@dataclass(frozen=True)
class Gap:
    """Ours beside another policy: energy in percent with its interval, misses and accuracy in points.

    ``below_points``: by how much ours is further below the accuracy targets.
    """

    scenario: str
    against: str
    energy_percent: float
    low: float
    high: float
    miss_points: float
    below_points: float

    def __str__(self) -> str:
        star = _star(self.miss_points, 0.0)
        span = f"{self.low:+.1f} to {self.high:+.1f}"
        return (
            f"{self.energy_percent:+.1f} % ({span}){star} [{self.miss_points:+.2f}, {self.below_points:+.2f}]"
        )


def gap(study: Study, scene: str, other: str) -> Gap | None:
    """None if one of the two was not run."""
    change = study.change(scene, other)
    keys = (MISSES, "accuracy_shortfall")
    misses, below = (study.mean(scene, OURS, key) - study.mean(scene, other, key) for key in keys)
    return Gap(scene, other, *change, misses, 100.0 * below) if isfinite(change[0]) else None


def gaps(study: Study) -> list[Gap]:
    """Ours beside O1q, O1f and the best baseline in every scene."""
    others = ((scene, (ORACLE, PER_FRAME, best_baseline(study, scene))) for scene in study.scenes)
    found = (gap(study, scene, other) for scene, named in others for other in named if other)
    return [known for known in found if known]


# --- cells of Markdown --------------------------------------------------------------------------------------


def _mean_of(key: str, factor: float = 1.0) -> Cell:
    return lambda study, scene, policy: figure(factor * study.mean(scene, policy, key))


def _interval_of(key: str, digits: int) -> Cell:
    def cell(study: Study, scene: str, policy: str) -> str:
        mean, low, high = interval(study.values(scene, policy, key))
        return f"{mean:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    return cell


def _against_oracle(study: Study, scene: str, policy: str) -> str:
    change = study.change(scene, ORACLE, policy)[0]
    misses = (study.mean(scene, name, MISSES) for name in (policy, ORACLE))
    return f"{change:+.1f} %{_star(*misses)}" if isfinite(change) else ""


def _latencies(study: Study, scene: str, policy: str) -> str:
    return " / ".join(f"{study.mean(scene, policy, f'latency_ms.p{p}'):.0f}" for p in (50, 95, 99))


COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("misses (%)", _interval_of(MISSES, 2)),
    ("steady (%)", _mean_of("miss_steady_percent")),
    ("after steps (%)", _mean_of("miss_after_step_percent")),
    ("energy (J)", _interval_of(ENERGY, 0)),
    ("against O1q", _against_oracle),
    ("CPU-GPU (J)", _mean_of("energy_j.cpu_gpu")),
    ("above idle (J)", _mean_of("energy_j.above_idle")),
    ("J / frame", _mean_of("joule_per_frame")),
    ("p50 / p95 / p99 (ms)", _latencies),
    ("accuracy (%)", _mean_of("accuracy", 100.0)),
    ("below target (points)", _mean_of("accuracy_shortfall", 100.0)),
    ("over all due (%)", _mean_of("accuracy_due", 100.0)),
    ("EDP (mJ s)", _mean_of("edp", 1e3)),
    ("(1 + misses) J", _mean_of("ux_cost")),
    ("reversals /min", _mean_of("reversals_per_min")),
    ("switches /min", _mean_of("switches_per_min")),
    ("above cap (s)", _mean_of("cap_violation_s")),
    ("above limit (C)", _mean_of("over_temperature_c")),
    ("above limit (s)", _mean_of("over_temperature_s")),
)


def figure(value: float) -> str:
    if not isfinite(value):
        return "–" if value != inf else "never"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
