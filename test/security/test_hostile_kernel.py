"""Kernel files, saved clocks and paths made to harm a device node that may write clocks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from confined import Outcome, confined, note, outcome_of, refused
from fake_kernel import NVPMODEL_CONF, limits_on_disk, make_board, policy, put

from dynofa_ros.convert import to_ros
from dynofa_ros.device.linux import permissions
from dynofa_ros.device.linux.clock_backup import LARGEST_STATE, BackupError, ClockBackup, SavedClock
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.open import open_device
from dynofa_ros.errors import one_line
from dynofa_ros.files import write_atomically
from dynofa_ros.messages import FrequencyBand

LOW, HIGH = (f"{policy(0)}/scaling_{end}_freq" for end in ("min", "max"))
CPU0 = SavedClock("cpu0", "band", LOW, HIGH, 1000, 115_200, 1_907_200)
CONTENTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda file: file.write_bytes(b""),
    "NULs": lambda file: file.write_bytes(bytes(5000)),
    "no UTF-8": lambda file: file.write_bytes(b"\xff\xfe\x80"),
    "controls": lambda file: file.write_bytes(b"cpu\x1b[2J\x07\x9b31m"),
    "lines": lambda file: file.write_bytes(b"cpu\nroot: owned\n"),
    "minus one": lambda file: file.write_bytes(b"-1\n"),
    "20 digits": lambda file: file.write_bytes(b"9" * 20),
    "a million digits": lambda file: file.write_bytes(b"9" * 1_000_000),
    "more numbers than clocks": lambda file: file.write_bytes(b" ".join(b"%d" % n for n in range(150_000))),
    "2**63": lambda file: file.write_bytes(b"%d" % 2**63),
    "not a number": lambda file: file.write_bytes(b"nan 1e999 0x7f -0"),
    "path": lambda file: file.write_bytes(b"../../../../outside/owned"),
    "100 MB": lambda file: os.truncate(file, 100_000_000),
    "link elsewhere": lambda file: replaced(file, lambda: file.symlink_to("/etc/passwd")),
    "link to itself": lambda file: replaced(file, lambda: file.symlink_to(file.name)),
    "pipe": lambda file: replaced(file, lambda: os.mkfifo(file)),
    "folder": lambda file: replaced(file, file.mkdir),
    "closed": lambda file: file.chmod(0),
}


def replaced(file: Path, make: Callable[[], object]) -> None:
    file.unlink()
    make()


def whole_board(root: Path) -> Path:
    """A small board with what discovery looks at beside clocks."""
    make_board(root)
    zone, hwmon = "/sys/class/thermal/thermal_zone0", "/sys/class/hwmon/hwmon0"
    for path, content in {
        f"{zone}/type": "CPU-therm",
        f"{zone}/temp": 41_000,
        f"{hwmon}/name": "ina3221",
        f"{hwmon}/in1_label": "VDD_IN",
        f"{hwmon}/in1_input": 5000,
        f"{hwmon}/curr1_input": 800,
        "/proc/device-tree/model": "Jetson",
        "/proc/device-tree/compatible": "nvidia,jetson\0nvidia,tegra194",
        "/sys/class/dmi/id/product_name": "board",
        "/sys/devices/system/cpu/online": "0-5",
        "/proc/stat": "cpu0 1 2 3 4\ncpu1 1 2 3 4",
        "/proc/sys/kernel/random/boot_id": "first",
        "/etc/nvpmodel.conf": NVPMODEL_CONF,
        "/var/lib/nvpmodel/status": "pmode:0000",
    }.items():
        put(root, path, content)
    return root


def use(root: Path, state: Path) -> None:
    """All that the device node does with a kernel, up to the messages."""
    files = SysFiles(root)
    backup = ClockBackup(files, state)
    device = SysfsDevice(files, allow_writes=True, inventory=discover(files), backup=backup)
    try:
        for _ in range(2):
            capabilities, sample = device.capabilities(), device.read()
            names = [capabilities.board, *(d.domain for d in capabilities.domains)]
            names += [z.name for z in sample.temperatures] + [rail.name for rail in sample.rails]
            assert all(name.isprintable() for name in names), names
            to_ros(capabilities)
            to_ros(sample)
        tables = {d.domain: d.frequencies_hz for d in capabilities.domains if d.frequencies_hz}
        device.apply([FrequencyBand(name, table[0], table[-1]) for name, table in tables.items()])
        for applied in device.applied():
            to_ros(applied)
    finally:
        device.close()


def use_each(content: str, folder: Path) -> list[tuple[str, Outcome]]:
    """What comes of it for each file of the board in turn."""
    base = whole_board(folder / "whole")
    found = []
    for path in sorted(p.relative_to(base) for p in base.rglob("*") if p.is_file() and not p.is_symlink()):
        root = whole_board(folder / f"board{len(found)}")
        CONTENTS[content](root / path)
        found.append((str(path), outcome_of(use, root, folder / f"state{len(found)}")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("content", CONTENTS)
def test_each_kernel_file_with_hostile_content(content: str, tmp_path: Path) -> None:
    """The device works on, or does not start and says why in one line."""
    outcomes = confined(use_each, content, tmp_path).value
    assert len(outcomes) > 40
    for path, outcome in outcomes:
        note("kernel", outcome)
        if outcome.kind:
            assert outcome.kind in ("ValueError", "BackupError", "OSError"), (path, outcome)
            refused(outcome)


CONFS = {
    "number of 5000 digits": NVPMODEL_CONF.replace("ID=0", f"ID={'9' * 5000}"),
    "cap of 5000 digits": NVPMODEL_CONF.replace("1420800", "9" * 5000),
    "cap below zero": NVPMODEL_CONF.replace("1420800", "-5"),
    "path elsewhere": NVPMODEL_CONF.replace("/sys/devices/system/cpu/cpu0/cpufreq", "/../outside"),
    "controls in the name": NVPMODEL_CONF.replace("MODE_15W", "\x1b[2J"),
    "20,000 modes": "".join(f"< POWER_MODEL ID={n} NAME=m{n} >\n" for n in range(20_000)),
    "a line of 1 MB": "< PARAM TYPE=FILE " + "NAME=" * 200_000,
    "brackets": "<" * 500_000,
    "default that is none": NVPMODEL_CONF.replace("DEFAULT=0", "DEFAULT=\u0663"),
}


@pytest.mark.parametrize("name", CONFS)
def test_nvpmodel_conf(name: str, tmp_path: Path) -> None:
    root = whole_board(tmp_path / "board")
    put(root, "/etc/nvpmodel.conf", CONFS[name])
    (root / "var/lib/nvpmodel/status").unlink()
    outcome = confined(use, root, tmp_path / "state")
    assert not outcome.kind and outcome.seconds < 20, outcome


# --- who may write what ---------------------------------------------------------------------------------


def saved(root: Path, state: Path, **changes: object) -> Path:
    """A state file of one clock with some of its fields changed."""
    clock = {**vars(CPU0), **changes}
    path = ClockBackup(SysFiles(root), state).path
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"schema_version": 1, "sysfs_root": str(root), "clocks": [clock]}))
    return path


FORGED: tuple[dict[str, object], ...] = (
    {"high_path": "/etc/shadow"},
    {"low_path": "/sys/../etc/min_freq"},
    {"low_path": "/sys/./devices/min_freq"},
    {"low_path": "//sys/devices/a/min_freq"},
    {"low_path": "/sys/fs/cgroup/user.slice/min_freq"},
    {"low_path": "/sys/kernel/config/usb_gadget/min_freq"},
    {"low_path": "/sys/devices/a\nb/min_freq"},
    {"low_path": "/sys/devices/\x1b[2J/min_freq"},
    {"low_path": "/sys/devices/a/min_freq\0.txt"},
    {"high_path": f"{policy(0)}/scaling_governor"},
    {"high_path": "/sys/power/state"},
    {"kind": "lock"},
    {"kind": ["band"]},
    {"low": -1},
    {"low": 2**70},
    {"low": 1e9},
    {"low": "1; reboot"},
    {"low": None},
    {"high": True},
    {"unit_hz": 0},
    {"domain": "cpu0\x1b[2J"},
    {"domain": 7},
    {"boot_id": []},
    {"power_mode": "0"},
    {"run": "touch outside/owned"},
)


@pytest.mark.parametrize("changes", FORGED, ids=str)
def test_a_forged_state_is_refused(changes: dict[str, object], root: Path, state: Path) -> None:
    before = limits_on_disk(root)
    path = saved(root, state, **changes)
    with pytest.raises(BackupError) as error:
        ClockBackup(SysFiles(root), state).acquire()
    assert str(error.value).isprintable() and str(path) in str(error.value)
    assert limits_on_disk(root) == before


@pytest.mark.parametrize("kind", ["pipe", "link", "endless", "large", "deep"])
def test_what_is_no_state_file(kind: str, root: Path, state: Path, tmp_path: Path) -> None:
    path = saved(root, state)
    made: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(saved(root, tmp_path / "other")),
        "endless": lambda: path.symlink_to("/dev/zero"),
        "large": lambda: path.write_bytes(b" " * (LARGEST_STATE + 1)),
        "deep": lambda: path.write_bytes(b"[" * 500_000),
    }
    replaced(path, made[kind])
    with pytest.raises((BackupError, OSError)):
        ClockBackup(SysFiles(root), state).acquire()


@pytest.mark.parametrize("name", ["clocks.lock", "clocks.tmp"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_no_link_makes_the_writer_of_the_state_change_another_file(
    name: str, link: Callable[..., None], root: Path, state: Path, tmp_path: Path
) -> None:
    """The folder is writable for a group, and root uses it."""
    backup = ClockBackup(SysFiles(root), state)
    state.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link(victim, backup.path.with_suffix(Path(name).suffix))
    with pytest.raises(OSError):
        backup.acquire()
        backup.save(
            [
                SavedClock(
                    "cpu0",
                    "band",
                    f"{policy(0)}/scaling_min_freq",
                    f"{policy(0)}/scaling_max_freq",
                    1000,
                    1,
                    2,
                )
            ]
        )
    backup.release()
    assert victim.read_text() == "precious"


def test_a_limit_that_leads_out_of_the_root_is_not_written(root: Path, state: Path, tmp_path: Path) -> None:
    """Links count from the root, as in a container: a tree cannot name files of the computer."""
    victim = tmp_path / "victim"
    victim.write_text("1")
    low = root / LOW[1:]
    for target in (victim, "../../../../../../../../victim", f"/..{victim}"):
        replaced(low, lambda target=target: low.symlink_to(target))
        confined(use, root, state)
        assert victim.read_text() == "1"


@pytest.mark.parametrize(
    "place", ["", "/dev", "/proc/self/fd", "/etc/passwd", "\x1b[2J", "x" * 5000, "/proc", ".."]
)
def test_roots_that_are_none(place: str) -> None:
    outcome = confined(opened, place)
    assert outcome.kind in ("", "ValueError", "OSError")
    assert one_line(outcome.error).isprintable()  # as commands and nodes show it


def opened(place: str) -> None:
    open_device("sysfs", "xavier_nx", place)


def test_a_whole_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "result.json"
    victim.write_text("precious")
    target.with_name(f".{target.name}.{os.getpid()}.tmp").symlink_to(victim)
    write_atomically(target, b"new")
    assert victim.read_text() == "precious" and target.read_bytes() == b"new"


@pytest.mark.parametrize(
    "value", ['/a"\nExecStart=/bin/sh', "/a\nb", "/a\\", "/%h", "/$HOME", "/\x1b[2J", "/a'"]
)
def test_no_path_adds_lines_to_a_unit(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", value)
    with pytest.raises(ValueError, match="a path in a unit must not hold"):
        permissions.shipped_files()


def test_units_of_an_image_stay_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "etc").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="which is not below"):
        permissions.install(tmp_path / "image")
