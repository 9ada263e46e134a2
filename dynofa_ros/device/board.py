"""Description of a computer board: clock domains, power, heat, sensors and modes, read from YAML.

The files are ``config/boards/<board>.yaml``; every value there carries its source or the word guess.
Units: Hz, W, V, A, seconds, degrees Celsius.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from dynofa_ros.device.guesses import guessed_keys
from dynofa_ros.paths import share_directories, share_file

PROCESSORS = ("cpu", "gpu", "npu")
DOMAIN_NAME = re.compile(r"cpu\d+|gpu|npu|emc")
# Clocks are compared at the resolution of cpufreq, which counts in kHz.
FREQUENCY_TOLERANCE_HZ = 1000

GovernorName = Literal[
    "conservative",
    "nvhost_podgov",
    "ondemand",
    "ondemand_raspberry_pi",
    "performance",
    "powersave",
    "schedutil",
    "simple_ondemand",
    "userspace",
]
T = TypeVar("T")


class BoardError(ValueError):
    """A board file that cannot be used; the message is one line: file, key, reason."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict base of everything read from a board file."""


class Rail(_Table, frozen=True):
    """A measured power rail behind the total rail.

    ``leakage_w`` grows with temperature (see :class:`Power`), ``static_w`` does not.
    """

    static_w: float
    leakage_w: float = 0.0

    def __post_init__(self) -> None:
        _require_not_negative(self, "static_w", "leakage_w")


class Power(_Table, frozen=True):
    """total = base_w + (1 + conversion_loss) * sum of rails; leakage scales with
    exp(leakage_per_c * (temperature - leakage_reference_c))."""

    total_rail: str
    base_w: float
    conversion_loss: float
    leakage_per_c: float
    leakage_reference_c: float

    def __post_init__(self) -> None:
        _require_not_negative(self, "base_w", "conversion_loss", "leakage_per_c")


class Thermal(_Table, frozen=True):
    """One thermal RC: T' = (ambient_c + resistance_c_per_w * total power - T) / time_constant_s."""

    resistance_c_per_w: float
    time_constant_s: float
    ambient_c: float
    trip_c: float
    hysteresis_c: float
    throttle_period_s: float
    sensor_offsets_c: dict[str, float]

    def __post_init__(self) -> None:
        _require_positive(self, "resistance_c_per_w", "time_constant_s", "throttle_period_s")
        _require_not_negative(self, "hysteresis_c")


class Sensors(_Table, frozen=True):
    """Power monitor (bus voltage and current with their steps, first-order lag, noise) and thermometer.

    The noise of a rail has the standard deviation noise_w + noise_share * power, new every ``conversion_s``.
    """

    supply_v: float
    voltage_step_v: float
    current_step_a: float
    lag_s: float
    noise_w: float
    temperature_step_c: float
    conversion_s: float = 0.01
    noise_share: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(self, "supply_v", "voltage_step_v", "current_step_a", "temperature_step_c")
        _require_positive(self, "conversion_s")
        _require_not_negative(self, "lag_s", "noise_w", "noise_share")


