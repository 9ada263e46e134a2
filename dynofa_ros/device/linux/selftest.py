"""Checks of what only the real computer can confirm: sensors that move, plausible values, clocks that obey.

Reads only, unless writes are allowed; then every writable clock goes one step down and back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from dynofa_ros.device.device import DeviceSample
from dynofa_ros.device.linux.discovery_clocks import limits_hz
from dynofa_ros.device.linux.inventory import ClockDomain, Inventory
from dynofa_ros.device.linux.sensors import Sensors
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import DomainStatus, FrequencyBand

if TYPE_CHECKING:
    from dynofa_ros.device.linux.clock_writer import ClockWriter

WATCH_S, WATCH_HZ = 3.0, 20.0
OBEY_S = 1.5
LARGEST_SHARE = 0.01  # of a core, at WATCH_HZ
LEAST_W, MOST_W = 0.5, 1000.0
PART_EXCESS = 1.1  # parts are not sampled at the same moment as the total
RELEASE_FILES = ("/etc/nv_tegra_release", "/proc/sys/kernel/osrelease")
PODGOV = "nvhost_podgov"


class Outcome(Enum):
    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    NOTE = "note"  # a fact to send in with the list; nothing to pass


@dataclass(frozen=True)
class Check:
    """One line of the list."""

    name: str
    outcome: Outcome
    text: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "outcome": self.outcome.value, "text": self.text}


def run(
    files: SysFiles,
    inventory: Inventory,
    sensors: Sensors,
    allow_writes: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Check]:
    """The list, in the order it is to be read. Takes about 3 s, with writes up to 2 s more per clock."""
    samples, cpu_s = _watch(sensors, sleep)
    checks = [_board(inventory), *_clocks(files, inventory, samples), *_power(inventory, samples)]
    checks += [*_temperatures(samples), *_loads(samples), _cost(cpu_s), *_facts(files, inventory)]
    if allow_writes:
        from dynofa_ros.device.linux.clock_backup import BackupError

        try:
            checks += _writes(files, inventory, sleep)
        except (OSError, BackupError) as error:
            checks.append(Check("writing clocks", Outcome.FAIL, str(error)))
    else:
        checks.append(Check("writing clocks", Outcome.SKIP, "add --allow-writes"))
    return checks


def _watch(sensors: Sensors, sleep: Callable[[float], None]) -> tuple[list[DeviceSample], float]:
    """Samples of a few seconds, and the CPU time of one reading."""
    samples: list[DeviceSample] = []
    used_s = 0.0
    for _ in range(int(WATCH_S * WATCH_HZ)):
        start_s = time.process_time()
        samples.append(sensors.read())
        used_s += time.process_time() - start_s
        sleep(1.0 / WATCH_HZ)
    return samples, used_s / len(samples)


def _board(inventory: Inventory) -> Check:
    text = inventory.board or "neither a device-tree model nor a DMI product name"
    return Check("board", Outcome.PASS if inventory.board else Outcome.FAIL, text)


def _clocks(files: SysFiles, inventory: Inventory, samples: list[DeviceSample]) -> Iterator[Check]:
    if not inventory.domains:
        yield Check("clocks", Outcome.FAIL, "no cpufreq policy and no devfreq device")
    for position, domain in enumerate(inventory.domains):
        name = f"clock {domain.name}"
        low, high = limits_hz(files, domain)
        seen = [sample.domains[position].frequency_hz for sample in samples]
        seen = [hz for hz in seen if not math.isnan(hz)]
        at_turbo = domain.turbo and high == domain.hardware_max_hz
        if low is None or high is None:
            yield Check(name, Outcome.FAIL, f"its limits cannot be read ({domain.min_path})")
        elif not seen:
            yield Check(name, Outcome.SKIP, samples[-1].origins[f"clock of {domain.name}"].reason)
        elif min(seen) < 0.9 * low or max(seen) > (math.inf if at_turbo else 1.1 * high):
            text = f"runs at {_span(seen)} MHz, outside its limits {_span([low, high])} MHz"
            yield Check(name, Outcome.FAIL, text)
        else:
            text = f"{_span(seen)} MHz within {_span([low, high])} MHz, {len(domain.frequencies_hz)} steps"
            yield Check(name, Outcome.PASS, text)


def _power(inventory: Inventory, samples: list[DeviceSample]) -> Iterator[Check]:
    totals = [sample.total_power_w for sample in samples if not math.isnan(sample.total_power_w)]
    if not totals:
        powers = [o for what, o in samples[-1].origins.items() if what.startswith("power")]
        why = next((origin.reason for origin in powers if origin.reason), "no sensor measures it")
        yield Check("power of the module", Outcome.FAIL if inventory.rails else Outcome.SKIP, why)
        return
    text = f"{min(totals):.2f} to {max(totals):.2f} W, from {' + '.join(inventory.total_rails)}"
    plausible = min(totals) >= LEAST_W and max(totals) <= MOST_W
    yield Check("power of the module", Outcome.PASS if plausible else Outcome.FAIL, text)
    moves = len(set(totals)) > 1
    yield Check("power moves", Outcome.PASS if moves else Outcome.FAIL, f"{len(set(totals))} values in 3 s")
    last = samples[-1]
    whole = {*inventory.total_rails, *(rail.name for rail in inventory.rails if rail.is_total)}
    parts = [r.power_w for r in last.rails if r.name not in whole and not math.isnan(r.power_w)]
    if parts and [rail.kind for rail in inventory.rails if rail.name in inventory.total_rails] != ["rapl"]:
        fits = sum(parts) <= PART_EXCESS * last.total_power_w
        text = f"other rails {sum(parts):.2f} W of {last.total_power_w:.2f} W"
        yield Check("total rail contains its parts", Outcome.PASS if fits else Outcome.FAIL, text)


def _temperatures(samples: list[DeviceSample]) -> Iterator[Check]:
    zones = samples[-1].temperatures
    known = [f"{zone.name} {zone.temperature_c:.1f}" for zone in zones if not math.isnan(zone.temperature_c)]
    offline = [zone.name for zone in zones if math.isnan(zone.temperature_c)]
    yield Check("temperatures", Outcome.PASS if known else Outcome.FAIL, ", ".join(known) or "none")
    if offline:
        yield Check("temperatures offline", Outcome.NOTE, ", ".join(offline))


def _loads(samples: list[DeviceSample]) -> Iterator[Check]:
    for domain in samples[-1].domains:
        load = f"load of {domain.domain}"
        if math.isnan(domain.utilization):
            yield Check(load, Outcome.SKIP, samples[-1].origins[load].reason)
        else:
            yield Check(load, Outcome.PASS, f"{100 * domain.utilization:.0f} %")


def _cost(cpu_s: float) -> Check:
    share = cpu_s * WATCH_HZ
    text = f"{1e3 * cpu_s:.2f} ms of CPU per reading, {100 * share:.2f} % of a core at {WATCH_HZ:g} Hz"
    return Check("cost of reading", Outcome.PASS if share <= LARGEST_SHARE else Outcome.FAIL, text)


def _facts(files: SysFiles, inventory: Inventory) -> Iterator[Check]:
    """What is not known of these boards from outside, for the one who reads the list."""
    release = "; ".join(filter(None, map(files.text, RELEASE_FILES)))
    yield Check("release", Outcome.NOTE, release or "unknown")
    zones = [f"{zone.path.rsplit('/', 2)[1]} {zone.name}" for zone in inventory.zones]
    yield Check("order of thermal zones", Outcome.NOTE, ", ".join(zones) or "none")
    paths = [rail.current_path or rail.power_path or rail.energy_path for rail in inventory.rails[:1]]
    paths += [domain.load_path for domain in inventory.domains if domain.load_path]
    modes = [f"{_mode(files, path)} {path}" for path in paths if path]
    yield Check("modes of sensor files", Outcome.NOTE, ", ".join(modes) or "none")
    for domain in inventory.domains:
        if domain.name == "gpu":
            yield Check("place of the GPU", Outcome.NOTE, domain.directory)
            governors = files.text(f"{domain.directory}/available_governors").split()
            yield Check("governors of the GPU", Outcome.NOTE, ", ".join(governors) or "unknown")
            if files.text(domain.governor_path or "") == PODGOV:
                yield Check(
                    "load law of the GPU", Outcome.NOTE, f"{PODGOV}; its source for JetPack 6 is open"
                )
    mode = inventory.power_mode
    text = f"{mode.number} {mode.name}" if mode else "no nvpmodel"
    yield Check(
        "power mode", Outcome.NOTE, f"{text}; clocks {'pinned' if inventory.clocks_pinned else 'free'}"
    )
    text = "GPU power at each clock with one network: `dynofa characterise` on the board measures it"
    yield Check("power over GPU clock", Outcome.SKIP, text)


def _writes(files: SysFiles, inventory: Inventory, sleep: Callable[[float], None]) -> list[Check]:
    """Raises OSError and BackupError if the state file cannot be used."""
    from dynofa_ros.device.linux.clock_backup import ClockBackup
    from dynofa_ros.device.linux.clock_writer import ClockWriter

    if inventory.clocks_pinned:
        return [Check("writing clocks", Outcome.SKIP, "jetson_clocks is on: sudo jetson_clocks --restore")]
    backup = ClockBackup(files)
    if backup.left_over():
        text = f"{backup.path}: clocks of an earlier run are not back; run `dynofa device restore`"
        return [Check("writing clocks", Outcome.FAIL, text)]
    backup.acquire()
    mode = inventory.power_mode
    writer = ClockWriter(files, inventory.domains, backup, read_mode=lambda: mode)
    try:
        return [_step(files, domain, writer, sleep) for domain in inventory.domains]
    finally:
        writer.restore()
        backup.release()


def _step(files: SysFiles, domain: ClockDomain, writer: ClockWriter, sleep: Callable[[float], None]) -> Check:
    """One domain one step down, looked at, and back."""
    name = f"writing {domain.name}"
    found = limits_hz(files, domain)
    low, high = found
    if not domain.writable or not domain.frequencies_hz or domain.lock_path or low is None or high is None:
        return Check(name, Outcome.SKIP, domain.reason or "its limits cannot be read")
    lower = [hz for hz in domain.frequencies_hz if hz < high]
    if not lower:
        return Check(name, Outcome.SKIP, "its maximum is the lowest clock already")
    step = FrequencyBand(domain.name, min(low, lower[-1]), lower[-1])
    state = next(state for state in reversed(writer.apply([step])) if state.domain == domain.name)
    waited_s = 0.0
    while state.status is DomainStatus.PENDING and waited_s < OBEY_S:
        sleep(0.05)
        waited_s += 0.05
        state = next(state for state in writer.applied() if state.domain == domain.name)
    set_to = limits_hz(files, domain)
    writer.restore()
    back = limits_hz(files, domain)
    if back != found:
        return Check(name, Outcome.FAIL, f"limits were {found} Hz, restored {back} Hz")
    if state.status is not DomainStatus.APPLIED:
        return Check(
            name, Outcome.FAIL, state.reason or f"still {state.status.name.lower()} after {OBEY_S} s"
        )
    text = f"max {_span([high])} to {_span([set_to[1] or 0])} MHz in {1e3 * waited_s:.0f} ms, and back"
    return Check(name, Outcome.PASS, text)


def _mode(files: SysFiles, path: str) -> str:
    allowed, _ = files.can_read(path)
    mode = files.mode(path)
    return f"{mode:04o}{'' if allowed else ' (closed)'}" if mode is not None else "unknown"


def _span(values_hz: list[float] | list[int]) -> str:
    low, high = min(values_hz) / 1e6, max(values_hz) / 1e6
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
