"""What every device backend offers: its capabilities, samples, and clock bands that it applies.

Units: Hz, W, V, A, degrees Celsius. Unknown is NaN, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Protocol


class DomainStatus(IntEnum):
    """State of a request for a clock domain; the values are those of ``dynofa_ros/DomainState``."""

    APPLIED = 0
    PENDING = 1
    REJECTED = 2
    DISABLED = 3
    FALLBACK = 4
    THROTTLED = 5


class ThrottleFlag(IntFlag):
    """Why clocks are held down; the bits are those of ``dynofa_ros/DeviceTelemetry``."""

    NONE = 0
    THERMAL = 1
    POWER = 2
    UNKNOWN = 128


@dataclass(frozen=True)
class Band:
    """Allowed frequency band of one clock domain; ``min_hz == max_hz`` pins the clock."""

    domain: str
    min_hz: int
    max_hz: int


@dataclass(frozen=True)
class DomainCapability:
    """What can be done with one clock domain; ``reason`` says why not, where something cannot."""

    domain: str
    frequencies_hz: tuple[int, ...]
    can_read: bool
    can_write: bool
    reason: str = ""


@dataclass(frozen=True)
class Capabilities:
    """What a device is. ``source`` is ``sysfs`` or ``simulated``.

    ``description``: name of the board description that was matched, empty without one.
    """

    board: str
    domains: tuple[DomainCapability, ...]
    processors: tuple[str, ...]
    source: str
    description: str = ""


@dataclass(frozen=True)
class RailSample:
    """One power sensor; a total rail contains others and is never added to them.

    ``taken_s``: when the last value was read, on the clock of ``DeviceSample.taken_s``; NaN = never.
    ``reason``: why the value is NaN.
    """

    name: str
    power_w: float
    voltage_v: float
    current_a: float
    is_total: bool = False
    taken_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class DomainSample:
    """Clock in effect and busy share (0..1) of one domain since the previous sample.

    ``taken_s`` and ``reason`` are those of the frequency, as in RailSample.
    """

    domain: str
    frequency_hz: float
    utilization: float
    taken_s: float = 0.0
    reason: str = ""
    utilization_taken_s: float = 0.0
    utilization_reason: str = ""


@dataclass(frozen=True)
class TemperatureSample:
    """One temperature sensor; ``taken_s`` and ``reason`` as in RailSample."""

    name: str
    temperature_c: float
    taken_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class DeviceSample:
    """One reading of everything. ``total_power_w`` is the power of the whole module.

    ``taken_s``: steady clock of the device, 0 where nothing is older than the sample.
    """

    total_power_w: float
    rails: tuple[RailSample, ...]
    domains: tuple[DomainSample, ...]
    temperatures: tuple[TemperatureSample, ...]
    throttle: ThrottleFlag
    taken_s: float = 0.0

    def age_s(self, value: RailSample | DomainSample | TemperatureSample) -> float:
        """Time since a value of this sample was read; NaN if it never was."""
        return self.taken_s - value.taken_s


@dataclass(frozen=True)
class AppliedDomain:
    """Requested and real state of one clock domain.

    ``min_hz`` and ``max_hz`` are as requested, 0 = no request. ``reason`` says why it was refused.
    ``external_slowdown``: simulated only, 0.4 = work on it takes 40 % longer because of outside load.
    """

    domain: str
    min_hz: int
    max_hz: int
    actual_hz: float
    status: DomainStatus
    reason: str = ""
    external_slowdown: float = math.nan


class Device(Protocol):
    """A device backend."""

    def capabilities(self) -> Capabilities:
        """What the device is; constant while it is open."""
        ...

    def read(self) -> DeviceSample:
        """Sample all sensors now."""
        ...

    def apply(self, bands: Sequence[Band]) -> tuple[AppliedDomain, ...]:
        """Request bands; domains not named keep theirs.

        Returns the state of every domain, and one REJECTED entry with its reason per refused band.
        A band takes effect after the actuation delay: see ``applied``.
        """
        ...

    def applied(self) -> tuple[AppliedDomain, ...]:
        """State of every domain now, clocks read back."""
        ...

    def restore(self) -> None:
        """Give back the clocks that were found at start."""
        ...
