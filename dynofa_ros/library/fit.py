"""Fits of measured latency and power, with standard errors. Pure functions.

Latency of one sub-network: alpha + beta * f_reference / f.
Power: the model of :mod:`dynofa_ros.device.power_model`, which is linear in its coefficients once the
clocks, the utilisation, the temperature and the board's voltages are known. V enters only as C * V^2 * f,
so the voltages and the temperature law of the leakage are the board file's and stay; so does every
coefficient that the observations cannot tell from the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynofa_ros.device.board import Board, Domain, processor_of

HUBER = 1.345  # residuals beyond this many standard deviations count linearly (Huber 1981: 95 % efficiency)
ITERATIONS = 30
NORMAL_95 = 1.96
WORST_CONDITION = 100.0  # of unit columns; above it, two coefficients can stand in for each other
ONE_CLOCK = 0.01  # relative; a spread of clocks below this tells nothing


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
        values = _not_negative(a * root[:, None], b * root)
        residuals = np.abs(b - a @ values)
        spread = max(1.0, 1.4826 * float(np.median(residuals)))
        weights = np.minimum(1.0, HUBER * spread / np.maximum(residuals, 1e-12))
    freedom = max(len(b) - a.shape[1], 1)
    variance = max(1.0, float(weights @ residuals**2) / freedom)
    covariance = variance * np.linalg.pinv((a * weights[:, None]).T @ a)
    return Fit(values, np.sqrt(np.diag(covariance)))


def _not_negative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Least squares with the most negative coefficient set to 0 until none is left."""
    active = np.ones(a.shape[1], dtype=bool)
    values = np.zeros(a.shape[1])
    while active.any():
        values[:] = 0.0
        values[active] = np.linalg.lstsq(a[:, active], b, rcond=None)[0]
        if values.min() >= 0.0:
            break
        active[int(values.argmin())] = False
    return np.maximum(values, 0.0)


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
class PowerObservation:
    """Means over one point of a sweep. ``rails_w``: (mean, standard error) by name, the total among them."""

    frequencies_hz: Mapping[str, float]
    utilization: Mapping[str, float]
    temperature_c: float
    rails_w: Mapping[str, tuple[float, float]]


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


def fit_power(board: Board, observations: Sequence[PowerObservation]) -> tuple[Coefficient, ...]:
    """Coefficients of every rail that was measured, then of the total. Empty without observations."""
    coefficients: list[Coefficient] = []
    for rail in board.rails:
        seen = [o for o in observations if _complete(board, o, rail)]
        if seen:
            coefficients += _fit_rail(board, rail, seen)
    return (*coefficients, *_fit_total(board, observations))


def _complete(board: Board, observation: PowerObservation, *rails: str) -> bool:
    values = [observation.temperature_c]
    values += [observation.rails_w.get(rail, (math.nan, math.nan))[0] for rail in rails]
    for name in board.domains:
        values += [
            observation.frequencies_hz.get(name, math.nan),
            observation.utilization.get(name, math.nan),
        ]
    return all(math.isfinite(v) for v in values)


def _fit_rail(board: Board, rail: str, seen: Sequence[PowerObservation]) -> list[Coefficient]:
    y, sigma = (np.array([o.rails_w[rail][i] for o in seen]) for i in (0, 1))
    return _fit_terms(_terms(board, rail, seen), y, sigma)


def _fit_terms(terms: Sequence[_Term], y: np.ndarray, sigma: np.ndarray) -> list[Coefficient]:
    """y = sum of columns times coefficients; what cannot be told is held at the board file's value."""
    fitted, held = _identifiable(terms, sigma)
    result: list[Coefficient] = []
    if fitted:
        rest = y - sum((t.column * t.board_value for t, _ in held), np.zeros(len(y)))
        fit = robust_fit(np.stack([t.column for t in fitted], axis=1), rest, sigma)
        result = [_coefficient(t, v, e) for t, v, e in zip(fitted, fit.values, fit.errors, strict=True)]
    return result + [_held(term, reason) for term, reason in held]


def _terms(board: Board, rail: str, seen: Sequence[PowerObservation]) -> list[_Term]:
    leak = np.array(
        [
            math.exp(board.power.leakage_per_c * (o.temperature_c - board.power.leakage_reference_c))
            for o in seen
        ]
    )
    domains = {name: domain for name, domain in board.domains.items() if domain.rail == rail}
    leaking = tuple(name for name, domain in domains.items() if domain.leakage_w)
    leakage_w = board.rails[rail].leakage_w + sum(domain.leakage_w for domain in domains.values())
    terms = [
        _Term(f"rails.{rail}", "static_w", (), np.ones(len(seen)), board.rails[rail].static_w, 0),
        _Term(f"rails.{rail}", "leakage_w", leaking, leak, leakage_w, 4),
    ]
    for members in _alike(domains):
        domain = domains[members[0]]
        for name, doubt, feature in _FEATURES:
            column = np.array(
                [sum(feature(domain, o.frequencies_hz[m], o.utilization[m]) for m in members) for o in seen]
            )
            terms.append(
                _Term(f"domains.{members[0]}", name, members, column, float(getattr(domain, name)), doubt)
            )
    return terms


