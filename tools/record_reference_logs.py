#!/usr/bin/env python3
"""Record the reference logs of test/reference: runs whose decisions may change only on purpose.

    python tools/record_reference_logs.py --recompute    after a change of the manager, in seconds
    python tools/record_reference_logs.py                everything anew; two of the logs are live demos

With --recompute the live logs keep their inputs and only get the decisions that the manager takes today.
The simulated ones are always made anew: the simulator is part of the source.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dynofa_ros.convert import from_ros, message_type, stamp_ns, to_ros
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.scenarios import scenario_of, scenes
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import GONE, Departure, Input, Monitors, Parameters, make_input
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import ConsumedInput, Header, PowerModel
from dynofa_ros.recording.bag import open_bag
from dynofa_ros.recording.recorded_steps import DECISION_TYPE, RecordedInputs, is_wanted
from dynofa_ros.recording.text_log import Message, message_types, read_log, write_log
from dynofa_ros.simulation.policy import Command, Observation
from dynofa_ros.simulation.scene import Event, Fault, Reserved, Scene
from dynofa_ros.simulation.simulator import Simulation
from dynofa_ros.topics import DECISION, MANAGER_STATE

FOLDER = Path(__file__).resolve().parent.parent / "test" / "reference"
LIVE = {  # arguments of `dynofa demo`
    "demo": ("--seconds", "15", "--apps", "2"),
    "demo_overload": ("--seconds", "5", "--apps", "3", "--rate-hz", "30"),
}
SIMULATED = {
    "S3": 2.0,
    "S7": 6.0,
    "S10": 5.0,
    "S12 4 Hz": 10.0,
}  # scene, and how many times faster it is played
SEED = 0


@dataclass
class RecordedPolicy(ManagerPolicy):
    """The manager, fed with messages of their real precision; ``messages``: all that was said."""

    messages: list[Message] = field(default_factory=list)

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """One step of the manager, recorded."""
        received = tuple(self._received(item) for item in observation.inputs)
        command = super().step(now_s, replace(observation, inputs=received))
        assert self.decision is not None
        self.messages.append((DECISION.name, DECISION_TYPE, decision_message(self.decision)))
        return command

    def _received(self, item: Input) -> Input:
        if isinstance(item.message, Departure):
            return Input(item.topic, GONE, item.message)
        kind, message = input_message(item)
        self.messages.append((item.topic, kind, message))
        return make_input(item.topic, from_ros(message))


def main() -> int:
    """Write the logs that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recompute", action="store_true", help="keep the inputs of the live logs")
    recompute = parser.parse_args().recompute
    FOLDER.mkdir(exist_ok=True)
    for name, arguments in LIVE.items():
        path = FOLDER / f"{name}.jsonl"
        if recompute:
            messages = list(read_log(path, lenient=True))
        else:
            messages = live(arguments)
        save(path, f"dynofa demo {' '.join(arguments)}", recomputed(messages))
    for name, haste in SIMULATED.items():
        note = f"scenario {name} under policy ours, seed {SEED}, its times divided by {haste:g}, simulated"
        save(FOLDER / f"{name.replace(' ', '_')}.jsonl", note, simulated(name, haste))
    return 0


def save(path: Path, note: str, messages: list[Message]) -> None:
    """Write a log, and say what changed."""
    before = path.read_bytes() if path.exists() else b""
    write_log(path, note, messages)
    changed = "unchanged" if path.read_bytes() == before else "CHANGED" if before else "new"
    decisions = sum(kind == DECISION_TYPE for _, kind, _ in messages)
    print(f"{path.name}: {decisions} decisions, {path.stat().st_size / 1e3:.0f} kB, {changed}")


def live(arguments: Iterable[str]) -> list[Message]:
    """What a replay needs of a demo that is run now."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = [sys.executable, "-m", "dynofa_ros.cli.main", "demo", "--headless", "--out", str(out)]
        subprocess.run([*command, *arguments], check=True)
        with open_bag(out) as reader:
            wanted = [c for c in reader.connections if is_wanted("", c.topic, c.msgtype)]
            wanted = [c for c in wanted if c.msgtype != MANAGER_STATE.kind]  # of the manager of that day
            return [
                (c.topic[1:], c.msgtype, reader.deserialize(raw, c.msgtype))
                for c, _, raw in reader.messages(wanted)
            ]


def simulated(name: str, haste: float) -> list[Message]:
    """What a replay needs of a scene."""
    scene = next(scene for scene in scenes([scenario_of(name)]) if scene.name == name)
    policy = RecordedPolicy()
    Simulation(hastened(scene, haste), policy, SEED).run()
    return policy.messages


def hastened(scene: Scene, haste: float) -> Scene:
    """A scene in which everything happens sooner."""
    apps = tuple(replace(a, from_s=a.from_s / haste, until_s=a.until_s / haste) for a in scene.apps)
    return replace(
        scene,
        apps=apps,
        duration_s=scene.duration_s / haste,
        timeline=tuple(hastened_event(event, haste) for event in scene.timeline),
        feasible=(),
        steps=(),
    )


def hastened_event(event: Event, haste: float) -> Event:
    """An event that happens sooner, and ends sooner if it has an end."""
    if isinstance(event, (Fault, Reserved)):
        return replace(event, at_s=event.at_s / haste, until_s=event.until_s / haste)
    return replace(event, at_s=event.at_s / haste)


def recomputed(messages: Iterable[Message]) -> list[Message]:
    """The same messages with the decisions that the manager takes today."""
    known, kept = RecordedInputs(), list(messages)
    for topic, kind, message in kept:
        if kind != DECISION_TYPE:
            known.add(make_input(topic, from_ros(message)))
    manager = RuntimeManager()
    result = []
    for topic, kind, message in kept:
        if kind == DECISION_TYPE:
            if message.step_number == 1:
                manager = RuntimeManager()
            named = [ConsumedInput(item.topic, int(item.sequence)) for item in message.inputs]
            monitors = Monitors(known.of(named), parameters_today(message))
            message = decision_message(manager.step(stamp_ns(message.step_time), monitors))
        result.append((topic, kind, message))
    return result


def parameters_today(message: Any) -> Parameters:
    """The recorded parameters, with the default of those that are new."""
    today = vars(Parameters())
    recorded = {p.name: from_ros(p).value for p in message.parameters}
    return Parameters(**{name: recorded.get(name, value) for name, value in today.items()})


def decision_message(decision: Decision) -> Any:
    """ManagerDecision as the node publishes it."""
    return to_ros(replace(decision, compute_ms=0.0), message_types)  # that differs each time


def input_message(item: Input) -> tuple[str, Any]:
    """Type and message of an input."""
    message = item.message
    assert not isinstance(message, Departure)
    if not message.header.stamp_ns:
        message = replace(message, header=Header(item.sequence))
    if isinstance(message, PowerModel):
        message = replace(message, origin=f"config/boards/{Path(message.origin).name}")  # on any machine
    made: Any = type(message)
    kind = f"dynofa_ros/msg/{message_type(made).__name__}"
    return kind, to_ros(message, message_types)


if __name__ == "__main__":
    raise SystemExit(main())
