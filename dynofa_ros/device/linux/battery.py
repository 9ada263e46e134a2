"""Batteries that the kernel knows: /sys/class/power_supply, below any root folder."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynofa_ros.device.linux.sysfs import SysFiles

FOLDER = "/sys/class/power_supply"
MICRO = 1e-6


@dataclass(frozen=True)
class BatterySample:
    """One battery. Unknown is NaN, or an empty text.

    ``current_a`` is negative while it discharges, ``share`` is 0..1 of a full charge. ``status``, ``health``
    and ``technology`` are the kernel's words: Discharging, Good, Li-ion.
    """

    name: str
    present: bool
    voltage_v: float
    current_a: float
    charge_ah: float
    capacity_ah: float
    design_capacity_ah: float
    share: float
    temperature_c: float
    status: str
    health: str
    technology: str
    serial_number: str


def find_batteries(files: SysFiles) -> tuple[str, ...]:
    """Names of the batteries that feed the computer, not those of a mouse or another device."""
    return tuple(
        name
        for name in files.names(FOLDER)
        if files.name(f"{FOLDER}/{name}/type") == "Battery"
        and files.name(f"{FOLDER}/{name}/scope") != "Device"
    )


def read_battery(files: SysFiles, name: str) -> BatterySample:
    """A battery now; never raises. One that is gone is not present.

    Charges are NaN where the kernel counts energy, as the voltage it would take to convert them is unknown.
    """

    def text(key: str) -> str:
        return files.name(f"{FOLDER}/{name}/{key}")

    def number(key: str, unit: float = MICRO) -> float:
        value = files.number(f"{FOLDER}/{name}/{key}")
        return math.nan if value is None else value * unit

    status = text("status")
    charge_ah, capacity_ah = number("charge_now"), number("charge_full")
    return BatterySample(
        name=name,
        present=bool(status) and files.number(f"{FOLDER}/{name}/present") != 0,
        voltage_v=number("voltage_now"),
        current_a=_current_a(number("current_now"), number("power_now"), number("voltage_now"), status),
        charge_ah=charge_ah,
        capacity_ah=capacity_ah,
        design_capacity_ah=number("charge_full_design"),
        share=_share(
            number("capacity", 0.01),
            (charge_ah, capacity_ah),
            (number("energy_now"), number("energy_full")),
        ),
        temperature_c=number("temp", 0.1),
        status=status,
        health=text("health"),
        technology=text("technology"),
        serial_number=text("serial_number"),
    )


def _current_a(current_a: float, power_w: float, voltage_v: float, status: str) -> float:
    """Its sign differs from driver to driver, so the status gives it."""
    if math.isnan(current_a) and voltage_v > 0:
        current_a = power_w / voltage_v
    if status in ("Charging", "Discharging"):
        return math.copysign(current_a, -1.0 if status == "Discharging" else 1.0)
    return current_a


def _share(reported: float, *parts: tuple[float, float]) -> float:
    """What the kernel tells, else the first known ratio of what is left to what it holds when full.

    A gauge that is off by some percent shows more than a full charge.
    """
    ratios = (left / full for left, full in parts if full > 0)
    shares = (min(share, 1.0) for share in (reported, *ratios) if 0.0 <= share <= 1.1)
    return next(shares, math.nan)
