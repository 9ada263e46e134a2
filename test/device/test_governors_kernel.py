"""Governors against the formulas of the kernel in numbers worked out by hand; podgov also as a recurrence."""

from __future__ import annotations

import typing

import pytest
from factories import whole
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.device.board import load_board
from dynofa_ros.device.board_sections import GovernorName
from dynofa_ros.device.simulated.governors import (
    GOVERNORS,
    GovernorState,
    Load,
    conservative,
    nvhost_podgov,
    ondemand,
    pelt,
    performance,
    powersave,
    schedutil,
    simple_ondemand,
    userspace,
)
from dynofa_ros.messages import FrequencyBand

BOARD = load_board("xavier_nx")
CPU, GPU = BOARD.domains["cpu0"].frequencies_hz, BOARD.domains["gpu"].frequencies_hz
MHZ = 1_000_000
START = GovernorState()


def cpu(busy: float = 0.5, utilization: float = 0.0, hz: int = CPU[-1], now_s: float = 1.0, **more) -> Load:
    return Load(now_s, 0.01, hz, busy, utilization, **{"cores": 2, **more})


def choose(law, load: Load, table=CPU, band: FrequencyBand | None = None, state=START) -> int:
    return law(state, load, table, band or whole(table))[1]


# --- what every governor keeps -----------------------------------------------------------------

loads = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=30,
)


def test_the_board_files_may_name_every_governor():
    assert set(typing.get_args(GovernorName)) == set(GOVERNORS)


@given(st.sampled_from(sorted(GOVERNORS)), st.tuples(st.integers(0, 14), st.integers(0, 14)), loads)
def test_every_choice_is_a_clock_of_the_band(name, limits, history):
    low, high = sorted(limits)
    band = FrequencyBand("gpu", GPU[low], GPU[high])
    state, current = GovernorState(speed_hz=700 * MHZ), band.min_hz
    for step, (busy, utilization, idle) in enumerate(history):
        load = Load(0.025 * step, 0.025, current, busy, utilization, 1, idle and busy == 0)
        before = state
        state, current = GOVERNORS[name].law(state, load, GPU, band)
        assert current in GPU and band.min_hz <= current <= band.max_hz
        assert GOVERNORS[name].law(before, load, GPU, band) == (state, current)  # pure


@pytest.mark.parametrize("name", sorted(GOVERNORS))
@given(busy=st.tuples(st.floats(0, 1), st.floats(0, 1)), clock=st.sampled_from(GPU))
def test_more_load_never_gives_a_lower_clock(name, busy, clock):
    less, more = (
        choose(GOVERNORS[name].law, Load(1.0, 0.025, clock, share, share), GPU) for share in sorted(busy)
    )
    assert less <= more


# --- the simple ones ---------------------------------------------------------------------------


def test_performance_powersave_and_userspace():
    band = FrequencyBand("any", CPU[3], CPU[9])
    assert choose(performance, cpu(0.0), band=band) == CPU[9]
    assert choose(powersave, cpu(1.0), band=band) == CPU[3]
    assert choose(userspace, cpu(hz=CPU[5]), band=band) == CPU[5]
    for speed_hz, chosen in ((CPU[6] + 5 * MHZ, CPU[7]), (CPU[20], CPU[9]), (CPU[0], CPU[3])):
        assert choose(userspace, cpu(), band=band, state=GovernorState(speed_hz=speed_hz)) == chosen


# --- schedutil ---------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(CPU), st.floats(0, 1), st.floats(0, 1))
def test_pelt_is_exact_for_any_cut_of_the_time(average, busy, clock, duration_s, part):
    load = busy * clock / CPU[-1]
    once = pelt(average, load, duration_s)
    cut = pelt(average, load, part * duration_s)
    assert pelt(cut, load, (1 - part) * duration_s) == pytest.approx(once, abs=1e-12)


