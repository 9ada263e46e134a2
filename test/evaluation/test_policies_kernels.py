"""Decision rules of the rivals against numbers computed by hand, and what they must never do."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.device.board import load_board
from dynofa_ros.evaluation.policies import alert, poet
from dynofa_ros.evaluation.policies.dynamic_ofa import StepManager, levels_of
from dynofa_ros.evaluation.policies.oracle_model import (
    Battery,
    Cameras,
    chance,
    offsets_ms,
    thermal_limit_w,
    worst_overlap_ms,
)
from dynofa_ros.evaluation.policies.per_app import Profile, home, make_profile, time_to_answer_ms
from dynofa_ros.evaluation.policies.profile import make_levels, offered, times_ms
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import AppTargets, DomainFrequency, InferenceMonitor, SubnetEntry
from dynofa_ros.simulation.noise import Trace
from dynofa_ros.simulation.scene import Surroundings

BOARD = load_board("xavier_nx")
TOP_HZ = 1_109_250_000


def entry(name: str, accuracy: float, ms: float, processor: str = "gpu") -> SubnetEntry:
    return SubnetEntry(
        name,
        processor,
        accuracy,
        ms,
        0.6 * ms,
        0.4 * ms,
        reference_frequencies=(DomainFrequency(processor, TOP_HZ),),
    )


LIBRARY = (entry("small", 0.74, 40.0), entry("middle", 0.77, 50.0), entry("large", 0.79, 62.0))
TARGETS = AppTargets("a", 100.0, 0.76, 0.74, 10.0, 0.01)


def profile() -> Profile:
    return make_profile(BOARD, LIBRARY, "gpu", offered(BOARD, None))


def frame(inference_ms: float, subnet: str = "large", overhead_ms: float = 3.0) -> InferenceMonitor:
    latency = inference_ms + overhead_ms
    return InferenceMonitor(
        "a", 1, 1, subnet, "gpu", 0.0, overhead_ms, inference_ms, 0.0, latency, 100.0, latency > 100.0
    )


# --- table -------------------------------------------------------------------------------------------------


def test_times_follow_the_latency_law() -> None:
    levels = make_levels(BOARD, "gpu", offered(BOARD, None))
    times = times_ms(LIBRARY, levels)
    assert times[0, -1] == pytest.approx(40.0)
    half = levels.clocks_hz.index((510_000_000,))
    assert times[0, half] == pytest.approx(24.0 + 16.0 * TOP_HZ / 510e6)
    assert times_ms(LIBRARY, levels, speed=0.5)[0, -1] == pytest.approx(24.0 + 32.0)


def test_a_mode_leaves_fewer_clocks() -> None:
    tables = offered(BOARD, "MODE_10W_4CORE")
    assert tables["gpu"][-1] == 803_250_000 and "cpu4" not in tables
    assert len(make_levels(BOARD, "cpu", tables).domains) == 2
    with pytest.raises(ValueError, match="offers no clocks"):
        make_levels(BOARD, "gpu", {})


def test_nearest_level_is_found_by_the_slowest_domain() -> None:
    levels = make_levels(BOARD, "cpu", offered(BOARD, None))
    assert levels.nearest({"cpu0": 1.9e9, "cpu2": 1.0e9, "cpu4": 1.9e9}) == 12  # 1036.8 MHz
    assert levels.nearest({"gpu": 1e9}) is None


# --- chance ------------------------------------------------------------------------------------------------


def trace(noise: tuple[float, ...], period_s: float = 0.1, **more: object) -> Trace:
    count = len(noise)
    figures: dict[str, object] = {
        "arrivals_s": tuple(period_s * n for n in range(count)),
        "extra_ms": (0.0,) * count,
        "regimes": (),
        "overhead_ms": (3.0,) * count,
        "bias": {},
        "sizes": (),
        "guesses": (),
        "entries": {},
    }
    return Trace(noise=noise, **(figures | more))  # type: ignore[arg-type]


def test_late_frames_are_counted_at_every_speed() -> None:
    known = chance(trace((1.0, 1.0, 1.3, 1.0), 1.0, extra_ms=(0.0, 10.0, 0.0, 0.0)), 100.0, None)
    assert known.typical == pytest.approx(1.075) and known.extra_ms == pytest.approx(2.5)

    def share(own_ms: float) -> float:
        return known.late_share(known.typical * own_ms + known.extra_ms)

    # 97 / 1.3 = 74.6 ms of the third frame, 87 of the second, 97 of the others
    assert [share(own) for own in (74.0, 75.2, 86.0, 88.0, 96.0, 98.5)] == [0.0, 0.25, 0.25, 0.5, 0.5, 1.0]
    longest = (known.expected_ms(0.25) - known.extra_ms) / known.typical
    assert 86.0 < longest <= 87.0


def test_a_late_frame_makes_the_next_one_wait_or_drop() -> None:
    noise = (1.0, 2.5, 1.0, 1.0, 1.0, 1.0)
    alone, queued = (chance(trace(noise, period_s), 90.0, None) for period_s in (1.0, 0.1))
    own_ms = 70.0  # the second ends at 278 ms, those that wait for it at 351, 424 and 497
    late = [known.late_share(known.typical * own_ms) for known in (alone, queued)]
    assert late == pytest.approx([1 / 6, 4 / 6])


def test_the_fullest_windows_of_a_cap() -> None:
    """Windows of 99.7 ms; 0.5 % of them may be fuller, of a few none."""
    alone = chance(trace((1.0,) * 4, 1.0), 200.0, None)  # at 3, 1003, 2003, 3003 ms: all in one window each
    assert alone.fullest_load(np.array([40.0, 60.0]) + 0.0)[0] == pytest.approx(40.0 / 99.7, rel=0.01)
    assert alone.fullest_load(np.array([90.0]))[0] == pytest.approx(90.0 / 99.7, rel=0.01)
    assert alone.fullest_load(np.array([199.0, 500.0])).tolist() == pytest.approx([1.0, 1.0])
    noisy = (1.0,) * 500 + (1.5,) * 2  # two of a thousand windows
    rare = chance(trace(noisy, 0.2), 90.0, None)
    assert rare.fullest_load(rare.typical * np.array([50.0]))[0] == pytest.approx(50.0 / 99.7, rel=0.01)
    often = chance(trace((1.0,) * 480 + (1.5,) * 20, 0.2), 90.0, None)
    assert often.fullest_load(often.typical * np.array([50.0]))[0] == pytest.approx(75.0 / 99.7, rel=0.01)
    queued = chance(trace((1.0, 1.8) * 30, 0.1), 90.0, None)  # one after the other: hardly a gap
    assert queued.fullest_load(queued.typical * np.array([75.0]))[0] > 0.95


def test_the_state_of_the_noise_tells_what_comes() -> None:
    states = (0,) * 30 + (1,) * 30
    known = trace((1.0,) * 30 + (1.5,) * 30, 1.0, regimes=states)
    calm, burst = (chance(known, 100.0, state) for state in (0, 1))
    assert calm.late_share(calm.typical * 80.0) == pytest.approx(1 / 31)  # the first frame of the burst
    assert burst.late_share(burst.typical * 80.0) == 1.0
    assert chance(known, 100.0, None).late_share(1.25 * 80.0) == 0.5


# --- Dynamic-OFA -------------------------------------------------------------------------------------------


def stepper(level: int, accuracy: float = 0.77, **more: bool) -> StepManager:
    return StepManager((0.742, 0.750, 0.761, 0.775, 0.783, 0.790), level, 60.0, accuracy, **more)


def test_stepper_goes_down_once_the_mean_of_twenty_is_over_the_constraint() -> None:
    one = stepper(4)
    levels = [one.observe(62.0) for _ in range(41)]
    # 21 frames are not counted; sum / 20 of 62 ms is over 60 ms only with the 20th record
    assert levels[:40] == [4] * 40 and levels[40] == 3


def test_stepper_ignores_frames_above_the_ceiling() -> None:
    one = stepper(4)
    assert {one.observe(91.0) for _ in range(200)} == {4}


def test_stepper_climbs_at_the_72nd_frame_and_only_for_accuracy() -> None:
    one = stepper(2)
    levels = [one.observe(40.0) for _ in range(72)]
    assert levels[:71] == [2] * 71 and levels[71] == 3
    assert {one.observe(40.0) for _ in range(200)} == {3}


def oscillate(one: StepManager, frames: int) -> list[int]:
    return [one.observe(70.0 if one.level >= 3 else 50.0) for _ in range(frames)]


def test_stepper_as_published_comes_back_and_the_hold_does_not() -> None:
    free, held = stepper(2), stepper(2, hold=True)
    assert oscillate(free, 400).count(3) > 100
    track = oscillate(held, 400)
    assert 3 in track and set(track[-250:]) == {2}
    held.retarget(60.0, 0.775)
    assert 3 in oscillate(held, 100)


def test_stepper_stays_within_its_levels() -> None:
    low, high = stepper(0), stepper(5, accuracy=1.0)
    assert {low.observe(80.0) for _ in range(200)} == {0}
    assert {high.observe(10.0) for _ in range(200)} == {5}


def test_six_levels() -> None:
    many = tuple(entry(f"s{n}", 0.70 + 0.001 * n, 40.0 + n) for n in range(31))
    assert [e.id for e in levels_of(many)] == ["s0", "s6", "s12", "s18", "s24", "s30"]
    published = tuple(replace(e, id=f"published_6_{n}") for n, e in enumerate(many[:6]))
    assert levels_of((*many[6:20], *published)) == published
    assert levels_of(LIBRARY) == LIBRARY


# --- ALERT -------------------------------------------------------------------------------------------------


def test_alert_filter_first_step_by_hand() -> None:
    one = alert.SlowdownFilter()
    one.update(1.2)
    # y = 0.2; Q = max(0.1, 0.03 + 0.7 * 0.01) = 0.1; p = 0.5 * 0.1 + 0.1 = 0.15; K = 0.15 / 0.151
    assert one.process == pytest.approx(0.1)
    assert one.gain == pytest.approx(0.15 / 0.151)
    assert one.mean == pytest.approx(1.0 + 0.15 / 0.151 * 0.2)
    assert one.variance == pytest.approx(0.15)


def test_alert_remembered_constants_have_a_wide_margin() -> None:
    one = alert.SlowdownFilter()
    for _ in range(100):
        one.update(1.0)
    assert one.gain == pytest.approx(0.99, abs=0.001)
    assert one.variance**0.5 == pytest.approx(0.32, abs=0.005)  # facts: 1.71 x for 99 %


def test_alert_tuned_follows_slowly_and_closely() -> None:
    one = alert.SlowdownFilter(alert.TUNED)
    for n in range(200):
        one.update(1.0 + 0.03 * (-1) ** n)
    assert one.variance**0.5 < 0.05 and abs(one.mean - 1.0) < 0.03


def test_alert_idle_ratio_converges() -> None:
    one = alert.IdleFilter()
    for _ in range(50):
        one.update(0.6)
    assert one.ratio == pytest.approx(0.6, abs=1e-3)


def certain(mean_: float = 1.0) -> alert.SlowdownFilter:
    return alert.SlowdownFilter(mean=mean_, variance=1e-12)


def goals(**more: float) -> alert.Goals:
    return replace(alert.Goals(97.0, 100.0, 0.76, 0.99, float("inf")), **more)


def test_alert_takes_the_cheapest_that_is_accurate_and_in_time() -> None:
    known = profile()
    place = alert.choose(known, certain(), 0.5, goals())
    joules = known.busy_w * (known.times_ms + 0.5 * np.maximum(0.0, 100.0 - known.times_ms))
    allowed = (known.times_ms <= 97.0) & (known.accuracies >= 0.76)[:, None]
    best = np.unravel_index(np.where(allowed, joules, np.inf).argmin(), joules.shape)
    assert place == tuple(int(n) for n in best) and known.entries[place[0]].id == "middle"


def test_alert_gives_up_power_then_accuracy_then_latency() -> None:
    known = profile()
    # accuracy out of reach: the most accurate in time, at its least energy
    entry_, level = alert.choose(known, certain(), 0.5, goals(accuracy=1.0))
    assert entry_ == 2 and known.times_ms[2, level] <= 97.0
    # slower: only the small one is in time
    assert alert.choose(known, certain(2.3), 0.5, goals())[0] == 0
    # nothing is in time: the fastest there is
    assert alert.choose(known, certain(4.0), 0.5, goals()) == (0, len(known.levels) - 1)
    # a budget that nothing meets is dropped, one that something meets is kept
    assert alert.choose(known, certain(), 0.5, goals(budget_w=0.1)) == alert.choose(
        known, certain(), 0.5, goals()
    )
    rich = alert.choose(known, certain(), 0.5, goals(deadline_ms=66.0, accuracy=1.0))
    poor = alert.choose(known, certain(), 0.5, goals(deadline_ms=66.0, accuracy=1.0, budget_w=6.0))
    assert known.accuracies[poor[0]] <= known.accuracies[rich[0]]


def test_alert_learns_the_overhead_and_keeps_up_with_the_rate() -> None:
    late = replace(TARGETS, latency_target_ms=500.0)
    assert time_to_answer_ms(late) == 100.0
    one = alert.Alert(profile(), late, Parameters(), alert.TUNED)
    for _ in range(100):
        entry_, level = one.place
        one.observe(frame(float(one.profile.times_ms[entry_, level]), overhead_ms=10.0), entry_, level)
    entry_, level = one.place
    assert one.profile.times_ms[entry_, level] <= 90.0


# --- POET --------------------------------------------------------------------------------------------------


def test_poet_law_by_hand() -> None:
    law = poet.Law(speedup=2.0, top=4.0)
    # p = 1.00001; K = 2 p / (4 p + 0.01); x = 0.2 + K (10 - 0.4) = 4.98...; u = 2 + (12 - 10) / x
    gain = 2.00002 / (4.00004 + 0.01)
    base = 0.2 + gain * (10.0 - 0.4)
    assert law.control(10.0, 12.0) == pytest.approx(2.0 + 2.0 / base)
    assert law.base == pytest.approx(base)


def test_poet_reaches_its_goal_and_saturates() -> None:
    law = poet.Law(speedup=4.0, top=4.0)
    for _ in range(60):
        law.control(5.0 * law.speedup, 12.0)
    assert law.speedup == pytest.approx(2.4, rel=1e-3)
    for _ in range(20):
        law.control(5.0 * law.speedup, 100.0)
    assert law.speedup == 4.0


def test_poet_shares_a_period_between_two_states() -> None:
    states = poet.States(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 8.0]), ((0, 0), (0, 1), (0, 2)))
    # u = 1.5 between 1 and 2: x = (2 - 1.5) / (3 - 1.5) = 1/3, of 9 frames 3 in the lower: 3 + 6 * 1.5 = 12;
    # with 4: x = (4 - 1.5) / (6 - 1.5) = 5/9, 5 + 4 * 2 = 13
    assert poet.share(states, 1.5, 9) == (0, 1, 3)
    assert poet.share(states, 2.0, 9)[1:] == (1, 0)
    assert poet.share(states, 9.0, 9) == (2, 2, 0)


def test_poet_states_cost_less_the_slower_they_are() -> None:
    states = poet.make_states(profile(), TARGETS, Parameters())
    per_frame = states.costs / states.speedups
    assert states.speedups[0] == 1.0
    assert (np.diff(states.speedups) > 0.0).all() and (np.diff(per_frame) > 0.0).all()
    accurate = [profile().accuracies[e] >= 0.76 for e, _ in states.places]
    assert accurate == sorted(accurate, reverse=True)  # less accuracy only where speed demands it


def test_poet_time_multiplexes_within_the_period() -> None:
    one = poet.Poet(profile(), TARGETS, Parameters(), poet.MARGIN)
    used = []
    for _ in range(200):
        entry_, level = one.place
        used.append((entry_, level))
        one.observe(frame(float(one.profile.times_ms[entry_, level])), entry_, level)
    times = [float(one.profile.times_ms[place]) for place in used[100:]]
    assert 1e3 / np.mean(times) == pytest.approx(1e3 / (97.0 / poet.MARGIN), rel=0.02)
    assert len(set(used[100:])) <= 3


def test_home_is_the_mapped_processor_while_it_is_there() -> None:
    assert home(LIBRARY, "gpu") == "gpu"
    assert home((entry("c", 0.7, 500.0, "cpu"), entry("n", 0.7, 80.0, "npu")), "gpu") == "npu"


# --- what oracles reckon with ------------------------------------------------------------------------------


def test_offsets_of_two_cameras() -> None:
    assert offsets_ms(30.0, (10.0, 4.0)).tolist() == pytest.approx([30.0, 80.0, 130.0, 180.0, 230.0])
    assert offsets_ms(-20.0, (4.0, 10.0)).tolist() == pytest.approx([30.0, 80.0])
    assert offsets_ms(7.0, (5.0, 5.0)).tolist() == pytest.approx([7.0])


def test_worst_overlap_by_hand() -> None:
    own, other = np.array([50.0]), np.array([40.0])
    assert worst_overlap_ms(np.array([20.0]), 100.0, own, other) == pytest.approx([30.0])
    # 70 ms later = 30 ms before: of its 40 ms the last 10 fall into ours
    assert worst_overlap_ms(np.array([70.0]), 100.0, own, other) == pytest.approx([10.0])
    assert worst_overlap_ms(np.array([55.0]), 100.0, own, np.array([10.0])) == pytest.approx([0.0])


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 100.0), st.floats(1.0, 90.0), st.floats(1.0, 90.0))
def test_worst_overlap_agrees_with_counting(offset: float, own: float, other: float) -> None:
    grid = np.arange(0.0, own, 0.05)
    busy = ((grid - offset) % 100.0) < other
    counted = 0.05 * busy.sum()
    found = worst_overlap_ms(np.array([offset]), 100.0, np.array([own]), np.array([other]))[0]
    assert found == pytest.approx(counted, abs=0.3)


def test_cameras_learn_offsets_and_distrust_irregular_ones() -> None:
    cameras = Cameras()
    for n in range(4):
        cameras.observe("a", n, 0.02 + 0.1 * n)
        cameras.observe("b", 2 * n, 0.05 + 0.25 * 2 * n)
        cameras.observe("random", n, [0.0, 0.1, 0.35, 0.4][n])
    assert cameras.known(["a", "b", "random"]) == (True, True, False)
    a, b = AppTargets("a", 100.0, rate_hz=10.0), AppTargets("b", 250.0, rate_hz=4.0)
    worst = cameras.worst(a, b, np.array([50.0]), np.array([50.0]))
    assert worst is not None and worst == pytest.approx([30.0])  # offsets 30, 80, ... 230 = 20 before
    assert cameras.worst(a, replace(b, rate_hz=2.0), np.array([50.0]), np.array([50.0])) is None
    assert cameras.worst(a, AppTargets("random", 100.0), np.array([50.0]), np.array([50.0])) is None


def test_battery_spreads_what_is_left() -> None:
    battery = Battery()
    budget = Parameters(objective="battery", battery_energy_j=900.0, battery_time_s=180.0)
    assert battery.limit_w(Parameters(), 0.0, 0.0) == float("inf")
    assert battery.limit_w(budget, 10.0, 50.0) == pytest.approx(5.0)
    assert battery.limit_w(budget, 10.5, 60.0) == pytest.approx(5.0)
    assert battery.limit_w(budget, 100.0, 650.0) == pytest.approx(300.0 / 90.0)
    assert battery.limit_w(budget, 190.0, 900.0) == float("inf")


def test_thermal_limit_holds_the_limit_after_the_horizon() -> None:
    thermal = BOARD.thermal
    timeline = (Surroundings(5.0, 45.0, 2.0),)
    for now_s, ambient, resistance in ((0.0, 25.0, 2.5), (10.0, 45.0, 5.0)):
        power = thermal_limit_w(thermal, timeline, now_s, 80.0, 85.0)
        steady = ambient + resistance * power
        reached = steady + (80.0 - steady) * exp(-10.0 / thermal.time_constant_s)
        assert reached == pytest.approx(85.0)
    assert thermal_limit_w(thermal, (), 0.0, 150.0, 85.0) == 0.0
