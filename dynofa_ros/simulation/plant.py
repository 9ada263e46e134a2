"""The simulated board under the applications: clocks, shared processors, outside load, modes, telemetry.

The time of an inference alone is slowdown * noise * (alpha + beta * f_reference / f), and what a preemption
takes on top. While n jobs run on one
processor, each runs at 1 / (1 + contention * (n - 1)) of its speed. Jobs whose threads take only a share of
the cores wait where all together ask for more cores than there are: n is then the sum of the shares, but not
less than 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan

import msgspec

from dynofa_ros.device.board import Board, processor_domains, processor_of
from dynofa_ros.device.simulated.power_modes import mode_limits
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.device.simulated.thermal import with_resistance
from dynofa_ros.latency import core_share, latency, reference_hz
from dynofa_ros.messages import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainState,
    DvfsState,
    FrequencyBand,
    Header,
    SubnetEntry,
)
from dynofa_ros.simulation.scene import Scene, Surroundings

# Guess: published figures have 570 ms at 1.42 GHz and 840 ms at 1.19 GHz with fewer cores (4 of 6, it seems).
CORES_EXPONENT = 0.5


@dataclass(slots=True)
class Job:
    """One inference under way; alpha and beta with its bias and noise. ``left`` goes from 1 to 0.

    ``extra_s``: time that no clock and no neighbour changes.
    """

    app: str
    entry: SubnetEntry
    alpha_s: float
    beta_s: float
    reference_hz: float
    started_s: float
    extra_s: float = 0.0
    share: float = 1.0  # of the cores
    left: float = 1.0
    ready_s: float = inf


class SharedProcessor:
    """One processor with the jobs that run on it."""

    def __init__(self, board: Board, name: str, contention: float) -> None:
        self.name = name
        self.domains = processor_domains(board, name)
        self.jobs: list[Job] = []
        self.slowdown = 1.0  # by load from outside
        self.ready_s = inf  # when the next job is ready
        self._contention = contention
        self._cores = {d: board.domains[d].cores for d in self.domains}
        self._total = sum(self._cores.values())
        self._hz = 1.0
        self._capacity = 1.0
        self._now_s = 0.0
        self._top_hz = float(min(board.domains[d].frequencies_hz[-1] for d in self.domains))

    def set_clocks(self, clocks_hz: Mapping[str, float]) -> None:
        """New clocks in effect; 0 = that domain is off. Call ``retime`` before with the present time."""
        on = [(clocks_hz[d], self._cores[d]) for d in self.domains if clocks_hz[d] > 0.0]
        self._hz = min((hz for hz, _ in on), default=0.0)
        self._capacity = (sum(cores for _, cores in on) / self._total) ** CORES_EXPONENT if on else 0.0

    def start(self, app: str, entry: SubnetEntry, factor: float, now_s: float, extra_s: float = 0.0) -> None:
        """An inference of a true entry begins; ``factor`` = bias * noise on its latency."""
        self.progress(now_s)
        scale = 1e-3 * factor
        reference = reference_hz(entry.reference_frequencies, self._cores, self._top_hz)
        alpha_s, beta_s = scale * entry.alpha_ms, scale * entry.beta_ms
        share = core_share(entry.threads, self._total)
        self.jobs.append(Job(app, entry, alpha_s, beta_s, reference, now_s, extra_s, share))
        self.retime()

    def finish(self, job: Job, now_s: float) -> None:
        """A job is ready, or was given up."""
        self.progress(now_s)
        self.jobs.remove(job)
        self.retime()

    def progress(self, now_s: float) -> None:
        """Bring the jobs up to now at the speed that held so far."""
        passed_s, self._now_s = now_s - self._now_s, now_s
        if passed_s > 0.0:
            for job in self.jobs:
                job.left = max(0.0, job.left - passed_s / self._duration_s(job))

    def retime(self) -> None:
        """When jobs are ready at the speed that holds from now on."""
        self.ready_s = inf
        for job in self.jobs:
            job.ready_s = self._now_s + job.left * self._duration_s(job)
            self.ready_s = min(self.ready_s, job.ready_s)

    @property
    def asked(self) -> float:
        """Cores that the jobs ask for over those that there are."""
        return sum(job.share for job in self.jobs)

    def _duration_s(self, job: Job) -> float:
        speed = self._hz * self._capacity
        if not speed:
            return inf
        sharing = 1.0 + self._contention * max(0.0, self.asked - 1.0)
        slowdown = self.slowdown * sharing
        return float(latency(job.alpha_s, job.beta_s, job.reference_hz / speed, slowdown)) + job.extra_s


class Plant:
    """``instant``: clocks change at once when they are commanded, for clairvoyant policies."""

    def __init__(self, scene: Scene, seed: int, instant: bool) -> None:
        self.board = scene.truth
        if instant:
            domains = {
                n: msgspec.structs.replace(d, transition_s=0.0, poll_s=0.0)
                for n, d in self.board.domains.items()
            }
            self.board = msgspec.structs.replace(self.board, domains=domains)
        self.device = SimulatedDevice(self.board, seed, scene.temperature_c, mode=scene.mode)
        self.processors = {
            name: SharedProcessor(self.board, name, scene.contention.get(processor_of(name) or name, 0.0))
            for name in scene.places
        }
        self.clocks_hz: dict[str, int] = {}
        self._mode = scene.mode  # of the scene; the policy's own is in force where it leaves less
        self._own_mode: str | None = None
        self._busy: dict[str, float] = {}
        self._load: dict[str, tuple[float, float]] = {}
        self._outside: dict[str, dict[str, tuple[float, float]]] = {}
        self._bands: dict[str, FrequencyBand] = {}
        self.settle(0.0)

    @property
    def ready_s(self) -> float:
        """When the next inference is ready."""
        return min(processor.ready_s for processor in self.processors.values())

    def advance(self, to_s: float) -> float:
        """Lets time pass, at most until a clock changes; returns the time reached."""
        reached_s = self.device.advance_to(to_s, self._busy, self._load, until_clock=True)
        reached_s = to_s if reached_s > to_s - 2e-9 else reached_s
        self.settle(reached_s)
        return reached_s

    def settle(self, now_s: float) -> None:
        """Jobs go on at the clocks that are in effect now."""
        clocks = self.device.clocks_hz()
        if clocks == self.clocks_hz:
            return
        before, self.clocks_hz = self.clocks_hz, clocks
        for processor in self.processors.values():
            if any(before.get(domain) != clocks[domain] for domain in processor.domains):
                processor.progress(now_s)
                processor.set_clocks(clocks)
                processor.retime()

    def occupy(self, processor: SharedProcessor) -> None:
        """The jobs on a processor have changed: so many of its cores are busy."""
        share = min(1.0, processor.asked)
        if self._busy.get(processor.domains[0], 0.0) != share:
            self._busy = {**self._busy, **dict.fromkeys(processor.domains, share)}

    # --- what happens to it --------------------------------------------------------------------

    def set_load(self, source: str, name: str, utilization: float, slowdown: float, now_s: float) -> None:
        """Load of one source on a processor; utilisations of several sources add up, slowdowns multiply.

        On the CPU as a whole it is a load on each of its clusters.
        """
        if name not in self.processors:
            for place in [place for place in self.processors if processor_of(place) == name]:
                self.set_load(source, place, utilization, slowdown, now_s)
            return
        sources = self._outside.setdefault(name, {})
        sources[source] = (utilization, 1.0 + slowdown)
        factor = 1.0
        for _, own in sources.values():
            factor *= own
        processor = self.processors[name]
        processor.progress(now_s)
        processor.slowdown = factor
        processor.retime()
        load = (self.outside(name), factor - 1.0)
        self._load = {**self._load, **dict.fromkeys(processor.domains, load)}

    def outside(self, name: str) -> float:
        """Utilisation from outside of a processor."""
        return min(1.0, sum(utilization for utilization, _ in self._outside.get(name, {}).values()))

    def set_surroundings(self, event: Surroundings) -> None:
        """Another ambient temperature, another way out for the heat."""
        self.device.ambient_c = event.ambient_c
        resistance = self.board.thermal.resistance_c_per_w * event.resistance_factor
        self.device.thermal = with_resistance(self.board.thermal, resistance)

    def set_mode(self, mode: str | None, now_s: float, *, own: bool = False) -> None:
        """Another nvpmodel mode; ``own``: asked for by the policy."""
        if own:
            self._own_mode = mode
        else:
            self._mode = mode
        both = (self._mode, self._own_mode)
        stricter = min(both, key=lambda m: len(mode_limits(self.board, m)["gpu"].frequencies_hz))
        self.device.set_mode(self._mode if self._own_mode is None else stricter)
        self.device.advance(0.0, self._busy, self._load)
        self.settle(now_s)

    def apply(
        self, bands: Sequence[FrequencyBand], governors: Iterable[tuple[str, str]], now_s: float
    ) -> None:
        """Turn the knobs of the device."""
        for name, governor in governors:
            self.device.set_governor(name, governor)
        if bands:
            self.device.apply(bands)
            self._bands.update({band.domain: band for band in bands})
        self.device.advance(0.0, self._busy, self._load)
        self.settle(now_s)

    def pinned(self, domain: str) -> bool:
        """Whether a policy has set the clock of a domain."""
        band = self._bands.get(domain)
        return band is not None and band.min_hz == band.max_hz

    # --- what is published about it ------------------------------------------------------------

    def capabilities(self) -> DeviceCapabilities:
        """The clocks that the mode leaves; domains that it switches off are left out."""
        domains = tuple(d for d in self.device.capabilities().domains if d.can_write)
        return DeviceCapabilities(self.board.name, domains, self.board.processors)

    def states(self, now_ns: int, decision_id: int) -> DvfsState:
        """Requested and real state of the clocks."""
        asked = {name: self._bands.get(name, FrequencyBand(name, 0, 0)) for name in self.clocks_hz}
        domains = tuple(
            DomainState(n, b.min_hz, b.max_hz, float(self.clocks_hz[n])) for n, b in asked.items()
        )
        return DvfsState(decision_id, domains, header=Header(now_ns))

    def telemetry(self, now_ns: int, broken_thermometers: bool) -> DeviceTelemetry:
        """One sample of the sensors."""
        sample = self.device.read()
        temperatures = sample.temperatures
        if broken_thermometers:
            temperatures = tuple(replace(t, temperature_c=nan) for t in temperatures)
        return DeviceTelemetry(
            sample.total_power_w, domains=sample.domains, temperatures=temperatures, header=Header(now_ns)
        )


def idle_power(scene: Scene) -> tuple[float, float]:
    """Power of the idle board with its own governors (W): the module, and its CPU-GPU rail."""
    device = SimulatedDevice(scene.truth, 0, scene.temperature_c, mode=scene.mode)
    device.advance(2.0)
    truth = device.truth()
    return truth.total_w, truth.rail_w[cpu_gpu_rail(scene.truth)]


def cpu_gpu_rail(board: Board) -> str:
    """The rail that feeds the processors."""
    return board.domains[processor_domains(board, board.processors[-1])[0]].rail
