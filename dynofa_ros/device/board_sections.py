"""Sections of a board description as they stand in its file, and what each of them checks by itself.

Units: Hz, W, V, A, seconds, degrees Celsius.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

GovernorName = Literal[
    "conservative",
    "nvhost_podgov",
    "ondemand",
    "ondemand_raspberry_pi",
    "performance",
    "powersave",
    "schedutil",
    "simple_ondemand",
    "userspace",
]


MOST_CORES = 1024  # of one clock domain


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict base of everything that is read from a board file."""


class Rail(Section, frozen=True):
    """A measured power rail behind the total rail.

    ``leakage_w`` grows with temperature (see :class:`Power`), ``static_w`` does not.
    """

    static_w: float
    leakage_w: float = 0.0

    def __post_init__(self) -> None:
        _require_not_negative(self, "static_w", "leakage_w")


class Power(Section, frozen=True):
    """total = base_w + (1 + conversion_loss) * sum of rails; leakage scales with
    exp(leakage_per_c * (temperature - leakage_reference_c))."""

    total_rail: str
    base_w: float
    conversion_loss: float
    leakage_per_c: float
    leakage_reference_c: float

    def __post_init__(self) -> None:
        _require_not_negative(self, "base_w", "conversion_loss", "leakage_per_c")


class Heat(Section, frozen=True):
    """One thermal RC: T' = (ambient_c + resistance_c_per_w * total power - T) / time_constant_s."""

    resistance_c_per_w: float
    time_constant_s: float

    def __post_init__(self) -> None:
        _require_positive(self, "resistance_c_per_w", "time_constant_s")


class Thermal(Heat, frozen=True):
    """The thermal RC with its surroundings, its throttling and its sensors."""

    ambient_c: float
    trip_c: float
    hysteresis_c: float
    throttle_period_s: float
    sensor_offsets_c: dict[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, "throttle_period_s")
        _require_not_negative(self, "hysteresis_c")


class Sensors(Section, frozen=True):
    """Power monitor (bus voltage and current with their steps, first-order lag, noise) and thermometer.

    The noise of a rail has the standard deviation noise_w + noise_share * power, new every ``conversion_s``.
    """

    supply_v: float
    voltage_step_v: float
    current_step_a: float
    lag_s: float
    noise_w: float
    temperature_step_c: float
    conversion_s: float = 0.01
    noise_share: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(self, "supply_v", "voltage_step_v", "current_step_a", "temperature_step_c")
        _require_positive(self, "conversion_s")
        _require_not_negative(self, "lag_s", "noise_w", "noise_share")


class PowerDomain(Section, frozen=True, kw_only=True):
    """One clock domain and the terms of its power (see :mod:`dynofa_ros.device.power_model`)."""

    rail: str
    frequencies_hz: tuple[int, ...]
    cores: int = 1
    voltages: tuple[tuple[int, float], ...] = ()
    dynamic_w_per_ghz_v2: float = 0.0
    leakage_w: float = 0.0
    clock_w_per_ghz: float = 0.0
    busy_w: float = 0.0
    idle_w: float = 0.0
    railgated: bool = False

    def __post_init__(self) -> None:
        _require_not_negative(
            self, "dynamic_w_per_ghz_v2", "leakage_w", "clock_w_per_ghz", "busy_w", "idle_w"
        )
        _require(1 <= self.cores <= MOST_CORES, f"cores must be from 1 to {MOST_CORES}, not {self.cores}")
        table = self.frequencies_hz
        _require(bool(table), "frequencies_hz is empty; it must list the clocks in Hz, ascending")
        _require(table[0] > 0, "frequencies_hz must be positive")
        _require_ascending("frequencies_hz", table)
        _require_ascending("voltages", tuple(hz for hz, _ in self.voltages))
        _require(all(volts > 0 for _, volts in self.voltages), "voltages must be positive")
        if self.dynamic_w_per_ghz_v2 or self.idle_w:
            _require(bool(self.voltages), "voltages is missing; dynamic and idle power need [Hz, V] points")


class Domain(PowerDomain, frozen=True, kw_only=True):
    """A clock domain as it is simulated.

    ``railgated`` domains are switched off once they have been idle for ``railgate_delay_s``.
    ``poll_s``: period of a devfreq governor, and the longest wait until new limits are noticed.
    """

    governor: GovernorName
    start_min_hz: int
    start_max_hz: int
    transition_s: float
    poll_s: float = 0.0
    throttled: bool = False
    railgate_delay_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_not_negative(self, "transition_s", "poll_s", "railgate_delay_s")
        for key, value in (("start_min_hz", self.start_min_hz), ("start_max_hz", self.start_max_hz)):
            _require(value in self.frequencies_hz, f"{key} {value} is not one of frequencies_hz")
        _require(self.start_min_hz <= self.start_max_hz, "start_min_hz is above start_max_hz")


class Mode(Section, frozen=True):
    """One nvpmodel mode: it caps clocks and cores, not watts.

    ``cores``: how many stay online, counted from core 0; None = all. ``caps_hz``: highest clock by domain or
    by processor ("cpu" = every cluster); it need not be a table entry.
    """

    id: int
    cores: int | None = None
    caps_hz: dict[str, int] = {}

    def __post_init__(self) -> None:
        _require(self.id >= 0, f"id must be >= 0, not {self.id}")
        _require(self.cores is None or self.cores >= 1, f"cores must be at least 1, not {self.cores}")


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _require_not_negative(table: Section, *keys: str) -> None:
    for key in keys:
        value = getattr(table, key)
        _require(math.isfinite(value) and value >= 0, f"{key} must be a number >= 0, not {value}")


def _require_positive(table: Section, *keys: str) -> None:
    for key in keys:
        value = getattr(table, key)
        _require(math.isfinite(value) and value > 0, f"{key} must be a number > 0, not {value}")


def _require_ascending(key: str, values: tuple[int, ...]) -> None:
    for low, high in zip(values, values[1:], strict=False):
        _require(low < high, f"{key} must be ascending: {high} follows {low}")
