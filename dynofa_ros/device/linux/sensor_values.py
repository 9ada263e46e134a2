"""From the text of a sensor's file to a value; whatever is not a plausible value is a ValueError.

The errors say why in words for the user. Units: Hz, W, V, A, degrees Celsius, shares 0..1.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence

from dynofa_ros.device.linux.sysfs import OFF, KeptFile, reason_of, to_int

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
FASTEST_HZ = 20e9
TURBO = 1.5  # a clock read back may be somewhat above the table, not far above
COLDEST_C, HOTTEST_C = -100.0, 150.0
LARGEST_W = 5e3
LARGEST_MILLI = 1_000_000  # 1 kV, 1 kA
COUNTER_TICK_S = 0.02  # energy counters move every ms; shorter intervals are too coarse
COUNTER_STUCK_S = 0.1
SUSPEND_S = 0.05  # shorter ones are the time between reading two clocks
EVENT_READINGS = 4
WINDOW_S = 0.08  # of CPU times, which count in steps of 10 ms


class Sensor:
    """One value that is read again and again: the last reading, when it was, and why there is none.

    ``take`` returns a value or raises OSError or ValueError. A reading is due after ``every_s`` (infinite:
    never again); after a failure 0.1 s later, then twice as long each time, up to 2 s. ``taken_s`` is NaN
    before the first value.
    """

    __slots__ = ("_every_s", "_failures", "_path", "_take", "due_s", "reason", "taken_s", "value")

    def __init__(self, take: Callable[[], float], path: str = "", every_s: float = 0.0) -> None:
        self.value = math.nan
        self.reason = "not read yet"
        self._take = take
        self._path = path
        self._every_s = every_s
        self.due_s = -math.inf
        self.taken_s = math.nan
        self._failures = 0

    def update(self, now_s: float) -> float:
        """The value now, read if it is due; NaN if the last try failed."""
        if now_s < self.due_s:
            return self.value
        try:
            self.value = self._take()
        except OSError as error:
            self._fail(now_s, reason_of(error, self._path))
        except ValueError as error:
            self._fail(now_s, str(error))
        else:
            self.reason = ""
            self._failures = 0
            self.taken_s = now_s
            self.due_s = now_s + self._every_s
        return self.value

    def _fail(self, now_s: float, reason: str) -> None:
        self.value = math.nan
        self.reason = reason
        retry_s = min(FIRST_RETRY_S * 2.0 ** min(self._failures, 8), LAST_RETRY_S)
        self.due_s = now_s + (retry_s if self._every_s < math.inf else math.inf)
        self._failures += 1


def clock_hz(file: KeptFile, unit_hz: int, least_hz: float, highest_hz: int | None) -> float:
    """A clock from a file that counts in ``unit_hz``."""
    hz = to_int(file.read(), file.path) * unit_hz
    if 0 <= hz < max(least_hz, 1.0):
        raise ValueError(f"{file.path}: reads {hz} Hz, {OFF} or not known near idle")
    if not 0 < hz <= min(TURBO * (highest_hz or math.inf), FASTEST_HZ):
        raise ValueError(f"{file.path}: {hz} Hz is no plausible clock")
    return float(hz)


def temperature_c(file: KeptFile) -> float:
    """A temperature from millidegrees; 0 and -256 degrees stand for a sensor that is powered off.

    Drivers of old kernels write degrees, which look like less than 0.15 degrees above zero.
    """
    celsius = to_int(file.read(), file.path) / 1000
    if 0 < celsius <= HOTTEST_C / 1000:
        raise ValueError(f"{file.path}: reads {1000 * celsius:g}, degrees where there must be millidegrees")
    if celsius == 0 or COLDEST_C > celsius > -300:
        raise ValueError(f"{file.path}: offline ({OFF}), reads {celsius:g}")
    if not COLDEST_C <= celsius <= HOTTEST_C:
        raise ValueError(f"{file.path}: {celsius:g} degrees is no plausible temperature")
    return celsius


def milli(file: KeptFile) -> float:
    """Volts or amperes from a file in mV or mA."""
    value = to_int(file.read(), file.path)
    if abs(value) > LARGEST_MILLI:
        raise ValueError(f"{file.path}: {value} is no plausible voltage or current")
    return value / 1000


def power_w(watt: float, path: str, is_total: bool) -> float:
    """A plausible power; a rail that feeds the whole module cannot carry 0 W while this program runs."""
    if not abs(watt) <= LARGEST_W:
        raise ValueError(f"{path}: {watt:g} W is no plausible power")
    if is_total and watt <= 0:
        raise ValueError(f"{path}: {watt:g} W on the rail that feeds everything, the sensor is off")
    return watt


def load_share(file: KeptFile) -> float:
    """Busy share 0..1 of a GPU or NPU.

    Tegra writes permille (``765``), Rockchip percent with the clock (``12@300000000Hz``) or per core
    (``NPU load:  Core0:  0%, Core1: 50%,``: the mean).
    """
    text = file.read()
    if re.fullmatch("[0-9]{1,4}", text):
        share = int(text) / 1000
    elif match := re.fullmatch(r"([0-9]{1,3})@[0-9]+(?:Hz)?", text):
        share = int(match[1]) / 100
    elif cores := re.findall(r"([0-9]{1,3})%", text):
        share = sum(map(int, cores)) / len(cores) / 100
    else:
        raise ValueError(f"{file.path}: must hold a load, holds {text[:40]!r}")
    return _share(share, file.path)


def memory_share(file: KeptFile, rate_hz: float) -> float:
    """Busy share 0..1 of the memory clock: the file holds the kHz that were active."""
    active_khz = to_int(file.read(), file.path)
    if not rate_hz > 0:
        raise ValueError(f"{file.path}: needs the memory clock, which is not known")
    return _share(active_khz / (rate_hz / 1000), file.path)


def sign(file: KeptFile) -> float:
    """A throttle sign: 1 while it is set, else 0."""
    return float(to_int(file.read(), file.path) > 0)


class EventCounter:
    """A count of throttle events: 1 for some readings after it grew, else 0."""

    def __init__(self, file: KeptFile) -> None:
        self._file = file
        self._last: int | None = None
        self._shown = 0

    def sign(self) -> float:
        """Raises OSError and ValueError."""
        count = to_int(self._file.read(), self._file.path)
        grown = self._last is not None and count > self._last
        self._last, self._shown = count, EVENT_READINGS if grown else max(self._shown - 1, 0)
        return float(self._shown > 0)


def suspended_s() -> float:
    """Time that this computer was suspended since its start; the monotonic clock stands still meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class EnergyCounter:
    """Mean power between two readings of an energy counter (uJ) that starts again after its range.

    An interval in which the computer was suspended has no known length, and the counter may have been reset.
    """

    def __init__(self, file: KeptFile, range_uj: int | None, clock_s: Callable[[], float]) -> None:
        self._file = file
        self._range_uj = range_uj
        self._clock_s = clock_s
        self._last: tuple[float, int] | None = None
        self._power_w = math.nan
        self._suspended_s = suspended_s()

    def power_w(self) -> float:
        """Power since the last reading. Raises OSError and ValueError."""
        try:
            energy_uj, now_s = to_int(self._file.read(), self._file.path), self._clock_s()
        except (OSError, ValueError):
            self._last = None
            raise
        last, self._last = self._last, (now_s, energy_uj)
        before_s, self._suspended_s = self._suspended_s, suspended_s()
        if self._suspended_s - before_s > SUSPEND_S:
            self._power_w = math.nan
            raise ValueError(f"{self._file.path}: the computer was suspended since the last reading")
        if last is None:
            raise ValueError(f"{self._file.path}: power needs a second reading of the counter")
        elapsed_s, grown_uj = now_s - last[0], energy_uj - last[1]
        if elapsed_s < COUNTER_TICK_S or (grown_uj == 0 and elapsed_s < COUNTER_STUCK_S):
            self._last = last
            if math.isnan(self._power_w):
                raise ValueError(f"{self._file.path}: power needs a later reading of the counter")
            return self._power_w
        self._power_w = math.nan
        if grown_uj == 0:
            raise ValueError(f"{self._file.path}: the counter stands still")
        if grown_uj < 0 and self._range_uj:
            grown_uj += self._range_uj
        watt = grown_uj / 1e6 / elapsed_s
        if not 0 < watt <= LARGEST_W:
            raise ValueError(f"{self._file.path}: the counter jumped by {grown_uj} uJ")
        self._power_w = watt
        return watt


