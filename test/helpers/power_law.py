"""Power of a whole module and of its rails, as the law of `dynofa_ros.device.power_model` says in one sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dynofa_ros.device.power_model import constant_rails_w, domain_terms, leak_factor, total_w
from dynofa_ros.messages import PowerModel


class Power(NamedTuple):
    """``total_w`` of the whole module; ``rails`` = what each rail behind the total takes (W)."""

    total_w: float
    rails: Mapping[str, float]


def predict_power(
    model: PowerModel,
    frequencies_hz: Mapping[str, float],
    utilization: Mapping[str, float],
    temperature_c: float,
) -> Power:
    """``frequencies_hz``: of every domain, 0 = off; a domain missing from ``utilization`` is idle."""
    leak = leak_factor(model, temperature_c)
    rails = constant_rails_w(model, leak)
    for domain in model.domains:
        share = utilization.get(domain.domain, 0.0)
        terms = domain_terms(domain, frequencies_hz[domain.domain])
        rails[domain.rail] += terms.at(share, leak, gated=domain.railgated and not share)
    return Power(total_w(model, rails), rails)
