"""`dynofa evaluate` end to end on a small study, its goals and its report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any

import pytest
from command import dynofa

from dynofa_ros.cli import evaluate
from dynofa_ros.cli.main import main
from dynofa_ros.errors import CliError, UsageError
from dynofa_ros.evaluation.goals import Goal, goals
from dynofa_ros.evaluation.report import (
    decomposition,
    footer,
    sweep_table,
    to_document,
)
from dynofa_ros.evaluation.scenarios import evaluation_board
from dynofa_ros.evaluation.study import FASTER, FLOOR, Job, Study, plan, power_variants, run

RESULT_KEYS = {
    "scenario", "policy", "seed", "miss_percent", "energy_j", "joule_per_frame", "latency_ms", "accuracy",
    "settle_frames", "reversals_per_min", "cap_violation_s", "over_temperature_s", "decision_p99_ms",
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--scenarios", "S1,S99"), "unknown scenario 'S99' (known: S1, S2, "),
        (("--policies", "B99"), "unknown policy 'B99' (known: ours, "),
        (("--policies", ","), "no policy given (known: ours, "),
    ],
)
def test_an_unknown_name_is_bad_usage_in_one_line(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        dynofa("evaluate", *arguments)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="cannot write"):
        dynofa("evaluate", "--quick", "--json", str(tmp_path))
    with pytest.raises(CliError, match="cannot write"):
        dynofa("evaluate", "--quick", "--out", str(tmp_path / "file" / "folder"))


@pytest.mark.slow
def test_a_report_without_its_extra_is_one_line_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr("dynofa_ros.evaluation.study.run", lambda *_: pytest.fail("worked for nothing"))
    assert main(["evaluate", "--scenarios", "S1", "--policies", "B4", "--quick", "--out", str(tmp_path)]) == 1
    expected = (
        "dynofa evaluate: this needs jinja2, which is not installed: pip install 'dynofa_ros[evaluation]', "
        "or `make install` in a checkout\n"
    )
    assert capsys.readouterr().err == expected


def test_a_quick_study_writes_results_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--scenarios",
        "S3",
        "--policies",
        "ours,B4,B6,O1q",
        "--seeds",
        "1",
        "--quick",
        "--jobs",
        "1",
    )
    assert (
        dynofa("evaluate", *arguments, "--json", str(tmp_path / "r.json"), "--out", str(tmp_path / "out"))
        == 0
    )
    printed = capsys.readouterr().out
    assert "Simulated, not measured on a board: board file xavier_nx.yaml" in printed
    document = json.loads((tmp_path / "r.json").read_text())
    assert document == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["policy"] for r in document["results"]] == ["ours", "B4", "B6", "O1q"]
    assert all(set(r) >= RESULT_KEYS for r in document["results"])
    assert set(document["results"][0]["energy_j"]) == {"all_rails", "cpu_gpu", "above_idle"}
    assert {"p50", "p95", "p99"} <= set(document["results"][0]["latency_ms"])
    assert all({"name", "goal", "value", "met", "gate"} <= set(g) for g in document["goals"])
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Simulated, not measured on a board" in report and "`thermal.ambient_c`" in report
    assert "Settling beside Dynamic-OFA's stepper" in report and "## Energy against misses" in report
    for name in ("energy.png", "timeline_s3.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
        assert f"]({name})" in report


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes() -> None:
    jobs = [replace(job, scene=replace(job.scene, duration_s=3.0)) for job in plan(["S1"], ["ours", "B4"], 1)]
    jobs = [job for job in jobs if job.group == "main"]

    def figures(workers: int) -> list[dict[str, Any]]:
        rows = run(jobs, workers, lambda total: None).scores["main"]
        timed = ("decision_p50_ms", "decision_p99_ms", "decision_max_ms", "manager_cpu_percent")
        return [{k: repr(v) for k, v in row.items() if k not in timed} for row in rows]

    assert figures(1) == figures(2)


class Deadly:
    """A scene that ends the process that receives it, as a lack of memory would."""

    duration_s, apps = 1.0, ()

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_worker_that_dies_is_an_error_in_one_line() -> None:
    job = Job("main", Deadly(), 0, ("B4",))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a worker process died") as caught:
        run([job, job], 2, lambda total: None)
    assert "\n" not in str(caught.value)


def test_everything_is_compared_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(evaluate, "_evaluate", lambda _, *chosen: (0, asked.update(chosen=chosen)))
    assert dynofa("evaluate") == 0
    scenarios, policies, seeds = asked["chosen"]
    assert scenarios == tuple(f"S{n}" for n in range(1, 15)) and seeds == 10
    assert set(policies) >= {"ours", *(f"B{n}" for n in range(1, 11)), "O1q"}


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Study:
        raise KeyboardInterrupt

    monkeypatch.setattr("dynofa_ros.evaluation.study.run", interrupted)
    with pytest.raises(CliError, match="interrupted, nothing was written"):
        dynofa("evaluate", "--scenarios", "S1", "--policies", "B4", "--quick")


def test_the_plan_has_all_parts() -> None:
    jobs = plan(["S1", "S4"], ["ours", "B1", "B4", "O1q"], 2)
    groups = {job.group for job in jobs}
    assert groups == {
        "main",
        "noise-free",
        "parts",
        "paper",
        *(f"sweep {n}" for n in power_variants(board())),
    }
    calm = [job.scene for job in jobs if job.group == "noise-free"]
    assert calm and all(scene.noise.sigma == 0.0 and scene.bias == 0.0 for scene in calm)
    assert {job.scene.name for job in jobs if job.group == "paper"} == {FASTER, FLOOR}
    assert {job.group for job in plan(["S1", "S4"], ["B4"], 1)} == {"main"}
    assert [job.scene.name for job in plan(["S1", "S4"], ["ours"], 1, quick=True)] == ["S1", "S4"]


def board() -> Any:
    return evaluation_board()


def test_the_sweep_changes_one_guess_at_a_time() -> None:
    nominal = board()
    variants = power_variants(nominal)
    assert len(variants) == 6
    assert variants["base_w +0.5 W"].power.base_w == pytest.approx(nominal.power.base_w + 0.5)
    assert variants["conversion_loss 0.15"].power.conversion_loss == 0.15
    steeper = variants["GPU voltage slope +30 %"].domains["gpu"]
    low_v, top_v = nominal.domains["gpu"].voltages[0][1], nominal.domains["gpu"].voltages[-1][1]
    assert steeper.voltages[-1][1] - low_v == pytest.approx(1.3 * (top_v - low_v))
    assert all(v.name == nominal.name for v in variants.values())


# --- goals, from made-up scores -----------------------------------------------------------------------------


def row(scene: str, policy: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    figures = {
        "scenario": scene,
        "policy": policy,
        "seed": seed,
        "miss_percent": 0.5,
        "miss_feasible_percent": 0.5,
        "miss_steady_percent": 0.5,
        "miss_after_step_percent": 2.0,
        "miss_by_priority": {"0": 0.2},
        "energy_j": {"all_rails": 100.0, "cpu_gpu": 40.0, "above_idle": 30.0},
        "energy_feasible_j": 100.0,
        "latency_ms": {"p50": 50.0},
        "accuracy": 0.78,
        "accuracy_feasible": 0.78,
        "accuracy_shortfall": 0.0,
        "settle_by_step": [1.0, 5.0, 2.0, 6.0],
        "reversals_per_min": 0.0,
        "cap_violation_percent": 0.1,
        "cap_violation_longest_s": 0.2,
        "over_temperature_c": 0.0,
        "below_trip_c": 4.0,
        "decision_p99_ms": 0.5,
    }
    return figures | more


def found(*rows: dict[str, Any], group: str = "main") -> dict[str, Goal]:
    return {goal.name: goal for goal in goals(Study({group: list(rows)}))}


def test_goals_that_were_not_measured_say_so() -> None:
    for goal in goals(Study()):
        assert isnan(goal.value) and goal.met is None and goal.status == "not measured"


def test_energy_is_judged_at_equal_misses_only() -> None:
    rows = [row("S1", "ours", energy_feasible_j=104.0), row("S1", "O1q"), row("S4", "O1q")]
    rows.append(row("S4", "ours", energy_feasible_j=103.0))
    goal = found(*rows)["energy_vs_o1q_percent"]
    assert goal.value == pytest.approx(4.0) and goal.met and goal.gate
    rows[-1] = row("S4", "ours", energy_feasible_j=80.0, miss_feasible_percent=3.0)
    goal = found(*rows)["energy_vs_o1q_percent"]
    assert goal.value == pytest.approx(4.0) and not goal.met and "not equal: S4" in goal.note


def test_energies_that_are_never_comparable_are_not_a_goal_met() -> None:
    rows = [row("S1", "ours", energy_feasible_j=60.0, miss_feasible_percent=8.0), row("S1", "O1q")]
    goal = found(*rows)["energy_vs_o1q_percent"]
    assert goal.met is False and isnan(goal.value) and "not equal: S1" in goal.note


@pytest.mark.parametrize(
    ("name", "scene", "change", "met"),
    [
        ("miss_steady_percent", "S11", {"miss_steady_percent": 1.2}, False),
        ("miss_after_step_percent", "S6", {"miss_after_step_percent": 4.9}, True),
        ("settle_degrade_frames", "S3", {"settle_by_step": [4.0, 5.0, 4.0, 6.0]}, False),
        ("settle_recover_frames", "S3", {"settle_by_step": [4.0, inf, 4.0, inf]}, False),
        ("settle_recover_frames", "S3", {}, True),
        ("settle_target_change_frames", "S6", {"settle_by_step": [0.0, 1.0, 0.0]}, True),
        ("cap_violation_percent", "S4 watts", {"cap_violation_longest_s": 0.5}, False),
        ("over_temperature_c", "S5", {"below_trip_c": -0.1}, False),
        ("over_temperature_c", "S5", {"over_temperature_c": 0.9}, True),
        ("reversals_per_min", "S1", {"reversals_per_min": 0.5}, False),
        ("reversals_per_min", "S9", {"reversals_per_min": 5.9}, True),
        ("reversals_per_min", "S9", {"reversals_per_min": 6.1}, False),
        ("reversals_sliced_per_min", "S9 sliced", {"reversals_per_min": 11.0}, False),
        ("class0_miss_percent", "S9", {"miss_by_priority": {"0": 1.5}}, False),
        ("decision_p99_ms", "S7", {"decision_p99_ms": 1.0}, True),
    ],
)
def test_a_goal_is_met_or_not(name: str, scene: str, change: dict[str, Any], met: bool) -> None:
    goal = found(row(scene, "ours", **change))[name]
    assert goal.met is met and goal.gate and goal.status == ("met" if met else "not met")


def test_accuracy_and_contended_misses_are_judged_against_the_oracle() -> None:
    s8 = [row("S8", "ours", accuracy_feasible=0.776), row("S8", "O1q")]
    assert found(*s8)["accuracy_vs_o1q_points"].value == pytest.approx(0.4)
    s10 = [row("S10", "ours", miss_steady_percent=2.1), row("S10", "O1q", miss_steady_percent=1.5)]
    assert found(*s10)["miss_contended_vs_o1q_points"].met is False


def test_accuracy_counts_at_equal_power_only() -> None:
    rows = [row("S8", "ours", energy_feasible_j=110.0), row("S8", "O1q")]
    assert found(*rows)["accuracy_vs_o1q_points"].met is False


def test_decisions_take_the_median_of_the_seeds() -> None:
    rows = [row("S9", "ours", seed, decision_p99_ms=ms) for seed, ms in enumerate((0.8, 0.9, 7.0))]
    goal = found(*rows)["decision_p99_ms"]
    assert goal.value == 0.9 and goal.met


def test_published_figures_are_reported_and_not_judged() -> None:
    rows = [
        row("S2", "ours", energy_j={"all_rails": 50.0, "cpu_gpu": 4.0, "above_idle": 6.0}),
        row("S2", "B4"),
    ]
    goal = found(*rows)["paper_s2a_vs_b4"]
    assert goal.value == pytest.approx(-50.0) and goal.met is None and not goal.gate
    assert "cpu gpu -90.0 %" in goal.note and goal.status == "reported"


def study_of(make: Callable[[str, str], dict[str, Any]]) -> Study:
    return Study(
        {
            "main": [make("S1", p) for p in ("ours", "B4")],
            "parts": [make("S1", p) for p in ("ours_subnet", "ours_dvfs", "ours_mapping")],
            "sweep base_w +0.5 W": [make("S1", p) for p in ("ours", "B4")],
        }
    )


def test_decomposition_and_sweep_are_changes_against_b4() -> None:
    energy = {"ours": 60.0, "B4": 100.0, "ours_subnet": 80.0, "ours_dvfs": 70.0, "ours_mapping": 100.0}

    def make(scene: str, policy: str) -> dict[str, Any]:
        misses = 9.0 if policy == "ours_dvfs" else 0.5
        return row(scene, policy, energy_j={"all_rails": energy[policy]}, miss_percent=misses)

    study = study_of(make)
    bars = {name: value[0] for name, value in decomposition(study)["S1"].items()}
    assert bars == pytest.approx({"sub-network only": -20, "DVFS only *": -30, "mapping only": 0, "all": -40})
    assert sweep_table(study) == [
        ("S1", "as in the board file", "-40.0 %", "–", "–"),
        ("S1", "base_w +0.5 W", "-40.0 %", "–", "–"),
    ]


def test_a_study_without_variants_has_no_sweep() -> None:
    assert sweep_table(Study({"main": [row("S1", "ours")]})) == []


def test_a_document_says_that_it_is_simulated() -> None:
    document = to_document(Study(), [], board(), 3)
    assert document["simulated"] is True and document["guesses"] == list(board().guesses)
    assert str(len(board().guesses)) in footer(board())


def test_a_job_with_no_oracle_is_still_judged_by_it() -> None:
    scene = replace(plan(["S3"], ["B4"], 1)[0].scene, duration_s=6.0)
    study = run([Job("main", scene, 0, ("B4",))], 1, lambda total: None)
    assert [r["policy"] for r in study.scores["main"]] == ["B4"]
    assert len(study.scores["main"][0]["settle_by_step"]) == 4
