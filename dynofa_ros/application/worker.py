"""The frame pipeline of a perception process, without ROS: latest-frame slot, rate gate, worker thread.

Inference never runs in a ROS callback. The callback only puts the frame into a slot of size one, where a
newer frame replaces an older one that was not taken yet; one worker thread answers frames.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

Item = TypeVar("Item")

# Share of a period by which a frame may come early and still be due: cameras jitter, but a camera of
# twice the rate must lose every other frame.
EARLY_SHARE = 0.3


@dataclass(frozen=True)
class Frame:
    """A received image message and when it came, steady clock."""

    message: Any
    received_ns: int


class LatestSlot(Generic[Item]):
    """Holds at most one frame; putting another replaces it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Item | None = None
        self._closed = False

    def put(self, frame: Item) -> bool:
        """Returns whether an unanswered frame was replaced."""
        with self._condition:
            replaced = self._frame is not None
            self._frame = frame
            self._condition.notify()
        return replaced

    def take(self) -> Item | None:
        """Wait for a frame; None once the slot is closed."""
        with self._condition:
            while self._frame is None and not self._closed:
                self._condition.wait()
            frame, self._frame = self._frame, None
            return None if self._closed else frame

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class RateGate:
    """Thins a stream to ``rate_hz``, keeping the phase of the stream."""

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self._next_ns: int | None = None

    def accepts(self, now_ns: int) -> bool:
        """Whether a frame that arrives now is due. now_ns: any steady clock."""
        period = int(1e9 / self.rate_hz)
        due = now_ns if self._next_ns is None else self._next_ns
        if now_ns < due - int(EARLY_SHARE * period):
            return False
        # a stream that paused starts a new phase instead of catching up
        self._next_ns = due + period if now_ns - due < period else now_ns + period
        return True


@dataclass(frozen=True)
class Timing:
    """Stages of one answered frame, steady-clock nanoseconds."""

    received_ns: int
    started_ns: int
    prepared_ns: int
    inferred_ns: int
    published_ns: int

    @staticmethod
    def _ms(start: int, end: int) -> float:
        return (end - start) / 1e6

    @property
    def queue_wait_ms(self) -> float:
        return self._ms(self.received_ns, self.started_ns)

    @property
    def preprocess_ms(self) -> float:
        return self._ms(self.started_ns, self.prepared_ns)

    @property
    def inference_ms(self) -> float:
        return self._ms(self.prepared_ns, self.inferred_ns)

    @property
    def postprocess_ms(self) -> float:
        return self._ms(self.inferred_ns, self.published_ns)

    @property
    def latency_ms(self) -> float:
        return self._ms(self.received_ns, self.published_ns)


class Counters:
    """Frames that were due but got no answer, since they were last taken; shared by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dropped = self._malformed = 0
        self.total_dropped = self.total_malformed = self.total_answered = 0

    def drop(self) -> None:
        with self._lock:
            self._dropped += 1
            self.total_dropped += 1

    def malformed(self) -> None:
        with self._lock:
            self._malformed += 1
            self.total_malformed += 1

    def answered(self) -> tuple[int, int, int]:
        """(sequence of this frame from 1, dropped, malformed since the last answered frame)."""
        with self._lock:
            self.total_answered += 1
            counts = (self.total_answered, self._dropped, self._malformed)
            self._dropped = self._malformed = 0
            return counts


class FrameWorker:
    """One thread that answers the frames of a slot until it is stopped."""

    def __init__(self, slot: LatestSlot[Any], answer: Callable[[Any], None]) -> None:
        self._slot = slot
        self._answer = answer
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def tid(self) -> int:
        """The kernel's number of the thread."""
        assert self._thread.native_id is not None  # known as soon as it is started
        return self._thread.native_id

    def stop(self, timeout_s: float = 1.0) -> bool:
        """Returns whether the thread ended in time; a frame being answered is finished first."""
        self._slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (frame := self._slot.take()) is not None:
            self._answer(frame)


def sleep_until(deadline_ns: int) -> None:
    """Sleep to a steady-clock time; coarse sleep first, because sleep overshoots by up to a timer tick."""
    while (remaining := deadline_ns - time.perf_counter_ns()) > 0:
        time.sleep(max(remaining / 1e9 - 2e-4, 0) if remaining > 4e5 else 0)


def run_stretched(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, factor: float, threads: int
) -> np.ndarray:
    """``run(images)``, made to take ``factor`` times as long (at least 1)."""
    start, cpu_start = time.perf_counter_ns(), time.thread_time_ns()
    logits = run(images)
    # The work is stretched, not the time the kernel gave this core to somebody else.
    work = time.thread_time_ns() - cpu_start if threads == 1 else time.perf_counter_ns() - start
    sleep_until(time.perf_counter_ns() + int(work * max(0.0, factor - 1)))
    return logits
