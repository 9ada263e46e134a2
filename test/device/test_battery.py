"""Batteries of the kernel, and what the device node says about sensors and clocks, without a node."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import sysfs_tree
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from builtin_interfaces.msg import Time

from dynofa_ros.device.device import DeviceSample, Origin
from dynofa_ros.device.linux.battery import BatterySample, find_batteries, read_battery
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import PowerRail, TemperatureReading
from dynofa_ros.nodes.device_standard import battery_message, temperature_message
from dynofa_ros.nodes.device_status import sensor_status
from dynofa_ros.ros.diagnostics import Level

FOLDER = "/sys/class/power_supply"
KEYS = ("present", "capacity", "voltage_now", "current_now", "power_now", "charge_now", "charge_full", "temp")


def battery(root: Path, **values: object) -> BatterySample:
    for key, value in {"type": "Battery", "status": "Unknown", **values}.items():
        sysfs_tree.put(root, f"{FOLDER}/BAT0/{key}", str(value))
    return read_battery(SysFiles(root), "BAT0")


def test_a_battery_that_counts_energy_tells_its_share_and_current_but_no_charge(tmp_path: Path) -> None:
    found = battery(
        tmp_path,
        status="Discharging",
        power_now=12_000_000,
        voltage_now=12_000_000,
        energy_now=20_000_000,
        energy_full=40_000_000,
        temp=255,
    )
    assert (found.current_a, found.share, found.temperature_c) == pytest.approx((-1.0, 0.5, 25.5))
    assert math.isnan(found.charge_ah) and math.isnan(found.capacity_ah)


@pytest.mark.parametrize("values", [{"capacity": 103}, {"energy_now": 52, "energy_full": 50}])
def test_a_gauge_that_shows_somewhat_more_than_full_shows_full(tmp_path: Path, values: dict) -> None:
    assert battery(tmp_path, **values).share == 1.0
    assert math.isnan(battery(tmp_path, capacity=250, energy_now=125).share)


@pytest.mark.parametrize("raw", [1_500_000, -1_500_000])
@pytest.mark.parametrize(("status", "current_a"), [("Discharging", -1.5), ("Charging", 1.5)])
def test_the_sign_of_the_current_is_that_of_the_message(
    tmp_path: Path, status: str, raw: int, current_a: float
) -> None:
    assert battery(tmp_path, status=status, current_now=raw).current_a == pytest.approx(current_a)


def test_only_batteries_that_feed_the_computer_are_found(tmp_path: Path) -> None:
    assert find_batteries(SysFiles(tmp_path)) == ()
    for name, kind, scope in [
        ("AC", "Mains", ""),
        ("hid0", "Battery", "Device"),
        ("BAT1", "Battery", "System"),
    ]:
        sysfs_tree.put(tmp_path, f"{FOLDER}/{name}/type", kind)
        sysfs_tree.put(tmp_path, f"{FOLDER}/{name}/scope", scope)
    battery(tmp_path)
    assert find_batteries(SysFiles(tmp_path)) == ("BAT0", "BAT1")


def test_a_battery_whose_driver_is_loaded_later_is_taken_in(tmp_path: Path) -> None:
    with SysfsDevice(SysFiles(tmp_path)) as device:
        assert device.batteries() == ()
        battery(tmp_path, capacity=80)
        assert [found.share for found in device.batteries()] == [0.8]


def test_a_battery_that_is_gone_is_not_present_and_all_unknown(tmp_path: Path) -> None:
    message = battery_message(read_battery(SysFiles(tmp_path), "BAT0"), Time())
    assert not message.present and message.location == "BAT0"
    assert all(math.isnan(v) for v in (message.voltage, message.current, message.charge, message.percentage))
    assert message.power_supply_status == message.power_supply_health == 0


@given(st.dictionaries(st.sampled_from(KEYS), st.one_of(st.integers(), st.text(max_size=5)), max_size=8))
def test_whatever_the_files_hold_there_is_a_message(tmp_path_factory, values: dict[str, object]) -> None:
    found = battery(tmp_path_factory.mktemp("root"), **values)
    assert math.isnan(found.share) or 0.0 <= found.share <= 1.0
    assert battery_message(found, Time()).location == "BAT0"


def sample(rail: PowerRail, *temperatures: TemperatureReading, **origins: Origin) -> DeviceSample:
    named = {what.replace("_of_", " of "): origin for what, origin in origins.items()}
    return DeviceSample(rail.power_w, (rail,), (), temperatures, taken_s=10.0, origins=named)


def test_the_hottest_known_sensor_is_the_temperature() -> None:
    rail, off = PowerRail("VDD_IN", 5.0, 5.0, 1.0), TemperatureReading("GPU", math.nan)
    message = temperature_message(
        sample(rail, off, TemperatureReading("CPU", 40.0), TemperatureReading("AO", 39.0)), Time()
    )
    assert (message.header.frame_id, message.temperature) == ("CPU", 40.0)
    assert math.isnan(temperature_message(sample(rail, off), Time()).temperature)


@pytest.mark.parametrize(
    ("taken_s", "reason", "total_rails", "level", "text"),
    [
        (8.0, "no such file", (), Level.WARN, "1 stopped: power of VDD_IN: no such file"),
        (math.nan, "no such file", ("VDD_IN",), Level.WARN, "power unknown: no such file"),
        (math.nan, "no such file", (), Level.OK, "power unknown, 40.0 C"),
        (8.0, "powered off for now", (), Level.OK, "power unknown, 40.0 C"),
        (8.0, "powered off for now", ("VDD_IN",), Level.WARN, "power unknown: powered off for now"),
    ],
)
def test_a_sensor_that_stopped_warns_and_one_that_never_was_or_is_off_does_only_where_it_is_the_power(
    taken_s: float, reason: str, total_rails: tuple[str, ...], level: Level, text: str
) -> None:
    rail, zone = PowerRail("VDD_IN", math.nan, 5.0, 1.0), TemperatureReading("CPU", 40.0)
    power, heat = Origin(taken_s, reason), Origin(9.5, "")
    found = sensor_status(sample(rail, zone, power_of_VDD_IN=power, temperature_of_CPU=heat), total_rails)
    assert (found.level, found.message) == (level, text)
    assert found.values["power of VDD_IN"] == reason and found.values["oldest_value_s"] == 0.5
