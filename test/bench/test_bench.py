"""`dynofa bench`: the networks of the comparison, side-by-side timing, judgement, report and command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.bench import (
    comparison,
    decision,
    engines,
    published_networks,
    report,
    static_models,
    static_networks,
    switching,
    timing,
)
from dynofa_ros.cli import bench
from dynofa_ros.cli.main import main
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.library.own_networks import usual_config
from dynofa_ros.simulation.simulator import simulate
from dynofa_ros.supernet.materialise import materialise
from dynofa_ros.supernet.registry import load_engine, load_space, official_spaces
from dynofa_ros.supernet.supernet import load_supernet

torch = pytest.importorskip("torch")
SMALL = "ofa_mbv3_w0.25"


# --- networks of the comparison ------------------------------------------------------------------


def by_family(family: str) -> list[published_networks.Network]:
    return [n for n in published_networks.networks() if n.family == family]


def test_autoslim_has_the_published_operation_counts() -> None:
    assert [round(n.macs / 1e6) for n in by_family("autoslim_mnasnet")] == [217, 315, 532]


def test_mobilenet_v1_has_the_published_operation_counts() -> None:
    millions = [n.macs / 1e6 for n in by_family("slimmable_mbv1")]
    assert millions == pytest.approx([41, 150, 325, 569], abs=0.6)


@pytest.mark.parametrize("family", ["us_mbv2", "mutualnet_mbv2"])
def test_mobilenet_v2_widths_come_close_to_the_published_operation_counts(family: str) -> None:
    for network in by_family(family):
        assert network.macs == pytest.approx(network.published_macs, rel=0.06), network.name


@pytest.mark.parametrize(("library", "levels"), [("6", 6), ("7", 7)])
def test_published_subnetworks_are_all_there(library: str, levels: int) -> None:
    found = by_family(f"dynamic_ofa_{library}")
    assert [n.name for n in found] == [f"dynamic_ofa {library}/{level}" for level in range(levels)]
    assert [n.accuracy for n in found] == sorted(n.accuracy for n in found)


def test_published_subnetworks_have_the_operation_counts_of_the_official_code() -> None:
    millions = [round(n.macs / 1e6) for n in by_family("dynamic_ofa_6")]
    assert millions == pytest.approx([236, 254, 289, 376, 522, 731], abs=1)


def test_channel_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 6 that end with 1000 classes"):
        published_networks.autoslim_mnasnet(((1, 3), (2, 3)), (16, 8, 24, 16, 1280))


@pytest.mark.parametrize(
    "plan", [published_networks.mobilenet_v1(0.25), published_networks.mobilenet_v2(0.25)]
)
def test_baselines_compute_the_same_in_both_engines(plan: Any) -> None:
    subnet = materialise(plan, published_networks.random_weights(plan))
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    torch_logits, ort_logits = (
        load_engine(e).prepare(subnet, 1, "cpu")(image) for e in ("torch", "onnxruntime")
    )
    assert np.ptp(torch_logits) > 0.1
    np.testing.assert_allclose(ort_logits, torch_logits, atol=1e-3 * np.ptp(torch_logits))


# --- timing --------------------------------------------------------------------------------------


class Clock:
    """A clock that only the contenders advance."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now_ns

    def contender(self, name: str, ms: float) -> Any:
        def run() -> None:
            self.calls.append(name)
            self.now_ns += int(ms * 1e6)

        return run


def test_every_contender_runs_once_per_round_and_groups_stay_together() -> None:
    clock = Clock()
    groups = [{n: clock.contender(n, ms) for n, ms in own} for own in ((("a", 1), ("b", 2)), (("c", 5),))]
    times = timing.interleaved(groups, 20, warm_up=2, clock=clock)
    assert {name: set(values) for name, values in times.items()} == {"a": {1.0}, "b": {2.0}, "c": {5.0}}
    rounds = [clock.calls[n : n + 3] for n in range(0, len(clock.calls), 3)]
    assert len(rounds) == 22
    assert {"".join(r) for r in rounds} == {"abc", "bac", "cab", "cba"}


