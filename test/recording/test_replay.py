"""A recorded run is reproduced bit for bit, and what keeps it from being so is named."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_runs import REFERENCE, decisions, demo_run, named_input, tool, with_snapshots, without

from dynofa_ros.recording.bag import typestore
from dynofa_ros.recording.recorded_steps import DECISION_TYPE, Recording, read_recording, recording
from dynofa_ros.recording.replay import Difference, Replay, compare, replay
from dynofa_ros.recording.text_log import Message, make, read_log, write_log
from dynofa_ros.topics import MANAGER_STATE as STATE
from dynofa_ros.topics import POWER_MODEL

LOGS = sorted(REFERENCE.glob("*.jsonl"))
ON_PURPOSE = "if the manager was changed on purpose: python tools/record_reference_logs.py --recompute"


@pytest.fixture
def demo() -> tuple[Message, ...]:
    return demo_run()


def record(messages: Sequence[Message]) -> Recording:
    return recording(Path("bag"), messages, typestore())


def assert_reproduced(found: Replay, count: int) -> None:
    assert found.errors == ()
    assert found.different == ()
    assert found.reproduced == found.decisions == count


# --- the reference logs ------------------------------------------------------------------------------


def one_apart(difference: Difference) -> bool:
    """Two float32 that are neighbours.

    On the machine that recorded a log every bit is the same. Elsewhere exp and log of the C library and
    sums of NumPy may round their last bit the other way, and then a float32 of the message once in a while.
    """
    one, other = difference.recorded, difference.replayed
    if not isinstance(one, float) or not isinstance(other, float):
        return False
    return bool(np.nextafter(np.float32(one), np.float32(other)) == np.float32(other))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_the_decisions_of_a_reference_log_are_reproduced(path: Path) -> None:
    found = replay(read_recording(path))
    assert found.errors == ()
    assert len(found.comparisons) == found.decisions > 50
    for comparison in found.different:
        other = [d for d in comparison.differences if not one_apart(d)]
        assert not other, f"step {comparison.step_number}: {other[0]}; {ON_PURPOSE}"


def test_the_reference_logs_hold_what_can_happen() -> None:
    triggers = {m.trigger for path in LOGS for m in decisions(list(read_log(path)))}
    assert triggers >= {"startup", "periodic", "targets", "parameter", "latency", "departure"}
    assert sum(path.stat().st_size for path in LOGS) < 1_100_000


def test_a_log_is_written_and_read_without_loss(demo: tuple[Message, ...], tmp_path: Path) -> None:
    log, again = tmp_path / "log.jsonl", tmp_path / "again.jsonl"
    write_log(log, "note", demo)
    write_log(again, "note", read_log(log))
    assert log.read_bytes() == again.read_bytes()
    store = typestore()
    for (topic, kind, one), (other_topic, _, other) in zip(demo, read_log(log), strict=True):
        assert topic == other_topic
        assert bytes(store.serialize_cdr(one, kind)) == bytes(store.serialize_cdr(other, kind))


def test_a_replay_has_the_power_model_of_the_recording_and_no_other() -> None:
    messages = tool.simulated("S3", 8.0)
    models = [m for topic, _, m in messages if topic == POWER_MODEL.name]
    assert len(models) == 1 and models[0].board == "xavier_nx"
    assert_reproduced(replay(record(messages)), len(decisions(messages)))
    unmodelled = deepcopy(without(messages, *models))
    for decision in decisions(unmodelled):
        decision.inputs = [i for i in decision.inputs if i.topic != POWER_MODEL.name]
    unmodelled = tool.recomputed(unmodelled)
    assert_reproduced(replay(record(unmodelled)), len(decisions(messages)))
    watts = [[d.predicted_power_w for d in decisions(run)] for run in (messages, unmodelled)]
    assert np.isfinite(watts[0][-1]) and not np.isfinite(watts[1]).any()
    models[0].base_w += 1.0
    assert not replay(record(messages)).reproduced


# --- what is compared --------------------------------------------------------------------------------


def test_a_run_is_reproduced(demo: tuple[Message, ...]) -> None:
    steps: list[int] = []
    found = replay(record(demo), steps.append)
    assert_reproduced(found, len(decisions(demo)))
    assert steps == [found.decisions] * found.decisions


def altered(messages: Sequence[Message], number: int) -> tuple[list[Message], Any]:
    """The same messages, and the decision of that number, which may be changed."""
    chosen = decisions(messages)[number]
    copied = deepcopy(chosen)
    return [(t, k, copied if m is chosen else m) for t, k, m in messages], copied


def test_an_altered_decision_is_told_with_its_field_and_both_values(demo: tuple[Message, ...]) -> None:
    messages, decision = altered(demo, 60)
    before = np.float32(decision.apps[1].margin)
    decision.apps[1].margin = after = float(np.nextafter(before, np.float32(10.0)))
    found = replay(record(messages))
    assert found.errors == ()
    assert found.reproduced == found.decisions - 1, "what comes after it is not touched"
    assert found.different[0].decision_id == decision.decision_id
    assert found.different[0].step_number == 61
    assert found.different[0].differences == (Difference("apps[1].margin", after, float(before)),)


@pytest.mark.parametrize("name", ["trigger", "ladder_step", "feasible", "decision_id", "apps", "bands"])
def test_every_kind_of_field_is_compared(demo: tuple[Message, ...], name: str) -> None:
    messages, decision = altered(demo, 60)
    value = getattr(decision, name)
    changed = {str: "other", bool: not value, int: 10**9}
    setattr(decision, name, value[:-1] if isinstance(value, list) else changed[type(value)])
    (comparison,) = replay(record(messages)).different
    assert comparison.differences[0].field == (f"{name}.length" if isinstance(value, list) else name)


def test_what_belongs_to_the_node_is_not_compared(demo: tuple[Message, ...]) -> None:
    messages, decision = altered(demo, 60)
    decision.compute_ms, decision.header.frame_id, decision.header.stamp.sec = 99.0, "somewhere", 1
    assert_reproduced(replay(record(messages)), len(decisions(demo)))


def test_bits_are_compared_and_nan_is_nan(demo: tuple[Message, ...]) -> None:
    recorded = record(demo).decisions[60].fields
    decision = replayed_decision(demo, 60)
    assert compare(recorded, decision) == ()
    unknown = dict(recorded) | {"predicted_power_w": np.float32(np.nan)}
    assert compare(unknown, replace(decision, predicted_power_w=-float("nan"))) == ()
    assert compare(unknown, decision)[0].field == "predicted_power_w"
    zero = dict(recorded) | {"predicted_power_w": np.float32(0.0)}
    assert compare(zero, replace(decision, predicted_power_w=1e-60)) == (), "as the message rounds it"
    assert len(compare(zero, replace(decision, predicted_power_w=-0.0))) == 1


def replayed_decision(messages: Sequence[Message], number: int) -> Any:
    from dynofa_ros.manager import RuntimeManager
    from dynofa_ros.manager.inputs import Monitors, parameters_of

    known, manager = record(messages), RuntimeManager()
    for recorded in known.decisions[: number + 1]:
        items = known.inputs.of(recorded.inputs)
        decision = manager.step(recorded.step_time, Monitors(items, parameters_of(recorded)))
    return decision


# --- what is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["perception/rear/monitor", "dynofa/device/telemetry"])
def test_a_missing_input_is_named(demo: tuple[Message, ...], topic: str) -> None:
    told = decisions(demo)
    number = next(n for n, d in enumerate(told) if n > 60 and any(i.topic == topic for i in d.inputs))
    sequence = named_input(told[number], topic)
    missing = next(m for t, _, m in demo if t == topic and sequence in (sequence_of(m), stamp(m)))
    found = replay(record(without(demo, missing)))
    assert len(found.errors) == 1
    assert found.errors[0].startswith(
        f"input {topic} {sequence} of decision {told[number].decision_id} (step {number + 1}) is missing"
    )
    assert f"{len(told) - number} decisions are not replayed" in found.errors[0]
    assert found.reproduced == number
    assert found.decisions == len(told)
    assert found.different == ()


def sequence_of(message: Any) -> int:
    return int(getattr(message, "frame_sequence", -1))


def stamp(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def test_a_recording_that_begins_in_the_middle_says_so(demo: tuple[Message, ...]) -> None:
    found = replay(record(without(demo, *decisions(demo)[:10])))
    assert found.comparisons == ()
    assert len(found.errors) == 1
    assert "begins in the middle" in found.errors[0]
    assert "its step 11, and the 10 before it are missing" in found.errors[0]


def test_decisions_that_were_lost_are_counted(demo: tuple[Message, ...]) -> None:
    found = replay(record(without(demo, *decisions(demo)[20:22])))
    assert found.reproduced == 20
    assert len(found.errors) == 1
    assert "steps 21 to 22 are missing between decisions" in found.errors[0].replace("of the manager ", "")


# --- a recording that starts later than the manager ----------------------------------------------------


@pytest.fixture(scope="module")
def run() -> list[Message]:
    return with_snapshots(demo_run(), 30)


def after_step(messages: Sequence[Message], number: int) -> list[Message]:
    """What a recorder got that began just after a step, latched messages left out."""
    step = next(n for n, (_, _, m) in enumerate(messages) if getattr(m, "step_number", 0) == number)
    return list(messages[step + 1 :])


def test_a_late_recording_begins_after_its_first_snapshot(run: list[Message]) -> None:
    total = len(decisions(run))
    found = replay(record(after_step(run, total // 2)))
    first = total // 2 // 30 * 30 + 30 + 2  # snapshots after steps 1, 31, 61, ...
    assert found.begins_at_step == first
    assert found.remarks == (f"begins at step {first}: the recording starts later than the manager",)
    assert (found.errors, found.different, found.complete) == ((), (), True)
    assert found.reproduced == total - first + 1 == found.decisions - found.skipped


def test_every_beginning_of_a_recording_can_be_replayed(run: list[Message]) -> None:
    for number in range(3, 100, 13):
        found = replay(record(after_step(run, number)))
        assert found.complete and found.errors == () and found.reproduced > 20


def test_a_recording_of_the_start_uses_no_snapshot(run: list[Message]) -> None:
    found = replay(record(run))
    assert_reproduced(found, len(decisions(run)))
    assert (found.begins_at_step, found.skipped, found.remarks) == (1, 0, ())


def test_a_latched_snapshot_just_before_the_first_step_will_do(run: list[Message]) -> None:
    cut = without(
        run, *decisions(run)[:61], *(m for t, _, m in run if t == STATE.name and m.step_number < 61)
    )
    found = replay(record(cut))
    assert found.begins_at_step == 62 and found.skipped == 0 and found.complete


def test_latched_messages_of_steps_whose_inputs_are_not_there_are_no_beginning(run: list[Message]) -> None:
    """Late recorders get the last five decisions, and the last snapshot, but not the monitors."""
    latched = [i for i in run if i[1] in (DECISION_TYPE, STATE.kind) and 60 <= i[2].step_number <= 64]
    found = replay(record([*latched, *after_step(run, 64)]))
    assert found.begins_at_step == 92 and found.complete
    assert found.skipped == 91 - 59


def test_a_gap_in_a_recording_is_an_error_and_the_rest_is_replayed(run: list[Message]) -> None:
    found = replay(record(without(run, *decisions(run)[39:41])))
    assert len(found.errors) == 1 and not found.complete
    assert "steps 40 to 41 are of the manager missing between decisions" in found.errors[0]
    assert "20 decisions are not replayed" in found.errors[0]
    assert found.reproduced == found.decisions - 20 and found.begins_at_step == 1


def test_a_damaged_snapshot_is_named_and_the_next_one_taken(run: list[Message]) -> None:
    cut = after_step(run, 20)
    damaged = deepcopy(next(m for t, _, m in cut if t == STATE.name))
    damaged.state = damaged.state[:-8]
    cut = [(t, k, damaged if t == STATE.name and m.step_number == 31 else m) for t, k, m in cut]
    found = replay(record(cut))
    assert len(found.errors) == 1
    assert "the snapshot of the manager after step 31 is damaged" in found.errors[0]
    assert "30 decisions are not replayed" in found.errors[0]
    assert found.different == () and found.reproduced == len(decisions(cut)) - 11 - 30


def test_the_snapshot_of_another_manager_is_not_taken(run: list[Message]) -> None:
    """Both have a step 31; each snapshot belongs to the one with its time."""
    messages = restarted(demo_run(), 70)
    first = [m for t, _, m in with_snapshots(messages, 30) if t == STATE.name and m.step_number == 31][0]
    late = [(t, k, m) for t, k, m in after_step(messages, 70)][40:]
    found = replay(record([(STATE.name, STATE.kind, first), *late]))
    assert found.comparisons == () and "begins in the middle" in found.errors[0]


def test_without_start_and_snapshot_it_is_said_what_to_record(run: list[Message]) -> None:
    cut = [item for item in after_step(run, 20) if item[0] != STATE.name]
    found = replay(record(cut))
    assert found.comparisons == () and found.begins_at_step is None and not found.complete
    assert "record dynofa/manager/state too" in found.errors[0]


# --- what happens to a robot -------------------------------------------------------------------------


def restarted(messages: Sequence[Message], number: int) -> list[Message]:
    """As if the manager had been activated anew: its first step hears what is latched again."""
    result, decision = altered(messages, number)
    decision.step_number = 1
    latched: dict[str, Any] = {}
    for topic, kind, message in messages:
        if topic.endswith(("targets", "library", "capabilities")):
            latched[topic] = make(
                "dynofa_ros/msg/ConsumedInput", {"topic": topic, "sequence": stamp(message)}
            )
        if kind == DECISION_TYPE and message.step_number == number:
            break
    decision.inputs = [*latched.values(), *decision.inputs]
    return tool.recomputed(result)


def test_a_manager_that_restarts_begins_anew(demo: tuple[Message, ...]) -> None:
    messages = restarted(demo, 70)
    steps = [d.step_number for d in decisions(messages)]
    assert steps[69:72] == [70, 1, 2]
    assert decisions(messages)[70].trigger == "startup"
    assert any(a.app == "front" for a in decisions(messages)[-1].apps)
    assert_reproduced(replay(record(messages)), len(steps))


def test_the_life_after_an_incomplete_one_is_replayed(demo: tuple[Message, ...]) -> None:
    messages = restarted(demo, 70)
    found = replay(record(without(messages, *decisions(messages)[:5])))
    assert len(found.errors) == 1
    assert "65 decisions are not replayed" in found.errors[0]
    assert found.reproduced == found.decisions - 65


def test_frames_of_a_restarted_node_are_told_apart(demo: tuple[Message, ...]) -> None:
    topic, first = "perception/rear/monitor", 150
    messages = deepcopy(list(demo))
    for name, _, message in messages:
        if name == topic and message.frame_sequence >= first:
            message.frame_sequence -= first - 1
    for decision in decisions(messages):
        for consumed in decision.inputs:
            if consumed.topic == topic and consumed.sequence >= first:
                consumed.sequence -= first - 1
    messages = tool.recomputed(messages)
    assert_reproduced(replay(record(messages)), len(decisions(demo)))
    last = [m for t, _, m in messages if t == topic and m.frame_sequence == 20][-1]
    found = replay(record(without(messages, last)))
    assert f"input {topic} 20 of decision" in found.errors[0], "the 20th frame of the first life is another"


def test_time_that_stands_still_at_zero_is_no_departure(demo: tuple[Message, ...]) -> None:
    messages = deepcopy(list(demo))
    first = next(m for t, _, m in messages if t == "perception/front/targets")
    consumed = next(
        i
        for d in decisions(messages)
        for i in d.inputs
        if i.topic == "perception/front/targets" and i.sequence == stamp(first)
    )
    first.header.stamp.sec = first.header.stamp.nanosec = 0
    consumed.sequence = 1
    messages = tool.recomputed(messages)
    assert any(app.app == "front" for app in decisions(messages)[-1].apps)
    assert_reproduced(replay(record(messages)), len(decisions(demo)))
