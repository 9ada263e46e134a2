"""Fits of measured latency and power, with standard errors. Pure functions.

Latency of one sub-network: alpha + beta * f_reference / f.
Power: the model of :mod:`dynofa_ros.device.power_model`, which is linear in its coefficients once the
clocks, the utilisation, the temperature and the board's voltages are known. V enters only as C * V^2 * f,
so the voltages and the temperature law of the leakage are the board file's and stay; so does every
coefficient that the observations cannot tell from the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import structs
from scipy.optimize import nnls
from scipy.sparse.csgraph import connected_components

from dynofa_ros.device.power_model import domain_terms, leak_factor
from dynofa_ros.latency import processor_of
from dynofa_ros.library.sweep import Observation
from dynofa_ros.messages import DomainPowerModel, PowerModel, RailPowerModel

HUBER = 1.345  # residuals beyond this many standard deviations count linearly (Huber 1981: 95 % efficiency)
ITERATIONS = 30
NORMAL_95 = 1.96
WORST_CONDITION = 100.0  # of unit columns; above it, two coefficients can stand in for each other
ENTANGLED = 0.05  # entry of the projector onto what cannot be seen; 1 / n for n equal columns
ONE_CLOCK = 0.01  # relative; a spread of clocks below this tells nothing
# Coefficients of a domain, and how early each is held where it cannot be distinguished from others.
DOUBTS = (("clock_w_per_ghz", 2), ("dynamic_w_per_ghz_v2", 1), ("busy_w", 5), ("idle_w", 3))


@dataclass(frozen=True)
class Fit:
    """Coefficients and their standard errors, both (k,)."""

    values: np.ndarray
    errors: np.ndarray


def robust_fit(design: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> Fit:
    """Least squares with Huber weights and coefficients >= 0.

    design (n, k) of full rank, y (n,), sigma (n,) = standard deviation of each y. Where the residuals are
    larger than sigma explains (the model is not exact), the standard errors grow with them.
    """
    a, b = design / sigma[:, None], y / sigma
    weights = np.ones(len(b))
    values = np.zeros(a.shape[1])
    for _ in range(ITERATIONS):
        root = np.sqrt(weights)
        values, _ = nnls(a * root[:, None], b * root)
        residuals = np.abs(b - a @ values)
        spread = max(1.0, 1.4826 * float(np.median(residuals)))
        weights = np.minimum(1.0, HUBER * spread / np.maximum(residuals, 1e-12))
    freedom = max(len(b) - a.shape[1], 1)
    variance = max(1.0, float(weights @ residuals**2) / freedom)
    covariance = variance * np.linalg.pinv((a * weights[:, None]).T @ a)
    return Fit(values, np.sqrt(np.diag(covariance)))


@dataclass(frozen=True)
class LatencyFit:
    """``misfit``: largest relative deviation of a measured median from the law."""

    alpha_ms: float
    beta_ms: float
    alpha_error_ms: float
    beta_error_ms: float
    misfit: float


def fit_latency(ratio: np.ndarray, latency_ms: np.ndarray, error_ms: np.ndarray) -> LatencyFit | None:
    """alpha and beta from medians at several clocks; None where the clocks are too alike to tell them apart.

    ratio = f_reference / f, latency_ms and its standard error: all (n,).
    """
    if len(ratio) < 2 or ratio.max() < (1 + ONE_CLOCK) * ratio.min():
        return None
    design = np.stack([np.ones_like(ratio), ratio], axis=1)
    fit = robust_fit(design, latency_ms, error_ms)
    misfit = float(np.abs(design @ fit.values / latency_ms - 1).max())
    (alpha, beta), (alpha_error, beta_error) = fit.values.tolist(), fit.errors.tolist()
    return LatencyFit(alpha, beta, alpha_error, beta_error, misfit)


# --- power ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of the board file; where it is held, ``error`` is NaN and ``held`` says why.

    ``shared``: the domains that have it in common because they were always driven together.
    """

    section: str  # "power", "rails.<name>" or "domains.<name>"
    name: str
    value: float
    error: float
    board_value: float
    held: str = ""
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Term:
    """Coefficients that share one column of the design; ``column`` = W per unit of the coefficient (n,)."""

    section: str
    name: str
    members: tuple[str, ...]
    column: np.ndarray
    board_value: float
    doubt: int  # the higher, the earlier it is held


