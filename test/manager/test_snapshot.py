"""A manager that is made of a snapshot goes on bit for bit, wherever it was taken."""

from __future__ import annotations

import json
import random
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import pytest
from manager_bench import FRONT, Bench
from replay_runs import REFERENCE, tool
from simulated_robot import Plant, PlantApp, capabilities, make_library

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager import snapshot as under_test
from dynofa_ros.manager.inputs import Monitors, Parameters, parameters_of
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.manager.snapshot import FORMAT_VERSION, restore, snapshot
from dynofa_ros.messages import AppTargets, ManagerState
from dynofa_ros.recording.bag import typestore
from dynofa_ros.recording.recorded_steps import Recording, read_recording, recording

LOGS = sorted(REFERENCE.glob("*.jsonl"))
SCENARIOS = {"S4": 8.0, "S9": 8.0, "S13": 8.0, "S14": 8.0}  # and how many times faster they are played
STARTS = 4  # of a run, at random

Steps = Sequence[tuple[int, Monitors]]


@cache
def logged(name: str) -> Steps:
    return steps_of(read_recording(REFERENCE / f"{name}.jsonl"))


@cache
def simulated(name: str) -> Steps:
    return steps_of(recording(Path(name), tool.simulated(name, SCENARIOS[name]), typestore()))


def steps_of(known: Recording) -> Steps:
    return [(d.step_time, Monitors(known.inputs.of(d.inputs), parameters_of(d))) for d in known.decisions]


def robot(count: int, parameters: Parameters, **arguments: Any) -> Plant:
    apps = [
        PlantApp(AppTargets(f"app{n}", 60.0 + n), make_library(f"app{n}"), camera_hz=5.0)
        for n in range(count)
    ]
    plant = Plant(RuntimeManager(), apps, parameters, **arguments)
    plant.run(4.0)
    plant.retarget(apps[0], replace(apps[0].targets, latency_target_ms=12.0))
    plant.slowdown = 1.6
    plant.run(4.0)
    return plant


RUNS: dict[str, Callable[[], Steps]] = {
    **{path.stem: lambda name=path.stem: logged(name) for path in LOGS},  # type: ignore[misc]
    **{name: lambda name=name: simulated(name) for name in SCENARIOS},  # type: ignore[misc]
    "no power model": lambda: robot(2, Parameters(power_cap_w=5.0), model=None).steps,
    "battery": lambda: robot(2, Parameters("battery", battery_energy_j=60.0, battery_time_s=15.0)).steps,
}


def text(decision: Decision) -> str:
    """All of a decision but the time it took; the text of a float is exact."""
    return repr(replace(decision, compute_ms=0.0))


def decided(manager: RuntimeManager, steps: Steps) -> list[str]:
    return [text(manager.step(now_ns, monitors)) for now_ns, monitors in steps]


@pytest.mark.parametrize("name", RUNS)
def test_the_rest_of_a_run_is_the_same_from_wherever_it_begins(name: str) -> None:
    steps = RUNS[name]()
    assert len(steps) > 30
    manager, snapshots, expected = RuntimeManager(), [snapshot(RuntimeManager())], []
    for step in steps:
        expected += decided(manager, [step])
        snapshots.append(snapshot(manager))
    for start in random.Random(name).sample(range(len(steps)), STARTS):
        assert snapshots[start].step_number == start
        found = decided(restore(snapshots[start]), steps[start:])
        assert found == expected[start:], f"from step {start} on"


@pytest.mark.parametrize("name", RUNS)
def test_a_manager_without_any_memory_but_its_snapshots_decides_the_same(name: str) -> None:
    steps = RUNS[name]()
    expected = decided(RuntimeManager(), steps)
    manager, found = RuntimeManager(), []
    for step in steps:
        found += decided(manager, [step])
        manager = restore(snapshot(manager))
    assert found == expected


def test_a_snapshot_says_of_which_step_it_is() -> None:
    bench = Bench(capabilities(), FRONT, make_library("front"))
    bench.step()
    message = snapshot(bench.manager)
    assert (message.step_number, message.format_version) == (2, FORMAT_VERSION)
    assert message.header.stamp_ns == bench.now_ns


def test_what_is_one_nan_stays_one_and_others_stay_others() -> None:
    """A library's entry equals itself by its very NaN; one with another NaN is another entry."""
    library = make_library("front")
    odd = tuple(replace(entry, energy_j=float("nan")) for entry in library.entries)
    bench = Bench(capabilities(), FRONT, library)
    bench.manager.state.apps["front"].entries = odd  # a library that comes in has one NaN for all
    for _ in range(8):
        bench.step()
    before, after = (m.state.apps["front"] for m in (bench.manager, restore(snapshot(bench.manager))))
    assert before.planned in before.entries and after.planned in after.entries
    nans = [entry.energy_j for entry in after.entries]
    assert all(map(isnan, nans)) and len({*map(id, nans), id(nan)}) == len(odd) + 1
    plain = Bench(capabilities(), FRONT, library)
    assert restore(snapshot(plain.manager)).state.apps["front"].entries == library.entries