class CpuTimes:
    """Busy share of CPUs from the time counters of ``/proc/stat``, over at least 80 ms."""

    def __init__(self, file: KeptFile, clock_s: Callable[[], float]) -> None:
        self._file = file
        self._clock_s = clock_s
        self._last_s = -math.inf
        self._last: dict[int, tuple[int, int]] = {}
        self._shares: dict[int, float] = {}
        self._failure = ""

    def share(self, cpus: Sequence[int]) -> float:
        """Mean busy share of those of the CPUs that are on. Raises ValueError."""
        if self._clock_s() - self._last_s >= WINDOW_S:
            self._update()
        if self._failure:
            raise ValueError(self._failure)
        shares = [self._shares[cpu] for cpu in cpus if cpu in self._shares]
        if shares:
            return sum(shares) / len(shares)
        if not any(cpu in self._last for cpu in cpus):
            raise ValueError(f"{self._file.path}: CPUs {', '.join(map(str, cpus))} are off")
        raise ValueError(f"{self._file.path}: the share needs a later reading of the CPU times")

    def _update(self) -> None:
        before, self._last, self._shares, self._failure = self._last, {}, {}, ""
        self._last_s = self._clock_s()
        try:
            self._read(before)
        except OSError as error:
            self._failure = reason_of(error, self._file.path)
        except ValueError as error:
            self._failure = str(error)

    def _read(self, before: dict[int, tuple[int, int]]) -> None:
        for line in self._file.read().splitlines()[1:]:
            if not line.startswith("cpu"):
                break
            words = line.split()
            ticks = [int(word) if word.isdecimal() else 0 for word in words[1:9]]  # guest is part of user
            number = words[0][3:]
            if len(ticks) < 5 or not number.isdecimal():
                raise ValueError(f"{self._file.path}: {line[:40]!r} is no line of CPU times")
            cpu = int(number)
            self._last[cpu] = (sum(ticks), ticks[3] + ticks[4])
            if cpu in before:
                total, idle = (new - old for new, old in zip(self._last[cpu], before[cpu], strict=True))
                if total > 0 and idle >= 0:
                    self._shares[cpu] = min(max(1.0 - idle / total, 0.0), 1.0)


def _share(value: float, path: str) -> float:
    if not 0.0 <= value <= 1.05:
        raise ValueError(f"{path}: {100 * value:g} % is no plausible load")
    return min(value, 1.0)
