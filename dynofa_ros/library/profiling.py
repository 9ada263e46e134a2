"""Latency of sub-networks on this machine, measured the way a perception node runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from dynofa_ros.library.format import Entry, Latency, Library, pareto_front
from dynofa_ros.supernet.engines import Runner
from dynofa_ros.supernet.supernet import Supernet

Statistics = Mapping[str, Mapping[str, np.ndarray]]


def measure(
    runners: Mapping[str, Runner],
    resolutions: Mapping[str, int],
    rounds: int,
    warm_up: int = 5,
    pause_s: float = 0.0,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Milliseconds per inference and round, interleaved so that a slow spell of the machine hits all alike.

    pause_s: idle time before each inference. Back to back, caches and clocks are warmer than a camera's
    frame ever finds them: small networks then look up to 40 % faster than they are.
    """
    images = {k: np.zeros((1, 3, r, r), np.float32) for k, r in resolutions.items()}
    times: dict[str, list[float]] = {k: [] for k in runners}
    for number in range(warm_up + rounds):
        for key, run in runners.items():
            if pause_s > 0:
                time.sleep(pause_s)
            start = clock()
            run(images[key])
            if number >= warm_up:
                times[key].append((clock() - start) / 1e6)
        on_round()
    return {k: np.array(v) for k, v in times.items()}


def profile(
    library: Library,
    supernet: Supernet,
    engine: str,
    *,
    threads: int = 1,
    rounds: int = 40,
    pause_s: float = 0.0,
    clock: Callable[[], int] = time.perf_counter_ns,
    statistics: Statistics | None = None,
    on_round: Callable[[], None] = lambda: None,
) -> Library:
    """The library with the latencies of this machine; entries that are no longer on the front leave it.

    alpha and beta keep their shares, because one clock frequency cannot tell them apart.
    """
    configs = {e.id: library.config(e) for e in library.entries}
    runners = {
        key: supernet.prepare(config, engine, statistics=(statistics or {}).get(key), threads=threads)
        for key, config in configs.items()
    }
    resolutions = {k: c.resolution for k, c in configs.items()}
    times = measure(runners, resolutions, rounds, pause_s=pause_s, clock=clock, on_round=on_round)

    def remeasured(entry: Entry) -> Entry:
        median, p95 = (float(round(v, 4)) for v in np.percentile(times[entry.id], (50, 95)))
        share = entry.alpha_ms / (entry.alpha_ms + entry.beta_ms)
        return msgspec.structs.replace(
            entry,
            latency_ms=Latency(median, p95),
            latency_source="measured",
            alpha_ms=median * share,
            beta_ms=median * (1 - share),
        )

    return msgspec.structs.replace(library, entries=pareto_front([remeasured(e) for e in library.entries]))