class Domain(_Table, frozen=True):
    """One clock domain and the terms of its power (see :mod:`dynofa_ros.device.power_model`).

    ``railgated``: switched off once it has been idle for ``railgate_delay_s``.
    ``poll_s``: period of a devfreq governor, and the longest wait until new limits are noticed.
    """

    rail: str
    frequencies_hz: tuple[int, ...]
    governor: GovernorName
    start_min_hz: int
    start_max_hz: int
    transition_s: float
    poll_s: float = 0.0
    throttled: bool = False
    cores: int = 1
    voltages: tuple[tuple[int, float], ...] = ()
    dynamic_w_per_ghz_v2: float = 0.0
    leakage_w: float = 0.0
    clock_w_per_ghz: float = 0.0
    busy_w: float = 0.0
    idle_w: float = 0.0
    railgated: bool = False
    railgate_delay_s: float = 0.0

    def __post_init__(self) -> None:
        _require_not_negative(
            self,
            "dynamic_w_per_ghz_v2",
            "leakage_w",
            "clock_w_per_ghz",
            "busy_w",
            "idle_w",
            "transition_s",
            "poll_s",
            "railgate_delay_s",
        )
        _require(self.cores >= 1, f"cores must be at least 1, not {self.cores}")
        table = self.frequencies_hz
        _require(bool(table), "frequencies_hz is empty; it must list the clocks in Hz, ascending")
        _require(table[0] > 0, "frequencies_hz must be positive")
        _require_ascending("frequencies_hz", table)
        _require_ascending("voltages", tuple(hz for hz, _ in self.voltages))
        _require(all(volts > 0 for _, volts in self.voltages), "voltages must be positive")
        if self.dynamic_w_per_ghz_v2 or self.idle_w:
            _require(bool(self.voltages), "voltages is missing; dynamic and idle power need [Hz, V] points")
        for key, value in (("start_min_hz", self.start_min_hz), ("start_max_hz", self.start_max_hz)):
            _require(value in table, f"{key} {value} is not one of frequencies_hz")
        _require(self.start_min_hz <= self.start_max_hz, "start_min_hz is above start_max_hz")

    def voltage_v(self, frequency_hz: float) -> float:
        """Supply voltage at a clock: linear between the points, flat outside, 1 V without points."""
        points = self.voltages
        if not points:
            return 1.0
        after = bisect_right(points, (frequency_hz, math.inf))
        if after == 0:
            return points[0][1]
        if after == len(points):
            return points[-1][1]
        (low_hz, low_v), (high_hz, high_v) = points[after - 1], points[after]
        return low_v + (high_v - low_v) * (frequency_hz - low_hz) / (high_hz - low_hz)


class Mode(_Table, frozen=True):
    """One nvpmodel mode: it caps clocks and cores, not watts.

    ``cores``: how many stay online, counted from core 0; None = all. ``caps_hz``: highest clock by domain or
    by processor ("cpu" = every cluster); it need not be a table entry.
    """

    id: int
    cores: int | None = None
    caps_hz: dict[str, int] = {}

    def __post_init__(self) -> None:
        _require(self.id >= 0, f"id must be >= 0, not {self.id}")
        _require(self.cores is None or self.cores >= 1, f"cores must be at least 1, not {self.cores}")


class Board(_Table, frozen=True):
    """A validated board description. Domains and rails keep the order of the file.

    ``launch_share``: by processor, the share of a network's ``alpha_ms`` there in which the CPU prepares and
    launches it; it scales with the CPU's clock. None by default; the simulated board does not have it.
    ``guesses``: keys of values that the file's comments call a guess or from memory: ``thermal.ambient_c``.
    """

    name: str
    description: str
    power: Power
    rails: dict[str, Rail]
    thermal: Thermal
    sensors: Sensors
    domains: dict[str, Domain]
    modes: dict[str, Mode] = {}
    launch_share: dict[str, float] = {}
    guesses: tuple[str, ...] = ()

    @property
    def processors(self) -> tuple[str, ...]:
        """Processors that a network can run on."""
        return tuple(p for p in PROCESSORS if processor_domains(self, p))


def processor_of(domain: str) -> str | None:
    """Processor that a clock domain belongs to: ``cpu`` for ``cpu0``, None for ``emc``."""
    name = domain.rstrip("0123456789")
    return name if name in PROCESSORS else None


def processor_domains(board: Board, processor: str) -> tuple[str, ...]:
    """Clock domains of a processor, in board order; empty if the board has no such processor.

    An application on a processor occupies all of them: their utilisation is the processor's.
    """
    return tuple(name for name in board.domains if processor_of(name) == processor)


def ceil_frequency(table: tuple[int, ...], frequency_hz: float) -> int:
    """Lowest clock of an ascending table that is not below the request; the top one beyond the table."""
    return table[min(bisect_left(table, frequency_hz - FREQUENCY_TOLERANCE_HZ), len(table) - 1)]


