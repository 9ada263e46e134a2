"""What a characterisation leads to: a library with fitted latencies and energies, and power coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec
import numpy as np

from dynofa_ros.device.board import Board
from dynofa_ros.library.files import renewed_notes
from dynofa_ros.library.fit import NORMAL_95, Coefficient, LatencyFit, PowerObservation, fit_latency
from dynofa_ros.library.library import Entry, Latency, Library, pareto_front
from dynofa_ros.library.power_file import rounded
from dynofa_ros.library.sweep import Observation

OUTDATED = ("latency:", "alpha and beta:", "reference frequencies:", "energy:")  # notes that begin so


@dataclass(frozen=True)
class Characterised:
    """``library`` is a strict front again; ``dropped`` are the entries that another one beats now.

    ``fits`` is None for an entry whose clocks did not vary, ``unmeasured`` were never reached.
    """

    library: Library
    fits: Mapping[str, LatencyFit | None]
    dropped: tuple[str, ...]
    unmeasured: tuple[str, ...]


def characterised(
    library: Library,
    observations: Sequence[Observation],
    references_hz: Mapping[str, int],
    board: str,
    total_rail: str,
    *,
    simulated: bool,
) -> Characterised:
    """The library with what the sweep saw on its processor.

    references_hz: clock by domain at which latency = alpha + beta; an entry's energy is the power of the
    whole module under inference without pause times the latency, both at these clocks; null where unknown.
    Raises ValueError if no entry was measured.
    """
    entries: list[Entry] = []
    fits: dict[str, LatencyFit | None] = {}
    unmeasured = []
    seen: dict[tuple[str, str, int], list[Observation]] = {}
    for o in observations:
        if (o.point.processor, o.point.share) == (library.processor, 1.0):
            own = seen.setdefault((o.point.subnet_id, o.point.cluster, o.point.threads), [])
            own += [o] if o.latency_ms is not None else []
    placements = sorted({key[1:] for key in seen})
    for (cluster, threads), name in product(placements, dict.fromkeys(e.id for e in library)):
        source = library.find(name, cluster, threads) or library.find(name)
        assert source is not None
        entry = msgspec.structs.replace(source, cluster=cluster or None, threads=threads or None)
        own = seen.get((name, cluster, threads), [])
        if not own:
            unmeasured.append(entry.label)
            continue
        at = {d: hz for d, hz in references_hz.items() if cluster in ("", d)}
        fit = fits[entry.label] = _fit(own, at)
        entries.append(_entry(entry, own, at, fit, total_rail, simulated))
    if not entries:
        raise ValueError(f"no sub-network could be measured on {library.processor}")
    front = pareto_front(entries)
    kept = {e.label for e in front}
    dropped = tuple(name for name in [e.label for e in entries] if name not in kept)
    result = msgspec.structs.replace(
        library,
        board=board,
        reference_frequencies_hz=dict(references_hz),
        notes=renewed_notes(library.notes, _note(board, simulated, fits), OUTDATED),
        entries=front,
    )
    return Characterised(result, fits, dropped, tuple(unmeasured))


def _ratio(observation: Observation, references_hz: Mapping[str, int]) -> float:
    """f_reference / f of the slowest domain, as the manager counts it; 1 where no clock is known."""
    clocks = [observation.frequencies_hz.get(name) for name in references_hz]
    known = [hz for hz in clocks if hz]
    return min(references_hz.values()) / min(known) if known else 1.0


def _fit(own: Sequence[Observation], references_hz: Mapping[str, int]) -> LatencyFit | None:
    times = [o.latency_ms for o in own if o.latency_ms is not None]
    median, number = np.array([t.median for t in times]), np.array([t.number for t in times])
    # A few inferences say little about their scatter; relative to the latency it is the same at all clocks.
    scatter = np.median([t.error / t.median * math.sqrt(t.number) for t in times])
    ratio = np.array([_ratio(o, references_hz) for o in own])
    return fit_latency(ratio, median, scatter * median / np.sqrt(number))


def _entry(
    entry: Entry,
    own: Sequence[Observation],
    references_hz: Mapping[str, int],
    fit: LatencyFit | None,
    total_rail: str,
    simulated: bool,
) -> Entry:
    nearest = min(own, key=lambda o: abs(math.log(_ratio(o, references_hz))))
    times = nearest.latency_ms
    assert times is not None
    if fit is None:  # one clock: alpha and beta keep their shares
        share = entry.alpha_ms / (entry.alpha_ms + entry.beta_ms)
        alpha_ms, beta_ms = share * times.median, (1 - share) * times.median
    else:
        alpha_ms, beta_ms = fit.alpha_ms, fit.beta_ms
    median = alpha_ms + beta_ms
    power = nearest.rails_w.get(total_rail)
    at_reference = abs(_ratio(nearest, references_hz) - 1) < 0.02
    return msgspec.structs.replace(
        entry,
        latency_ms=Latency(rounded(median), rounded(median * times.p95 / times.median)),
        latency_source="predicted" if simulated else "measured",
        alpha_ms=rounded(alpha_ms),
        beta_ms=rounded(beta_ms),
        energy_j=rounded(power[0] * median / 1e3) if power and at_reference else None,
    )


def _note(board: str, simulated: bool, fits: Mapping[str, LatencyFit | None]) -> str:
    if simulated:
        return f"latency: simulated on {board} by dynofa characterise, as are alpha, beta and energy"
    misfit = max((f.misfit for f in fits.values() if f is not None), default=math.nan)
    if math.isnan(misfit):
        return f"latency: measured on {board} at one clock: alpha and beta keep their earlier shares"
    return f"latency: measured on {board}, off alpha + beta * f_ref / f by up to {misfit:.1%}"


def power_observations(observations: Sequence[Observation]) -> list[PowerObservation]:
    """What the power fit takes; unknown values become NaN."""
    return [
        PowerObservation(
            {k: math.nan if v is None else v for k, v in o.frequencies_hz.items()},
            {k: math.nan if v is None else v for k, v in o.utilization.items()},
            math.nan if o.temperature_c is None else o.temperature_c,
            o.rails_w,
        )
        for o in observations
        if o.rails_w
    ]


def power_document(
    board: Board, coefficients: Sequence[Coefficient], *, simulated: bool, points: int
) -> dict[str, object]:
    """The YAML of the fitted coefficients, under the keys of the board file."""
    sections: dict[str, dict[str, Any]] = {}
    for c in coefficients:
        value: dict[str, object] = {"value": rounded(c.value), "board_file": rounded(c.board_value)}
        if c.held:
            value["held"] = c.held
        else:
            low, high = c.value - NORMAL_95 * c.error, c.value + NORMAL_95 * c.error
            value["standard_error"] = rounded(c.error)
            value["interval_95"] = [rounded(max(low, 0.0)), rounded(high)]
        if c.shared:
            value["shared_by"] = list(c.shared)
        kind, _, owner = c.section.partition(".")
        section = sections.setdefault(kind, {})
        (section.setdefault(owner, {}) if owner else section)[c.name] = value
    return {
        "schema_version": 1,
        "board": board.name,
        "source": "simulated" if simulated else "measured",
        "points": points,
        "coefficients": sections,
        "notes": [
            "voltages, leakage_per_c and leakage_reference_c are the board file's: power depends on "
            "voltage only through dynamic_w_per_ghz_v2 * V^2",
            "leakage_w of a rail is the sum over the rail and the domains under shared_by; other "
            "coefficients hold for each of the domains under shared_by",
            "held: not identifiable in this sweep, the board file's value",
        ],
    }
