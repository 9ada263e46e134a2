"""What boards of others show: each case was reported by somebody who reads or sets clocks for a living."""

from __future__ import annotations

import errno
import math
import os
import time
from pathlib import Path

import fake_kernel
import pytest
from factories import pin
from fake_kernel import COOLING, CPU_TABLE, GPU, FakeKernel, make_board, policy, put

from dynofa_ros.device.linux import clock_backup, selftest, sensor_values
from dynofa_ros.device.linux.clock_backup import BackupError, ClockBackup
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sensors import Sensors
from dynofa_ros.device.linux.sysfs import SysFiles, reason_of
from dynofa_ros.messages import DomainStatus, ThrottleFlag

HWMON = "/sys/class/hwmon"
RAPL = "/sys/class/powercap/intel-rapl:0"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def read_for(sensors: Sensors, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds / 0.5)):
        clock.now_s += 0.5
        sensors.read()


# --- nvpmodel's paths (D5) ------------------------------------------------------------------------

GONE = "/sys/devices/gpu.0/devfreq/17000000.gv11b"
NEXT = GPU


def conf(*gpu_lines: str) -> str:
    lines = "\n".join(gpu_lines)
    return (
        f"< PARAM TYPE=FILE NAME=GPU >\n{lines}\n< POWER_MODEL ID=0 NAME=MODE_15W >\n"
        "GPU MIN_FREQ 0\nGPU MAX_FREQ 520000000\n< PM_CONFIG DEFAULT=0 >"
    )


@pytest.mark.parametrize(
    "lines",
    [
        (f"MAX_FREQ {GONE}/max_freq", f"MAX_FREQ_KNEXT {NEXT}/max_freq"),
        (f"MAX_FREQ {NEXT}/max_freq", f"MAX_FREQ_KNEXT {GONE}/max_freq"),
        (f"MAX_FREQ_KNEXT {NEXT}/max_freq",),
        (f"MAX_FREQ {GONE}/max_freq",),  # under no name that the file knows: there is only one GPU
    ],
)
def test_the_cap_of_a_gpu_is_found_under_the_path_of_this_kernel(tmp_path: Path, lines) -> None:
    root = make_board(tmp_path)
    put(root, "/etc/nvpmodel.conf", conf(*lines))
    found = discover(SysFiles(root))
    assert found.power_mode is not None and found.power_mode.cap("gpu").max_hz == 520_000_000
    assert not any("nvpmodel" in line for line in found.unsupported)


@pytest.mark.parametrize("unit", ["GPU", "CPU_A"])
def test_a_cap_that_no_clock_has_a_file_for_is_named(tmp_path: Path, unit: str) -> None:
    root = make_board(tmp_path)
    path = f"{GONE}/max_freq" if unit == "GPU" else "/sys/devices/cpu0/max_freq"
    text = conf(f"MAX_FREQ {path}").replace("GPU", unit)
    put(root, "/sys/devices/system/cpu/online", "0-5")
    if unit == "GPU":
        fake_kernel.FakeKernel(root).unplug(GPU)
    else:
        text = text.replace(path, "/sys/devices/cpu/cpu0/limits/max_freq")
    put(root, "/etc/nvpmodel.conf", text)
    lines = [line for line in discover(SysFiles(root)).unsupported if "nvpmodel" in line]
    assert len(lines) == 1 and f"the cap 520000000 of {unit} is not known" in lines[0]


def test_no_limit_and_no_clock_of_ours_are_no_lost_caps(tmp_path: Path) -> None:
    root = make_board(tmp_path)
    text = conf(f"MAX_FREQ {NEXT}/max_freq").replace("520000000", "-1")
    text = text.replace("< PM_CONFIG", "DLA_CORE MAX_FREQ 1100800000\nGPU TPC_POWER_GATING 1\n< PM_CONFIG")
    put(root, "/etc/nvpmodel.conf", text)
    found = discover(SysFiles(root))
    assert found.power_mode is not None and found.power_mode.cap("gpu").max_hz == 0
    assert not any("nvpmodel" in line for line in found.unsupported)


