"""Scenarios are sound declarations, and chance is the same for every policy."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import msgspec
import numpy as np
import pytest

from dynofa_ros.device.simulated.power_modes import mode_limits
from dynofa_ros.evaluation.scenarios import (
    MODE_CAPPED,
    RANGE_MS,
    SCENARIOS,
    declared,
    default_board,
    evaluation_board,
    make_scene,
    scenario_of,
    scenes,
    translation_library,
    vision_library,
)
from dynofa_ros.simulation.noise import Trace, draw
from dynofa_ros.simulation.scene import (
    CONTENDED,
    ISOLATED,
    NONE,
    NewMode,
    NewTargets,
    Noise,
    Regime,
    Scene,
)

ALL = scenes(SCENARIOS)
LEVEL_4 = "published_6_3"


def named(name: str) -> Scene:
    return next(scene for scene in ALL if scene.name == name)


def test_every_scenario_is_there_and_names_are_unique() -> None:
    names = [scene.name for scene in ALL]
    assert len(set(names)) == len(names)
    assert tuple(dict.fromkeys(map(scenario_of, names))) == SCENARIOS == tuple(f"S{n}" for n in range(1, 15))


def test_an_unknown_scenario_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown scenario S99 \(known: S1, S2, "):
        scenes(["S1", "S99"])


@pytest.mark.parametrize("scene", ALL, ids=lambda scene: scene.name)
def test_a_scene_is_consistent(scene: Scene) -> None:
    mode_limits(scene.truth, scene.mode)
    times = [event.at_s for event in scene.timeline]
    assert times == sorted(times) and all(0.0 < t < scene.duration_s for t in times)
    assert all(0.0 < t < scene.duration_s for t in scene.steps if np.isfinite(t))
    for event in scene.timeline:
        if isinstance(event, NewMode):
            mode_limits(scene.truth, event.mode)
        if isinstance(event, NewTargets):
            scene.app(event.targets.app)
    for app in scene.apps:
        assert app.targets.app == app.name
        assert 0.0 <= app.targets.accuracy_floor <= app.targets.accuracy_target <= 1.0
        own = [e for e in app.usable if app.mapping in (e.processor, e.cluster)]
        assert own and max(e.accuracy for e in own) >= app.targets.accuracy_floor
        assert app.start is None or app.start in {e.id for e in own}
        named = {r.domain for e in app.library for r in e.reference_frequencies}
        assert named <= set(scene.board.domains)


def test_an_application_that_may_not_move_offers_one_processor() -> None:
    left, right = named("S2 fixed").apps
    assert {e.processor for e in left.usable} == {"gpu"}
    assert {e.processor for e in right.usable} == {"cpu"}
    assert {e.processor for app in named("S2 gpu").apps for e in app.usable} == {"gpu"}
    assert all(len({e.processor for e in app.usable}) == 3 for app in named("S2").apps)


def test_deadlines_of_another_measurement_are_scaled() -> None:
    level_4_ms = next(e.latency_ms for e in vision_library() if e.id == LEVEL_4)
    asked_ms = [named("S6").apps[0].targets.latency_target_ms]
    asked_ms += [e.targets.latency_target_ms for e in named("S6").timeline if isinstance(e, NewTargets)]
    written_ms = np.array([100, 60, 150, 80, 55, 200, 75, 100])
    assert asked_ms == pytest.approx(written_ms * level_4_ms / 62.2 + 3.0, abs=0.051)
    level_4 = next(e for e in named("S3").apps[0].library if e.id == LEVEL_4)
    assert level_4.latency_ms + 3.0 == pytest.approx(46.0)


def test_a_variant_says_only_what_differs() -> None:
    first, tighter = named("S1"), named("S1 D70")
    assert tighter.apps[0].targets == replace(first.apps[0].targets, latency_target_ms=70.0)
    assert replace(tighter, name=first.name, title=first.title, apps=first.apps) == first


def test_targets_change_from_those_declared() -> None:
    changed = [e for e in named("S6").timeline if isinstance(e, NewTargets)]
    assert changed[1].targets == replace(
        named("S6").apps[0].targets, latency_target_ms=126.2, accuracy_target=0.79, accuracy_floor=0.79
    )


def test_the_budget_of_the_battery_is_cut_above_the_idle_board() -> None:
    budgets = [named("S8").parameters, *(getattr(e, "parameters") for e in named("S8").timeline)]  # noqa: B009
    assert budgets[0].battery_energy_j == pytest.approx(5.6 * 180.0)
    assert budgets[1].battery_energy_j == pytest.approx((3.13 + 0.7 * (5.6 - 3.13)) * 120.0)


def test_an_unknown_event_or_key_is_named() -> None:
    record = declared()["S1"][0]
    strange = msgspec.structs.replace(record, timeline=({"rain": {"at_s": 1.0}},))
    with pytest.raises(ValueError, match="unknown event 'rain' .known: targets, load"):
        make_scene(strange, default_board())
    with pytest.raises(msgspec.ValidationError, match="unknown field `rate`"):
        msgspec.convert(msgspec.to_builtins(record) | {"rate": 5.0}, type(record))


def test_the_capped_mode_is_ten_watts_with_a_slower_gpu() -> None:
    limits = mode_limits(evaluation_board(), MODE_CAPPED)
    assert limits["gpu"].frequencies_hz[-1] == 510_000_000
    assert limits["cpu0"] == mode_limits(evaluation_board(), "MODE_10W_4CORE")["cpu0"]


def test_the_translation_library_spans_the_published_range() -> None:
    entries = translation_library(1_109_250_000)
    assert (entries[0].latency_ms, entries[-1].latency_ms) == RANGE_MS
    assert all(a.latency_ms < b.latency_ms and a.accuracy < b.accuracy for a, b in zip(entries, entries[1:]))  # noqa: B905
    assert len(entries) == 5 and entries[-1].accuracy == 1.0
    assert entries[2].alpha_ms + entries[2].beta_ms == pytest.approx(entries[2].latency_ms)


def test_the_vision_library_has_the_published_networks_of_the_gpu() -> None:
    published = [e for e in vision_library() if e.processor == "gpu" and e.id.startswith("published_6")]
    assert [e.latency_ms for e in published] == [41.16, 45.42, 49.44, 51.08, 56.75, 61.73]


def test_traces_depend_on_the_seed_alone_and_belong_to_images() -> None:
    scene = named("S4")
    again, other = draw(scene, 3), draw(scene, 4)
    assert draw(scene, 3) == again and again != other
    assert again["front"].noise[:50] != again["side"].noise[:50]
    longer = draw(replace(scene, duration_s=120.0), 3)
    assert longer["front"].arrivals_s[:100] == again["front"].arrivals_s[:100]
    assert longer["front"].bias == again["front"].bias


def test_images_come_at_the_rate_and_while_the_application_is_there() -> None:
    trace = draw(named("S7"), 0)["app1"]
    app = named("S7").app("app1")
    assert app.from_s <= trace.arrivals_s[0] < app.from_s + 0.2
    assert app.until_s - 0.2 <= trace.arrivals_s[-1] < app.until_s
    assert np.diff(trace.arrivals_s) == pytest.approx(0.2)


def test_sentences_come_at_random() -> None:
    scene = replace(named("S12"), duration_s=20_000.0)
    gaps = np.diff(draw(scene, 0)["translation"].arrivals_s)
    assert np.mean(gaps) == pytest.approx(5.0, rel=0.05)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.1)  # exponential


def test_noise_has_the_spread_of_board_logs() -> None:
    isolated, contended = (
        np.array(draw(replace(named("S1"), noise=noise, duration_s=2000.0), 0)["camera"].noise)
        for noise in (ISOLATED, CONTENDED)
    )
    assert 0.04 <= isolated.std() / isolated.mean() <= 0.07
    assert 1.05 <= np.percentile(isolated, 99) / np.median(isolated) <= 1.35
    assert np.mean(contended > 1.8) == pytest.approx(0.03, abs=0.01)
    lag = np.log(contended)
    assert 0.05 < np.corrcoef(lag[:-1], lag[1:])[0, 1] < 0.3
    assert set(draw(replace(named("S1"), noise=NONE), 0)["camera"].noise) == {1.0}


def noise_of(noise: Noise, frames: int = 20_000) -> Trace:
    scene = replace(named("S1"), noise=noise, duration_s=frames / 10.0)
    return draw(scene, 0)["camera"]


def test_bursts_last_from_8_to_25_frames() -> None:
    drawn = noise_of(Noise(0.0, 0.0, 1.0, regimes=(Regime(1.0, 120, 400), Regime(1.45, 8, 25))))
    assert set(drawn.noise) == {1.0, 1.45}
    lengths = [len(list(group)) for factor, group in groupby(drawn.noise) if factor > 1.0][1:-1]
    assert min(lengths) == 8 and max(lengths) == 25
    assert [drawn.regimes[n] for n, factor in enumerate(drawn.noise) if factor > 1.0] == [1] * sum(
        factor > 1.0 for factor in drawn.noise
    )


def test_a_state_without_memory_has_its_mean_length() -> None:
    drawn = noise_of(Noise(0.0, 0.0, 1.0, regimes=(Regime(1.0, 60), Regime(1.3, 8))), 60_000)
    lengths = {f: [len(list(g)) for factor, g in groupby(drawn.noise) if factor == f] for f in (1.0, 1.3)}
    assert np.mean(lengths[1.0]) == pytest.approx(60, rel=0.15)
    assert np.mean(lengths[1.3]) == pytest.approx(8, rel=0.15)


def test_pareto_spikes_have_a_heavy_tail() -> None:
    drawn = np.array(noise_of(Noise(0.0, 0.05, 1.2, tail=3.0), 60_000).noise)
    spikes = drawn[drawn > 1.0]
    assert len(spikes) / len(drawn) == pytest.approx(0.05, rel=0.1) and spikes.min() >= 1.2
    assert np.mean(spikes > 2.4) == pytest.approx(2.0**-3, rel=0.2) and spikes.max() <= 5.0


def test_a_log_is_played_frame_by_frame() -> None:
    log = (1.0, 1.1, 0.9, 1.4)
    drawn = noise_of(Noise(0.0, 0.0, 1.0, logged=log), 40).noise
    start = log.index(drawn[0])
    assert drawn == tuple(log[(start + n) % 4] for n in range(40))


def test_a_preemption_takes_time_whatever_the_network() -> None:
    drawn = np.array(
        noise_of(Noise(0.0, 0.0, 1.0, preempted_share=0.1, preempted_ms=12.0, offset_ms=7.0)).extra_ms
    )
    hit = drawn[drawn > 7.0] - 7.0
    assert drawn.min() == 7.0 and len(hit) / len(drawn) == pytest.approx(0.1, rel=0.1)
    assert hit.mean() == pytest.approx(12.0, rel=0.1)


def test_the_true_library_is_drawn_by_the_seed_and_nobody_else_changes() -> None:
    scene = named("S1")
    wrong = replace(scene, entry_error={"gpu": 0.1}, clock_share={"gpu": (0.28, 0.52)})
    plain, hidden, other = (draw(s, seed)["camera"] for s, seed in ((scene, 0), (wrong, 0), (wrong, 1)))
    assert plain.noise == hidden.noise and plain.bias == hidden.bias and plain.arrivals_s == hidden.arrivals_s
    library = {e.id: e for e in scene.apps[0].library if e.processor == "gpu"}
    assert all(plain.entries[(e.id, "gpu", "", 0)] == e for e in library.values())
    errors = [
        np.log(hidden.entries[(e.id, "gpu", "", 0)].latency_ms / e.latency_ms) for e in library.values()
    ]
    assert 0.05 < np.std(errors) < 0.15
    shares = {
        round(e.beta_ms / (e.alpha_ms + e.beta_ms), 9)
        for e in hidden.entries.values()
        if e.processor == "gpu"
    }
    assert len(shares) == 1 and 0.28 <= shares.pop() <= 0.52
    assert hidden.entries != other.entries
    assert [e for e in hidden.entries.values() if e.processor == "cpu"] == [
        e for e in plain.entries.values() if e.processor == "cpu"
    ]