def test_the_rounds_end_at_the_limit_but_not_before_the_second() -> None:
    clock = Clock()
    times = timing.interleaved([{"a": clock.contender("a", 100)}], 1000, limit_s=1.0, clock=clock)
    assert 9 <= len(times["a"]) <= 11
    times = timing.interleaved([{"a": clock.contender("a", 100)}], 1000, limit_s=0.0, clock=clock)
    assert len(times["a"]) == 2


def test_what_is_repeated_is_prepared_anew() -> None:
    prepared: list[int] = []

    def prepare() -> timing.Contenders:
        prepared.append(len(prepared))
        return {"a": lambda: None}

    shares: list[float] = []
    times = timing.repeated(prepare, 10, repeats=5, progress=shares.append)
    assert prepared == [0, 1, 2, 3, 4]
    assert [len(values) for values in times["a"]] == [2] * 5
    assert shares == sorted(shares) and shares[-1] == 1.0


@given(st.floats(0.1, 10), st.lists(st.floats(0.5, 50), min_size=15, max_size=15))
def test_a_common_slow_spell_does_not_move_a_ratio(factor: float, spell: list[float]) -> None:
    others = [np.array(spell[n : n + 3]) for n in range(0, 15, 3)]
    assert timing.ratios([factor * t for t in others], others) == pytest.approx((factor,) * 3)


def test_one_unlucky_preparation_does_not_move_a_ratio() -> None:
    others = [np.full(3, 10.0)] * 5
    ours = [np.full(3, 10.0)] * 3 + [np.full(3, 12.0)] * 2
    assert timing.ratios(ours, others) == pytest.approx((1.0, 1.0, 1.2))


# --- comparison ----------------------------------------------------------------------------------


def row(family: str, latency_ms: float, top1: float) -> dict[str, Any]:
    return {"name": f"{family} {latency_ms:g}", "family": family, "latency_ms": latency_ms, "top1": top1}


ROWS = comparison.judge(
    [
        row("dynamic_ofa_6", 5.0, 0.74),
        row("dynamic_ofa_6", 10.0, 0.79),
        row("dynamic_ofa_7", 5.0, 0.73),
        row("dynamic_ofa_7", 10.0, 0.78),
        row("other", 4.0, 0.70),  # faster than all of ours
        row("other", 6.0, 0.735),  # between the libraries
        row("other", 12.0, 0.765),  # beaten by both
        row("other", 12.0, 0.785),  # beaten by library 6 only
    ]
)


def test_domination_by_each_library() -> None:
    judged = [(r["dominated_by_ours"], r["dominated_by_libraries"]) for r in ROWS]
    assert judged[:4] == [(False, [])] * 4
    assert judged[4:] == [(False, []), (False, ["6"]), (True, ["6", "7"]), (False, ["6"])]


def test_summary_of_a_library() -> None:
    summary = comparison.summarise(ROWS, "dynamic_ofa_7")
    assert summary["baselines_at_or_above_smallest"] == 3
    assert summary["not_dominated"] == ["other 6", "other 12"]
    assert summary["below_smallest"] == ["other 4"]
    gains = [(p["speed_up"], p["gain_points"]) for p in summary["points"]]
    assert gains[0] == (None, None)  # nothing of ours is that inaccurate or that fast
    assert gains[1] == (pytest.approx(6.0 / 5.5), pytest.approx(0.5))
    assert gains[2] == (pytest.approx(12.0 / 8.5), None)
    assert gains[3] == (None, None)
    assert summary["best"]["speed_up"] == pytest.approx(12.0 / 8.5)
    assert summary["best"]["gain_points_against"] == "other 6"


# --- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", official_spaces())
def test_subnets_are_the_ends_and_the_middle_of_every_choice(name: str) -> None:
    space = load_space(name)
    found = engines.subnets(space)
    assert found["max"] == space.largest
    assert {c.resolution for c in found.values()} == {224}
    for entries, allowed in space.choices.items():
        for picked, place in (("min", 0), ("max", -1)):
            assert getattr(found[picked], entries) == tuple(a[place] for a in allowed)
    middle = found["mid"]
    if name.startswith("ofa_mbv3"):
        assert (set(middle.kernel_sizes), set(middle.expand_ratios), set(middle.depths)) == ({5}, {4}, {3})


