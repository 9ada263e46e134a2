"""Sensors of a simulated board: power, temperature and throttling as they are, and as they are read.

Their random numbers depend on what they are for, not on how many were drawn before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist

from dynofa_ros.device.board import Board
from dynofa_ros.messages import PowerRail, TemperatureReading

NORMAL = NormalDist()
KEY = struct.Struct("<qqq")


@dataclass(frozen=True)
class Truth:
    """What really holds, which no sensor shows. Energies since the start; ``rail_*`` by measured rail.

    utilization: mean over a domain's cores, now. gated: domains switched off because they are idle.
    """

    now_s: float
    total_w: float
    rail_w: Mapping[str, float]
    energy_j: float
    rail_energy_j: Mapping[str, float]
    temperature_c: float
    clocks_hz: Mapping[str, int]
    utilization: Mapping[str, float]
    throttled: tuple[str, ...]
    gated: tuple[str, ...]


class SimulatedSensors:
    """Noise and steps. The noise of a rail belongs to the conversion that is read, not to the reading:
    two readings within one conversion are the same."""

    def __init__(self, board: Board, seed: int) -> None:
        self._board = board
        self._seed = seed

    def rails(self, total_w: float, rail_w: Mapping[str, float], now_s: float) -> tuple[PowerRail, ...]:
        """The total rail first. The powers are those behind the sensors' lag."""
        named = {self._board.power.total_rail: total_w, **rail_w}
        conversion = int(now_s / self._board.sensors.conversion_s)
        return tuple(
            self._rail(number, name, power_w, conversion)
            for number, (name, power_w) in enumerate(named.items())
        )

    def temperatures(self, temperature_c: float) -> tuple[TemperatureReading, ...]:
        step_c = self._board.sensors.temperature_step_c
        return tuple(
            TemperatureReading(name, _quantize(temperature_c + offset_c, step_c))
            for name, offset_c in self._board.thermal.sensor_offsets_c.items()
        )

    def _rail(self, number: int, name: str, power_w: float, conversion: int) -> PowerRail:
        sensors = self._board.sensors
        deviation_w = sensors.noise_w + sensors.noise_share * power_w
        noisy_w = max(power_w + deviation_w * normal(self._seed, number, conversion), 0.0)
        voltage_v = _quantize(sensors.supply_v, sensors.voltage_step_v)
        current_a = _quantize(noisy_w / voltage_v, sensors.current_step_a)
        return PowerRail(name, voltage_v * current_a, voltage_v, current_a)


def _quantize(value: float, step: float) -> float:
    return round(value / step) * step


def uniform(seed: int, stream: int, index: int) -> float:
    """Uniform in (0, 1): number ``index`` of a stream."""
    digest = blake2b(KEY.pack(seed, stream, index), digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52


def normal(seed: int, stream: int, index: int) -> float:
    """Standard normal: number ``index`` of a stream."""
    return NORMAL.inv_cdf(uniform(seed, stream, index))
