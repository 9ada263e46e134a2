"""Frequency governors of the Linux kernel as pure functions: (state, load, table, band) -> (state, clock).

The clock is always an entry of the table inside the band, whose limits are table entries. Sources:
kernel/sched/cpufreq_schedutil.c, drivers/cpufreq/cpufreq_{ondemand,conservative}.c,
drivers/devfreq/governor_simpleondemand.c and NVIDIA's governor_pod_scaling.c (2012-2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from dynofa_ros.device.board import ceil_frequency, floor_frequency
from dynofa_ros.messages import FrequencyBand

PELT_HALF_LIFE_S = 0.032
SCHEDUTIL_HEADROOM = 1.25
SCHEDUTIL_RATE_LIMIT_US = 10_000  # min(1000 * transition latency of 300 us, 10 ms)
CONSERVATIVE_UP, CONSERVATIVE_DOWN, CONSERVATIVE_STEP = 80, 20, 5  # percent
SIMPLE_UP, SIMPLE_DOWN_DIFFERENTIAL = 90, 5  # percent
PODGOV_LOAD_MAX, PODGOV_LOAD_TARGET = 900, 700  # permille
PODGOV_BIAS, PODGOV_SMOOTH, PODGOV_DAMP = 80, 10, 7
PODGOV_BLOCK_WINDOW_US = 50_000


class GovernorState(NamedTuple):
    """State of a governor; the averages mean something else in each.

    rate_multiplier, samples_left: ondemand's sampling.
    speed_hz: what was set with the userspace governor, 0 = nothing yet.
    """

    load_average: float = 0.0
    frequency_average: float = 0.0
    last_change_s: float = -math.inf
    rate_multiplier: int = 1
    samples_left: int = 0
    speed_hz: int = 0


class Load(NamedTuple):
    """What a governor sees at ``now_s``, with ``frequency_hz`` in effect.

    busy: share (0..1) of the last ``period_s`` in which the busiest core ran. utilization: the same core's
    PELT average (0..1 of its capacity at the top clock). suspended: the domain is power-gated.
    """

    now_s: float
    period_s: float
    frequency_hz: int
    busy: float
    utilization: float = 0.0
    cores: int = 1
    suspended: bool = False


Law = Callable[[GovernorState, Load, tuple[int, ...], FrequencyBand], tuple[GovernorState, int]]


def performance(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """Top of the band."""
    return state, band.max_hz


def powersave(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """Bottom of the band."""
    return state, band.min_hz


def userspace(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """The speed that was set, inside the band; the present clock if none was."""
    return state, _in_band(table, band, state.speed_hz or load.frequency_hz)


def pelt(average: float, load: float, duration_s: float) -> float:
    """Utilisation (0..1) of one core after ``duration_s`` under a load: its busy share x clock / top clock.

    Per-entity load tracking with its half-life of 32 ms, frequency-invariant, in continuous time: the kernel
    counts in steps of 1.024 ms. Exact for any cut of the duration.
    """
    return load + (average - load) * 0.5 ** (duration_s / PELT_HALF_LIFE_S)


def schedutil(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """Lowest clock >= 1.25 * f_top * utilisation of the busiest core.

    At most one change per rate limit. A core that never idled is not slowed down if it is alone.
    Without real-time tasks, I/O-wait boost, util_est and uclamp.
    """
    current_hz = load.frequency_hz
    if 1e6 * (load.now_s - state.last_change_s) < SCHEDUTIL_RATE_LIMIT_US - 0.5:
        return state, _in_band(table, band, current_hz)
    wanted_hz = SCHEDUTIL_HEADROOM * table[-1] * load.utilization
    if load.cores == 1 and load.busy >= 1.0:
        wanted_hz = max(wanted_hz, current_hz)
    chosen_hz = _in_band(table, band, wanted_hz)
    return (state._replace(last_change_s=load.now_s) if chosen_hz != current_hz else state), chosen_hz


def ondemand(
    state: GovernorState,
    load: Load,
    table: tuple[int, ...],
    band: FrequencyBand,
    up_threshold: int = 80,
    sampling_down_factor: int = 1,
) -> tuple[GovernorState, int]:
    """Top of the band above ``up_threshold`` percent, else min + load * (max - min) of the whole table,
    to the closest clock. After a jump to the top the next ``sampling_down_factor`` samples count as one."""
    total = state.load_average + load.busy
    if state.samples_left > 1:
        state = state._replace(load_average=total, samples_left=state.samples_left - 1)
        return state, _in_band(table, band, load.frequency_hz)
    percent = _whole(100.0 * total / state.rate_multiplier)
    if percent > up_threshold:
        rate = sampling_down_factor if load.frequency_hz < band.max_hz else state.rate_multiplier
        return state._replace(load_average=0.0, rate_multiplier=rate, samples_left=rate), band.max_hz
    wanted_hz = table[0] + percent * (table[-1] - table[0]) // 100
    if state.rate_multiplier != 1 or state.load_average:
        state = state._replace(load_average=0.0, rate_multiplier=1, samples_left=0)
    return state, _closest(table, band, wanted_hz)


def conservative(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """5 % of the band's top up above 80 % load, down below 20 %. ``frequency_average`` is the request."""
    percent = _whole(100.0 * load.busy)
    requested_hz = state.frequency_average
    if not band.min_hz <= requested_hz <= band.max_hz:
        requested_hz = load.frequency_hz
    step_hz = CONSERVATIVE_STEP * band.max_hz // 100
    if percent > CONSERVATIVE_UP:
        requested_hz = min(requested_hz + step_hz, band.max_hz)
        chosen_hz = floor_frequency(table, max(requested_hz, band.min_hz))
    elif percent < CONSERVATIVE_DOWN:
        requested_hz = max(requested_hz - step_hz, band.min_hz)
        chosen_hz = _in_band(table, band, requested_hz)
    else:
        chosen_hz = _in_band(table, band, load.frequency_hz)
    return state._replace(frequency_average=requested_hz), chosen_hz


