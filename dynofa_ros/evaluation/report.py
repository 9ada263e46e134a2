"""The report of a study: Markdown with pictures beside it. Every page says what it is: a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation import report_plots as study_plots
from dynofa_ros.evaluation import report_timelines as study_timelines
from dynofa_ros.evaluation.goals import ACCOUNTINGS, EQUAL_MISS_POINTS, PAIRS, Goal
from dynofa_ros.evaluation.policies import DESCRIPTIONS
from dynofa_ros.evaluation.policies.profile import static_entry
from dynofa_ros.evaluation.report_tables import (
    COLUMNS,
    PER_FRAME,
    SWEEP_OTHERS,
    best_baseline,
    decomposition,
    figure,
    gaps,
    near,
    sensitivity,
    sweep_table,
    table,
)
from dynofa_ros.evaluation.study import (
    FASTER,
    FLOOR,
    NOISE_FREE,
    ORACLE,
    OURS,
    PAPER,
    STATIC,
    SWEEP,
    Study,
)
from dynofa_ros.files import write_atomically
from dynofa_ros.simulation.scene import Scene

REPORT = "report.md"
STEPPER = "B6"
DECISION_SCENES = ("S1", "S4", "S7", "S9")
DECISION_KEYS = ("decision_p50_ms", "decision_p99_ms", "decision_max_ms", "manager_cpu_percent")
PAPER_NOTE = (
    "A star: misses differ by more than a point, the energies are no comparison. B4: schedutil on the CPU, "
    "nvhost_podgov on the GPU, clocks between the limits that the board starts with, processor fixed, and "
    "the most accurate sub-network whose 99th percentile at the top clock meets the deadline; B1: the same "
    "with governor performance. The paper names neither its sub-networks nor its deadlines. "
    f"`{FASTER}`: ours has to be faster, its deadline is 91 % of B4's median latency in S1. "
    f"`{FLOOR}`: B4 runs the smallest sub-network with the accuracy that is asked for, as in `S2 half`. "
    "Nothing was tuned towards the published figures."
)


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
    """Pictures and report.md into a folder; returns the report. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw(study, board, folder)
    parts = [
        _head(board, seeds, study),
        _goals(found),
        _paper(study, scenes),
        _decomposition(study, pictures),
        _settling(study),
        _picture("Energy against misses", "energy.png"),
        _gaps(study),
        _sweep(study, pictures),
        _decisions(study),
        *(_scenario(study, scene, pictures) for scene in scenes),
        _guesses(board),
    ]
    path = folder / REPORT
    write_atomically(path, "\n".join(part for part in parts if part).encode())
    return path


# --- pictures -----------------------------------------------------------------------------------------------


def _draw(study: Study, board: Board, folder: Path) -> set[str]:
    line = footer(board)
    study_plots.plot_energy(study, line, folder / "energy.png")
    drawn = {"energy.png"}
    for scene in study.scenes:
        rival = STEPPER if scene == "S3" else STATIC
        beside = (OURS, rival, ORACLE)
        runs = [study.runs[scene, policy] for policy in beside if (scene, policy) in study.runs]
        if runs:
            study_timelines.plot_timelines(runs, line, folder / _timeline(scene))
            drawn.add(_timeline(scene))
    for name, title, values in (
        ("decomposition.png", "Energy against B4, knob by knob", decomposition(study)),
        ("sensitivity.png", "Energy against B4 when guesses of the power model change", sensitivity(study)),
    ):
        if any(values.values()):
            study_plots.plot_bars(
                values, title, "change of the energy of the module (%)", line, folder / name
            )
            drawn.add(name)
    return drawn


def _timeline(scene: str) -> str:
    return f"timeline_{scene.lower().replace(' ', '_')}.png"


# --- pages --------------------------------------------------------------------------------------------------


def _head(board: Board, seeds: int, study: Study) -> str:
    policies = "\n".join(f"- `{name}`: {DESCRIPTIONS.get(name, '')}" for name in study.policies)
    return (
        f"# Evaluation of the runtime manager\n\n"
        f"> **{footer(board)}** The guesses are listed at the end; how the results move when the most "
        f"important of them change is in the section on sensitivity.\n\n"
        f"{seeds} seeds; all policies meet the same images, noise and events. Intervals are 95 % bootstrap "
        f"intervals over the seeds. Energies may only be compared at equal misses (within "
        f"{EQUAL_MISS_POINTS:g} point).\n\n{policies}\n"
    )


def _goals(found: Sequence[Goal]) -> str:
    rows = [
        (goal.name, "gate" if goal.gate else "", goal.goal, figure(goal.value), goal.status, goal.note)
        for goal in found
    ]
    return "## Goals\n\n" + table(("goal", "", "wanted", "value", "", "by scene, spread"), rows)


def _paper(study: Study, scenes: Sequence[Scene]) -> str:
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
    if not rows:
        return ""
    head = (
        "the paper", "here", "all rails", "CPU-GPU rail", "above idle", "median latency",
        "misses ours / other (%)", "accuracy ours / other (%)",
    )  # fmt: skip
    return f"## Beside the paper's figures\n\n{table(head, rows)}\n{PAPER_NOTE}\n\n{_static(scenes)}"


def _static(scenes: Sequence[Scene]) -> str:
    """What the static baselines run in the scenes that stand beside the paper's figures."""
    lines = ""
    for scene in scenes:
        if scene.name not in {pair.other[0] for pair in PAIRS}:
            continue
        for app in scene.apps:
            entry, asked = static_entry(scene, app), app.targets
            lines += (
                f"- {scene.name}, `{app.name}`, {asked.rate_hz:g} Hz, deadline {asked.latency_target_ms:g} "
                f"ms, accuracy {100 * asked.accuracy_floor:g} %: B4 runs `{entry.id}` on the "
                f"{entry.processor.upper()}, {100 * entry.accuracy:.2f} %, {entry.latency_ms:.1f} ms at the "
                "library's clock\n"
            )
    return f"The static sub-networks:\n\n{lines}"


