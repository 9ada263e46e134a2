"""The simulated device in discrete-event time: cuts, cores, gating, cooling, governors, truth and noise."""

from __future__ import annotations

import math

import msgspec
import pytest
from factories import clock_hz
from hypothesis import given, settings
from hypothesis import strategies as st
from power_law import predict_power

from dynofa_ros.device.board import load_board, power_model
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.device.simulated.simulated_sensors import normal, uniform
from dynofa_ros.device.simulated.thermal import with_resistance
from dynofa_ros.messages import FrequencyBand

NX, ORIN = load_board("xavier_nx"), load_board("orin_nano")
GPU_TOP = 1_109_250_000


# --- cuts --------------------------------------------------------------------------------------


def run(board, script, pieces: int, **arguments):
    """Clock changes seen at the ends of the pieces that all cuts share, and the end of everything."""
    simulated, seen, now_s = SimulatedDevice(board, seed=5, **arguments), [], 0.0
    for duration_s, busy, load, bands in script:
        simulated.apply(bands)
        for piece in range(1, pieces + 1):
            simulated.advance_to(now_s + duration_s * piece / pieces, busy, load)
        now_s += duration_s
        seen.append((simulated.truth().clocks_hz, simulated.truth().throttled, simulated.applied()))
    return seen, simulated.truth(), simulated.read()


