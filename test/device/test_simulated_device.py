"""The simulated device in explicit time and under commands."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from factories import clock_hz, pin
from hypothesis import given, settings
from hypothesis import strategies as st
from power_law import predict_power

from dynofa_ros.device.board import load_board, power_model
from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.messages import DomainStatus, FrequencyBand, ThrottleFlag

BOARD = load_board("xavier_nx")
MODEL = power_model(BOARD)
CPU_TOP, GPU_TOP = 1_907_200_000, 1_109_250_000
TOP = [FrequencyBand(name, d.frequencies_hz[-1], d.frequencies_hz[-1]) for name, d in BOARD.domains.items()]
SETTLE_S = 0.05


def device(**arguments) -> SimulatedDevice:
    return SimulatedDevice(BOARD, **arguments)


def status(simulated) -> dict[str, DomainStatus]:
    return {domain.domain: domain.status for domain in simulated.applied()}


# --- clocks ------------------------------------------------------------------------------------


def test_starts_idle_with_the_governors_in_charge():
    simulated = device()
    assert set(status(simulated).values()) == {DomainStatus.DISABLED}
    assert clock_hz(simulated, "cpu0") == 1_190_400_000
    assert clock_hz(simulated, "gpu") == 114_750_000
    assert clock_hz(simulated, "emc") == 1_600_000_000
    assert simulated.capabilities().domains[0].frequencies_hz == BOARD.domains["cpu0"].frequencies_hz
    assert simulated.capabilities().source == "simulated"


def test_a_clock_arrives_after_its_actuation_delay():
    simulated = device(seed=3)
    applied = simulated.apply([pin("cpu0", CPU_TOP), pin("gpu", GPU_TOP)])
    assert {d.domain: d.status for d in applied if d.requested_min_hz} == {
        "cpu0": DomainStatus.PENDING,
        "gpu": DomainStatus.PENDING,
    }
    simulated.advance(0.00029)
    assert clock_hz(simulated, "cpu0") == 1_190_400_000
    simulated.advance(0.00002)
    assert clock_hz(simulated, "cpu0") == CPU_TOP
    simulated.advance(0.005 - 0.00031 - 1e-6)
    assert status(simulated)["gpu"] is DomainStatus.PENDING
    simulated.advance(0.02501)
    assert status(simulated)["gpu"] is DomainStatus.APPLIED
    assert clock_hz(simulated, "gpu") == GPU_TOP


@pytest.mark.parametrize(
    ("band", "named"),
    [
        (FrequencyBand("dsp", 1, 2), "unknown clock domain 'dsp'"),
        (FrequencyBand("gpu", 510_000_000, 306_000_000), "min_hz 510000000 is above max_hz"),
        (pin("gpu", 2_000_000_000), "outside the table 114750000..1109250000"),
        (pin("gpu", 0), "outside the table"),
        (
            FrequencyBand("cpu0", 1_200_000_000, 1_250_000_000),
            "no clock between .* 1190400000 and 1267200000",
        ),
    ],
)
def test_a_wrong_band_is_refused_and_the_others_are_applied(band, named):
    simulated = device()
    applied = simulated.apply([band, pin("cpu4", CPU_TOP)])
    (refused,) = [domain for domain in applied if domain.status is DomainStatus.REJECTED]
    assert re.search(named, refused.reason)
    assert refused.domain == band.domain
    assert (refused.requested_min_hz, refused.requested_max_hz) == (band.min_hz, band.max_hz)
    simulated.advance(SETTLE_S)
    expected = dict.fromkeys(BOARD.domains, DomainStatus.DISABLED) | {"cpu4": DomainStatus.APPLIED}
    assert status(simulated) == expected


def test_a_domain_named_twice_is_refused_both_times():
    applied = device().apply([pin("gpu", GPU_TOP), pin("gpu", 510_000_000)])
    reasons = [domain.reason for domain in applied if domain.status is DomainStatus.REJECTED]
    assert reasons == ["gpu: named 2 times"] * 2


def test_a_band_is_rounded_inwards_and_khz_are_forgiven():
    simulated = device()
    simulated.apply([FrequencyBand("cpu0", 1_400_000_000, 1_500_000_000), pin("gpu", 510_000_400)])
    simulated.advance(SETTLE_S)
    assert clock_hz(simulated, "cpu0") == 1_420_800_000
    assert clock_hz(simulated, "gpu") == 510_000_000
    requested = {d.domain: (d.requested_min_hz, d.requested_max_hz) for d in simulated.applied()}
    assert requested["cpu0"] == (1_400_000_000, 1_500_000_000)


bands = st.builds(
    FrequencyBand,
    st.sampled_from((*BOARD.domains, "dsp")),
    st.integers(0, 2_500_000_000),
    st.integers(0, 2_500_000_000),
)


@settings(max_examples=60)
@given(st.lists(st.lists(bands, max_size=4), max_size=5), st.floats(0, 1))
def test_clocks_obey_whatever_is_asked(commands, utilization):
    simulated = device()
    for command in commands:
        simulated.apply(command)
        simulated.advance(SETTLE_S, dict.fromkeys(BOARD.domains, utilization))
        for domain in simulated.applied():
            assert domain.actual_hz in BOARD.domains[domain.domain].frequencies_hz
            if domain.requested_min_hz:
                assert domain.status is DomainStatus.APPLIED
                assert domain.requested_min_hz - 1000 <= domain.actual_hz <= domain.requested_max_hz + 1000
    simulated.restore()
    simulated.advance(SETTLE_S)
    assert set(status(simulated).values()) == {DomainStatus.DISABLED}


def test_restore_gives_the_start_state_back():
    simulated = device()
    before = simulated.applied()
    simulated.apply([pin(name, domain.frequencies_hz[0]) for name, domain in BOARD.domains.items()])
    simulated.advance(1.0)
    simulated.restore()
    simulated.advance(1.0)
    assert simulated.applied() == before


def test_governors_follow_the_load():
    simulated = device()
    simulated.advance(2.0, {"cpu0": 1.0, "gpu": 1.0})
    assert clock_hz(simulated, "cpu0") == CPU_TOP
    assert clock_hz(simulated, "gpu") == GPU_TOP
    simulated.advance(2.0)
    assert clock_hz(simulated, "cpu0") == 1_190_400_000
    assert clock_hz(simulated, "gpu") == 114_750_000


# --- power, heat, sensors ----------------------------------------------------------------------


def test_energy_and_temperature_follow_the_power_model():
    simulated = device(temperature_c=45.0)
    simulated.apply(TOP)
    simulated.advance(SETTLE_S)
    simulated.energy_j, busy = 0.0, {"cpu0": 0.5, "cpu2": 0.5, "cpu4": 0.5}
    simulated.advance(1.0, busy)
    clocks = {domain.domain: domain.actual_hz for domain in simulated.applied()}
    power = predict_power(MODEL, clocks, busy, 45.0)
    assert simulated.energy_j == pytest.approx(power.total_w, rel=1e-3)
    steady_c = 25.0 + 2.5 * power.total_w
    assert simulated.temperature_c == pytest.approx(45.0 + (steady_c - 45.0) / 90.0, abs=0.01)
    simulated.advance(900.0, busy)
    hot = predict_power(MODEL, clocks, busy, simulated.temperature_c)
    assert simulated.temperature_c == pytest.approx(25.0 + 2.5 * hot.total_w, abs=0.05)


def test_an_idle_board_is_in_thermal_balance():
    simulated = device()
    start_c = simulated.temperature_c
    simulated.advance(100.0)
    assert start_c == pytest.approx(33.0, abs=1.0)
    assert simulated.temperature_c == pytest.approx(start_c, abs=0.01)


def test_a_hot_board_throttles_says_so_and_recovers_with_hysteresis():
    simulated = device(temperature_c=92.0)
    simulated.ambient_c = 95.0
    simulated.apply([pin("cpu0", CPU_TOP)])
    simulated.advance(5.01)
    assert status(simulated)["cpu0"] is DomainStatus.THROTTLED
    assert clock_hz(simulated, "cpu0") < CPU_TOP
    assert clock_hz(simulated, "emc") == 1_600_000_000
    assert simulated.read().throttle_flags == ThrottleFlag.THERMAL
    lowest = clock_hz(simulated, "cpu0")
    simulated.temperature_c, simulated.ambient_c = 89.0, 81.0
    simulated.advance(2.0)
    assert clock_hz(simulated, "cpu0") == lowest
    simulated.temperature_c = 80.0
    simulated.advance(30.0)
    assert status(simulated)["cpu0"] is DomainStatus.APPLIED
    assert simulated.read().throttle_flags == ThrottleFlag.NONE


def test_a_thermal_runaway_ends_at_the_lowest_clock():
    simulated = device(temperature_c=92.0)
    simulated.ambient_c = 120.0
    simulated.apply(TOP)
    simulated.advance(40.0)
    assert clock_hz(simulated, "cpu0") == BOARD.domains["cpu0"].frequencies_hz[0]
    assert clock_hz(simulated, "gpu") == BOARD.domains["gpu"].frequencies_hz[0]


def test_power_sensors_have_steps_noise_and_lag():
    simulated = device()
    samples = []
    for _ in range(200):
        simulated.advance(0.01)
        samples.append(simulated.read().total_power_w)
    assert all(round(w / 0.04, 6) == round(w / 0.04) for w in samples)
    assert len(set(samples)) > 1
    assert sum(samples) / len(samples) == pytest.approx(simulated.energy_j / 2.0, rel=0.01)
    simulated.apply(TOP)
    simulated.advance(SETTLE_S, {"cpu0": 0.0})
    before_w = simulated.read().total_power_w
    simulated.advance(0.028, {"cpu0": 1.0, "cpu2": 1.0, "cpu4": 1.0, "gpu": 1.0})
    halfway_w = simulated.read().total_power_w
    simulated.advance(1.0, {"cpu0": 1.0, "cpu2": 1.0, "cpu4": 1.0, "gpu": 1.0})
    after_w = simulated.read().total_power_w
    # 28 ms of a 40 ms lag are 50 %; leakage and noise move it a little.
    assert (halfway_w - before_w) / (after_w - before_w) == pytest.approx(0.5, abs=0.03)


def test_total_rail_contains_the_others_and_comes_first():
    sample = device().read()
    rails = sample.rails
    assert [rail.name for rail in rails] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert rails[0].power_w == sample.total_power_w
    assert all(rail.power_w == pytest.approx(rail.voltage_v * rail.current_a) for rail in rails)


def test_utilization_is_the_mean_since_the_previous_sample():
    simulated = device()
    simulated.advance(0.03, {"cpu0": 1.0})
    simulated.advance(0.01, {"cpu0": 0.2}, {"cpu0": (0.4, 0.5)})
    sample = {domain.domain: domain.utilization for domain in simulated.read().domains}
    assert sample["cpu0"] == pytest.approx(0.9)
    assert sample["cpu2"] == 0.0
    assert simulated.applied()[0].external_slowdown == 0.5


def test_same_seed_same_samples():
    def run(seed: int) -> list:
        simulated, samples = device(seed=seed), []
        for step in range(50):
            if step % 10 == 0:
                simulated.apply([pin("gpu", BOARD.domains["gpu"].frequencies_hz[step // 10])])
            simulated.advance(0.01, {"cpu0": step / 50, "gpu": 0.3})
            samples.append((simulated.read(), simulated.applied()))
        return samples

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1.0,), "dt_s"),
        ((math.nan,), "dt_s"),
        ((0.1, {"dsp": 0.1}), "dsp"),
        ((0.1, {"gpu": -0.1}), "gpu"),
        ((0.1, {"gpu": math.nan}), "gpu"),
        ((0.1, {}, {"gpu": (0.1, -1.0)}), "gpu"),
    ],
)
def test_wrong_time_or_load_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        device().advance(*arguments)


# --- commands ----------------------------------------------------------------------------------

PIN_GPU, PIN_CPU = (pin("gpu", GPU_TOP),), (pin("cpu0", CPU_TOP),)


def controlled(timeout_s: float = 0.0) -> tuple[ClockControl, SimulatedDevice]:
    simulated = device()
    return ClockControl(simulated, timeout_s), simulated


def state_of(control: ClockControl, name: str):
    return next(domain for domain in control.state().domains if domain.domain == name)


def test_only_newer_commands_are_taken():
    control, _ = controlled()
    control.command(7, PIN_GPU, 0.0, 0.0)
    control.command(7, PIN_CPU, 0.0, 0.1)
    control.command(6, PIN_CPU, 0.0, 0.2)
    assert (control.counts.taken, control.counts.stale) == (1, 2)
    assert control.state().decision_id == 7
    assert state_of(control, "cpu0").status is DomainStatus.DISABLED
    control.command(8, PIN_CPU, 0.0, 0.3)
    assert state_of(control, "cpu0").status is DomainStatus.PENDING
    assert state_of(control, "gpu").requested_min_hz == GPU_TOP  # not named: keeps its band


def test_dead_man_gives_the_clocks_back_and_a_heartbeat_renews_it():
    control, simulated = controlled()
    control.command(7, PIN_GPU, 1.0, 0.0)
    control.command(7, PIN_GPU, 1.0, 0.9)
    assert not control.check(1.8)
    assert control.check(2.0)
    assert not control.check(2.1)
    simulated.advance(SETTLE_S)
    assert state_of(control, "gpu").status is DomainStatus.FALLBACK
    assert state_of(control, "gpu").actual_hz == 114_750_000
    assert state_of(control, "cpu0").status is DomainStatus.DISABLED
    assert "command 7 was not renewed within 1 s (valid_for_s)" in control.state().message
    assert control.fallen_back
    control.command(1, PIN_GPU, 1.0, 3.0)  # a restarted manager counts from 1
    assert control.state().decision_id == 1 and not control.fallen_back
    assert control.state().message == ""


@pytest.mark.parametrize(
    ("valid_for_s", "timeout_s", "lapses_s"), [(0.0, 2.0, 2.0), (1.0, 2.0, 1.0), (3.0, 2.0, 2.0)]
)
def test_the_shorter_of_both_times_counts(valid_for_s, timeout_s, lapses_s):
    control, _ = controlled(timeout_s)
    control.command(1, PIN_GPU, valid_for_s, 10.0)
    assert not control.check(10.0 + lapses_s - 0.01)
    assert control.check(10.0 + lapses_s + 0.01)


def test_without_any_limit_a_command_holds_forever():
    control, _ = controlled()
    control.command(1, PIN_GPU, 0.0, 0.0)
    assert not control.check(1e9)


def test_a_lost_sender_frees_the_ids_but_not_the_clocks():
    control, _ = controlled()
    control.command(9, PIN_GPU, 5.0, 0.0)
    control.forget()
    assert state_of(control, "gpu").requested_min_hz == GPU_TOP
    control.command(1, PIN_CPU, 5.0, 1.0)
    assert control.state().decision_id == 1
    assert control.check(6.1)
    assert {state_of(control, name).status for name in ("gpu", "cpu0")} == {DomainStatus.FALLBACK}


@pytest.mark.parametrize(
    ("decision_id", "valid_for_s", "named"),
    [
        (0, 1.0, "decision_id"),
        (1, -1.0, "valid_for_s"),
        (1, math.nan, "valid_for_s"),
        (1, 1e9, "valid_for_s"),
    ],
)
def test_a_malformed_command_changes_nothing(decision_id, valid_for_s, named):
    control, simulated = controlled()
    before = simulated.applied()
    control.command(decision_id, PIN_GPU, valid_for_s, 0.0)
    assert simulated.applied() == before
    assert control.counts.refused == 1 and control.counts.taken == 0
    assert named in control.last_refusal and named in control.state().message


def test_refused_bands_stay_visible_until_the_next_command():
    control, simulated = controlled()
    control.command(1, (pin("gpu", 5), pin("dsp", 1), *PIN_CPU), 0.0, 0.0)
    simulated.advance(1.0)
    assert state_of(control, "gpu").status is DomainStatus.REJECTED
    assert state_of(control, "gpu").actual_hz == 114_750_000
    assert state_of(control, "dsp").status is DomainStatus.REJECTED
    assert math.isnan(state_of(control, "dsp").actual_hz)
    assert state_of(control, "cpu0").status is DomainStatus.APPLIED
    assert "'dsp'" in control.state().message and control.counts.refused == 2
    control.command(2, PIN_GPU, 0.0, 2.0)
    assert [domain.domain for domain in control.state().domains] == list(BOARD.domains)
    assert control.state().message == ""


def test_release_restores_and_forgets():
    control, simulated = controlled()
    before = simulated.applied()
    control.command(5, PIN_GPU, 0.0, 0.0)
    control.release()
    simulated.advance(SETTLE_S)
    assert control.state().domains == before


commands = st.tuples(
    st.integers(0, 5), st.sampled_from((PIN_GPU, PIN_CPU, ())), st.floats(0, 2), st.floats(0, 2)
)


@settings(max_examples=60)
@given(st.lists(commands, max_size=12), st.floats(0.1, 2))
def test_no_band_outlives_its_dead_man_time(sequence, timeout_s):
    control, simulated = controlled(timeout_s)
    now_s, taken = 0.0, []
    for decision_id, wanted, valid_for_s, gap_s in sequence:
        now_s += gap_s
        if control.check(now_s):
            taken.clear()
        before = control.counts.taken
        control.command(decision_id, wanted, valid_for_s, now_s)
        if control.counts.taken > before:
            assert decision_id >= 1 and all(decision_id > earlier for earlier in taken)
            taken.append(decision_id)
    control.check(now_s + timeout_s + 0.01)
    assert all(domain.requested_min_hz == 0 for domain in simulated.applied())


def test_a_board_without_sensor_lag_works():
    sensors = msgspec.structs.replace(BOARD.sensors, lag_s=0.0, noise_w=0.0)
    simulated = SimulatedDevice(msgspec.structs.replace(BOARD, sensors=sensors))
    simulated.advance(0.001, {"cpu0": 1.0})
    power = predict_power(
        MODEL, {d.domain: d.actual_hz for d in simulated.applied()}, {"cpu0": 1.0}, simulated.temperature_c
    )
    assert simulated.read().total_power_w == pytest.approx(power.total_w, abs=0.021)
