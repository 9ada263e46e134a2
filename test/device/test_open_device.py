"""The real device as a whole, on trees of files: opened, read, commanded through ClockControl, restored."""

from __future__ import annotations

import gc
import math
import os
import shutil
from pathlib import Path

import pytest
import sysfs_tree
from factories import pin
from fake_kernel import CPU_TABLE, GPU, GPU_TABLE, limits_on_disk, policy, put

from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.open import kernel_root, open_device
from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.messages import DomainStatus, FrequencyBand

SHARED = sorted(p.stem for p in sysfs_tree.SHARED_TREES.glob("*.yaml") if p.stem != "symlinks")


pytestmark = pytest.mark.usefixtures("state")


def opened(root: Path, allow_writes: bool = True) -> SysfsDevice:
    device = open_device("sysfs", "xavier_nx", root, allow_writes).device
    assert isinstance(device, SysfsDevice)
    return device


# --- which backend -------------------------------------------------------------------------------------


def test_auto_takes_the_real_device_where_there_is_one(root: Path) -> None:
    found = open_device("auto", "xavier_nx", root)
    assert isinstance(found.device, SysfsDevice) and found.simulation is None
    assert found.device.capabilities().source == "sysfs"


@pytest.mark.parametrize("folders", [["sys"], []])
def test_auto_never_invents_a_board(tmp_path: Path, folders: list[str]) -> None:
    for name in folders:
        (tmp_path / "empty" / name).mkdir(parents=True)
    found = open_device("auto", "xavier_nx", tmp_path / "empty")
    assert found.simulation is None and found.power_model is None
    capabilities, sample = found.device.capabilities(), found.device.read()
    assert (capabilities.domains, capabilities.source) == ((), "sysfs")
    assert math.isnan(sample.total_power_w)
    assert (sample.rails, sample.domains, sample.temperatures) == ((), (), ())
    assert found.device.applied() == ()


def test_auto_takes_a_computer_that_shows_temperatures_only(tmp_path: Path) -> None:
    zone = "/sys/class/thermal/thermal_zone0"
    for name, text in (("type", "soc"), ("temp", 41_500)):
        put(tmp_path, f"{zone}/{name}", text)
    (zone,) = open_device("auto", "xavier_nx", tmp_path).device.read().temperatures
    assert zone.temperature_c == 41.5


def test_simulated_is_simulated_on_a_real_board_too(root: Path) -> None:
    assert isinstance(open_device("simulated", "xavier_nx", root).device, RealTimeSimulation)