def _decomposition(study: Study, pictures: set[str]) -> str:
    if "decomposition.png" not in pictures:
        return ""
    return (
        "## Which knob saves what\n\n![energy against B4, knob by knob](decomposition.png)\n\n"
        "A star marks misses that differ from B4's by more than a point: no comparison of energies. The "
        "parts do not add up: sub-network only keeps B4's governors, which slow down by themselves when "
        "there is less to do.\n"
    )


def _settling(study: Study) -> str:
    if "S3" not in study.scenes or not study.has("S3", OURS):
        return ""
    rows = []
    for policy in (OURS, STEPPER, ORACLE):
        steps = [r["settle_by_step"] for r in study.scores["main"] if _is(r, "S3", policy)]
        if steps:
            rows.append((policy, *(_settled([s[n] for s in steps]) for n in range(4))))
    head = ("", "load x 1.35", "load off", "load x 1.15", "load off")
    return (
        "## Settling beside Dynamic-OFA's stepper (S3)\n\n"
        "Frames until 20 consecutive ones meet the deadline at the accuracy of O1q +-1 point; median over "
        "the seeds, in brackets how many of them never settled before the next step. The published "
        "figure 7 takes about 100 frames after the load starts.\n\n" + table(head, rows)
    )


def _is(row: Mapping[str, Any], scene: str, policy: str) -> bool:
    return bool(row["scenario"] == scene and row["policy"] == policy)


def _settled(values: Sequence[float]) -> str:
    known = sorted(v for v in values if isfinite(v))
    never = len(values) - len(known)
    middle = (len(values) - 1) // 2
    text = f"{known[middle]:.0f}" if middle < len(known) else "never"
    return f"{text} ({never})" if never else text


def _gaps(study: Study) -> str:
    """Ours beside O1q, O1f and the best baseline."""
    found = {(gap.scenario, gap.against): gap for gap in gaps(study)}
    rows = []
    for scene in study.scenes:
        oracles = [str(found.get((scene, other), "–")) for other in (ORACLE, PER_FRAME)]
        best = best_baseline(study, scene)
        last = f"{found[scene, best]} ({best})" if best and (scene, best) in found else "none as good"
        rows.append((scene, *oracles, last))
    if not found:
        return ""
    head = ("scene", f"against {ORACLE}", f"against {PER_FRAME}", "against the best baseline")
    return (
        "## Gap to the oracles\n\nChange of the energy of the module with its 95 % interval; in brackets by "
        "how many points ours misses more, and is further below the accuracy targets. A star: misses differ "
        f"by more than a point. Where ours takes less energy than {ORACLE} it misses more or sees less: "
        f"{ORACLE} keeps every application within its miss_tolerance (1 %); between two clock levels that is "
        "up to 3 % of energy. The best baseline is the one with the least energy among those that miss at "
        "most a point more, and are at most half a point further below the targets.\n\n" + table(head, rows)
    )


def _decisions(study: Study) -> str:
    scenes = [scene for scene in DECISION_SCENES if scene in study.scenes]
    rows = [
        (scene, policy, *(figure(study.mean(scene, policy, key)) for key in DECISION_KEYS))
        for scene in scenes
        for policy in study.policies
        if isfinite(study.mean(scene, policy, "decision_p99_ms"))
        and not policy.startswith("O")
        and study.mean(scene, policy, "manager_cpu_percent") > 0.02
    ]
    if not rows:
        return ""
    head = ("scene", "policy", "p50 (ms)", "p99 (ms)", "longest (ms)", "share of a core (%)")
    return (
        "## Time of decisions\n\nProcessor time on the computer that ran the evaluation, not on the board, "
        "mean over the seeds. It is that of the thread, without garbage collection; a busy sibling core "
        "makes it longer.\n\n" + table(head, rows)
    )


def _sweep(study: Study, pictures: set[str]) -> str:
    if "sensitivity.png" not in pictures:
        return ""
    head = ("scene", "power model", *(f"against {other}" for other in SWEEP_OTHERS))
    return (
        "## Sensitivity to the power model\n\n![energy against B4](sensitivity.png)\n\n"
        "One guess of the board file changes at a time, within the range that its sources leave open; the "
        "manager knows the changed value, as it would after `dynofa characterise`.\n\n"
        + table(head, sweep_table(study))
    )


def _scenario(study: Study, scene: Scene, pictures: set[str]) -> str:
    if scene.name not in study.scenes:
        return ""
    notes = "".join(f"- {note}\n" for note in scene.notes)
    policies = [policy for policy in study.policies if study.has(scene.name, policy)]
    columns = [(head, [cell(study, scene.name, policy) for policy in policies]) for head, cell in COLUMNS]
    told = [(head, cells) for head, cells in columns if not set(cells) <= {"–", "0.00", ""}]
    rows = list(zip(policies, *(cells for _, cells in told), strict=True))
    name = _timeline(scene.name)
    picture = f"\n![{scene.name}]({name})\n" if name in pictures else ""
    figures = table(("", *(head for head, _ in told)), rows)
    return f"## {scene.name}: {scene.title}\n\n{notes}\n{figures}{picture}"


def _guesses(board: Board) -> str:
    lines = "\n".join(f"- `{key}`" for key in board.guesses)
    return f"## Guesses in {board.name}.yaml\n\n{lines}\n"


def _picture(title: str, name: str) -> str:
    return f"## {title}\n\n![{title}]({name})\n"
