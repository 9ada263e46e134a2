"""Test bench of a characterisation: a device whose clocks are pinned, and an engine that runs sub-networks.

On real hardware an inference is an inference and time passes by itself. On the simulated board both are
simulated: an inference takes alpha + beta * f_reference / f of its library entry, with noise; for threads
that no entry was measured with, times what `thread_share` says.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from dynofa_ros.device.board import Board, processor_domains
from dynofa_ros.device.device import Device
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.open import open_device
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.latency import core_share, latency
from dynofa_ros.library.files import OpenLibrary
from dynofa_ros.library.library import Library
from dynofa_ros.library.profiling import running_on
from dynofa_ros.supernet.registry import require_processor

# Guesses, as on a quiet computer: scatter of single inferences, and how often one is disturbed how much.
NOISE, SPIKE_SHARE, SPIKE = 0.02, 0.02, 0.5
# Where the simulated board's temperature is when a point begins (degrees Celsius).
COOLEST_C, WARMEST_C = 30.0, 75.0
# Of the time of an inference with one thread, what more threads do not shorten. From six networks of the
# ofa_mbv3 spaces with ONNX Runtime on an x86 computer with two CPUs: two threads take 0.61 to 0.67 of the
# time of one. That it is the same on other computers, and holds for more threads (Amdahl's law), is a guess.
SERIAL_SHARE = 0.28


def thread_share(threads: int) -> float:
    """Time of an inference with several threads over its time with one."""
    return SERIAL_SHARE + (1.0 - SERIAL_SHARE) / max(threads, 1)


class SweepError(RuntimeError):
    """A sweep that cannot begin, or a journal that is not its own."""


class Point(msgspec.Struct, frozen=True):
    """Pinned clocks, and the sub-network that runs; ``share`` of the time busy, 0 = nothing runs.

    ``repeats``: inferences wanted, in multiples of the settings' number. ``cluster``: clock domain of the
    CPUs that compute, "" = no particular one; ``threads``: 0 = whatever the rig takes.
    """

    clocks: tuple[tuple[str, int], ...]
    processor: str = ""
    subnet_id: str = ""
    share: float = 0.0
    repeats: int = 1
    cluster: str = ""
    threads: int = 0

    @property
    def key(self) -> str:
        clocks = ",".join(f"{name}={hz}" for name, hz in self.clocks)
        place = f"/{self.cluster or 'anywhere'} x{self.threads}" if self.cluster or self.threads else ""
        return f"{self.processor or 'idle'}/{self.subnet_id}/{self.share:g}/{clocks}{place}"


class Rig(Protocol):
    """``device`` may change with ``begin``."""

    @property
    def device(self) -> Device: ...

    def begin(self, seed: int) -> None:
        """A new point of the sweep starts; everything random in it follows from ``seed``."""
        ...

    def now_s(self) -> float:
        """Steady clock of the rig."""
        ...

    def wait(self, seconds: float) -> None:
        """Let time pass without work."""
        ...

    def run(self, point: Point, seconds: float) -> list[float]:
        """Milliseconds of each inference of a point run within about ``seconds``, at least one."""
        ...


class SimulatedRig:
    """A simulated board that starts every point afresh, so that the order of the points does not matter."""

    def __init__(
        self, board: Board, libraries: Mapping[str, Library], references_hz: Mapping[str, float]
    ) -> None:
        """references_hz: clock at which an entry takes alpha + beta, by processor."""
        self._board = board
        self._libraries = libraries
        self._references_hz = references_hz
        self.begin(0)

    @property
    def device(self) -> SimulatedDevice:
        return self._device

    def begin(self, seed: int) -> None:
        start_c = random.Random(seed).uniform(COOLEST_C, WARMEST_C)
        self._device = SimulatedDevice(self._board, seed, start_c)
        self._random = np.random.default_rng(seed)

    def now_s(self) -> float:
        return self._device.now_s

    def wait(self, seconds: float) -> None:
        self._device.advance(seconds)

    def run(self, point: Point, seconds: float) -> list[float]:
        processor, cluster, threads = point.processor, point.cluster, point.threads
        domains = (cluster,) if cluster else processor_domains(self._board, processor)
        actual_hz = min(d.actual_hz for d in self._device.applied() if d.domain in domains)
        library, cores = self._libraries[processor], self._cores(domains)
        entry = library.find(point.subnet_id, cluster, threads) or library.find(point.subnet_id)
        if entry is None:
            raise KeyError(f"{point.subnet_id} is not in the library of {processor}")
        reference_hz = library.reference_frequencies_hz.get(cluster, self._references_hz[processor])
        expected_ms = latency(entry.alpha_ms, entry.beta_ms, reference_hz / actual_hz)
        if entry.placement != (cluster, threads):
            whole = self._cores(processor_domains(self._board, processor))
            before, now = entry.threads or whole, threads or cores
            expected_ms *= thread_share(min(now, cores)) / thread_share(before)
        number = max(1, round(1e3 * seconds * point.share / expected_ms))
        times_ms = expected_ms * self._noise(number)
        busy = point.share * core_share(threads, cores)
        self._device.advance(float(times_ms.sum()) / 1e3 / point.share, busy=dict.fromkeys(domains, busy))
        return [float(t) for t in times_ms]

    def _cores(self, domains: Sequence[str]) -> int:
        return sum(self._board.domains[d].cores for d in domains)

    def _noise(self, number: int) -> np.ndarray:
        spikes = self._random.random(number) < SPIKE_SHARE
        heights = 1.0 + spikes * SPIKE * self._random.random(number)
        return np.exp(NOISE * self._random.standard_normal(number)) * heights


class RealRig:
    """Real inference on a real device.

    ``prepare`` makes what runs a processor's entry once, with a number of threads (0 = its own); ``cpus``: of
    each cluster, to which the calling thread is bound, and with it the threads that an engine then starts.
    """

    def __init__(
        self,
        device: Device,
        prepare: Callable[[str, str, int], Callable[[], object]],
        cpus: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.device = device
        self._prepare = prepare
        self._cpus = cpus or {}
        self._ready: tuple[str, str, str, int] | None = None  # what is prepared, and where

    def begin(self, seed: int) -> None:
        """Nothing: the hardware is as the point before left it."""

    def now_s(self) -> float:
        return time.perf_counter()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def run(self, point: Point, seconds: float) -> list[float]:
        with running_on(self._cpus[point.cluster] if point.cluster else ()):
            wanted = (point.processor, point.subnet_id, point.cluster, point.threads)
            if self._ready != wanted:
                self._once = self._prepare(point.processor, point.subnet_id, point.threads)
                self._ready = wanted
                self._once()
            return self._timed(point.share, seconds)

    def _timed(self, share: float, seconds: float) -> list[float]:
        end_s = self.now_s() + seconds
        times_ms: list[float] = []
        while not times_ms or self.now_s() < end_s:
            start_ns = time.perf_counter_ns()
            self._once()
            times_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
            if share < 1.0:
                time.sleep(times_ms[-1] / 1e3 * (1 / share - 1))
        return times_ms


def references_hz(library: Library, tables: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Reference clock of each of the library's processor's domains: as the library names it, else the top."""
    return {
        name: library.reference_frequencies_hz.get(name, max(table))
        for name, table in tables.items()
        if name.startswith(library.processor)
    }


