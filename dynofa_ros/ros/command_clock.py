"""The clock by which commands are renewed and lapse."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import ROSClock

from dynofa_ros.ros.diagnostics import Level, Status

LONGEST_STEP_NS = 1_000_000_000


class CommandClock:
    """Nanoseconds of the steady clock; with use_sim_time of the simulation, as the manager renews by it.

    It stands still while the simulation does. It never goes back, and however far or fast the simulation
    jumps ahead it moves by at most 1 s from one reading to the next: renewals keep up with that.
    """

    def __init__(self, clock: ROSClock, sources: Callable[[], int]) -> None:
        """sources: how many nodes publish /clock."""
        self._clock, self._sources = clock, sources
        self._simulated, self._last_ns, self._ns = False, time.monotonic_ns(), 0

    @property
    def simulated(self) -> bool:
        """Whether the time is that of a simulation, or a recording, on /clock."""
        return bool(self._clock.ros_time_is_active)

    def status(self) -> Status:
        """Diagnostics: which time this is, and whether it runs."""
        if not self.simulated:
            return Status(Level.OK, "system time")
        if self._clock.now().nanoseconds == 0:
            why = "nothing came on /clock, or the simulation has not begun"
            return Status(Level.ERROR, f"use_sim_time is true, but time stands still at 0: {why}")
        if not self._sources():
            return Status(
                Level.WARN, "nobody publishes /clock any more: time stands still, and so do the knobs"
            )
        return Status(Level.OK, "time of the simulation")

    def __call__(self) -> int:
        simulated = self.simulated
        now_ns = self._clock.now().nanoseconds if simulated else time.monotonic_ns()
        if simulated == self._simulated:
            step_ns = max(0, now_ns - self._last_ns)
            self._ns += min(step_ns, LONGEST_STEP_NS) if simulated else step_ns
        self._simulated, self._last_ns = simulated, now_ns
        return self._ns
