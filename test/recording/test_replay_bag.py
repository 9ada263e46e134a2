"""`dynofa replay` on bags: of a robot in a namespace, damaged, of another version, without what it needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command import dynofa_process
from replay_runs import decisions, demo_run, named_input, with_snapshots, without
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from dynofa_ros.paths import share_file
from dynofa_ros.recording.bag import BagError, typestore
from dynofa_ros.recording.recorded_steps import DECISION_TYPE, read_recording
from dynofa_ros.recording.replay import replay
from dynofa_ros.recording.run import read_run
from dynofa_ros.recording.text_log import Message, make
from dynofa_ros.topics import DECISION, MANAGER_STATE

pytestmark = pytest.mark.live

START_NS, STEP_NS = 10**18, 10**6


@pytest.fixture
def demo() -> tuple[Message, ...]:
    return demo_run()


def write_bag(
    path: Path,
    messages: Sequence[Message],
    *,
    root: str = "",
    storage: StoragePlugin = StoragePlugin.MCAP,
    store: Typestore | None = None,
) -> Path:
    """A bag of these messages in their order, below the namespace `root`."""
    definitions = store or typestore()
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {}
        for number, (topic, kind, message) in enumerate(messages):
            if topic not in connections:
                connections[topic] = writer.add_connection(f"{root}/{topic}", kind, typestore=definitions)
            raw = bytes(definitions.serialize_cdr(message, kind))
            writer.write(connections[topic], START_NS + number * STEP_NS, raw)
    return path


def failure(path: Path, **options: Any) -> str:
    """Why a bag cannot be replayed at all."""
    with pytest.raises(BagError) as caught:
        read_recording(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_process_reproduces_a_robot_in_a_namespace(demo: tuple[Message, ...], tmp_path: Path) -> None:
    bag, results = write_bag(tmp_path / "bag", demo, root="/robot1"), tmp_path / "results.json"
    result = dynofa_process("replay", bag, "--json", results, PYTHONHASHSEED="7")
    count = len(decisions(demo))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{count} decisions, {count} reproduced bit for bit\n"
    assert json.loads(results.read_text()) == {
        "bag": str(bag),
        "decisions": count,
        "begins_at_step": 1,
        "skipped": 0,
        "reproduced": count,
        "differences": [],
        "errors": [],
    }


def test_the_second_half_of_a_bag_is_reproduced(demo: tuple[Message, ...], tmp_path: Path) -> None:
    run = with_snapshots(demo, 20)
    cut = run[len(run) // 2 :]
    bag, results = write_bag(tmp_path / "bag", cut, root="/robot1"), tmp_path / "results.json"
    first = next(m.step_number for t, _, m in cut if t == MANAGER_STATE.name) + 1
    left = len(decisions(demo)) - first + 1
    count = len(decisions(cut))
    result = dynofa_process("replay", bag, "--json", results, PYTHONHASHSEED="7")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{count} decisions, {left} reproduced bit for bit, {count - left} not replayed",
        f"begins at step {first}: the recording starts later than the manager",
    ]
    written = json.loads(results.read_text())
    assert (written["begins_at_step"], written["reproduced"], written["errors"]) == (first, left, [])
    assert written["skipped"] == count - left > 0


def test_differences_and_errors_are_shown_and_written(demo: tuple[Message, ...], tmp_path: Path) -> None:
    told = decisions(demo)
    topic = "perception/rear/monitor"
    lacking = next(d for d in told if d.step_number > 100 and any(i.topic == topic for i in d.inputs))
    sequence = named_input(lacking, topic)
    lost = next(m for t, _, m in demo if t == topic and m.frame_sequence == sequence)
    changed = told[50]
    messages = without(demo, lost)
    other = make(DECISION_TYPE, changed, lenient=False)
    other.apps[0].subnet_id = "s99"
    messages = [(t, k, other if m is changed else m) for t, k, m in messages]
    bag, results = write_bag(tmp_path / "bag", messages), tmp_path / "results.json"
    result = dynofa_process("replay", bag, "--json", results)
    assert result.returncode == 1
    assert result.stderr == ""
    left = len(told) - lacking.step_number + 1
    lines = result.stdout.splitlines()
    assert lines[0] == (
        f"{len(told)} decisions, {len(told) - left - 1} reproduced bit for bit, 1 different, "
        f"{left} not replayed"
    )
    assert "apps[0].subnet_id" in lines[2]
    assert f"error: input {topic} {sequence} of decision {lacking.decision_id}" in lines[3]
    written = json.loads(results.read_text())
    assert written["reproduced"] == len(told) - left - 1
    assert written["differences"] == [
        {
            "decision_id": changed.decision_id,
            "step_number": 51,
            "field": "apps[0].subnet_id",
            "recorded": "s99",
            "replayed": changed.apps[0].subnet_id,
        }
    ]
    assert len(written["errors"]) == 1


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_both_storages_are_read(demo: tuple[Message, ...], tmp_path: Path, storage: StoragePlugin) -> None:
    bag = write_bag(tmp_path / "bag", demo[:400], storage=storage)
    found = replay(read_recording(bag))
    assert found.reproduced == found.decisions > 10


def test_one_of_several_robots_is_chosen(demo: tuple[Message, ...], tmp_path: Path) -> None:
    few = demo[:200]
    both = [(f"{robot}/{topic}", kind, m) for robot in ("one", "two") for topic, kind, m in few]
    bag = write_bag(tmp_path / "bag", both)
    assert "several namespaces (/one, /two); choose one with --namespace" in failure(bag)
    assert replay(read_recording(bag, "two")).reproduced == len(decisions(few))


# --- bags that cannot be replayed ----------------------------------------------------------------------


def test_no_bag_and_an_empty_one(tmp_path: Path) -> None:
    assert failure(tmp_path / "missing") == f"{tmp_path / 'missing'} does not exist"
    assert "holds no run" in failure(write_bag(tmp_path / "bag", []))
    result = dynofa_process("replay", tmp_path / "missing", "--json", tmp_path / "results.json")
    assert result.returncode == 1
    assert result.stderr == f"dynofa replay: {tmp_path / 'missing'} does not exist\n"
    assert json.loads((tmp_path / "results.json").read_text())["errors"] == [
        f"{tmp_path / 'missing'} does not exist"
    ]


def test_a_bag_without_decisions(demo: tuple[Message, ...], tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", [item for item in demo[:200] if item[0] != DECISION.name])
    assert f"holds no decision: record {DECISION.name}" in failure(bag)


def test_a_truncated_bag(demo: tuple[Message, ...], tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", demo[:200])
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-1000])
    result = dynofa_process("replay", bag)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(f"warning: {file} was not closed by its recorder")
    assert "reproduced bit for bit" in result.stdout


def write_damaged(bag: Path, messages: tuple[Message, ...], damaged: Callable[[int], bool]) -> None:
    """A bag in which decisions of these steps are too short."""
    store = typestore()
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {topic: kind for topic, kind, _ in messages}
        connections = {t: writer.add_connection(f"/{t}", k, typestore=store) for t, k in kinds.items()}
        for number, (topic, kind, message) in enumerate(messages):
            raw = bytes(store.serialize_cdr(message, kind))
            short = raw[:-9] if topic == DECISION.name and damaged(message.step_number) else raw
            writer.write(connections[topic], START_NS + number * STEP_NS, short)


def test_where_all_decisions_are_damaged_that_is_said(demo: tuple[Message, ...], tmp_path: Path) -> None:
    write_damaged(tmp_path / "bag", demo[:100], lambda step: True)
    with pytest.raises(BagError, match=r"holds no decision: .*; .*of /dynofa/manager/decision are damaged"):
        read_recording(tmp_path / "bag")


def test_a_damaged_message(demo: tuple[Message, ...], tmp_path: Path) -> None:
    write_damaged(tmp_path / "bag", demo[:100], lambda step: step == 3)
    recording = read_recording(tmp_path / "bag")
    assert recording.problems == (f"{tmp_path / 'bag'}: 1 of /{DECISION.name} are damaged and left out",)
    found = replay(recording)
    assert len(found.errors) == 1 and "step 3 is" in found.errors[0]
    assert [comparison.step_number for comparison in found.comparisons] == [1, 2] and not found.different
    run = read_run(tmp_path / "bag")
    assert len(run.decisions) == sum(topic == DECISION.name for topic, _, _ in demo[:100]) - 1
    assert len(run.errors) == 1 and f"1 of /{DECISION.name} are damaged" in run.errors[0]


def older(replaced: str) -> Typestore:
    """The messages of a version whose ManagerDecision had no step_number, or named it otherwise."""
    text = share_file("msg", "ManagerDecision.msg").read_text().replace("uint64 step_number", replaced)
    store = typestore()
    other = Typestore()
    own = get_types_from_msg(text, DECISION_TYPE)
    other.register({**store.fielddefs, **own})
    return other


@pytest.mark.parametrize("replaced", ["# step_number", "uint32 step_number", "uint64 step"])
def test_messages_of_another_version_are_refused_by_the_field(
    demo: tuple[Message, ...],
    tmp_path: Path,
    replaced: str,
) -> None:
    store = older(replaced)
    kept = {name for name, _ in store.fielddefs[DECISION_TYPE][1]}
    messages = []
    for topic, kind, message in demo[:200]:
        if kind == DECISION_TYPE:
            fields = {n: getattr(message, n, 1) for n in kept}
            message = store.types[kind](**fields)
        messages.append((topic, kind, message))
    text = failure(write_bag(tmp_path / "bag", messages, store=store))
    assert "was recorded with another version of this package" in text
    assert "ManagerDecision differs in step" in text


def test_parameters_of_another_version_are_refused(demo: tuple[Message, ...], tmp_path: Path) -> None:
    messages = []
    for topic, kind, message in demo[:200]:
        if kind == DECISION_TYPE:
            message = make(kind, message, lenient=False)
            message.parameters[1].name = "power_limit_w"
        messages.append((topic, kind, message))
    text = failure(write_bag(tmp_path / "bag", messages))
    assert "its parameters are not those of this version: power_cap_w, power_limit_w" in text


def test_help_shows_an_example() -> None:
    assert "example: dynofa replay out" in dynofa_process("replay", "--help").stdout
