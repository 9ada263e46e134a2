"""Characterisation: a sweep of sub-networks x clocks x processors through the Device interface.

Every point of the sweep pins the clocks, waits until they read back, runs one sub-network (or nothing) and
records latency and power. Finished points are kept in a journal, so that a sweep that was cut continues.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from dynofa_ros.device.device import DeviceSample
from dynofa_ros.latency import processor_of
from dynofa_ros.library.library import Library
from dynofa_ros.library.testbench import Point, Rig, SweepError, references_hz, temperature_c
from dynofa_ros.messages import DeviceCapabilities, DomainState, DomainStatus, FrequencyBand

SAMPLE_S = 0.05  # between two readings of the power sensors
POLL_S = 0.01  # between two looks at the clocks while they settle
CLOCKS_SETTLE_S = 3.0  # longest wait for the clocks to read back
POWER_SETTLE_S = 0.4  # sensors lag by 30-50 ms; governors and regulators settle in less
SAME_CLOCK = 0.02  # relative; a pinned clock that reads back this close is set
INFERENCES_S = 1.0  # run at a time once the power is known
FEWEST_INFERENCES = 5
MOST_REPEATS = 20  # times more inferences where clocks lie close together
PARTIAL_SHARE = 0.5  # of the time busy, for the power of a processor that waits


# --- the points -----------------------------------------------------------------------------------


class Settings(msgspec.Struct, frozen=True):
    """Per point: ``window_s`` of power samples and ``repeats`` inferences, fewer after ``longest_s``."""

    frequencies: int | None = 8  # per domain; None = all
    repeats: int = 40
    window_s: float = 3.0
    longest_s: float = 20.0
    seed: int = 0


def choose_clocks(table: Sequence[int], number: int | None, reference_hz: float) -> tuple[int, ...]:
    """``number`` clocks spread over a table, ends included, and the one next to the reference; None = all."""
    if number is None or number >= len(table):
        return tuple(table)
    indices = np.linspace(0, len(table) - 1, max(number, 1)).round().astype(int)
    nearest = min(table, key=lambda hz: abs(hz - reference_hz))
    return tuple(sorted({table[i] for i in indices} | {nearest}))


def plan_points(
    capabilities: DeviceCapabilities,
    libraries: Mapping[str, Library],
    settings: Settings,
    clusters: Sequence[str] = (),
    threads: Sequence[int] = (),
) -> tuple[Point, ...]:
    """All points, in a random order that the seed decides, so that slow drifts hit all clocks alike.

    libraries: by processor. Domains of one processor with the same table change together; what is not
    swept stays parked. clusters, threads: on the CPU every sub-network is measured on each of these clock
    domains, alone, with each of these numbers of threads. Raises SweepError if the device has no processor of
    a library, or no such cluster.
    """
    _check_clusters(capabilities, clusters)
    tables = {d.domain: d.frequencies_hz for d in capabilities.domains if d.can_write and d.frequencies_hz}
    points: list[Point] = []
    for processor, library in libraries.items():
        if processor not in capabilities.processors:
            known = ", ".join(capabilities.processors) or "none"
            raise SweepError(f"{capabilities.board} has no processor {processor!r} (it has {known})")
        references = references_hz(library, tables)
        parked = _parked(tables, references)
        ids = list(dict.fromkeys(entry.id for entry in library))
        for cluster in clusters if processor == "cpu" and clusters else ("",):
            own = [
                name for name in tables if name == cluster or not cluster and processor_of(name) == processor
            ]
            sweep = list(_sweep(tables, parked, cluster or processor, references, settings.frequencies))
            repeats = _repeats([min((hz for name, hz in c if name in own), default=1) for c in sweep])
            for clocks, number in product(sweep, threads if processor == "cpu" and threads else (0,)):
                place = cluster, number
                points += [Point(clocks, processor, name, 1.0, repeats, *place) for name in ids]
                points.append(Point(clocks, processor, ids[-1], PARTIAL_SHARE, 1, *place))
    parked = _parked(tables, {})
    for processor in {processor_of(name) or name: None for name in tables}:
        points += map(Point, _sweep(tables, parked, processor, {}, settings.frequencies))
    unique = list({point.key: point for point in points}.values())
    random.Random(settings.seed).shuffle(unique)
    return tuple(unique)


def _check_clusters(capabilities: DeviceCapabilities, clusters: Sequence[str]) -> None:
    known = [d.domain for d in capabilities.domains if processor_of(d.domain) == "cpu"]
    if missing := [name for name in clusters if name not in known]:
        raise SweepError(
            f"{capabilities.board or 'this computer'} has no CPU cluster {missing[0]!r} "
            f"(it has {', '.join(known) or 'none'})"
        )


def _repeats(clocks_hz: Sequence[int]) -> int:
    """How many times more inferences tell alpha from beta as well as over a range of clocks of 1 : 2.

    Their errors grow with the inverse of the range of f_ref / f.
    """
    spread = max(clocks_hz) / min(clocks_hz) - 1.0
    return MOST_REPEATS if spread <= 0.0 else min(MOST_REPEATS, max(1, math.ceil(spread**-2)))


def _parked(tables: Mapping[str, Sequence[int]], references: Mapping[str, int]) -> dict[str, int]:
    """Clocks of the domains that are not swept: the reference, else the top of CPU and memory, which feed
    the others, and the bottom of the rest."""
    return {
        name: min(table, key=lambda hz: abs(hz - references[name]))
        if name in references
        else (max(table) if name.startswith(("cpu", "emc")) else min(table))
        for name, table in tables.items()
    }


def _sweep(
    tables: Mapping[str, Sequence[int]],
    parked: dict[str, int],
    processor: str,
    references: Mapping[str, int],
    number: int | None,
) -> Iterator[tuple[tuple[str, int], ...]]:
    """Clocks of all domains, one group of the processor's (or the one domain's) after the other swept."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, table in tables.items():
        if processor in (processor_of(name), name):
            groups.setdefault(tuple(table), []).append(name)
    for table, names in groups.items():
        reference_hz = references.get(names[0], max(table))
        for hz in choose_clocks(table, number, reference_hz):
            yield tuple((parked | dict.fromkeys(names, hz)).items())
    if not groups:  # no clock of it can be set: measure at the one it has
        yield tuple(parked.items())


