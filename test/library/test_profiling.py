"""Profiling: what is measured, in which order and groups; `dynofa library profile` and how it finds files."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from command import dynofa
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.application.networks import DEMO_LIBRARY, DEMO_WEIGHTS
from dynofa_ros.cli import library_profile
from dynofa_ros.errors import CliError
from dynofa_ros.library.files import find_library, open_library, renewed_notes, save_with_statistics
from dynofa_ros.library.library import Library, LibraryError, load_library, load_statistics, save_library
from dynofa_ros.library.profiling import Runs, joined, measure, memory_groups, profile, running_on
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.masked import initial_weights
from dynofa_ros.supernet.registry import DEMO_SPACE, EngineError, load_engine, load_space

WEIGHTS = share_file(*DEMO_WEIGHTS)
DEMO = share_file(*DEMO_LIBRARY)


def run_profile(*arguments: object) -> int:
    return dynofa("library", "profile", *arguments)


def quick(*arguments: object) -> int:
    """Profile the demo's weights with few rounds and no pause."""
    return run_profile(*arguments, "--weights", WEIGHTS, "--rounds", 5, "--pause-ms", 0)


# --- what is measured ---------------------------------------------------------------------------


def test_every_round_has_every_network_once_in_another_order():
    calls: list[str] = []
    runners = {name: lambda name=name: calls.append(name) for name in "abcdef"}
    times = measure(runners, rounds=4, warm_up=1, shuffle=np.random.default_rng(3))
    rounds = [calls[i : i + 6] for i in range(0, 30, 6)]
    assert all(sorted(r) == sorted(runners) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert {k: len(v) for k, v in times.items()} == dict.fromkeys(runners, 4)
    first, calls[:] = list(calls), []
    measure(runners, rounds=4, warm_up=1, shuffle=np.random.default_rng(3))
    assert calls == first, "the seed decides the order"


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 300))
def test_groups_hold_every_network_within_the_limit_and_share_the_first(sizes, limit):
    needed = {str(i): size for i, size in enumerate(sizes)}
    groups = memory_groups(needed, limit)
    assert {k for group in groups for k in group} == set(needed)
    assert sum(len(group) - 1 for group in groups) == len(needed) - 1, "the others are in one group each"
    for group in groups:
        assert group[0] == "0"
        assert sum(needed[k] for k in group) <= limit or len(group) <= 2
    if sum(sizes) <= limit:
        assert len(groups) == 1


def test_groups_are_scaled_by_the_network_they_share():
    slow = {"a": np.array([2.0, 2.0]), "c": np.array([8.0, 10.0])}
    times = joined([{"a": np.array([1.0, 1.0]), "b": np.array([3.0])}, slow], "a")
    assert times["a"].tolist() == [1.0, 1.0]
    assert times["b"].tolist() == [3.0]
    assert times["c"].tolist() == [4.0, 5.0]


def test_a_library_larger_than_memory_is_profiled_in_groups():
    opened = open_library(DEMO, WEIGHTS)
    steps: list[int] = []
    arguments = (opened.library, opened.supernet, Runs(rounds=2, pause_s=0.0))
    result = profile(*arguments, memory_limit=1, on_round=steps.append)
    groups = len(opened.library.entries) - 1
    assert steps == [groups * 7] * (groups * 7)
    assert {e.id for e in result} <= {e.id for e in opened.library}


def test_profile_keeps_shares_and_binds_the_weights():
    opened = open_library(DEMO, WEIGHTS)
    energetic = [msgspec.structs.replace(e, energy_j=1.0) for e in opened.library]
    library = msgspec.structs.replace(opened.library, weights_sha256=None, entries=tuple(energetic))
    runs = Runs(affinity=[min(os.sched_getaffinity(0))], rounds=2, pause_s=0.0)
    result = profile(library, opened.supernet, runs)
    assert result.weights_sha256 == opened.supernet.weights.digest
    for e in result:
        before = library.find(e.id)
        assert before is not None
        assert e.alpha_ms / e.latency_ms.median == pytest.approx(
            before.alpha_ms / (before.alpha_ms + before.beta_ms)
        )
        assert (e.latency_source, e.energy_j, e.accuracy) == ("measured", None, before.accuracy)


