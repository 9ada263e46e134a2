"""The real backend on a virtual board: what a kernel, nvpmodel and other programs do is played on it."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynofa_ros.cli.main import main
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.virtual.kernel import PLAY, VirtualKernel
from dynofa_ros.device.virtual.plain_files import PlainFiles
from dynofa_ros.device.virtual.tree import TreeError, load_tree, tree_names
from dynofa_ros.messages import DomainStatus, FrequencyBand, SimulatedLoad, ThrottleFlag

CPU0 = "/sys/devices/system/cpu/cpufreq/policy0"
CPU4 = "/sys/devices/system/cpu/cpufreq/policy4"
MHZ = 1_000_000


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Clock:
    """Time of the simulated SoC."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def kernel() -> VirtualKernel:
    return VirtualKernel(*load_tree("xavier_nx_jetpack5"), Clock())


def pass_time(kernel: VirtualKernel, seconds: float) -> None:
    clock = kernel._clock_s
    assert isinstance(clock, Clock)
    clock.now_s += seconds


# --- the kernel's side ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", tree_names())
def test_every_file_of_every_board_can_be_read(name: str) -> None:
    kernel = VirtualKernel(*load_tree(name), Clock())
    for path in kernel.paths():
        assert isinstance(kernel.read(path), str)
    assert set(kernel.tree.files) <= set(kernel.paths())


def test_an_unknown_board_is_named_with_those_there_are() -> None:
    with pytest.raises(TreeError, match="no virtual board 'nano'; there are: orin_nano_jetpack6, xavier_nx"):
        load_tree("nano")


def test_a_limit_moves_the_clock_after_the_delay_of_the_hardware(kernel: VirtualKernel) -> None:
    kernel.write(f"{CPU0}/scaling_max_freq", "652800\n")
    kernel.write(f"{CPU0}/scaling_min_freq", "652800\n")
    assert kernel.read(f"{CPU0}/scaling_cur_freq") == "1190400", "300 us have not passed"
    pass_time(kernel, 0.05)
    assert kernel.read(f"{CPU0}/scaling_cur_freq") == "652800"


@pytest.mark.parametrize(("name", "refused"), [("xavier_nx_jetpack4", True), ("xavier_nx_jetpack5", False)])
def test_old_kernels_refuse_a_minimum_above_the_maximum(name: str, refused: bool) -> None:
    kernel = VirtualKernel(*load_tree(name), Clock())
    if refused:
        with pytest.raises(OSError) as error:
            kernel.write(f"{CPU0}/scaling_min_freq", "1651200")
        assert error.value.errno == errno.EINVAL
        assert kernel.read(f"{CPU0}/scaling_min_freq") == "1190400"
    else:
        kernel.write(f"{CPU0}/scaling_min_freq", "1651200")
        assert kernel.read(f"{CPU0}/scaling_min_freq") == "1420800", "the maximum wins"


@pytest.mark.parametrize(
    ("path", "text", "code"),
    [
        (f"{CPU0}/scaling_max_freq", "fast", errno.EINVAL),
        (f"{CPU0}/scaling_governor", "turbo", errno.EINVAL),
        (f"{CPU0}/scaling_cur_freq", "1", errno.EACCES),
        (f"{CPU0}/no_such_file", "1", errno.ENOENT),
        (PLAY, "mode NONE", errno.EINVAL),
        (PLAY, "dance", errno.EINVAL),
    ],
)
def test_wrong_writes_get_the_kernels_error(kernel: VirtualKernel, path: str, text: str, code: int) -> None:
    with pytest.raises(OSError) as error:
        kernel.write(path, text)
    assert error.value.errno == code


def test_power_and_heat_follow_the_load(kernel: VirtualKernel) -> None:
    rail = "/sys/bus/i2c/drivers/ina3221/7-0040/hwmon/hwmon4"
    idle_ma = int(kernel.read(f"{rail}/curr1_input"))
    for domain in ("cpu0", "cpu2", "cpu4"):
        kernel.simulation.set_load(SimulatedLoad(domain, 100.0))
    for _ in range(60):
        pass_time(kernel, 2.0)
        busy_ma = int(kernel.read(f"{rail}/curr1_input"))
    assert busy_ma > 1.5 * idle_ma
    assert int(kernel.read("/sys/devices/virtual/thermal/thermal_zone0/temp")) > 36_000


def test_busy_time_of_every_cpu_is_counted(kernel: VirtualKernel) -> None:
    kernel.read("/proc/stat")
    kernel.simulation.set_load(SimulatedLoad("cpu0", 50.0))
    for _ in range(10):
        pass_time(kernel, 1.0)
        lines = {line.split()[0]: line.split() for line in kernel.read("/proc/stat").splitlines()}
    assert int(lines["cpu0"][1]) == pytest.approx(500, abs=60) and int(lines["cpu5"][1]) < 20
    assert int(lines["cpu0"][1]) + int(lines["cpu0"][4]) == pytest.approx(1000, abs=2)


def test_cpus_that_go_off_are_gone_from_the_soc_and_find_what_was_written_meanwhile(
    kernel: VirtualKernel,
) -> None:
    kernel.write(PLAY, "cpu 4 off")
    kernel.write(PLAY, "cpu 5 off")
    assert kernel.device.clocks_hz()["cpu4"] == 0
    kernel.write(PLAY, "limit cpu4 652800000")
    kernel.write(PLAY, "cpu 5 on")
    pass_time(kernel, 0.05)
    assert kernel.read(f"{CPU4}/scaling_cur_freq") == kernel.read(f"{CPU4}/scaling_max_freq") == "652800"