class Times(msgspec.Struct, frozen=True):
    """Milliseconds per inference; ``error`` is the standard error of the median."""

    median: float
    p95: float
    error: float
    number: int


class Observation(msgspec.Struct, frozen=True):
    """What was seen at one point; null = unknown. ``rails_w``: (mean, standard error) by sensor.

    ``skipped`` says why nothing was measured.
    """

    point: Point
    frequencies_hz: dict[str, float | None] = {}
    utilization: dict[str, float | None] = {}
    temperature_c: float | None = None
    rails_w: dict[str, tuple[float, float]] = {}
    latency_ms: Times | None = None
    skipped: str = ""


# --- one point -----------------------------------------------------------------------------------


def observe(rig: Rig, point: Point, settings: Settings, seed: int) -> Observation:
    """Pin the clocks, let them and the sensors settle, measure."""
    rig.begin(seed)
    if unsettled := _pin(rig, point):
        return Observation(point, skipped=unsettled)
    _spend(rig, point, POWER_SETTLE_S)
    rig.device.read()  # utilisation counts from here
    begin_s, times, samples = rig.now_s(), list[float](), list[DeviceSample]()
    wanted_samples = settings.window_s / SAMPLE_S
    while not _enough(len(times), rig.now_s() - begin_s, point, settings):
        sampling = len(samples) < wanted_samples
        times += _spend(rig, point, SAMPLE_S if sampling else INFERENCES_S)
        if sampling:
            samples.append(rig.device.read())
    return Observation(
        point,
        frequencies_hz=_means({s: [d.frequency_hz for d in ds] for s, ds in _by_domain(samples).items()}),
        utilization=_means({s: [d.utilization for d in ds] for s, ds in _by_domain(samples).items()}),
        temperature_c=_mean([temperature_c([t.temperature_c for t in s.temperatures]) for s in samples]),
        rails_w=_power(samples),
        latency_ms=summarise(times) if times else None,
    )


def _pin(rig: Rig, point: Point) -> str:
    """Why the clocks are not as asked, empty if they are."""
    wanted = dict(point.clocks)
    if not wanted:
        return ""
    refused = [
        d.reason
        for d in rig.device.apply([FrequencyBand(name, hz, hz) for name, hz in wanted.items()])
        if d.status is DomainStatus.REJECTED
    ]
    if refused:
        return "; ".join(refused)
    end_s = rig.now_s() + CLOCKS_SETTLE_S
    while True:
        waiting = [d for d in rig.device.applied() if d.domain in wanted and not _set(d, wanted[d.domain])]
        if not waiting or rig.now_s() >= end_s:
            break
        rig.wait(POLL_S)
    return "; ".join(
        f"{d.domain} is {d.status.name} at {d.actual_hz / 1e6:g} MHz instead of {wanted[d.domain] / 1e6:g}"
        for d in waiting
    )


