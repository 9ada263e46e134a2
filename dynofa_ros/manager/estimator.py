"""How much slower than its library an application runs on a processor, and with what spread.

A random-walk Kalman filter on the log-ratio z = ln(measured / predicted) with measurement noise learned from
the median absolute deviation, clipped innovations and a two-sided CUSUM that re-opens the filter when the
level has moved. Spikes belong to the margin (an empirical quantile), not to the mean. The filter idea is
ALERT's (Wan et al., USENIX ATC 2020); noise learning, clipping and CUSUM replace its constants.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
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
NOISE_EVERY = 4  # frames
RATIOS = 256
MIN_RATIOS = 64
MARGIN_DEFAULT = 1.15
MARGIN_SIGMAS = 2.0  # while the tail is not known
CONFIDENCE_SIGMAS = 1.64
MARGIN_FLOOR = 1.02
MARGIN_CEILING = 3.0
OVERHEAD_DEFAULT_MS = 3.0
OVERHEAD_QUANTILE = 0.9
OVERHEAD_SAMPLES = 64
BUSY_SHARE = 0.9  # of the frame period: beyond it the next image finds the worker busy
MAX_SKIPPED = 2


class Window:
    """The last so many numbers, kept in order too, so that quantiles cost nothing."""

    def __init__(self, size: int) -> None:
        self._newest: deque[float] = deque(maxlen=size)
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._ordered)

    def append(self, value: float) -> None:
        """Takes a number; the oldest makes room for it."""
        if len(self._newest) == self._newest.maxlen:
            self._drop(self._newest[0])
        self._newest.append(value)
        insort(self._ordered, value)

    def pop(self) -> None:
        """Forgets the newest number."""
        self._drop(self._newest.pop())

    def quantile(self, share: float) -> float:
        """Value that at most ``1 - share`` of the numbers exceed, the least such; ValueError without any."""
        if not self._ordered:
            raise ValueError("quantile of no values")
        above = floor((1.0 - share) * len(self._ordered) + 1e-9)
        return self._ordered[max(0, len(self._ordered) - 1 - above)]

    def deviation(self) -> float:
        """Median absolute deviation from the median; ValueError without any."""
        centre = _median(self._ordered)
        return _median(sorted([abs(value - centre) for value in self._ordered]))

    def _drop(self, value: float) -> None:
        del self._ordered[bisect_left(self._ordered, value)]


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    if not ordered:
        raise ValueError("median of no values")
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


@dataclass
class SlowdownFilter:
    """Slowdown xi = measured / predicted of one application on one processor."""

    log_level: float = 0.0
    variance: float = VARIANCE_START
    frames: int = 0
    _residuals: Window = field(default_factory=lambda: Window(RESIDUALS))
    _ratios: Window = field(default_factory=lambda: Window(RATIOS))
    _noise: float = NOISE_START
    _noise_frames: int = 0  # for which it is to be kept
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
        return self._noise

    def update(self, log_ratio: float) -> bool:
        """Takes one frame; True = CUSUM alarm: the level has moved and the filter was re-opened."""
        if self.frames < START_FRAMES:
            return self._start(log_ratio)
        noise = self._noise
        self.variance += PROCESS_RATIO * noise
        innovation = log_ratio - self.log_level
        alarm = self._cusum(innovation / sqrt(self.variance + noise))
        if alarm:
            self._forget_suspects()
            self.variance = max(self.variance, VARIANCE_ALARM)
        else:
            self._residuals.append(innovation)
            self._ratios.append(exp(innovation))
            self._learn_noise()
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
            spread = exp(min(1.0, MARGIN_SIGMAS * sqrt(self._noise)))
            return max(MARGIN_DEFAULT, spread)
        expected = miss_tolerance * count
        share = (expected + CONFIDENCE_SIGMAS * sqrt(expected)) / count
        value = self._ratios.quantile(1.0 - share)
        if value < MARGIN_DEFAULT:  # good news from a tail of few samples is taken as the window fills
            trust = (count - MIN_RATIOS) / (RATIOS - MIN_RATIOS)
            value = trust * value + (1.0 - trust) * MARGIN_DEFAULT
        return min(MARGIN_CEILING, max(MARGIN_FLOOR, value))

    def _learn_noise(self) -> None:
        """Noise from the residuals; it changes slowly and is looked at ever so often."""
        self._noise_frames -= 1
        if self._noise_frames > 0 or len(self._residuals) < MIN_RESIDUALS:
            return
        self._noise_frames = NOISE_EVERY
        deviation = 1.4826 * self._residuals.deviation()
        self._noise = max(NOISE_FLOOR, deviation * deviation)

    def _start(self, log_ratio: float) -> bool:
        """The first frames: their median, because a process that has just begun stumbles."""
        self._first.append(log_ratio)
        self.log_level = _median(sorted(self._first))
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

    _values_ms: Window = field(default_factory=lambda: Window(OVERHEAD_SAMPLES))

    def update(self, value_ms: float) -> None:
        """Takes one frame whose worker was idle when the image came."""
        self._values_ms.append(value_ms)

    def upper_ms(self) -> float:
        """What the overhead of nine frames in ten stays below."""
        return self._values_ms.quantile(OVERHEAD_QUANTILE) if len(self._values_ms) else OVERHEAD_DEFAULT_MS


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
        found = self.filters.get(processor)
        if found is None:
            found = self.filters[processor] = SlowdownFilter()
        return found

    def margin(self, processor: str, miss_tolerance: float) -> float:
        """Margin on a processor, the default where nothing was measured."""
        known = self.filters.get(processor)
        return known.margin(miss_tolerance) if known else MARGIN_DEFAULT

    def known(self, processor: str) -> bool:
        """Whether a frame was ever measured on the processor."""
        return processor in self.filters and self.filters[processor].frames > 0


def prior_slowdown(others: list[SlowdownFilter]) -> float:
    """Slowdown to expect on a processor where only other applications have run: their median, else 1."""
    levels = sorted(f.log_level for f in others if f.frames > 0)
    return exp(_median(levels)) if levels else 1.0
