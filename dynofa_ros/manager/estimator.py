"""How much slower than its library an application runs on a processor, and with what spread.

A random-walk Kalman filter on the log-ratio z = ln(measured / predicted) with measurement noise learned from
the median absolute deviation, clipped innovations and a two-sided CUSUM that re-opens the filter when the
level has moved. Spikes belong to the margin (an empirical quantile), not to the mean. The filter idea is
ALERT's (Wan et al., USENIX ATC 2020); noise learning, clipping and CUSUM replace its constants.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import exp, floor, isfinite, log, sqrt

NOISE_FLOOR = 9e-4  # (3 %)^2: what a pinned, idle machine shows
NOISE_START = 4e-3  # (6 %)^2 until enough residuals are seen
PROCESS_RATIO = 1.0 / 200.0  # q / r
CLIP_SIGMAS = 3.0
VARIANCE_START = 1.0  # nothing known
START_FRAMES = 3
VARIANCE_ALARM = 0.05
VARIANCE_PER_S = 0.002  # growth while nothing is measured
CUSUM_DRIFT = 1.0
CUSUM_THRESHOLD = 6.0
CUSUM_CLIP = 5.0  # one spike alone must not raise the alarm
RESIDUALS = 64
MIN_RESIDUALS = 8
RATIOS = 256
MIN_RATIOS = 64
MARGIN_DEFAULT = 1.15
CONFIDENCE_SIGMAS = 1.64
MARGIN_FLOOR = 1.02
MARGIN_CEILING = 3.0
OVERHEAD_DEFAULT_MS = 3.0
OVERHEAD_QUANTILE = 0.9
OVERHEAD_SAMPLES = 64
BUSY_SHARE = 0.9  # of the frame period: beyond it the next image finds the worker busy
MAX_SKIPPED = 2


def quantile(values: list[float], share: float) -> float:
    """Value that at most ``1 - share`` of the values exceed, the least such; ValueError if there are none."""
    if not values:
        raise ValueError("quantile of no values")
    ordered = sorted(values)
    above = floor((1.0 - share) * len(ordered) + 1e-9)
    return ordered[max(0, len(ordered) - 1 - above)]


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


@dataclass
class SlowdownFilter:
    """Slowdown xi = measured / predicted of one application on one processor."""

    log_level: float = 0.0
    variance: float = VARIANCE_START
    frames: int = 0
    _residuals: deque[float] = field(default_factory=lambda: deque(maxlen=RESIDUALS))
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=RATIOS))
    _first: list[float] = field(default_factory=list)
    _cusum_up: float = 0.0
    _cusum_down: float = 0.0
    _suspects: int = 0  # newest ratios that belong to a level change under suspicion

    @property
    def slowdown(self) -> float:
        """Best estimate of measured / predicted."""
        return exp(self.log_level)

    def noise(self) -> float:
        """Measurement variance r of the log-ratio."""
        if len(self._residuals) < MIN_RESIDUALS:
            return NOISE_START
        values = list(self._residuals)
        centre = _median(values)
        deviation = 1.4826 * _median([abs(v - centre) for v in values])
        return max(NOISE_FLOOR, deviation * deviation)

    def update(self, log_ratio: float) -> bool:
        """Takes one frame; True = CUSUM alarm: the level has moved and the filter was re-opened."""
        if self.frames < START_FRAMES:
            return self._start(log_ratio)
        noise = self.noise()
        self.variance += PROCESS_RATIO * noise
        innovation = log_ratio - self.log_level
        alarm = self._cusum(innovation / sqrt(self.variance + noise))
        if alarm:
            self._forget_suspects()
            self.variance = max(self.variance, VARIANCE_ALARM)
        else:
            self._residuals.append(innovation)
            self._ratios.append(exp(innovation))
        limit = CLIP_SIGMAS * sqrt(self.variance + noise)
        gain = self.variance / (self.variance + noise)
        self.log_level += gain * min(max(innovation, -limit), limit)
        self.variance *= 1.0 - gain
        self.frames += 1
        return alarm

    def age(self, seconds: float) -> None:
        """Widens the estimate for time in which nothing was measured."""
        self.variance = min(VARIANCE_START, self.variance + VARIANCE_PER_S * max(0.0, seconds))

    def margin(self, miss_tolerance: float) -> float:
        """Factor on the expected latency that all but ``miss_tolerance`` of the frames stay below.

        A few frames more than that may lie above it by chance: a larger margin costs accuracy and is
        taken when the excess is significant (one-sided 95 %, normal approximation of the count).
        """
        count = len(self._ratios)
        if count < MIN_RATIOS:
            return MARGIN_DEFAULT
        expected = miss_tolerance * count
        share = (expected + CONFIDENCE_SIGMAS * sqrt(expected)) / count
        value = quantile(list(self._ratios), 1.0 - share)
        if value < MARGIN_DEFAULT:  # good news from a tail of few samples is taken as the window fills
            trust = (count - MIN_RATIOS) / (RATIOS - MIN_RATIOS)
            value = trust * value + (1.0 - trust) * MARGIN_DEFAULT
        return min(MARGIN_CEILING, max(MARGIN_FLOOR, value))

    def _start(self, log_ratio: float) -> bool:
        """The first frames: their median, because a process that has just begun stumbles."""
        self._first.append(log_ratio)
        self.log_level = _median(self._first)
        self.variance = NOISE_START
        self.frames += 1
        return False

    def _cusum(self, normalised: float) -> bool:
        step = min(max(normalised, -CUSUM_CLIP), CUSUM_CLIP)
        self._cusum_up = max(0.0, self._cusum_up + step - CUSUM_DRIFT)
        self._cusum_down = max(0.0, self._cusum_down - step - CUSUM_DRIFT)
        if max(self._cusum_up, self._cusum_down) > CUSUM_THRESHOLD:
            self._cusum_up = self._cusum_down = 0.0
            return True
        self._suspects = self._suspects + 1 if max(self._cusum_up, self._cusum_down) > 0.0 else 0
        return False

    def _forget_suspects(self) -> None:
        # The frames that led to the alarm are the step itself, not noise around a level.
        for _ in range(min(self._suspects, len(self._ratios))):
            self._ratios.pop()
            if self._residuals:
                self._residuals.pop()
        self._suspects = 0


@dataclass
class Overhead:
    """latency_ms - inference_ms of one application: waiting, decoding, publishing."""

    _values_ms: deque[float] = field(default_factory=lambda: deque(maxlen=OVERHEAD_SAMPLES))

    def update(self, value_ms: float) -> None:
        """Takes one frame whose worker was idle when the image came."""
        self._values_ms.append(value_ms)

    def upper_ms(self) -> float:
        """What the overhead of nine frames in ten stays below."""
        if not self._values_ms:
            return OVERHEAD_DEFAULT_MS
        return quantile(list(self._values_ms), OVERHEAD_QUANTILE)


@dataclass
class AppEstimator:
    """Everything learned from the frames of one application."""

    filters: dict[str, SlowdownFilter] = field(default_factory=dict)
    overhead: Overhead = field(default_factory=Overhead)
    frames: int = 0
    _running: tuple[str, str] | None = None
    _clock_version: int = -1
    _last_latency_ms: float = 0.0
    _skipped: int = 0

    def observe(
        self,
        running: tuple[str, str],
        measured_ms: float,
        latency_ms: float,
        predicted_ms: float,
        clock_version: int,
        period_ms: float,
    ) -> bool:
        """Takes one frame of the sub-network ``running`` = (id, processor); True = latency alarm.

        ``predicted_ms`` is at the clocks read back, ``clock_version`` changes whenever these change. The
        first frame after a switch or a clock transition is partly the old state: it is counted and not
        learned from. A governor that never rests must not keep us from learning at all, so at most two in a
        row are left out.
        """
        # A frame that came while the worker was still busy waited for it: that is load, not overhead.
        if self._last_latency_ms < BUSY_SHARE * period_ms:
            self.overhead.update(max(0.0, latency_ms - measured_ms))
        switched = running != self._running
        moved = clock_version != self._clock_version and self._skipped < MAX_SKIPPED
        self._running, self._clock_version, self._last_latency_ms = running, clock_version, latency_ms
        self.frames += 1
        if switched or moved:
            self._skipped += 1
            return False
        self._skipped = 0
        if not isfinite(predicted_ms) or predicted_ms <= 0.0:
            return False
        return self.filter(running[1]).update(log(measured_ms / predicted_ms))

    @property
    def processor(self) -> str:
        """Processor of the last frame, empty before the first."""
        return self._running[1] if self._running else ""

    def filter(self, processor: str) -> SlowdownFilter:
        """Filter of one processor, made on first use."""
        return self.filters.setdefault(processor, SlowdownFilter())

    def margin(self, processor: str, miss_tolerance: float) -> float:
        """Margin on a processor, the default where nothing was measured."""
        known = self.filters.get(processor)
        return known.margin(miss_tolerance) if known else MARGIN_DEFAULT

    def known(self, processor: str) -> bool:
        """Whether a frame was ever measured on the processor."""
        return processor in self.filters and self.filters[processor].frames > 0


def prior_slowdown(others: list[SlowdownFilter]) -> float:
    """Slowdown to expect on a processor where only other applications have run: their median, else 1."""
    levels = [f.log_level for f in others if f.frames > 0]
    return exp(_median(levels)) if levels else 1.0