def simple_ondemand(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """Top of the band above 90 % load, unchanged above 85 %, else busy * f * 100 / 88, rounded up."""
    current_hz = load.frequency_hz
    busy_us, total_us = _whole(1e6 * load.busy * load.period_s), round(1e6 * load.period_s)
    if not total_us or 100 * busy_us > total_us * SIMPLE_UP:
        return state, band.max_hz
    if 100 * busy_us > total_us * (SIMPLE_UP - SIMPLE_DOWN_DIFFERENTIAL):
        return state, _in_band(table, band, current_hz)
    wanted_hz = 100 * (busy_us * current_hz // total_us) // (SIMPLE_UP - SIMPLE_DOWN_DIFFERENTIAL // 2)
    return state, _in_band(table, band, wanted_hz)


def nvhost_podgov(
    state: GovernorState, load: Load, table: tuple[int, ...], band: FrequencyBand
) -> tuple[GovernorState, int]:
    """Jetson GPU governor of the 4.9 to 5.10 kernels, called every 25 ms, in its integer arithmetic.

    Holds the load near 70 % by a boost proportional to the deviation, and one third of the top clock
    above 90 %. ``load_average`` is the mean of busy cycles (Hz), ``frequency_average`` of clocks (MHz).
    """
    if load.suspended:
        return GovernorState(), band.min_hz
    current_hz = load.frequency_hz
    busy_permille = _whole(1000.0 * load.busy)
    cycles = (int(state.load_average) * PODGOV_SMOOTH + current_hz * busy_permille // 1000) // (
        PODGOV_SMOOTH + 1
    )
    if 1e6 * (load.now_s - state.last_change_s) < PODGOV_BLOCK_WINDOW_US - 0.5:
        return state._replace(load_average=cycles), _in_band(table, band, current_hz)
    current_mhz = current_hz // 1_000_000
    boost, damp = _podgov_boost(current_mhz, 1000 * cycles // current_hz, busy_permille, band.max_hz)
    target_mhz = current_mhz + boost
    average_mhz = (int(state.frequency_average) * PODGOV_SMOOTH + target_mhz) // (PODGOV_SMOOTH + 1)
    target_mhz = (damp * target_mhz + (10 - damp) * average_mhz) // 10
    chosen_hz = _in_band(table, band, target_mhz * 1_000_000)
    changed_s = load.now_s if chosen_hz != current_hz else state.last_change_s
    return GovernorState(cycles, average_mhz, changed_s), chosen_hz


def _podgov_boost(
    current_mhz: int, busyness_permille: int, busy_permille: int, max_hz: int
) -> tuple[int, int]:
    """(boost in MHz, damping in tenths); the division truncates towards zero, as in C."""
    largest_mhz = max_hz // 3 // 1_000_000
    if busy_permille > PODGOV_LOAD_MAX:
        return largest_mhz, 10
    numerator = (busyness_permille - PODGOV_LOAD_TARGET) * PODGOV_BIAS * current_mhz
    return min(int(numerator / (100 * PODGOV_LOAD_TARGET)), largest_mhz), PODGOV_DAMP


def _whole(value: float) -> int:
    """Integer part; a sum of floats that should be whole does not fall below it."""
    return int(value + 1e-6)


def _in_band(table: tuple[int, ...], band: FrequencyBand, frequency_hz: float) -> int:
    return ceil_frequency(table, min(max(frequency_hz, band.min_hz), band.max_hz))


def _closest(table: tuple[int, ...], band: FrequencyBand, frequency_hz: float) -> int:
    inside_hz = min(max(frequency_hz, band.min_hz), band.max_hz)
    low, high = floor_frequency(table, inside_hz), ceil_frequency(table, inside_hz)
    return high if high - inside_hz < inside_hz - low else low


@dataclass(frozen=True)
class Governor:
    """A law and how often it runs; ``period_s`` 0 = only when the band changes.

    ``polled``: a devfreq governor, which runs at the poll period of its device where there is one.
    """

    law: Law
    period_s: float
    polled: bool = False


GOVERNORS = {
    "conservative": Governor(conservative, 0.010),
    "nvhost_podgov": Governor(nvhost_podgov, 0.025, polled=True),
    "ondemand": Governor(ondemand, 0.010),
    "ondemand_raspberry_pi": Governor(partial(ondemand, up_threshold=50, sampling_down_factor=50), 0.1),
    "performance": Governor(performance, 0.0),
    "powersave": Governor(powersave, 0.0),
    "schedutil": Governor(schedutil, 1e-6 * SCHEDUTIL_RATE_LIMIT_US),
    "simple_ondemand": Governor(simple_ondemand, 0.025, polled=True),
    "userspace": Governor(userspace, 0.0),
}
