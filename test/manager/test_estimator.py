"""Slowdown filter, margin and overhead, against noise like that of published board logs."""

from __future__ import annotations

from math import inf, log, nan
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.manager.estimator import (
    OVERHEAD_DEFAULT_MS,
    AppEstimator,
    SlowdownFilter,
    drift,
    prior_slowdown,
)
from dynofa_ros.manager.margin import FEW_MISSES, MARGIN_FLOOR, MarginEstimator, Window, scarce

NOISES = {  # standard deviation, share of spikes, factor of a spike, band in which the filter has settled
    "isolated": (0.03, 0.01, 1.5, 0.05),
    "contended": (0.12, 0.03, 2.0, 0.15),
}


def noise_of(rng: np.random.Generator, kind: str, frames: int) -> np.ndarray:
    deviation, share, factor, _ = NOISES[kind]
    return rng.normal(0.0, deviation, frames) + np.where(rng.random(frames) < share, log(factor), 0.0)


@pytest.mark.parametrize("kind", NOISES)
def test_follows_a_step_of_forty_percent(kind: str) -> None:
    settled = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        filter_ = SlowdownFilter()
        for value in noise_of(rng, kind, 150):
            filter_.update(float(value))
        track = []
        for value in noise_of(rng, kind, 80):
            filter_.update(log(1.4) + float(value))
            track.append(abs(filter_.slowdown / 1.4 - 1.0) > NOISES[kind][3])
        settled.append(next(n for n in range(41) if sum(track[n : n + 40]) <= 4 or n == 40))
    assert np.median(settled) <= 3
    assert np.percentile(settled, 95) <= 16


@pytest.mark.parametrize("kind", NOISES)
def test_is_quiet_and_unbiased_in_steady_state(kind: str) -> None:
    rng = np.random.default_rng(3)
    filter_ = SlowdownFilter()
    alarms, levels = 0, []
    for value in noise_of(rng, kind, 3000):
        alarms += filter_.update(float(value))
        levels.append(filter_.slowdown)
    assert np.std(levels[100:]) < NOISES[kind][0]
    assert abs(np.mean(levels[100:]) - 1.0) < 0.04
    assert alarms <= 20


def test_learns_the_noise_and_ignores_single_spikes() -> None:
    rng = np.random.default_rng(0)
    filter_ = SlowdownFilter()
    for value in rng.normal(0.0, 0.1, 200):
        filter_.update(float(value))
    assert filter_.noise() == pytest.approx(0.01, rel=0.5)
    before = filter_.slowdown
    assert not filter_.update(log(3.0))
    assert filter_.slowdown < 1.1 * before


def test_first_frame_sets_the_level_where_the_library_is_far_off() -> None:
    filter_ = SlowdownFilter()
    filter_.update(log(5.6))
    assert filter_.slowdown == pytest.approx(5.6, rel=0.02)


def test_first_frame_near_the_library_is_half_believed() -> None:
    filter_ = SlowdownFilter()
    filter_.update(log(1.16))
    assert 1.02 < filter_.slowdown < 1.1
    for _ in range(20):
        filter_.update(log(1.16))
    assert filter_.slowdown == pytest.approx(1.16, rel=0.01)


def test_a_false_alarm_is_outvoted_by_the_next_frames() -> None:
    rng = np.random.default_rng(2)
    filter_ = SlowdownFilter()
    for value in rng.normal(0.0, 0.03, 100):
        filter_.update(float(value))
    assert not filter_.update(log(1.35))
    assert filter_.update(log(1.35))  # two spikes look like a step
    for value in rng.normal(0.0, 0.03, 2):
        filter_.update(float(value))
    assert filter_.slowdown == pytest.approx(1.0, abs=0.06)


def test_a_spike_after_a_step_does_not_take_the_level_along() -> None:
    filter_ = SlowdownFilter()
    for _ in range(60):
        filter_.update(0.0)
    for _ in range(5):
        filter_.update(log(1.4))
    assert filter_.slowdown == pytest.approx(1.4, rel=0.01)
    filter_.update(log(1.4 * 1.3))
    assert filter_.slowdown == pytest.approx(1.4, rel=0.06)


@pytest.mark.parametrize("kind", NOISES)
def test_margin_covers_what_it_promises(kind: str) -> None:
    rng = np.random.default_rng(1)
    filter_ = SlowdownFilter()
    covered = []
    for n, value in enumerate(noise_of(rng, kind, 6000)):
        if n > 300:
            covered.append(np.exp(value) <= filter_.slowdown * filter_.margin(0.02))
        filter_.update(float(value))
    assert 0.975 <= np.mean(covered) <= 0.995


def test_margin_before_anything_is_measured_is_that_of_calm_boards() -> None:
    assert SlowdownFilter().margin(0.01) == pytest.approx(1.2, abs=0.02)
    assert SlowdownFilter(MarginEstimator(usual=0.15)).margin(0.01) == pytest.approx(1.85, abs=0.05)
    assert SlowdownFilter().margin(0.05) < SlowdownFilter().margin(0.01) < SlowdownFilter().margin(0.001)