def fit_power(
    model: PowerModel, total_rail: str, observations: Sequence[Observation]
) -> tuple[Coefficient, ...]:
    """Coefficients of every rail that was measured, then of the total. Empty without observations.

    A clock domain that no observation shows counts as off, one whose load is never known as idle: what they
    take is then part of what does not change.
    """
    model, observations = _shown(model, [o for o in observations if o.rails_w])
    coefficients: list[Coefficient] = []
    for rail in model.rails:
        seen = [o for o in observations if _complete(model, o, rail.name)]
        if seen:
            coefficients += _fit_rail(model, rail, seen)
    return (*coefficients, *_fit_total(model, total_rail, observations))


def _shown(model: PowerModel, observations: Sequence[Observation]) -> tuple[PowerModel, list[Observation]]:
    """The domains of a model whose clocks are known, and observations with a load for each of them."""
    clocks = _known(o.frequencies_hz for o in observations)
    loads = _known(o.utilization for o in observations)
    shown = tuple(domain for domain in model.domains if domain.domain in clocks)
    idle = {domain.domain: 0.0 for domain in shown if domain.domain not in loads}
    return replace(model, domains=shown), [
        structs.replace(o, utilization={**o.utilization, **idle}) for o in observations
    ]


def _known(values: Iterable[Mapping[str, float | None]]) -> set[str]:
    return {name for each in values for name, value in each.items() if value is not None}


def _complete(model: PowerModel, observation: Observation, *rails: str) -> bool:
    of_domains = (observation.frequencies_hz, observation.utilization)
    values = [known.get(domain.domain) for known in of_domains for domain in model.domains]
    known_rails = all(rail in observation.rails_w for rail in rails)
    return known_rails and observation.temperature_c is not None and None not in values


def _fit_rail(model: PowerModel, rail: RailPowerModel, seen: Sequence[Observation]) -> list[Coefficient]:
    y, sigma = (np.array([o.rails_w[rail.name][i] for o in seen]) for i in (0, 1))
    return _fit_terms(_terms(model, rail, seen), y, sigma)


def _fit_terms(terms: Sequence[_Term], y: np.ndarray, sigma: np.ndarray) -> list[Coefficient]:
    """y = sum of columns times coefficients; what cannot be identified is held at the board file's value."""
    fitted, held = _identifiable(terms, sigma)
    result: list[Coefficient] = []
    if fitted:
        rest = y - sum((t.column * t.board_value for t, _ in held), np.zeros(len(y)))
        fit = robust_fit(np.stack([t.column for t in fitted], axis=1), rest, sigma)
        result = [_coefficient(t, v, e) for t, v, e in zip(fitted, fit.values, fit.errors, strict=True)]
    return result + [_held(term, reason) for term, reason in held]


def _terms(model: PowerModel, rail: RailPowerModel, seen: Sequence[Observation]) -> list[_Term]:
    """Of one rail. A column is the model's own power with that coefficient at 1 and all others at 0."""
    leak = np.array([leak_factor(model, o.temperature_c) for o in seen if o.temperature_c is not None])
    domains = [domain for domain in model.domains if domain.rail == rail.name]
    leaking = tuple(domain.domain for domain in domains if domain.leakage_w)
    leakage_w = rail.leakage_w + sum(domain.leakage_w for domain in domains)
    section = f"rails.{rail.name}"
    terms = [
        _Term(section, "static_w", (), np.ones(len(seen)), rail.static_w, 0),
        _Term(section, "leakage_w", leaking, leak, leakage_w, 4),
    ]
    for alike in _alike(domains):
        members = tuple(domain.domain for domain in alike)
        for name, doubt in DOUBTS:
            column = np.array([sum(_unit_power_w(domain, name, o) for domain in alike) for o in seen])
            value = float(getattr(alike[0], name))
            terms.append(_Term(f"domains.{members[0]}", name, members, column, value, doubt))
    return terms


def _alike(domains: Sequence[DomainPowerModel]) -> list[list[DomainPowerModel]]:
    """Domains of one processor with one description: work occupies all of them at once."""
    groups: dict[tuple[str | None, DomainPowerModel], list[DomainPowerModel]] = {}
    for domain in domains:
        groups.setdefault((processor_of(domain.domain), replace(domain, domain="")), []).append(domain)
    return list(groups.values())


