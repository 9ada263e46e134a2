"""The power file: the power sections of a board description with the coefficients that were fitted.

`dynofa characterise` writes it, the parameter `power_file` of the device node names it, `load_power_model`
reads it. As in a board description, the comment of a value says where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from dynofa_ros.device.board import PowerDescription
from dynofa_ros.device.board_sections import Heat, PowerDomain
from dynofa_ros.library.fit import Coefficient

DIGITS = 6  # significant ones


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
    notes = {key: _note(c) for key, c in _by_key(coefficients).items()}
    for c in _leaking(coefficients):
        members = [c.section, *(f"domains.{name}" for name in c.shared)]
        notes |= {f"{member}.leakage_w": f"{_note(c)}; the sum, shared as before" for member in members}
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


def _note(coefficient: Coefficient) -> str:
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
