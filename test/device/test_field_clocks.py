"""Clocks that others set too, under a manager that renews its command every second as the real one does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from clock_bench import Bench
from factories import pin
from fake_kernel import GPU, GPU_TABLE, NVPMODEL_CONF, FakeKernel, make_board, policy, put

from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.manager.commands import CommandBook
from dynofa_ros.messages import DomainStatus, DvfsState, FrequencyBand

KHZ = 1000
LOW, MIDDLE, HIGH = 499_200_000, 1_113_600_000, 1_907_200_000
CAP_15W, CAP_10W = 1_420_800_000, 1_190_400_000
PHASES = [0.05 + 0.1 * k for k in range(10)]  # of what others do, against the renewals
STEP_S = 0.05


class Managed(Bench):
    """A bench whose bands come from the manager's own book of commands, at its period of 0.1 s."""

    def __init__(self, folder: Path, **options) -> None:
        super().__init__(folder, **options)
        self.control = ClockControl(self.writer, command_timeout_s=5.0)  # type: ignore[arg-type]
        self.bands: tuple[FrequencyBand, ...] = ()
        self._book = CommandBook()
        self._next_s = 0.0

    def ask(self, *bands: FrequencyBand) -> None:
        self.bands = bands

    def run(self, seconds: float) -> DvfsState:
        for _ in range(round(seconds / STEP_S)):
            self.kernel.now_s += STEP_S
            if self.kernel.now_s >= self._next_s:
                self._next_s = self.kernel.now_s + 0.1
                self._command()
            self.control.check(self.kernel.now_s)
            self.control.state()
        return self.control.state()

    def _command(self) -> None:
        now_s = self.kernel.now_s
        _, command = self._book.issue(
            round(1e9 * now_s), {}, self.bands, 0.1, self.control.state().decision_id
        )
        if command is not None:
            self.control.command(command.decision_id, command.bands, command.valid_for_s, now_s)

    def mode(self, number: int) -> None:
        """As nvpmodel sets it: limits first, then the status."""
        cap_hz, gpu_hz = ((CAP_15W, 1_109_250_000), (CAP_10W, 520_000_000))[number]
        self.kernel.other_program(policy(0), CAP_10W // KHZ, cap_hz // KHZ)
        self.kernel.other_program(GPU, GPU_TABLE[0], gpu_hz)
        put(self.root, "/var/lib/nvpmodel/status", f"pmode:{number:04d}")

    def top_hz(self, domain: str) -> int:
        return self.limits(domain)[1] * (1 if domain == "gpu" else KHZ)


def state_of(states: DvfsState, domain: str) -> tuple[DomainStatus, str]:
    return next((s.status, s.reason) for s in states.domains if s.domain == domain)


# --- renewals and power modes (D1) --------------------------------------------------------------------


@pytest.mark.parametrize("version", [(4, 9), (5, 10)])
def test_a_renewal_is_a_heartbeat_and_writes_nothing(tmp_path: Path, version) -> None:
    bench = Managed(tmp_path, version=version, conf=NVPMODEL_CONF)
    bench.ask(pin("cpu0", LOW), FrequencyBand("gpu", GPU_TABLE[1], GPU_TABLE[3]))
    first = bench.run(0.5).decision_id
    written = len(bench.kernel.writes)
    assert written == 4
    last = bench.run(20.0)
    assert last.decision_id > first + 1000 and bench.control.counts.taken >= 19
    assert len(bench.kernel.writes) == written
    assert {s.status for s in last.domains if s.domain in ("cpu0", "gpu")} == {DomainStatus.APPLIED}


@pytest.mark.parametrize("phase_s", PHASES)
@pytest.mark.parametrize("asked", ["top", "pinned", "below"])
def test_a_new_power_mode_is_followed_down_and_up_and_named(tmp_path: Path, phase_s: float, asked) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    band = {"top": pin("cpu0", HIGH), "pinned": pin("cpu0", CAP_15W), "below": pin("cpu0", LOW)}[asked]
    bench.ask(band, FrequencyBand("gpu", GPU_TABLE[0], GPU_TABLE[-1]))
    bench.run(3.0 + phase_s)
    for number, cap_hz, gpu_hz in ((1, CAP_10W, 510_000_000), (0, CAP_15W, 1_109_250_000)) * 2:
        bench.mode(number)
        states = bench.run(1.5)
        wanted = min(band.max_hz, cap_hz)
        assert (bench.top_hz("cpu0"), bench.top_hz("gpu")) == (wanted, gpu_hz)
        assert bench.limits("cpu0")[0] * KHZ == wanted
        status, reason = state_of(states, "cpu0")
        assert (
            status in (DomainStatus.APPLIED, DomainStatus.THROTTLED) and f"MODE_{(15, 10)[number]}W" in reason
        )
        bench.run(3.0)
        assert bench.top_hz("cpu0") == wanted
    bench.writer.restore()
    assert bench.limits("cpu0") == (1_190_400, 1_420_800)


def test_a_band_asked_for_right_after_a_mode_change_keeps_to_the_new_mode(tmp_path: Path) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    bench.ask(pin("cpu0", CAP_15W))
    bench.run(2.0)
    bench.mode(1)
    bench.ask(pin("cpu0", HIGH))
    bench.run(0.1)
    assert bench.top_hz("cpu0") == CAP_10W


@pytest.mark.parametrize("late_s", [-1.0, 0.2, 1.0, 3.0])
@pytest.mark.parametrize("low", [115_200, 499_200, 1_190_400])
def test_nvpmodel_may_set_status_and_limits_in_any_order(tmp_path: Path, late_s: float, low: int) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    bench.ask(pin("cpu0", LOW))
    bench.run(3.0)
    limits = (policy(0), low, CAP_10W // KHZ)
    if late_s < 0.0:
        bench.kernel.other_program(*limits)
        bench.run(-late_s)
    put(bench.root, "/var/lib/nvpmodel/status", "pmode:0001")
    if late_s > 0.0:
        bench.run(late_s)
        bench.kernel.other_program(*limits)
    status, reason = state_of(bench.run(2.0), "cpu0")
    assert bench.limits("cpu0") == (LOW // KHZ, LOW // KHZ)
    assert status is DomainStatus.APPLIED and "MODE_10W" in reason


def test_a_mode_whose_files_are_half_written_changes_nothing(tmp_path: Path) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    device = SysfsDevice(bench.kernel, backup=bench.backup)
    bench.mode(1)
    mode = device.power_mode()
    put(bench.root, "/var/lib/nvpmodel/status", "")
    assert mode is not None and device.power_mode() == mode
    put(bench.root, "/etc/nvpmodel.conf", "")
    assert device.power_mode() == mode


# --- other programs (D2, D3) -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase_s", PHASES)
def test_jetson_clocks_run_meanwhile_is_left_alone_for_good(tmp_path: Path, phase_s: float) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    bench.ask(FrequencyBand("cpu0", LOW, MIDDLE), pin("cpu2", LOW), FrequencyBand("gpu", *GPU_TABLE[1:4:2]))
    bench.run(3.0 + phase_s)
    pinned = {"cpu0": (MIDDLE // KHZ,) * 2, "cpu2": (HIGH // KHZ,) * 2, "gpu": (GPU_TABLE[3],) * 2}
    for (
        domain,
        limits,
    ) in pinned.items():  # the managed maximum, or the hardware's
        bench.kernel.other_program(GPU if domain == "gpu" else policy(int(domain[3:])), *limits)
    states = bench.run(3.0)
    for domain, limits in pinned.items():
        status, reason = state_of(states, domain)
        assert status is DomainStatus.DISABLED and "jetson_clocks --restore" in reason
        assert bench.limits(domain) == limits
    for hz in (LOW, HIGH, LOW):
        bench.ask(pin("cpu0", hz), pin("cpu2", MIDDLE), pin("gpu", GPU_TABLE[0]))
        bench.run(20.0)
    assert {domain: bench.limits(domain) for domain in pinned} == pinned
    bench.control.release()
    assert {domain: bench.limits(domain) for domain in pinned} == pinned, "only what is ours is given back"
    assert "cpu0: left as another program has set it" in bench.control.state().message


def test_clocks_that_jetson_clocks_gives_back_are_under_control_again(tmp_path: Path) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    bench.ask(FrequencyBand("cpu0", LOW, MIDDLE))
    bench.run(2.0)
    bench.kernel.other_program(policy(0), MIDDLE // KHZ, MIDDLE // KHZ)
    bench.run(2.0)
    bench.kernel.other_program(policy(0), LOW // KHZ, MIDDLE // KHZ)  # as it found them
    bench.ask(pin("cpu0", LOW))  # before anybody has looked
    assert state_of(bench.run(1.0), "cpu0")[0] is DomainStatus.APPLIED
    assert bench.limits("cpu0") == (LOW // KHZ, LOW // KHZ)


@pytest.mark.parametrize("phase_s", PHASES)
@pytest.mark.parametrize(("low", "high"), [(115_200, 806_400), (115_200, 1_036_800), (806_400, 1_113_600)])
def test_what_another_program_takes_stays_taken_until_another_band_is_asked_for(
    tmp_path: Path, phase_s: float, low: int, high: int
) -> None:
    bench = Managed(tmp_path, conf=NVPMODEL_CONF)
    bench.ask(FrequencyBand("cpu0", LOW, MIDDLE), pin("cpu2", LOW))
    bench.run(3.0 + phase_s)
    bench.kernel.other_program(policy(0), low, high)
    states = bench.run(40.0)
    status, reason = state_of(states, "cpu0")
    assert status is DomainStatus.DISABLED and "another program" in reason and f"{low * KHZ}" in reason
    assert bench.limits("cpu0") == (low, high)
    assert state_of(states, "cpu2")[0] is DomainStatus.APPLIED
    bench.ask(pin("cpu0", MIDDLE), pin("cpu2", LOW))
    status, reason = state_of(bench.run(1.0), "cpu0")
    assert bench.limits("cpu0") == (MIDDLE // KHZ,) * 2 and status is DomainStatus.APPLIED
    assert f"taken over from another program, which had set {low * KHZ}..{high * KHZ}" in reason


def test_only_what_is_still_ours_is_restored_when_the_manager_falls_silent(tmp_path: Path) -> None:
    bench = Managed(tmp_path)
    bench.ask(pin("cpu0", LOW), pin("cpu2", LOW), pin("gpu", GPU_TABLE[2]))
    bench.run(2.0)
    bench.kernel.other_program(policy(0), 115_200, 806_400)
    bench.bands = ()
    bench.run(8.0)
    assert bench.control.counts.fallbacks == 1
    assert bench.limits("cpu0") == (115_200, 806_400)
    assert bench.limits("cpu2") == (1_190_400, 1_497_600)
    assert not bench.backup.left_over() and not bench.backup.held


def test_a_full_disk_at_the_end_keeps_no_clock_of_ours_changed(tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    bench = Managed(tmp_path)
    bench.ask(pin("cpu0", LOW), pin("cpu2", LOW), pin("cpu4", LOW))
    bench.run(2.0)
    bench.kernel.other_program(policy(0), 115_200, 806_400)
    monkeypatch.setattr("dynofa_ros.device.linux.clock_backup._write_durably", full)
    bench.kernel.closed.add(f"{policy(4)}/scaling_max_freq")  # so that a state is left to be written
    with pytest.raises(OSError, match="No space left"):
        bench.writer.restore()
    assert bench.limits("cpu2") == (1_190_400, 1_497_600) and bench.limits("cpu0") == (115_200, 806_400)


def test_what_the_kernel_lowered_is_given_back_all_the_same(tmp_path: Path) -> None:
    bench = Managed(tmp_path)
    bench.ask(pin("cpu0", MIDDLE))
    bench.run(2.0)
    bench.kernel.heat(policy(0), 806_400)
    bench.run(2.0)
    bench.ask()
    bench.control.release()
    bench.kernel.heat(policy(0), 0)
    bench.run(2.0)
    assert bench.limits("cpu0") == (1_190_400, 1_420_800)


def test_a_cluster_that_is_off_for_long_gets_its_band_when_it_is_on(tmp_path: Path) -> None:
    bench = Managed(tmp_path)
    put(bench.root, "/sys/devices/system/cpu/online", "0-5")
    bench.ask(pin("cpu4", LOW))
    bench.run(2.0)
    names = ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq")
    bench.kernel.errors = {f"{policy(4)}/{name}": 16 for name in names}  # EBUSY: the policy is inactive
    put(bench.root, "/sys/devices/system/cpu/online", "0-3")
    assert state_of(bench.run(60.0), "cpu4")[0] is DomainStatus.PENDING
    bench.kernel.errors = {}
    put(bench.root, "/sys/devices/system/cpu/online", "0-5")
    bench.kernel.other_program(policy(4), 115_200, 1_907_200)  # as a fresh policy has it
    assert state_of(bench.run(2.0), "cpu4")[0] is DomainStatus.APPLIED
    assert bench.limits("cpu4") == (499_200, 499_200)


# --- capabilities (D4) -----------------------------------------------------------------------------------


def tables(device: SysfsDevice) -> dict[str, int]:
    return {d.domain: d.frequencies_hz[-1] for d in device.capabilities().domains}


def test_capabilities_are_cut_to_the_mode_and_follow_it(tmp_path: Path) -> None:
    root = make_board(tmp_path / "root")
    put(root, "/etc/nvpmodel.conf", NVPMODEL_CONF)
    kernel = FakeKernel(root)
    with SysfsDevice(kernel, allow_writes=True, backup=ClockBackup(kernel, tmp_path)) as device:
        assert tables(device) == {"cpu0": CAP_15W, "cpu2": HIGH, "cpu4": HIGH, "gpu": GPU_TABLE[-1]}
        put(root, "/var/lib/nvpmodel/status", "pmode:0001")
        assert tables(device) == {"cpu0": CAP_10W, "cpu2": HIGH, "cpu4": HIGH, "gpu": 510_000_000}
        cpu0 = device.capabilities().domains[0]
        assert cpu0.can_write and cpu0.reason == "cut to 1190400000 by nvpmodel mode MODE_10W"
        cut = device.apply([pin("cpu0", HIGH)])[0]
        assert kernel.limits(policy(0)) == (1_190_400, 1_190_400) and "nvpmodel mode MODE_10W" in cut.reason
        put(root, "/var/lib/nvpmodel/status", "pmode:0000")
        assert tables(device)["cpu0"] == CAP_15W


@pytest.mark.parametrize("cap_khz", [1_000, 115_200])
def test_a_cap_below_the_table_leaves_its_lowest_clock(tmp_path: Path, cap_khz: int) -> None:
    root = make_board(tmp_path / "root")
    put(root, "/etc/nvpmodel.conf", NVPMODEL_CONF.replace("MAX_FREQ 1420800", f"MAX_FREQ {cap_khz}"))
    device = SysfsDevice(SysFiles(root))
    assert device.capabilities().domains[0].frequencies_hz == (115_200_000,)


def test_a_cluster_without_an_online_cpu_cannot_be_set(tmp_path: Path) -> None:
    root = make_board(tmp_path / "root")
    put(root, "/sys/devices/system/cpu/online", "0-3")
    with SysfsDevice(
        SysFiles(root), allow_writes=True, backup=ClockBackup(SysFiles(root), tmp_path)
    ) as device:
        off = device.capabilities().domains[2]
        assert (off.domain, off.cpus, off.can_read, off.can_write) == ("cpu4", (), False, False)
        assert off.reason == "its CPUs are off"
        put(root, "/sys/devices/system/cpu/online", "0-4")
        on = device.capabilities().domains[2]
        assert (on.cpus, on.can_read, on.can_write, on.reason) == ((4,), True, True, "")


# --- drivers (D19) -------------------------------------------------------------------------------------


class DriverKernel(FakeKernel):
    """``floor``: the minimum that a driver asks for (PM QoS)."""

    floor = 0

    def read(self, path: str) -> str:
        text = super().read(path)
        if path == f"{GPU}/min_freq":
            return str(min(max(int(text), self.floor), int(super().read(f"{GPU}/max_freq"))))
        return text


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("floor", [306_000_000, 803_250_000])
def test_a_minimum_raised_by_a_driver_is_named_and_not_fought(
    tmp_path: Path, before: bool, floor: int
) -> None:
    bench = Managed(tmp_path, kernel_type=DriverKernel)
    kernel = bench.kernel
    assert isinstance(kernel, DriverKernel)
    kernel.floor = floor if before else 0
    bench.ask(FrequencyBand("gpu", GPU_TABLE[0], GPU_TABLE[-1]))
    bench.run(2.0)
    kernel.floor = floor
    written = len(kernel.writes)
    status, reason = state_of(bench.run(40.0), "gpu")
    assert f"a driver of the kernel asks for {floor} at least" in reason and "another program" not in reason
    assert status is DomainStatus.APPLIED and len(kernel.writes) == written
    kernel.floor = 0
    assert state_of(bench.run(2.0), "gpu") == (DomainStatus.APPLIED, "")
    if not before:  # else what the driver asked for was found, and cannot be told from the owner's
        bench.control.release()
        assert bench.limits("gpu") == (GPU_TABLE[0], GPU_TABLE[5])
