"""Switching between sub-networks: prepared in the background, swapped in between two frames."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from dynofa_ros.errors import one_line
from dynofa_ros.supernet.engines.engine import Engine
from dynofa_ros.supernet.graphs import Runner
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.memory import trim_memory
from dynofa_ros.supernet.registry import EngineError
from dynofa_ros.supernet.space import Statistics
from dynofa_ros.supernet.supernet import Supernet

Key = TypeVar("Key", bound=Hashable)
Wait = Callable[[float], None]  # as Pauses.wait

# A frame must not wait for Python's usual 5 ms before the preparing thread lets go of the interpreter.
SWITCH_INTERVAL_S = 2e-4
# Bound of the weights of prepared sub-networks; an engine holds up to three times that (its own layout).
CACHE_BYTES = 32 * 2**20
# What an engine holds of a network whose weights are in a file; measured, for those of ofa_mbv3_w1.2.
MAPPED_BYTES = 4 * 2**20
# ONNX Runtime learns in its first run how much memory the network needs, and asks for it in the second.
WARM_UP_RUNS = 2
STEP_S = 0.008  # of a preparation from files, at least
LONGEST_WAIT_S = 0.1  # for a pause


class Pauses:
    """The time between two requests of a stream: what would delay a request waits for it.

    Entered while a request is answered. A step of a preparation takes memory, caches and the interpreter away
    from an answer for milliseconds.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answering = 0
        self._since_s = time.perf_counter()  # of the last answer
        self._last_s = 0.0  # length of the last pause

    def __enter__(self) -> None:
        with self._changed:
            self._answering += 1
            self._last_s = time.perf_counter() - self._since_s

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._answering -= 1
            self._since_s = time.perf_counter()
            self._changed.notify_all()

    def wait(self, step_s: float = 0.0) -> None:
        """Return in a pause with time for a step that takes so long, if the last one had it."""
        step_s = max(step_s, STEP_S)

        def is_time_left() -> bool:
            spent_s = time.perf_counter() - self._since_s
            has_ended = spent_s > 2 * self._last_s  # the stream
            return not self._answering and (has_ended or spent_s + step_s <= self._last_s)

        with self._changed:
            if self._last_s >= step_s:
                self._changed.wait_for(is_time_left, LONGEST_WAIT_S)


def at_once(step_s: float = 0.0) -> None:
    """Waits for no pause."""


@dataclass(frozen=True)
class Prepared(Generic[Key]):
    """A sub-network ready to run. input_shape: of one image; preprocess: from a BGR image to its input;
    scale: of a detector, px of its input per px of an image of a shape, across and down; one_row_each: as
    of its space."""

    key: Key
    run: Runner
    input_shape: Shape
    nbytes: int
    preprocess: Callable[[Any], np.ndarray]
    scale: Callable[[Shape], tuple[float, float]] = lambda image: (1.0, 1.0)
    one_row_each: bool = False


def prepare_subnet(
    key: Key,
    supernet: Supernet,
    config: Any,
    engine: Engine,
    *,
    statistics: Statistics | None = None,
    threads: int = 1,
    processor: str | None = None,
    known: Runner | None = None,
    compiled: bool = False,
    wait: Wait = at_once,
) -> Prepared[Key]:
    """Cut a sub-network out of the weights, hand it to the engine, run it until its first frame will be as
    fast as its hundredth.

    known: the same sub-network, prepared before. compiled: refuse one that would have to be compiled for
    minutes. wait: called before each step with the time that the one before took. Raises ValueError
    (statistics of another width) or EngineError.
    """
    wait(0.0)
    subnet, plan = supernet.materialise(config, statistics), supernet.plan(config)
    if compiled and not known and not engine.is_compiled(subnet, processor):
        raise EngineError(f"{key} is not compiled for this {processor}: `dynofa library compile` does that")
    run = known or engine.prepare(subnet, threads, processor)
    preprocess = functools.partial(supernet.space.preprocess, config=config)
    scale = functools.partial(supernet.space.scale, config=config)
    took_s = 0.0
    for _ in range(0 if known else WARM_UP_RUNS):
        wait(took_s)
        start = time.perf_counter()
        supernet.space.exercise(run, config)
        took_s = time.perf_counter() - start
    if subnet.is_cut:
        trim_memory()
    nbytes = subnet.nbytes if subnet.is_cut else 4 * plan.params
    nbytes = min(nbytes, MAPPED_BYTES) if run.mapped else nbytes
    return Prepared(key, run, plan.input_shape, nbytes, preprocess, scale, supernet.space.one_row_each)