def test_a_configuration_edited_on_windows_keeps_every_cap(tmp_path: Path) -> None:
    root = make_board(tmp_path)
    text = "\ufeff" + conf(f"MAX_FREQ {NEXT}/max_freq").strip().replace("\n", "\r\n")
    (root / "etc").mkdir()
    (root / "etc" / "nvpmodel.conf").write_text(text)
    mode = discover(SysFiles(root)).power_mode
    assert mode is not None and mode.cap("gpu").max_hz == 520_000_000


def test_a_cap_that_is_no_number_is_named(tmp_path: Path) -> None:
    root = make_board(tmp_path)
    put(root, "/etc/nvpmodel.conf", conf(f"MAX_FREQ {NEXT}/max_freq").replace("520000000", "0x1efe9200"))
    assert "nvpmodel mode MODE_15W: GPU MAX_FREQ must be a number, is 0x1efe9200" in (
        discover(SysFiles(root)).unsupported
    )


# --- late clocks (D6) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN])
@pytest.mark.parametrize("whole", [True, False])
def test_a_clock_that_has_no_table_at_the_start_is_taken_in_later(
    tmp_path: Path, number: int, whole: bool
) -> None:
    kernel = FakeKernel(make_board(tmp_path))
    names = ["scaling_available_frequencies", "cpuinfo_min_freq", "cpuinfo_max_freq", "related_cpus"]
    names += ["scaling_cur_freq", "scaling_min_freq", "scaling_max_freq", "affected_cpus"] if whole else []
    kernel.errors = {f"{policy(4)}/{name}": number for name in names}
    clock = Clock()
    sensors = Sensors(kernel, discover(kernel), clock)
    read_for(sensors, clock, 30.0)
    assert sensors.inventory.domains[2].frequencies_hz == ()
    kernel.errors = {}
    read_for(sensors, clock, 12.5)
    assert sensors.inventory.domains[2].frequencies_hz == tuple(1000 * khz for khz in CPU_TABLE)
    assert sensors.inventory.domains[2].cpus == (4, 5) and not sensors.inventory.unsettled


def test_a_table_that_comes_late_is_taken_in(tmp_path: Path) -> None:
    root = make_board(tmp_path)
    put(root, f"{policy(4)}/scaling_available_frequencies", "")
    clock = Clock()
    sensors = Sensors(SysFiles(root), None, clock)
    read_for(sensors, clock, 30.0)
    put(root, f"{policy(4)}/scaling_available_frequencies", "1190400 115200")
    read_for(sensors, clock, 33.0)
    assert sensors.inventory.domains[2].frequencies_hz == (115_200_000, 1_190_400_000)


@pytest.mark.parametrize(("start", "later"), [(0o444, 0o664), (0o664, 0o444)])
def test_a_permission_that_changes_meanwhile_is_seen(tmp_path: Path, start: int, later: int) -> None:
    """udev comes later than the device, or `dynofa device permissions --install` later than the node."""
    root, clock = make_board(tmp_path), Clock()
    limit = root / GPU[1:] / "max_freq"
    limit.chmod(start)
    sensors = Sensors(SysFiles(root), clock_s=clock)

    def may_write() -> bool:
        return next(d.writable for d in sensors.inventory.domains if d.name == "gpu")

    assert may_write() is bool(start & 0o200)
    limit.chmod(later)
    read_for(sensors, clock, 3.0)
    assert may_write() is bool(later & 0o200)


