"""`dynofa top` in a terminal, beside real nodes over DDS."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from command import dynofa_process
from perception_client import SMALLEST
from rclpy.context import Context
from ros_client import TIMEOUT_S
from ros_domain import own_domain

from dynofa_ros.ros.watcher import Watcher

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
DOMAIN_ID = own_domain()
# An application of another robot, with hostile names and no manager.
TALKER = """
import time, rclpy
from dynofa_ros.msg import InferenceMonitor
rclpy.init()
node = rclpy.create_node("talker")
sender = node.create_publisher(InferenceMonitor, "/robot2/perception/eye/monitor", 5)
message = InferenceMonitor(app="eye", subnet_id="[/]\\x1b[2J", processor="npu", latency_ms=70.0,
                           latency_target_ms=65.0, deadline_missed=True)
while True:
    message.header.stamp = node.get_clock().now().to_msg()
    sender.publish(message)
    time.sleep(0.05)
"""


def start(*command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN_ID)}
    return subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.DEVNULL)


def node(script: str, namespace: str, *arguments: str) -> subprocess.Popen[bytes]:
    ros = ["--ros-args", "-r", f"__ns:={namespace}", *arguments]
    return start(str(ROOT / "scripts" / script), *ros)


@pytest.fixture(scope="module")
def robots() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """/robot1: simulated device, manager, and an application without a camera. /robot2: frames alone."""
    processes = {
        "device": node("device_node", "/robot1/dynofa", "-p", "backend:=simulated"),
        "manager": node("manager_node", "/robot1/dynofa"),
        "front": node(
            "perception_node", "/robot1/perception", "-r", "__node:=front", "-p", "accuracy_target:=0.1"
        ),
        "talker": start("-c", TALKER),
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


class Terminal:
    """`dynofa top` with a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ["ROS_DOMAIN_ID"], os.environ["TERM"] = str(DOMAIN_ID), "xterm-256color"
            os.environ["COLUMNS"], os.environ["LINES"] = "170", "50"
            command = [sys.executable, "-m", "dynofa_ros.cli.main", "top", *arguments]
            os.execv(sys.executable, command)
        self.settings = termios.tcgetattr(self.file)
        self.text = ""

    def read(self, seconds: float = 0.2) -> bool:
        """False when the terminal is closed."""
        if select.select([self.file], [], [], seconds)[0]:
            try:
                self.text += os.read(self.file, 65536).decode(errors="replace")
            except OSError:  # as Linux says that nobody has the other end any more
                return False
        return True

    def wait_for(self, *texts: str) -> None:
        """Until all are in what was written since the last call."""
        end_s = time.monotonic() + TIMEOUT_S
        while missing := [text for text in texts if text not in self.text]:
            shown = [line.strip() for line in self.text.splitlines() if line.strip()]
            assert time.monotonic() < end_s and self.read(), (missing, shown[-30:])
        self.text = ""

    def end(self, key: str) -> int:
        """Its exit code after this key."""
        os.write(self.file, key.encode())
        self.text, end_s = "", time.monotonic() + TIMEOUT_S
        while self.read():
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.read()
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end_s, "it does not end"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_the_table_follows_all_robots_until_q(robots: dict[str, subprocess.Popen[bytes]]) -> None:
    terminal = Terminal()
    terminal.wait_for(
        "robot /robot1", "robot /robot2", "xavier_nx simulated", "trigger ", "front answers no frames"
    )
    terminal.wait_for("[/]\ufffd[2J", "npu", "70.0", "65.0", "100.0", "no device", "no manager")
    assert terminal.end("q") == 0
    assert "\x1b[?1049l" in terminal.text, "the screen of before is back"
    assert termios.tcgetattr(terminal.file) == terminal.settings
    os.close(terminal.file)


