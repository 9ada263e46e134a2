"""What a library says wrongly: an error per entry, and an offset that all entries of a processor share.

    time of a frame = slowdown * exp(error of the entry) * (library time + offset)

The slowdown is common to all entries of an application on a processor and follows the load (`estimator`).
An innovation of a frame is shared out between it and the entry by their variances, as in a Kalman filter: a
slowdown that has been steady stays where it is when another entry begins and takes longer than it should.
So entries are drawn to what is common by how few frames they have (best linear unbiased prediction of
random effects, Henderson 1975). The offset is time that shrinks neither with the network nor with the
clock, as preemption and decoding do: a ridge regression (Hoerl and Kennard 1970) of the entries' errors on
1 / library time, whose intercept goes to the slowdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, log1p, sqrt

ERROR_VARIANCE = 0.05**2  # of the log-ratio of an entry never tried: residuals of fitted libraries
OFFSET_SHARE = 0.3  # of the shortest time tried: spread of the offset to expect
INTERCEPT_VARIANCE = 0.2**2  # of the common part of the errors
TRIED_FRAMES = 8  # from which an entry counts for the offset
USUAL_ENTRIES = 2.0  # that the usual variance counts for
LEAST_TRIED = 3  # entries: any two lie on a line
FIT_EVERY = 32  # frames
FORGET = 1.0 / 5000.0  # per frame of another entry
GRAIN, OFFSET_GRAIN_MS = 0.01, 0.05  # to which plans know errors and offset: tables are kept in between
DEAD_BAND = 2.0  # grains: by as much what was learned may differ from what plans know

Key = tuple[str, int]  # sub-network, threads
Rounded = tuple[tuple[Key, int], ...]  # grains by entry; ("", 0) has the offset
OFFSET: Key = ("", 0)
UNTRIED: Key = ("", 1)


@dataclass
class EntryError:
    """Log of measured over expected time of one entry, with its variance; ``per_ms``: 1 / library time."""

    log_error: float = 0.0
    variance: float = ERROR_VARIANCE
    frames: int = 0
    per_ms: float = 0.0


@dataclass
class LibraryErrors:
    """Of one application on one processor. ``rounded``: errors and offset as plans know them."""

    offset_ms: float = 0.0
    rounded: Rounded = ()
    _entries: dict[Key, EntryError] = field(default_factory=dict)
    _frames: int = 0

    def corrected_ms(self, key: Key, unit_ms: float) -> float:
        """Time of an entry at slowdown 1, where the library says ``unit_ms``."""
        known = self._entries.get(key)
        return (unit_ms + self.offset_ms) * (exp(known.log_error) if known else 1.0)

    def known(self, key: Key) -> EntryError:
        """What is known of an entry."""
        return self._entries.get(key) or EntryError()

    @property
    def spread(self) -> float:
        """Variance of the errors of entries: of those tried, drawn to what is usual while they are few."""
        tried = [known.log_error for known in self._entries.values() if known.frames >= LEAST_TRIED]
        if len(tried) < 2:
            return ERROR_VARIANCE
        usual = sum(tried) / len(tried)
        squares = sum((error - usual) ** 2 for error in tried)
        return (USUAL_ENTRIES * ERROR_VARIANCE + squares) / (USUAL_ENTRIES + len(tried) - 1)

    def entry(self, key: Key, unit_ms: float) -> EntryError:
        """The error of an entry that runs now."""
        known = self._entries.setdefault(key, EntryError())
        known.frames += 1
        known.per_ms += (1.0 / unit_ms - known.per_ms) / min(known.frames, TRIED_FRAMES)
        for other in self._entries.values():
            if other is not known:
                other.log_error -= FORGET * other.log_error
                other.variance += FORGET * (ERROR_VARIANCE - other.variance)
        return known

    def fit(self, caution: float = 0.0) -> float:
        """Looks at all entries together; by how much the log of the slowdown has to rise for it.

        ``caution``: by how many standard deviations of what is not known of them plans take entries to be
        slower: by most those never tried, by less with every frame.
        """
        self._frames += 1
        shift = self._regress() if self._frames % FIT_EVERY == 0 else 0.0
        grains, moved = dict(self.rounded), {}
        learned = {key: known.log_error / GRAIN for key, known in self._entries.items()}
        learned[OFFSET], learned[UNTRIED] = self.offset_ms / OFFSET_GRAIN_MS, 0.0
        if caution:
            for key, known in self._entries.items():
                learned[key] = (known.log_error + caution * sqrt(known.variance)) / GRAIN
            learned[UNTRIED] = caution * sqrt(self.spread) / GRAIN
        for key, value in learned.items():
            new = caution and key not in grains
            if new or not -DEAD_BAND <= value - grains.get(key, 0) <= DEAD_BAND:
                moved[key] = round(value)
        if moved:
            self.rounded = tuple(sorted(pair for pair in (grains | moved).items() if pair[1] or caution))
        return shift

    def _regress(self) -> float:
        tried = [known for known in self._entries.values() if known.frames >= TRIED_FRAMES]
        if len(tried) < LEAST_TRIED:
            return 0.0
        errors = [known.log_error + log1p(self.offset_ms * known.per_ms) for known in tried]
        weights = [1.0 / (known.variance + ERROR_VARIANCE) for known in tried]
        least_per_ms = max(known.per_ms for known in tried)
        # Normal equations of  error = intercept + offset / time  with a prior on both.
        w = sum(weights) + 1.0 / INTERCEPT_VARIANCE
        wx = sum(weight * known.per_ms for weight, known in zip(weights, tried, strict=True))
        wxx = sum(weight * known.per_ms**2 for weight, known in zip(weights, tried, strict=True))
        wxx += (least_per_ms / OFFSET_SHARE) ** 2
        wy = sum(weight * error for weight, error in zip(weights, errors, strict=True))
        wxy = sum(
            weight * known.per_ms * error for weight, known, error in zip(weights, tried, errors, strict=True)
        )
        self.offset_ms = max(0.0, (w * wxy - wx * wy) / (w * wxx - wx * wx))
        intercept = (wy - self.offset_ms * wx) / w
        for known, error in zip(tried, errors, strict=True):
            known.log_error = error - intercept - log1p(self.offset_ms * known.per_ms)
        return intercept


def factors(rounded: Rounded, keys: Sequence[Key]) -> tuple[float, list[float]]:
    """Offset in ms, and factor on the time of each entry."""
    grains = dict(rounded)
    untried = grains.get(UNTRIED, 0)
    return OFFSET_GRAIN_MS * grains.get(OFFSET, 0), [exp(GRAIN * grains.get(key, untried)) for key in keys]