def test_pelt_against_the_sum_of_the_kernel():
    # Half of full after 32 ms at the top clock; per 1.024 ms period: u = u * y + (1 - y), y^32 = 1/2.
    assert pelt(0.0, 1.0, 0.032) == pytest.approx(0.5)
    y, kernel = 0.5 ** (1 / 32), 0.0
    for _ in range(100):
        kernel = kernel * y + (1 - y) * 0.25 * 1_190_400_000 / CPU[-1]
    assert pelt(0.0, 0.25 * 1_190_400_000 / CPU[-1], 0.1) == pytest.approx(kernel, rel=1e-9)


@pytest.mark.parametrize(
    ("utilization", "clock_khz"),
    # 1.25 * 1907.2 MHz * u: 596 -> 652.8; 1192 -> 1267.2; 1190.4 exactly -> 1190.4; 1907.2; beyond -> top
    [(0.25, 652_800), (0.5, 1_267_200), (1190.4 / 2384, 1_190_400), (0.8, 1_907_200), (1.0, 1_907_200)],
)
def test_schedutil_gives_a_quarter_of_headroom(utilization, clock_khz):
    assert choose(schedutil, cpu(utilization=utilization)) == 1000 * clock_khz


def test_schedutil_waits_for_its_rate_limit_and_counts_only_changes():
    state, clock = schedutil(START, cpu(utilization=0.25), CPU, whole(CPU))
    assert (state.last_change_s, clock) == (1.0, 652_800_000)
    early = cpu(utilization=0.9, hz=clock, now_s=1.009)
    assert schedutil(state, early, CPU, whole(CPU)) == (state, clock)
    due = cpu(utilization=0.9, hz=clock, now_s=1.010)
    assert schedutil(state, due, CPU, whole(CPU))[1] == CPU[-1]
    assert schedutil(state, cpu(utilization=0.25, hz=clock, now_s=2.0), CPU, whole(CPU)) == (state, clock)


def test_schedutil_does_not_slow_down_a_single_core_that_never_idled():
    assert choose(schedutil, cpu(1.0, 0.3, cores=1)) == CPU[-1]
    assert choose(schedutil, cpu(0.999, 0.3, cores=1)) < CPU[-1]
    assert choose(schedutil, cpu(1.0, 0.3, cores=2)) < CPU[-1]


# --- ondemand and conservative -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "clock_khz"),
    # 115.2 + load * 17.92 MHz per percent, to the closest: 40 % 832 -> 806.4; 42 % 867.8 -> 883.2;
    # 80 % 1548.8 -> 1574.4; above 80 % the top; 80.9 % counts as 80.
    [(0.0, 115_200), (0.40, 806_400), (0.42, 883_200), (0.809, 1_574_400), (0.81, 1_907_200)],
)
def test_ondemand_is_proportional_below_its_threshold(busy, clock_khz):
    assert choose(ondemand, cpu(busy)) == 1000 * clock_khz


def test_ondemand_reckons_with_the_whole_table_and_then_cuts():
    assert choose(ondemand, cpu(0.40), band=FrequencyBand("any", CPU[12], CPU[20])) == CPU[12]
    assert choose(ondemand, cpu(0.40), band=FrequencyBand("any", CPU[0], CPU[4])) == CPU[4]


def test_ondemand_of_raspberry_pi_stays_at_the_top_for_50_samples():
    law, state, clock, clocks = GOVERNORS["ondemand_raspberry_pi"].law, START, CPU[0], []
    for step in range(53):
        load = cpu(0.51 if step == 0 else 0.10, hz=clock)
        state, clock = law(state, load, CPU, whole(CPU))
        clocks.append(clock)
    assert clocks[:50] == [CPU[-1]] * 50
    assert clocks[50] == clocks[-1] == 268_800_000  # 115.2 + 10 * 17.92 = 294.4: nearer to 268.8 than 345.6
    assert state == START
    assert GOVERNORS["ondemand_raspberry_pi"].period_s == 0.1