@dataclass(frozen=True)
class Switched(Generic[Key]):
    """Outcome of a request. error: None, or the reason why the old sub-network keeps running."""

    key: Key
    duration_ms: float
    error: str | None = None


Report = Callable[[Switched[Key]], None]


class Switcher(Generic[Key]):
    """Holds the sub-network in use and a cache of prepared ones, bounded in bytes of their weights.

    ``current`` may be read from any thread at any time; it changes only to a sub-network that is ready.
    A cached sub-network is swapped in at once, any other is prepared by a background thread. A second one
    follows the hints, then fills the room that is left, so that no request waits for a guess. Of several
    requests only the newest counts. Least recently used ones leave the cache first, never the current one.
    wait: called before they are dropped, which may keep the interpreter for milliseconds.
    """

    def __init__(
        self, prepare: Callable[[Key], Prepared[Key]], capacity_bytes: int, wait: Wait = at_once
    ) -> None:
        self._prepare, self._wait = prepare, wait
        self._capacity_bytes = capacity_bytes
        self._cache: OrderedDict[Key, Prepared[Key]] = OrderedDict()
        self._lock = threading.Condition()
        self._wanted: tuple[Key, int, Report[Key]] | None = None
        self._hints: list[Key] = []
        self._guessed: frozenset[Key] = frozenset()  # all hints of the newest list
        self._others: list[Key] = []  # to be held where there is room
        self._sizes: dict[Key, int] = {}  # of what was prepared once: a hint that cannot fit costs nothing
        self._left: list[Prepared[Key]] = []  # the cache, and are to be dropped
        self._closed = False
        self.current: Prepared[Key] | None = None
        self._preparing: set[Key] = set()  # in one of the two threads
        self._threads = [
            threading.Thread(target=work, name=f"subnet-{name}", daemon=True)
            for name, work in (("preparation", self._follow_requests), ("prefetch", self._follow_hints))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held(self) -> tuple[Prepared[Key], ...]:
        """All that is prepared, the one in use among them."""
        with self._lock:
            return tuple(self._cache.values())

    def holds(self, key: Key) -> bool:
        """Whether a request for ``key`` would be swapped in at once."""
        with self._lock:
            return key in self._cache

    def get(self, key: Key) -> Prepared[Key] | None:
        """A sub-network for one request, None if it is not held; the one in use stays."""
        with self._lock:
            prepared = self._cache.get(key)
            if prepared is not None:
                self._cache.move_to_end(key)
            return prepared

    def activate(self, key: Key) -> Prepared[Key]:
        """Prepare and swap in, in this thread. Raises what the preparation raises."""
        prepared = self._prepare(key)
        with self._lock:
            self._adopt(prepared)
            self._left = []
        return prepared

    def request(self, key: Key, report: Report[Key]) -> bool:
        """Ask for a sub-network; ``report`` tells the outcome, here or in the background thread.

        Returns whether it was swapped in at once. A request that a newer one overtakes is not reported.
        """
        start = time.perf_counter_ns()
        with self._lock:
            prepared = self._cache.get(key)
            if prepared is None:
                if self._wanted is not None and self._wanted[0] == key:
                    start = self._wanted[1]  # the one in preparation will do
                self._wanted = (key, start, report)
                self._lock.notify_all()
                return False
            if self._wanted is not None:  # else nobody waits for the end of it: no thread is woken
                self._wanted = None
                self._lock.notify_all()
            self._adopt(prepared)
        report(Switched(key, (time.perf_counter_ns() - start) / 1e6))
        return True

    def hold(self, keys: Iterable[Key]) -> None:
        """Prepare as many of these as there is room for behind all that is held, after the hints."""
        with self._lock:
            self._others = list(keys)
            self._lock.notify_all()

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Replace the list of sub-networks worth preparing while nothing else is asked for."""
        with self._lock:
            self._hints = list(keys)
            self._guessed = frozenset(self._hints)
            self._lock.notify_all()

    def close(self) -> None:
        """End the background thread and drop everything."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()
        self._cache.clear()
        self.current = None

    def _adopt(self, prepared: Prepared[Key]) -> None:
        self.current = prepared
        self._store(prepared)

    def _store(self, prepared: Prepared[Key]) -> None:
        self._cache[prepared.key] = prepared
        self._cache.move_to_end(prepared.key)
        self._sizes[prepared.key] = prepared.nbytes
        size = sum(p.nbytes for p in self._cache.values())
        for key in sorted(
            self._cache, key=self._guessed.__contains__
        ):  # least recently used first, guesses last
            if size <= self._capacity_bytes:
                break
            if not self._is_current(self._cache[key]):
                self._left.append(self._cache.pop(key))
                size -= self._left[-1].nbytes

    def _drop_left(self) -> None:
        if self._left:
            self._wait(0.0)
        self._left = []

    def _next_hint(self) -> Key | None:
        for keys in (self._hints, self._others):
            while keys:
                key = keys.pop(0)
                if key not in self._cache and self._room_for(key):
                    return key
        return None

    def _room_for(self, key: Key) -> bool:
        """Would a guess fit beside the current one and the other guesses, or what is none beside all?"""
        replaces, held = key in self._guessed, self._cache.values()
        kept = [p for p in held if not replaces or self._is_current(p) or p.key in self._guessed]
        return sum(p.nbytes for p in kept) + self._sizes.get(key, 0) <= self._capacity_bytes

    def _is_current(self, prepared: Prepared[Key]) -> bool:
        return self.current is not None and prepared.key == self.current.key

    def _follow_requests(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._wanted is not None)
                if self._closed or self._wanted is None:
                    return
                wanted = self._wanted
            self._switch(*wanted)
            self._drop_left()

    def _follow_hints(self) -> None:
        while True:
            with self._lock:
                hint: Key | None = None
                while not self._closed and hint is None:
                    hint = None if self._wanted is not None else self._next_hint()
                    if hint is None:
                        self._lock.wait()
                if self._closed or hint is None:
                    return
                self._preparing.add(hint)
            self._prefetch(hint)
            self._drop_left()

    def _prefetch(self, key: Key) -> None:
        prepared = None
        with suppress(Exception):  # a hint that fails will fail again, and be reported, when it is asked for
            prepared = self._prepare(key)
        with self._lock:
            self._preparing.discard(key)
            if prepared is not None:
                self._sizes[key] = prepared.nbytes
                asked = self._wanted is not None and self._wanted[0] == key
                if asked or self._room_for(key):
                    self._store(prepared)
                elif key not in self._guessed:
                    self._others = []  # the rest is of about the same size
            self._lock.notify_all()

    def _is_overtaken(self, start: int) -> bool:
        """Whether a newer request came than the one of this time, or there will be none any more."""
        return self._closed or self._wanted is None or self._wanted[1] != start

    def _switch(self, key: Key, start: int, report: Report[Key]) -> None:
        error = None
        try:
            with self._lock:
                self._lock.wait_for(lambda: key not in self._preparing or self._is_overtaken(start))
                if self._is_overtaken(start):
                    return
                cached = self._cache.get(key)  # a hint may have been faster
            prepared = cached or self._prepare(key)
        except Exception as reason:  # noqa: BLE001 - whatever it is, the old sub-network keeps running
            error = one_line(reason)
        with self._lock:
            if self._is_overtaken(start):
                if error is None:
                    self._store(prepared)
                return
            assert self._wanted is not None
            report = self._wanted[2]
            self._wanted = None
            self._lock.notify_all()  # the hints may go on
            if error is None:
                self._adopt(prepared)
        try:
            report(Switched(key, (time.perf_counter_ns() - start) / 1e6, error))
        except Exception:  # the next request must still find this thread
            logging.getLogger(__name__).exception("the report of a switch to %s failed", key)
