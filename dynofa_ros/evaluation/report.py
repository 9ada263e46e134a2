"""The report of a study: tables, and Markdown with pictures. Every page says what it is: a simulation.

The text is the template report.md.j2; here is what fills it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import inf, isfinite
from pathlib import Path
from typing import Any

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.fair import TOLERATED, FairScene, fair_scenes, others, summaries
from dynofa_ros.evaluation.goals import ACCOUNTINGS, EQUAL_MISS_POINTS, PAIRS, Goal
from dynofa_ros.evaluation.policies import POLICIES
from dynofa_ros.evaluation.policies.constants import KNOBS
from dynofa_ros.evaluation.policies.profile import static_entry
from dynofa_ros.evaluation.report_plots import plot_bars, plot_energy
from dynofa_ros.evaluation.score import OVER_CAP_PERCENT
from dynofa_ros.evaluation.study import (
    DRAWN,
    ENERGY,
    NOISE_FREE,
    ORACLE,
    OURS,
    PAPER,
    STATIC,
    SWEEP,
    SWEEP_SCENES,
    Interval,
    Study,
    interval,
)
from dynofa_ros.files import write_atomically
from dynofa_ros.recording.timeline_plot import plot_timelines
from dynofa_ros.simulation.scene import Scene

REPORT = "report.md"
TEMPLATE = Path(__file__).with_name("report.md.j2")
STEPPER = "B6"
DECISION_SCENES = ("S1", "S4", "S7", "S9")
DECISION_KEYS = ("decision_p50_ms", "decision_p99_ms", "decision_max_ms", "manager_cpu_percent")
LEAST_CPU_PERCENT = 0.02  # of a policy whose decisions take time worth a row
PART_NAMES = {
    "ours_subnet": "sub-network only",
    "ours_dvfs": "DVFS only",
    "ours_mapping": "mapping only",
    OURS: "all",
}
MISSES = "miss_percent"
SWEEP_OTHERS, AS_IT_IS = (STATIC, "B1", ORACLE), "as in the board file"

Row = tuple[str, ...]
Cell = Callable[[Study, str, str], str]  # scene and policy -> text


# --- tables: what is compared with what ---------------------------------------------------------------------


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


# --- document and pages -------------------------------------------------------------------------------------


def to_document(study: Study, found: Sequence[Goal], board: Board, seeds: int) -> dict[str, Any]:
    """What `--json` holds; ``results`` and ``goals`` as DESIGN 8 has them, with more keys."""
    return {
        "simulated": True,
        "board": board.name,
        "guesses": list(board.guesses),
        "seeds": seeds,
        "results": study.scores.get("main", []),
        "goals": [asdict(goal) | {"status": goal.status} for goal in found],
        "drawn": study.scores.get(DRAWN, []),
        "fair": [asdict(summary) for summary in summaries(fair_scenes(study))],
        "noise_free": study.scores.get(NOISE_FREE, []),
        "decomposition": study.scores.get("parts", []),
        "paper": study.scores.get(PAPER, []),
        "sensitivity": {
            g.removeprefix(SWEEP): rows for g, rows in study.scores.items() if g.startswith(SWEEP)
        },
    }


def footer(board: Board) -> str:
    """The line under every picture."""
    return (
        f"Simulated, not measured on a board: board file {board.name}.yaml, "
        f"{len(board.guesses)} of whose values are guesses; figures depend on them."
    )


def write_report(
    study: Study, found: Sequence[Goal], scenes: Sequence[Scene], board: Board, seeds: int, folder: Path
) -> Path:
    """Pictures and report.md into a folder; returns the report.

    Raises OSError, or ModuleNotFoundError where Jinja2 is missing.
    """
    from jinja2 import Environment, StrictUndefined

    folder.mkdir(parents=True, exist_ok=True)
    drawn, uncapped = fair_scenes(study), fair_scenes(study, capped=False)
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text()).render(
        footer=footer(board),
        seeds=seeds,
        over_cap=OVER_CAP_PERCENT,
        board=board,
        pictures=_draw(study, scenes, board, folder),
        policies=[(name, POLICIES[name][1]) for name in study.policies],
        fair=_fair(drawn),
        drawn_seeds=len({row["seed"] for row in study.scores.get(DRAWN, [])}),
        knobs=[(name, *KNOBS[name][1:]) for name in KNOBS if drawn],
        drawn=[_drawn_row(*both) for both in zip(drawn, uncapped, strict=True)],
        drawn_heads=("scene", *_drawn_heads()),
        goals=[_goal(g) for g in found],
        fair_goals=[_goal(g) for g in found if g.name.startswith("drawn_")],
        paper=_paper(study),
        static=_static(scenes),
        settling=_settling(study),
        sweep=sweep_table(study),
        decisions=_decisions(study),
        scenes=[_scene(study, scene) for scene in scenes if scene.name in study.scenes],
    )
    path = folder / REPORT
    write_atomically(path, text.encode())
    return path


def _goal(goal: Goal) -> Row:
    kind = "gate" if goal.gate else ""
    return goal.name, kind, goal.goal, figure(goal.value), goal.status, goal.note


def _draw(study: Study, scenes: Sequence[Scene], board: Board, folder: Path) -> set[str]:
    """Draws what there is; the names of the files."""
    line = footer(board)
    drawn = {"energy.png"} if study.scenes else set()
    if drawn:
        plot_energy(study, line, folder / "energy.png")
    for scene in scenes:
        beside = (OURS, STEPPER if scene.name == "S3" else STATIC, ORACLE)
        runs = {p: study.runs[scene.name, p] for p in beside if (scene.name, p) in study.runs}
        if runs:
            file = _timeline(scene.name)
            plot_timelines(runs, folder / file, f"{scene.name}: {scene.title}", line)
            drawn.add(file)
    parts = decomposition(study)
    if any(parts.values()):
        title = "Energy against B4, knob by knob"
        plot_bars(parts, title, "change of the energy of the module (%)", line, folder / "decomposition.png")
        drawn.add("decomposition.png")
    return drawn


def _fair(scenes: list[FairScene]) -> list[Row]:
    """A row for each other policy: the change of the energy of ours at each share of misses."""
    rows: list[Row] = []
    for other in others(scenes):
        cells = [
            f"{s.median:+.1f} % ({s.low:+.1f} to {s.high:+.1f}) [{s.both}, {s.only_ours}, {s.only_other}]"
            for s in summaries(scenes)
            if s.other == other
        ]
        rows.append((other, POLICIES[other][1], *cells))
    return rows


def _drawn_heads() -> tuple[str, ...]:
    return (
        "what was drawn", "misses (%)", "above the cap (%)", "below target (points)", "reversals /min",
        f"over the oracle at {TOLERATED:.0f} % misses, by seed", "against B4", "best baseline",
        "dominated by", "without regard to the cap",
    )  # fmt: skip


def _gaps(scene: FairScene) -> str:
    gaps = ", ".join(f"{gap:+.1f} %" if isfinite(gap) else "not held" for gap in scene.gaps)
    return gaps if scene.held else f"the oracle does not hold it ({gaps or 'in no seed'})"


def _drawn_row(scene: FairScene, uncapped: FairScene) -> Row:
    """``uncapped``: the scene without regard to power caps; shown where that changes what is said."""

    def against(other: str) -> str:
        change = scene.change(other, TOLERATED)
        return f"{change:+.1f} %" if isfinite(change) else "–"

    able = {
        n: e[TOLERATED] for n, e in scene.energies_j.items() if n.startswith("B") and isfinite(e[TOLERATED])
    }
    best = min(able, key=lambda name: able[name], default="")
    shown = [(_gaps(s), ", ".join(s.dominating) or "none") for s in (scene, uncapped)]
    return (
        scene.name,
        scene.title,
        f"{scene.ours.miss_percent:.2f}",
        f"{scene.ours.over_cap_percent:.2f}",
        f"{scene.ours.below_points:.2f}",
        f"{scene.ours.reversals_per_min:.1f}",
        shown[0][0],
        against(STATIC),
        f"{against(best)} ({best})" if best else "none holds it",
        shown[0][1],
        "the same" if shown[0] == shown[1] else f"{shown[1][0]}; dominated by {shown[1][1]}",
    )


def _timeline(scene: str) -> str:
    return f"timeline_{scene.lower().replace(' ', '_')}.png"


def _paper(study: Study) -> list[Row]:
    rows = []
    for pair in PAIRS:
        changes = [pair.change(study, f"energy_j.{a}") for a in ACCOUNTINGS]
        if not isfinite(changes[0]):
            continue
        misses, accuracy = pair.both(study, "miss_percent"), pair.both(study, "accuracy")
        rows.append(
            (
                pair.published,
                f"{pair.ours[0]} against {pair.policy} in {pair.other[0]}",
                *(f"{change:+.1f} %" for change in changes),
                f"{pair.change(study, 'latency_ms.p50'):+.1f} %",
                f"{misses[0]:.1f} / {misses[1]:.1f}" + ("" if near(*misses) else " *"),
                f"{100 * accuracy[0]:.2f} / {100 * accuracy[1]:.2f}",
            )
        )
    return rows


def _static(scenes: Sequence[Scene]) -> list[tuple[str, Any, Any]]:
    """What the static baselines run in the scenes that stand beside the paper's figures."""
    named = {pair.other[0] for pair in PAIRS}
    return [(s.name, app, static_entry(s, app)) for s in scenes if s.name in named for app in s.apps]


