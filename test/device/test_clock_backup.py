"""The state found, on disk: saved once, restored by anybody, never a way to write other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_kernel import CPU_TABLE, GPU, FakeKernel, limits_on_disk, make_board, policy, put

from dynofa_ros.device.linux import clock_backup
from dynofa_ros.device.linux.clock_backup import (
    BackupError,
    ClockBackup,
    SavedClock,
    restore_saved,
    state_folder,
)
from dynofa_ros.device.linux.inventory import PowerMode
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import FrequencyBand

LOW = f"{policy(0)}/scaling_min_freq"
HIGH = f"{policy(0)}/scaling_max_freq"
CPU0 = SavedClock("cpu0", "band", LOW, HIGH, 1000, 1_190_400, 1_420_800, CPU_TABLE[0], CPU_TABLE[-1])
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_board(tmp_path / "root")
    put(root, BOOT_ID, "first")
    return root


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def change(root: Path, low: int, high: int) -> None:
    put(root, LOW, low)
    put(root, HIGH, high)


def leave_changed(root: Path, state: Path, low: int = 499_200, high: int = 576_000, **fields) -> None:
    """As a process does that is killed."""
    backup = ClockBackup(SysFiles(root), state)
    backup.acquire()
    backup.save([replace(CPU0, **fields)])
    change(root, low, high)
    backup.release()


def restored(root: Path, state: Path, mode: PowerMode | None = None):
    backup = ClockBackup(SysFiles(root), state)
    backup.acquire()
    try:
        (result,) = restore_saved(SysFiles(root), backup, mode)
    finally:
        backup.release()
    return result


def cpu0(root: Path) -> tuple[int, int]:
    return int((root / LOW[1:]).read_text()), int((root / HIGH[1:]).read_text())


def test_what_is_saved_first_stays_and_another_process_finds_it(root: Path, state: Path) -> None:
    backup = ClockBackup(SysFiles(root), state)
    assert not backup.left_over() and not state.exists()  # nothing is created before it is needed
    backup.acquire()
    backup.save([CPU0])
    backup.save([replace(CPU0, low=1, high=2), replace(CPU0, domain="cpu2")])
    backup.release()
    later = ClockBackup(SysFiles(root), state)
    later.acquire()
    assert {c.domain: (c.low, c.high) for c in later.clocks} == dict.fromkeys(("cpu0", "cpu2"), CPU0_FOUND)
    later.remove(["cpu0", "cpu2"])
    assert not later.left_over()


CPU0_FOUND = (CPU0.low, CPU0.high)


def test_each_kernel_has_its_own_file(root: Path, state: Path, tmp_path: Path) -> None:
    other = make_board(tmp_path / "other")
    leave_changed(root, state)
    assert ClockBackup(SysFiles(root), state).left_over()
    assert not ClockBackup(SysFiles(other), state).left_over()
    (tmp_path / "link").symlink_to(root)
    assert ClockBackup(SysFiles(tmp_path / "link"), state).left_over()  # the same by another name


def test_nothing_is_saved_without_the_lock(root: Path, state: Path) -> None:
    with pytest.raises(BackupError, match="the lock is not held"):
        ClockBackup(SysFiles(root), state).save([CPU0])


def test_a_second_process_is_refused_by_the_number_of_the_first(root: Path, state: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dynofa_ros.device.linux.clock_backup import ClockBackup; "
        "from dynofa_ros.device.linux.sysfs import SysFiles; "
        "b = ClockBackup(SysFiles(Path(sys.argv[1])), Path(sys.argv[2])); b.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    backup = ClockBackup(SysFiles(root), state)
    with pytest.raises(BackupError, match=f"^process {first.pid} controls the clocks of .*; stop it first$"):
        backup.acquire()
    first.kill()
    first.wait()
    backup.acquire()
    assert backup.held


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a state of clocks"),
        ("{}", "schema_version"),
        ('{"schema_version": 2, "clocks": []}', "schema_version 2 is not 1"),
        ('{"schema_version": 1, "clocks": [{"domain": "cpu0"}]}', "missing"),
        ("[]", "not a state of clocks"),
    ],
)
def test_a_damaged_file_is_named_and_kept(root: Path, state: Path, content: str, said: str) -> None:
    backup = ClockBackup(SysFiles(root), state)
    state.mkdir()
    backup.path.write_text(content)
    with pytest.raises(BackupError, match=said) as error:
        backup.acquire()
    assert str(backup.path) in str(error.value) and "\n" not in str(error.value)
    assert backup.path.read_text() == content and not backup.held


@pytest.mark.parametrize(
    "fields",
    [
        {"high_path": "/etc/shadow"},
        {"low_path": "/sys/../etc/min_freq"},
        {"high_path": f"{policy(0)}/scaling_governor"},
        {"kind": "other"},
        {"low": -1},
        {"low": "1; reboot"},
        {"high": True},
        {"unit_hz": 0},
    ],
)
def test_a_forged_file_makes_nobody_write_elsewhere(root: Path, state: Path, fields) -> None:
    leave_changed(root, state)
    path = ClockBackup(SysFiles(root), state).path
    content = json.loads(path.read_text())
    content["clocks"][0].update(fields)
    path.write_text(json.dumps(content))
    with pytest.raises(BackupError):
        ClockBackup(SysFiles(root), state).acquire()


def test_links_in_the_folder_are_not_followed(root: Path, state: Path, tmp_path: Path) -> None:
    backup = ClockBackup(SysFiles(root), state)
    state.mkdir()
    backup.path.with_suffix(".tmp").symlink_to(tmp_path / "elsewhere")
    backup.acquire()
    with pytest.raises(OSError):
        backup.save([CPU0])
    backup.release()
    backup.path.with_suffix(".lock").unlink()
    backup.path.with_suffix(".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        backup.acquire()
    assert not (tmp_path / "elsewhere").exists()


# --- what is restored ----------------------------------------------------------------------------------


def test_in_the_same_boot_everything_is_given_back(root: Path, state: Path) -> None:
    leave_changed(root, state, low=CPU_TABLE[0], high=CPU_TABLE[-1])
    assert restored(root, state).done and cpu0(root) == CPU0_FOUND
    assert not list(state.glob("*.json"))


@pytest.mark.parametrize(
    ("now", "after"),
    [
        (CPU0_FOUND, CPU0_FOUND),
        ((CPU_TABLE[0], CPU_TABLE[-1]), (CPU_TABLE[0], CPU_TABLE[-1])),  # the kernel's own at boot
        ((1_190_400, 1_344_000), (1_190_400, 1_344_000)),  # set by nvpmodel at boot
        ((499_200, 576_000), CPU0_FOUND),  # carried over the boot by something: ours
    ],
)
def test_after_another_boot_what_the_boot_has_set_stays(root: Path, state: Path, now, after) -> None:
    mode = PowerMode(3, "MODE", (FrequencyBand("cpu0", 1_190_400_000, 1_344_000_000),))
    leave_changed(root, state, *now, power_mode=3)
    put(root, BOOT_ID, "second")
    assert restored(root, state, mode).done and cpu0(root) == after
    assert not list(state.glob("*.json"))


def test_after_another_boot_a_clock_that_is_not_there_is_not_waited_for(root: Path, state: Path) -> None:
    leave_changed(root, state)
    put(root, BOOT_ID, "second")
    (root / HIGH[1:]).unlink()
    assert restored(root, state).done and not list(state.glob("*.json"))


def test_limits_of_a_power_mode_chosen_meanwhile_are_given_back(root: Path, state: Path) -> None:
    leave_changed(root, state, power_mode=2)
    mode = PowerMode(4, "MODE_10W", (FrequencyBand("cpu0", 0, 1_190_400_000),))
    result = restored(root, state, mode)
    assert (
        cpu0(root)
        == (CPU_TABLE[0], 1_190_400)
        == (result.requested_min_hz // 1000, result.requested_max_hz // 1000)
    )


def test_a_file_cut_in_half_by_the_kill_is_written_over(root: Path, state: Path) -> None:
    leave_changed(root, state)
    (root / LOW[1:]).write_text("")
    (root / HIGH[1:]).write_text("576000\n0\n")
    assert restored(root, state).done and cpu0(root) == CPU0_FOUND


def test_what_cannot_be_written_stays_on_disk_with_the_reason(root: Path, state: Path) -> None:
    leave_changed(root, state)
    kernel = FakeKernel(root, (4, 9))
    kernel.closed = {HIGH}
    backup = ClockBackup(kernel, state)
    backup.acquire()
    (result,) = restore_saved(kernel, backup)
    assert not result.done and "scaling_max_freq: permission denied" in result.reason
    assert [clock.domain for clock in backup.clocks] == ["cpu0"]
    kernel.closed = set()
    assert restore_saved(kernel, backup)[0].done and not backup.clocks


def test_a_busy_kernel_is_waited_for(root: Path, state: Path) -> None:
    leave_changed(root, state)
    kernel = FakeKernel(root, (4, 9))
    kernel.busy = 3
    waits: list[float] = []
    backup = ClockBackup(kernel, state)
    backup.acquire()
    assert restore_saved(kernel, backup, sleep=waits.append)[0].done
    assert len(waits) == 3 and sum(waits) < 0.2


def test_heat_delays_the_proof_not_the_return(root: Path, state: Path) -> None:
    leave_changed(root, state)
    kernel = FakeKernel(root, (5, 10))
    kernel.heat(policy(0), 806_400)
    backup = ClockBackup(kernel, state)
    backup.acquire()
    (result,) = restore_saved(kernel, backup)
    assert not result.done and "heat or power" in result.reason
    assert kernel.limits(policy(0)) == CPU0_FOUND
    kernel.heat(policy(0), 0)
    assert restore_saved(kernel, backup)[0].done


def test_a_locked_memory_clock_is_let_go_again(root: Path, state: Path) -> None:
    emc = "/sys/kernel/debug/bpmp/debug/clk/emc"
    put(root, f"{emc}/mrq_rate_locked", 1)
    put(root, f"{emc}/rate", 665_600_000)
    backup = ClockBackup(SysFiles(root), state)
    backup.acquire()
    backup.save([SavedClock("emc", "lock", f"{emc}/mrq_rate_locked", f"{emc}/rate", 1, 0, 0)])
    assert restore_saved(SysFiles(root), backup)[0].done
    assert (root / emc[1:] / "mrq_rate_locked").read_text() == "0\n"


def test_only_the_chosen_domains_are_given_back(root: Path, state: Path) -> None:
    before = limits_on_disk(root)
    backup = ClockBackup(SysFiles(root), state)
    backup.acquire()
    gpu = SavedClock("gpu", "band", f"{GPU}/min_freq", f"{GPU}/max_freq", 1, 114_750_000, 803_250_000)
    backup.save([CPU0, gpu])
    change(root, 499_200, 499_200)
    assert [r.domain for r in restore_saved(SysFiles(root), backup, domains=["cpu0"])] == ["cpu0"]
    assert limits_on_disk(root) == before and [clock.domain for clock in backup.clocks] == ["gpu"]


# --- where ------------------------------------------------------------------------------------------------


def test_the_folder_is_the_chosen_the_systems_or_the_users(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DYNOFA_STATE_DIR", str(tmp_path / "chosen"))
    assert state_folder() == tmp_path / "chosen"
    monkeypatch.delenv("DYNOFA_STATE_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(clock_backup, "SYSTEM_FOLDER", tmp_path)  # installed, and we are in the group
    assert state_folder() == tmp_path
    monkeypatch.setattr(clock_backup, "SYSTEM_FOLDER", tmp_path / "missing")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder() == tmp_path / "xdg" / "dynofa_ros"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_folder() == tmp_path / "home" / ".local" / "state" / "dynofa_ros"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_folder() == tmp_path / "missing"