def test_one_robot_and_ctrl_c(robots: dict[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    terminal = Terminal("--namespace", "robot2", "--json", str(tmp_path / "last.json"))
    terminal.wait_for("robot /robot2", "npu")
    assert "/robot1" not in terminal.text
    assert terminal.end("\x03") == 0
    os.close(terminal.file)
    assert list(json.loads((tmp_path / "last.json").read_text())["robots"]) == ["/robot2"]


NO_IMAGES = "/robot1/perception/front: input"


def is_whole(found: dict[str, Any]) -> bool:
    """Whether everything of both robots was heard while `dynofa top` listened."""
    if found.keys() != {"/robot1", "/robot2"}:
        return False
    one, two = found["/robot1"], found["/robot2"]
    decided = one["decision"] and one["decision"]["applications"]
    managed = decided and one["device"] and [a["state"] for a in one["applications"]] == ["applied"]
    return bool(managed and two["applications"] and NO_IMAGES in {f["source"] for f in one["faults"]})


def test_once_for_scripts(robots: dict[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    environment = {"ROS_DOMAIN_ID": str(DOMAIN_ID), "COLUMNS": "160"}
    end_s = time.monotonic() + TIMEOUT_S
    found: dict[str, Any] = {}
    while not is_whole(found):  # the nodes may still start
        assert time.monotonic() < end_s, found
        result = dynofa_process("top", "--once", "4", "--json", tmp_path / "now.json", **environment)
        if result.returncode == 0:
            found = json.loads((tmp_path / "now.json").read_text())["robots"]
    one, two = found["/robot1"], found["/robot2"]
    assert "robot /robot1" in result.stdout and "\x1b" not in result.stdout
    (front,), (eye,) = one["applications"], two["applications"]
    assert front["app"] == "front" and front["state"] == "applied" and front["latency_target_ms"] > 0
    assert one["decision"]["applications"]["front"]["subnet_id"] == SMALLEST.id, "0.1 is enough"
    assert one["device"]["board"] == "xavier_nx" and one["device"]["power_w"] > 0
    assert {"cpu0", "gpu"} <= one["device"]["clocks_hz"].keys()
    (input_fault,) = (f for f in one["faults"] if f["source"] == NO_IMAGES)
    assert input_fault["text"].startswith("no images")
    assert 0 < eye["answers_per_s"] < 25 and eye["deadline_miss_percent"] == 100.0
    assert eye["latency_ms"] == {"p50": 70.0, "p95": 70.0}
    assert [text.split(":")[0] for text in two["missing"]] == ["no device", "no manager"]


def test_nobody_is_a_failure_in_one_line() -> None:
    result = dynofa_process("top", "--once", "1", ROS_DOMAIN_ID=str(own_domain()))
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("dynofa top: no robot was found in ROS domain ")
    result = dynofa_process("top", ROS_DOMAIN_ID=str(DOMAIN_ID))
    assert result.returncode == 2 and "the output is no terminal: use --once" in result.stderr


def test_it_only_subscribes_and_what_ends_is_missed(robots: dict[str, subprocess.Popen[bytes]]) -> None:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN_ID)
    other = rclpy.create_node("other", context=context)
    with Watcher(["/robot2"], domain_id=DOMAIN_ID) as watcher:
        wait_until(lambda: bool(watcher.look()["/robot2"]["applications"]))
        wait_until(lambda: ("dynofa_top", "/") in other.get_node_names_and_namespaces())
        published = other.get_publisher_names_and_types_by_node("dynofa_top", "/")
        assert {name for name, _ in published} <= {"/parameter_events"}, "rclpy makes that one for every node"
        busy_s, start_s = time.process_time(), time.monotonic()
        robots["talker"].send_signal(signal.SIGKILL)
        wait_until(lambda: "eye answers no frames" in watcher.look()["/robot2"]["missing"])
        assert time.process_time() - busy_s < 0.3 * (time.monotonic() - start_s) + 0.5
        wait_until(lambda: watcher.look()["/robot2"]["applications"] == [])
    other.destroy_node()
    rclpy.shutdown(context=context)


def wait_until(condition: object) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s
        time.sleep(0.5)
