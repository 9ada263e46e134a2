"""Readings of everything in an inventory: NaN with a reason when a sensor fails, and back by itself.

Files stay open between readings. What changes slowly or costs much is read less often than the rest, so
every value has an age.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dynofa_ros.device.device import DeviceSample, Origin
from dynofa_ros.device.linux import sensor_values
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.discovery_clocks import CPU
from dynofa_ros.device.linux.inventory import ClockDomain, Inventory, Rail, ThrottleSign, Zone
from dynofa_ros.device.linux.sensor_values import CpuTimes, EnergyCounter, EventCounter, Sensor
from dynofa_ros.device.linux.sysfs import KeptFile, SysFiles
from dynofa_ros.messages import DomainTelemetry, PowerRail, TemperatureReading, ThrottleFlag

FAST_EVERY_S = 0.04  # power, clock and load of a GPU, which their drivers renew every few to 25 ms
LOAD_EVERY_S = 0.1  # CPU times and energy counters, which need an interval
SLOW_EVERY_S = 0.2  # temperatures; voltage and current beside a power file
CPU_CLOCK_EVERY_S = 0.2  # on Xavier and Orin each reading holds a CPU of that clock for 0.5 ms
THROTTLE_EVERY_S = 0.5
LOOK_EVERY_S = 2.0
SEARCH_EVERY_S = 10.0
NO_TABLE_EVERY_S = 30.0
WATCHED_FOLDERS = (
    "/sys/devices/system/cpu/cpufreq",
    "/sys/class/devfreq",
    "/sys/class/hwmon",
    "/sys/class/powercap",
    "/sys/class/thermal",
)
THROTTLE_KINDS = {"thermal": ThrottleFlag.THERMAL, "power": ThrottleFlag.POWER}
Spec = TypeVar("Spec", Rail, ClockDomain, Zone, ThrottleSign)


class Sensors:
    """Reads samples. What was found once stays in every sample, with NaN while it is gone.

    Folders of devices, the CPUs that are on and permissions of limits are looked at every 2 s, and everything
    is searched again when they changed, every 10 s while a sensor fails or the last search met a file without
    a value for the moment, and every 30 s while a clock has no table. ``inventory`` is the last search.
    """

    def __init__(
        self,
        files: SysFiles,
        inventory: Inventory | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inventory = discover(files) if inventory is None else inventory
        self._files = files
        self._clock_s = clock_s
        self._cpu_times = files.keep("/proc/stat")
        times = CpuTimes(self._cpu_times, clock_s)
        self._rails = _Group[Rail](lambda rail: _rail(files, rail, clock_s))
        self._domains = _Group[ClockDomain](lambda domain: _domain(files, domain, times))
        self._zones = _Group[Zone](lambda zone: _zone(files, zone))
        self._signs = _Group[ThrottleSign](lambda sign: _sign(files, sign))
        self._total_rails: tuple[str, ...] = ()
        self._folders = self._look()
        self._look_s = self._search_s = clock_s()
        self._take_in(self.inventory)

    def read(self) -> DeviceSample:
        """Sample everything now; never raises for what a sensor does."""
        now_s = self._clock_s()
        if now_s - self._look_s >= LOOK_EVERY_S:
            self._search_if_changed(now_s)
        rails: tuple[PowerRail, ...] = self._rails.samples(now_s)
        return DeviceSample(
            total_power_w=self._total_w(rails),
            rails=rails,
            domains=self._domains.samples(now_s),
            temperatures=self._zones.samples(now_s),
            throttle_flags=_throttle(self._signs.samples(now_s)),
            taken_s=now_s,
            origins={
                what: Origin(sensor.taken_s, sensor.reason)
                for channel in self._channels()
                for what, sensor in channel.origins.items()
            },
        )

    def close(self) -> None:
        """Close all files; a later reading opens them again."""
        self._cpu_times.close()
        for channel in self._channels():
            channel.close()

    def _total_w(self, rails: tuple[PowerRail, ...]) -> float:
        if not self._total_rails:
            return math.nan
        return sum(rail.power_w for rail in rails if rail.name in self._total_rails)

    def _search_if_changed(self, now_s: float) -> None:
        self._look_s = now_s
        folders = self._look()
        incomplete = self.inventory.unsettled or any(c.failing for c in self._channels())
        no_table = any(not d.frequencies_hz for d in self.inventory.domains)  # it may come; many have none
        every_s = SEARCH_EVERY_S if incomplete else NO_TABLE_EVERY_S if no_table else math.inf
        if folders == self._folders and now_s - self._search_s < every_s:
            return
        self._folders, self._search_s = folders, now_s
        try:
            self.inventory = discover(self._files)
        except OSError:  # something vanished during the search; the next one will do
            return
        self._take_in(self.inventory)

    def _take_in(self, found: Inventory) -> None:
        self._rails.renew({rail.name: rail for rail in found.rails})
        self._domains.renew({domain.name: domain for domain in found.domains})
        self._zones.renew({zone.name: zone for zone in found.zones})
        self._signs.renew({sign.path: sign for sign in found.throttle_signs})
        self._total_rails = self._total_rails or found.total_rails

    def _look(self) -> tuple[tuple[object, ...], ...]:
        files, domains = self._files, self.inventory.domains
        limits = [path for d in domains for path in (d.lock_path or d.min_path, d.rate_path or d.max_path)]
        permits = tuple(files.can_write(path)[0] for path in limits)
        return ((files.text(f"{CPU}/online"),), permits, *(tuple(files.names(f)) for f in WATCHED_FOLDERS))

    def _channels(self) -> Iterable[_Channel]:
        groups = (self._rails, self._domains, self._zones, self._signs)
        return [channel for group in groups for channel in group.channels.values()]


def _throttle(signs: Iterable[tuple[str, float]]) -> ThrottleFlag:
    """What holds clocks down; UNKNOWN beside it while no sign of heat or none of power can be read."""
    flags, known = ThrottleFlag.NONE, set()
    for kind, value in signs:
        if not math.isnan(value):
            known.add(kind)
            flags |= THROTTLE_KINDS[kind] if value else ThrottleFlag.NONE
    return flags if known == THROTTLE_KINDS.keys() else flags | ThrottleFlag.UNKNOWN


class _Group(Generic[Spec]):
    """Channels of one kind by name. Their samples are made anew only when one of them is due."""

    def __init__(self, make: Callable[[Spec], _Channel]) -> None:
        self.channels: dict[str, _Channel] = {}
        self._make: Callable[[Spec], _Channel] = make
        self._specs: dict[str, Spec] = {}
        self._samples: tuple[Any, ...] = ()
        self._due_s = -math.inf

    def renew(self, found: dict[str, Spec]) -> None:
        """Add what is new and replace what moved; what vanished stays and reads NaN."""
        for name, spec in found.items():
            if self._specs.get(name) != spec:
                if name in self.channels:
                    self.channels[name].close()
                self._specs[name] = spec
                self.channels[name] = self._make(spec)
                self._due_s = -math.inf

    def samples(self, now_s: float) -> tuple[Any, ...]:
        if now_s >= self._due_s:
            channels = self.channels.values()
            self._samples = tuple([channel.at(now_s) for channel in channels])
            self._due_s = min((channel.due_s for channel in channels), default=math.inf)
        return self._samples


@dataclass
class _Channel:
    """Something with a name in the samples: its last sample, and its sensors in the order of reading.

    ``main``: the sensor without which it has failed. ``kept``: its open files. ``origins``: sensors by what
    they give to the sample.
    """

    main: Sensor
    sensors: tuple[Sensor, ...]
    make_sample: Callable[[], Any]
    kept: list[KeptFile]
    origins: dict[str, Sensor] = field(default_factory=dict)
    due_s: float = -math.inf
    _sample: Any = None

    @property
    def failing(self) -> bool:
        return bool(self.main.reason)

    def at(self, now_s: float) -> Any:
        """The sample now, made anew if a sensor is due."""
        if now_s >= self.due_s:
            for sensor in self.sensors:
                sensor.update(now_s)
            self.due_s = min([sensor.due_s for sensor in self.sensors])
            self._sample = self.make_sample()
        return self._sample

    def close(self) -> None:
        for file in self.kept:
            file.close()


def _rail(files: SysFiles, rail: Rail, clock_s: Callable[[], float]) -> _Channel:
    kept: list[KeptFile] = []

    def keep(path: str) -> KeptFile:
        kept.append(files.keep(path))
        return kept[-1]

    def milli(path: str | None) -> Sensor:
        if path is None:
            return Sensor(_no_file, "", math.inf)
        file = keep(path)
        every_s = SLOW_EVERY_S if rail.power_path else FAST_EVERY_S
        return Sensor(lambda: sensor_values.milli(file), path, every_s)

    def product() -> float:
        if reason := volt.reason or ampere.reason:
            raise ValueError(reason)
        return sensor_values.power_w(volt.value * ampere.value, rail.current_path or "", rail.is_total)

    def power() -> Sensor:
        if rail.energy_path:
            counter = EnergyCounter(keep(rail.energy_path), rail.energy_range_uj, clock_s)
            return Sensor(counter.power_w, rail.energy_path, LOAD_EVERY_S)
        if rail.power_path is None:
            return Sensor(product, "", FAST_EVERY_S)
        path, file = rail.power_path, keep(rail.power_path)

        def take() -> float:
            watt = sensor_values.to_int(file.read(), path) * rail.power_unit_w
            return sensor_values.power_w(watt, path, rail.is_total)

        return Sensor(take, path, FAST_EVERY_S)

    volt, ampere, watt = milli(rail.voltage_path), milli(rail.current_path), power()
    return _Channel(
        watt,
        (volt, ampere, watt),
        lambda: PowerRail(rail.name, watt.value, volt.value, ampere.value),
        kept,
        {f"power of {rail.name}": watt},
    )


def _domain(files: SysFiles, domain: ClockDomain, times: CpuTimes) -> _Channel:
    file, highest_hz = files.keep(domain.current_path), None if domain.turbo else domain.hardware_max_hz
    kept = [file]

    def load_sensor() -> Sensor:
        if domain.kind == "cpufreq":
            return Sensor(lambda: times.share(domain.cpus), "/proc/stat", LOAD_EVERY_S)
        if domain.load_path is None:
            return Sensor(_no_file, "", math.inf)
        path, load_file = domain.load_path, files.keep(domain.load_path)
        kept.append(load_file)
        if domain.kind == "emc":
            return Sensor(lambda: sensor_values.memory_share(load_file, clock.value), path, LOAD_EVERY_S)
        return Sensor(lambda: sensor_values.load_share(load_file), path, FAST_EVERY_S)

    every_s = CPU_CLOCK_EVERY_S if domain.kind == "cpufreq" else FAST_EVERY_S
    clock = Sensor(
        lambda: sensor_values.clock_hz(file, domain.unit_hz, domain.least_hz, highest_hz),
        domain.current_path,
        every_s,
    )
    load = load_sensor()
    return _Channel(
        clock,
        (clock, load),
        lambda: DomainTelemetry(domain.name, clock.value, 100.0 * load.value),
        kept,
        {f"clock of {domain.name}": clock, f"load of {domain.name}": load},
    )


def _zone(files: SysFiles, zone: Zone) -> _Channel:
    file = files.keep(zone.path)
    heat = Sensor(lambda: sensor_values.temperature_c(file), zone.path, SLOW_EVERY_S)
    origins = {f"temperature of {zone.name}": heat}
    return _Channel(heat, (heat,), lambda: TemperatureReading(zone.name, heat.value), [file], origins)


def _sign(files: SysFiles, sign: ThrottleSign) -> _Channel:
    file = files.keep(sign.path)
    take = EventCounter(file).sign if sign.counts else lambda: sensor_values.sign(file)
    sensor = Sensor(take, sign.path, THROTTLE_EVERY_S)
    return _Channel(sensor, (sensor,), lambda: (sign.kind, sensor.value), [file])


def _no_file() -> float:
    raise ValueError("the kernel shows none")
