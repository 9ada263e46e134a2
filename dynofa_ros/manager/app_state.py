"""What the manager knows of one application."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

from dynofa_ros.manager.estimator import AppEstimator
from dynofa_ros.manager.problem import Menu
from dynofa_ros.manager.types import AppTargets, LibraryEntry, SubnetCondition, SubnetStatus

RATE_FRAMES = 8  # frames after which the rate that comes in is judged
RATE_WINDOW_S = 3.0
RATE_RESERVE = 1.15
SILENCE_S = 1.0


@dataclass(frozen=True)
class Menus:
    """What can be asked of an application: see `problem.App`; by processor what then runs."""

    accuracies: tuple[float, ...]
    below_floor: bool
    by_processor: dict[str, Menu]


@dataclass(frozen=True)
class _Usable:
    """Entries that may be run, and what they were selected from."""

    of: tuple[LibraryEntry, ...] | None = None
    pin: tuple[str, str] | None = None
    refused: int = 0
    entries: tuple[LibraryEntry, ...] = ()
    processors: frozenset[str] = frozenset()


@dataclass
class FrameRate:
    """Rate at which an application's images really come."""

    hz: float = nan
    _frames: int = 0
    _since_s: float = 0.0

    def observe(self, frames: int, dt_s: float) -> None:
        """Takes the frames, answered and dropped, of the last ``dt_s``; silence is no rate."""
        if frames == 0 and self._frames == 0:
            return
        self._frames += frames
        self._since_s += dt_s
        if self._frames >= RATE_FRAMES or self._since_s > RATE_WINDOW_S:
            rate = self._frames / self._since_s if self._since_s > 0.0 else nan
            if isfinite(rate):
                self.hz = rate if not isfinite(self.hz) else 0.5 * (self.hz + rate)
            self.restart()

    def restart(self) -> None:
        """Starts counting anew; the rate found so far stays."""
        self._frames, self._since_s = 0, 0.0


@dataclass
class AppState:
    """One application."""

    name: str
    targets: AppTargets | None = None
    entries: tuple[LibraryEntry, ...] = ()
    status: SubnetStatus | None = None
    estimator: AppEstimator = field(default_factory=AppEstimator)
    rate: FrameRate = field(default_factory=FrameRate)
    refused: set[tuple[str, str]] = field(default_factory=set)  # (id, processor) the node could not run
    since_ns: int = 0
    last_frame_ns: int = 0
    last_sequence: int = 0
    shared: float = 1.0  # factor by which the plan expects other applications to slow it
    thinned: bool = False  # the plan asks for fewer frames than the user: their rate says nothing
    held: LibraryEntry | None = None  # what it keeps running while nothing is heard of it
    new_frames: int = 0
    missed: bool = False  # its last frame missed its deadline
    menus: Menus | None = None  # these three are kept by model.py from step to step
    menus_key: tuple[Any, ...] = ()
    tables: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    _index: dict[tuple[str, str], LibraryEntry] = field(default_factory=dict)
    _index_of: tuple[LibraryEntry, ...] | None = None
    _usable: _Usable = field(default_factory=lambda: _Usable())

    @property
    def ready(self) -> bool:
        """Whether it can be planned: targets and a library, not paused, not disabled."""
        disabled = self.status is not None and self.status.status == SubnetCondition.DISABLED
        return self.targets is not None and bool(self.entries) and not (self.targets.paused or disabled)

    @property
    def usable(self) -> tuple[LibraryEntry, ...]:
        """Entries it may be told to run: the pinned or held one, or all that the node has not refused."""
        return self._current().entries

    @property
    def named_processors(self) -> frozenset[str]:
        """Processors of the usable entries."""
        return self._current().processors

    def _current(self) -> _Usable:
        status = self.status
        pin = None
        if status is not None and status.status == SubnetCondition.PINNED:
            pin = (status.subnet_id, status.processor)
        elif self.held is not None:
            pin = (self.held.id, self.held.processor)
        kept = self._usable
        if kept.of is not self.entries or kept.pin != pin or kept.refused != len(self.refused):
            entries = self._select(pin)
            processors = frozenset(e.processor for e in entries)
            kept = self._usable = _Usable(self.entries, pin, len(self.refused), entries, processors)
        return kept

    def _select(self, pin: tuple[str, str] | None) -> tuple[LibraryEntry, ...]:
        if pin is not None:
            pinned = self.entry(*pin)
            return (pinned,) if pinned else self.entries
        left = tuple(e for e in self.entries if (e.id, e.processor) not in self.refused)
        return left or self.entries

    def entry(self, subnet_id: str, processor: str) -> LibraryEntry | None:
        """Library entry by name."""
        if self._index_of is not self.entries:
            self._index_of, self._index = self.entries, {(e.id, e.processor): e for e in self.entries}
        return self._index.get((subnet_id, processor))

    def silent(self, now_ns: int) -> bool:
        """Whether no frame has come for much longer than its rate explains."""
        rate = self.due_hz()
        return now_ns - self.last_frame_ns > 1e9 * (SILENCE_S + (3.0 / rate if rate > 0.0 else 0.0))

    def due_hz(self) -> float:
        """Frames per second to reckon with: what was asked for, or what comes if that is less."""
        asked = self.targets.rate_hz if self.targets else 0.0
        return min(asked, RATE_RESERVE * self.rate.hz) if isfinite(self.rate.hz) else asked