def test_numbers_come_back_bit_for_bit() -> None:
    manager = RuntimeManager()
    odd = {"a": -0.0, "b": 5e-324, "c": 0.1 + 0.2, "d": inf, "e": -inf, "f": 2.0**53 + 2.0}
    manager.state.loads._busy_hz.update(odd)
    manager.state.telemetry_ns = 10**19
    found = restore(snapshot(manager)).state
    assert {k: v.hex() for k, v in found.loads._busy_hz.items()} == {k: v.hex() for k, v in odd.items()}
    assert found.telemetry_ns == 10**19


def test_every_cache_is_an_attribute_that_a_new_object_has() -> None:
    for cls, names in under_test._CACHES.items():
        known = {f.name for f in fields(cls)} if cls is not under_test.Window else {"_ordered"}
        assert names <= known


@pytest.mark.parametrize(("count", "most"), [(1, 40_000), (8, 200_000)])
def test_a_snapshot_is_small_also_with_large_libraries(count: int, most: int) -> None:
    apps = [PlantApp(AppTargets(f"app{n}", 60.0), make_library(f"app{n}", 94), 5.0) for n in range(count)]
    plant = Plant(RuntimeManager(), apps)
    plant.run(6.0)
    assert most / 10 < len(snapshot(plant.manager).state) < most


# --- what is no snapshot of this version -----------------------------------------------------------------


@pytest.fixture
def message() -> ManagerState:
    return snapshot(Bench(capabilities(), FRONT, make_library("front")).manager)


def packed(document: object) -> str:
    return b64encode(zlib.compress(json.dumps(document).encode())).decode()


def changed(message: ManagerState, change: Callable[[dict[str, Any]], object]) -> ManagerState:
    document = json.loads(zlib.decompress(b64decode(message.state)))
    change(document)
    return replace(message, state=packed(document))


def refusal(message: ManagerState) -> str:
    with pytest.raises(ValueError) as caught:
        restore(message)
    assert "\n" not in str(caught.value) and "after step 1 " in str(caught.value)
    return str(caught.value)


def test_a_snapshot_of_another_format_is_refused(message: ManagerState) -> None:
    assert "has format 2, this version of the package reads 1" in refusal(replace(message, format_version=2))


def test_a_class_with_other_attributes_is_refused_by_its_name(message: ManagerState) -> None:
    text = refusal(changed(message, lambda d: d["classes"]["Clocks"].append("_new")))
    assert "Clocks is another one in this version of the package" in text


def test_a_damaged_snapshot_is_refused(message: ManagerState) -> None:
    state = message.state
    for damaged in ("", "not base 64", state[:-40], state[4:], state[:100] + "AAAA" + state[104:], "AAAA"):
        assert "damaged" in refusal(replace(message, state=damaged))
    for n in range(0, len(state) - 8, len(state) // 20):
        other = "A" if state[n] != "A" else "B"
        assert "damaged" in refusal(replace(message, state=state[:n] + other + state[n + 1 :]))


@pytest.mark.parametrize(
    "document",
    [[], {}, {"classes": {}, "manager": 1}, {"classes": [], "manager": 1}, {"classes": {}, "manager": []}],
)
def test_another_document_is_refused(message: ManagerState, document: object) -> None:
    assert "damaged" in refusal(replace(message, state=packed(document)))


@pytest.mark.parametrize("name", ["Popen", "os.system", "object", "list"])
def test_only_known_classes_are_made(message: ManagerState, name: str) -> None:
    text = refusal(changed(message, lambda d: d["classes"].update({name: []})))
    assert f"{name} is another one" in text
    assert "damaged" in refusal(changed(message, lambda d: d.update(manager=[name])))
    assert "damaged" in refusal(changed(message, lambda d: d.update(manager=["same", 5])))
    assert "damaged" in refusal(changed(message, lambda d: d.update(manager=d["manager"][:-1])))


def test_the_snapshot_of_another_step_is_refused(message: ManagerState) -> None:
    with pytest.raises(ValueError, match="after step 7 is damaged: it holds something else"):
        restore(replace(message, step_number=7))


def test_a_text_without_end_is_refused(message: ManagerState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MOST_BYTES", 1000)
    assert "too long" in refusal(message)


def test_an_object_of_an_unknown_class_is_named(message: ManagerState) -> None:
    manager = restore(message)
    manager.state.loads._busy_hz["cpu"] = object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"builtins\.object cannot be part of a snapshot of the manager"):
        snapshot(manager)