def _settling(study: Study) -> list[Row]:
    if not study.has("S3", OURS):
        return []
    rows: list[Row] = []
    for policy in (OURS, STEPPER, ORACLE):
        steps = [row["settle_by_step"] for row in study.rows("S3", policy)]
        if steps:
            rows.append((policy, *(_settled(values) for values in zip(*steps, strict=True))))
    return rows


def _settled(values: Sequence[float]) -> str:
    known = sorted(v for v in values if isfinite(v))
    never = len(values) - len(known)
    middle = (len(values) - 1) // 2
    text = f"{known[middle]:.0f}" if middle < len(known) else "never"
    return f"{text} ({never})" if never else text


def _decisions(study: Study) -> list[Row]:
    return [
        (scene, policy, *(figure(study.mean(scene, policy, key)) for key in DECISION_KEYS))
        for scene in DECISION_SCENES
        for policy in study.policies
        if isfinite(study.mean(scene, policy, "decision_p99_ms"))
        and not policy.startswith("O")
        and study.mean(scene, policy, "manager_cpu_percent") > LEAST_CPU_PERCENT
    ]


def _scene(study: Study, scene: Scene) -> tuple[Scene, str, Row, list[Row]]:
    """A scene with the name of its picture, and its figures; columns that say nothing are left out."""
    policies = [policy for policy in study.policies if study.has(scene.name, policy)]
    columns = [(head, [cell(study, scene.name, policy) for policy in policies]) for head, cell in COLUMNS]
    shown = [(head, cells) for head, cells in columns if not set(cells) <= {"–", "0.00", ""}]
    rows = list(zip(policies, *(cells for _, cells in shown), strict=True))
    return scene, _timeline(scene.name), ("", *(head for head, _ in shown)), rows
