"""What an installation without torch does: the demo's processes start, other commands say what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import dynofa_process
from safetensors.numpy import save_file

from dynofa_ros.supernet.registry import load_space

ROOT = Path(__file__).resolve().parents[2]
NAME = "ofa_mbv3_demo"
LIBRARY = ROOT / f"config/libraries/demo/cpu_{NAME}.yaml"
WEIGHTS = ROOT / f"config/weights/{NAME}.safetensors"
ABSENT = ("torch", "torchvision")
DEMO_PROCESSES = (
    "dynofa_ros.cli.demo",
    "dynofa_ros.cli.replay",
    "dynofa_ros.cli.report",
    "dynofa_ros.demo.camera_node",
    "dynofa_ros.demo.comparison",
    "dynofa_ros.demo.demo",
    "dynofa_ros.demo.director",
    "dynofa_ros.demo.machine_speed",
    "dynofa_ros.demo.speaker_node",
    "dynofa_ros.nodes.device_node",
    "dynofa_ros.nodes.language_node",
    "dynofa_ros.nodes.manager_node",
    "dynofa_ros.nodes.perception_node",
    "dynofa_ros.recording.page",
    "dynofa_ros.recording.replay",
    "dynofa_ros.recording.timeline_plot",
)


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which importing torch fails as where it is not installed."""
    folder = tmp_path_factory.mktemp("absent")
    for name in ABSENT:
        (folder / f"{name}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name={name!r})\n"
        )
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])}


def run(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_processes_of_the_demo_need_no_torch(without_torch: dict[str, str]) -> None:
    code = f"import importlib\nfor name in {DEMO_PROCESSES}: importlib.import_module(name)"
    done = run(without_torch, "-c", code)
    assert done.returncode == 0, done.stderr


def test_this_machine_is_measured_without_torch(without_torch: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom dynofa_ros.demo import machine_speed\n"
        "machine_speed.ROUNDS = 1\n"
        f"machine_speed.measure_demo({NAME!r}, {NAME!r}, Path({str(tmp_path / 'library.yaml')!r}))\n"
        "print('torch' in sys.modules)"
    )
    done = run(without_torch, "-c", code)
    assert done.stdout == "False\n", done.stderr
    assert (tmp_path / "library.yaml").is_file()


def test_demo_network_runs_without_torch(without_torch: dict[str, str]) -> None:
    code = (
        "import numpy as np, sys\n"
        "from dynofa_ros.supernet import load_supernet\n"
        f"net = load_supernet('ofa_mbv3_demo', {str(WEIGHTS)!r})\n"
        "config = net.space.smallest\n"
        "images = np.zeros((1, 3, config.resolution, config.resolution), np.float32)\n"
        "print(net.prepare(config)(images).shape, 'torch' in sys.modules)"
    )
    done = run(without_torch, "-c", code)
    assert done.stdout == "(1, 25) False\n", done.stderr


def test_a_library_from_a_table_and_converted_weights_needs_no_torch(
    without_torch: dict[str, str], tmp_path: Path
) -> None:
    space, weights, out = load_space("ofa_mbv3_w1.2"), tmp_path / "w.safetensors", tmp_path / "o.yaml"
    save_file({k: np.ones(s, np.float32) for k, s in space.parameter_shapes(1000).items()}, weights)
    table = ROOT / "config/latency_tables/xavier_nx_gpu.yaml"
    search = ("--latency-table", table, "--evaluations", 500, "--points", 4)
    command = ("library", "build", "--space", space.name, "--weights", weights, *search, "--out", out)
    done = dynofa_process(*command, **without_torch)
    assert done.returncode == 0, done.stderr
    assert "sub-networks in" in done.stdout and out.is_file()


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (
            ("library", "build", "--space", "ofa_mbv3_w1.2", "--weights", "net.pth", "--out", "o.yaml"),
            "torch",
        ),
        (
            ("library", "calibrate", LIBRARY, "--weights", WEIGHTS, "--images", ".", "--out", "o.yaml"),
            "torch",
        ),
        (
            ("library", "profile", LIBRARY, "--weights", WEIGHTS, "--engine", "torch", "--out", "o.yaml"),
            "torch",
        ),
        (("weights", "check", "net.pth"), "torch"),
        (("bench", "--only", "engines", "--quick"), "torch"),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_a_command_that_needs_torch_says_how_to_install_it(
    without_torch: dict[str, str], tmp_path: Path, arguments: tuple[object, ...], extra: str
) -> None:
    (tmp_path / "net.pth").write_bytes(b"any")
    places = [tmp_path / a if a in ("net.pth", "o.yaml", ".") else a for a in arguments]
    done = dynofa_process(*places, **without_torch)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"pip install 'dynofa_ros[{extra}]'" in done.stderr.splitlines()[-1]
    assert "`make install`" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o.yaml").exists()
