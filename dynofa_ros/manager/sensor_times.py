"""Times of the last measurements of power and temperature."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SensorTimes:
    """Times of the first step, and of the last ones that consumed a total power and a temperature."""

    started_ns: int | None = None
    power_ns: int | None = None
    temperature_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        """A step begins."""
        self.started_ns = now_ns if self.started_ns is None else self.started_ns

    def rebase(self, now_ns: int) -> None:
        """Starts all ages anew: the clock was set back."""
        for name, time_ns in vars(self).items():
            if time_ns is not None:
                setattr(self, name, min(time_ns, now_ns))
