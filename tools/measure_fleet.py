#!/usr/bin/env python3
"""Measure what robots in one ROS domain send to each other: discovery, at rest, and with an observer.

    sudo python tools/measure_fleet.py --robots 1 4 [--seconds 20] [--rate-hz 5]

Each robot is a network namespace of this machine with device, manager, perception and camera, on one bridge
with the others, as if it were a computer of its own. Bytes and packets are those that leave its interface,
with all headers; multicast counts once. Needs root and iproute2, and removes what it made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynofa_ros.demo.processes import NodeSpec, Processes

BRIDGE, FLEET = "dynofa_fleet", "fleet"
OBSERVER_S = 10.0  # for the observer's own start and discovery


@dataclass(frozen=True)
class Sent:
    """What interfaces have sent."""

    kb: float
    packets: float

    def less(self, other: Sent, seconds: float = 1.0) -> Sent:
        """What was sent since ``other``, per second."""
        return Sent((self.kb - other.kb) / seconds, (self.packets - other.packets) / seconds)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def network(names: list[str]) -> Iterator[None]:
    """A network namespace per name, all on one bridge."""
    made: list[str] = []
    run("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
    try:
        run("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=1):
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", name, "master", BRIDGE, "up")
            run("ip", "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "route", "add", "default", "dev", "eth0")  # multicast
        yield
    finally:
        for name in made:
            subprocess.run(
                ("ip", "link", "del", name), check=False
            )  # at once, while its namespace goes later
            run("ip", "netns", "del", name)
        run("ip", "link", "del", BRIDGE)


def sent(names: list[str]) -> Sent:
    """Mean of the robots: what the bridge received from them."""
    folders = [Path("/sys/class/net") / name / "statistics" for name in names]
    size, packets = (
        sum(int((f / f"rx_{kind}").read_text()) for f in folders) / len(names)
        for kind in ("bytes", "packets")
    )
    return Sent(1e-3 * size, packets)


def robot(name: str, rate_hz: float) -> int:
    """The nodes of one robot, in the namespace in which this runs, until standard input ends."""
    run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")  # of its own: `ip netns exec` unshares mounts
    front = {"rate_hz": rate_hz, "latency_target_ms": 200.0}
    camera = {"apps": "front", "rate_hz": rate_hz, "width": 640, "height": 480}
    with tempfile.TemporaryDirectory() as logs, Processes(Path(logs)) as processes:
        for spec in (
            NodeSpec("nodes.device_node", f"{name}/dynofa", "device", {"backend": "simulated"}),
            NodeSpec("nodes.manager_node", f"{name}/dynofa", "manager", {}),
            NodeSpec("nodes.perception_node", f"{name}/perception", "front", front),
            NodeSpec("demo.camera_node", f"{name}/demo", "camera", camera),
        ):
            processes.start(spec)
        sys.stdin.read()
        for problem in processes.failures():
            print(f"{name}: {problem}", file=sys.stderr)
    return 0


def start(name: str, *command: str, **options: Any) -> subprocess.Popen[str]:
    """A process in a network namespace."""
    return subprocess.Popen(["ip", "netns", "exec", name, *command], text=True, **options)


def measure(count: int, options: argparse.Namespace) -> list[str]:
    """The cells of one row; bytes and packets are per robot."""
    names = [f"robot{number}" for number in range(1, count + 1)]
    with network([FLEET, *names]), ExitStack() as ends, tempfile.TemporaryDirectory() as folder:
        for name in names:
            own = (sys.executable, __file__, "--robot", name, "--rate-hz", f"{options.rate_hz:g}")
            # its end closes standard input, which ends the nodes
            ends.enter_context(start(name, *own, stdin=subprocess.PIPE))
        time.sleep(options.settle_s)
        found = sent(names)
        time.sleep(options.seconds)
        rest = sent(names).less(found, options.seconds)
        file = Path(folder) / "now.json"
        top = (
            "-m",
            "dynofa_ros.cli.main",
            "top",
            "--json",
            str(file),
            "--once",
            f"{options.seconds + OBSERVER_S:g}",
        )
        observer = start(FLEET, sys.executable, *top, stdout=subprocess.DEVNULL)
        time.sleep(OBSERVER_S)
        before = sent(names)
        time.sleep(options.seconds)
        watched = sent(names).less(before, options.seconds)
        observer.wait()
        seen = json.loads(file.read_text())["robots"] if file.exists() else {}
    rates = [app["answers_per_s"] or 0.0 for shown in seen.values() for app in shown["applications"]]
    discovery = Sent(found.kb - rest.kb * options.settle_s, found.packets - rest.packets * options.settle_s)
    figures = [
        f"{value:.{digits}f}"
        for part, digits in ((discovery, 0), (rest, 1), (watched, 1))
        for value in (part.kb, part.packets)
    ]
    return [
        str(count),
        *figures,
        f"{sum(rate > 0.0 for rate in rates)} at {sum(rates) / max(1, len(rates)):.1f} Hz",
    ]


def main() -> int:
    """Print a row for each number of robots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rate-hz", type=float, default=5.0, help="images per second of each robot")
    parser.add_argument("--settle-s", type=float, default=40.0, help="time to start and to find each other")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--robot", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.robot:
        return robot(options.robot, options.rate_hz)
    columns = [
        "robots",
        *(
            f"{part}: {unit}"
            for part, per in (("discovery", ""), ("rest", "/s"), ("observed", "/s"))
            for unit in (f"kB{per}", f"packets{per}")
        ),
        "seen by the observer",
    ]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for count in options.robots:
        print("| " + " | ".join(measure(count, options)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
