#!/usr/bin/env python3
"""Run the nodes for a while under lost messages, kills and camera faults, and say what did not hold.

    python tools/soak.py --seconds 1800

Two perception nodes, the manager and the simulated device run as processes; this one is the camera, and a
relay that loses a share of the monitors, telemetry, states and commands between them. Every few seconds
something is broken and mended again. Exit code 1 if a fault was not named, or more than once, in the
diagnostics of the node that it should be named by, or if memory, threads or handles of a node grow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from dynofa_ros import topics
from dynofa_ros.convert import ros_types
from dynofa_ros.demo.processes import NodeSpec, Processes
from dynofa_ros.paths import share_file
from dynofa_ros.ros.qos import qos_of

APPS = ("front", "rear")
PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
RATE_HZ = 10.0
WIDTH, HEIGHT = 160, 120
START_S, SETTLE_S = 120.0, 10.0  # in which all must run, and before the first fault
FAULT_S, PAUSE_S = 6.0, 9.0  # how long something is broken, and whole again
PATIENCE_S = 12.0  # in which a fault must be named, and its level must be OK again, on a busy computer
SAMPLE_S = 5.0
GROWTH_MB, GROWTH_SHARE = 4.0, 0.05  # of the memory of a process, from its first to its last quarter

# Topics that the nodes receive through the relay, by the receiving node.
LOSSY = {
    "dynofa/manager": [topics.TELEMETRY.of(), topics.DVFS_STATE.of()]
    + [topic.of(app) for app in APPS for topic in (topics.MONITOR, topics.SUBNET_STATE)],
    "dynofa/device": [topics.DVFS_COMMAND.of()],
    **{f"perception/{app}": [topics.SUBNET_COMMAND.of(app)] for app in APPS},
}
ONCE = ("dynofa/device", "dynofa/manager")  # killed at most once: what runs long shows whether it grows
KINDS = {t.of(a): t for t in topics.TOPICS for a in APPS}


@dataclass(frozen=True)
class Fault:
    """Something that breaks. Named by a status of ``task`` of ``node`` whose text has ``words``."""

    name: str
    node: str
    task: str
    words: str
    victim: str = ""  # node to kill; empty = the camera is at fault


FAULTS = (
    Fault("no images", "/perception/front", "input", "no images"),
    Fault("truncated images", "/perception/front", "input", "malformed"),
    Fault("depth images", "/perception/front", "input", "malformed"),
    Fault("device killed", "/dynofa/manager", "telemetry", "nothing from the device", "dynofa/device"),
    Fault("manager killed", "/dynofa/device", "commands", "was not renewed", "dynofa/manager"),
    Fault("application killed", "/dynofa/manager", "applications", "answers no commands", "perception/rear"),
)


@dataclass
class Named:
    """One fault as it was played: how often it was named, and how long it took."""

    fault: str
    at_s: float
    episodes: int = 0
    after_s: float = float("nan")
    ended_after_s: float = float("nan")


@dataclass
class Soak:
    """One run."""

    options: argparse.Namespace
    processes: Processes
    specs: dict[str, NodeSpec]
    pids: dict[str, int] = field(default_factory=dict)
    named: list[Named] = field(default_factory=list)
    samples: dict[tuple[str, int], list[tuple[float, int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    levels: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    broken: str = ""
    relayed: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.options.seed)
        self.node = rclpy.create_node("soak")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS.name, self.hear, 50)
        self.images = [
            self.node.create_publisher(Image, f"/{topics.IMAGE.of(app)}", qos_of(topics.IMAGE))
            for app in APPS
        ]
        for names in LOSSY.values():
            for name in names:
                self.relay(name)
        self.started_s = self.next_image_s = self.next_sample_s = time.monotonic()

    def relay(self, name: str) -> None:
        """Hand a topic on, but for the share that is lost."""
        topic = KINDS[name]
        kind, depth = ros_types(topic.kind), topic if topic.latched else replace(topic, depth=50)
        publisher = self.node.create_publisher(kind, f"/lossy/{name}", qos_of(depth))

        def hand_on(message: bytes) -> None:
            self.relayed += 1
            if self.random.random() < self.options.loss:
                self.lost += 1
            else:
                publisher.publish(message)

        self.node.create_subscription(kind, f"/{name}", hand_on, qos_of(depth), raw=True)

    def hear(self, message: Any) -> None:
        """Diagnostics of the nodes."""
        for status in message.status:
            node, _, task = status.name.rpartition(": ")
            self.levels[node, task] = ord(status.level), status.message

    def is_named(self, fault: Fault) -> bool:
        """Whether a fault is named now."""
        level, text = self.levels.get((fault.node, fault.task), (0, ""))
        return level > 0 and fault.words in text

    def start(self, label: str) -> None:
        """Start a node, again or for the first time."""
        self.pids[label] = self.processes.start(self.specs[label]).pid

    def kill(self, label: str) -> None:
        """As the kernel does it when memory runs out."""
        with suppress(ProcessLookupError):
            os.killpg(self.pids[label], signal.SIGKILL)
        time.sleep(0.1)
        self.processes.failures()

    def run(self) -> None:
        """Play faults until the time is over."""
        for label in self.specs:
            self.start(label)
        end_s = time.monotonic() + self.options.seconds
        self.spin_until(self.is_whole, START_S)
        self.spin(SETTLE_S)
        killed: set[str] = set()
        for fault in self.faults():
            if time.monotonic() + FAULT_S + PAUSE_S > end_s:
                break
            if fault.victim in ONCE and fault.victim in killed:
                continue
            killed.add(fault.victim)
            self.play(fault)
        self.spin(max(0.0, end_s - time.monotonic()))

    def is_whole(self) -> bool:
        """Whether both applications are managed."""
        return "2 managed" in self.levels.get(("/dynofa/manager", "applications"), (0, ""))[1]

    def faults(self) -> Iterator[Fault]:
        while True:
            yield from self.random.sample(FAULTS, len(FAULTS))

    def play(self, fault: Fault) -> None:
        """Break something, mend it, and look how it was named."""
        found, broken_s = Named(fault.name, time.monotonic() - self.started_s), time.monotonic()
        if fault.victim:
            self.kill(fault.victim)
        else:
            self.broken = fault.name
        before = False

        def look() -> bool:
            nonlocal before
            now = self.is_named(fault)
            if now and not before:
                found.episodes += 1
                if found.episodes == 1:
                    found.after_s = time.monotonic() - broken_s
            before = now
            return now

        self.spin(FAULT_S, look)
        if not found.episodes:
            self.spin_until(look, PATIENCE_S - FAULT_S)
        self.broken = ""
        mended_s = time.monotonic()
        if fault.victim:
            self.start(fault.victim)
        self.spin_until(lambda: not look(), PATIENCE_S + 30.0 * bool(fault.victim))
        found.ended_after_s = time.monotonic() - mended_s
        self.spin(PAUSE_S, look)
        if before:
            self.problems.append(f"{fault.name}: still named {PATIENCE_S:g} s after its end")
        if found.episodes != 1:
            self.problems.append(f"{fault.name}: named {found.episodes} times")
        self.named.append(found)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end_s:
            self.spin(0.1)

    def spin(self, seconds: float, look: Callable[[], bool] = lambda: False) -> None:
        """Be camera and relay for a while."""
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            if now_s >= self.next_image_s:
                self.next_image_s = max(now_s, self.next_image_s + 1.0 / RATE_HZ)
                self.publish_images()
            if now_s >= self.next_sample_s:
                self.next_sample_s = now_s + SAMPLE_S
                self.sample()
            self.executor.spin_once(timeout_sec=0.01)
            look()

    def publish_images(self) -> None:
        for app, publisher in zip(APPS, self.images, strict=True):
            broken = self.broken if app == "front" else ""
            if broken == "no images" or self.random.random() < self.options.loss:
                continue
            image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
            image.header.stamp = self.node.get_clock().now().to_msg()
            if broken == "depth images":
                image.encoding, image.step = "16UC1", 2 * WIDTH
            size = image.step * HEIGHT
            image.data = self.random.randbytes(size // 2 if broken == "truncated images" else size)
            publisher.publish(image)

    def sample(self) -> None:
        """Memory, threads and handles of every process."""
        for label, pid in self.pids.items():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                values = process.memory_info().rss / 2**20, process.num_threads(), process.num_fds()
                self.samples[label, pid].append(values)

    def growth(self) -> dict[str, dict[str, list[float]]]:
        """Medians of the first and the last quarter of every process that lived long enough."""
        found = {}
        for (label, pid), values in self.samples.items():
            quarter = len(values) // 4
            if quarter < 3:
                continue
            columns = zip(("rss_mb", "threads", "handles"), zip(*values, strict=True), strict=True)
            parts = {
                name: [statistics.median(column[quarter : 2 * quarter]), statistics.median(column[-quarter:])]
                for name, column in columns
            }
            found[f"{label} ({pid})"] = parts
            first, last = parts["rss_mb"]
            if last - first > GROWTH_MB + GROWTH_SHARE * first:
                self.problems.append(f"{label}: memory grew from {first:.1f} to {last:.1f} MB")
            for name in ("threads", "handles"):
                if parts[name][1] > parts[name][0] + 1:
                    self.problems.append(
                        f"{label}: {name} grew from {parts[name][0]:g} to {parts[name][1]:g}"
                    )
        return found


def specs() -> dict[str, NodeSpec]:
    """The nodes, with what they receive through the relay."""

    def spec(module: str, namespace: str, name: str, parameters: dict[str, Any]) -> NodeSpec:
        lossy = {f"/{topic}": f"/lossy/{topic}" for topic in LOSSY[f"{namespace}/{name}"]}
        return NodeSpec(f"nodes.{module}", namespace, name, parameters, remappings=lossy)

    perception = {"latency_target_ms": 200.0, "rate_hz": RATE_HZ, "emulate_dvfs": True}
    made = [
        spec("device_node", "dynofa", "device", {"backend": "simulated"}),
        spec("manager_node", "dynofa", "manager", {}),
        *(spec("perception_node", "perception", app, perception) for app in APPS),
    ]
    return {one.label: one for one in made}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800.0, help="default 1800")
    parser.add_argument("--loss", type=float, default=0.05, help="share of the messages (default 0.05)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--logs", type=Path, help="folder for the logs of the nodes (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    logs = options.logs or Path(tempfile.mkdtemp(prefix="dynofa_soak_"))
    logs.mkdir(parents=True, exist_ok=True)
    # The camera's segment of shared memory is larger than the buffers that a killed subscriber keeps.
    os.environ[PROFILES] = str(share_file("config", "fastdds_camera.xml"))
    rclpy.init()
    with Processes(logs) as processes:
        soak = Soak(options, processes, specs())
        del os.environ[PROFILES]  # its node is made; the others take the default
        soak.run()
        soak.problems += processes.failures()
    result = {
        "seconds": options.seconds,
        "relayed": soak.relayed,
        "lost": soak.lost,
        "faults": [vars(named) for named in soak.named],
        "growth": soak.growth(),
        "problems": soak.problems,
    }
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))
    rclpy.shutdown()
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
