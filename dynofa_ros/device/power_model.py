"""Power of a board as a function of clocks, utilisation and temperature. Pure functions.

With V the supply voltage at the clock f, u the utilisation (0..1, mean over the domain's cores), T the
temperature and leak = exp(leakage_per_c * (T - leakage_reference_c)), one clock domain takes from its rail

    leakage_w * leak + clock_w_per_ghz * f + busy_w * u
    + dynamic_w_per_ghz_v2 * V^2 * f * cores * u
    + idle_w * (V / V_top)^2 * (f / f_top) * (1 - u)        (0 if u = 0 and the domain is railgated)

and the whole module takes base_w + (1 + conversion_loss) * (sum of the rails).
The total is therefore a constant plus one term per domain, exactly, at a fixed temperature:
``constant_power_w`` + sum of ``domain_power``. A search over operating points evaluates
``domain_power(board, domain, f, T)`` once per clock; ``DomainPower.at(u)`` is then linear in u.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dynofa_ros.device.board import Board, Domain


@dataclass(frozen=True)
class PowerBreakdown:
    """``total_w`` of the whole module; ``rails`` = what each rail behind the total takes (W)."""

    total_w: float
    rails: Mapping[str, float]


@dataclass(frozen=True)
class DomainPower:
    """Share of one domain in the total, at one clock and temperature (W, regulator loss included).

    ``idle_w`` at utilisation just above 0, ``busy_w`` at 1, ``unused_w`` at exactly 0, where a
    railgated domain is switched off.
    """

    unused_w: float
    idle_w: float
    busy_w: float

    def at(self, utilization: float) -> float:
        """Power at a utilisation (0..1; values outside are clipped)."""
        if utilization <= 0.0:
            return self.unused_w
        return self.idle_w + (self.busy_w - self.idle_w) * min(utilization, 1.0)


def domain_power(board: Board, domain: str, frequency_hz: float, temperature_c: float) -> DomainPower:
    """Share of a clock domain in the total power at a clock (0 Hz = the domain is off, takes nothing).

    Raises ValueError for a domain that the board does not have or a frequency that is negative or NaN.
    """
    on_rail = _on_rail(_domain(board, domain), domain, frequency_hz, leak_factor(board, temperature_c))
    factor = 1.0 + board.power.conversion_loss
    return DomainPower(factor * on_rail.unused_w, factor * on_rail.idle_w, factor * on_rail.busy_w)


def domain_power_w(
    board: Board, domain: str, frequency_hz: float, utilization: float, temperature_c: float
) -> float:
    """``domain_power(...).at(utilization)``."""
    return domain_power(board, domain, frequency_hz, temperature_c).at(utilization)


def constant_power_w(board: Board, temperature_c: float) -> float:
    """Power of the module that no clock domain causes."""
    leak = leak_factor(board, temperature_c)
    rails = sum(rail.static_w + rail.leakage_w * leak for rail in board.rails.values())
    return board.power.base_w + (1.0 + board.power.conversion_loss) * rails


def predict_power(
    board: Board,
    frequencies_hz: Mapping[str, float],
    utilization: Mapping[str, float],
    temperature_c: float,
) -> PowerBreakdown:
    """Power of the module and of its rails.

    ``frequencies_hz`` names every domain of the board (0 = off); a domain missing from ``utilization``
    (0..1) is idle. Raises ValueError for a missing, unknown or wrong entry, naming it.
    """
    for name in (*frequencies_hz, *utilization):
        _domain(board, name)
    leak = leak_factor(board, temperature_c)
    rails = {name: rail.static_w + rail.leakage_w * leak for name, rail in board.rails.items()}
    for name, domain in board.domains.items():
        if name not in frequencies_hz:
            raise ValueError(f"no frequency is given for domain {name} of board {board.name} (0 = off)")
        power = _on_rail(domain, name, frequencies_hz[name], leak)
        rails[domain.rail] += power.at(utilization.get(name, 0.0))
    total_w = board.power.base_w + (1.0 + board.power.conversion_loss) * sum(rails.values())
    return PowerBreakdown(total_w, rails)


def _domain(board: Board, name: str) -> Domain:
    try:
        return board.domains[name]
    except KeyError:
        known = ", ".join(board.domains)
        raise ValueError(f"board {board.name} has no clock domain '{name}' (it has {known})") from None


def leak_factor(board: Board, temperature_c: float) -> float:
    """exp(leakage_per_c * (T - leakage_reference_c)): what leakage is multiplied with."""
    return math.exp(board.power.leakage_per_c * (temperature_c - board.power.leakage_reference_c))


class DomainTerms(NamedTuple):
    """Terms of one domain at one clock, on its rail (W): the clock's own, leakage at factor 1, idle, busy."""

    clock_w: float
    leakage_w: float
    idle_w: float
    busy_w: float

    def at(self, utilization: float, leak: float, gated: bool) -> float:
        """Power at a utilisation (0..1); ``gated``: the domain is switched off as far as it can be."""
        ungated = self.leakage_w * leak + self.clock_w
        if gated:
            return ungated
        return ungated + self.idle_w + (self.busy_w - self.idle_w) * utilization


def domain_terms(domain: Domain, frequency_hz: float) -> DomainTerms:
    """Terms of a domain at a clock; all 0 at 0 Hz, where the domain is off."""
    if frequency_hz == 0.0:
        return DomainTerms(0.0, 0.0, 0.0, 0.0)
    ghz = frequency_hz * 1e-9
    voltage_v = domain.voltage_v(frequency_hz)
    dynamic = domain.dynamic_w_per_ghz_v2 * voltage_v**2 * ghz * domain.cores
    top_hz = domain.frequencies_hz[-1]
    idle = domain.idle_w * (voltage_v / domain.voltage_v(top_hz)) ** 2 * frequency_hz / top_hz
    return DomainTerms(domain.clock_w_per_ghz * ghz, domain.leakage_w, idle, dynamic + domain.busy_w)


def _on_rail(domain: Domain, name: str, frequency_hz: float, leak: float) -> DomainPower:
    if not 0.0 <= frequency_hz < math.inf:
        raise ValueError(f"frequency of domain {name} must be >= 0 Hz, not {frequency_hz}")
    terms = domain_terms(domain, frequency_hz)
    ungated = terms.leakage_w * leak + terms.clock_w
    idle = ungated + terms.idle_w
    return DomainPower(ungated if domain.railgated else idle, idle, ungated + terms.busy_w)
