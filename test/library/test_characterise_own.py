"""`dynofa characterise --device auto`: real inference on this computer, clocks of a fake kernel."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import msgspec
import pytest
from fake_kernel import FakeKernel, limits_on_disk, make_board, put

from dynofa_ros.application.networks import DEMO_LIBRARY, DEMO_WEIGHTS
from dynofa_ros.cli.main import main
from dynofa_ros.device.linux import sensors
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.library import sweep as characterise
from dynofa_ros.library import testbench
from dynofa_ros.library.library import load_library, save_library
from dynofa_ros.paths import share_file

HWMON = "/sys/bus/i2c/drivers/ina3221/7-0040/hwmon/hwmon5"


class LiveKernel(FakeKernel):
    """The fake kernel in real time."""

    @property
    def now_s(self) -> float:
        return time.monotonic()

    @now_s.setter
    def now_s(self, value: float) -> None:
        pass


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A board with three CPU policies and a sensor of the whole module's power, 3.5 W."""
    folder = make_board(tmp_path / "root")
    for name, content in (
        ("name", "ina3221"),
        ("in1_label", "VDD_IN"),
        ("in1_input", 5000),
        ("curr1_input", 700),
    ):
        put(folder, f"{HWMON}/{name}", content)

    def opened(*_: object) -> SysfsDevice:
        kernel = LiveKernel(folder)
        return SysfsDevice(kernel, allow_writes=True, backup=ClockBackup(kernel, tmp_path / "state"))

    monkeypatch.setattr(testbench, "open_own", opened)
    monkeypatch.setattr(sensors, "CPU_CLOCK_EVERY_S", 0.02)
    monkeypatch.setattr(characterise, "POWER_SETTLE_S", 0.05)
    return folder


def small_library(path: Path) -> Path:
    source = share_file(*DEMO_LIBRARY)
    library = load_library(source)
    few = msgspec.structs.replace(library, entries=library.entries[:2], bn_statistics=None)
    save_library(path, few)
    return path


def run(tmp_path: Path, *more: str) -> int:
    library = small_library(tmp_path / "cpu.yaml")
    weights = str(share_file(*DEMO_WEIGHTS))
    arguments = ["--library", str(library), "--weights", weights, "--out", str(tmp_path / "own.yaml")]
    quick = ["--frequencies", "2", "--repeats", "5", "--window-s", "0.2"]
    quick += ["--json", str(tmp_path / "own.json")]
    return main(["characterise", "--device", "auto", *arguments, *quick, *more])


def test_own_clocks_are_swept_and_given_back(tmp_path: Path, root: Path) -> None:
    before = limits_on_disk(root)
    assert run(tmp_path) == 0
    assert limits_on_disk(root) == before
    library = load_library(tmp_path / "own.yaml")
    assert {e.latency_source for e in library} == {"measured"}
    assert library.reference_frequencies_hz == dict.fromkeys(("cpu0", "cpu2", "cpu4"), 1_907_200_000)
    figures = json.loads((tmp_path / "own.json").read_text())
    assert figures["source"] == "sysfs" and figures["power"] == {}
    clocks = {p["frequencies_hz"]["cpu0"] for p in figures["points"] if p["point"]["processor"] == "cpu"}
    assert len(clocks) == 2, "each clock was in force when its point was measured"
    for entry in library:
        assert entry.energy_j == pytest.approx(3.5 * entry.latency_ms.median / 1e3, rel=0.05)


def test_own_clusters_are_measured_on_their_own_cpus(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
    bound: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: bound.append(set(cpus)))
    assert run(tmp_path, "--clusters", "all", "--threads", "1,2") == 0
    library = load_library(tmp_path / "own.yaml")
    assert library.placements == tuple((c, n) for c in ("cpu0", "cpu2", "cpu4") for n in (1, 2))
    assert {0, 1} in bound and {2, 3} in bound and {4, 5} in bound
    assert bound[-1] == {0, 1, 2, 3, 4, 5}, "the thread is restored"
    points = json.loads((tmp_path / "own.json").read_text())["points"]
    for cluster in ("cpu0", "cpu2", "cpu4"):
        own = [p for p in points if p["point"]["cluster"] == cluster]
        assert len({p["frequencies_hz"][cluster] for p in own}) == 2


def test_without_weights_or_clocks_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = small_library(tmp_path / "cpu.yaml")
    common = [
        "characterise",
        "--device",
        "auto",
        "--library",
        str(library),
        "--out",
        str(tmp_path / "x.yaml"),
    ]
    assert main(common) == 2
    assert "it needs --weights" in capsys.readouterr().err
    (tmp_path / "empty" / "sys").mkdir(parents=True)
    weights = str(share_file(*DEMO_WEIGHTS))
    assert main([*common, "--weights", weights, "--sysfs-root", str(tmp_path / "empty")]) == 1
    assert "no clock and no sensor found" in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()