def _alike(domains: Mapping[str, Domain]) -> list[tuple[str, ...]]:
    """Domains of one processor with one description: work occupies all of them at once."""
    groups: dict[tuple[str | None, Domain], list[str]] = {}
    for name, domain in domains.items():
        groups.setdefault((processor_of(name), domain), []).append(name)
    return [tuple(names) for names in groups.values()]


def _clock(domain: Domain, hz: float, busy: float) -> float:
    return hz * 1e-9


def _dynamic(domain: Domain, hz: float, busy: float) -> float:
    return float(domain.voltage_v(hz) ** 2 * hz * 1e-9 * domain.cores * busy)


def _busy(domain: Domain, hz: float, busy: float) -> float:
    return busy


def _idle(domain: Domain, hz: float, busy: float) -> float:
    if domain.railgated and busy <= 0.0:
        return 0.0
    top_hz = domain.frequencies_hz[-1]
    return float((domain.voltage_v(hz) / domain.voltage_v(top_hz)) ** 2 * hz / top_hz * (1.0 - busy))


# name in the board file, how early it is held, W per unit at a clock and busy share
_FEATURES: tuple[tuple[str, int, Callable[[Domain, float, float], float]], ...] = (
    ("clock_w_per_ghz", 2, _clock),
    ("dynamic_w_per_ghz_v2", 1, _dynamic),
    ("busy_w", 5, _busy),
    ("idle_w", 3, _idle),
)


def _identifiable(terms: Sequence[_Term], sigma: np.ndarray) -> tuple[list[_Term], list[tuple[_Term, str]]]:
    """Terms that these observations can tell apart, and the others with the reason."""
    fitted = [t for t in terms if np.abs(t.column).max() > 0.0]
    held = [(t, "never in effect in this sweep") for t in terms if np.abs(t.column).max() == 0.0]
    while fitted:
        columns = np.stack([t.column / sigma for t in fitted], axis=1)
        columns /= np.linalg.norm(columns, axis=0)
        _, singular, vectors = np.linalg.svd(columns, full_matrices=False)
        if len(sigma) > len(fitted) and singular[-1] * WORST_CONDITION >= singular[0]:
            break
        share = np.abs(vectors[-1])
        entangled = [t for t, s in zip(fitted, share, strict=True) if s >= 0.3 * share.max()]
        doubtful = max(entangled, key=lambda t: t.doubt)
        others = ", ".join(_label(t) for t in entangled if t is not doubtful) or "the few observations"
        held.append((doubtful, f"cannot be told from {others}"))
        fitted.remove(doubtful)
    return fitted, held


def _label(term: _Term) -> str:
    return f"{term.section.partition('.')[2]}.{term.name}"


def _coefficient(term: _Term, value: float, error: float) -> Coefficient:
    return Coefficient(
        term.section, term.name, float(value), float(error), term.board_value, shared=term.members
    )


def _held(term: _Term, reason: str) -> Coefficient:
    value = term.board_value
    return Coefficient(term.section, term.name, value, math.nan, value, reason, term.members)


def _fit_total(board: Board, observations: Sequence[PowerObservation]) -> list[Coefficient]:
    """total - sum of rails = base_w + conversion_loss * sum of rails."""
    seen = [o for o in observations if _complete(board, o, *board.rails, board.power.total_rail)]
    if not seen:
        return []
    total = np.array([o.rails_w[board.power.total_rail] for o in seen])
    rails = np.array([[o.rails_w[rail] for rail in board.rails] for o in seen])
    sums = rails[..., 0].sum(axis=1)
    # the sum is measured too: its error counts once for itself and conversion_loss times more
    sigma = np.hypot(
        total[:, 1], (1 + board.power.conversion_loss) * np.sqrt((rails[..., 1] ** 2).sum(axis=1))
    )
    terms = [
        _Term("power", "base_w", (), np.ones(len(seen)), board.power.base_w, 0),
        _Term("power", "conversion_loss", (), sums, board.power.conversion_loss, 1),
    ]
    return _fit_terms(terms, total[:, 0] - sums, sigma)
