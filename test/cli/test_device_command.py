"""`dynofa device restore|permissions`, and the shipped files on a tree of clocks."""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import dynofa
from fake_kernel import GPU, limits_on_disk, make_board, policy, put

from dynofa_ros.device.linux import permissions
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.errors import CliError, UsageError
from dynofa_ros.messages import DomainStatus, FrequencyBand

LOW = 499_200_000
NOBODY = 65534


pytestmark = pytest.mark.usefixtures("state")


def leave_changed(root: Path) -> None:
    """A process changes clocks and ends without giving them back."""
    code = (
        "import os, sys; from pathlib import Path; from dynofa_ros.messages import FrequencyBand as Band; "
        "from dynofa_ros.device.linux.linux_device import SysfsDevice; "
        "from dynofa_ros.device.linux.sysfs import SysFiles; "
        "device = SysfsDevice(SysFiles(Path(sys.argv[1])), allow_writes=True); "
        f"device.apply([Band('cpu0', {LOW}, {LOW}), Band('gpu', 114750000, 114750000)]); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(root)]).returncode == 9


# --- restore ----------------------------------------------------------------------------------------------


def test_restore_gives_back_and_says_so(root: Path, tmp_path: Path, capsys) -> None:
    before = limits_on_disk(root)
    leave_changed(root)
    assert limits_on_disk(root) != before
    assert dynofa("device", "restore", "--sysfs-root", root / "sys", "--json", tmp_path / "r.json") == 0
    assert limits_on_disk(root) == before
    assert capsys.readouterr().out == (
        "cpu0: restored, 1190.4 to 1420.8 MHz\ngpu: restored, 114.75 to 803.25 MHz\n"
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["sysfs_root"] == str(root) and [c["restored"] for c in result["clocks"]] == [True, True]
    assert result["clocks"][0] == {
        "domain": "cpu0",
        "min_hz": 1_190_400_000,
        "max_hz": 1_420_800_000,
        "restored": True,
        "reason": "",
    }


def test_restore_has_nothing_to_do_most_of_the_time(root: Path, capsys) -> None:
    before = limits_on_disk(root)
    assert dynofa("device", "restore", "--sysfs-root", root) == 0
    assert "nothing to restore" in capsys.readouterr().out and limits_on_disk(root) == before


def test_restore_fails_while_something_is_left(root: Path, capsys) -> None:
    leave_changed(root)
    gone = root / GPU[1:] / "max_freq"
    gone.rename(gone.with_name("away"))
    assert dynofa("device", "restore", "--sysfs-root", root) == 1
    out = capsys.readouterr().out
    assert "cpu0: restored" in out and "gpu: NOT restored" in out and "no such file" in out
    gone.with_name("away").rename(gone)
    assert dynofa("device", "restore", "--sysfs-root", root) == 0
    assert capsys.readouterr().out == "gpu: restored, 114.75 to 803.25 MHz\n"


def test_restore_leaves_a_living_process_alone(root: Path) -> None:
    with SysfsDevice(SysFiles(root), allow_writes=True) as living:
        living.apply([FrequencyBand("cpu0", LOW, LOW)])
        with pytest.raises(
            CliError, match=f"^process {os.getpid()} controls the clocks of .* stop it first$"
        ):
            dynofa("device", "restore", "--sysfs-root", root)
        assert (root / policy(0)[1:] / "scaling_max_freq").read_text() == "499200\n"


def test_restore_says_in_one_line_what_is_wrong(root: Path, state: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a folder named sys or hold one"):
        dynofa("device", "restore", "--sysfs-root", tmp_path / "nowhere")
    state.mkdir()
    ClockBackup(SysFiles(root)).path.write_text("{")
    with pytest.raises(CliError, match="not a state of clocks") as error:
        dynofa("device", "restore", "--sysfs-root", root)
    assert "\n" not in str(error.value)


# --- permissions ------------------------------------------------------------------------------------------


def test_permissions_prints_the_files_filled_in(capsys, tmp_path: Path) -> None:
    assert dynofa("device", "permissions", "--json", tmp_path / "p.json") == 0
    out = capsys.readouterr().out
    for path in ("/etc/udev/rules.d/70-dynofa-clocks.rules", "/etc/systemd/system/dynofa-restore.service"):
        assert f"### {path}\n" in out
    assert sys.executable in out and not re.search("@[A-Z]+@", out) and "device permissions --install" in out
    files = json.loads((tmp_path / "p.json").read_text())
    assert len(files["files"]) == len(permissions.PLACES) and files["installed"] == []


def test_permissions_are_installed_below_a_folder(tmp_path: Path, capsys) -> None:
    assert dynofa("device", "permissions", "--install", "--destination", tmp_path) == 0
    assert (tmp_path / "etc/udev/rules.d/70-dynofa-clocks.rules").is_file()
    assert "usermod --append --groups dynofa" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--destination needs --install"):
        dynofa("device", "permissions", "--destination", tmp_path)


def test_installing_needs_root_and_says_what_to_type(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CliError, match="needs root: sudo env PYTHONPATH=.* device permissions --install"):
        dynofa("device", "permissions", "--install")


def test_a_missing_or_failing_command_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(permissions, "PLACES", {})
    monkeypatch.setattr(permissions, "COMMANDS", (("no-such-command", "now"),))
    with pytest.raises(CliError, match="has no no-such-command, needed for: no-such-command now"):
        dynofa("device", "permissions", "--install")
    monkeypatch.setattr(permissions, "COMMANDS", (("sh", "-c", "echo broken >&2; exit 3"),))
    with pytest.raises(CliError, match="the files are in place, but `sh -c .*` failed: broken"):
        dynofa("device", "permissions", "--install")


def udev_commands(root: Path, group: str) -> dict[str, Callable[[str], None]]:
    """What the udev rule runs at an event of a subsystem, for a device path."""
    text = next(f.text for f in permissions.shipped_files() if f.path.endswith(".rules"))
    commands = {}
    for line in filter(lambda line: line and not line.startswith("#"), text.splitlines()):
        subsystem, run = re.search(r'SUBSYSTEM=="(\w+)".*RUN\+="(.*)"$', line).groups()  # type: ignore[union-attr]
        script = run.replace("chgrp dynofa", f"chgrp {group}").replace("%S", f"{root}/sys")

        def event(path: str, script: str = script) -> None:
            subprocess.run(script.replace("%p", path), shell=True, check=True)

        commands[subsystem] = event
    return commands


@pytest.fixture
def group() -> int:
    """A group of ours other than the first, or any as root."""
    others = [NOBODY] if os.geteuid() == 0 else [g for g in os.getgroups() if g != os.getgid()]
    if not others:
        pytest.skip("this user has one group only")
    return others[0]


def test_the_udev_rule_opens_the_limits_and_nothing_else(root: Path, group: int) -> None:
    def opened() -> set[str]:
        return {
            str(p.relative_to(root))
            for p in (root / "sys").rglob("*")
            if p.is_file() and p.stat().st_gid == group and p.stat().st_mode & 0o020
        }

    put(root, "/sys/devices/system/cpu/cpu8/online", 1)  # a CPU without cpufreq
    for file in (root / "sys").rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    events = udev_commands(root, str(group))
    events["cpu"]("/devices/system/cpu/cpu3")
    events["cpu"]("/devices/system/cpu/cpu8")
    assert opened() == {f"{policy(2)[1:]}/scaling_{end}_freq" for end in ("min", "max")}
    for number in range(6):
        events["cpu"](f"/devices/system/cpu/cpu{number}")
    events["devfreq"](GPU.removeprefix("/sys"))
    assert opened() == set(limits_on_disk(root))


@pytest.mark.skipif(not shutil.which("systemd-tmpfiles"), reason="no systemd-tmpfiles")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_tmpfiles_lines_open_the_same_files(root: Path) -> None:
    group = grp.getgrgid(1).gr_name
    (root / "etc").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    text = next(f.text for f in permissions.shipped_files() if "tmpfiles.d" in f.path)
    put(root, "/etc/tmpfiles.d/dynofa.conf", text.replace(" dynofa - -", f" {group} - -"))
    subprocess.run(["systemd-tmpfiles", "--create", f"--root={root}", "dynofa.conf"], check=True)
    opened = {
        str(p.relative_to(root)) for p in (root / "sys").rglob("*") if p.is_file() and p.stat().st_gid == 1
    }
    assert opened == set(limits_on_disk(root))
    folder = (root / "var/lib/dynofa_ros").stat()
    assert folder.st_mode & 0o7777 == 0o2775 and folder.st_gid == 1


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    permissions.install(tmp_path)
    unit = tmp_path / "etc/systemd/system" / permissions.RESTORE_UNIT
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert permissions.RESTORE_UNIT not in done.stderr, done.stderr


# --- with the kernel's own permissions ----------------------------------------------------------------------


@pytest.fixture
def shared_root() -> Iterator[Path]:
    """A tree that other users can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield make_board(Path(folder) / "root")


def as_nobody(groups: list[int], work: Callable[[], Any]) -> Any:
    """The result of some work in a process without root's rights."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.umask(0o002)
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:
            os.write(write, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        return json.loads(answer.read())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("member", [True, False])
def test_a_member_of_the_group_sets_clocks_and_nobody_else(
    shared_root: Path, monkeypatch, member: bool
) -> None:
    group, root = 1, shared_root
    before = limits_on_disk(root)
    events = udev_commands(root, str(group))
    for number in range(6):
        events["cpu"](f"/devices/system/cpu/cpu{number}")
    state = root.parent / "state"
    state.mkdir()
    os.chown(state, 0, group)
    state.chmod(0o2775)
    monkeypatch.setenv("DYNOFA_STATE_DIR", str(state))

    def set_clocks() -> list[Any]:
        with SysfsDevice(SysFiles(root), allow_writes=True) as clocks:
            can_write = [d.can_write for d in clocks.capabilities().domains]
            last = clocks.apply([FrequencyBand("cpu0", LOW, LOW)])
            cpu0 = next(s for s in reversed(last) if s.domain == "cpu0")
            return [
                can_write,
                cpu0.status,
                cpu0.reason,
                (root / policy(0)[1:] / "scaling_max_freq").read_text(),
            ]

    can_write, status, reason, high = as_nobody([group] if member else [], set_clocks)
    if member:
        assert (can_write, status, high) == ([True] * 3 + [False], DomainStatus.PENDING, "499200\n")
    else:
        assert (can_write, status, high) == ([False] * 4, DomainStatus.REJECTED, "1420800\n")
        assert "permission denied" in reason and "dynofa device permissions --install" in reason
    assert limits_on_disk(root) == before
