"""What every device backend offers: its capabilities, samples, and clock bands that it applies.

Samples and states are the messages of the device; the ages of readings, which only this side has, are beside.
Units: Hz, W, V, A, degrees Celsius. Unknown is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from dynofa_ros.messages import DeviceCapabilities, DeviceTelemetry, DomainState, FrequencyBand


class Origin(NamedTuple):
    """When the last value of a sensor was read, on the clock of ``DeviceSample.taken_s`` (NaN = never), and
    why it has none now ("" if it has)."""

    taken_s: float
    reason: str


@dataclass(frozen=True)
class DeviceSample(DeviceTelemetry):
    """One reading of everything. ``taken_s``: steady clock of the device.

    ``origins``: of each value, as "power of VDD_IN", "clock of cpu0", "load of cpu0" or "temperature of CPU";
    none on a simulated board, where every value is of now.
    """

    taken_s: float = 0.0
    origins: Mapping[str, Origin] = field(default_factory=dict)


class Device(Protocol):
    """A device backend."""

    def capabilities(self) -> DeviceCapabilities:
        """What the device is; constant while it is open."""
        ...

    def read(self) -> DeviceSample:
        """Sample all sensors now."""
        ...

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[DomainState, ...]:
        """Request bands; domains not named keep theirs.

        Returns the state of every domain, and one REJECTED entry with its reason per refused band.
        A band takes effect after the actuation delay: see ``applied``.
        """
        ...

    def applied(self) -> tuple[DomainState, ...]:
        """State of every domain now, clocks read back."""
        ...

    def restore(self) -> None:
        """Restore the clocks that were found at start."""
        ...