@pytest.mark.parametrize("installed", [True, False])
def test_rows_of_a_space(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        pytest.importorskip("ofa", reason="needs the package ofa")
    else:
        monkeypatch.setattr(static_networks, "official", lambda space: None)
    monkeypatch.setattr(engines, "subnets", lambda space: {"min": space.smallest})
    names = ["onnxruntime", "torch"]
    rows = engines.run(spaces=[SMALL], engines=names, threads=(1,), rounds=10, limit_s=0.0)
    assert [(r["space"], r["subnet"], r["engine"], r["threads"]) for r in rows] == [
        (SMALL, "min", name, 1) for name in names
    ]
    for found in rows:
        assert found["median_ms"] > 0 and found["static_ms"] > 0
        least, largest = found["ratio_to_static_repeats"]
        assert 0 < least <= found["ratio_to_static"] <= largest
        assert (found["ratio_to_official"] is not None) == installed
        assert ("official" in found["static_source"].split()[0]) == installed


def test_a_static_network_that_is_another_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_networks, "official", lambda space: None)
    rival = engines.Rival(SMALL)
    monkeypatch.setattr(rival, "static_module", lambda name: static_networks.plain(rival.subnet("mid")))
    with pytest.raises(RuntimeError, match="ofa_mbv3_w0.25 min in torch is not its static network"):
        rival._check("torch", "min", 1)


@pytest.mark.parametrize("space", [SMALL, "ofa_proxyless_w0.25", "ofa_resnet50"])
def test_deployed_static_networks_still_compute_what_the_official_ones_do(space: str) -> None:
    pytest.importorskip("ofa", reason="needs the package ofa")
    official = static_networks.official(space)
    assert official is not None
    config = load_space(space).config(**{"resolution": 128})
    module = official.static(config)
    image, other = torch.randn(2, 1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, spread = module(image), (module(other) - module(image)).abs().max()
        dynamic = official.dynamic(config)(image.numpy())
        deployed = static_networks.deployed(module)
        assert (deployed(image) - expected).abs().max() < 1e-3 * spread
    assert np.abs(dynamic - expected.numpy()).max() < 1e-3 * float(spread)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in deployed.modules())
    own = {type(m).__name__ for m in deployed.modules()} & {"Hswish", "Hsigmoid", "SEModule"}
    assert not own


def test_a_disturbed_official_forward_gives_no_ratio() -> None:
    same = {"space": "s", "subnet": "min", "engine": "torch", "ratio_to_official": 0.4}
    one, two, slow = (same | {"threads": t, "official_ms": ms} for t, ms in ((1, 10.0), (2, 8.0), (2, 300.0)))
    assert [engines.without_disturbed(r, [one, two])["ratio_to_official"] for r in (one, two)] == [0.4, 0.4]
    judged = engines.without_disturbed(slow, [one, slow])
    assert judged["ratio_to_official"] is None and judged["official_disturbed"]


# --- decision ------------------------------------------------------------------------------------


def test_decision_rows() -> None:
    rows = decision.run(apps=(1, 3), steps=30)
    assert [r["apps"] for r in rows] == [1, 3]
    for found in rows:
        assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
        assert found["steps"] == 30 and found["steps_with_commands"] > 3
        assert 0 < found["explanations"]["p50_ms"] <= found["explanations"]["p99_ms"]
        assert 0 < found["held"]["p50_ms"] <= found["held"]["p99_ms"] and 20 < found["held_steps"] <= 30


def test_the_applications_of_the_decision_benchmark_do_what_is_decided() -> None:
    manager = decision.TimedManager(60)
    scene = decision.make_scene(2, 60, seed=1)
    run = simulate(replace(scene, duration_s=scene.duration_s + 0.7), ManagerPolicy(manager=manager), 1)
    decided = {a.app: (a.subnet_id, a.processor) for a in manager.taken[-1][0].apps}
    running = {app: (knob.subnet_id, knob.processor) for _, app, knob in run.knobs}
    assert len(decided) == 2 and running == decided
    assert not manager.state.refusals.counts
    assert {type(e).__name__ for e in decision.make_scene(2, 100, seed=1).timeline} == {
        "Load",
        "NewParameters",
        "NewTargets",
    }


# --- report and command --------------------------------------------------------------------------


