"""The fair comparison: drawn scenes, the oracle that mixes, equal misses and accuracy, and the gates."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import dynofa

from dynofa_ros.evaluation import frontier
from dynofa_ros.evaluation.drawn import ERRORS, STREAMS, drawn_scene, noises
from dynofa_ros.evaluation.fair import fair_scenes, gap_quantile, others, summaries
from dynofa_ros.evaluation.frontier import (
    Point,
    by_policy,
    dominating,
    least_energy_j,
    mean_points,
    point_of,
    sweep,
)
from dynofa_ros.evaluation.goals import Goal, goals
from dynofa_ros.evaluation.policies import make_policy
from dynofa_ros.evaluation.policies.constants import KNOBS
from dynofa_ros.evaluation.scenarios import scenes
from dynofa_ros.evaluation.score import OVER_CAP_PERCENT
from dynofa_ros.evaluation.study import DRAWN, Study, drawn_jobs
from dynofa_ros.manager.placement import place_of
from dynofa_ros.simulation.scene import Scene
from dynofa_ros.simulation.simulator import simulate

MANY = [drawn_scene(number, stream) for stream in STREAMS for number in range(60)]


def point(policy: str, energy_j: float, misses: float, below: float = 0.0, **more: Any) -> Point:
    fixed: dict[str, Any] = {"knob": 1.0, "wary": 1.0, "seed": 0, "reversals_per_min": 0.0}
    return Point(policy=policy, energy_j=energy_j, miss_percent=misses, below_points=below, **(fixed | more))


# --- equal misses and accuracy ------------------------------------------------------------------------------


def test_energy_at_exactly_some_misses_is_the_line_between_two_runs() -> None:
    points = [point("x", 100.0, 3.0), point("x", 120.0, 0.0), point("x", 119.0, 1.5)]
    assert least_energy_j(points, 1.0) == pytest.approx(120.0 - 20.0 / 3.0)
    assert least_energy_j(points, 0.0) == pytest.approx(120.0)
    assert least_energy_j(points, 5.0) == pytest.approx(100.0)
    assert least_energy_j(points[:1], 2.9) == inf and least_energy_j([], 1.0) == inf


def test_accuracy_must_be_equal_too() -> None:
    points = [point("x", 100.0, 0.0, 0.3), point("x", 130.0, 0.0, 0.0)]
    assert least_energy_j(points, 1.0) == pytest.approx(120.0)  # a third of the time
    assert least_energy_j(points, 1.0, below=0.3) == pytest.approx(100.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_mix_is_the_lower_hull(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [point("x", e, m) for e, m in zip(rng.uniform(1, 2, 6), rng.uniform(0, 4, 6), strict=True)]
    limit = float(rng.uniform(min(p.miss_percent for p in points), 4.0))
    pairs = [(p, q) for p in points for q in points if p.miss_percent <= limit]
    shares = [1.0 if q.miss_percent <= limit else (limit - p.miss_percent) / (q.miss_percent - p.miss_percent)
              for p, q in pairs]  # fmt: skip
    best = min((1 - w) * p.energy_j + w * q.energy_j for (p, q), w in zip(pairs, shares, strict=True))
    assert least_energy_j(points, limit) == pytest.approx(best)


def test_a_mix_keeps_the_cap_as_the_protocol_judges_it() -> None:
    points = [point("x", 100.0, 0.0, over_cap_percent=2.5), point("x", 130.0, 0.0)]
    assert least_energy_j(points, 1.0) == pytest.approx(130.0 - 30.0 * OVER_CAP_PERCENT / 2.5)
    assert least_energy_j(points[:1], 1.0) == inf
    assert least_energy_j([point("x", 100.0, 0.0, over_cap_percent=OVER_CAP_PERCENT)], 1.0) == 100.0


def test_who_is_longer_above_the_cap_dominates_nobody() -> None:
    ours = point("ours", 100.0, 0.8, over_cap_percent=0.2)
    assert dominating([point("B4", 90.0, 0.5, over_cap_percent=0.3)], ours, ("B4",)) == []
    assert dominating([point("B4", 90.0, 0.5, over_cap_percent=0.2)], ours, ("B4",)) == ["B4"]


def test_domination_is_by_one_run_in_everything() -> None:
    ours = point("ours", 100.0, 0.8, 0.05)
    runs = [point("B4", 90.0, 0.9, 0.0), point("B9", 90.0, 0.5, 0.1), point("B10", 99.95, 0.0, 0.0)]
    assert dominating(runs, ours, ("B4", "B9", "B10")) == []
    assert dominating([*runs, point("B9", 99.0, 0.8, 0.05, knob=2.0)], ours, ("B4", "B9", "B10")) == ["B9"]


def test_a_sweep_runs_what_can_say_something(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[float] = []
    misses = {0.9: 9.0, 1.0: 7.0, 1.08: 6.0, 1.16: 5.5, 1.25: 0.1, 1.4: 0.05, 1.7: 0.0}

    def simulated(scene: Scene, policy: Any, seed: int) -> Any:
        run.append(policy.margin)
        return policy

    monkeypatch.setattr(frontier, "simulate", simulated)
    monkeypatch.setattr(
        frontier, "point_of", lambda p, knob, *_: point("B10", 100.0 + knob, misses[knob], knob=knob)
    )
    points = sweep(scenes(["S1"])[0], [0], ["B10"])
    # Between 0.9 and 1.16 all miss far too much, above 1.25 hardly anything is left to miss.
    assert sorted(run) == [0.9, 1.16, 1.25, 1.7]
    assert [p.knob for p in points] == sorted(run)


def test_means_are_over_the_seeds_of_one_value() -> None:
    points = [point("x", 1.0, 0.0, seed=0), point("x", 3.0, 2.0, seed=1), point("x", 9.0, 0.0, knob=2.0)]
    assert [(p.energy_j, p.miss_percent) for p in mean_points(points)] == [(2.0, 1.0), (9.0, 0.0)]


# --- the oracle ---------------------------------------------------------------------------------------------


CAPPED = ("P105", "P50", "P46")  # the cap binds whoever does not know of it


def test_the_oracle_keeps_a_cap_in_every_window_that_is_judged() -> None:
    """In P86 the fullest 0.1 s takes more than the mean: who keeps the mean alone breaks the cap."""
    scene = drawn_scene(86, "practice")
    in_the_mean, kept = (
        point_of(simulate(scene, make_policy("O1m", price_j=6.0, peaks=peaks), 1), 6.0)
        for peaks in (0.0, 1.0)
    )
    assert in_the_mean.over_cap_percent > 4.0 and kept.over_cap_percent <= OVER_CAP_PERCENT
    assert kept.miss_percent > 5.0 > in_the_mean.miss_percent
    watts = next(s for s in scenes(["S4"]) if s.name == "S4 watts")
    two = (point_of(simulate(watts, make_policy("O1q", peaks=peaks), 0), 0.0) for peaks in (0.0, 1.0))
    above = [p.over_cap_percent for p in two]
    assert above[0] > 20.0 and above[1] < 1.0  # two applications: not exact


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("S1", [0]), ("S1", [1]), ("S1 D70", [0]), ("P1", [0]), ("P12", [0]), ("P19", [0, 1, 2]), ("P2", [0])]
    + [(name, [1]) for name in CAPPED],
)
def test_nobody_lies_below_the_oracle_at_allowed_misses(name: str, seeds: list[int]) -> None:
    """At 2 % misses or less, within the cap and with equal accuracy; a tenth of a percent is rounding.

    P19: whom preemption hits is chance. In a single run of 134 frames who moves may meet none of it.
    """
    if name.startswith("P"):
        scene = replace(drawn_scene(int(name[1:]), "practice"), duration_s=15.0)
        if name in CAPPED:  # so that the cap is in force most of the time
            soon = tuple(replace(event, at_s=0.1 * event.at_s) for event in scene.timeline)
            scene = replace(scene, timeline=soon)
    else:
        scene = replace(next(s for s in scenes(["S1"]) if s.name == name), duration_s=15.0)
    policies = ("ours", "B4", "B9_tuned", "B10", *frontier.ORACLES)
    known = by_policy(mean_points(sweep(scene, seeds, policies)))
    checked = 0
    for policy, points in known.items():
        for p in points if policy != "O1m" else ():
            allowed = p.miss_percent <= 2.0 and p.over_cap_percent <= OVER_CAP_PERCENT
            if allowed and p.below_points <= frontier.EQUAL_ACCURACY_POINTS:
                checked += 1
                assert p.energy_j >= 0.999 * least_energy_j(known["O1m"], p.miss_percent), p
    assert checked >= 3 or name == "P2"


def test_the_oracle_knows_the_true_library() -> None:
    """With large errors of the entries it does not run what the library says is cheapest."""
    scene = replace(scenes(["S1"])[0], duration_s=6.0, entry_error={"gpu": 0.1})
    chosen = set()
    for seed in range(4):
        run = simulate(scene, make_policy("O1m"), seed)
        chosen |= {f.subnet_id for f in run.frames if f.arrived_s > 1.0}
        assert all(f.accuracy >= 0.76 for f in run.frames if f.arrived_s > 1.0)
    assert len(chosen) > 1


def test_resting_between_frames_pays_with_real_clocks_where_frames_are_rare() -> None:
    scene = scenes(["S1"])[0]
    targets = replace(scene.apps[0].targets, rate_hz=2.0)
    rare = replace(scene, apps=(replace(scene.apps[0], targets=targets),), duration_s=20.0)
    awake, resting = (simulate(rare, make_policy(name), 0) for name in frontier.ORACLES)
    assert resting.samples[-1].energy_j < 0.995 * awake.samples[-1].energy_j
    assert sum(f.missed for f in resting.frames) <= sum(f.missed for f in awake.frames)
    lowest_hz = scene.board.domains["gpu"].frequencies_hz[0]
    low = [at_s for at_s, domain, hz in resting.clocks if domain == "gpu" and hz == lowest_hz and at_s > 1.0]
    assert len(low) >= 30  # after nearly every frame
    for frame in resting.frames:  # and up again in time: no frame is slower than with the clock held
        twin = next(f for f in awake.frames if f.index == frame.index)
        assert frame.index == 0 or frame.inference_ms <= 1.001 * twin.inference_ms


# --- drawn scenes -------------------------------------------------------------------------------------------


def test_scenes_are_functions_of_stream_and_number() -> None:
    assert drawn_scene(3) == drawn_scene(3) and drawn_scene(3) != drawn_scene(4)
    assert drawn_scene(3, "practice") != drawn_scene(3) and drawn_scene(3).name == "H3"
    assert len({scene.name for scene in MANY}) == len(MANY)


@pytest.mark.parametrize("scene", MANY, ids=[scene.name for scene in MANY])
def test_a_drawn_scene_is_consistent(scene: Scene) -> None:
    assert all(0.0 < event.at_s < scene.duration_s for event in scene.timeline)
    assert 0.3 <= scene.contention["gpu"] <= 1.0
    for app in scene.apps:
        own = {e.id: e for e in app.library if place_of(e) == app.mapping}
        assert app.start in own and own[app.start].accuracy == app.targets.accuracy_target
        assert {e.processor for e in app.library} <= set(scene.board.processors)
        assert app.targets.accuracy_floor <= app.targets.accuracy_target
        assert app.targets.rate_hz > 0.0 and app.targets.latency_target_ms > app.overhead_ms


def test_everything_is_drawn_some_time() -> None:
    titles = " ".join(scene.title for scene in MANY)
    events = ("Load", "NewTargets", "NewMode", "NewParameters")
    for word in (*noises(), *ERRORS, *events, "orin_nano", "xavier_nx", "clusters", "demo", "5 x vision"):
        assert word in titles, word


# --- gates --------------------------------------------------------------------------------------------------


def study_of(*scenes_: list[Point]) -> Study:
    drawn = {f"H{n}": replace(drawn_scene(0), name=f"H{n}") for n in range(len(scenes_))}
    rows = [{"scenario": f"H{n}", **asdict(p)} for n, points in enumerate(scenes_) for p in points]
    return Study({DRAWN: rows}, drawn=drawn)


def scene_points(
    ours_j: float, misses: float = 0.5, baseline_j: float = 200.0, oracle_j: float = 100.0
) -> list[Point]:
    return [
        point("ours", ours_j, misses, knob=1.0, reversals_per_min=1.0),
        point("B4", baseline_j, 0.5, knob=0.0),
        point("O1m", oracle_j, 0.5, knob=2.0),
        point("O1m_rest", oracle_j - 1.0, 0.5, knob=2.0),
    ]


def found(*scenes_: list[Point]) -> dict[str, Goal]:
    return {goal.name: goal for goal in goals(study_of(*scenes_))}


def test_gaps_are_judged_over_all_draws() -> None:
    judged = found(*(scene_points(99.0 * (1.0 + gap)) for gap in [0.01] * 8 + [0.09, 0.3]))
    assert judged["drawn_gap_p90_percent"].value == pytest.approx(9.0) or judged[
        "drawn_gap_p90_percent"
    ].value == pytest.approx(30.0)
    assert judged["drawn_gap_median_percent"].value == pytest.approx(1.0)
    assert judged["drawn_gap_median_percent"].met and judged["drawn_gap_median_percent"].gate
    lost = found(scene_points(100.0, misses=1.2))
    assert lost["drawn_gap_p90_percent"].value == inf and lost["drawn_gap_p90_percent"].met is False
    assert "ours does not hold 1" in lost["drawn_gap_p90_percent"].note


def test_misses_count_where_the_oracle_holds_the_tolerance() -> None:
    judged = found(scene_points(100.0), scene_points(100.0, misses=1.2))["drawn_scenes_above_tolerance"]
    assert judged.value == 1.0 and judged.met is False and judged.note == "H1 1.20 %"
    impossible = [replace(p, miss_percent=3.0) for p in scene_points(100.0)]
    judged = found(scene_points(100.0), impossible)["drawn_scenes_above_tolerance"]
    assert judged.value == 0.0 and judged.met and judged.goal == "0 of 1"


def test_a_scene_is_held_within_its_power_cap_alone() -> None:
    """By the oracle, by ours and by baselines alike; what would be said without the cap stands beside it."""

    def above(points: list[Point], **over: float) -> list[Point]:
        return [replace(p, over_cap_percent=over.get(p.policy, 0.0)) for p in points]

    free = above(scene_points(100.0), O1m=39.0, O1m_rest=39.0)  # the oracle breaks the cap: not held
    ours = above(scene_points(100.0), ours=0.8)
    better = above(scene_points(100.0, baseline_j=90.0), B4=8.0)
    judged = found(free, ours, better)
    late, beaten, gap = (
        judged[f"drawn_{name}"] for name in ("scenes_above_tolerance", "dominated_percent", "gap_p90_percent")
    )
    assert late.goal == "0 of 2" and late.note.startswith(
        "H1 0.50 % and 0.80 % above the cap; without regard"
    )
    assert "0.00 (met, 0 of 3" in late.note
    assert beaten.value == 0.0 and "33.33 (not met, <= 5 %; H2 (B4))" in beaten.note
    assert gap.value == inf and "ours does not hold 1" in gap.note and "3 draws that the oracle" in gap.note
    plain = found(scene_points(100.0), scene_points(100.0))
    assert "without" not in "".join(goal.note for goal in plain.values())


@pytest.mark.parametrize(("per_min", "met"), [(6.0, True), (6.1, False)])
def test_reversals_are_judged_in_drawn_scenes_too(per_min: float, met: bool) -> None:
    restless = [replace(p, reversals_per_min=per_min) for p in scene_points(100.0)]
    judged = found(scene_points(100.0), restless)["reversals_per_min"]
    assert (judged.value, judged.met) == (per_min, met)


def test_one_scene_in_twenty_may_be_dominated() -> None:
    calm, beaten = scene_points(100.0), scene_points(100.0, baseline_j=95.0)
    assert found(*[calm] * 19, beaten)["drawn_dominated_percent"].met
    judged = found(*[calm] * 18, beaten, beaten)["drawn_dominated_percent"]
    assert judged.met is False and judged.value == pytest.approx(10.0) and "H18 (B4)" in judged.note


def test_policies_are_compared_with_schedutil_first_and_the_oracle_last() -> None:
    study = study_of(scene_points(100.0), scene_points(150.0), scene_points(100.0, misses=1.5))
    known = fair_scenes(study)
    assert others(known) == ["B4", "O1m"]
    half, one, two = (s for s in summaries(known) if s.other == "B4")
    assert (one.both, one.only_ours, one.only_other) == (2, 0, 1) and (two.both, half.both) == (3, 2)
    assert one.median == pytest.approx(-37.5) and two.median == pytest.approx(-50.0)
    assert known[0].resting_percent == pytest.approx(-1.0)
    assert gap_quantile(known, 0.5) == pytest.approx(100.0 * (150.0 / 99.0 - 1.0))


# --- the command --------------------------------------------------------------------------------------------


def test_a_job_per_scene_with_all_its_seeds() -> None:
    jobs = drawn_jobs("practice", 2, ["B4", "B10"], 3)
    assert [job.scene.name for job in jobs] == ["P0", "P1"] and jobs[0].seeds == (0, 1, 2)
    assert set(jobs[0].policies) == {"ours", "B4", "B10", *frontier.ORACLES} <= set(KNOBS)


def test_drawn_scenes_lead_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(drawn_scene(12, "practice"), duration_s=8.0, timeline=(), steps=())
    monkeypatch.setattr("dynofa_ros.evaluation.study.drawn_scene", lambda number, stream: short)
    arguments = ("--practice", "1", "--seeds", "1", "--policies", "ours,B4", "--jobs", "1")
    assert dynofa("evaluate", *arguments, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "Energy of ours at equal misses and accuracy in 1 drawn scenes" in printed
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["results"] == [] and {row["policy"] for row in document["drawn"]} == {
        "ours", "B4", *frontier.ORACLES,
    }  # fmt: skip
    assert [s["other"] for s in document["fair"]] == ["B4"] * 3 + ["O1m"] * 3
    report = (tmp_path / "report.md").read_text()
    assert report.index("## The fair comparison") < report.index("## Goals")
    assert "lowest clock / top clock" in report and "| P12 |" in report
    least = {s["other"]: s["median"] for s in document["fair"] if s["misses"] == 1.0}
    assert all(isfinite(change) for change in least.values()) and least["B4"] < 0.0 < least["O1m"] + 1e-6