def _unit_power_w(domain: DomainPowerModel, coefficient: str, observation: Observation) -> float:
    """Power of a domain on its rail per unit of one coefficient."""
    unit: dict[str, Any] = {name: float(name == coefficient) for name, _ in DOUBTS}
    alone = replace(domain, leakage_w=0.0, **unit)
    busy, hz = observation.utilization[domain.domain], observation.frequencies_hz[domain.domain]
    assert busy is not None and hz is not None
    terms = domain_terms(alone, hz)
    return terms.at(busy, 0.0, gated=domain.railgated and busy <= 0.0)


def _identifiable(terms: Sequence[_Term], sigma: np.ndarray) -> tuple[list[_Term], list[tuple[_Term, str]]]:
    """Terms that these observations can tell apart, and the others with the reason."""
    fitted = [t for t in terms if np.abs(t.column).max() > 0.0]
    held = [(t, "never in effect in this sweep") for t in terms if np.abs(t.column).max() == 0.0]
    everything = list(fitted)
    groups = _entangled(fitted, sigma)
    while fitted:
        entangled = _entangled(fitted, sigma)
        if not entangled and len(sigma) > len(fitted):
            break
        candidates = [fitted[n] for n in sorted(set().union(*entangled))] or fitted
        doubtful = max(candidates, key=lambda t: t.doubt)
        group = next((g for g in groups if everything.index(doubtful) in g), [])
        others = ", ".join(_label(everything[n]) for n in group if everything[n] is not doubtful)
        held.append((doubtful, f"cannot be distinguished from {others or 'the few observations'}"))
        fitted.remove(doubtful)
    return fitted, held


def _entangled(terms: Sequence[_Term], sigma: np.ndarray) -> list[list[int]]:
    """Groups of terms, by number, whose columns can stand in for each other.

    The projector onto the null space of the columns (unit length, singular values below 1 / WORST_CONDITION
    of the largest count as 0) does not depend on the basis that a library chooses: two terms belong together
    where it has an entry for them, directly or through others.
    """
    columns = np.stack([t.column / sigma for t in terms], axis=1)
    columns /= np.linalg.norm(columns, axis=0)
    _, singular, vectors = np.linalg.svd(columns)
    rank = int((singular * WORST_CONDITION >= singular[0]).sum())
    null = vectors[rank:]
    linked = np.abs(null.T @ null) > ENTANGLED
    number, labels = connected_components(linked, directed=False)
    groups = [np.flatnonzero(labels == label).tolist() for label in range(number)]
    return [group for group in groups if linked[group[0], group[0]]]


def _label(term: _Term) -> str:
    return f"{term.section.partition('.')[2]}.{term.name}"


def _coefficient(term: _Term, value: float, error: float) -> Coefficient:
    return Coefficient(
        term.section, term.name, float(value), float(error), term.board_value, shared=term.members
    )


def _held(term: _Term, reason: str) -> Coefficient:
    value = term.board_value
    return Coefficient(term.section, term.name, value, math.nan, value, reason, term.members)


def _fit_total(model: PowerModel, total_rail: str, observations: Sequence[Observation]) -> list[Coefficient]:
    """total - sum of rails = base_w + conversion_loss * sum of rails."""
    names = [rail.name for rail in model.rails]
    seen = [o for o in observations if _complete(model, o, *names, total_rail)]
    if not seen:
        return []
    total = np.array([o.rails_w[total_rail] for o in seen])
    rails = np.array([[o.rails_w[name] for name in names] for o in seen])
    sums = rails[..., 0].sum(axis=1)
    # the sum is measured too: its error counts once for itself and conversion_loss times more
    sigma = np.hypot(total[:, 1], (1 + model.conversion_loss) * np.sqrt((rails[..., 1] ** 2).sum(axis=1)))
    terms = [
        _Term("power", "base_w", (), np.ones(len(seen)), model.base_w, 0),
        _Term("power", "conversion_loss", (), sums, model.conversion_loss, 1),
    ]
    return _fit_terms(terms, total[:, 0] - sums, sigma)
