"""Processes that die, hang and come back: real nodes over DDS, a manager that keeps its head."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from dynofa_ros.msg import (
    AppTargets,
    DeviceTelemetry,
    DvfsCommand,
    InferenceMonitor,
    ManagerDecision,
    SubnetCommand,
    SubnetState,
)
from ros_client import TIMEOUT_S, RosClient
from ros_domain import own_domain

from dynofa_ros import topics
from dynofa_ros.application.networks import DEMO_LIBRARY
from dynofa_ros.demo.processes import NodeProcess, NodeSpec, Processes
from dynofa_ros.library.library import Latency, load_library, save_library
from dynofa_ros.paths import share_file

pytestmark = [pytest.mark.live, pytest.mark.alone]

DOMAIN_ID = own_domain()
APP = "front"
LIAR = "s56_r128"  # the largest of the demo's library
STEADY_S = 2.0  # without a change of a knob
QUIET_S = 2.0  # after a start
SILENT_S = 1.6  # without a frame, after which the manager knows it: before, the last frames may still count
SLOWDOWN = 24.0  # the largest sub-network takes about 45 ms at the top clock

PERCEPTION: dict[str, Any] = {
    "latency_target_ms": 75.0,
    "accuracy_target": 0.85,
    "rate_hz": 10.0,
    "emulate_dvfs": True,
    "emulated_slowdown": SLOWDOWN,
}
NODES = (
    NodeSpec("nodes.device_node", "dynofa", "device", {"backend": "simulated"}),
    NodeSpec(
        "demo.camera_node", "demo", "camera", {"apps": APP, "rate_hz": 10.0, "width": 160, "height": 160}
    ),
)
MANAGER = NodeSpec("nodes.manager_node", "dynofa", "manager", {})
LOADED = """
import sys
from dynofa_ros.nodes.manager_node import main
print("loaded", flush=True)
raise SystemExit(main() if sys.stdin.readline() else 0)
"""

Band = tuple[str, int, int]


class Listener(RosClient):
    """Hears everything between manager, device and application, with the time when it was sent."""

    def __init__(self) -> None:
        super().__init__("listener", DOMAIN_ID, "/dynofa", "/dynofa/manager")
        self.heard: dict[type, list[tuple[float, Any]]] = {}
        for kind, topic in (
            (ManagerDecision, topics.DECISION),
            (DvfsCommand, topics.DVFS_COMMAND),
            (SubnetCommand, topics.SUBNET_COMMAND),
            (SubnetState, topics.SUBNET_STATE),
            (AppTargets, topics.TARGETS),
            (InferenceMonitor, topics.MONITOR),
            (DeviceTelemetry, topics.TELEMETRY),
        ):
            received = self.heard.setdefault(kind, [])
            self.subscribe(topic, partial(self._hear, received), APP)

    @staticmethod
    def _hear(received: list[tuple[float, Any]], message: Any, info: Any) -> None:
        """Sent, and not received: on a busy machine what is received together has lost its order."""
        received.append((1e-9 * info["source_timestamp"], message))

    def since(self, kind: type, start_s: float) -> list[tuple[float, Any]]:
        return [(at_s, message) for at_s, message in self.heard[kind] if at_s >= start_s]

    def decided(self, start_s: float) -> list[tuple[float, ManagerDecision]]:
        """Decisions on the application."""
        return [(at_s, d) for at_s, d in self.since(ManagerDecision, start_s) if d.apps]

    def first_miss_s(self, start_s: float) -> float:
        """From then on a manager may turn knobs; inf = no frame was late."""
        frames = self.since(InferenceMonitor, start_s)
        return min((at_s for at_s, m in frames if m.deadline_missed or m.dropped_frames), default=math.inf)


def bands_of(command: DvfsCommand) -> set[Band]:
    return {(band.domain, band.min_hz, band.max_hz) for band in command.bands}


def perception(**changes: Any) -> NodeSpec:
    return NodeSpec("nodes.perception_node", "perception", APP, {**PERCEPTION, **changes})


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN_ID))
    with Processes(tmp_path) as processes:
        for spec in NODES:
            processes.start(spec)
        yield processes


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def knobs(listener: Listener) -> tuple[str, set[Band]]:
    """Sub-network and clocks commanded last."""
    return listener.heard[SubnetCommand][-1][1].subnet_id, bands_of(listener.heard[DvfsCommand][-1][1])


def settle(listener: Listener) -> tuple[str, set[Band]]:
    """Waits until no knob has been turned for a while; returns what is in force."""
    for kind in (SubnetCommand, DvfsCommand, ManagerDecision):
        listener.wait(lambda kind=kind: listener.heard[kind], kind.__name__)
    deadline = time.monotonic() + TIMEOUT_S
    before, since_s = knobs(listener), time.monotonic()
    while time.monotonic() - since_s < STEADY_S:
        assert time.monotonic() < deadline, "the manager does not come to rest"
        listener.spin(0.1)
        if knobs(listener) != before:
            before, since_s = knobs(listener), time.monotonic()
    return before


def kill(processes: Processes, node: NodeProcess) -> None:
    node.signal(signal.SIGKILL)
    node.wait(TIMEOUT_S)
    assert len(processes.failures()) == 1


@pytest.fixture
def successor(processes: Processes, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A loaded manager that waits for a line: a busy machine may load for longer than commands are valid."""
    arguments = MANAGER.command(tmp_path / "successor.yaml")
    command = [sys.executable, "-c", LOADED, *arguments[arguments.index("--ros-args") :]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "loaded\n"
    yield process
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)