ENGINE_ROW = {
    "space": SMALL,
    "subnet": "min",
    "engine": "onnxruntime",
    "threads": 1,
    "median_ms": 2.0,
    "ratio_to_static": 1.01,
    "ratio_to_static_repeats": [0.99, 1.05],
    "ratio_to_official": 0.5,
    "static_ms": 2.0,
    "official_ms": 4.0,
}
SUMMARY = {
    "engine": "onnxruntime",
    "threads": 1,
    "libraries": {n: comparison.summarise(ROWS, f"dynamic_ofa_{n}") for n in ("6", "7")},
    "published_xavier_nx": {"cpu": {"speed_up": 3.5, "gain_points": 3.8}},
}


TIMES = {"p50_ms": 0.4, "p99_ms": 1.5, "cpu_p99_ms": 1.2}


def statuses(results: dict[str, Any]) -> dict[str, str]:
    return {goal.name: goal.status for goal in report.goals(results)}


def test_without_results_nothing_is_measured() -> None:
    found = report.goals({})
    assert {goal.section for goal in found} == set(bench.SECTIONS)
    assert {goal.status for goal in found} == {"not measured"}


def test_goals_are_judged() -> None:
    found = statuses(
        {
            "engines": [ENGINE_ROW],
            "switch": {"warm_p99_ms": 0.1, "cold_p99_ms": 200.0, "delayed_share_extra": 0.02},
            "search": {"seconds": 12.0, "points": 31, "dominated_by_official": 0},
            "decision": [{"apps": 8, "held": TIMES, "overloaded": TIMES}],
            "comparison_summary": SUMMARY,
        }
    )
    assert found["masked / static latency, onnxruntime, 1 thread"] == "met"
    assert found["masked in onnxruntime / official dynamic forward"] == "not met"
    assert found["the same for ofa_resnet50"] == "not measured"
    assert found["warm switch p99"] == "met" and found["cold switch p99"] == "not met"
    assert found["delayed frames beyond those without switching"] == "not met"
    assert found["worst frame / median"] == "not measured"
    assert found["points on the front"] == found["points that the official search dominates"] == "met"
    eight, sixteen = (f"{n} apps x 30 sub-networks x 3 processors" for n in (8, 16))
    assert found[f"decision p99, {eight}, nothing given up"] == "not met"
    assert found[f"decision p99, {eight}, overload"] == "met"
    assert found[f"decision max, {sixteen}"] == "not measured"
    assert found["baselines not slower than library 6's smallest, dominated"] == "met"
    assert found["baselines not slower than library 7's smallest, dominated"] == "not met"
    assert found["library 7: speed-up at similar top-1"] == "reported"


def measure(section: str, options: object, effort: bench.Effort, progress: timing.Progress) -> dict[str, Any]:
    if section == "switch":
        raise RuntimeError("engine 'x' is not installed")
    progress(1.0)
    return {"comparison": ROWS, "comparison_summary": SUMMARY, "engines": [ENGINE_ROW]}


