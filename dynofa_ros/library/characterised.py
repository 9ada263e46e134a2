"""Results of a characterisation: a library with fitted latencies and energies, and the power file.

The power file has the power sections of a board description with the coefficients that were fitted. The
parameter `power_file` of the device node names it, `load_power_model` reads it. As in a board description,
the comment of a value says where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec
import numpy as np
import yaml

from dynofa_ros.device.board import Board, PowerDescription
from dynofa_ros.device.board_sections import Heat, PowerDomain
from dynofa_ros.library.files import renewed_notes
from dynofa_ros.library.fit import NORMAL_95, Coefficient, LatencyFit, fit_latency
from dynofa_ros.library.library import Entry, Latency, Library, pareto_front
from dynofa_ros.library.sweep import Observation

OUTDATED = ("latency:", "alpha and beta:", "reference frequencies:", "energy:")  # notes that begin so
DIGITS = 6  # significant ones


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


# --- the power file ---------------------------------------------------------------------------------


def rounded(value: float) -> float:
    """A value as it stands in files."""
    return float(f"{value:.{DIGITS}g}")


def fitted_description(board: PowerDescription, coefficients: Sequence[Coefficient]) -> PowerDescription:
    """The power sections of a description with fitted values in place of its own.

    Of the leakage of a rail and its domains only the sum can be fitted: all of them are scaled alike.
    """
    values = {key: rounded(c.value) for key, c in _by_key(coefficients).items()}
    scale = {c.section: c.value / c.board_value if c.board_value else 1.0 for c in _leaking(coefficients)}
    rails = {}
    for name, rail in board.rails.items():
        section = f"rails.{name}"
        own = rounded(rail.leakage_w * scale.get(section, 1.0))
        if not any(d.leakage_w for d in board.domains.values() if d.rail == name):
            own = values.get(f"{section}.leakage_w", own)
        static_w = values.get(f"{section}.static_w", rail.static_w)
        rails[name] = msgspec.structs.replace(rail, static_w=static_w, leakage_w=own)
    domains = {}
    for name, domain in board.domains.items():
        own_values: dict[str, Any] = {k: getattr(domain, k) for k in PowerDomain.__struct_fields__}
        own_values |= {
            k: values[f"domains.{name}.{k}"] for k in own_values if f"domains.{name}.{k}" in values
        }
        own_values["leakage_w"] = rounded(domain.leakage_w * scale.get(f"rails.{domain.rail}", 1.0))
        domains[name] = PowerDomain(**own_values)
    of_module = {k: values[f"power.{k}"] for k in ("base_w", "conversion_loss") if f"power.{k}" in values}
    heat = board.thermal and Heat(board.thermal.resistance_c_per_w, board.thermal.time_constant_s)
    return PowerDescription(
        name=board.name,
        power=msgspec.structs.replace(board.power, **of_module),
        rails=rails,
        domains=domains,
        thermal=heat,
        launch_share=board.launch_share,
    )


def power_file(
    board: PowerDescription, coefficients: Sequence[Coefficient], *, simulated: bool, points: int
) -> str:
    """Text of the power file for a board and what was fitted there."""
    notes = {key: _source(c) for key, c in _by_key(coefficients).items()}
    for c in _leaking(coefficients):
        members = [c.section, *(f"domains.{name}" for name in c.shared)]
        notes |= {f"{member}.leakage_w": f"{_source(c)}; the sum, shared as before" for member in members}
    how = "simulated points, not hardware" if simulated else "points measured on the board"
    head = [
        f"# Power of {board.name}, fitted by `dynofa characterise` to {points} {how}.",
        "# Parameter power_file of the device node; read at its start. +- is the standard error.",
        "# A value without a comment is that of the board description.",
    ]
    content = msgspec.to_builtins(fitted_description(board, coefficients))
    kept = {key: value for key, value in content.items() if key != "origin" and value not in (None, {})}
    return "\n".join([*head, *_lines(kept, notes, ""), ""])


def _by_key(coefficients: Sequence[Coefficient]) -> dict[str, Coefficient]:
    """Coefficients by the dotted keys that they fill."""
    found: dict[str, Coefficient] = {}
    for c in coefficients:
        kind = c.section.partition(".")[0]
        sections = [f"{kind}.{name}" for name in c.shared] if kind == "domains" else [c.section]
        found |= {f"{section}.{c.name}": c for section in sections}
    return found


def _leaking(coefficients: Sequence[Coefficient]) -> list[Coefficient]:
    """Leakage of whole rails."""
    return [c for c in coefficients if c.section.startswith("rails.") and c.name == "leakage_w"]


def _source(coefficient: Coefficient) -> str:
    if coefficient.held:
        return f"of the board description: {coefficient.held}"
    return f"+- {coefficient.error:.2g}"


def _lines(table: Mapping[str, Any], notes: Mapping[str, str], prefix: str) -> Iterator[str]:
    """YAML of nested tables, one line per value, each with its comment."""
    indent = "  " * prefix.count(".")
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, notes, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]
            note = notes.get(f"{prefix}{key}", "")
            yield f"{indent}{key}: {text}" + (f"  # {note}" if note else "")