@pytest.mark.parametrize(
    ("backend", "folder", "said"),
    [
        ("jtop", "", "backend must be auto, sysfs, simulated, not 'jtop'"),
        ("sysfs", "missing", "must be a folder named sys or hold one"),
        ("sysfs", "empty", "no clock and no sensor found; backend simulated works everywhere"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path, backend, folder, said) -> None:
    (tmp_path / "empty" / "sys").mkdir(parents=True)
    with pytest.raises(ValueError, match=said) as error:
        open_device(backend, "xavier_nx", tmp_path / folder)
    assert "\n" not in str(error.value)


def test_the_root_may_be_given_as_its_sys_folder(root: Path) -> None:
    assert kernel_root(root) == kernel_root(root / "sys") == kernel_root(f"{root}/sys/") == root
    assert kernel_root("/sys") == kernel_root("/") == Path("/")


# --- without permission to write -------------------------------------------------------------------------


def test_without_allow_writes_nothing_is_written_and_the_parameter_is_named(root: Path, state: Path) -> None:
    before = limits_on_disk(root)
    device = opened(root, allow_writes=False)
    assert {d.can_write for d in device.capabilities().domains} == {False}
    assert all("allow_writes" in d.reason for d in device.capabilities().domains)
    control = ClockControl(device, 0.0)
    control.command(1, [pin("cpu0", CPU_TABLE[0] * 1000), pin("dsp", 1)], 0.0, 0.0)
    assert control.counts.refused == 2
    assert "cpu0: writes are off (parameter allow_writes)" in control.state().message
    assert limits_on_disk(root) == before and not state.exists()
    (cpu0,) = [d for d in control.state().domains if d.domain == "cpu0"]
    assert cpu0.actual_hz == 1_190_400_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_files_of_root_are_reported_with_the_cure(root: Path) -> None:
    for name in ("scaling_min_freq", "scaling_max_freq"):
        (root / policy(0)[1:] / name).chmod(0o444)
    by_name = {d.domain: d for d in opened(root).capabilities().domains}
    assert not by_name["cpu0"].can_write and "dynofa device permissions" in by_name["cpu0"].reason
    assert by_name["cpu2"].can_write and by_name["cpu2"].reason == ""


# --- with permission ---------------------------------------------------------------------------------------


def test_capabilities_and_samples(root: Path) -> None:
    device = opened(root)
    capabilities = device.capabilities()
    assert [d.domain for d in capabilities.domains] == ["cpu0", "cpu2", "cpu4", "gpu"]
    assert all(d.can_read and d.can_write and d.reason == "" for d in capabilities.domains)
    assert capabilities.domains[0].frequencies_hz == tuple(1000 * khz for khz in CPU_TABLE)
    assert capabilities.processors == ("cpu", "gpu")
    sample = {d.domain: d.frequency_hz for d in device.read().domains}
    assert sample["cpu0"] == 1_190_400_000 and sample["gpu"] == GPU_TABLE[0]


def test_capabilities_name_the_cpus_that_are_online_now(root: Path) -> None:
    def cpus() -> list[tuple[int, ...]]:
        return [d.cpus for d in device.capabilities().domains]

    device = opened(root)
    assert cpus() == [(0, 1), (2, 3), (4, 5), ()], "without a list of those online, all"
    put(root, "/sys/devices/system/cpu/online", "0-2,5")
    assert cpus() == [(0, 1), (2,), (5,), ()]


def test_pinned_clocks_are_no_capability(root: Path) -> None:
    for folder, prefix, top in [
        *((policy(n), "scaling_", CPU_TABLE[-1]) for n in (0, 2, 4)),
        (GPU, "", GPU_TABLE[-1]),
    ]:
        put(root, f"{folder}/{prefix}min_freq", top)
        put(root, f"{folder}/{prefix}max_freq", top)
    device = opened(root)
    assert not any(d.can_write for d in device.capabilities().domains)
    assert "jetson_clocks --restore" in device.capabilities().domains[0].reason
    told = open_device("sysfs", "xavier_nx", root, True, override_pinned=True).device
    assert all(d.can_write for d in told.capabilities().domains)


def test_the_dead_man_time_gives_the_clocks_back(root: Path, state: Path) -> None:
    before = limits_on_disk(root)
    control = ClockControl(opened(root), 5.0)
    control.command(1, [pin("cpu0", 499_200_000), FrequencyBand("gpu", GPU_TABLE[0], GPU_TABLE[2])], 2.0, 0.0)
    assert limits_on_disk(root) != before and list(state.glob("*.json"))
    assert not control.check(1.9)
    assert control.check(2.1)
    assert limits_on_disk(root) == before and not list(state.glob("*.json"))
    assert {d.domain for d in control.state().domains if d.status is DomainStatus.FALLBACK} == {"cpu0", "gpu"}


def test_a_refused_band_is_counted_and_named_and_the_rest_is_set(root: Path) -> None:
    control = ClockControl(opened(root), 0.0)
    control.command(1, [pin("cpu0", 499_200_000), pin("gpu", 99), pin("dla", 1)], 0.0, 0.0)
    assert control.counts.refused == 2 and control.counts.taken == 1
    assert "gpu: min_hz 99 is outside" in control.state().message
    assert "unknown clock domain 'dla'" in control.state().message
    states = {d.domain: d.status for d in control.state().domains}
    assert states["gpu"] is states["dla"] is DomainStatus.REJECTED and states["cpu2"] is DomainStatus.DISABLED


def test_remarks_of_the_device_reach_the_message(root: Path) -> None:
    control = ClockControl(opened(root), 0.0)
    control.command(1, [pin("cpu0", 500_000_000)], 0.0, 0.0)
    assert control.counts.refused == 0
    assert (
        "cpu0: no clock between 500000000 and 500000000, 499200000 is the nearest" in control.state().message
    )


def test_a_stale_command_is_counted_and_named(root: Path) -> None:
    control = ClockControl(opened(root), 0.0)
    control.command(7, [pin("cpu0", 499_200_000)], 0.0, 0.0)
    control.command(6, [pin("cpu0", 576_000_000)], 0.0, 0.0)
    assert control.counts.stale == 1 and control.last_stale == "decision_id 6 after 7: ignored"
    assert (root / policy(0)[1:] / "scaling_max_freq").read_text() == "499200\n"


def test_two_devices_do_not_share_clocks(root: Path) -> None:
    first, second = opened(root), opened(root)  # both open: neither has changed anything yet
    first.apply([pin("cpu0", 499_200_000)])
    refused = second.apply([pin("cpu0", 576_000_000)])[-1]
    assert refused.status is DomainStatus.REJECTED
    assert f"process {os.getpid()} controls the clocks" in refused.reason
    with pytest.raises(ValueError, match=f"process {os.getpid()} controls the clocks"):
        opened(root)
    first.restore()
    assert second.apply([pin("cpu0", 576_000_000)])[0].status is DomainStatus.PENDING
    second.close()


def test_a_device_that_is_dropped_gives_back_but_not_in_a_fork(root: Path) -> None:
    before = limits_on_disk(root)
    device = opened(root)
    device.apply([pin("cpu0", 499_200_000)])
    pid = os.fork()
    if not pid:
        try:
            del device
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert limits_on_disk(root) != before
    del device
    gc.collect()
    assert limits_on_disk(root) == before


def test_a_gpu_that_appears_late_is_taken_in(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("dynofa_ros.device.linux.sensors.LOOK_EVERY_S", 0.0)
    link = root / "sys/class/devfreq/17000000.gv11b"
    target = os.readlink(link)
    link.unlink()
    shutil.move(root / GPU[1:], tmp_path / "gpu")
    device = opened(root)
    assert "gpu" not in [d.domain for d in device.capabilities().domains]
    shutil.move(tmp_path / "gpu", root / GPU[1:])
    link.symlink_to(target)
    device.read()
    assert "gpu" in [d.domain for d in device.capabilities().domains]
    assert device.apply([pin("gpu", GPU_TABLE[1])])[-1].status is DomainStatus.PENDING
    device.close()


@pytest.mark.parametrize("name", SHARED)
def test_trees_of_real_boards_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    tree = sysfs_tree.shared_tree(name)
    assert tree is not None
    root = sysfs_tree.build(tree, tmp_path / "board")
    before = limits_on_disk(root)
    with SysfsDevice(SysFiles(root), allow_writes=True) as device:
        domains = [d for d in device.capabilities().domains if d.can_write and d.frequencies_hz]
        states = device.apply([pin(d.domain, d.frequencies_hz[0]) for d in domains])
        assert not [s.reason for s in states if s.status is DomainStatus.REJECTED]
        assert not domains or limits_on_disk(root) != before
    assert limits_on_disk(root) == before
