"""How much slower than its library an application runs on a processor, and with what spread.

A random-walk Kalman filter on the log-ratio z = ln(measured / predicted) with measurement noise learned from
the median absolute deviation, clipped innovations and a two-sided CUSUM that re-opens the filter when the
level has moved. The filter idea is ALERT's (Wan et al., USENIX ATC 2020); noise learning, clipping and CUSUM
replace its constants. How far single frames lie above the level: `margin`. The frames of a rise are none of
that spread, unless the level falls again soon: then they were a burst, and the next one is as likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite, log, sqrt

from dynofa_ros.manager.library_error import EntryError, Key, LibraryErrors
from dynofa_ros.manager.margin import (
    AIMED_SHARE,
    DEVIATION_USUAL,
    LEAST_RATIO,
    MAD_DEVIATION,
    MarginEstimator,
    Window,
    median_of,
    unmeasured_margin,
)

NOISE_FLOOR = 9e-4  # (3 %)^2: what a pinned, idle machine shows
NOISE_START = 4e-3  # (6 %)^2 until enough residuals are seen
PROCESS_RATIO = 1.0 / 200.0  # q / r
CLIP_SIGMAS = 3.0
VARIANCE_START = 1.0  # nothing known
START_FRAMES = 3
LIBRARY_BAND = 0.25  # of a first frame around its library; that is then where the estimate begins
LIBRARY_VARIANCE = 2.5e-3  # (5 %)^2
MEDIAN_VARIANCE = 1.57  # of a median of n frames, times n / r
VARIANCE_PER_S = 0.002  # growth while nothing is measured
FADING = 0.01  # per frame answered elsewhere
USUAL_FRAMES = 256  # over which the usual level is taken
NEW_FRAMES = 8  # of an entry never tried: an alarm among them says that its library is wrong
MOST_QUICKER = 0.35  # of the log: no library says that much too much
CUSUM_DRIFT = 1.0
CUSUM_THRESHOLD = 7.5  # two spikes with a frame in between stay below
CUSUM_CLIP = 5.0  # one spike alone must not raise the alarm
RESIDUALS = 64
MIN_RESIDUALS = 8
BURST_FRAMES = 32  # a level that has fallen again by then was no other load
SETTLED_FRAMES, SETTLED_S = 5, 2.0  # until a level is known well enough to leave frames out for it
RATIOS = 256  # of which a share was above what a plan may ask for
MIN_RATIOS = 32
NOISE_EVERY = 4  # frames
OVERHEAD_DEFAULT_MS = 3.0
OVERHEAD_SAMPLES = 64
BUSY_SHARE = 0.9  # of the frame period: beyond it the next request finds the worker busy
MAX_SKIPPED = 2


@dataclass
class Rise:
    """The log-level has risen: from where, how far, in which frame, and the log-ratios that said so."""

    before: float
    level: float
    frame: int
    log_ratios: list[float]


@dataclass
class SlowdownFilter:
    """Slowdown xi = measured / predicted of one application on one processor."""

    margins: MarginEstimator = field(default_factory=lambda: MarginEstimator())
    errors: LibraryErrors = field(default_factory=lambda: LibraryErrors())
    log_level: float = 0.0
    usual_level: float = 0.0  # its mean over the last frames
    variance: float = VARIANCE_START
    frames: int = 0
    _residuals: Window = field(default_factory=lambda: Window(RESIDUALS))
    _noise: float = NOISE_START
    _noise_frames: int = 0  # for which it is to be kept
    _first: list[float] = field(default_factory=list)
    _cusum_up: float = 0.0
    _cusum_down: float = 0.0
    _suspects: int = 0  # newest ratios that belong to a level change under suspicion
    _rise: Rise | None = None
    _opened: int = 0  # frame
    _log_ratios: Window = field(default_factory=lambda: Window(RATIOS))

    @property
    def slowdown(self) -> float:
        """Best estimate of measured / predicted."""
        return exp(self.log_level)

    @property
    def acquiring(self) -> bool:
        """Whether the level is not known yet, or has just moved."""
        return len(self._first) < START_FRAMES

    def settles(self, rate_hz: float) -> bool:
        """Whether the level has just begun or moved, and at this rate of frames will soon be known."""
        return self.frames - self._opened < SETTLED_FRAMES <= SETTLED_S * rate_hz

    def noise(self) -> float:
        """Measurement variance r of the log-ratio."""
        return self._noise

    def update(
        self, log_ratio: float, extra: float = 0.0, work: float = 1.0, error: EntryError | None = None
    ) -> bool:
        """Takes one frame; True = CUSUM alarm: the level has moved and the filter was re-opened.

        ``log_ratio``: of measured / predicted, where ``error`` of the entry that has run is predicted too.

        ``extra``: what else it took beyond the expected, as a share of the expected time. ``work``: of this
        request over that of a usual one, which the margin must cover and the level must not follow.
        """
        self.frames += 1
        self._log_ratios.append(log(max(LEAST_RATIO, work * exp(log_ratio) + extra * self.slowdown)))
        self._end_burst()
        if self.frames == 1 and abs(log_ratio) < LIBRARY_BAND:
            self._first = [log_ratio] * START_FRAMES  # nothing to acquire: the library is about right
            self.variance = LIBRARY_VARIANCE
        if error is not None and self.frames <= START_FRAMES:
            error.variance = 0.0  # the level is that of the first entry
        if len(self._first) < START_FRAMES:
            return self._acquire(log_ratio)
        noise = self._noise
        self.variance += PROCESS_RATIO * noise
        innovation = log_ratio - self.log_level
        total = self.variance + (error.variance if error else 0.0) + noise
        if self._cusum(innovation / sqrt(total)):
            self._reopen(log_ratio, error)
            return True
        # What is not known of the entry yet is no noise: of an innovation that share is left out.
        own = innovation * sqrt(noise / (noise + error.variance)) if error else innovation
        self._residuals.append(innovation)
        self.margins.append(work * exp(own) + extra)
        self._learn_noise()
        limit = CLIP_SIGMAS * sqrt(total)
        clipped = min(max(innovation, -limit), limit)
        gain = self.variance / total
        self.log_level += gain * clipped
        self.variance *= 1.0 - gain
        if error is not None:
            error.log_error += error.variance / total * clipped
            error.variance *= 1.0 - error.variance / total
        self.usual_level += (self.log_level - self.usual_level) / min(self.frames, USUAL_FRAMES)
        return False

    def fade(self, drift: float) -> None:
        """A frame was answered elsewhere: what was last seen here gets old, what was usual here stays.

        ``drift``: by how much the level of those that run here is above what is usual for them.
        """
        self.log_level += FADING * (self.usual_level + drift - self.log_level)
        self.margins.fade()

    def age(self, seconds: float) -> None:
        """Widens the estimate for time in which nothing was measured."""
        self.variance = min(VARIANCE_START, self.variance + VARIANCE_PER_S * max(0.0, seconds))

    def margin(self, miss_tolerance: float, *, meets: bool = False) -> float:
        """Factor on the expected latency that all but ``miss_tolerance`` of the frames stay below.

        ``meets``: there are frames of two kinds, some that meet those of others. A high level then has the
        spread in it already: slowdown and margin together are no more than what was seen, by a usual margin.
        """
        margin = self.margins.margin(miss_tolerance)
        if not meets or len(self._log_ratios) < MIN_RATIOS:
            return margin
        usual = unmeasured_margin(DEVIATION_USUAL, miss_tolerance)
        seen = exp(self._log_ratios.quantile(1.0 - AIMED_SHARE * miss_tolerance) - self.log_level)
        return min(margin, usual * max(1.0, seen))

    def _learn_noise(self) -> None:
        """Noise from the residuals; it changes slowly and is looked at ever so often."""
        self._noise_frames -= 1
        if self._noise_frames > 0 or len(self._residuals) < MIN_RESIDUALS:
            return
        self._noise_frames = NOISE_EVERY
        deviation = MAD_DEVIATION * self._residuals.deviation()
        self._noise = max(NOISE_FLOOR, deviation * deviation)

    def _acquire(self, log_ratio: float) -> bool:
        """The first frames: their median, because a process that has just begun stumbles."""
        self._first.append(log_ratio)
        self.log_level = median_of(sorted(self._first))
        self.variance = min(VARIANCE_START, MEDIAN_VARIANCE * self._noise / len(self._first))
        return False

    def _reopen(self, log_ratio: float, error: EntryError | None) -> None:
        """The level has moved: it is acquired anew, from the frames that led to the alarm on.

        They are the step itself, not noise around a level; but if they were chance, the frames that come
        next outvote them. Where another entry has just begun it is that one's error that is acquired; a fall
        only if it is no larger than errors of libraries are and all its frames led to the alarm, else a load
        has ended, and the entry would look too quick.
        """
        suspects = self._suspects + 1
        recent = [log_ratio]
        for _ in range(min(self._suspects, len(self._residuals))):
            self.margins.forget()
            recent.append(self.log_level + self._residuals.pop())
        self._suspects = 0
        level = median_of(sorted(recent))
        variance = min(VARIANCE_START, MEDIAN_VARIANCE * self._noise / len(recent))
        most = NEW_FRAMES if level > self.log_level else min(NEW_FRAMES, suspects)
        likely = level - self.log_level > -MOST_QUICKER
        if error is not None and error.frames <= most and error.variance > 0.0 and likely:
            error.log_error += level - self.log_level
            error.variance = variance
        else:
            if level > self.log_level:
                before = self._rise or Rise(self.log_level, level, self.frames, [])
                self._rise = replace(
                    before, level=max(before.level, level), log_ratios=before.log_ratios + recent
                )
            self._first, self.log_level, self.variance = [log_ratio], level, variance
            self._opened = self.frames

    def _end_burst(self) -> None:
        """Frames of a rise whose level has fallen again belong to the spread around the level before it."""
        rise = self._rise
        if rise is None:
            return
        fallen = not self.acquiring and self.log_level < 0.5 * (rise.before + rise.level)
        if fallen:
            for log_ratio in rise.log_ratios:
                self.margins.append(exp(log_ratio - rise.before))
        if fallen or self.frames - rise.frame > BURST_FRAMES:
            self._rise = None

    def _cusum(self, normalised: float) -> bool:
        step = min(max(normalised, -CUSUM_CLIP), CUSUM_CLIP)
        self._cusum_up = max(0.0, self._cusum_up + step - CUSUM_DRIFT)
        self._cusum_down = max(0.0, self._cusum_down - step - CUSUM_DRIFT)
        if max(self._cusum_up, self._cusum_down) > CUSUM_THRESHOLD:
            self._cusum_up = self._cusum_down = 0.0
            return True
        self._suspects = self._suspects + 1 if max(self._cusum_up, self._cusum_down) > 0.0 else 0
        return False


@dataclass
class Overhead:
    """latency_ms - inference_ms of one application: waiting, decoding, publishing."""

    _values_ms: Window = field(default_factory=lambda: Window(OVERHEAD_SAMPLES))

    def update(self, value_ms: float) -> None:
        """Takes one frame whose worker was idle when the request came."""
        self._values_ms.append(value_ms)

    def typical_ms(self) -> float:
        """The median; its spread is part of the margin."""
        return self._values_ms.median() if len(self._values_ms) else OVERHEAD_DEFAULT_MS


@dataclass
class AppEstimator:
    """Everything learned from the frames of one application."""

    filters: dict[str, SlowdownFilter] = field(default_factory=dict)
    overhead: Overhead = field(default_factory=Overhead)
    frames: int = 0
    steady_frames: int = 0  # of the sub-network that runs, since it was changed
    processor: str = ""  # of the last frame, empty before the first
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
        size_factor: float = 1.0,
        usual_factor: float = 1.0,
        shared: float = 1.0,
        entry: Key | None = None,
        caution: float = 0.0,
    ) -> bool:
        """Takes one frame of the sub-network ``running`` = (id, processor); True = latency alarm.

        ``size_factor``: time at the size of this request over that at the reference size, which
        ``predicted_ms`` is for; ``usual_factor``: the same of a request of usual size. ``shared``: factor in
        ``predicted_ms`` by which others slow it. ``entry``: what its library error is known by.
        ``caution``: see `LibraryErrors.fit`.

        ``predicted_ms`` is at the clocks read back, ``clock_version`` changes whenever these change. The
        first frame on another processor or after a clock transition is partly the old state: it is counted
        and not learned from. Another sub-network on the same processor is as quick from its first frame on.
        A governor that never rests must not keep us from learning at all, so at most two in a row are left
        out.
        """
        # A frame that came while the worker was still busy waited for it: that is load, not overhead.
        extra_ms = 0.0
        if self._last_latency_ms < BUSY_SHARE * period_ms:
            overhead_ms = max(0.0, latency_ms - measured_ms)
            self.overhead.update(overhead_ms)
            extra_ms = overhead_ms - self.overhead.typical_ms()
        migrated = running[1] != self.processor
        moved = clock_version != self._clock_version and self._skipped < MAX_SKIPPED
        self.steady_frames = self.steady_frames + 1 if running == self._running else 1
        filter_ = self.filter(running[1])  # made while the noise of the last frame's processor is at hand
        self._running, self.processor = running, running[1]
        self._clock_version, self._last_latency_ms = clock_version, latency_ms
        self.frames += 1
        if migrated or moved:
            self._skipped += 1
            return False
        self._skipped = 0
        if not isfinite(predicted_ms) or predicted_ms <= 0.0:
            return False
        error = None
        if entry is not None:
            error = filter_.errors.entry(entry, predicted_ms / shared)
            predicted_ms = shared * filter_.errors.corrected_ms(entry, predicted_ms / shared)
        expected_ms = predicted_ms * filter_.slowdown
        ratio = measured_ms / (size_factor * predicted_ms)
        alarm = filter_.update(log(ratio), extra_ms / expected_ms, size_factor / usual_factor, error)
        filter_.log_level += filter_.errors.fit(caution)
        return alarm

    def filter(self, processor: str) -> SlowdownFilter:
        """Filter of one processor, made on first use."""
        found = self.filters.get(processor)
        if found is None:
            found = self.filters[processor] = SlowdownFilter(MarginEstimator(self._usual()))
        return found

    def margin(self, processor: str, miss_tolerance: float, *, meets: bool = False) -> float:
        """Margin on a processor; where nothing was measured it is as noisy as where the last frame ran.

        ``meets``: see `SlowdownFilter.margin`.
        """
        known = self.filters.get(processor)
        if known is None:
            return unmeasured_margin(self._usual(), miss_tolerance)
        return known.margin(miss_tolerance, meets=meets)

    def settles(self, rate_hz: float) -> bool:
        """Whether how slow it is where the last frame was answered will soon be known."""
        known, latency_ms = self.filters.get(self.processor), self._last_latency_ms
        return known is not None and latency_ms > 0.0 and known.settles(min(rate_hz, 1e3 / latency_ms))

    def _usual(self) -> float:
        last = self.filters.get(self.processor)
        return max(DEVIATION_USUAL, last.margins.deviation) if last else DEVIATION_USUAL

    def known(self, processor: str) -> bool:
        """Whether a frame was ever measured on the processor."""
        return processor in self.filters and self.filters[processor].frames > 0


def drift(here: Sequence[SlowdownFilter]) -> float:
    """Log of how much slower than usual those are that run on a processor: their median, 0 without any."""
    return median_of(sorted(f.log_level - f.usual_level for f in here)) if here else 0.0


def prior_slowdown(others: list[SlowdownFilter]) -> float:
    """Slowdown to expect on a processor where only other applications have run: their median, else 1."""
    levels = sorted(f.log_level for f in others if f.frames > 0)
    return exp(median_of(levels)) if levels else 1.0
