"""CPU and GPU frequency governors of the Linux kernel as pure functions: (state, load) -> (state, clock).

The clock is always an entry of the table inside the band. Sources: kernel/sched/cpufreq_schedutil.c,
and governor_pod_scaling.c (NVIDIA, 2012-2020) with the 25 ms polling of nvgpu.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dynofa_ros.device.board import ceil_frequency
from dynofa_ros.device.interface import Band

PELT_HALF_LIFE_S = 0.032
SCHEDUTIL_HEADROOM = 1.25
PODGOV_LOAD_MAX, PODGOV_LOAD_TARGET = 900, 700  # permille
PODGOV_BIAS, PODGOV_SMOOTH, PODGOV_DAMP = 80, 10, 7
PODGOV_BLOCK_WINDOW_S = 0.05


@dataclass(frozen=True)
class GovernorState:
    """Memory of a governor; what the averages mean is its own business."""

    load_average: float = 0.0
    frequency_average: float = 0.0
    last_change_s: float = -math.inf


@dataclass(frozen=True)
class Load:
    """What a governor sees: busy share (0..1) at ``frequency_hz`` over the last ``period_s``.

    ``suspended``: the domain is power-gated because it has nothing to do.
    """

    now_s: float
    period_s: float
    frequency_hz: int
    busy: float
    suspended: bool = False


def performance(
    state: GovernorState, load: Load, table: tuple[int, ...], band: Band
) -> tuple[GovernorState, int]:
    """Top of the band."""
    return state, band.max_hz


def powersave(
    state: GovernorState, load: Load, table: tuple[int, ...], band: Band
) -> tuple[GovernorState, int]:
    """Bottom of the band."""
    return state, band.min_hz


def schedutil(
    state: GovernorState, load: Load, table: tuple[int, ...], band: Band
) -> tuple[GovernorState, int]:
    """Lowest clock >= 1.25 * f_top * utilisation, the utilisation being frequency-invariant (PELT).

    Without I/O-wait boost and real-time tasks: nothing here would cause them. Called at the rate limit.
    """
    keep = 0.5 ** (load.period_s / PELT_HALF_LIFE_S)
    invariant = load.busy * load.frequency_hz / table[-1]
    average = keep * state.load_average + (1.0 - keep) * invariant
    wanted_hz = SCHEDUTIL_HEADROOM * table[-1] * average
    return replace(state, load_average=average), _in_band(table, band, wanted_hz)


def nvhost_podgov(
    state: GovernorState, load: Load, table: tuple[int, ...], band: Band
) -> tuple[GovernorState, int]:
    """Jetson GPU governor of the 4.9 to 5.10 kernels, called every 25 ms, in its integer arithmetic.

    Holds the load near 70 % by a boost proportional to the deviation, and one third of the top clock
    above 90 %. ``load_average`` is the mean of busy cycles (Hz), ``frequency_average`` of clocks (MHz).
    """
    if load.suspended:
        return GovernorState(), band.min_hz
    current_hz = load.frequency_hz
    busy_permille = int(1000 * load.busy)
    cycles = (int(state.load_average) * PODGOV_SMOOTH + current_hz * busy_permille // 1000) // (
        PODGOV_SMOOTH + 1
    )
    state = replace(state, load_average=cycles)
    if load.now_s - state.last_change_s < PODGOV_BLOCK_WINDOW_S:
        return state, _in_band(table, band, current_hz)
    current_mhz = current_hz // 1_000_000
    boost, damp = _podgov_boost(current_mhz, 1000 * cycles // current_hz, busy_permille, table[-1])
    target_mhz = current_mhz + boost
    average_mhz = (int(state.frequency_average) * PODGOV_SMOOTH + target_mhz) // (PODGOV_SMOOTH + 1)
    target_mhz = (damp * target_mhz + (10 - damp) * average_mhz) // 10
    chosen_hz = _in_band(table, band, target_mhz * 1_000_000)
    changed_s = load.now_s if chosen_hz != current_hz else state.last_change_s
    return replace(state, frequency_average=average_mhz, last_change_s=changed_s), chosen_hz


def _podgov_boost(
    current_mhz: int, busyness_permille: int, busy_permille: int, top_hz: int
) -> tuple[int, int]:
    """(boost in MHz, damping in tenths); the division truncates towards zero, as in C."""
    largest_mhz = top_hz // 3 // 1_000_000
    if busy_permille > PODGOV_LOAD_MAX:
        return largest_mhz, 10
    numerator = (busyness_permille - PODGOV_LOAD_TARGET) * PODGOV_BIAS * current_mhz
    return min(int(numerator / (100 * PODGOV_LOAD_TARGET)), largest_mhz), PODGOV_DAMP


def _in_band(table: tuple[int, ...], band: Band, frequency_hz: float) -> int:
    return ceil_frequency(table, min(max(frequency_hz, band.min_hz), band.max_hz))


@dataclass(frozen=True)
class Governor:
    """A law and how often it runs; ``period_s`` 0 = only when the band changes."""

    law: Callable[[GovernorState, Load, tuple[int, ...], Band], tuple[GovernorState, int]]
    period_s: float


GOVERNORS = {
    "performance": Governor(performance, 0.0),
    "powersave": Governor(powersave, 0.0),
    "schedutil": Governor(schedutil, 0.010),  # rate limit with a transition latency of 300 us
    "nvhost_podgov": Governor(nvhost_podgov, 0.025),
}
