"""`dynofa probe`: the JSON, the table, wrong folders, and the selftest on a root of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sysfs_tree
from command import dynofa

from dynofa_ros.cli import probe
from dynofa_ros.device.linux import selftest
from dynofa_ros.errors import CliError, UsageError

KEYS = {"name", "frequencies_hz", "min_hz", "max_hz", "current_hz", "readable", "writable", "reason"}
CPU = "/sys/devices/system/cpu/cpufreq"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "BETWEEN_READINGS_S", 0.0)
    monkeypatch.setattr(selftest, "WATCH_S", 0.1)
    monkeypatch.setattr(selftest, "OBEY_S", 0.3)
    monkeypatch.setenv("DYNOFA_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sysfs_tree.build(sysfs_tree.TREES / "agx_xavier_jetpack5.yaml", tmp_path / "root")


def result(tmp_path: Path, root: Path, *more: str) -> dict[str, Any]:
    path = tmp_path / "probe.json"
    assert dynofa("probe", "--sysfs-root", str(root), "--json", str(path), *more) in (0, 1)
    return json.loads(path.read_text())


def test_the_board_description_that_matches_is_named(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Xavier NX Developer Kit\0")
    found = result(tmp_path, root)
    assert found["description"] == "xavier_nx" and found["board"] in found["identities"]
    assert "board description: xavier_nx" in capsys.readouterr().out


def test_json(tmp_path: Path, root: Path) -> None:
    found = result(tmp_path, root)
    assert found["board"] == "Jetson-AGX"
    assert found["identities"] == ["Jetson-AGX"] and found["description"] is None
    assert {"board", "domains", "rails", "temperatures", "unsupported"} <= found.keys()
    assert all(domain.keys() == KEYS for domain in found["domains"])
    domains = {domain["name"]: domain for domain in found["domains"]}
    assert list(domains) == ["cpu0", "cpu2", "cpu4", "gpu"]
    cpu = domains["cpu2"]
    assert (cpu["min_hz"], cpu["max_hz"], cpu["current_hz"]) == (1190400000, 1450000000, 1190400000)
    assert len(cpu["frequencies_hz"]) == 29 and cpu["frequencies_hz"][-1] == 2265600000
    assert (cpu["readable"], cpu["writable"], cpu["reason"]) == (True, True, "")
    assert not domains["cpu0"]["writable"] and "mode 0444" in domains["cpu0"]["reason"]
    assert domains["cpu4"]["current_hz"] is None and "reads 0" in domains["cpu4"]["reason"]
    assert {"name": "GPU-therm", "celsius": None} in found["temperatures"]
    assert {"name": "CPU-therm", "celsius": 36.5} in found["temperatures"]
    assert not any(rail["is_total"] for rail in found["rails"])
    assert found["total_power_w"] == pytest.approx(sum(rail["power_w"] for rail in found["rails"]))
    assert any(text.startswith("temperature GPU-therm") for text in found["unsupported"])


def test_table_says_why_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dynofa("probe", "--sysfs-root", str(root)) == 0
    text = capsys.readouterr().out
    assert "nvpmodel mode 3 MODE_30W_6CORE" in text and "SYS5V" in text
    assert f"cpu0: cannot write {CPU}/policy0/scaling_max_freq: mode 0444 allows it to nobody" in text


def test_a_computer_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sys").mkdir()
    found = result(tmp_path, tmp_path)
    assert (found["board"], found["domains"], found["rails"], found["temperatures"]) == (None, [], [], [])
    assert found["total_power_w"] is None
    assert "no clock of this computer can be read or set" in capsys.readouterr().out
    assert {text.split(":")[0] for text in found["unsupported"]} == {
        *("board", "cpu clocks", "gpu", "npu", "emc", "power", "temperature")
    }


def test_wrong_arguments(tmp_path: Path, root: Path) -> None:
    with pytest.raises(CliError, match="must be a folder that holds sys/"):
        dynofa("probe", "--sysfs-root", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="--allow-writes needs --selftest"):
        dynofa("probe", "--sysfs-root", str(root), "--allow-writes")


def checks(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in found["selftest"]}


def test_selftest_reads_only(tmp_path: Path, root: Path) -> None:
    before = contents(root)
    outcomes = checks(result(tmp_path, root, "--selftest"))
    assert outcomes["clock cpu0"] == outcomes["clock gpu"] == outcomes["temperatures"] == "pass"
    assert outcomes["power of the module"] == "pass" and outcomes["power moves"] == "fail"  # it is a still
    assert outcomes["clock cpu4"] == outcomes["writing clocks"] == outcomes["load of cpu0"] == "skip"
    assert contents(root) == before and not (tmp_path / "state").exists()


def test_selftest_finds_what_is_wrong(tmp_path: Path, root: Path) -> None:
    sysfs_tree.put(root, f"{CPU}/policy2/scaling_cur_freq", "2265600")
    assert checks(result(tmp_path, root, "--selftest"))["clock cpu2"] == "fail"


def test_selftest_moves_clocks_and_gives_them_back(tmp_path: Path, root: Path) -> None:
    before = contents(root)
    outcomes = checks(result(tmp_path, root, "--selftest", "--allow-writes"))
    # Nothing moves the clock of these files: one that was inside the lower band already passes.
    assert outcomes["writing cpu2"] == outcomes["writing gpu"] == "pass"
    assert outcomes["writing cpu0"] == "skip"
    assert contents(root) == before
    assert not list((tmp_path / "state").glob("*.json"))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
