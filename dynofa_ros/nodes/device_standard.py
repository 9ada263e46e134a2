"""The device in standard messages, for tools that know nothing of this package.

``dynofa/device/temperature`` is the hottest sensor, as one number is what a plot or a watchdog wants; all of
them are in the telemetry. ``dynofa/device/battery`` exists only where the kernel knows a battery; several
share it, distinguished by ``location``.
"""

from __future__ import annotations

import math

from builtin_interfaces.msg import Time
from sensor_msgs.msg import BatteryState, Temperature

from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.linux.battery import BatterySample

# The kernel's words (drivers/power/supply/power_supply_sysfs.c); others are unknown to the message.
STATUS = {
    "Charging": BatteryState.POWER_SUPPLY_STATUS_CHARGING,
    "Discharging": BatteryState.POWER_SUPPLY_STATUS_DISCHARGING,
    "Not charging": BatteryState.POWER_SUPPLY_STATUS_NOT_CHARGING,
    "Full": BatteryState.POWER_SUPPLY_STATUS_FULL,
}
HEALTH = {
    "Good": BatteryState.POWER_SUPPLY_HEALTH_GOOD,
    "Overheat": BatteryState.POWER_SUPPLY_HEALTH_OVERHEAT,
    "Hot": BatteryState.POWER_SUPPLY_HEALTH_OVERHEAT,
    "Dead": BatteryState.POWER_SUPPLY_HEALTH_DEAD,
    "Over voltage": BatteryState.POWER_SUPPLY_HEALTH_OVERVOLTAGE,
    "Unspecified failure": BatteryState.POWER_SUPPLY_HEALTH_UNSPEC_FAILURE,
    "Cold": BatteryState.POWER_SUPPLY_HEALTH_COLD,
    "Watchdog timer expire": BatteryState.POWER_SUPPLY_HEALTH_WATCHDOG_TIMER_EXPIRE,
    "Safety timer expire": BatteryState.POWER_SUPPLY_HEALTH_SAFETY_TIMER_EXPIRE,
}
TECHNOLOGY = {
    "NiMH": BatteryState.POWER_SUPPLY_TECHNOLOGY_NIMH,
    "Li-ion": BatteryState.POWER_SUPPLY_TECHNOLOGY_LION,
    "Li-poly": BatteryState.POWER_SUPPLY_TECHNOLOGY_LIPO,
    "LiFe": BatteryState.POWER_SUPPLY_TECHNOLOGY_LIFE,
    "NiCd": BatteryState.POWER_SUPPLY_TECHNOLOGY_NICD,
    "LiMn": BatteryState.POWER_SUPPLY_TECHNOLOGY_LIMN,
}


def hottest(sample: DeviceSample) -> tuple[str, float]:
    """Name and degrees Celsius of the hottest sensor that has a value; ``("", NaN)`` without one."""
    known = [t for t in sample.temperatures if not math.isnan(t.temperature_c)]
    if not known:
        return "", math.nan
    top = max(known, key=lambda sensor: sensor.temperature_c)
    return top.name, top.temperature_c


def temperature_message(sample: DeviceSample, stamp: Time) -> Temperature:
    """Temperature of the hottest sensor, whose name is the frame; NaN while none can be read."""
    name, temperature_c = hottest(sample)
    message = Temperature(temperature=float(temperature_c), variance=0.0)  # 0 = unknown
    message.header.stamp, message.header.frame_id = stamp, name
    return message


def battery_message(battery: BatterySample, stamp: Time) -> BatteryState:
    """BatteryState of one battery."""
    message = BatteryState(
        voltage=float(battery.voltage_v),
        temperature=float(battery.temperature_c),
        current=float(battery.current_a),
        charge=float(battery.charge_ah),
        capacity=float(battery.capacity_ah),
        design_capacity=float(battery.design_capacity_ah),
        percentage=float(battery.share),
        power_supply_status=STATUS.get(battery.status, BatteryState.POWER_SUPPLY_STATUS_UNKNOWN),
        power_supply_health=HEALTH.get(battery.health, BatteryState.POWER_SUPPLY_HEALTH_UNKNOWN),
        power_supply_technology=TECHNOLOGY.get(
            battery.technology, BatteryState.POWER_SUPPLY_TECHNOLOGY_UNKNOWN
        ),
        present=bool(battery.present),
        location=battery.name,
        serial_number=battery.serial_number,
    )
    message.header.stamp = stamp
    return message
