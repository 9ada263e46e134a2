"""Switching under a 30 Hz stream: how long it takes, and what it does to the frames meanwhile."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dynofa_ros.application.emulation import sleep_until
from dynofa_ros.application.worker import LatestSlot, Worker
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.registry import load_engine
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import (
    SWITCH_INTERVAL_S,
    Pauses,
    Prepared,
    Switched,
    Switcher,
    Wait,
    at_once,
    prepare_subnet,
)

RATE_HZ = 30.0
SEGMENT_FRAMES = 30  # a second: then the next segment begins, every other one with a switch
HELD = 2**40  # bytes of a cache that holds a whole library, as a node does where its own is large enough
SLOW = 1.1  # a frame slower than this many medians of its sub-network is delayed
NEAREST = 30  # frames of the median


@dataclass
class Stream:
    """Answered frames: (whether the segment began with a switch, sub-network, ms from receipt to result).

    dropped: unanswered frames by the same distinction, because a newer one came first.
    """

    frames: list[tuple[bool, str, float]] = field(default_factory=list)
    dropped: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    switches_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def stream_with_switches(
    prepare: Callable[[str], Prepared[str]],
    order: Sequence[str | None],
    capacity_bytes: int,
    segment_frames: int = SEGMENT_FRAMES,
    on_segment: Callable[[], None] = lambda: None,
    pauses: Pauses | None = None,
) -> Stream:
    """Answer frames at 30 Hz, a segment for each entry of ``order``: a switch, or None for a quiet one.

    pauses: those that ``prepare`` waits for.
    """
    pauses = pauses or Pauses()
    result, slot = Stream(), LatestSlot[tuple[bool, int]]()
    switcher: Switcher[str] = Switcher(prepare, capacity_bytes, pauses.wait)
    for key in dict.fromkeys(filter(None, order)):  # fills the cache as far as it reaches
        switcher.activate(key)
    images: dict[Shape, np.ndarray] = {}

    def answer(frame: tuple[bool, int]) -> None:
        switching, received_ns = frame
        network = switcher.current
        assert network is not None
        shape = network.input_shape
        with pauses:
            network.run(images.setdefault(shape, np.zeros((1, *shape), np.float32)))
        result.frames.append((switching, network.key, (time.perf_counter_ns() - received_ns) / 1e6))

    def report(switched: Switched[str]) -> None:
        if switched.error is None:
            result.switches_ms.append(switched.duration_ms)
        else:
            result.errors.append(f"{switched.key}: {switched.error}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as a perception node does
    worker = Worker(slot, answer)
    due_ns = time.perf_counter_ns()
    for wanted in order:
        for number in range(segment_frames):
            due_ns += int(1e9 / RATE_HZ)
            sleep_until(due_ns)
            result.dropped[wanted is not None] += slot.put((wanted is not None, time.perf_counter_ns()))
            if number == 0 and wanted is not None:
                switcher.request(wanted, report)
        on_segment()
    worker.stop()
    switcher.close()
    sys.setswitchinterval(interval)
    return result


def local_ratios(frames: Sequence[tuple[bool, str, float]]) -> np.ndarray:
    """Each latency in medians of the NEAREST frames of its sub-network: (N,).

    Not of all of them: a computer that is shared or grows warm is at another speed a minute later.
    """
    keys, latencies = np.array([key for _, key, _ in frames]), np.array([ms for *_, ms in frames])
    ratios = np.empty(len(frames))
    for key in set(keys.tolist()):
        own = np.flatnonzero(keys == key)
        for frame in own:
            nearest = own[np.argsort(abs(own - frame), kind="stable")[:NEAREST]]
            ratios[frame] = latencies[frame] / np.median(latencies[nearest])
    return ratios


def frame_figures(stream: Stream) -> dict[str, float]:
    """Delays in segments with a switch against those in quiet ones, in medians as of `local_ratios`.

    A frame that was not answered counts as delayed.
    """
    ratios, switching = local_ratios(stream.frames), np.array([frame[0] for frame in stream.frames])
    busy, calm = ratios[switching], ratios[~switching]
    share, quiet_share = (
        (int((values > SLOW).sum()) + stream.dropped[kind]) / max(1, len(values) + stream.dropped[kind])
        for kind, values in ((True, busy), (False, calm))
    )
    return {
        "delayed_share": share,
        "delayed_share_quiet": quiet_share,
        "delayed_share_extra": share - quiet_share,
        "worst_frame_ratio": float(busy.max()),
        "worst_frame_ratio_quiet": float(calm.max()),
        "p99_frame_ratio": float(np.percentile(busy, 99)),
        "dropped_frames": sum(stream.dropped.values()),
    }


def preparation(
    supernet: Supernet,
    configs: Mapping[str, Any],
    engine: str,
    threads: int,
    processor: str = "cpu",
    wait: Wait = at_once,
) -> Callable[[str], Prepared[str]]:
    """What a perception node does to prepare a sub-network."""
    options: Any = {"threads": threads, "processor": processor, "wait": wait}

    def run(key: str) -> Prepared[str]:
        return prepare_subnet(key, supernet, configs[key], load_engine(engine), **options)

    return run


def run(
    supernet: Supernet,
    configs: Mapping[str, Any],
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    segments: int = 60,
    seed: int = 0,
    on_segment: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The ``switch`` figures of the benchmark; milliseconds and shares. Needs at least 2 ``configs``."""
    rng, keys = np.random.default_rng(seed), list(configs)
    order: list[str] = []
    while len(order) < segments:
        round_ = rng.permutation(keys).tolist()
        order += round_[1:] if order and round_[0] == order[-1] else round_  # each request is a switch
    pauses = Pauses()
    prepare = preparation(supernet, configs, engine, threads, wait=pauses.wait)
    alternating = [entry for key in order[: segments // 2] for entry in (key, None)]
    cold = stream_with_switches(prepare, alternating, 0, on_segment=on_segment, pauses=pauses)
    held = stream_with_switches(prepare, alternating, HELD, on_segment=on_segment, pauses=pauses)
    warm = stream_with_switches(prepare, order * 2, HELD, segment_frames=2)
    return {
        "engine": engine,
        "threads": threads,
        "cpus": os.cpu_count(),
        "warm_cache": "all sub-networks held",
        "warm_p99_ms": float(np.percentile(warm.switches_ms, 99)),
        "cold_p50_ms": float(np.percentile(cold.switches_ms, 50)),
        "cold_p99_ms": float(np.percentile(cold.switches_ms, 99)),
        **frame_figures(cold),
        "held": frame_figures(held),
        "cold_switches": len(cold.switches_ms),
        "errors": cold.errors + held.errors + warm.errors,
    }
