"""Messages of the package as frozen dataclasses: the same names as in ``msg/*.msg``, without ROS.

Units are in the names. Unknown numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RailPowerModel:
    """Power of one supply rail that no clock domain causes."""

    name: str
    static_w: float
    leakage_w: float


@dataclass(frozen=True)
class DomainPowerModel:
    """Terms of the power of one clock domain on its rail: see ``device/power_model.py`` for the law.

    ``voltage_hz`` and ``voltage_v``: points of the supply voltage, ascending; none = 1 V at every clock.
    """

    domain: str
    rail: str
    cores: int
    top_hz: float
    voltage_hz: tuple[float, ...]
    voltage_v: tuple[float, ...]
    dynamic_w_per_ghz_v2: float
    busy_w: float
    idle_w: float
    clock_w_per_ghz: float
    leakage_w: float
    railgated: bool
    launch_share: float


@dataclass(frozen=True)
class PowerModel:
    """Power and heat of the whole module; ``origin`` is the path of the file that was read.

    ``resistance_c_per_w`` and ``time_constant_s``: of one thermal RC.
    """

    board: str
    origin: str
    base_w: float
    conversion_loss: float
    leakage_per_c: float
    leakage_reference_c: float
    rails: tuple[RailPowerModel, ...]
    domains: tuple[DomainPowerModel, ...]
    resistance_c_per_w: float
    time_constant_s: float
