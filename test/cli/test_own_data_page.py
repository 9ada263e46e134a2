"""docs/own_data.md is a walk from images to a managed network: all its commands run, in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("dynofa_ros.msg", reason="needs the built messages")

from ros_client import TIMEOUT_S, RosClient
from ros_domain import own_domain
from sensor_msgs.msg import Image

from dynofa_ros import topics
from dynofa_ros.cli.main import main
from dynofa_ros.demo.signs import CLASS_NAMES, render_sample, render_scene
from dynofa_ros.library import build as builder

pytestmark = [pytest.mark.live, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own_data.md"
DOMAIN_ID = own_domain()
QUICK = {
    "train": "--passes 0.01 --batch 2 --threads 1 --held-out 0.5 --evaluations 2",
    "profile": "--rounds 5 --pause-ms 0",
}


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with ``signs``, images with boxes, and ``cups``, images of two classes."""
    signs, cups = tmp_path / "signs", tmp_path / "cups"
    for folder in (signs, cups / "one", cups / "two"):
        folder.mkdir(parents=True)
    (signs / "classes.txt").write_text("\n".join(CLASS_NAMES))
    for index in range(6):
        scene = render_scene(51, index, 144, 256)
        cv2.imwrite(str(signs / f"{index}.png"), scene.image[..., ::-1])
        size = np.array([256, 144])
        lines = []
        for label, (start, end) in zip(scene.labels, scene.boxes.reshape(-1, 2, 2) / size, strict=True):
            lines.append(" ".join(map(str, [label, *(start + end) / 2, *(end - start)])))
        (signs / f"{index}.txt").write_text("\n".join(lines))
        image, label = render_sample(50, index)
        cv2.imwrite(str(cups / ("one", "two")[index % 2] / f"{index}.png"), image[..., ::-1])
    monkeypatch.chdir(tmp_path)


def node(command: str) -> subprocess.Popen[str]:
    """A line of `ros2 run`, from the source tree."""
    words = shlex.split(command)
    assert words[:3] == ["ros2", "run", "dynofa_ros"]
    line = [sys.executable, str(ROOT / "scripts" / words[3]), *words[4:]]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN_ID)}
    return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("data", "one_thread")
def test_every_command_of_the_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 6)
    found = commands()
    runs = [line for line in found if line.startswith("ros2 run")]
    assert {line.split()[3] for line in runs} == {"device_node", "manager_node", "perception_node"}
    for line in (line for line in found if line not in runs):
        words = shlex.split(line)
        assert words[0] == "dynofa"
        subcommand = words[2] if words[1] == "library" else words[1]
        assert main([*words[1:], *QUICK.get(subcommand, "").split()]) == 0, line
    for file in ("signs.png", "cpu.png", "trained.json", "here.yaml", "cups.yaml"):
        assert Path(file).stat().st_size > 100, file

    nodes = [node(line) for line in runs]
    client = RosClient("client", DOMAIN_ID, "/", "/perception/front")
    monitors, decisions = [], []
    for app in ("front", "hand"):
        client.subscribe(topics.MONITOR, monitors.append, app)
    client.subscribe(topics.DECISION, decisions.append)
    images = [client.publisher(topics.IMAGE, app) for app in ("front", "hand")]
    message = Image(height=144, width=256, encoding="bgr8", step=768, data=bytes(768 * 144))
    end_s = time.monotonic() + 2 * TIMEOUT_S
    try:
        while not managed(decisions) or {m.app for m in monitors} != {"front", "hand"}:
            assert all(process.poll() is None for process in nodes), "a node ended"
            assert time.monotonic() < end_s, (decisions[-1:], {m.app for m in monitors})
            for publisher in images:
                publisher.publish(message)
            client.spin(0.1)
    finally:
        for process in nodes:
            process.terminate()
        errors = [process.communicate()[1] for process in nodes]
        client.close()
    assert not any("Traceback" in text for text in errors), errors


def managed(decisions: list) -> bool:
    """Whether a decision of the manager says what both applications run."""
    return any({app.app for app in decision.apps} == {"front", "hand"} for decision in decisions)