def test_a_change_of_the_cpus_that_are_on_is_a_reason_to_search(tmp_path: Path) -> None:
    root = make_board(tmp_path)
    put(root, "/sys/devices/system/cpu/online", "0-3")
    clock = Clock()
    sensors = Sensors(SysFiles(root), None, clock)
    (root / policy(4)[1:] / "scaling_driver").write_text("cpufreq-dt\n")
    before = sensors.inventory
    read_for(sensors, clock, 5.0)
    assert sensors.inventory is before
    put(root, "/sys/devices/system/cpu/online", "0-5")
    read_for(sensors, clock, 2.5)
    assert sensors.inventory is not before


# --- turbo (D7) ----------------------------------------------------------------------------------------


def acpi_cpufreq(
    root: Path, top_khz: int = 2_801_000, turbo_khz: int = 3_392_691, boost: bool = False
) -> FakeKernel:
    """boost: as AMD has it, without an entry for turbo."""
    folder = policy(0)
    table = f"{top_khz} {top_khz - (200_000 if boost else 1000)} 1400000"
    put(root, "/sys/devices/system/cpu/cpufreq/boost", int(boost))
    put(root, f"{folder}/related_cpus", "0 1")
    put(root, f"{folder}/scaling_available_frequencies", table)
    for name, khz in (("min", 1_400_000), ("max", top_khz)):
        put(root, f"{folder}/cpuinfo_{name}_freq", khz)
        put(root, f"{folder}/scaling_{name}_freq", khz)
    put(root, f"{folder}/scaling_cur_freq", turbo_khz)
    put(root, f"{folder}/scaling_driver", "acpi-cpufreq")
    return FakeKernel(root)


@pytest.mark.parametrize(
    ("top_khz", "turbo_khz", "boost"),
    [
        (2_801_000, 3_392_691, False),
        (1_801_000, 4_600_000, False),
        (2_101_000, 2_101_000, False),
        (1_700_000, 4_100_000, True),
    ],
)
def test_the_turbo_of_acpi_cpufreq_is_understood(
    tmp_path: Path, top_khz: int, turbo_khz: int, boost: bool
) -> None:
    kernel = acpi_cpufreq(tmp_path / "root", top_khz, turbo_khz, boost)
    assert any("stands for turbo" in note for note in discover(kernel).notes)
    clock = Clock()
    sample = Sensors(kernel, None, clock).read()
    assert sample.domains[0].frequency_hz == 1000.0 * turbo_khz
    checks = selftest.run(kernel, discover(kernel), Sensors(kernel), False, sleep=lambda seconds: None)
    assert [check.outcome.value for check in checks if check.name == "clock cpu0"] == ["pass"]
    with SysfsDevice(kernel, allow_writes=True, backup=ClockBackup(kernel, tmp_path)) as device:
        kernel.stuck(policy(0), turbo_khz)
        device.apply([pin("cpu0", 1000 * top_khz)])
        deadline_s = time.monotonic() + 0.4
        while time.monotonic() < deadline_s:
            (state,) = device.applied()
            time.sleep(0.01)
        assert state.status is DomainStatus.APPLIED and state.actual_hz == 1000.0 * turbo_khz


# --- power of the module (D9) -----------------------------------------------------------------------


def ina3221(root: Path, number: int, labels: list[str]) -> None:
    folder = f"{HWMON}/hwmon{number}"
    put(root, f"{folder}/name", "ina3221")
    for channel, label in enumerate(labels, 1):
        put(root, f"{folder}/in{channel}_label", label)
        if label != "NC":
            put(root, f"{folder}/in{channel}_input", 5000)
            put(root, f"{folder}/curr{channel}_input", 1000 * channel)
    put(root, f"{folder}/in7_label", "sum of shunt voltages")
    put(root, f"{folder}/in7_input", 9000)
    put(root, f"{folder}/curr4_input", 6000)


AGX_ORIN = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
SECOND = ["NC", "VDDQ_VDD2_1V8AO", "NC"]