def test_a_mode_also_holds_clocks_that_have_no_files(kernel: VirtualKernel) -> None:
    kernel.write(PLAY, "mode MODE_10W_4CORE")
    pass_time(kernel, 0.05)
    assert kernel.clocks_hz()["npu"] == 896_000_000


# --- the real backend on it -----------------------------------------------------------------------


class Board:
    """A virtual board, its files, and how they are kept up to date."""

    def __init__(self, kernel: VirtualKernel, root: Path, update: Callable[[], None]) -> None:
        self.kernel, self.root, self.update = kernel, root, update

    def settle(self, seconds: float = 0.1) -> None:
        for _ in range(4):
            self.update()
            pass_time(self.kernel, seconds / 4)
            self.kernel.sample()  # the simulation follows
        self.update()

    def play(self, order: str) -> None:
        (self.root / PLAY[1:]).write_text(order + "\n")
        self.settle()

    def limits_mhz(self, folder: str) -> list[float]:
        return [
            int((self.root / folder[1:] / f"scaling_{end}_freq").read_text()) / 1e3 for end in ("min", "max")
        ]


def mounted(kernel: VirtualKernel, root: Path) -> Any:
    """The kernel's files by FUSE, or the test is skipped."""
    mount = pytest.importorskip(
        "dynofa_ros.device.virtual.mount", reason="needs mfusepy", exc_type=ImportError
    )
    try:
        return mount.Mount(kernel, root)
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["fuse", "plain"])
def board(request: pytest.FixtureRequest, kernel: VirtualKernel, tmp_path: Path) -> Iterator[Board]:
    root = tmp_path / "board"
    root.mkdir()
    if request.param == "plain":
        yield Board(kernel, root, PlainFiles(kernel, root).update)
        return
    mount = mounted(kernel, root)
    yield Board(kernel, root, lambda: None)
    mount.close()


@pytest.fixture
def device(board: Board) -> Iterator[SysfsDevice]:
    with SysfsDevice(SysFiles(board.root), allow_writes=True) as opened:
        yield opened


def state_of(device: SysfsDevice, domain: str) -> tuple[DomainStatus, float]:
    """Status and clock, once nothing is pending any more."""
    deadline_s = time.monotonic() + 5.0
    while True:
        status, hz = next((d.status, d.actual_hz) for d in device.applied() if d.domain == domain)
        if status != DomainStatus.PENDING or time.monotonic() > deadline_s:
            return status, hz
        time.sleep(0.01)


def test_probe_shows_the_board(board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe.json"
    assert main(["probe", "--sysfs-root", str(board.root), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["board"] == "NVIDIA Jetson Xavier NX Developer Kit"
    assert [d["name"] for d in found["domains"] if d["writable"]] == ["cpu0", "cpu2", "cpu4", "gpu"]
    assert {rail["name"] for rail in found["rails"]} == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert all(2.0 < rail["power_w"] < 6.0 for rail in found["rails"] if rail["is_total"])
    assert "MODE_15W_6CORE" in capsys.readouterr().out


def test_an_unmounted_board_leaves_the_signals_as_they_were(kernel: VirtualKernel, tmp_path: Path) -> None:
    def ignored() -> str:
        return next(line for line in Path("/proc/self/status").read_text().splitlines() if "SigIgn" in line)

    before = ignored()
    mounted(kernel, tmp_path).close()
    assert ignored() == before  # with SIGPIPE's default the next write to a closed pipe ends the process


def test_a_band_reaches_the_clock_and_is_given_back(board: Board, device: SysfsDevice) -> None:
    before = board.limits_mhz(CPU0)
    gpu = FrequencyBand("gpu", 510 * MHZ, 510 * MHZ)
    device.apply([FrequencyBand("cpu0", 652_800_000, 652_800_000), gpu])
    board.settle()
    assert state_of(device, "cpu0") == (DomainStatus.APPLIED, 652_800_000.0)
    assert state_of(device, "gpu") == (DomainStatus.APPLIED, 510e6)
    sample = device.read()
    assert math.isfinite(sample.total_power_w) and sample.throttle_flags == ThrottleFlag.NONE
    device.restore()
    board.settle()
    assert board.limits_mhz(CPU0) == before


def test_a_mode_change_is_seen(board: Board, device: SysfsDevice) -> None:
    device.apply([FrequencyBand("cpu0", 1_420_800_000, 1_420_800_000)])
    board.settle()
    board.play("mode MODE_10W_4CORE")
    assert board.limits_mhz(CPU0)[1] == pytest.approx(1190.4)
    assert state_of(device, "cpu0")[1] <= 1190.4e6
    assert not (board.root / CPU4[1:]).exists(), "CPUs 4 and 5 are offline"
    board.play("mode MODE_15W_6CORE")
    assert (board.root / CPU4[1:] / "scaling_cur_freq").exists()


def test_heat_is_named(board: Board, device: SysfsDevice) -> None:
    board.play("ambient 99")
    for domain in ("cpu0", "cpu2", "cpu4", "gpu"):
        board.kernel.simulation.set_load(SimulatedLoad(domain, 100.0))
    for _ in range(200):
        board.settle(2.0)
    time.sleep(0.06)  # the sensors of the backend are read at most 20 times a second
    assert ThrottleFlag.THERMAL in device.read().throttle_flags
