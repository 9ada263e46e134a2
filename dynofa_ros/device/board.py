"""Description of a computer board: clock domains, power, heat, sensors and modes, read from YAML.

The files are ``config/boards/<board>.yaml``; every value there carries its source or the word guess.
Units: Hz, W, V, A, seconds, degrees Celsius.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from dynofa_ros.device.board_sections import (
    Domain,
    Heat,
    Mode,
    Power,
    PowerDomain,
    Rail,
    Section,
    Sensors,
    Thermal,
)
from dynofa_ros.errors import one_line
from dynofa_ros.files import YAML_LOADER, decode_yaml, read_bounded
from dynofa_ros.latency import PROCESSORS, processor_of
from dynofa_ros.messages import DomainPowerModel, PowerModel, RailPowerModel
from dynofa_ros.paths import share_directories

DOMAIN_NAME = re.compile(r"cpu\d+|gpu|npu|emc")
# Clocks are compared at the resolution of cpufreq, which counts in kHz.
FREQUENCY_TOLERANCE_HZ = 1000
COMPLETE = {"description", "compatible", "sensors", "modes"}  # keys of a board that a power file lacks

# What a power model says of a domain in the words of its file.
POWER_TERMS = tuple(f.name for f in fields(DomainPowerModel) if f.name in PowerDomain.__struct_fields__)
# The comment of a value that nobody measured.
GUESS = re.compile(r"#.*\b(guess|from memory)")
T = TypeVar("T")


class BoardError(ValueError):
    """A board file that cannot be used; the message is one line: file, key, reason."""


class PowerDescription(Section, frozen=True, kw_only=True):
    """What a power model is made of: these sections of a board description, also alone in a power file.

    ``launch_share``: by processor, the share of a network's ``alpha_ms`` there in which the CPU prepares and
    launches it; it scales with the CPU's clock. None by default; the simulated board does not have it.
    ``origin``: path of the file.
    """

    name: str
    power: Power
    rails: dict[str, Rail]
    domains: Mapping[str, PowerDomain]
    thermal: Heat | None = None
    launch_share: dict[str, float] = {}
    origin: str = ""

    @property
    def processors(self) -> tuple[str, ...]:
        """Processors that a network can run on."""
        return tuple(p for p in PROCESSORS if processor_domains(self, p))


class Board(PowerDescription, frozen=True, kw_only=True):
    """A validated board description. Domains and rails keep the order of the file.

    ``compatible``: what such a computer calls itself, any of: an entry of ``compatible`` or the ``model`` of
    its device tree, the product name of its DMI.
    ``guesses``: keys of values that the file's comments call a guess or from memory: ``thermal.ambient_c``.
    """

    description: str
    compatible: tuple[str, ...] = ()
    thermal: Thermal
    sensors: Sensors
    domains: dict[str, Domain]
    modes: dict[str, Mode] = {}
    guesses: tuple[str, ...] = ()


Described = TypeVar("Described", PowerDescription, Board)


def processor_domains(board: PowerDescription, processor: str) -> tuple[str, ...]:
    """Clock domains of a processor, in board order; of a cluster that one; empty if the board has neither.

    An application on a processor occupies all of them: their utilisation is the processor's.
    """
    return tuple(name for name in board.domains if processor in (name, processor_of(name)))


def cluster_cpus(board: Board) -> dict[str, tuple[int, ...]]:
    """Numbers of the CPUs of each cluster: its name ends in that of the first one."""
    clusters = [name for name in board.domains if processor_of(name) == "cpu"]
    first = {name: int(name.removeprefix("cpu")) for name in clusters}
    return {name: tuple(range(n, n + board.domains[name].cores)) for name, n in first.items()}


def ceil_frequency(table: tuple[int, ...], frequency_hz: float) -> int:
    """Lowest clock of an ascending table that is not below the request; the top one beyond the table."""
    return table[min(bisect_left(table, frequency_hz - FREQUENCY_TOLERANCE_HZ), len(table) - 1)]


def floor_frequency(table: tuple[int, ...], frequency_hz: float) -> int:
    """Highest clock of an ascending table that is not above the request; the bottom one below the table."""
    return table[max(bisect_right(table, frequency_hz + FREQUENCY_TOLERANCE_HZ) - 1, 0)]


def power_model(description: PowerDescription) -> PowerModel:
    """The power model of a description, in the order of its file."""
    power, heat = description.power, description.thermal
    return PowerModel(
        board=description.name,
        origin=description.origin,
        base_w=power.base_w,
        conversion_loss=power.conversion_loss,
        leakage_per_c=power.leakage_per_c,
        leakage_reference_c=power.leakage_reference_c,
        rails=tuple(RailPowerModel(n, r.static_w, r.leakage_w) for n, r in description.rails.items()),
        domains=tuple(
            DomainPowerModel(
                domain=name,
                top_hz=float(domain.frequencies_hz[-1]),
                voltage_hz=tuple(float(hz) for hz, _ in domain.voltages),
                voltage_v=tuple(volts for _, volts in domain.voltages),
                launch_share=description.launch_share.get(processor_of(name) or "", 0.0),
                **{term: getattr(domain, term) for term in POWER_TERMS},
            )
            for name, domain in description.domains.items()
        ),
        resistance_c_per_w=heat.resistance_c_per_w if heat else math.nan,
        time_constant_s=heat.time_constant_s if heat else math.nan,
    )


def load_board(name_or_path: str | Path) -> Board:
    """Board by name (``"xavier_nx"``) or by the path of a YAML file.

    Raises BoardError, in one line naming file, key and reason, for an unknown board or a wrong file.
    """
    path = _board_path(name_or_path)
    return _parse(*_read(path), Board, str(path))


def load_power_model(name_or_path: str | Path) -> PowerModel:
    """Power model of a power file, or of a board description, by path or name of the latter.

    A power file has the sections of PowerDescription only; ``dynofa characterise`` writes one.
    Raises BoardError as ``load_board`` does.
    """
    path = _board_path(name_or_path)
    raw, guesses = _read(path)
    if raw.keys() & COMPLETE:
        return power_model(_parse(raw, guesses, Board, str(path)))
    return power_model(_parse(raw, guesses, PowerDescription, str(path)))


def matching_board(identities: Sequence[str]) -> Board | None:
    """The description of the computer that calls itself so, None if there is none.

    identities: from the most to the least specific; the first that a description names decides.
    Raises BoardError for a description that cannot be used.
    """
    boards = [load_board(path) for path in _descriptions().values()]
    named = {key.casefold(): board for board in reversed(boards) for key in board.compatible}
    return next((named[key] for key in map(str.casefold, identities) if key in named), None)


def _descriptions() -> dict[str, Path]:
    """Paths of the board descriptions by name; the first folder that has one counts."""
    folders = [directory / "config" / "boards" for directory in share_directories()]
    paths = [path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))]
    return dict(sorted((path.stem, path) for path in paths))


def _read(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Content of a file, and the keys of its guesses."""
    try:
        data = read_bounded(path)
        raw, guesses = decode_yaml(data), guessed_keys(data.decode())
    except OSError as error:
        raise BoardError(f"board {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BoardError(f"board {path}: not YAML: {one_line(error)}") from error
    if not isinstance(raw, dict):
        raise BoardError(f"board {path}: expected a table of keys, got {type(raw).__name__}")
    return raw, guesses


def _board_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(text).expanduser()
    known = _descriptions()
    if text not in known:
        raise BoardError(f"board '{text}' is unknown; known: {', '.join(known) or 'none'}")
    return known[text]


def _parse(raw: dict[str, Any], guesses: tuple[str, ...], kind: type[Described], where: str) -> Described:
    for key, why in (("guesses", "say guess in the comment of the value"), ("origin", "it is this file")):
        if key in raw:
            raise BoardError(f"board {where}: {key}: not a key; {why}")
    parts = {**raw, "origin": where}
    tables: dict[str, type[Section]] = {"rails": Rail, "domains": PowerDomain}
    if kind is Board:
        parts = {"modes": {}, **parts, "guesses": guesses}
        tables |= {"domains": Domain, "modes": Mode}
    # Convert the named tables one by one: msgspec's own error path does not tell which name was wrong.
    for section, entry in tables.items():
        named = parts.get(section)
        if not isinstance(named, dict) or not (named or entry is Mode):
            raise BoardError(f"board {where}: {section}: expected a table of names, got {named!r}")
        parts[section] = {
            name: _convert(table, entry, where, f"{section}.{name}") for name, table in named.items()
        }
    found = _convert(parts, kind, where, "")
    if reason := _contradiction(found):
        raise BoardError(f"board {where}: {reason}")
    return found


def _contradiction(found: PowerDescription) -> str:
    """Key and reason of a part that does not fit the others, empty if there is none."""
    for name, domain in found.domains.items():
        if not DOMAIN_NAME.fullmatch(name):
            return f"domains.{name}: a domain is named cpu<number>, gpu, npu or emc"
        if domain.rail not in found.rails:
            return f"domains.{name}.rail: '{domain.rail}' is none of {', '.join(found.rails)}"
    if found.power.total_rail in found.rails:
        return "power.total_rail: also listed in rails, it must not be"
    for name, share in found.launch_share.items():
        if name == "cpu" or name not in found.processors:
            return f"launch_share.{name}: no processor that a CPU launches work on"
        if not 0.0 <= share <= 1.0:
            return f"launch_share.{name}: must be between 0 and 1, not {share}"
    if not isinstance(found, Board):
        return ""
    for name, mode in found.modes.items():
        if reason := _wrong_mode(found, mode):
            return f"modes.{name}.{reason}"
    if len({mode.id for mode in found.modes.values()}) < len(found.modes):
        return "modes: two of them have the same id"
    return ""


def _wrong_mode(board: Board, mode: Mode) -> str:
    cores = sum(board.domains[name].cores for name in processor_domains(board, "cpu"))
    if (mode.cores or 0) > cores:
        return f"cores: {mode.cores} are more than the {cores} of the board"
    for key, cap_hz in mode.caps_hz.items():
        capped = [key] if key in board.domains else processor_domains(board, key)
        if not capped:
            return f"caps_hz.{key}: neither a domain nor a processor of the board"
        lowest_hz = max(board.domains[name].frequencies_hz[0] for name in capped)
        if cap_hz < lowest_hz:
            return f"caps_hz.{key}: {cap_hz} is below the lowest clock {lowest_hz}"
    return ""


def _convert(raw: Any, kind: type[T], where: str, prefix: str) -> T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        key = prefix + path.strip("`").lstrip("$")
        raise BoardError(f"board {where}: {key.lstrip('.') or 'top level'}: {reason}") from None


def guessed_keys(text: str) -> tuple[str, ...]:
    """Dotted keys of the values that a comment calls a guess or from memory, in the order of the file.

    Values behind an alias count for every place that uses them. The comment stands on the line of the key.
    Raises yaml.YAMLError if the text is not YAML.
    """
    guessed = [GUESS.search(line) is not None for line in text.splitlines()]
    root = yaml.compose(text, Loader=YAML_LOADER)
    return tuple(_guessed_below(root, "", guessed)) if root is not None else ()


def _guessed_below(
    node: yaml.Node, prefix: str, guessed: list[bool], hidden: frozenset[str] = frozenset()
) -> list[str]:
    """``hidden``: keys that a table takes from elsewhere (``<<``) but sets itself."""
    if not isinstance(node, yaml.MappingNode):
        return []
    own = frozenset(key.value for key, _ in node.value)
    found: list[str] = []
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value == "<<":
            found += _guessed_below(value, prefix, guessed, own)
        elif key.value in hidden:
            continue
        elif isinstance(value, yaml.MappingNode):
            found += _guessed_below(value, f"{name}.", guessed)
        elif guessed[key.start_mark.line]:
            found.append(name)
    return found