def temperature_c(temperatures: Sequence[float]) -> float:
    """One temperature for the module: the median of its sensors, NaN where there is none."""
    known = [t for t in temperatures if math.isfinite(t)]
    return float(np.median(known)) if known else math.nan


# --- this computer ----------------------------------------------------------------------------------


def rig_of(device: SysfsDevice, libraries: Mapping[str, OpenLibrary], engine: str) -> RealRig:
    """A rig on ``device``. Raises EngineError for a processor that the engine does not reach, SweepError if
    no clock can be set."""
    for processor in libraries:
        require_processor(engine, processor)
    capabilities = device.capabilities()
    if not any(d.can_write for d in capabilities.domains):
        reasons = "; ".join(f"{d.domain}: {d.reason}" for d in capabilities.domains) or "no clock was found"
        raise SweepError(f"no clock of {capabilities.board or 'this computer'} can be set: {reasons}")

    def prepare(processor: str, subnet_id: str, threads: int) -> Callable[[], object]:
        opened = libraries[processor]
        entry = opened.library.find(subnet_id)
        assert entry is not None
        supernet, config = opened.supernet, opened.library.config(entry)
        runner = supernet.prepare(
            config,
            engine,
            statistics=opened.statistics.get(subnet_id),
            threads=threads or 1,
            processor=processor,
        )
        return partial(supernet.space.exercise, runner, config)

    return RealRig(device, prepare, {d.domain: d.cpus for d in capabilities.domains if d.cpus})


def total_rail(device: SysfsDevice) -> str:
    """Name of the sensor of the whole module's power; "" where there is none, or several."""
    totals = [rail.name for rail in device.inventory.rails if rail.is_total]
    return totals[0] if len(totals) == 1 else ""


def open_own(sysfs_root: Path, override_jetson_clocks: bool) -> SysfsDevice:
    """This computer's device, writable. Raises ValueError or OSError in one line: see ``open_device``."""
    device = open_device("sysfs", "", sysfs_root, True, override_pinned=override_jetson_clocks).device
    assert isinstance(device, SysfsDevice)
    return device