def test_margin_before_the_tail_is_known_follows_the_noise() -> None:
    rng = np.random.default_rng(4)
    calm, wild = SlowdownFilter(), SlowdownFilter()
    for value in rng.normal(0.0, 1.0, 40):
        calm.update(0.02 * float(value))
        wild.update(0.2 * float(value))
    assert calm.margin(0.02) < 1.12
    assert 1.5 < wild.margin(0.02) < 2.2


def test_margin_of_a_spread_with_bounds_stays_near_them() -> None:
    """Every other frame meets somebody on its processor and takes 30 % longer; never more."""
    tail = MarginEstimator()
    for n in range(256):
        tail.append(1.3 if n % 2 else 1.0)
    assert 1.3 <= tail.margin(0.01) < 1.65 < SlowdownFilter(MarginEstimator(usual=0.19)).margin(0.01)


def test_margin_has_a_floor_and_forgets_a_change_of_level() -> None:
    filter_ = SlowdownFilter()
    for _ in range(320):
        filter_.update(0.0)
    assert MARGIN_FLOOR <= filter_.margin(0.02) < 1.01
    alarms = [filter_.update(log(1.5)) for _ in range(60)]
    assert sum(alarms) == 1 and alarms.index(True) <= 2
    assert filter_.margin(0.02) < 1.05  # the step was no noise


def test_silence_widens_the_estimate() -> None:
    filter_ = SlowdownFilter()
    for _ in range(100):
        filter_.update(0.0)
    variance = filter_.variance
    filter_.age(10.0)
    assert filter_.variance > variance + 0.01


def observe(estimator: AppEstimator, measured: float, **changes: object) -> bool:
    arguments: dict[str, object] = {
        "running": ("s1", "cpu"),
        "measured_ms": measured,
        "latency_ms": measured + 2.0,
        "predicted_ms": 40.0,
        "clock_version": 1,
        "period_ms": 66.7,
    }
    return estimator.observe(**{**arguments, **changes})  # type: ignore[arg-type]


def test_frames_of_a_migration_and_of_a_clock_change_are_not_learned_from() -> None:
    estimator = AppEstimator()
    for _ in range(20):
        observe(estimator, 40.0)
    level = estimator.filter("cpu").slowdown
    observe(estimator, 90.0, clock_version=2)
    assert estimator.filter("cpu").slowdown == level
    observe(estimator, 90.0, running=("g1", "gpu"), clock_version=2)
    assert not estimator.known("gpu")
    assert estimator.frames == 22


def test_a_switch_does_not_hide_a_step() -> None:
    """The first frame of another sub-network on the same processor counts as every frame."""
    estimator = AppEstimator()
    for _ in range(20):
        observe(estimator, 40.0)
    alarms = [observe(estimator, 56.0, running=(f"s{n}", "cpu")) for n in range(3)]
    assert any(alarms)


def test_a_restless_governor_does_not_stop_learning() -> None:
    estimator = AppEstimator()
    for n in range(30):
        observe(estimator, 60.0, clock_version=n)
    assert estimator.filter("cpu").slowdown == pytest.approx(1.5, rel=0.05)


def test_processors_are_learned_apart() -> None:
    estimator = AppEstimator()
    for _ in range(20):
        observe(estimator, 40.0)
    for _ in range(20):
        observe(estimator, 80.0, running=("g1", "gpu"))
    assert estimator.filter("cpu").slowdown == pytest.approx(1.0, rel=0.02)
    assert estimator.filter("gpu").slowdown == pytest.approx(2.0, rel=0.02)
    assert estimator.known("gpu") and not estimator.known("npu")


def test_an_unknown_processor_is_as_noisy_as_the_known_one() -> None:
    rng = np.random.default_rng(5)
    estimator = AppEstimator()
    calm = estimator.margin("npu", 0.01)
    for value in rng.normal(0.0, 0.18, 200):
        observe(estimator, 40.0 * float(np.exp(value)))
    assert estimator.margin("npu", 0.01) > 1.3 * calm
    observe(estimator, 40.0, running=("n1", "npu"))
    observe(estimator, 40.0, running=("n1", "npu"))
    assert estimator.margin("npu", 0.01) > 1.3 * calm  # nor does the first frame there change that


def test_overhead_leaves_out_frames_that_waited_for_the_worker() -> None:
    estimator = AppEstimator()
    assert estimator.overhead.typical_ms() == OVERHEAD_DEFAULT_MS
    for _ in range(30):
        observe(estimator, 40.0)
    assert estimator.overhead.typical_ms() == pytest.approx(2.0)
    observe(estimator, 80.0, latency_ms=82.0)  # longer than the period: the next ones wait for it
    for _ in range(10):
        observe(estimator, 80.0, latency_ms=110.0)
    assert estimator.overhead.typical_ms() == pytest.approx(2.0)