def test_affinity_binds_the_calling_thread_and_is_given_back():
    before = os.sched_getaffinity(0)
    one = min(before)
    with pytest.raises(RuntimeError), running_on([one]):
        assert os.sched_getaffinity(0) == {one}
        raise RuntimeError
    assert os.sched_getaffinity(0) == before
    with running_on(()):
        assert os.sched_getaffinity(0) == before
    with pytest.raises(ValueError, match="must be among"), running_on([10**4]):
        pass


def test_an_engine_does_not_pretend_another_processor():
    opened = open_library(DEMO, WEIGHTS)
    with pytest.raises(EngineError, match="reaches no npu"):
        profile(opened.library, opened.supernet, Runs("torch", processor="npu", rounds=1))


# --- the command --------------------------------------------------------------------------------


def test_profile_writes_a_library_of_this_machine(tmp_path, capsys):
    out, results = tmp_path / "mine.yaml", tmp_path / "r.json"
    assert quick(DEMO, "--out", out, "--json", results, "--board", "desk") == 0
    own, demo = load_library(out), load_library(DEMO)
    assert own.board == "desk" and own.reference_frequencies_hz == {}
    assert [n for n in own.notes if n.startswith("latency:")] == [own.notes[-1]]
    assert "1 thread," in own.notes[-1] and "desk" in own.notes[-1]
    statistics = load_statistics(out, own)
    assert set(statistics) == {e.id for e in own}
    kept = load_statistics(DEMO, demo)[own.entries[0].id]
    assert all(np.array_equal(kept[k], v) for k, v in statistics[own.entries[0].id].items())
    values = json.loads(results.read_text())
    assert [e["id"] for e in values["entries"]] == [e.id for e in own]
    assert set(values["dropped"]) == {e.id for e in demo} - {e.id for e in own}
    shown = capsys.readouterr().out
    assert all(name in shown for name in values["dropped"]) and str(out) in shown


def test_profile_measures_every_network_with_every_number_of_threads(tmp_path, capsys, monkeypatch):
    two = tmp_path / "two.yaml"
    few = load_library(DEMO)
    save_library(two, msgspec.structs.replace(few, entries=few.entries[::6], bn_statistics=None))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
    engine = load_engine("onnxruntime")
    prepare = engine.prepare
    used: list[int] = []

    def counted(subnet, threads, processor):
        used.append(threads)
        return prepare(subnet, threads, processor)

    monkeypatch.setattr(engine, "prepare", counted)
    out, results = tmp_path / "mine.yaml", tmp_path / "r.json"
    assert quick(two, "--out", out, "--threads", "2,1", "--json", results) == 0
    own, ids = load_library(out), [e.id for e in few.entries[::6]]
    assert sorted(used) == sorted([1, 2] * len(ids)), "each network is prepared once with each number"
    assert own.placements == (("", 1), ("", 2)) and {e.id for e in own} <= set(ids)
    assert "1 and 2 threads," in own.notes[-1] and "threads" in capsys.readouterr().out
    values = json.loads(results.read_text())
    assert values["threads"] == [1, 2]
    assert [(e["id"], e["threads"]) for e in values["entries"]] == [(e.id, e.threads) for e in own]
    assert quick(out, "--out", tmp_path / "again.yaml", "--threads", 3) == 0
    again = load_library(tmp_path / "again.yaml")
    assert again.placements == (("", 3),) and len(again.entries) <= len(ids), "one entry per network again"


def test_what_leaves_the_front_is_named(tmp_path, capsys, monkeypatch):
    def slow_second(library: Library, *arguments: object, **options: object) -> Library:
        first, _, *rest = library.entries
        return msgspec.structs.replace(library, entries=(first, *rest))

    monkeypatch.setattr("dynofa_ros.library.profiling.profile", slow_second)
    assert quick(DEMO, "--out", tmp_path / "l.yaml") == 0
    assert f"left out: {load_library(DEMO).entries[1].id}\n" in capsys.readouterr().out