def floor_frequency(table: tuple[int, ...], frequency_hz: float) -> int:
    """Highest clock of an ascending table that is not above the request; the bottom one below the table."""
    return table[max(bisect_right(table, frequency_hz + FREQUENCY_TOLERANCE_HZ) - 1, 0)]


def load_board(name_or_path: str | Path) -> Board:
    """Board by name (``"xavier_nx"``) or by the path of a YAML file.

    Raises BoardError, in one line naming file, key and reason, for an unknown board or a wrong file.
    """
    path = _board_path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        raw, guesses = msgspec.yaml.decode(text), guessed_keys(text)
    except OSError as error:
        raise BoardError(f"board {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BoardError(f"board {path}: not YAML: {' '.join(str(error).split())}") from error
    return _parse(raw, guesses, str(path))


def _board_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(text).expanduser()
    try:
        return share_file("config", "boards", f"{text}.yaml")
    except FileNotFoundError:
        folders = [d / "config" / "boards" for d in share_directories()]
        known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
        raise BoardError(f"board '{text}' is unknown; known: {', '.join(known) or 'none'}") from None


def _parse(raw: Any, guesses: tuple[str, ...], where: str) -> Board:
    if not isinstance(raw, dict):
        raise BoardError(f"board {where}: expected a table of keys, got {type(raw).__name__}")
    if "guesses" in raw:
        raise BoardError(f"board {where}: guesses: not a key; say guess in the comment of the value")
    parts = {"modes": {}, **raw, "guesses": guesses}
    # Convert the named tables one by one: msgspec's own error path does not tell which name was wrong.
    for section, kind in (("rails", Rail), ("domains", Domain), ("modes", Mode)):
        tables = parts.get(section)
        if not isinstance(tables, dict) or not (tables or kind is Mode):
            raise BoardError(f"board {where}: {section}: expected a table of names, got {tables!r}")
        parts[section] = {
            name: _convert(table, kind, where, f"{section}.{name}") for name, table in tables.items()
        }
    board = _convert(parts, Board, where, "")
    for name, domain in board.domains.items():
        if not DOMAIN_NAME.fullmatch(name):
            raise BoardError(f"board {where}: domains.{name}: a domain is named cpu<number>, gpu, npu or emc")
        if domain.rail not in board.rails:
            rails = ", ".join(board.rails)
            raise BoardError(f"board {where}: domains.{name}.rail: '{domain.rail}' is none of {rails}")
    if board.power.total_rail in board.rails:
        raise BoardError(f"board {where}: power.total_rail: also listed in rails, it must not be")
    for name, share in board.launch_share.items():
        if name == "cpu" or name not in board.processors:
            raise BoardError(f"board {where}: launch_share.{name}: no processor that a CPU launches work on")
        if not 0.0 <= share <= 1.0:
            raise BoardError(f"board {where}: launch_share.{name}: must be between 0 and 1, not {share}")
    for name, mode in board.modes.items():
        if reason := _wrong_mode(board, mode):
            raise BoardError(f"board {where}: modes.{name}.{reason}")
    if len({mode.id for mode in board.modes.values()}) < len(board.modes):
        raise BoardError(f"board {where}: modes: two of them have the same id")
    return board


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


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _require_not_negative(table: _Table, *keys: str) -> None:
    for key in keys:
        value = getattr(table, key)
        _require(math.isfinite(value) and value >= 0, f"{key} must be a number >= 0, not {value}")


def _require_positive(table: _Table, *keys: str) -> None:
    for key in keys:
        value = getattr(table, key)
        _require(math.isfinite(value) and value > 0, f"{key} must be a number > 0, not {value}")


def _require_ascending(key: str, values: tuple[int, ...]) -> None:
    for low, high in zip(values, values[1:], strict=False):
        _require(low < high, f"{key} must be ascending: {high} follows {low}")
