"""Emulated DVFS: stretch a real inference to what it would take on the simulated device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from dynofa_ros.latency import latency
from dynofa_ros.messages import DomainState


def stretch_factor(
    clocks: Iterable[DomainState],
    alpha_ms: float,
    beta_ms: float,
    reference_hz: float,
    emulated_slowdown: float,
) -> float:
    """Factor on a real inference: slowdown x (1 + external) x (alpha + beta * f_ref / f) / (alpha + beta).

    The slowest clock and the heaviest load of the processor's domains count. Unknown ones count as the
    reference clock and no load, so that perception also runs while no device node is there.
    """
    frequencies, slowdowns = [], []
    for clock in clocks:
        if math.isfinite(clock.actual_hz) and clock.actual_hz > 0:
            frequencies.append(clock.actual_hz)
        if math.isfinite(clock.external_slowdown) and clock.external_slowdown > 0:
            slowdowns.append(clock.external_slowdown)
    ratio = reference_hz / min(frequencies) if frequencies and reference_hz > 0 else 1.0
    slowdown = emulated_slowdown * (1 + max(slowdowns, default=0.0))
    return float(latency(alpha_ms, beta_ms, ratio, slowdown) / (alpha_ms + beta_ms))


def sleep_until(deadline_ns: int) -> None:
    """Sleep to a steady-clock time; coarse sleep first, because sleep overshoots by up to a timer tick."""
    while (remaining := deadline_ns - time.perf_counter_ns()) > 0:
        time.sleep(max(remaining / 1e9 - 2e-4, 0) if remaining > 4e5 else 0)


def run_stretched(
    infer: Callable[[Callable[[Any], None]], Any], emit: Callable[[Any], None], factor: float, threads: int
) -> Any:
    """``infer(emit)``, made to take ``factor`` times as long (at least 1).

    All work is done at once, and what it emits is held back until it is due. A pause between the tokens of a
    text would leave cold caches, which the device does not have: the work took up to three times as long.
    """
    # The work is stretched, not the time the kernel gave this core to somebody else.
    clock_ns = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    start_ns, emitted = clock_ns(), list[tuple[int, Any]]()

    def due_ns() -> int:
        return time.perf_counter_ns() + int((clock_ns() - start_ns) * max(0.0, factor - 1))

    outputs = infer(lambda results: emitted.append((due_ns(), results)))
    end_ns = due_ns()
    for emit_ns, results in emitted:
        sleep_until(emit_ns)
        emit(results)
    sleep_until(end_ns)
    return outputs
