"""Governors, thermal model, utilisation and energy: the pure parts of the simulated device."""

from __future__ import annotations

import math

import pytest
from factories import whole
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.device.board import load_board
from dynofa_ros.device.meters import EnergyMeter
from dynofa_ros.device.simulated.governors import GovernorState, Load, nvhost_podgov, pelt, schedutil
from dynofa_ros.device.simulated.real_time import BusyTimes
from dynofa_ros.device.simulated.thermal import next_temperature_c, next_throttle_step, with_resistance

BOARD = load_board("xavier_nx")
CPU, GPU = BOARD.domains["cpu0"].frequencies_hz, BOARD.domains["gpu"].frequencies_hz
THERMAL = BOARD.thermal


def settle(law, table, period_s, demand_hz, start_hz, steps=400):
    """Clocks that a governor chooses for work that needs ``demand_hz`` cycles per second."""
    state, current, utilization, chosen = GovernorState(), start_hz, 0.0, []
    for step in range(steps):
        busy = min(demand_hz / current, 1.0)
        utilization = pelt(utilization, busy * current / table[-1], period_s)
        load = Load(step * period_s, period_s, current, busy, utilization)
        state, current = law(state, load, table, whole(table))
        chosen.append(current)
    return chosen


# --- governors ---------------------------------------------------------------------------------


def test_schedutil_settles_at_the_first_clock_with_a_quarter_of_headroom():
    # 1.25 * 0.5 * 1907.2 MHz = 1192 MHz: 1190.4 is below, 1267.2 the next.
    for start_hz in (CPU[0], CPU[-1]):
        assert settle(schedutil, CPU, 0.010, 0.5 * CPU[-1], start_hz)[-1] == 1_267_200_000


def test_podgov_boosts_by_a_third_of_the_top_clock_above_90_percent():
    # 510 + 1109.25 / 3 = 879 MHz, undamped: the next clock is 905.25.
    state, chosen = nvhost_podgov(GovernorState(), Load(1.0, 0.025, 510_000_000, 1.0), GPU, whole(GPU))
    assert chosen == 905_250_000
    assert state.frequency_average == 879 // 11
    assert state.last_change_s == 1.0


def test_podgov_lowers_in_the_integer_arithmetic_of_the_kernel():
    # cycles (600e6 * 10 + 510e6 * 0.5) / 11 = 568.6e6, busyness 1114, boost 414 * 80 * 510 / 70000 = 241,
    # target 751, average (500 * 10 + 751) / 11 = 522, damped (7 * 751 + 3 * 522) / 10 = 682.
    state = GovernorState(600_000_000, 500, 0.0)
    state, chosen = nvhost_podgov(state, Load(1.0, 0.025, 510_000_000, 0.5), GPU, whole(GPU))
    assert state.frequency_average == 522
    assert chosen == 701_250_000


def test_podgov_keeps_the_clock_within_the_block_window():
    state = GovernorState(last_change_s=1.0)
    busy = Load(1.049, 0.025, 510_000_000, 1.0)
    assert nvhost_podgov(state, busy, GPU, whole(GPU))[1] == 510_000_000
    later = Load(1.051, 0.025, 510_000_000, 1.0)
    assert nvhost_podgov(state, later, GPU, whole(GPU))[1] > 510_000_000


def test_podgov_of_a_gated_gpu_forgets_and_goes_to_the_bottom():
    state = GovernorState(5e8, 500, 3.0)
    gated = Load(4.0, 0.025, GPU[-1], 0.0, suspended=True)
    assert nvhost_podgov(state, gated, GPU, whole(GPU)) == (GovernorState(), GPU[0])


def test_podgov_holds_a_steady_load_between_half_and_full():
    demand_hz = 400e6
    tail = settle(nvhost_podgov, GPU, 0.025, demand_hz, GPU[0])[-100:]
    assert 0.5 < demand_hz / (sum(tail) / len(tail)) < 0.95


# --- thermal -----------------------------------------------------------------------------------