def test_the_same_board_keeps_its_reference_clocks(tmp_path):
    assert quick(DEMO, "--out", tmp_path / "l.yaml", "--board", "demo") == 0
    own = load_library(tmp_path / "l.yaml")
    assert own.reference_frequencies_hz == load_library(DEMO).reference_frequencies_hz


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.yaml",), "missing.yaml: cannot be read"),
        ((DEMO, "--engine", "abacus"), "engine 'abacus' is unknown"),
        ((DEMO, "--affinity", "9999"), "must be among"),
        ((DEMO, "--threads", "1,250"), "threads = 250 must be at most [0-9]+, the CPUs that may be used"),
        ((DEMO, "--weights", "missing.pth"), "missing.pth: no such file"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    options = ("--weights", WEIGHTS, "--rounds", 5, "--out", tmp_path / "out" / "l.yaml")
    with pytest.raises(CliError, match=words) as error:
        run_profile(arguments[0], *options, *arguments[1:])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1.5"])
def test_affinity_is_cpu_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="CPU numbers"):
        library_profile.cpu_list(text)
    assert library_profile.cpu_list("3, 1,1") == (1, 3)


# --- which library ------------------------------------------------------------------------------


def demo_copy(path: Path) -> Path:
    """The demo's library without statistics."""
    save_library(path, msgspec.structs.replace(load_library(DEMO), bn_statistics=None))
    return path


def test_the_library_here_goes_before_the_package(tmp_path):
    (tmp_path / "other.yaml").write_text("a: 1")
    assert find_library(WEIGHTS, tmp_path) == DEMO
    mine = demo_copy(tmp_path / "libraries" / "mine.yaml")
    assert find_library(WEIGHTS, tmp_path) == mine
    second = demo_copy(tmp_path / "second.yaml")
    with pytest.raises(LibraryError, match="name one of") as error:
        find_library(WEIGHTS, tmp_path)
    assert str(mine) in str(error.value) and str(second) in str(error.value)


def test_no_library_for_these_weights(tmp_path):
    from safetensors.torch import save_file

    weights = tmp_path / "w.safetensors"
    save_file(initial_weights(load_space(DEMO_SPACE), classes=3), weights)
    demo_copy(tmp_path / "l.yaml")
    with pytest.raises(LibraryError, match="name the library file"):
        find_library(weights, tmp_path)
    with pytest.raises(LibraryError, match="made for other weights"):
        open_library(tmp_path / "l.yaml", weights)
    with pytest.raises(ValueError, match="no such file"):
        find_library(tmp_path / "missing", tmp_path)


def test_rewriting_statistics_leaves_no_old_file_and_no_foreign_one_goes(tmp_path):
    library = load_library(DEMO)
    own = load_statistics(DEMO, library)
    shutil.copy(DEMO, tmp_path / "l.yaml")
    foreign = tmp_path / library.bn_statistics.file
    shutil.copy(DEMO.parent / foreign.name, foreign)
    first = save_with_statistics(tmp_path / "l.yaml", library, own)
    changed = {k: {n: a + 1 for n, a in arrays.items()} for k, arrays in own.items()}
    second = save_with_statistics(tmp_path / "l.yaml", first, changed)
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {"l.yaml", foreign.name, second.bn_statistics.file}
    assert load_statistics(tmp_path / "l.yaml", load_library(tmp_path / "l.yaml")).keys() == own.keys()
    assert save_with_statistics(tmp_path / "l.yaml", second, {}).bn_statistics is None
    assert {p.name for p in tmp_path.iterdir()} == {"l.yaml", foreign.name}


def test_notes_are_renewed_not_repeated():
    notes = renewed_notes(("accuracy: x", "latency: old"), "latency: new", ("latency:",))
    assert notes == ("accuracy: x", "latency: new")