def _set(domain: DomainState, wanted_hz: int) -> bool:
    return abs(domain.actual_hz - wanted_hz) <= SAME_CLOCK * wanted_hz


def _spend(rig: Rig, point: Point, seconds: float) -> list[float]:
    if point.share > 0.0:
        return rig.run(point, seconds)
    rig.wait(seconds)
    return []


def _enough(inferences: int, elapsed_s: float, point: Point, settings: Settings) -> bool:
    wanted = settings.repeats * point.repeats if point.share > 0.0 else 0
    if elapsed_s >= settings.longest_s:
        return inferences >= min(wanted, FEWEST_INFERENCES)
    return elapsed_s >= settings.window_s and inferences >= wanted


def summarise(times_ms: Sequence[float]) -> Times:
    """Median, 95th percentile and the standard error of the median, from its robust spread."""
    values = np.asarray(times_ms)
    median, p95 = (float(v) for v in np.percentile(values, (50, 95)))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    # 1.2533 = sqrt(pi / 2): the median of normal values scatters that much more than their mean
    return Times(median, p95, max(1.2533 * spread / math.sqrt(len(values)), 3e-4 * median), len(values))


def _by_domain(samples: Sequence[DeviceSample]) -> dict[str, list]:
    names = [d.domain for d in samples[0].domains]
    return {n: [d for s in samples for d in s.domains if d.domain == n] for n in names}


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else None


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    return {name: _mean(own) for name, own in values.items()}


def _power(samples: Sequence[DeviceSample]) -> dict[str, tuple[float, float]]:
    rails: dict[str, tuple[float, float]] = {}
    for name in [rail.name for rail in samples[0].rails]:
        own = np.array([r.power_w for s in samples for r in s.rails if r.name == name])
        own = own[np.isfinite(own)]
        if len(own) >= 2:
            step_w = 1e-3  # a sensor that shows one value all the time is not exact
            error = max(float(own.std(ddof=1)), step_w) / math.sqrt(len(own))
            rails[name] = (float(own.mean()), error)
    return rails


# --- the sweep -----------------------------------------------------------------------------------


def plan_digest(points: Sequence[Point], settings: Settings, facts: Mapping[str, object]) -> str:
    """Names a sweep: the same digest means the same points under the same conditions (``facts``)."""
    data = msgspec.json.encode([points, settings, sorted(facts.items())])
    return hashlib.sha256(data).hexdigest()


class Journal:
    """Finished points as JSON lines; the first line names the sweep. A line torn by a cut is dropped."""

    def __init__(self, path: Path, digest: str, resume: bool) -> None:
        """Raises SweepError for a journal of another sweep, or one that is there and not to be resumed."""
        self.observations: dict[str, Observation] = {}
        head = msgspec.json.encode({"sweep": digest}) + b"\n"
        whole = b""
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
        if whole and not resume:
            raise SweepError(f"{path} is of an unfinished sweep: continue it with --resume, or delete it")
        if whole and not whole.startswith(head):
            raise SweepError(f"{path} is of another sweep: repeat its options, or delete it and begin anew")
        try:
            for line in whole.splitlines()[1:]:
                observation = msgspec.json.decode(line, type=Observation)
                self.observations[observation.point.key] = observation
        except msgspec.DecodeError as error:
            raise SweepError(f"{path}: {error}: delete it and begin anew") from None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if whole else "wb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not whole:
            self._write(head)

    def add(self, observation: Observation) -> None:
        """Safe on disk when this returns."""
        self._write(msgspec.json.encode(observation) + b"\n")
        self.observations[observation.point.key] = observation

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def sweep(
    rig: Rig,
    points: Sequence[Point],
    settings: Settings,
    journal: Journal,
    digest: str,
    on_point: Callable[[], None] = lambda: None,
) -> list[Observation]:
    """Observations of all points in their order; those in the journal are not measured again."""
    try:
        for point in points:
            if point.key not in journal.observations:
                seed = int.from_bytes(hashlib.sha256(f"{digest}{point.key}".encode()).digest()[:6], "big")
                journal.add(observe(rig, point, settings, seed))
            on_point()
    finally:  # also when a signal raises
        rig.device.restore()
    return [journal.observations[point.key] for point in points]
