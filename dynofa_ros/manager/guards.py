"""What the manager refuses to believe, and how it stays inside power and temperature limits.

The checks return the reason of a refusal in one line, None = sound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, inf, isfinite, isnan, nan

from dynofa_ros.manager.clocks import processor_of
from dynofa_ros.manager.placement import CLUSTERED, Key, entry_key, place_of
from dynofa_ros.messages import AppTargets, FrequencyBand, InferenceMonitor, SubnetEntry, SubnetLibrary

CAP_GUARD = 0.03  # of the cap, kept free for what the model does not see
CAP_RELEASE = 0.015  # a plan in force may use this much of the guard before it is replaced
RIPPLE_SAMPLES, RIPPLE_FIRST = 60, 20  # of telemetry: 6 s, 2 s
BIAS_PER_S = 0.1
BIAS_LIMIT = 0.2  # of the predicted power
OVER_CAP_S = 0.2  # longer above the cap than this is answered at once
SETTLE_S = 0.3  # power needs this long to follow a new clock
TRIM_DECAY_S = 3.0
TEMPERATURE_SMOOTHING_S = 3.0
TEMPERATURE_TREND_S = 10.0
POWER_SMOOTHING_S = 1.0
THERMAL_HORIZON_S = 30.0
LEAST_C, MOST_C = -60.0, 150.0  # outside, a thermometer is broken
MOST_W = 10_000.0
EMERGENCY_C = 3.0  # above the limit: lowest clocks, whatever is missed
DEAF_READINGS = 3  # outside the band that was commanded
DEAF_TOLERANCE = 0.02
DEAF_S, DEAF_MAX_S = 5.0, 60.0  # until a domain that did not obey is tried again
RESISTANCE_C_PER_W = 2.5  # boards without a description: the Xavier NX guess
TIME_CONSTANT_S = 90.0


def check_targets(targets: AppTargets) -> str | None:
    """Why targets are refused."""
    if not (isfinite(targets.latency_target_ms) and targets.latency_target_ms > 0.0):
        return f"latency_target_ms must be a number above 0, not {targets.latency_target_ms}"
    if not (isfinite(targets.rate_hz) and targets.rate_hz > 0.0):
        return f"rate_hz must be a number above 0, not {targets.rate_hz}"
    for name in ("accuracy_target", "accuracy_floor", "miss_tolerance"):
        value = getattr(targets, name)
        if not 0.0 <= value <= 1.0:
            return f"{name} must be from 0 to 1, not {value}"
    return None


def check_entry(entry: SubnetEntry) -> str | None:
    """Why one entry of a library is refused."""
    if not entry.id or not entry.processor:
        return "id and processor must not be empty"
    if entry.cluster and not (entry.processor == CLUSTERED and processor_of(entry.cluster) == CLUSTERED):
        return f"cluster {entry.cluster!r} is no cluster of the CPU"
    if not 0.0 <= entry.accuracy <= 1.0:
        return f"accuracy must be from 0 to 1, not {entry.accuracy}"
    for name in ("alpha_ms", "beta_ms"):
        value = getattr(entry, name)
        if not (isfinite(value) and value >= 0.0):
            return f"{name} must be a number >= 0, not {value}"
    if entry.alpha_ms + entry.beta_ms <= 0.0:
        return "alpha_ms + beta_ms must be above 0"
    return None


def check_library(library: SubnetLibrary) -> tuple[tuple[SubnetEntry, ...], tuple[str, ...]]:
    """The sound entries of a library, and the reasons why the others are refused."""
    sound: dict[Key, SubnetEntry] = {}
    reasons = []
    for entry in library.entries:
        key = entry_key(entry)
        reason = "listed twice" if key in sound else check_entry(entry)
        if reason is None:
            sound[key] = entry
        else:
            reasons.append(f"library of {library.app}, entry {entry.id!r} on {place_of(entry)!r}: {reason}")
    if not sound:
        reasons.append(f"library of {library.app}: no usable entry")
    return tuple(sound.values()), tuple(reasons)


def check_frame(frame: InferenceMonitor) -> str | None:
    """Why the measurement of a frame is refused."""
    for name in ("inference_ms", "latency_ms"):
        value = getattr(frame, name)
        if not (isfinite(value) and value > 0.0):
            return f"{name} must be a number above 0, not {value}"
    if frame.latency_ms < frame.inference_ms * (1.0 - 1e-3) - 1e-3:
        return f"latency_ms {frame.latency_ms} is below inference_ms {frame.inference_ms}"
    return None


@dataclass
class Ripple:
    """How far the power of single samples lies above its mean while no clock changes.

    A processor that hosts one job after the other is busy or not; a cap holds for the peaks too.
    """

    peak_w: float = 0.0
    _window_w: deque[float] = field(default_factory=lambda: deque(maxlen=RIPPLE_SAMPLES))

    def observe(self, measured_w: float, settled: bool) -> None:
        """Takes one sample; what was known stays until there are enough new ones."""
        if not settled:
            self._window_w.clear()
            return
        self._window_w.append(measured_w)
        if len(self._window_w) >= RIPPLE_FIRST:
            self.peak_w = max(self._window_w) - sum(self._window_w) / len(self._window_w)


@dataclass
class PowerGuard:
    """Bias of the power model, and a trim for what stays above the cap in spite of it."""

    bias_w: float = 0.0
    trim_w: float = 0.0
    measured_w: float = nan
    ripple: Ripple = field(default_factory=lambda: Ripple())
    _over_s: float = 0.0

    def observe(
        self, measured_w: float, predicted_w: float, dt_s: float, cap_w: float, settled: bool
    ) -> bool:
        """Takes one sample, ``dt_s`` after the last; True = above the cap for too long: plan again.

        ``predicted_w`` is the model at the clocks and utilisation of the same sample, without bias; NaN =
        unknown.
        """
        if not 0.0 <= measured_w < MOST_W:
            return False
        weight = 1.0 if isnan(self.measured_w) else 1.0 - exp(-dt_s / POWER_SMOOTHING_S)
        self.measured_w = measured_w if isnan(self.measured_w) else self._smooth(measured_w, weight)
        self.ripple.observe(measured_w, settled)
        if isfinite(predicted_w):
            step = BIAS_PER_S * min(dt_s, 1.0) * (measured_w - predicted_w - self.bias_w)
            limit = BIAS_LIMIT * predicted_w
            self.bias_w = min(max(self.bias_w + step, -limit), limit)
        return self._trim(measured_w, dt_s, cap_w, settled)

    def limit_w(self, cap_w: float) -> float:
        """Power that a new plan may be predicted to take; inf without a cap."""
        return cap_w * (1.0 - CAP_GUARD) - self.ripple.peak_w - self.trim_w

    def _smooth(self, value: float, weight: float) -> float:
        return self.measured_w + weight * (value - self.measured_w)

    def _trim(self, measured_w: float, dt_s: float, cap_w: float, settled: bool) -> bool:
        if cap_w == inf:
            self.trim_w, self._over_s = 0.0, 0.0
            return False
        over = measured_w > cap_w
        self._over_s = self._over_s + dt_s if over and settled else 0.0
        if not over:
            self.trim_w *= exp(-dt_s / TRIM_DECAY_S)
        if self._over_s < OVER_CAP_S:
            return False
        self._over_s = 0.0
        self.trim_w = min(self.trim_w + (measured_w - cap_w), cap_w)
        return True


@dataclass
class ThermalGuard:
    """Power at which the temperature limit would be reached within the horizon (one RC).

    The ambient term is taken from the present power, temperature and rise, so a wrong resistance only changes
    how fast the limit is approached, not where it lies.
    """

    resistance_c_per_w: float = RESISTANCE_C_PER_W
    time_constant_s: float = TIME_CONSTANT_S
    temperature_c: float = nan
    _slow_c: float = nan

    def observe(self, temperatures_c: Iterable[float], dt_s: float) -> bool:
        """Takes the hottest known sensor of one sample; False = there is none."""
        known = [t for t in temperatures_c if LEAST_C < t < MOST_C]
        if not known:
            return False
        hottest = max(known)
        if isnan(self.temperature_c):
            self.temperature_c = self._slow_c = hottest
        fast = 1.0 - exp(-dt_s / TEMPERATURE_SMOOTHING_S)
        slow = 1.0 - exp(-dt_s / TEMPERATURE_TREND_S)
        self.temperature_c += fast * (hottest - self.temperature_c)
        self._slow_c += slow * (hottest - self._slow_c)
        return True

    @property
    def rise_c_per_s(self) -> float:
        """Trend: two averages of a ramp lie as far apart as their time constants differ."""
        return (self.temperature_c - self._slow_c) / (TEMPERATURE_TREND_S - TEMPERATURE_SMOOTHING_S)

    def limit_w(self, limit_c: float, measured_w: float) -> float:
        """Power budget for the limit; inf while nothing is known, 0 = cool down at any price."""
        if isnan(self.temperature_c) or isnan(measured_w):
            return inf
        if self.temperature_c >= limit_c + EMERGENCY_C:
            return 0.0
        reached = 1.0 - exp(-THERMAL_HORIZON_S / self.time_constant_s)
        step_c = (limit_c - self.temperature_c) / reached - self.time_constant_s * max(0.0, self.rise_c_per_s)
        return max(0.0, measured_w + step_c / self.resistance_c_per_w)


@dataclass
class SensorTimes:
    """Times of the first step, and of the last ones that consumed a total power and a temperature."""

    started_ns: int | None = None
    power_ns: int | None = None
    temperature_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        """A step begins."""
        self.started_ns = now_ns if self.started_ns is None else self.started_ns

    def rebase(self, now_ns: int) -> None:
        """Starts all ages anew: the clock was set back."""
        for name, time_ns in vars(self).items():
            if time_ns is not None:
                setattr(self, name, min(time_ns, now_ns))


@dataclass
class ActuatorGuard:
    """Clock domains that do not do what they are told: refused writes, throttling, another master.

    They are planned with as they are, not as they should be, and tried again after a while.
    """

    deaf: frozenset[str] = frozenset()
    _bands: dict[str, FrequencyBand] = field(default_factory=dict)
    _since_ns: dict[str, int] = field(default_factory=dict)
    _outside: dict[str, int] = field(default_factory=dict)
    _until_ns: dict[str, int] = field(default_factory=dict)
    _wait_s: dict[str, float] = field(default_factory=dict)

    def command(self, now_ns: int, bands: Iterable[FrequencyBand]) -> None:
        """Takes the bands in force; a new one needs time to take effect."""
        for band in bands:
            if self._bands.get(band.domain) != band:
                self._bands[band.domain], self._since_ns[band.domain] = band, now_ns
                self._outside[band.domain] = 0

    def observe(self, now_ns: int, domain: str, hz: float) -> None:
        """Takes one reading of a clock."""
        band = self._bands.get(domain)
        if band is None or not (isfinite(hz) and hz > 0.0):
            return
        if band.min_hz * (1.0 - DEAF_TOLERANCE) <= hz <= band.max_hz * (1.0 + DEAF_TOLERANCE):
            self._outside[domain] = 0
            if domain not in self._until_ns:
                self._wait_s.pop(domain, None)
        elif now_ns - self._since_ns[domain] >= SETTLE_S * 1e9:
            self._outside[domain] += 1
            if self._outside[domain] >= DEAF_READINGS and domain not in self._until_ns:
                wait_s = self._wait_s[domain] = min(2.0 * self._wait_s.get(domain, DEAF_S / 2.0), DEAF_MAX_S)
                self._until_ns[domain] = now_ns + round(wait_s * 1e9)
                self.deaf = frozenset(self._until_ns)

    def expire(self, now_ns: int) -> bool:
        """Lets time go by; True = a domain is tried again."""
        due = [domain for domain, until_ns in self._until_ns.items() if now_ns >= until_ns]
        for domain in due:
            del self._until_ns[domain]
            self._since_ns[domain], self._outside[domain] = now_ns, 0
        if due:
            self.deaf = frozenset(self._until_ns)
        return bool(due)

    def rebase(self, now_ns: int) -> None:
        """Starts all waiting times anew: the clock was set back."""
        self._since_ns = {domain: min(since, now_ns) for domain, since in self._since_ns.items()}
        latest = now_ns + round(DEAF_MAX_S * 1e9)
        self._until_ns = {domain: min(until, latest) for domain, until in self._until_ns.items()}
