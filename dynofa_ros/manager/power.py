"""Power of the module by domain, clock and utilisation, for the boards that have a description."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, isnan, nan

from dynofa_ros.device.board import Board, BoardError, load_board
from dynofa_ros.device.power_model import DomainPower, constant_power_w, domain_power
from dynofa_ros.manager.types import Capabilities, Telemetry

TEMPERATURE_GRAIN_C = 2.0  # leakage is taken at steps of this, so that tables can be kept


@dataclass
class PowerModel:
    """Board model with its tables kept."""

    board: Board
    _tables: dict[tuple[str, float, float], DomainPower] = field(default_factory=dict)

    def domain(self, domain: str, hz: float, temperature_c: float) -> DomainPower:
        """Share of one domain in the total at a clock."""
        key = (domain, hz, self.grain(temperature_c))
        if key not in self._tables:
            if len(self._tables) > 10_000:  # an uncontrolled clock can take any value
                self._tables.clear()
            self._tables[key] = domain_power(self.board, *key)
        return self._tables[key]

    def constant_w(self, temperature_c: float) -> float:
        """Power that no clock domain causes."""
        return constant_power_w(self.board, self.grain(temperature_c))

    def total_w(self, telemetry: Telemetry, temperature_c: float) -> float:
        """Model at the clocks and utilisation of one sample, NaN if it lacks a domain of the board."""
        readings = {r.domain: r for r in telemetry.domains}
        total = self.constant_w(temperature_c)
        for domain in self.board.domains:
            reading = readings.get(domain)
            if reading is None or not (isfinite(reading.frequency_hz) and reading.frequency_hz >= 0.0):
                return nan
            utilization = 0.0 if isnan(reading.utilization) else reading.utilization
            total += self.domain(domain, reading.frequency_hz, temperature_c).at(utilization)
        return total

    def grain(self, temperature_c: float) -> float:
        """Temperature at which leakage is taken; the board's reference where none is known."""
        known = self.board.power.leakage_reference_c if isnan(temperature_c) else temperature_c
        return round(known / TEMPERATURE_GRAIN_C) * TEMPERATURE_GRAIN_C


def power_model(capabilities: Capabilities) -> PowerModel | None:
    """Model of a board by its name, None if there is no description of it or it lacks a domain."""
    try:
        board = load_board(capabilities.board)
    except BoardError:
        return None
    known = all(d.domain in board.domains for d in capabilities.domains)
    return PowerModel(board) if known and capabilities.board else None