def test_ondemand_takes_the_mean_of_what_it_did_not_look_at():
    law, state, clock = GOVERNORS["ondemand_raspberry_pi"].law, START, CPU[0]
    for step in range(51):  # 25 samples of 100 % and 25 of 0 %: 50 % is not above 50
        state, clock = law(state, cpu(float(step == 0 or step % 2), hz=clock), CPU, whole(CPU))
    assert clock == 1_036_800_000  # 115.2 + 50 * 17.92 = 1011.2


def test_conservative_goes_by_five_percent_of_the_top():
    state, clock = conservative(START, cpu(0.9, hz=CPU[10]), CPU, whole(CPU))
    assert state.frequency_average == CPU[10] + 95_360_000 and clock == CPU[11]  # 978.56 -> 960
    state, clock = conservative(state, cpu(0.9, hz=clock), CPU, whole(CPU))
    assert clock == CPU[12]  # 1073.92 -> 1036.8
    assert conservative(state, cpu(0.5, hz=clock), CPU, whole(CPU)) == (state, clock)
    state, clock = conservative(state, cpu(0.1, hz=clock), CPU, whole(CPU))
    assert clock == CPU[12]  # 978.56 -> 1036.8, rounded up on the way down
    state, clock = conservative(GovernorState(frequency_average=CPU[0]), cpu(0.1), CPU, whole(CPU))
    assert clock == CPU[0]


# --- devfreq -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "clock_mhz"),
    # f = busy * 510 MHz * 100 / 88: 50 % 289.8 -> 306; 85 % 492.6 -> 510; 86 to 90 % keep; 91 % the top
    [(0.0, 114.75), (0.5, 306), (0.85, 510), (0.86, 510), (0.9, 510), (0.91, 1109.25)],
)
def test_simple_ondemand(busy, clock_mhz):
    assert choose(simple_ondemand, Load(1.0, 0.025, 510 * MHZ, busy), GPU) == clock_mhz * MHZ


def test_simple_ondemand_without_a_measurement_goes_to_the_top():
    assert choose(simple_ondemand, Load(1.0, 0.0, 510 * MHZ, 0.0), GPU) == GPU[-1]


def reference_podgov(shares: list[int], table: tuple[int, ...], band: FrequencyBand) -> list[int]:
    """The published recurrence, written down once more; ``shares`` in permille, one every 25 ms."""
    current, cycles_avg, freq_avg, last_us, clocks = band.min_hz, 0, 0, -(10**9), []
    for step, share in enumerate(shares):
        now_us = 25_000 * step
        norm = current * share // 1000
        cycles_avg = (cycles_avg * 10 + norm) // 11
        if now_us - last_us >= 50_000:
            busyness, f = 1000 * cycles_avg // current, current // MHZ
            mb = band.max_hz // 3 // MHZ
            product = (busyness - 700) * 80 * f
            boost = min(abs(product) // 70_000 * (1 if product > 0 else -1), mb)
            damp = 7
            if share > 900:
                boost, damp = mb, 10
            res = f + boost
            freq_avg = (freq_avg * 10 + res) // 11
            res = (damp * res + (10 - damp) * freq_avg) // 10
            wanted = min(max(res * MHZ, band.min_hz), band.max_hz)
            chosen = min(hz for hz in table if hz >= wanted)
            if chosen != current:
                current, last_us = chosen, now_us
        clocks.append(current)
    return clocks


@given(
    st.lists(st.integers(0, 1000), max_size=80), st.tuples(st.integers(0, 14), st.integers(0, 14)).map(sorted)
)
def test_podgov_is_the_published_recurrence(shares, limits):
    band = FrequencyBand("gpu", GPU[limits[0]], GPU[limits[1]])
    state, current, clocks = START, band.min_hz, []
    for step, share in enumerate(shares):
        state, current = nvhost_podgov(state, Load(0.025 * step, 0.025, current, share / 1000), GPU, band)
        clocks.append(current)
    assert clocks == reference_podgov(shares, GPU, band)