shares = st.floats(0, 1)
stretches = st.tuples(
    st.floats(0.001, 3.0),
    st.fixed_dictionaries({"cpu0": shares, "gpu": shares, "emc": shares}),
    st.fixed_dictionaries({"cpu2": st.tuples(shares, shares)}),
    st.sampled_from(
        (
            [],
            [FrequencyBand("gpu", 306_000_000, 905_250_000)],
            [FrequencyBand("cpu0", 115_200_000, 1_190_400_000)],
        )
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(stretches, min_size=1, max_size=4), st.sampled_from((40.0, 89.5)))
def test_the_cut_of_the_time_changes_nothing(script, temperature_c):
    governors = {"cpu2": "ondemand", "cpu4": "conservative", "emc": "simple_ondemand"}
    whole, *cut = (
        run(NX, script, pieces, temperature_c=temperature_c, governors=governors) for pieces in (1, 7, 100)
    )
    for seen, truth, sample in cut:
        assert seen == whole[0]
        assert (truth.clocks_hz, truth.utilization) == (whole[1].clocks_hz, whole[1].utilization)
        assert truth.energy_j == pytest.approx(whole[1].energy_j, rel=1e-9)
        assert truth.rail_energy_j == pytest.approx(whole[1].rail_energy_j, rel=1e-9)
        assert truth.temperature_c == pytest.approx(whole[1].temperature_c, abs=1e-9)
        assert sample.total_power_w == pytest.approx(whole[2].total_power_w, abs=1e-9)
        for one, other in zip(sample.domains, whole[2].domains, strict=True):
            assert one.utilization == pytest.approx(other.utilization, abs=1e-9)


def test_a_governor_sees_the_mean_of_its_period_not_its_end():
    bursts, mean, clocks = SimulatedDevice(NX), SimulatedDevice(NX), set()
    bursts.apply([FrequencyBand("gpu", 306_000_000, GPU_TOP)])
    mean.apply([FrequencyBand("gpu", 306_000_000, GPU_TOP)])
    for poll in range(80):
        share = (0.9, 0.4, 0.95, 0.1, 0.7)[poll // 4 % 5]
        bursts.advance_to(0.025 * (poll + share), {"gpu": 1.0})
        bursts.advance_to(0.025 * (poll + 1))
        mean.advance_to(0.025 * (poll + 1), {"gpu": share})
        assert clock_hz(bursts, "gpu") == clock_hz(mean, "gpu")
        clocks.add(clock_hz(mean, "gpu"))
    assert len(clocks) > 3


def test_a_pause_between_frames_is_no_suspension():
    simulated = SimulatedDevice(NX)
    for frame in range(30):
        simulated.advance_to(0.1 * frame + 0.045, {"gpu": 1.0})
        simulated.advance_to(0.1 * frame + 0.1)
    assert clock_hz(simulated, "gpu") > 600_000_000
    simulated.advance(0.6)
    assert clock_hz(simulated, "gpu") == 114_750_000


def test_until_clock_stops_at_the_change_itself():
    simulated = SimulatedDevice(NX)
    simulated.apply([FrequencyBand("cpu0", 1_907_200_000, 1_907_200_000)])
    reached_s = simulated.advance_to(1.0, {"cpu0": 1.0}, until_clock=True)
    assert reached_s == pytest.approx(0.0003)
    assert clock_hz(simulated, "cpu0") == 1_907_200_000
    assert simulated.advance_to(0.01, until_clock=True) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="to_s must be >= 0.01"):
        simulated.advance_to(0.005)


def test_time_that_is_added_up_and_time_that_is_named_are_the_same():
    added = SimulatedDevice(NX)
    for _ in range(3000):
        added.advance(0.001)
    assert added.now_s == 3.0


# --- cores -------------------------------------------------------------------------------------


def test_schedutil_follows_the_cores_that_are_online_and_power_the_mean():
    mode = msgspec.structs.replace(ORIN.modes["7W"], cores=1, caps_hz={})
    part = msgspec.structs.replace(ORIN, modes={"1CORE": mode})
    one = SimulatedDevice(part, temperature_c=45.0, mode="1CORE")
    all_cores = SimulatedDevice(ORIN, temperature_c=45.0)
    for simulated in (one, all_cores):
        simulated.advance(1.0, {"cpu0": 0.9})
    assert clock_hz(one, "cpu0") == clock_hz(all_cores, "cpu0") == 1_728_000_000
    assert clock_hz(all_cores, "cpu4") == 729_600_000
    assert one.truth().utilization["cpu0"] == pytest.approx(0.225)
    idle = SimulatedDevice(ORIN, temperature_c=45.0, governors={"cpu0": "performance"})
    base_w = idle.truth().rail_w["VDD_CPU_GPU_CV"]
    off_w = (
        base_w
        - SimulatedDevice(part, temperature_c=45.0, mode="1CORE", governors={"cpu0": "performance"})
        .truth()
        .rail_w["VDD_CPU_GPU_CV"]
    )
    grown = [s.truth().rail_w["VDD_CPU_GPU_CV"] - w for s, w in ((one, base_w - off_w), (all_cores, base_w))]
    assert grown[1] / grown[0] == pytest.approx(4.0, rel=0.01)
    sample = {domain.domain: domain.utilization for domain in one.read().domains}
    assert sample["cpu0"] == pytest.approx(0.225)


def test_background_load_adds_to_the_cores_and_is_clipped():
    simulated = SimulatedDevice(ORIN)
    simulated.advance(1.0, {"cpu0": 0.75, "cpu4": 0.5}, {"cpu0": (0.5, 0.3), "cpu4": (0.25, 0.0)})
    assert simulated.truth().utilization["cpu0"] == 1.0
    assert simulated.truth().utilization["cpu4"] == pytest.approx(0.75)
    assert simulated.applied()[0].external_slowdown == 0.3


# --- gating, cooling, governors ------------------------------------------------------------------


def test_an_idle_gpu_is_switched_off_after_its_delay():
    simulated = SimulatedDevice(NX, governors={"gpu": "performance"})
    assert "gpu" in simulated.truth().gated
    simulated.advance(0.1, {"gpu": 0.5})
    assert "gpu" not in simulated.truth().gated
    simulated.advance(0.49)
    assert "gpu" not in simulated.truth().gated
    on_w = simulated.truth().rail_w["VDD_CPU_GPU_CV"]
    simulated.advance(0.02)
    assert "gpu" in simulated.truth().gated
    assert on_w - simulated.truth().rail_w["VDD_CPU_GPU_CV"] == pytest.approx(0.9, abs=0.01)


def test_a_stuck_fan_makes_it_hotter():
    governors = {"cpu": "powersave", "gpu": "performance"}
    simulated = SimulatedDevice(NX, temperature_c=50.0, governors=governors)
    simulated.thermal = with_resistance(simulated.thermal, 4.0)
    simulated.advance(2000.0, {"gpu": 0.8})
    truth = simulated.truth()
    assert truth.temperature_c == pytest.approx(25.0 + 4.0 * truth.total_w, abs=0.1)
    assert truth.temperature_c > 25.0 + 2.5 * truth.total_w + 10.0


def test_governors_can_be_chosen_by_processor_and_at_any_time():
    simulated = SimulatedDevice(NX, governors={"cpu": "powersave", "gpu": "performance"})
    assert clock_hz(simulated, "cpu4") == 1_190_400_000 and clock_hz(simulated, "gpu") == 114_750_000
    simulated.advance(0.05)
    assert clock_hz(simulated, "gpu") == GPU_TOP
    simulated.set_governor("cpu0", "userspace", 1_420_800_000)
    simulated.set_governor("cpu2", "performance")
    simulated.advance(0.05, {"cpu0": 1.0})
    assert [clock_hz(simulated, name) for name in ("cpu0", "cpu2", "cpu4")] == [
        1_420_800_000, 1_907_200_000, 1_190_400_000,
    ]  # fmt: skip
    for name, governor, named in (("gpu", "warp", "unknown governor 'warp'"), ("dsp", "userspace", "'dsp'")):
        with pytest.raises(ValueError, match=named):
            simulated.set_governor(name, governor)


# --- truth and noise -----------------------------------------------------------------------------


def test_truth_is_the_power_model_and_its_integral():
    simulated = SimulatedDevice(NX, temperature_c=50.0)
    busy = {"cpu0": 0.5, "gpu": 0.7, "emc": 0.2}
    simulated.advance(0.001, busy)
    truth = simulated.truth()
    model = predict_power(power_model(NX), truth.clocks_hz, busy, 50.0)
    assert truth.total_w == pytest.approx(model.total_w, rel=1e-6)
    assert truth.rail_w == pytest.approx(dict(model.rails), rel=1e-6)
    simulated.advance(10.0, busy)
    rails_j = sum(simulated.truth().rail_energy_j.values())
    assert simulated.truth().energy_j == pytest.approx(1.4 * 10.001 + 1.34 * rails_j)


def test_noise_belongs_to_the_time_not_to_the_reading():
    often, seldom = SimulatedDevice(NX, seed=9), SimulatedDevice(NX, seed=9)
    for step in range(1, 101):
        often.advance_to(0.01 * step)
        often_w = [often.read().total_power_w for _ in range(3)]
        assert len(set(often_w)) == 1
    seldom.advance_to(1.0)
    assert seldom.read().rails == often.read().rails


def test_relative_noise_has_its_standard_deviation():
    sensors = msgspec.structs.replace(NX.sensors, noise_w=0.0, noise_share=0.05, current_step_a=1e-6)
    simulated, read_w = SimulatedDevice(msgspec.structs.replace(NX, sensors=sensors)), []
    for _ in range(2000):
        simulated.advance(0.01)
        read_w.append(simulated.read().total_power_w / simulated.truth().total_w - 1.0)
    assert sum(read_w) / 2000 == pytest.approx(0.0, abs=0.004)
    assert math.sqrt(sum(w * w for w in read_w) / 2000) == pytest.approx(0.05, rel=0.06)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2000), st.integers(0, 2**40))
def test_random_numbers_depend_on_their_address_only(seed, stream, index):
    value = uniform(seed, stream, index)
    assert 0.0 < value < 1.0 and value == uniform(seed, stream, index)
    assert value != uniform(seed, stream, index + 1)
    assert math.isfinite(normal(seed, stream, index))


def test_utilization_is_reckoned_at_the_clock_that_was_in_effect():
    # 115.2 of 1907.2 MHz give a utilisation of 0.06; a half-life and 10 ms at the top clock later it is 0.62,
    # and 1.25 * 0.62 * 1907.2 = 1482 MHz.
    simulated = SimulatedDevice(NX)
    simulated.apply([FrequencyBand("cpu0", 115_200_000, 115_200_000)])
    simulated.advance(1.0, {"cpu0": 1.0})
    simulated.apply([FrequencyBand("cpu0", 1_907_200_000, 1_907_200_000)])
    simulated.advance(0.0323, {"cpu0": 1.0})
    simulated.apply([FrequencyBand("cpu0", 115_200_000, 1_907_200_000)])
    simulated.advance(0.011, {"cpu0": 1.0})
    assert clock_hz(simulated, "cpu0") == 1_497_600_000
