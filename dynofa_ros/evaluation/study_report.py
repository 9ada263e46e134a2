"""The report of a study: Markdown with pictures beside it. Every page says what it is: a simulation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from dynofa_ros.atomic import write_atomically
from dynofa_ros.device.board import Board
from dynofa_ros.evaluation import study_plots
from dynofa_ros.evaluation.policies import DESCRIPTIONS
from dynofa_ros.evaluation.scene import Scene
from dynofa_ros.evaluation.study import (
    FASTER,
    FLOOR,
    NOISE_FREE,
    ORACLE,
    OURS,
    PAPER,
    PARTS,
    STATIC,
    SWEEP_SCENES,
    Study,
    change_percent,
    interval,
)
from dynofa_ros.evaluation.study_goals import ACCOUNTINGS, EQUAL_MISS_POINTS, PAIRS, Goal

REPORT = "report.md"
PART_NAMES = {
    "ours_subnet": "sub-network only",
    "ours_dvfs": "DVFS only",
    "ours_mapping": "mapping only",
    OURS: "all",
}
STEPPER = "B6"
PAPER_NOTE = (
    "A star: misses differ by more than a point, the energies are no comparison. B4: schedutil on the CPU, "
    "nvhost_podgov on the GPU, clocks between the limits that the board starts with, processor fixed, and "
    "the most accurate sub-network whose 99th percentile at the top clock meets the deadline; B1: the same "
    "with governor performance. The paper names neither its sub-networks nor its deadlines. "
    f"`{FASTER}`: ours has to be faster, its deadline is 91 % of B4's median latency in S1. "
    f"`{FLOOR}`: B4 runs the smallest sub-network with the accuracy that is asked for, as in `S2 half`. "
    "Nothing was tuned towards the published figures."
)

Interval = tuple[float, float, float]


def to_document(study: Study, found: Sequence[Goal], board: Board, seeds: int) -> dict[str, Any]:
    """What `--json` holds; ``results`` and ``goals`` as DESIGN 8 has them, with more keys."""
    return {
        "simulated": True,
        "board": board.name,
        "guesses": list(board.guesses),
        "seeds": seeds,
        "results": study.scores.get("main", []),
        "goals": [asdict(goal) | {"status": goal.status} for goal in found],
        "noise_free": study.scores.get(NOISE_FREE, []),
        "decomposition": study.scores.get("parts", []),
        "paper": study.scores.get(PAPER, []),
        "sensitivity": {g[6:]: rows for g, rows in study.scores.items() if g.startswith("sweep ")},
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
        _paper(study),
        _decomposition(study, pictures),
        _settling(study),
        _picture("Energy against misses", "energy.png"),
        _sweep(study, pictures),
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
        runs = [study.runs[scene, policy] for policy in (OURS, rival) if (scene, policy) in study.runs]
        if runs:
            study_plots.plot_timelines(runs, line, folder / _timeline(scene))
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


def decomposition(study: Study) -> dict[str, dict[str, Interval]]:
    """Change of energy against B4 by scene and part; unequal misses are marked with a star."""
    found: dict[str, dict[str, Interval]] = {}
    for scene in dict.fromkeys(r["scenario"] for r in study.scores.get("parts", [])):
        base = study.values(scene, STATIC, "energy_j.all_rails")
        bars = {}
        for policy in (*PARTS, OURS):
            group = "main" if policy == OURS else "parts"
            change = change_percent(study.values(scene, policy, "energy_j.all_rails", group), base)
            if isfinite(change[0]):
                star = "" if _equal(study, scene, policy, group) else " *"
                bars[PART_NAMES[policy] + star] = change
        found[scene] = bars
    return found


def sensitivity(study: Study) -> dict[str, dict[str, Interval]]:
    """Change of energy of ours against B4 by scene and variant of the board."""
    groups = ["main", *(g for g in study.scores if g.startswith("sweep "))]
    if len(groups) == 1:
        return {}
    found: dict[str, dict[str, Interval]] = {}
    for scene in SWEEP_SCENES:
        bars = {}
        for group in groups:
            pair = (study.values(scene, policy, "energy_j.all_rails", group) for policy in (OURS, STATIC))
            change = change_percent(*pair)
            if isfinite(change[0]):
                bars["as in the board file" if group == "main" else group[6:]] = change
        found[scene] = bars
    return found


def _equal(study: Study, scene: str, policy: str, group: str) -> bool:
    return _near(study.mean(scene, policy, "miss_percent", group), study.mean(scene, STATIC, "miss_percent"))


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= EQUAL_MISS_POINTS


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
        (goal.name, "gate" if goal.gate else "", goal.goal, _figure(goal.value), goal.status, goal.note)
        for goal in found
    ]
    return "## Goals\n\n" + _table(("goal", "", "wanted", "value", "", "by scene, spread"), rows)


def _paper(study: Study) -> str:
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
                f"{misses[0]:.1f} / {misses[1]:.1f}" + ("" if _near(*misses) else " *"),
                f"{100 * accuracy[0]:.2f} / {100 * accuracy[1]:.2f}",
            )
        )
    if not rows:
        return ""
    head = (
        "the paper", "here", "all rails", "CPU-GPU rail", "above idle", "median latency",
        "misses ours / other (%)", "accuracy ours / other (%)",
    )  # fmt: skip
    return f"## Beside the paper's figures\n\n{_table(head, rows)}\n{PAPER_NOTE}\n"


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
        "figure 7 takes about 100 frames after the load starts.\n\n" + _table(head, rows)
    )


def _is(row: Mapping[str, Any], scene: str, policy: str) -> bool:
    return bool(row["scenario"] == scene and row["policy"] == policy)


def _settled(values: Sequence[float]) -> str:
    known = sorted(v for v in values if isfinite(v))
    never = len(values) - len(known)
    middle = (len(values) - 1) // 2
    text = f"{known[middle]:.0f}" if middle < len(known) else "never"
    return f"{text} ({never})" if never else text


def _sweep(study: Study, pictures: set[str]) -> str:
    if "sensitivity.png" not in pictures:
        return ""
    return (
        "## Sensitivity to the power model\n\n![energy against B4](sensitivity.png)\n\n"
        "One guess of the board file changes at a time, within the range that its sources leave open; the "
        "manager knows the changed value, as it would after `dynofa characterise`.\n"
    )


def _scenario(study: Study, scene: Scene, pictures: set[str]) -> str:
    if scene.name not in study.scenes:
        return ""
    notes = "".join(f"- {note}\n" for note in scene.notes)
    rows = [_row(study, scene.name, policy) for policy in study.policies if study.has(scene.name, policy)]
    head = (
        "", "misses (%)", "steady (%)", "energy (J)", "against O1q", "p50 / p95 / p99 (ms)", "accuracy (%)",
        "over all due (%)", "reversals /min", "switches /min", "above cap (s)", "above limit (C)",
    )  # fmt: skip
    name = _timeline(scene.name)
    picture = f"\n![{scene.name}]({name})\n" if name in pictures else ""
    return f"## {scene.name}: {scene.title}\n\n{notes}\n{_table(head, rows)}{picture}"


def _row(study: Study, scene: str, policy: str) -> tuple[str, ...]:
    def mean(key: str) -> float:
        return study.mean(scene, policy, key)

    misses, energy = (
        interval(study.values(scene, policy, k)) for k in ("miss_percent", "energy_j.all_rails")
    )
    oracle = study.values(scene, ORACLE, "energy_j.all_rails")
    change = change_percent(study.values(scene, policy, "energy_j.all_rails"), oracle)[0]
    equal = _near(misses[0], study.mean(scene, ORACLE, "miss_percent"))
    return (
        policy,
        f"{misses[0]:.2f} ({misses[1]:.2f}-{misses[2]:.2f})",
        _figure(mean("miss_steady_percent")),
        f"{energy[0]:.0f} ({energy[1]:.0f}-{energy[2]:.0f})",
        f"{change:+.1f} %" if isfinite(change) and equal else "",
        " / ".join(f"{mean(f'latency_ms.p{p}'):.0f}" for p in (50, 95, 99)),
        f"{100 * mean('accuracy'):.2f}",
        f"{100 * mean('accuracy_due'):.2f}",
        _figure(mean("reversals_per_min")),
        _figure(mean("switches_per_min")),
        _figure(mean("cap_violation_s")),
        _figure(mean("over_temperature_c")),
    )


def _guesses(board: Board) -> str:
    lines = "\n".join(f"- `{key}`" for key in board.guesses)
    return f"## Guesses in {board.name}.yaml\n\n{lines}\n"


def _picture(title: str, name: str) -> str:
    return f"## {title}\n\n![{title}]({name})\n"


def _figure(value: float) -> str:
    if not isfinite(value):
        return "–" if value != float("inf") else "never"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
