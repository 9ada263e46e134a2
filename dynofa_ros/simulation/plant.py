"""The simulated board under the applications: clocks, shared processors, outside load, modes, telemetry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import nan

import msgspec

from dynofa_ros.device.board import Board, cluster_cpus, processor_domains, processor_of
from dynofa_ros.device.simulated.power_modes import DomainLimit, mode_limits
from dynofa_ros.device.simulated.simulated_device import ExternalLoad, SimulatedDevice
from dynofa_ros.device.simulated.simulated_sensors import Truth
from dynofa_ros.device.simulated.thermal import with_resistance
from dynofa_ros.messages import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainState,
    DvfsState,
    FrequencyBand,
    Header,
)
from dynofa_ros.simulation.processors import SharedProcessor
from dynofa_ros.simulation.scene import Scene, Surroundings


class Plant:
    """``instant``: clocks change at once when they are commanded, for clairvoyant policies."""

    def __init__(self, scene: Scene, seed: int, instant: bool) -> None:
        self.board = _without_delays(scene.truth) if instant else scene.truth
        self.device = SimulatedDevice(self.board, seed, scene.temperature_c, mode=scene.mode)
        self.processors = {
            name: SharedProcessor(self.board, name, scene.contention.get(processor_of(name) or name, 0.0))
            for name in scene.places
        }
        self.clocks_hz: dict[str, int] = {}
        self._mode = scene.mode  # of the scene; the policy's own is in force where it leaves less
        self._own_mode: str | None = None
        self._busy: dict[str, float] = {}
        self._load: dict[str, ExternalLoad] = {}
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
        load = ExternalLoad(self.outside(name), factor - 1.0)
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
        stricter = min((self._mode, self._own_mode), key=lambda m: self._limit(m)["gpu"].max_hz)
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

    def _limit(self, mode: str | None) -> dict[str, DomainLimit]:
        return mode_limits(self.board, mode)

    # --- what is published about it ------------------------------------------------------------

    def capabilities(self) -> DeviceCapabilities:
        """The clocks that the mode leaves; domains that it switches off are left out."""
        limits, cpus = self._limit(self.device.mode), cluster_cpus(self.board)
        domains = tuple(
            DomainCapability(
                name,
                tuple(hz for hz in domain.frequencies_hz if hz <= limits[name].max_hz),
                cpus=cpus.get(name, ()),
            )
            for name, domain in self.board.domains.items()
            if limits[name].online
        )
        return DeviceCapabilities(self.board.name, domains, self.board.processors)

    def states(self, now_ns: int, decision_id: int) -> DvfsState:
        """Requested and real state of the clocks."""
        domains = []
        for name, hz in self.clocks_hz.items():
            band = self._bands.get(name)
            low, high = (band.min_hz, band.max_hz) if band else (0, 0)
            domains.append(DomainState(name, low, high, float(hz)))
        return DvfsState(decision_id, tuple(domains), header=Header(now_ns))

    def telemetry(self, now_ns: int, broken_thermometers: bool) -> DeviceTelemetry:
        """One sample of the sensors."""
        sample = self.device.read()
        if broken_thermometers:
            broken = tuple(replace(t, temperature_c=nan) for t in sample.temperatures)
            sample = replace(sample, temperatures=broken)
        return DeviceTelemetry(
            sample.total_power_w,
            domains=sample.domains,
            temperatures=sample.temperatures,
            header=Header(now_ns),
        )

    def truth(self) -> Truth:
        """What really holds."""
        return self.device.truth()


def idle_power(scene: Scene) -> tuple[float, float]:
    """Power of the idle board with its own governors (W): the module, and its CPU-GPU rail."""
    device = SimulatedDevice(scene.truth, 0, scene.temperature_c, mode=scene.mode)
    device.advance(2.0)
    truth = device.truth()
    return truth.total_w, truth.rail_w[cpu_gpu_rail(scene.truth)]


def cpu_gpu_rail(board: Board) -> str:
    """The rail that feeds the processors."""
    return board.domains[processor_domains(board, board.processors[-1])[0]].rail


def _without_delays(board: Board) -> Board:
    domains = {
        name: msgspec.structs.replace(domain, transition_s=0.0, poll_s=0.0)
        for name, domain in board.domains.items()
    }
    return msgspec.structs.replace(board, domains=domains)
