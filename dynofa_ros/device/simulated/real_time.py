"""The simulated device in real time: a Device whose clock is the steady clock of this computer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from dynofa_ros.device.board import processor_domains
from dynofa_ros.device.device import AppliedDomain, DeviceSample
from dynofa_ros.device.simulated.simulated_device import ExternalLoad, SimulatedDevice
from dynofa_ros.device.simulated.utilization import BusyTimes
from dynofa_ros.messages import DeviceCapabilities, FrequencyBand

# A process that was stopped for longer (debugger, suspend) does not simulate what it missed.
LONGEST_GAP_S = 5.0


class RealTimeSimulation:
    """Implements :class:`dynofa_ros.device.device.Device`; every call first catches up with the clock.

    An application's inference occupies all clock domains of its processor.
    """

    def __init__(self, device: SimulatedDevice, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock_s = clock_s
        self._last_s = clock_s()
        self._busy = BusyTimes()
        self._load: dict[str, ExternalLoad] = {}

    def add_frame(self, app: str, processor: str, inference_s: float) -> None:
        """A frame was answered now. Raises ValueError for an unknown processor or a wrong duration."""
        if not processor_domains(self._device.board, processor):
            board = self._device.board
            known = ", ".join(board.processors)
            raise ValueError(f"board {board.name} has no processor '{processor}' (it has {known})")
        self._busy.add(app, processor, inference_s, self._clock_s())

    def set_load(self, domain: str, load: ExternalLoad) -> None:
        """Load from outside on a domain, until the next call for it.

        Raises ValueError for an unknown domain, a utilisation outside 0..1 or a slowdown below 0.
        """
        if domain not in self._device.board.domains:
            known = ", ".join(self._device.board.domains)
            raise ValueError(f"unknown clock domain '{domain}' (known: {known})")
        shares = load.utilization if isinstance(load.utilization, Sequence) else (load.utilization,)
        for share in shares:
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{domain}: utilization must be 0 to 100 %, not {100.0 * share:g}")
        if not 0.0 <= load.slowdown < math.inf:
            raise ValueError(f"{domain}: slowdown must be >= 0, not {load.slowdown:g}")
        self._catch_up()
        self._load[domain] = load
        self._device.advance(0.0, self._domain_utilization(), self._load)

    def set_mode(self, mode: str) -> None:
        """Switch to an nvpmodel mode by name, empty = all clocks. Raises ValueError for an unknown one."""
        self._catch_up()
        self._device.set_mode(mode or None)

    def capabilities(self) -> DeviceCapabilities:
        return self._device.capabilities()

    def read(self) -> DeviceSample:
        self._catch_up()
        return self._device.read()

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[AppliedDomain, ...]:
        self._catch_up()
        return self._device.apply(bands)

    def applied(self) -> tuple[AppliedDomain, ...]:
        self._catch_up()
        return self._device.applied()

    def restore(self) -> None:
        self._catch_up()
        self._device.restore()

    def _catch_up(self) -> None:
        now_s = self._clock_s()
        elapsed_s = min(now_s - self._last_s, LONGEST_GAP_S)
        self._last_s = now_s
        self._device.advance(elapsed_s, self._domain_utilization(), self._load)

    def _domain_utilization(self) -> dict[str, float]:
        board = self._device.board
        return {
            domain: share
            for processor, share in self._busy.utilization(self._clock_s()).items()
            for domain in processor_domains(board, processor)
        }
