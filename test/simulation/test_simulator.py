"""The discrete-event simulation: its laws, its bookkeeping, and that it is deterministic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite, nan

import pytest
from factories import targets, vision

from dynofa_ros.evaluation.policies import make_policy
from dynofa_ros.evaluation.scenarios import default_board, scenes
from dynofa_ros.evaluation.score import cap_violation
from dynofa_ros.manager.inputs import Departure, Parameters
from dynofa_ros.messages import (
    DeviceTelemetry,
    DomainFrequency,
    FrequencyBand,
    InferenceMonitor,
    SubnetCommand,
    SubnetCondition,
    SubnetEntry,
    SubnetLibrary,
    SubnetState,
)
from dynofa_ros.simulation.log import FrameRecord, Run
from dynofa_ros.simulation.noise import draw
from dynofa_ros.simulation.plant import SharedProcessor
from dynofa_ros.simulation.policy import Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import (
    NONE,
    App,
    Event,
    Fault,
    Load,
    NewMode,
    NewParameters,
    NewTargets,
    Reserved,
    Scene,
    Surroundings,
)
from dynofa_ros.simulation.simulator import simulate

TOP_HZ, HALF_HZ = 1_109_250_000, 510_000_000
CPU_REFERENCE = (DomainFrequency("cpu0", 1_907_200_000),)
ENTRY = SubnetEntry("net", "gpu", 0.8, 50.0, 30.0, 20.0, nan, (DomainFrequency("gpu", TOP_HZ),))
OTHER = replace(ENTRY, id="small", accuracy=0.7, latency_ms=20.0, alpha_ms=12.0, beta_ms=8.0)


@dataclass
class Script(Policy):
    """Does what it is told at given times, and keeps what it sees."""

    orders: dict[float, Command] = field(default_factory=dict)
    first: Command = field(default_factory=lambda: Command(governors={"gpu": "performance"}))
    period_s: float = 0.1
    name: str = "script"
    clairvoyant: bool = False
    seen: list[tuple[float, Observation]] = field(default_factory=list)
    frames: list[FrameRecord] = field(default_factory=list)

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        self.truth = truth
        return self.first

    def wants(self) -> float:
        return self.period_s

    def on_frame(self, frame: FrameRecord) -> Command | None:
        self.frames.append(frame)
        return None

    def step(self, now_s: float, observation: Observation) -> Command | None:
        self.seen.append((now_s, observation))
        due = [at_s for at_s in self.orders if at_s <= now_s + 1e-9]
        return self.orders.pop(due[0]) if due else None

    def messages(self, kind: type) -> list[object]:
        inputs = (item.message for _, observation in self.seen for item in observation.inputs)
        return [message for message in inputs if isinstance(message, kind)]


def scene_of(*apps: App, timeline: tuple[Event, ...] = (), **more: object) -> Scene:
    base = Scene("test", "test", default_board(), apps, 4.0, timeline, noise=NONE, bias=0.0)
    return replace(base, **more)  # type: ignore[arg-type]


def app(name: str = "app", rate: float = 5.0, latency_ms: float = 100.0, **more: object) -> App:
    one = App(name, targets(name, rate, latency_ms, 0.7), (ENTRY, OTHER), start="net", overhead_ms=3.0)
    return replace(one, **more)  # type: ignore[arg-type]


def latencies(run: Run, name: str = "app") -> list[float]:
    return [f.latency_ms for f in run.frames if f.app == name]


def test_a_frame_alone_takes_what_the_law_says() -> None:
    run = simulate(scene_of(app()), Script(), 0)
    assert len(run.frames) == 19  # the last one is still in work and not late
    assert latencies(run)[1:] == pytest.approx([53.0] * 18, abs=1e-6)
    assert not any(f.missed for f in run.frames)


def test_clocks_stretch_their_share_only() -> None:
    pinned = Command(bands=(FrequencyBand("gpu", HALF_HZ, HALF_HZ),))
    run = simulate(scene_of(app()), Script(first=pinned), 0)
    assert latencies(run)[-1] == pytest.approx(3.0 + 30.0 + 20.0 * TOP_HZ / HALF_HZ, abs=1e-6)


def test_what_comes_on_top_changes_with_no_clock_and_no_load() -> None:
    noise = replace(NONE, offset_ms=7.0)
    slow = Command(bands=(FrequencyBand("gpu", HALF_HZ, HALF_HZ),))
    fast_run = simulate(scene_of(app(), noise=noise), Script(), 0)
    slow_run = simulate(
        scene_of(app(), noise=noise, timeline=(Load(0.0, "gpu", 0.3, 0.5),)), Script(first=slow), 0
    )
    assert latencies(fast_run)[-1] == pytest.approx(3.0 + 50.0 + 7.0, abs=1e-6)
    alone_ms = 30.0 + 20.0 * TOP_HZ / HALF_HZ
    assert latencies(slow_run)[-1] == pytest.approx(3.0 + 1.5 * alone_ms + 7.0, abs=1e-6)


def test_frames_take_the_time_of_the_true_library_and_messages_have_the_published_one() -> None:
    scene = scene_of(app(), entry_error={"gpu": 0.1})
    script = Script()
    run = simulate(scene, script, 3)
    true = draw(scene, 3)["app"].entries[("net", "gpu", "", 0)]
    assert abs(true.latency_ms / 50.0 - 1.0) > 0.01
    assert latencies(run)[-1] == pytest.approx(3.0 + true.latency_ms, abs=1e-6)
    published = [m for m in script.messages(SubnetLibrary) if isinstance(m, SubnetLibrary)]
    assert published and all(m.entries == (ENTRY, OTHER) for m in published)


def test_a_frame_is_announced_and_clocks_of_who_asks_for_it_are_real() -> None:
    heard: list[tuple[float, str]] = []

    class Early(Script):
        clairvoyant = True
        lead_s = 0.02

        def on_announced(self, app: str) -> Command | None:
            heard.append((self.truth.plant.device.now_s, app))  # type: ignore[union-attr]
            return None

    run = simulate(
        scene_of(app()),
        Early(clairvoyant=True, orders={1.0: Command(bands=(FrequencyBand("gpu", HALF_HZ, HALF_HZ),))}),
        0,
    )
    arrivals = sorted(f.arrived_s for f in run.frames)
    assert [at_s for at_s, _ in heard][: len(arrivals)] == pytest.approx(
        [max(0.0, t - 0.02) for t in arrivals]
    )
    changed = [at_s for at_s, domain, hz in run.clocks if domain == "gpu" and hz == HALF_HZ]
    assert changed and changed[0] > 1.004  # 5 ms and what the polling takes


def test_a_clock_that_changes_during_a_frame_counts_from_then_on() -> None:
    shared = SharedProcessor(default_board(), "gpu", 0.0)
    shared.set_clocks({"gpu": float(TOP_HZ)})
    shared.start("app", ENTRY, 1.0, 0.0)
    assert shared.ready_s == pytest.approx(0.050)
    shared.progress(0.025)
    shared.set_clocks({"gpu": float(HALF_HZ)})
    shared.retime()
    slow_s = 1e-3 * (30.0 + 20.0 * TOP_HZ / HALF_HZ)
    assert shared.ready_s == pytest.approx(0.025 + 0.5 * slow_s)


def test_jobs_that_overlap_slow_each_other_and_load_from_outside_does_too() -> None:
    shared = SharedProcessor(default_board(), "gpu", 0.5)
    shared.set_clocks({"gpu": float(TOP_HZ)})
    shared.start("one", ENTRY, 1.0, 0.0)
    shared.start("two", ENTRY, 1.0, 0.025)
    # Half of the first is left, at 1 / 1.5 of the speed; then the second has its rest alone.
    assert shared.ready_s == pytest.approx(0.025 + 0.0375)
    shared.finish(shared.jobs[0], shared.ready_s)
    assert shared.ready_s == pytest.approx(0.025 + 0.0375 + 0.025)
    shared.slowdown = 2.0
    shared.retime()
    assert shared.ready_s == pytest.approx(0.025 + 0.0375 + 0.050)


def test_fewer_cores_and_no_core() -> None:
    shared = SharedProcessor(default_board(), "cpu", 0.0)
    entry = replace(ENTRY, processor="cpu", reference_frequencies=CPU_REFERENCE)
    shared.set_clocks({"cpu0": 1.9072e9, "cpu2": 1.9072e9, "cpu4": 0.0})
    shared.start("app", entry, 1.0, 0.0)
    assert shared.ready_s == pytest.approx(1e-3 * (30.0 + 20.0 * 1.5**0.5))
    shared.set_clocks(dict.fromkeys(("cpu0", "cpu2", "cpu4"), 0.0))
    shared.retime()
    assert shared.ready_s == inf


def test_a_queue_of_one_keeps_the_newest_frame() -> None:
    run = simulate(scene_of(app(rate=30.0, latency_ms=200.0)), Script(), 0)
    dropped = [f for f in run.frames if not isfinite(f.latency_ms)]
    assert dropped and all(f.missed and not f.thinned for f in dropped)
    answered = [f for f in run.frames if isfinite(f.latency_ms)]
    assert len(answered) == pytest.approx(4.0 / 0.053, abs=2)
    assert len({f.index for f in run.frames}) == len(run.frames)
    assert sum(f.monitor.dropped_frames for f in answered if f.monitor) == pytest.approx(len(dropped), abs=2)


def test_a_lower_rate_thins_frames_out_and_they_count_as_missed() -> None:
    run = simulate(
        scene_of(app(rate=10.0)),
        Script({0.0: Command({"app": SubnetCommand(0, "net", "gpu", rate_hz=5.0)})}),
        0,
    )
    thinned = [f for f in run.frames if f.thinned]
    assert len(thinned) == pytest.approx(20, abs=1)
    assert all(f.missed for f in thinned)


def test_a_prepared_network_is_taken_at_once_and_another_one_waits() -> None:
    orders = {
        1.0: Command({"app": SubnetCommand(0, "small", "gpu")}, decision_id=7),
        2.0: Command({"app": SubnetCommand(0, "net", "gpu")}, decision_id=8),
    }
    policy = Script(orders)
    run = simulate(scene_of(app()), policy, 0)
    times = [at_s for at_s, _, knob in run.knobs if knob.subnet_id == "small"]
    assert times == pytest.approx([1.0 + 0.001 + 0.06])
    back = [at_s for at_s, _, knob in run.knobs if knob.subnet_id == "net"]
    assert back[-1] == pytest.approx(2.001)
    states = [m for m in policy.messages(SubnetState) if isinstance(m, SubnetState)]
    assert [(s.decision_id, s.status) for s in states] == [
        (0, SubnetCondition.APPLIED),
        (7, SubnetCondition.PENDING),
        (7, SubnetCondition.APPLIED),
        (8, SubnetCondition.APPLIED),
    ]
    monitors = [m for m in policy.messages(InferenceMonitor) if isinstance(m, InferenceMonitor)]
    assert [m.decision_id for m in monitors] == sorted(m.decision_id for m in monitors)


def test_an_unknown_network_is_refused() -> None:
    policy = Script({1.0: Command({"app": SubnetCommand(0, "nothing", "gpu")}, decision_id=3)})
    run = simulate(scene_of(app()), policy, 0)
    assert any(m.status == SubnetCondition.REJECTED for m in policy.messages(SubnetState))  # type: ignore[attr-defined]
    assert {f.subnet_id for f in run.frames} == {"net"}


def test_a_knob_of_a_clairvoyant_acts_at_once() -> None:
    policy = Script({1.0: Command({"app": SubnetCommand(0, "small", "gpu")})}, clairvoyant=True)
    run = simulate(scene_of(app()), policy, 0)
    assert policy.truth is not None and policy.truth.slowdown("app", "gpu") == 1.0
    assert [at_s for at_s, _, knob in run.knobs if knob.subnet_id == "small"] == pytest.approx([1.0])


def test_others_know_nothing() -> None:
    policy = Script()
    simulate(scene_of(app()), policy, 0)
    assert policy.truth is None


def test_the_energy_is_that_of_the_device() -> None:
    run = simulate(scene_of(app()), Script(), 0)
    assert run.samples[-1].at_s == 4.0
    assert 4.0 * 2.0 < run.samples[-1].cpu_gpu_j + 4.0 * 2.0 < run.samples[-1].energy_j < 4.0 * 20.0
    busier = simulate(scene_of(app(rate=15.0)), Script(), 0)
    assert busier.samples[-1].energy_j > run.samples[-1].energy_j


def test_a_power_cap_is_judged_from_the_instant_it_holds() -> None:
    change = NewParameters(1.05, Parameters(power_cap_w=1.0))
    run = simulate(scene_of(app(), timeline=(change,)), Script(), 0)
    assert next(s.at_s for s in run.samples if isfinite(s.cap_w)) == pytest.approx(1.05)
    assert cap_violation(run.samples)["cap_violation_s"] == pytest.approx(2.95)


def test_decisions_are_steps_and_answers_that_turn_a_knob() -> None:
    policy = Script(period_s=1.0)
    run = simulate(scene_of(app()), policy, 0)
    assert len(run.decisions_s) == len(policy.seen) and run.manager_s >= sum(run.decisions_s) > 0.0
    policy = Script(period_s=1.0)
    policy.on_frame = lambda frame: Command({"app": SubnetCommand(0, "net", "gpu")})  # type: ignore[method-assign]
    run = simulate(scene_of(app()), policy, 0)
    assert len(run.decisions_s) == len(policy.seen) + len(run.frames)


def changed(run: Run, from_s: float, until_s: float) -> set[float]:
    return {round(f.latency_ms, 3) for f in run.frames if from_s + 0.2 < f.arrived_s < until_s - 0.1}


def test_load_comes_and_goes() -> None:
    timeline = (Load(1.0, "gpu", 0.3, 0.5), Load(2.0, "gpu", 0.0, 0.0))
    run = simulate(scene_of(app(), timeline=timeline), Script(), 0)
    assert changed(run, 0.2, 1.0) == changed(run, 2.0, 4.0) == {53.0}
    assert changed(run, 1.0, 2.0) == {78.0}


def test_a_mode_caps_clocks_and_is_published() -> None:
    policy = Script()
    run = simulate(scene_of(app(), timeline=(NewMode(1.0, "MODE_10W_4CORE"),)), policy, 0)
    assert changed(run, 1.0, 4.0) == {round(3.0 + 30.0 + 20.0 * TOP_HZ / 803_250_000, 3)}
    at_s, observation = next((t, o) for t, o in policy.seen if t >= 1.0 and o.trigger == "event")
    assert at_s == pytest.approx(1.0, abs=0.021)
    offered = {d.domain: d.frequencies_hz for d in observation.capabilities.domains}
    assert max(offered["gpu"]) == 803_250_000 and "cpu4" not in offered


def test_the_mode_of_a_policy_holds_where_it_is_stricter() -> None:
    policy = Script(first=Command(governors={"gpu": "performance"}, mode="MODE_10W_4CORE"))
    run = simulate(scene_of(app(), timeline=(NewMode(1.0, "MODE_15W_6CORE"),)), policy, 0)
    assert max(hz for _, domain, hz in run.clocks if domain == "gpu") == 803_250_000


def test_a_reserved_processor_is_withdrawn_and_slow() -> None:
    policy = Script()
    cpu = replace(ENTRY, id="cpu_net", processor="cpu", reference_frequencies=CPU_REFERENCE)
    scene = scene_of(
        app(library=(ENTRY, OTHER, cpu), latency_ms=300.0, rate=4.0), timeline=(Reserved(1.0, 2.0, "gpu"),)
    )
    run = simulate(scene, policy, 0)
    assert changed(run, 1.0, 2.0) == {203.0} and changed(run, 2.2, 4.0) == {53.0}
    libraries = [m for m in policy.messages(SubnetLibrary) if isinstance(m, SubnetLibrary)]
    assert [{e.processor for e in m.entries} for m in libraries] == [{"cpu", "gpu"}, {"cpu"}, {"cpu", "gpu"}]


def test_targets_count_from_when_they_change() -> None:
    policy = Script()
    scene = scene_of(app(), timeline=(NewTargets(2.0, targets("app", 5.0, 50.0, 0.7)),))
    run = simulate(scene, policy, 0)
    assert {f.missed for f in run.frames if f.arrived_s < 1.9} == {False}
    assert {f.missed for f in run.frames if f.arrived_s > 2.0} == {True}
    assert any(o.trigger == "event" and abs(t - 2.0) < 0.021 for t, o in policy.seen)


def test_an_application_that_leaves_is_gone() -> None:
    policy = Script()
    run = simulate(scene_of(app(), app("late", from_s=1.0, until_s=2.0)), policy, 0)
    late = [f for f in run.frames if f.app == "late"]
    assert len(late) >= 4 and all(1.0 <= f.arrived_s < 2.0 for f in late)
    assert [m.app for m in policy.messages(Departure)] == ["late"]  # type: ignore[attr-defined]
    assert {name for t, o in policy.seen if t > 2.05 for name in o.apps} == {"app"}


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("frozen_monitors", lambda p, run: len({f.index for f in p.frames}) == len(run.frames) - 9),
        ("manager_paused", lambda p, run: not [t for t, _ in p.seen if 1.0 <= t < 2.9]),
        ("no_temperature", lambda p, run: 0 < sum(_blind(m) for m in p.messages(DeviceTelemetry)) <= 21),
        ("ignored_clocks", lambda p, run: max(hz for _, d, hz in run.clocks if d == "gpu") == TOP_HZ),
    ],
)
def test_faults(kind: str, check: Callable[[Script, Run], bool]) -> None:
    order = Command(bands=(FrequencyBand("gpu", HALF_HZ, HALF_HZ),))
    policy = Script({1.5: order} if kind == "ignored_clocks" else {})
    run = simulate(scene_of(app(), timeline=(Fault(1.0, 3.0, kind),)), policy, 0)  # type: ignore[arg-type]
    assert check(policy, run)
    if kind == "ignored_clocks":
        assert latencies(run)[-1] == pytest.approx(53.0, abs=1e-6)


def _blind(message: object) -> bool:
    return isinstance(message, DeviceTelemetry) and not any(
        isfinite(t.temperature_c) for t in message.temperatures
    )


def test_heat_follows_the_surroundings() -> None:
    hot = simulate(scene_of(app(), timeline=(Surroundings(0.5, 60.0, 3.0),), duration_s=20.0), Script(), 0)
    cool = simulate(scene_of(app(), duration_s=20.0), Script(), 0)
    assert hot.samples[-1].temperature_c > cool.samples[-1].temperature_c + 3.0


@pytest.mark.parametrize("policy", ["ours", "B4", "B6", "B9", "O1q"])
def test_a_run_is_the_same_every_time(policy: str) -> None:
    scene = replace(scenes(["S4"])[0], duration_s=6.0)

    def once() -> object:
        run = simulate(scene, make_policy(policy), 1)
        return repr((run.frames, run.samples, run.knobs, run.clocks, run.bands))

    assert once() == once()


def test_policies_meet_the_same_noise() -> None:
    scene = replace(scenes(["S1"])[0], duration_s=6.0)
    performance = {f.index: f.inference_ms for f in simulate(scene, make_policy("B1"), 2).frames}
    vision_app = vision(targets("camera", 10.0, 100.0, 0.76), start="published_6_0")
    other = simulate(replace(scene, apps=(vision_app,)), make_policy("B1"), 2).frames
    ratios = {round(performance[f.index] / f.inference_ms, 6) for f in other if f.index > 1}
    assert ratios == {round(61.73 / 41.16, 6)}
