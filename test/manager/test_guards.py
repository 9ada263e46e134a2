"""What the manager refuses, and how it holds power and temperature."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from dynofa_ros.manager.checks import check_frame, check_library, check_targets
from dynofa_ros.manager.power_guard import CAP_GUARD, PowerGuard
from dynofa_ros.manager.thermal_guard import ThermalGuard
from dynofa_ros.messages import AppTargets, InferenceMonitor, SubnetEntry, SubnetLibrary

TARGETS = AppTargets("front", 60.0)
ENTRY = SubnetEntry("s1", "cpu", 0.8, 40.0, 10.0, 30.0)
FRAME = InferenceMonitor("front", 1, 0, "s1", "cpu", 1.0, 1.0, 40.0, 0.5, 42.5, 60.0, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_target_ms", nan),
        ("latency_target_ms", 0.0),
        ("latency_target_ms", -5.0),
        ("rate_hz", inf),
        ("rate_hz", 0.0),
        ("accuracy_target", 1.2),
        ("accuracy_floor", nan),
        ("miss_tolerance", -0.1),
    ],
)
def test_bad_targets_are_refused_by_name(field: str, value: float) -> None:
    assert check_targets(TARGETS) is None
    assert field in str(check_targets(replace(TARGETS, **{field: value})))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inference_ms", nan),
        ("inference_ms", 0.0),
        ("inference_ms", -1.0),
        ("latency_ms", inf),
        ("latency_ms", 30.0),
    ],
)
def test_bad_frames_are_refused_by_name(field: str, value: float) -> None:
    assert check_frame(FRAME) is None
    assert field in str(check_frame(replace(FRAME, **{field: value})))


def test_a_library_keeps_its_sound_entries_and_names_the_others() -> None:
    bad = (
        replace(ENTRY, id=""),
        replace(ENTRY, id="s2", accuracy=80.0),
        replace(ENTRY, id="s3", alpha_ms=nan),
        replace(ENTRY, id="s4", alpha_ms=0.0, beta_ms=0.0),
        ENTRY,
    )
    sound, reasons = check_library(SubnetLibrary("front", (ENTRY, *bad)))
    assert sound == (ENTRY,)
    assert len(reasons) == 5
    for reason, word in zip(
        reasons, ("must not be empty", "80.0", "alpha_ms", "alpha_ms", "twice"), strict=True
    ):
        assert "front" in reason and word in reason
    assert check_library(SubnetLibrary("front", ()))[1] == ("library of front: no usable entry",)


def test_bias_follows_the_meter_within_its_bounds() -> None:
    guard = PowerGuard()
    for _ in range(600):
        guard.observe(8.0, 7.5, 0.1, inf, settled=True)
    assert guard.bias_w == pytest.approx(0.5, rel=0.02)
    for _ in range(600):
        guard.observe(80.0, 7.5, 0.1, inf, settled=True)
    assert guard.bias_w == pytest.approx(0.2 * 7.5)


@pytest.mark.parametrize("measured", [nan, inf, -1.0])
def test_a_broken_meter_is_ignored(measured: float) -> None:
    guard = PowerGuard()
    guard.observe(8.0, 7.5, 0.1, 10.0, settled=True)
    before = replace(guard)
    assert not guard.observe(measured, 7.5, 0.1, 10.0, settled=True)
    assert guard == before


def test_staying_above_the_cap_lowers_the_budget_within_two_samples() -> None:
    guard = PowerGuard()
    assert guard.limit_w(10.0) == pytest.approx(10.0 * (1.0 - CAP_GUARD))
    assert not guard.observe(11.0, 9.0, 0.1, 10.0, settled=True)
    assert guard.observe(11.0, 9.0, 0.1, 10.0, settled=True)
    assert guard.limit_w(10.0) < 9.0
    for _ in range(300):
        guard.observe(9.0, 9.0, 0.1, 10.0, settled=True)
    assert guard.limit_w(10.0) == pytest.approx(10.0 * (1.0 - CAP_GUARD), rel=1e-3)


def test_what_had_to_be_given_up_again_is_tried_ever_more_rarely() -> None:
    """Two clocks with the cap between them, where the model says that both fit, make no limit cycle."""
    guard, kept = PowerGuard(), []
    for _ in range(6):
        while not guard.observe(11.0, 9.0, 0.1, 10.0, settled=True):
            pass
        trim_w = guard.trim_w
        for _ in range(50):
            guard.observe(9.0, 9.0, 0.1, 10.0, settled=True)
        kept.append(guard.trim_w / trim_w)
    assert kept == sorted(kept) and kept[0] < 0.3 and kept[-1] > 0.9


def test_clocks_on_their_way_are_no_breach() -> None:
    guard = PowerGuard()
    assert not any(guard.observe(11.0, 9.0, 0.1, 10.0, settled=False) for _ in range(20))


def test_thermal_budget_shrinks_towards_the_limit() -> None:
    guard = ThermalGuard()
    assert guard.limit_w(85.0, 10.0) == inf
    budgets = []
    for temperature in (60.0, 80.0, 85.0, 87.0, 88.5):
        for _ in range(1000):
            guard.observe((nan, 20.0, temperature), 0.1)
        budgets.append(guard.limit_w(85.0, 10.0))
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[2] == pytest.approx(10.0, rel=1e-3)  # at the limit: no more than now
    assert budgets[3] < 10.0
    assert budgets[4] == 0.0  # emergency
    guard.observe((nan,), 0.1)
    assert guard.limit_w(85.0, nan) == inf


def test_thermal_limit_is_held_in_a_closed_loop() -> None:
    for resistance, ambient in ((2.5, 45.0), (4.0, 45.0), (1.5, 60.0)):
        guard = ThermalGuard()  # believes 2.5 C/W
        temperature, power, hottest = ambient + 5.0, 20.0, 0.0
        for _ in range(12_000):
            temperature += 0.1 / 90.0 * (ambient + resistance * power - temperature)
            guard.observe((round(2.0 * temperature) / 2.0,), 0.1)
            power = min(20.0, guard.limit_w(85.0, power))
            hottest = max(hottest, temperature)
        assert hottest < 86.0
        assert temperature > 83.0


# --- what single samples have above their mean ------------------------------------------------------


def test_a_cap_holds_for_the_peaks_of_jobs_that_come_and_go() -> None:
    even, jobs = PowerGuard(), PowerGuard()
    for n in range(100):
        even.observe(5.0, 5.0, 0.1, 8.0, True)
        jobs.observe(5.5 if n % 2 else 4.5, 5.0, 0.1, 8.0, True)
    assert even.limit_w(8.0) == pytest.approx(8.0 * (1.0 - CAP_GUARD))
    assert jobs.limit_w(8.0) == pytest.approx(even.limit_w(8.0) - 0.5)
    assert jobs.limit_w(inf) == inf


def test_a_change_of_clocks_is_no_ripple_and_a_step_is_soon_forgotten() -> None:
    guard = PowerGuard()
    for n in range(100):
        guard.observe(5.0 if n < 50 else 9.0, 5.0, 0.1, inf, settled=n != 50)
    assert guard.ripple.peak_w == 0.0
    for _ in range(30):
        guard.observe(5.0, 5.0, 0.1, inf, True)
    assert guard.ripple.peak_w > 1.0  # load has gone: it may have been jobs
    for _ in range(100):
        guard.observe(5.0, 5.0, 0.1, inf, True)
    assert guard.ripple.peak_w == 0.0


def test_peaks_seen_above_a_cap_are_expected_below_it_in_proportion() -> None:
    """A load that has ended had high peaks at high clocks; under the cap there is nothing to repeat them."""
    guard = PowerGuard()
    for n in range(100):
        guard.observe(12.0 if n % 2 else 8.0, 10.0, 0.1, inf, True)
    assert guard.limit_w(5.0) == pytest.approx(5.0 * (1.0 - CAP_GUARD) - 1.0)
    assert guard.limit_w(10.0) == pytest.approx(10.0 * (1.0 - CAP_GUARD) - 2.0)
    assert guard.limit_w(20.0) == pytest.approx(20.0 * (1.0 - CAP_GUARD) - 2.0)
    assert guard.limit_w(0.0) == 0.0
