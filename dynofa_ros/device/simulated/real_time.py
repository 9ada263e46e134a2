"""The simulated device in real time: a Device whose clock is the steady clock of this computer."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from dynofa_ros.device.board import processor_domains
from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.latency import core_share
from dynofa_ros.messages import DeviceCapabilities, DomainState, FrequencyBand, SimulatedLoad

# A process that was stopped for longer (debugger, suspend) does not simulate what it missed.
LONGEST_GAP_S = 5.0
WINDOW_S = 0.5  # of frames that make up a busy share
FORGET_S = 2.0  # without a result


class BusyTimes:
    """Turns single frames into a smooth utilisation: busy time over the time between results.

    Each frame's busy time is spread over the interval since the previous result of its application,
    averaged over the last 0.5 s (and at least the last two results). When results stop coming, the
    share falls as 1 / time and is 0 after 2 s.
    """

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str], deque[tuple[float, float]]] = {}

    def add(self, app: str, processor: str, busy_s: float, now_s: float) -> None:
        """A result of ``app`` arrived at ``now_s``; it occupied ``processor`` for ``busy_s``.

        Raises ValueError if ``busy_s`` is not a finite number >= 0.
        """
        if not 0.0 <= busy_s < math.inf:
            raise ValueError(f"busy time of '{app}' must be >= 0 s, not {busy_s}")
        frames = self._frames.setdefault((app, processor), deque())
        frames.append((now_s, busy_s))
        while len(frames) > 2 and frames[1][0] < now_s - WINDOW_S:
            frames.popleft()

    def utilization(self, now_s: float) -> dict[str, float]:
        """Busy share (0..1) per processor that has been used lately."""
        shares: dict[str, float] = {}
        for (app, processor), frames in list(self._frames.items()):
            if now_s - frames[-1][0] > FORGET_S:
                del self._frames[app, processor]
                continue
            shares[processor] = min(shares.get(processor, 0.0) + _share(frames, now_s), 1.0)
        return shares


def _share(frames: deque[tuple[float, float]], now_s: float) -> float:
    age_s = now_s - frames[-1][0]
    if len(frames) == 1:
        return frames[0][1] / max(WINDOW_S, age_s, frames[0][1])
    busy_s = sum(busy for _, busy in frames) - frames[0][1]
    span_s = frames[-1][0] - frames[0][0]
    overdue_s = max(age_s - span_s / (len(frames) - 1), 0.0)
    return busy_s / max(span_s + overdue_s, busy_s) if busy_s else 0.0


class RealTimeSimulation:
    """Implements :class:`dynofa_ros.device.device.Device`; every call first catches up with the clock.

    An application's inference occupies all clock domains of its processor, or as many cores of its cluster as
    it has threads.
    """

    def __init__(self, device: SimulatedDevice, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock_s = clock_s
        self._last_s = clock_s()
        self._busy = BusyTimes()
        self._load: dict[str, tuple[float, float]] = {}

    def add_frame(
        self,
        app: str,
        processor: str,
        inference_s: float,
        cluster: str = "",
        threads: int = 0,
        age_s: float = 0.0,
    ) -> None:
        """A frame was answered ``age_s`` ago; ``cluster`` and ``threads`` as its monitor names them.

        Raises ValueError for an unknown processor or cluster, or a wrong duration.
        """
        board, place = self._device.board, cluster or processor
        domains = processor_domains(board, place)
        if not domains:
            known = ", ".join(board.processors)
            raise ValueError(f"board {board.name} has no processor '{place}' (it has {known})")
        cores = sum(board.domains[d].cores for d in domains)
        busy_s = core_share(threads, cores) * inference_s
        self._busy.add(app, place, busy_s, self._clock_s() - age_s)

    def set_load(self, load: SimulatedLoad) -> None:
        """Load from outside on a domain, until the next one for it.

        Raises ValueError for an unknown domain, a utilisation outside 0..1 or a slowdown below 0.
        """
        domain, percent = load.domain, load.utilization_percent
        if domain not in self._device.board.domains:
            known = ", ".join(self._device.board.domains)
            raise ValueError(f"unknown clock domain '{domain}' (known: {known})")
        if not 0.0 <= percent <= 100.0:
            raise ValueError(f"{domain}: utilization must be 0 to 100 %, not {percent:g}")
        if not 0.0 <= load.slowdown < math.inf:
            raise ValueError(f"{domain}: slowdown must be >= 0, not {load.slowdown:g}")
        self._catch_up()
        self._load[domain] = (0.01 * percent, load.slowdown)
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

    def apply(self, bands: Sequence[FrequencyBand]) -> tuple[DomainState, ...]:
        self._catch_up()
        return self._device.apply(bands)

    def applied(self) -> tuple[DomainState, ...]:
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
        busy: dict[str, float] = {}
        for place, share in self._busy.utilization(self._clock_s()).items():
            for domain in processor_domains(self._device.board, place):
                busy[domain] = min(1.0, busy.get(domain, 0.0) + share)
        return busy