def test_the_rails_of_an_agx_orin_add_up_and_none_counts_twice(tmp_path: Path) -> None:
    ina3221(tmp_path, 3, AGX_ORIN)
    ina3221(tmp_path, 4, SECOND)
    found = discover(SysFiles(tmp_path))
    assert sorted(found.total_rails) == sorted(AGX_ORIN)
    assert Sensors(SysFiles(tmp_path), found).read().total_power_w == pytest.approx(5.0 + 10.0 + 15.0)


def test_a_real_total_wins_over_a_sum(tmp_path: Path) -> None:
    ina3221(tmp_path, 3, AGX_ORIN)
    ina3221(tmp_path, 4, ["VDD_IN"])
    assert discover(SysFiles(tmp_path)).total_rails == ("VDD_IN",)


@pytest.mark.parametrize("numbers", [(1, 2), (7, 3)])
def test_rails_of_one_name_are_ordered_by_their_device(tmp_path: Path, numbers: tuple[int, int]) -> None:
    """The numbers of hwmon are those of one boot."""
    for address, number, first in ((0x40, numbers[0], "VDD_IN"), (0x41, numbers[1], "VDD_IN")):
        device = f"/sys/devices/c250000.i2c/i2c-7/7-00{address:x}"
        ina3221(tmp_path, number, [first, f"AT_{address:x}", "NC"])
        folder = tmp_path / device[1:] / "hwmon"
        folder.mkdir(parents=True)
        (tmp_path / f"{HWMON}/hwmon{number}"[1:]).rename(folder / f"hwmon{number}")
        fake_kernel.link(tmp_path, f"{HWMON}/hwmon{number}", f"{device}/hwmon/hwmon{number}")
    found = discover(SysFiles(tmp_path))
    assert [rail.name for rail in found.rails] == ["VDD_IN", "AT_40", "VDD_IN_2", "AT_41"]
    assert found.total_rails == ("VDD_IN",)
    assert "total power = VDD_IN, the first of several such rails; not VDD_IN_2" in found.notes


