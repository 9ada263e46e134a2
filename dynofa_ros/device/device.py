"""What every device backend offers: its capabilities, samples, and clock bands that it applies.

Samples and states are the messages of the device, with what only this side knows: ages and reasons.
Units: Hz, W, V, A, degrees Celsius. Unknown is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dynofa_ros.messages import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainState,
    DomainTelemetry,
    FrequencyBand,
    PowerRail,
    TemperatureReading,
)


@dataclass(frozen=True)
class RailSample(PowerRail):
    """One power sensor; a total rail contains others and is never added to them.

    ``taken_s``: when the last value was read, on the clock of ``DeviceSample.taken_s``; NaN = never.
    ``reason``: why the value is NaN.
    """

    is_total: bool = False
    taken_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class DomainSample(DomainTelemetry):
    """One clock domain; ``taken_s`` and ``reason`` are those of the frequency, as in RailSample."""

    taken_s: float = 0.0
    reason: str = ""
    utilization_taken_s: float = 0.0
    utilization_reason: str = ""


@dataclass(frozen=True)
class TemperatureSample(TemperatureReading):
    """One temperature sensor; ``taken_s`` and ``reason`` as in RailSample."""

    taken_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class DeviceSample(DeviceTelemetry):
    """One reading of everything. ``taken_s``: steady clock of the device, 0 where nothing is older."""

    rails: tuple[RailSample, ...] = ()
    domains: tuple[DomainSample, ...] = ()
    temperatures: tuple[TemperatureSample, ...] = ()
    taken_s: float = 0.0

    def age_s(self, value: RailSample | DomainSample | TemperatureSample) -> float:
        """Time since a value of this sample was read; NaN if it never was."""
        return self.taken_s - value.taken_s


@dataclass(frozen=True)
class AppliedDomain(DomainState):
    """Requested and real state of one clock domain. ``reason`` says why the request was refused."""

    reason: str = ""


class Device(Protocol):
    """A device backend."""

    def capabilities(self) -> DeviceCapabilities:
        """What the device is; constant while it is open."""
        ...

    def read(self) -> DeviceSample:
        """Sample all sensors now."""
        ...

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[AppliedDomain, ...]:
        """Request bands; domains not named keep theirs.

        Returns the state of every domain, and one REJECTED entry with its reason per refused band.
        A band takes effect after the actuation delay: see ``applied``.
        """
        ...

    def applied(self) -> tuple[AppliedDomain, ...]:
        """State of every domain now, clocks read back."""
        ...

    def restore(self) -> None:
        """Restore the clocks that were found at start."""
        ...