def test_the_spread_of_the_overhead_is_part_of_the_margin() -> None:
    steady, jumpy = AppEstimator(), AppEstimator()
    for n in range(256):
        observe(steady, 40.0, latency_ms=46.0)
        observe(jumpy, 40.0, latency_ms=60.0 if n % 20 == 0 else 46.0)
    assert jumpy.overhead.typical_ms() == steady.overhead.typical_ms() == 6.0
    assert steady.margin("cpu", 0.01) < 1.02
    assert jumpy.margin("cpu", 0.01) == pytest.approx(1.0 + 14.0 / 40.0, abs=0.03)


def test_prior_of_an_unknown_processor_is_what_others_found() -> None:
    assert prior_slowdown([]) == 1.0
    measured = []
    for level in (1.2, 1.5, 3.0):
        filter_ = SlowdownFilter()
        filter_.update(log(level))
        measured.append(filter_)
    assert prior_slowdown([*measured, SlowdownFilter()]) == pytest.approx(1.5, rel=0.02)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=300), st.floats(0.0, 1.0))
def test_quantile_is_one_of_the_values(values: list[float], share: float) -> None:
    window = Window(len(values))
    for value in [5.0, *values]:
        window.append(value)
    found = window.quantile(share)
    assert found in values
    assert sum(v > found for v in values) <= (1.0 - share) * len(values) + 1e-6


@given(st.lists(st.floats(-5.0, 5.0) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=40))
def test_deviation_is_the_median_of_what_lies_between_each_value_and_the_median(values: list[float]) -> None:
    window = Window(len(values))
    for value in values:
        window.append(value)
    assert window.deviation() == median([abs(value - median(values)) for value in values])


def test_quantile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        Window(4).quantile(0.5)
    with pytest.raises(ValueError, match="no values"):
        Window(4).deviation()


def test_a_window_forgets_the_oldest_and_on_demand_the_newest() -> None:
    window = Window(3)
    for value in (9.0, 1.0, 2.0, 3.0):
        window.append(value)
    assert len(window) == 3 and window.quantile(1.0) == 3.0 and window.deviation() == 1.0
    assert window.above(1.0) == 2 and window.median() == 2.0
    assert window.pop() == 3.0
    assert len(window) == 2 and window.quantile(1.0) == 2.0 and window.quantile(0.0) == 1.0


@settings(max_examples=200)
@given(st.lists(st.floats(1e-3, 1e5), max_size=200), st.floats(1e-3, 1e4))
def test_stays_finite_on_any_positive_times(times: list[float], predicted: float) -> None:
    estimator = AppEstimator()
    for measured in times:
        observe(estimator, measured, predicted_ms=predicted)
    observe(estimator, 40.0, predicted_ms=nan)
    filter_ = estimator.filter("cpu")
    assert 0.0 < filter_.slowdown < float("inf")
    assert 0.0 <= filter_.variance <= 1.5
    assert MARGIN_FLOOR <= filter_.margin(0.01) <= 3.0


def test_what_was_seen_on_a_processor_that_was_left_gets_old() -> None:
    """Else a spike just before an application moves away keeps it from ever coming back."""
    left = SlowdownFilter()
    for _ in range(300):
        left.update(log(1.1))
    for _ in range(6):
        left.update(log(1.6))
    assert left.slowdown > 1.4
    for _ in range(500):
        left.fade(0.0)
    assert left.slowdown == pytest.approx(1.1, abs=0.03)
    for _ in range(500):
        left.fade(log(1.5))  # others measure there that it is loaded
    assert left.slowdown == pytest.approx(1.65, rel=0.03)


def test_spikes_on_a_processor_that_was_left_are_forgotten_and_the_spread_is_not() -> None:
    rng = np.random.default_rng(4)
    tail = MarginEstimator()
    for n in range(240):
        tail.append(1.6 if n % 20 == 0 else float(np.exp(0.03 * rng.standard_normal())))
    spiky, deviation = tail.margin(0.02), tail.deviation
    for _ in range(80):
        tail.fade()
    assert tail.margin(0.02) < 1.2 < 1.5 < spiky
    assert tail.deviation == deviation


def test_drift_is_how_much_slower_than_usual_others_are() -> None:
    assert drift([]) == 0.0
    usual, loaded = SlowdownFilter(), SlowdownFilter()
    for n in range(300):
        usual.update(log(1.2))
        loaded.update(log(0.9 if n < 290 else 1.8))
    assert drift([usual]) == pytest.approx(0.0, abs=0.02)
    assert drift([loaded]) == pytest.approx(log(2.0), abs=0.1)


def test_who_may_miss_few_frames_a_minute_aims_lower() -> None:
    shares = [scarce(tolerated) for tolerated in (0.3, 0.9, FEW_MISSES, 20.0)]
    assert shares == sorted(shares) and shares[-2:] == [1.0, 1.0]
    assert 0.1 < shares[0] < 0.2 and 0.3 < shares[1] < 0.4
    assert scarce(0.0) == scarce(inf) == 1.0
