"""Readings below a root of files that change, fail, vanish and come back, on a clock of the test."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import psutil
import pytest
import sysfs_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sensors import Sensors
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import ThrottleFlag

POLICY = "/sys/devices/system/cpu/cpufreq/policy0"
GPU = "/sys/devices/platform/bus@0/17000000.gpu"
CHIP = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon7"
RAPL = "/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0"
ZONES = "/sys/devices/virtual/thermal"


class Bench:
    """Sensors of a tree and the time that passes for them."""

    def __init__(self, root: Path, name: str = "agx_xavier_jetpack5", with_links: bool = True) -> None:
        self.root = sysfs_tree.build(sysfs_tree.TREES / f"{name}.yaml", root, with_links)
        self.now_s = 100.0
        self.sensors = Sensors(SysFiles(root), clock_s=lambda: self.now_s)

    def put(self, path: str, text: str | int) -> None:
        sysfs_tree.put(self.root, path, str(text))

    def after(self, seconds: float) -> DeviceSample:
        self.now_s += seconds
        return self.sensors.read()

    def gone(self, path: str) -> None:
        (self.root / path[1:]).unlink()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def by_name(sample: DeviceSample) -> dict[str, float]:
    values = {rail.name: rail.power_w for rail in sample.rails}
    values |= {domain.domain: domain.frequency_hz for domain in sample.domains}
    return values | {zone.name: zone.temperature_c for zone in sample.temperatures}


def age_s(sample: DeviceSample, what: str) -> float:
    return sample.taken_s - sample.origins[what].taken_s


def reason(sample: DeviceSample, what: str) -> str:
    return sample.origins[what].reason


def test_values_of_a_board_without_a_total_rail(bench: Bench) -> None:
    sample = bench.after(0)
    values = by_name(sample)
    assert values["GPU"] == pytest.approx(14.984 * 0.077)
    assert (sample.rails[0].voltage_v, sample.rails[0].current_a) == (14.984, 0.077)
    assert sample.total_power_w == pytest.approx(sum(rail.power_w for rail in sample.rails))
    assert (values["cpu0"], values["gpu"], values["CPU-therm"]) == (1190.4e6, 318.75e6, 36.5)
    assert sample.domains[3].utilization_percent == 76.5  # permille on a Tegra
    assert math.isnan(values["GPU-therm"]) and "offline" in reason(sample, "temperature of GPU-therm")
    assert math.isnan(values["cpu4"]) and "reads 0" in reason(sample, "clock of cpu4")


def test_every_value_has_its_age(bench: Bench) -> None:
    bench.after(0)
    bench.put(f"{ZONES}/thermal_zone5/temp", 40000)
    sample = bench.after(0.125)  # temperatures are read every 0.2 s, power every 0.04 s
    assert sample.temperatures[1].temperature_c == 36.5
    assert age_s(sample, "temperature of CPU-therm") == pytest.approx(0.125)
    assert age_s(sample, "power of GPU") == 0
    assert math.isnan(age_s(sample, "temperature of GPU-therm"))
    sample = bench.after(0.125)
    assert (sample.temperatures[1].temperature_c, age_s(sample, "temperature of CPU-therm")) == (40.0, 0)


@pytest.mark.parametrize("khz", [12, 9_600, 100_000])
def test_a_clock_below_every_clock_of_a_cpu_is_unknown_and_no_fault(bench: Bench, khz: int) -> None:
    """Xavier and Orin count cycles to tell it. The manager would take the CPU to be as slow."""
    bench.after(0)
    bench.put(f"{POLICY}/scaling_cur_freq", khz)
    sample = bench.after(0.25)
    assert math.isnan(by_name(sample)["cpu0"])
    assert f"reads {1000 * khz} Hz, powered off for now or not known near idle" in reason(
        sample, "clock of cpu0"
    )
    device = SysfsDevice(SysFiles(bench.root))
    assert math.isnan(device.applied()[0].actual_hz)
    bench.put(f"{POLICY}/scaling_cur_freq", 114_000)
    assert by_name(bench.after(0.2))["cpu0"] == 114e6


def test_a_sensor_that_fails_is_nan_with_a_reason_and_comes_back(bench: Bench) -> None:
    bench.after(0)
    path = f"{CHIP}/curr1_input"
    bench.gone(path)
    sample = bench.after(0.1)
    assert math.isnan(sample.rails[0].power_w) and math.isnan(sample.total_power_w)
    assert reason(sample, "power of GPU") == f"{path}: the device is gone (unbound or powered off)"
    assert age_s(sample, "power of GPU") == pytest.approx(0.1)
    bench.put(path, 100)
    sample = bench.after(0.2)
    assert sample.rails[0].power_w == pytest.approx(1.4984) and reason(sample, "power of GPU") == ""
    bench.put(path, "what?")
    assert "must hold a whole number" in reason(bench.after(0.1), "power of GPU")
    bench.put(path, "9" * 12)
    assert "no plausible" in reason(bench.after(0.2), "power of GPU")


def test_a_chip_that_comes_back_elsewhere_is_found(bench: Bench) -> None:
    bench.after(0)
    old, new = (bench.root / f"sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon{n}" for n in (7, 9))
    link = bench.root / "sys/class/hwmon/hwmon7"
    link.unlink()
    old.rename(new)
    for name in ("in1_input", "curr1_input"):  # what is open already must not count
        text = (new / name).read_text()
        (new / name).unlink()
        (new / name).write_text(text)
    assert math.isnan(bench.after(0.5).rails[0].power_w)
    link.with_name("hwmon9").symlink_to(new)
    sample = bench.after(2.0)
    assert sample.rails[0].power_w == pytest.approx(14.984 * 0.077)
    assert [rail.name for rail in sample.rails] == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]


def test_a_gpu_that_appears_late_is_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    link = bench.root / "sys/class/devfreq/17000000.gpu"
    target = link.readlink()
    folder = bench.root / GPU[1:]
    folder.rename(tmp_path / "powered_off")
    link.unlink()
    late = Sensors(SysFiles(tmp_path), clock_s=lambda: bench.now_s)
    assert "gpu" not in by_name(late.read())
    (tmp_path / "powered_off").rename(folder)
    link.symlink_to(target)
    bench.now_s += 2.0
    assert by_name(late.read())["gpu"] == 318.75e6


def test_a_powered_off_gpu_is_unknown_while_its_driver_says_so(tmp_path: Path) -> None:
    class Gated(SysFiles):
        keeps_open = False
        gated = True

        def read(self, path: str) -> str:
            if self.gated and path.endswith("gpu/cur_freq"):
                raise OSError(errno.EAGAIN, "try again", path)
            return super().read(path)

    files = Gated(Bench(tmp_path).root)
    inventory = discover(files)
    assert inventory.domains[3].readable  # only for now
    now_s = [0.0]
    sensors = Sensors(files, inventory, clock_s=lambda: now_s[0])
    sample = sensors.read()
    assert math.isnan(sample.domains[3].frequency_hz)
    assert reason(sample, "clock of gpu").endswith("cur_freq: the device is powered off for now")
    files.gated = False
    now_s[0] = 0.2
    assert sensors.read().domains[3].frequency_hz == 318.75e6


def test_load_of_cpus(bench: Bench) -> None:
    def stat(busy: int, idle: int, off: int = 9) -> None:
        lines = [f"cpu{n} {busy * n} 0 0 {idle - busy * n} 0 0 0 0 0 0" for n in range(6) if n != off]
        bench.put("/proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0\n" + "\n".join(lines) + "\nintr 1 2 3")

    stat(0, 1000)
    sample = bench.after(0)
    assert all(math.isnan(domain.utilization) for domain in sample.domains[:3])
    stat(10, 1100)
    sample = bench.after(0.2)
    assert [domain.utilization for domain in sample.domains[:3]] == pytest.approx([0.05, 0.25, 0.45])
    stat(20, 1200, off=5)  # hotplug: the CPU that is left tells the load of the policy
    assert bench.after(0.2).domains[2].utilization == pytest.approx(0.4)
    bench.put("/proc/stat", "cpu 1\ncpu0 nonsense\n")
    sample = bench.after(0.2)
    assert math.isnan(sample.domains[0].utilization) and "CPU times" in reason(sample, "load of cpu0")


@pytest.mark.parametrize(
    "text, share",
    [
        ("765", 0.765),
        ("0@300000000Hz", 0.0),
        ("37@300000000Hz", 0.37),
        ("NPU load:  Core0:  0%, Core1: 50%, Core2: 100%,", 0.5),
        ("1200", math.nan),
        ("busy", math.nan),
    ],
)
def test_load_of_a_gpu_by_the_form_of_its_file(text: str, share: float, bench: Bench) -> None:
    bench.put(f"{GPU}/load", text)
    sample = bench.after(0)
    assert sample.domains[3].utilization == pytest.approx(share, nan_ok=True)
    assert math.isnan(share) == bool(reason(sample, "load of gpu"))


def test_energy_counter_gives_power_and_wraps(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "amd_desktop")
    bench.put(f"{RAPL}/intel-rapl:0:0/energy_uj", 1_000_000)
    counter, limit = bench.root / f"{RAPL}/energy_uj"[1:], 65532610987
    counter.chmod(0o644)
    bench.sensors = Sensors(SysFiles(bench.root), clock_s=lambda: bench.now_s)

    def package() -> float:
        sample = bench.after(0.5)
        assert sample.total_power_w == pytest.approx(sample.rails[2].power_w, nan_ok=True)
        return sample.rails[2].power_w

    bench.put(f"{RAPL}/energy_uj", limit - 5_000_000)
    assert math.isnan(package())
    bench.put(f"{RAPL}/energy_uj", limit - 1_000_000)
    assert package() == pytest.approx(8.0)
    bench.put(f"{RAPL}/energy_uj", 4_000_000)
    assert package() == pytest.approx(10.0)  # 1 J up to the range, 4 J after it
    assert math.isnan(package()) and "stands still" in reason(
        bench.sensors.read(), "power of package-0"
    )  # not 0 W
    bench.put(f"{RAPL}/energy_uj", 60_000_000_000)
    assert math.isnan(package()) and "jumped" in reason(bench.sensors.read(), "power of package-0")
    bench.put(f"{RAPL}/energy_uj", 60_001_000_000)
    assert package() == pytest.approx(2.0)


def test_signs_of_throttling(bench: Bench) -> None:
    assert bench.after(0).throttle_flags == ThrottleFlag.NONE
    bench.put("/sys/class/thermal/cooling_device1/cur_state", 3)
    bench.put(f"{CHIP}/curr1_crit_alarm", 1)
    assert bench.after(1).throttle_flags == ThrottleFlag.THERMAL | ThrottleFlag.POWER
    bench.gone("/sys/class/thermal/cooling_device1/cur_state")
    assert bench.after(1).throttle_flags == ThrottleFlag.POWER | ThrottleFlag.UNKNOWN


def test_memory_load_needs_the_memory_clock(tmp_path: Path) -> None:
    emc = "/sys/kernel/debug/bpmp/debug/clk/emc"
    for path, text in (
        (f"{emc}/rate", "1600000000"),
        (f"{emc}/min_rate", "204000000"),
        (f"{emc}/max_rate", "1866000000"),
        ("/sys/kernel/actmon_avg_activity/mc_all", "16000"),
    ):
        sysfs_tree.put(tmp_path, path, text)
    now_s = [0.0]
    sensors = Sensors(SysFiles(tmp_path), clock_s=lambda: now_s[0])
    assert sensors.read().domains[0].utilization == pytest.approx(0.01)
    (tmp_path / f"{emc}/rate"[1:]).unlink()
    now_s[0] = 1.0
    domain = sensors.read().domains[0]
    assert math.isnan(domain.frequency_hz) and math.isnan(domain.utilization)


def test_close_closes_every_file(bench: Bench) -> None:
    def opened() -> list[str]:
        return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(bench.root))]

    bench.put("/proc/stat", "cpu  1 0 0 1 0 0 0 0 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0")
    bench.after(1.0)
    assert f"{bench.root}/proc/stat" in opened()
    bench.sensors.close()
    assert opened() == []


FAULTS = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from(["gone", "garbage", "closed"])), min_size=1, max_size=40
)
GARBAGE = st.one_of(
    st.binary(max_size=30), st.sampled_from([b"", b"\n", b"0\n", b"nan\n", b"\xff\xfe", b"-1\n"])
)


@settings(max_examples=15, deadline=None)
@given(faults=FAULTS, garbage=GARBAGE)
@pytest.mark.parametrize("name", ["agx_xavier_jetpack5", "amd_desktop"])
def test_no_fault_raises_and_none_reads_as_zero(
    name: str, faults: list[tuple[int, str]], garbage: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench(tmp_path_factory.mktemp("root"), name)
    bench.put("/sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon12/curr1_input", 5)  # no rail without current
    before = bench.after(0)
    sysfs_tree.break_files(bench.root, faults, garbage)
    for seconds in (0.25, 1.0, 20.0):
        sample = bench.after(seconds)
        for rail in sample.rails:
            assert not math.isnan(rail.power_w) or reason(sample, f"power of {rail.name}")
            assert rail.power_w != 0 or garbage.strip() == b"0"  # a file that says 0 A is a reading
        for domain in sample.domains:
            hz, name = domain.frequency_hz, domain.domain
            assert hz > 0 or (math.isnan(hz) and reason(sample, f"clock of {name}"))
            assert domain.utilization >= 0 or reason(sample, f"load of {name}")
        for zone in sample.temperatures:
            why = reason(sample, f"temperature of {zone.name}")
            assert zone.temperature_c != 0 and (not math.isnan(zone.temperature_c) or why)
        assert set(by_name(before)) <= set(by_name(sample))  # nothing disappears from the samples
    bench.sensors.close()