def test_a_killed_manager_comes_back_without_a_glitch(
    processes: Processes, listener: Listener, successor: subprocess.Popen[str]
) -> None:
    processes.start(perception())
    manager = processes.start(MANAGER)
    settle(listener)
    kill(processes, manager)
    listener.spin(0.3)  # its last words
    subnet, bands = knobs(listener)
    last_id = listener.heard[ManagerDecision][-1][1].decision_id
    start_s = time.time()
    assert successor.stdin is not None
    print(file=successor.stdin, flush=True)
    listener.wait(lambda: listener.decided(start_s), "a decision of the new manager on the application")
    first_s, first = listener.decided(start_s)[0]
    assert first.apps[0].subnet_id == subnet
    assert first_s - met_s(listener, start_s) < QUIET_S
    taken_s = min(first_s, told_s(listener, start_s, last_id))
    quiet_s = taken_s + QUIET_S - 0.2
    listener.spin(quiet_s - time.time())
    for kind in (SubnetCommand, DvfsCommand):
        listener.wait(lambda kind=kind: listener.since(kind, start_s), "renewal of what would lapse")
    commands, clocks = listener.since(SubnetCommand, start_s), listener.since(DvfsCommand, start_s)
    assert min(m.decision_id for _, m in clocks) > last_id, "the others would ignore its commands"
    end_s = min(listener.first_miss_s(start_s), quiet_s)
    told = {m.subnet_id for at_s, m in commands if at_s < end_s}
    assert told <= {subnet}, f"another sub-network after a restart: {told} for {subnet}"
    held = [bands_of(m) for at_s, m in clocks if at_s < end_s]
    assert all(found == bands for found in held), f"other clocks after a restart: {held} for {bands}"


def told_s(listener: Listener, start_s: float, last_id: int) -> float:
    """When the application first answered the new manager, whom this listener may find seconds later."""
    states = listener.since(SubnetState, start_s)
    return min((at_s for at_s, m in states if m.decision_id > last_id), default=math.inf)


def met_s(listener: Listener, start_s: float) -> float:
    """When the manager had heard of the application: before that it is up to the middleware."""
    heard = listener.since(ManagerDecision, start_s)
    known = [at_s for at_s, d in heard if any(APP in used.topic.split("/") for used in d.inputs)]
    assert known, "nothing of the application was consumed"
    return known[0]


def test_an_application_that_hangs_dies_and_comes_back_with_a_lie(
    processes: Processes, listener: Listener, tmp_path: Path
) -> None:
    """It comes back with a library in which the largest sub-network takes two thirds of its true time."""
    app = processes.start(perception())
    manager = processes.start(MANAGER)
    settle(listener)
    app.signal(signal.SIGSTOP)
    silent_s = time.time() + SILENT_S
    listener.spin(SILENT_S + 2.0)
    app.signal(signal.SIGCONT)
    back_s = time.time()
    listener.spin(0.5)
    while_silent = [d for at_s, d in listener.since(ManagerDecision, silent_s) if at_s < back_s]
    assert len(while_silent) > 5, "the manager waits for nobody"
    assert len({a.subnet_id for d in while_silent for a in d.apps}) == 1, "it keeps what runs"
    kill(processes, app)
    listener.spin(0.5)
    back_s = time.time()
    processes.start(perception(library=lying_library(tmp_path), accuracy_target=1.0, latency_target_ms=60.0))
    listener.wait(lambda: len(listener.since(InferenceMonitor, back_s)) > 60, "frames of the new process")
    frames = [m for _, m in listener.since(InferenceMonitor, back_s)]
    ids = [m.subnet_id for m in frames]
    assert LIAR in ids, "it was never believed, so that nothing was tested"
    late = frames[30:]
    assert sum(m.deadline_missed for m in late) <= 0.2 * len(late), "the lie was not found out"
    assert sum(a != b for a, b in zip(ids[30:], ids[31:], strict=False)) <= 4, f"it goes to and fro: {ids}"
    assert manager.exit_code is None and listener.decided(back_s)[-1][1].apps[0].app == APP


def lying_library(folder: Path) -> str:
    """The demo's library, its largest entry at two thirds of its time."""
    source = share_file(*DEMO_LIBRARY)
    library = load_library(source)
    largest = library.entries[-1]
    assert largest.id == LIAR
    median, p95 = (value * 0.67 for value in (largest.latency_ms.median, largest.latency_ms.p95))
    lie = msgspec.structs.replace(
        largest,
        latency_ms=Latency(median, p95),
        alpha_ms=0.67 * largest.alpha_ms,
        beta_ms=0.67 * largest.beta_ms,
    )
    changed = msgspec.structs.replace(library, entries=(*library.entries[:-1], lie))
    if library.bn_statistics is not None:
        shutil.copyfile(source.parent / library.bn_statistics.file, folder / library.bn_statistics.file)
    save_library(folder / "library.yaml", changed)
    return str(folder / "library.yaml")
