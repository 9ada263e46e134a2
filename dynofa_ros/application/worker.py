"""The request pipeline of an application: queues, rate gate, worker thread, counters.

Inference never runs in a ROS callback. The callback only puts the request into a queue: for images a slot of
size one, where a newer one replaces an older one that was not taken yet, for text one in order, that refuses
when it is full. One worker thread answers requests.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")

# Share of a period by which a request may come early and still be due: cameras jitter, but a camera of
# twice the rate must lose every other frame.
EARLY_SHARE = 0.3
RECENT = 150  # due requests over which misses are counted


class MalformedRequest(ValueError):
    """A message that is no request of the task; the text is one line that says why."""


class Canceled(Exception):  # noqa: N818 - who asked does not want the answer any more, which is no error
    """A request that is not to be answered any more."""


class Outcome(IntEnum):
    """What became of a request; constants of Translate.action."""

    COMPLETE = 0
    CANCELED = 1
    REFUSED = 2  # not accepted
    FAILED = 3  # accepted, and then not answered


@dataclass(frozen=True)
class Request:
    """A received message and when it came, steady clock. target_ms: of this one, NaN = as of all."""

    message: Any
    received_ns: int
    target_ms: float = math.nan


class Queue(Protocol):
    """Requests that wait, at most ``limit``.

    put: returns whether one was lost by that. take: waits, None once it is closed. first: what is taken next,
    None if nothing waits. close: returns those that will not be taken.
    """

    limit: int

    def put(self, item: Any) -> bool: ...
    def take(self) -> Any: ...
    def first(self) -> Any: ...
    def close(self) -> Sequence[Any]: ...


class OrderedQueue(Generic[Item]):
    """Holds up to ``limit`` requests in the order in which they came; one more is lost."""

    limit = 16

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._items: deque[Item] = deque()
        self._closed = False

    def put(self, item: Item) -> bool:
        """Returns whether a request was lost: the new one, if the queue was full."""
        with self._condition:
            full = len(self._items) == self.limit
            if not full:
                self._items.append(item)
            self._condition.notify()
        return full

    def take(self) -> Item | None:
        """Wait for a request; None once the queue is closed."""
        with self._condition:
            while not self._items and not self._closed:
                self._condition.wait()
            return None if self._closed else self._items.popleft()

    def first(self) -> Item | None:
        """The request that is taken next."""
        with self._condition:
            return self._items[0] if self._items else None

    def close(self) -> Sequence[Item]:
        """Returns the requests that waited."""
        with self._condition:
            self._closed = True
            waited, self._items = tuple(self._items), deque()
            self._condition.notify_all()
        return waited


class LatestSlot(OrderedQueue[Item]):
    """Holds at most one request; putting another replaces it: a stale image is worthless."""

    limit = 1

    def put(self, item: Item) -> bool:
        """Returns whether one that was not taken yet was replaced."""
        with self._condition:
            replaced = bool(self._items)
            self._items.clear()
            self._items.append(item)
            self._condition.notify()
        return replaced


class RateGate:
    """Thins a stream to ``rate_hz``, keeping the phase of the stream.

    ``skip_first``: begins with a request that it leaves out. Who has too much to do is behind already, and
    each request in time would only wait as long as the one before it.
    """

    def __init__(self, rate_hz: float, *, skip_first: bool = False) -> None:
        self.rate_hz = rate_hz
        self._skip = skip_first
        self._next_ns: int | None = None

    def accepts(self, now_ns: int) -> bool:
        """Whether a request that arrives now is due. now_ns: any steady clock."""
        period = int(1e9 / self.rate_hz)
        if self._skip:
            self._skip, self._next_ns = False, now_ns + int((EARLY_SHARE + 0.02) * period)
        due = now_ns if self._next_ns is None else self._next_ns
        if now_ns < due - int(EARLY_SHARE * period):
            return False
        # a stream that paused starts a new phase instead of catching up
        self._next_ns = due + period if now_ns - due < period else now_ns + period
        return True


def stages_ms(
    received_ns: int, started_ns: int, prepared_ns: int, inferred_ns: int, published_ns: int
) -> dict[str, Any]:
    """Stages of an answered request as its monitor has them. Times are of one steady clock."""
    return {
        "queue_wait_ms": (started_ns - received_ns) / 1e6,
        "preprocess_ms": (prepared_ns - started_ns) / 1e6,
        "inference_ms": (inferred_ns - prepared_ns) / 1e6,
        "postprocess_ms": (published_ns - inferred_ns) / 1e6,
        "latency_ms": (published_ns - received_ns) / 1e6,
    }


@dataclass(frozen=True)
class Problem:
    """Why a request got no answer. at_ns: steady clock. malformed: by the fault of who sent it."""

    reason: str
    at_ns: int
    malformed: bool


class Counters:
    """What became of the requests that were due, since the start; shared by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published = (0, 0)
        self.answered = self.dropped = self.malformed = self.failed = 0
        self.recent_misses: deque[bool] = deque(maxlen=RECENT)
        self.problems: dict[bool, Problem] = {}  # the newest, by whether it was malformed
        self.last_ns: int | None = None  # when the newest request came
        self.unanswered_ns: int | None = None  # when the first one came of which none was answered

    def arrive(self, now_ns: int) -> None:
        """A request came, due or not."""
        self.last_ns = now_ns

    def wait(self, now_ns: int) -> None:
        """A request will be answered."""
        with self._lock:
            if self.unanswered_ns is None:
                self.unanswered_ns = now_ns

    def rest(self) -> None:
        """No request will be answered: none is waited for."""
        with self._lock:
            self.unanswered_ns = None

    def drop(self) -> None:
        """A request that was due gave way to a newer one."""
        with self._lock:
            self.dropped += 1
            self.recent_misses.append(True)

    def fail(self, problem: Problem) -> None:
        """A request cannot be answered."""
        with self._lock:
            self.malformed += problem.malformed
            self.failed += not problem.malformed
            self.recent_misses.append(True)
        self.note(problem)

    def note(self, problem: Problem) -> None:
        """Something failed, but no request by it."""
        with self._lock:
            self.problems[problem.malformed] = problem

    def cancel(self) -> None:
        """A request is not to be answered any more."""
        with self._lock:
            self.unanswered_ns = None

    def answer(self, missed: bool) -> tuple[int, int, int]:
        """(number of this answer from 1, dropped or failed, malformed since the one before)."""
        with self._lock:
            self.answered += 1
            self.recent_misses.append(missed)
            self.unanswered_ns = None
            before, self._published = self._published, (self.dropped + self.failed, self.malformed)
            return self.answered, self._published[0] - before[0], self._published[1] - before[1]


class Worker:
    """One thread that answers the requests of a queue until it is stopped."""

    def __init__(self, queue: Queue, answer: Callable[[Any], None]) -> None:
        self._queue = queue
        self._answer = answer
        self.left_over: tuple[Any, ...] = ()  # requests that waited when it was stopped
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def tid(self) -> int:
        """The kernel's number of the thread."""
        assert self._thread.native_id is not None  # known as soon as it is started
        return self._thread.native_id

    def stop(self, timeout_s: float = 1.0) -> bool:
        """Returns whether the thread ended in time; a request being answered is finished first."""
        self.left_over = tuple(self._queue.close())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (request := self._queue.take()) is not None:
            self._answer(request)