def test_degrees_where_there_must_be_millidegrees_are_no_temperature(tmp_path: Path) -> None:
    put(tmp_path, "/sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(tmp_path, "/sys/class/thermal/thermal_zone0/temp", 45)
    sample = Sensors(SysFiles(tmp_path), None, Clock()).read()
    assert math.isnan(sample.temperatures[0].temperature_c)
    assert "reads 45, degrees" in sample.origins["temperature of cpu-thermal"].reason


def test_a_sum_that_lacks_a_rail_is_unknown_and_says_which(tmp_path: Path) -> None:
    ina3221(tmp_path, 3, [*AGX_ORIN[:2], "NC"])
    found = discover(SysFiles(tmp_path))
    assert math.isnan(Sensors(SysFiles(tmp_path), found).read().total_power_w)
    assert any(line.startswith("total power: VIN_SYS_5V0 cannot be read") for line in found.unsupported)


# --- throttling (D11) ---------------------------------------------------------------------------------


def test_a_growing_over_current_count_is_power_throttling(tmp_path: Path) -> None:
    root = make_board(tmp_path)
    put(root, f"{HWMON}/hwmon2/name", "soctherm_oc")
    for number in (1, 3):
        put(root, f"{HWMON}/hwmon2/oc{number}_event_cnt", 7)
        put(root, f"{HWMON}/hwmon2/oc{number}_throt_en", 1)
    clock = Clock()
    sensors = Sensors(SysFiles(root), None, clock)
    assert sensors.read().throttle_flags == ThrottleFlag.NONE, "7 events may be of last week"
    put(root, f"{HWMON}/hwmon2/oc3_event_cnt", 9)
    clock.now_s += 0.5
    assert sensors.read().throttle_flags == ThrottleFlag.POWER
    read_for(sensors, clock, 1.0)
    assert sensors.read().throttle_flags == ThrottleFlag.POWER
    read_for(sensors, clock, 3.0)
    assert sensors.read().throttle_flags == ThrottleFlag.NONE
    put(root, f"{COOLING}/cur_state", 2)
    read_for(sensors, clock, 0.5)
    assert sensors.read().throttle_flags == ThrottleFlag.THERMAL


def test_a_growing_count_of_an_intel_package_is_heat(tmp_path: Path) -> None:
    path = "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    put(tmp_path, path, 12)
    clock = Clock()
    sensors = Sensors(SysFiles(tmp_path), None, clock)
    assert ThrottleFlag.THERMAL not in sensors.read().throttle_flags
    put(tmp_path, path, 13)
    clock.now_s += 0.5
    assert ThrottleFlag.THERMAL in sensors.read().throttle_flags


# --- suspend (D13) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_uj", [50_000_000, 900_000_000, 5])
def test_power_over_a_suspend_is_not_known(tmp_path: Path, monkeypatch, after_uj: int) -> None:
    put(tmp_path, f"{RAPL}/name", "package-0")
    put(tmp_path, f"{RAPL}/max_energy_range_uj", 2**32)
    asleep_s = 0.0
    monkeypatch.setattr(sensor_values, "suspended_s", lambda: asleep_s)
    clock = Clock()
    sensors = Sensors(SysFiles(tmp_path), None, clock)

    def power(energy_uj: int) -> float:
        put(tmp_path, f"{RAPL}/energy_uj", energy_uj)
        clock.now_s += 1.0
        return sensors.read().total_power_w

    put(tmp_path, f"{RAPL}/energy_uj", 0)
    sensors = Sensors(SysFiles(tmp_path), None, clock)
    power(10_000_000)
    assert power(20_000_000) == pytest.approx(10.0)
    asleep_s = 3600.0
    assert math.isnan(power(after_uj))
    clock.now_s += 2.0
    power(after_uj + 20_000_000)
    assert power(after_uj + 30_000_000) == pytest.approx(10.0)


def test_the_suspended_time_of_this_computer_does_not_grow_while_it_runs() -> None:
    before_s = sensor_values.suspended_s()
    assert before_s >= -1e-3 and sensor_values.suspended_s() - before_s < sensor_values.SUSPEND_S


# --- no home (D14) --------------------------------------------------------------------------------------


def test_without_a_home_clocks_are_read_and_writing_names_the_cure(tmp_path: Path, monkeypatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    root = make_board(tmp_path / "root")
    for name in ("HOME", "XDG_STATE_HOME", "DYNOFA_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(clock_backup, "SYSTEM_FOLDER", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with SysfsDevice(SysFiles(root)) as device:
        assert len(device.read().domains) == 4
        refused = device.apply([pin("cpu0", 499_200_000)])[-1]
        assert refused.status is DomainStatus.REJECTED and "writes are off" in refused.reason
        device.restore()
    with pytest.raises(BackupError, match="user 12345 has no home.*set DYNOFA_STATE_DIR"):
        SysfsDevice(SysFiles(root), allow_writes=True)


# --- texts (D17) ----------------------------------------------------------------------------------------


def test_einval_of_a_read_is_not_a_refused_value(tmp_path: Path) -> None:
    kernel = FakeKernel(make_board(tmp_path / "root"))
    kernel.errors = {f"{policy(0)}/scaling_cur_freq": errno.EINVAL}
    reason = Sensors(kernel, discover(kernel), Clock()).read().origins["clock of cpu0"].reason
    assert "no valid value to show" in reason and "refused" not in reason
    with SysfsDevice(kernel, allow_writes=True, backup=ClockBackup(kernel, tmp_path)) as device:
        kernel.refused = {f"{policy(0)}/scaling_min_freq"}
        state = next(s for s in device.apply([pin("cpu0", 499_200_000)]) if s.status is DomainStatus.REJECTED)
        assert "the kernel refused the value" in state.reason
    assert reason_of(OSError(errno.EINVAL, "x"), "/sys/y") == "/sys/y: the driver has no valid value to show"
