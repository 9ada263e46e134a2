"""Power of a board as a function of clocks, utilisation and temperature. Pure functions of a PowerModel.

With V the supply voltage at the clock f, u the utilisation (0..1, mean over the domain's cores), T the
temperature and leak = exp(leakage_per_c * (T - leakage_reference_c)), one clock domain takes from its rail

    leakage_w * leak + clock_w_per_ghz * f + busy_w * u
    + dynamic_w_per_ghz_v2 * V^2 * f * cores * u
    + idle_w * (V / V_top)^2 * (f / f_top) * (1 - u)        (0 if u = 0 and the domain is railgated)

and the whole module takes base_w + (1 + conversion_loss) * (sum of the rails).
The total is therefore a constant plus one term per domain, exactly, at a fixed temperature:
``constant_power_w`` + sum of ``domain_power``. A search over operating points evaluates
``domain_power(model, domain, f, T)`` once per clock; ``DomainPower.at(u)`` is then linear in u.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dynofa_ros.messages import DomainPowerModel, PowerModel

# Published where no model is known, so that the one of an earlier device is not taken for it.
NO_MODEL = PowerModel("", "", math.nan, math.nan, math.nan, math.nan, rails=(), domains=())


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


def domain_power(model: PowerModel, domain: str, frequency_hz: float, temperature_c: float) -> DomainPower:
    """Share of a clock domain in the total power at a clock (0 Hz = the domain is off, takes nothing).

    Raises ValueError for a domain that the model does not have or a frequency that is negative or NaN.
    """
    if not 0.0 <= frequency_hz < math.inf:
        raise ValueError(f"frequency of domain {domain} must be >= 0 Hz, not {frequency_hz}")
    own = domain_model(model, domain)
    terms = domain_terms(own, frequency_hz)
    ungated = terms.leakage_w * leak_factor(model, temperature_c) + terms.clock_w
    idle, factor = ungated + terms.idle_w, 1.0 + model.conversion_loss
    unused = ungated if own.railgated else idle
    return DomainPower(factor * unused, factor * idle, factor * (ungated + terms.busy_w))


def constant_power_w(model: PowerModel, temperature_c: float) -> float:
    """Power of the module that no clock domain causes."""
    return total_w(model, constant_rails_w(model, leak_factor(model, temperature_c)))


def domain_model(model: PowerModel, name: str) -> DomainPowerModel:
    """Terms of a clock domain. Raises ValueError for a domain that the model does not have."""
    for domain in model.domains:
        if domain.domain == name:
            return domain
    known = ", ".join(domain.domain for domain in model.domains)
    raise ValueError(f"board {model.board} has no clock domain '{name}' (it has {known})")


def differences(model: PowerModel, domains: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clock domains of a device that a model lacks, and those that it has in excess."""
    known = [domain.domain for domain in model.domains]
    lacks = tuple(name for name in domains if name not in known)
    return lacks, tuple(name for name in known if name not in domains)


def leak_factor(model: PowerModel, temperature_c: float) -> float:
    """exp(leakage_per_c * (T - leakage_reference_c)): what leakage is multiplied with."""
    return math.exp(model.leakage_per_c * (temperature_c - model.leakage_reference_c))


def constant_rails_w(model: PowerModel, leak: float) -> dict[str, float]:
    """What no clock domain causes, by rail, at a leakage factor."""
    return {rail.name: rail.static_w + rail.leakage_w * leak for rail in model.rails}


def total_w(model: PowerModel, rails_w: Mapping[str, float]) -> float:
    """Power of the module from that of its rails."""
    return model.base_w + (1.0 + model.conversion_loss) * sum(rails_w.values())


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


def domain_terms(domain: DomainPowerModel, frequency_hz: float) -> DomainTerms:
    """Terms of a domain at a clock; all 0 at 0 Hz, where the domain is off."""
    if frequency_hz == 0.0:
        return DomainTerms(0.0, 0.0, 0.0, 0.0)
    ghz = frequency_hz * 1e-9
    volts = voltage_v(domain, frequency_hz)
    dynamic = domain.dynamic_w_per_ghz_v2 * volts**2 * ghz * domain.cores
    top_hz = domain.top_hz
    idle = domain.idle_w * (volts / voltage_v(domain, top_hz)) ** 2 * frequency_hz / top_hz
    return DomainTerms(domain.clock_w_per_ghz * ghz, domain.leakage_w, idle, dynamic + domain.busy_w)


def voltage_v(domain: DomainPowerModel, frequency_hz: float) -> float:
    """Supply voltage at a clock: linear between the points, flat outside, 1 V without points."""
    points_hz, points_v = domain.voltage_hz, domain.voltage_v
    if not points_hz:
        return 1.0
    after = bisect_right(points_hz, frequency_hz)
    if after == 0:
        return points_v[0]
    if after == len(points_hz):
        return points_v[-1]
    (low_hz, high_hz), (low_v, high_v) = points_hz[after - 1 : after + 1], points_v[after - 1 : after + 1]
    return low_v + (high_v - low_v) * (frequency_hz - low_hz) / (high_hz - low_hz)