def test_a_section_that_fails_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", measure)
    assert main(["bench", "--only", "switch,comparison", "--out", str(tmp_path / "new")]) == 1
    captured = capsys.readouterr()
    assert captured.err == "dynofa bench: switch: engine 'x' is not installed\n"
    assert "6's smallest" in captured.out
    document = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert document["comparison"][6]["dominated_by_ours"] is True
    assert {key: document[key] for key in ("switch", "memory", "search", "decision")} == {
        "switch": None,
        "memory": None,
        "search": None,
        "decision": None,
    }
    assert document["errors"] == ["switch: engine 'x' is not installed"]
    assert set(document["environment"]) >= {"cpu", "cores", "versions"}
    assert (tmp_path / "new" / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--only", "speed"], 2, "must be one of engines, switch"),
        (["--only", ""], 2, "must be one of engines, switch"),
        (["--rounds", "1"], 2, "must be a whole number from 2"),
        (["--spaces", "ofa_vgg"], 2, "space 'ofa_vgg' is unknown"),
        (["--plot", "a.gif"], 2, "must end in .png"),
        (["--only", "decision", "--plot", "a.png"], 2, "--plot draws engines and comparison"),
        (["--on-board", "--only", "switch"], 2, "--on-board is a measurement of its own"),
        (["--json", "FILE/b.json"], 1, "cannot write"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], code: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = [a.replace("FILE", str(tmp_path / "file")) for a in arguments]
    try:
        result = main(["bench", *arguments])
    except SystemExit as exit_:  # argparse's own
        result = int(exit_.code or 0)
    assert result == code
    assert reason in capsys.readouterr().err


def test_every_processor_of_a_board_is_measured_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build with CUDA on a computer without it: the row of the GPU says so, that of the CPU has figures."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime = pytest.importorskip("dynofa_ros.supernet.engines.onnxruntime").onnxruntime
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: names)
    demo = load_supernet("ofa_mbv3_demo")
    configs = {"largest": demo.space.largest, "smallest": demo.space.smallest}
    monkeypatch.setattr(bench, "_sampled", lambda *_: (demo, configs))
    monkeypatch.setattr(bench, "QUICK", bench.QUICK._replace(segments=2))
    out = tmp_path / "board.json"
    assert main(["bench", "--on-board", "--quick", "--json", str(out)]) == 0
    rows = {row["processor"]: row for row in json.loads(out.read_text())["on_board"]}
    assert set(rows) == {"cpu", "gpu"} and "runs on CPU" in rows["gpu"]["error"]
    largest, smallest = rows["cpu"]["networks"]
    assert largest["median_ms"] > smallest["median_ms"] > 0 and largest["difference"] < 1e-4
    assert largest["first_s"] > 0 and rows["cpu"]["switch"]["cold_p50_ms"] > 0
    shown = capsys.readouterr().out
    assert "largest" in shown and "CUDAExecutionProvider" in shown and "not measured" not in shown


def test_environment_names_versions_but_no_place() -> None:
    found = json.dumps(report.environment())
    assert "numpy" in found
    assert str(Path.home()) not in found and str(Path.cwd()) not in found


def test_only_frames_slower_than_their_neighbours_are_delayed() -> None:
    """A computer that is half as fast later delays no frame; the first one after a switch is delayed."""
    stream = switching.Stream()
    for second in range(40):
        key, usual = "ab"[second // 2 % 2], 10.0 if second < 20 else 15.0
        for number in range(30):
            late = 1.3 if number == 0 and second % 2 == 0 else 1.0
            stream.frames.append((second % 2 == 0, key, usual * late))
    found = switching.frame_figures(stream)
    assert found["delayed_share"] == found["delayed_share_extra"] == pytest.approx(1 / 30)
    assert found["worst_frame_ratio"] == pytest.approx(1.3) and found["worst_frame_ratio_quiet"] == 1.0
    stream.dropped[False] += 600  # not answered
    assert switching.frame_figures(stream)["delayed_share_quiet"] == pytest.approx(0.5)


@pytest.mark.slow
def test_several_static_models_answer_as_their_supernet(tmp_path: Path) -> None:
    supernet = load_supernet(SMALL)
    space, rng = supernet.space, np.random.default_rng(0)
    configs = {"small": space.smallest, "other": space.resized(space.random(rng), resolution=128)}
    listed, static = static_models.as_files(supernet, configs, tmp_path)
    for key, config in configs.items():
        model = onnx.load(tmp_path / f"{key}.onnx")
        own = usual_config(f"{key}.onnx", model, {}, listed.classes, listed.task)
        assert abs(own.macs / supernet.plan(config).macs - 1) < 0.02
        image = rng.random((1, 3, 128, 128), np.float32)
        ours, theirs = supernet.prepare(config, processor="cpu"), static.prepare(own, processor="cpu")
        np.testing.assert_allclose(ours(image), theirs(image), atol=1e-4)


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.alone
def test_several_static_models_are_compared_with_the_supernet() -> None:
    supernet = load_supernet(SMALL)
    configs = {"small": supernet.space.smallest, "large": supernet.space.largest}
    found = static_models.run(supernet, configs, segments=2)
    for kind in ("supernet", "static"):
        assert found[kind]["pss_mb"] > 10 and found[kind]["disk_mb"] > 1 and found[kind]["cold_p50_ms"] > 0
    (goal, *_) = [g for g in report.goals({"static_models": found}) if g.value is not None]
    assert goal.status == "reported" and goal.name.startswith("memory with all held")
