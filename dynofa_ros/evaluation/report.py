"""The report of a study: Markdown with pictures beside it. Every page says what it is: a simulation.

The text is the template report.md.j2; here is what fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.goals import ACCOUNTINGS, PAIRS, Goal
from dynofa_ros.evaluation.policies import POLICIES
from dynofa_ros.evaluation.policies.profile import static_entry
from dynofa_ros.evaluation.report_plots import plot_bars, plot_energy
from dynofa_ros.evaluation.report_tables import (
    COLUMNS,
    PER_FRAME,
    Row,
    best_baseline,
    decomposition,
    figure,
    gaps,
    near,
    sensitivity,
    sweep_table,
)
from dynofa_ros.evaluation.report_timelines import plot_timelines
from dynofa_ros.evaluation.study import NOISE_FREE, ORACLE, OURS, PAPER, STATIC, SWEEP, Study
from dynofa_ros.files import write_atomically
from dynofa_ros.simulation.scene import Scene

REPORT = "report.md"
TEMPLATE = Path(__file__).with_name("report.md.j2")
STEPPER = "B6"
DECISION_SCENES = ("S1", "S4", "S7", "S9")
DECISION_KEYS = ("decision_p50_ms", "decision_p99_ms", "decision_max_ms", "manager_cpu_percent")
LEAST_CPU_PERCENT = 0.02  # of a policy whose decisions take time worth a row


def to_document(study: Study, found: Sequence[Goal], board: Board, seeds: int) -> dict[str, Any]:
    """What `--json` holds; ``results`` and ``goals`` as DESIGN 8 has them, with more keys."""
    return {
        "simulated": True,
        "board": board.name,
        "guesses": list(board.guesses),
        "seeds": seeds,
        "results": study.scores.get("main", []),
        "goals": [asdict(goal) | {"status": goal.status} for goal in found],
        "gaps": [asdict(gap) for gap in gaps(study)],
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
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text()).render(
        footer=footer(board),
        seeds=seeds,
        board=board,
        pictures=_draw(study, board, folder),
        policies=[(name, POLICIES[name][1]) for name in study.policies],
        goals=[(g.name, "gate" if g.gate else "", g.goal, figure(g.value), g.status, g.note) for g in found],
        paper=_paper(study),
        static=_static(scenes),
        settling=_settling(study),
        gaps=_gaps(study),
        sweep=sweep_table(study),
        decisions=_decisions(study),
        scenes=[_scene(study, scene) for scene in scenes if scene.name in study.scenes],
    )
    path = folder / REPORT
    write_atomically(path, text.encode())
    return path


def _draw(study: Study, board: Board, folder: Path) -> set[str]:
    """Draws what there is; the names of the files."""
    line = footer(board)
    plot_energy(study, line, folder / "energy.png")
    drawn = {"energy.png"}
    for scene in study.scenes:
        beside = (OURS, STEPPER if scene == "S3" else STATIC, ORACLE)
        runs = [study.runs[scene, policy] for policy in beside if (scene, policy) in study.runs]
        if runs:
            plot_timelines(runs, line, folder / _timeline(scene))
            drawn.add(_timeline(scene))
    for name, title, values in (
        ("decomposition.png", "Energy against B4, knob by knob", decomposition(study)),
        ("sensitivity.png", "Energy against B4 when guesses of the power model change", sensitivity(study)),
    ):
        if any(values.values()):
            plot_bars(values, title, "change of the energy of the module (%)", line, folder / name)
            drawn.add(name)
    return drawn


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


def _gaps(study: Study) -> list[Row]:
    """Ours beside O1q, O1f and the best baseline."""
    found = {(gap.scenario, gap.against): gap for gap in gaps(study)}
    rows: list[Row] = []
    for scene in study.scenes if found else ():
        oracles = [str(found.get((scene, other), "–")) for other in (ORACLE, PER_FRAME)]
        best = best_baseline(study, scene)
        last = f"{found[scene, best]} ({best})" if best and (scene, best) in found else "none as good"
        rows.append((scene, *oracles, last))
    return rows


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