@given(st.floats(0, 110), st.floats(0, 30), st.floats(-10, 50), st.floats(0, 300), st.floats(0, 1))
def test_temperature_is_exact_for_any_split_of_the_time(start_c, power_w, ambient_c, duration_s, part):
    once = next_temperature_c(THERMAL, start_c, power_w, ambient_c, duration_s)
    first = next_temperature_c(THERMAL, start_c, power_w, ambient_c, part * duration_s)
    twice = next_temperature_c(THERMAL, first, power_w, ambient_c, (1 - part) * duration_s)
    assert twice == pytest.approx(once, abs=1e-9)


def test_temperature_reaches_63_percent_after_the_time_constant():
    after = next_temperature_c(THERMAL, 25.0, 10.0, 25.0, THERMAL.time_constant_s)
    assert after == pytest.approx(25.0 + 25.0 * (1 - math.exp(-1)))


def test_a_stuck_fan_keeps_the_heat_capacity():
    stuck = with_resistance(THERMAL, 5.0)
    assert (stuck.resistance_c_per_w, stuck.time_constant_s) == (5.0, 180.0)
    first_s = [next_temperature_c(t, 25.0, 10.0, 25.0, 0.01) - 25.0 for t in (THERMAL, stuck)]
    assert first_s[0] == pytest.approx(first_s[1], rel=1e-3)  # at first, heat only fills the mass
    with pytest.raises(ValueError, match="thermal resistance must be > 0"):
        with_resistance(THERMAL, 0.0)


def test_throttling_has_hysteresis():
    steps = [next_throttle_step(THERMAL, 3, t, 24) for t in (80.0, 88.49, 88.5, 90.49, 90.5, 100.0)]
    assert steps == [2, 2, 3, 3, 4, 4]
    assert next_throttle_step(THERMAL, 24, 100.0, 24) == 24
    assert next_throttle_step(THERMAL, 0, 20.0, 24) == 0


# --- utilisation and energy --------------------------------------------------------------------


def test_utilization_of_a_camera_stream_is_smooth_and_right():
    busy, shares = BusyTimes(), []
    for tick in range(400):  # 10 ms each; a frame of 45 ms every 1/15 s
        now_s = tick / 100
        if tick * 15 // 100 > (tick - 1) * 15 // 100:
            busy.add("front", "cpu", 0.045, now_s)
        if now_s > 1.0:
            shares.append(busy.utilization(now_s)["cpu"])
    assert min(shares) > 0.62 and max(shares) < 0.73
    assert sum(shares) / len(shares) == pytest.approx(0.675, abs=0.02)


def test_utilization_adds_applications_and_falls_when_they_stop():
    busy = BusyTimes()
    for frame in range(10):
        busy.add("front", "cpu", 0.03, 0.1 * frame)
        busy.add("rear", "cpu", 0.02, 0.1 * frame)
        busy.add("rear", "gpu", 0.01, 0.1 * frame)
    assert busy.utilization(0.9) == pytest.approx({"cpu": 0.5, "gpu": 0.1})
    assert busy.utilization(1.9)["cpu"] < 0.25
    assert busy.utilization(3.0) == {}


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5), st.floats(0, 0.5)), max_size=40),
    st.floats(0, 3),
)
def test_utilization_is_a_share_whatever_arrives(frames, age_s):
    busy, now_s = BusyTimes(), 0.0
    for app, busy_s, gap_s in frames:
        now_s += gap_s
        busy.add(app, "cpu", busy_s, now_s)
    assert all(0.0 <= share <= 1.0 for share in busy.utilization(now_s + age_s).values())


@pytest.mark.parametrize("wrong", [math.nan, -1.0, math.inf])
def test_a_wrong_busy_time_is_refused(wrong):
    with pytest.raises(ValueError, match="busy time of 'front'"):
        BusyTimes().add("front", "cpu", wrong, 0.0)


def test_energy_is_the_trapezoidal_integral_and_bridges_gaps():
    meter = EnergyMeter()
    assert math.isnan(meter.energy_j)
    for now_s, power_w in ((1.0, 4.0), (2.0, 6.0), (3.0, math.nan), (4.0, 2.0)):
        meter.add(power_w, now_s)
    assert meter.energy_j == pytest.approx(5.0 + 8.0)
