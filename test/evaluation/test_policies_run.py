"""Every policy in the simulator: it keeps to its knobs, answers frames, and does the same twice."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import pytest

from dynofa_ros.evaluation.drawn import drawn_scene
from dynofa_ros.evaluation.policies import POLICIES, make_policy
from dynofa_ros.evaluation.policies.constants import DEFAULT, KNOBS
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.policies.oracles import Oracle
from dynofa_ros.evaluation.policies.profile import static_entry, twin
from dynofa_ros.evaluation.scenarios import scenes
from dynofa_ros.evaluation.score import energy_between
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Monitors
from dynofa_ros.simulation.application import default_entry
from dynofa_ros.simulation.policy import Command, Observation
from dynofa_ros.simulation.scene import NONE, Load, NewTargets, Scene
from dynofa_ros.simulation.simulator import Run, simulate

PAIR = replace(scenes(["S4"])[0], timeline=(), duration_s=6.0)
STEADY = replace(scenes(["S1"])[0], duration_s=8.0)


def eventful(scene: Scene) -> Scene:
    """A tighter deadline after a third of the time and a background load after two."""
    targets = replace(scene.apps[0].targets, latency_target_ms=0.7 * scene.apps[0].targets.latency_target_ms)
    changes = (NewTargets(2.0, targets), Load(4.0, "gpu", 0.3, 0.2))
    return replace(scene, timeline=changes)


def used(run: Run) -> tuple[set[str], set[str]]:
    """Sub-networks and processors that answered, the first second left out."""
    frames = [f for f in run.frames if isfinite(f.latency_ms) and f.arrived_s > 1.0]
    return {f.subnet_id for f in frames}, {f.processor for f in frames}


def pinned(run: Run) -> set[str]:
    """Domains whose clock was commanded."""
    return {domain for _, domain, low, high in run.bands if low == high}


def misses(run: Run) -> float:
    late = [f.missed for f in run.frames if f.arrived_s > 1.0]
    return sum(late) / len(late)


def energy(run: Run) -> float:
    return run.samples[-1].energy_j


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_runs_and_repeats_itself(name: str) -> None:
    scene = eventful(PAIR)
    one, two = (simulate(scene, make_policy(name), 3) for _ in range(2))
    assert one.policy == name and POLICIES[name][1]
    assert one.frames and any(isfinite(f.latency_ms) for f in one.frames)
    assert repr(one.frames) == repr(two.frames)
    assert (one.clocks, one.bands) == (two.clocks, two.bands)
    assert repr(one.knobs) == repr(two.knobs)
    assert one.samples == two.samples


@pytest.mark.parametrize("name", list(DEFAULT))
def test_the_knob_of_a_policy_goes_from_thrifty_to_careful(name: str) -> None:
    knob, meaning, values = KNOBS[name]
    scene = replace(STEADY, apps=(replace(STEADY.apps[0], start="s14_r192"),))
    thrifty, careful = (
        simulate(scene, make_policy(name, **{knob: value}), 0) for value in (values[0], values[-1])
    )
    assert DEFAULT[name] in values and meaning
    assert misses(thrifty) >= misses(careful)
    assert energy(thrifty) < energy(careful) or name == "B6"  # whose first 21 frames say nothing
    itself = simulate(scene, make_policy(name, **{knob: DEFAULT[name]}), 0)
    if name != "B10":  # whose margin by itself depends on the noise of the scene
        assert itself.samples == simulate(scene, make_policy(name), 0).samples


def test_an_unknown_policy_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="unknown policy 'B99' .known: ours"):
        make_policy("B99")


@pytest.mark.parametrize(
    ("name", "subnets", "clocks", "processors"),
    [
        ("ours", True, True, True),
        ("ours_subnet", True, False, False),
        ("ours_dvfs", False, True, False),
        ("ours_mapping", False, False, True),
        ("B7", True, False, False),
        ("B8", False, True, True),
        ("B1", False, False, False),
        ("B4", False, False, False),
        ("B6", True, False, False),
    ],
)
def test_a_policy_turns_only_the_knobs_that_it_has(
    name: str, subnets: bool, clocks: bool, processors: bool
) -> None:
    scene = replace(scenes(["S2"])[0], duration_s=20.0)
    run = simulate(scene, make_policy(name), 0)
    ids, places = used(run)
    if not processors:
        assert places == {"cpu"}
    if not clocks:
        assert not pinned(run)
    if not subnets:
        allowed = {static_entry(scene, scene.apps[0]).id}
        static = static_entry(scene, scene.apps[0])
        for processor in ("gpu", "npu"):
            other = twin(static, [e for e in scene.apps[0].library if e.processor == processor])
            allowed |= {other.id} if other else set()
        assert ids <= allowed
    if processors:
        assert places - {"cpu"}  # at 1 Hz two networks overload the CPU: it moves them


def test_ours_is_the_manager_fed_with_all_messages() -> None:
    """The same inputs by hand give the same decisions: the wrapper adds and removes nothing."""
    seen: list[tuple[float, Observation]] = []

    class Listening(ManagerPolicy):
        def step(self, now_s: float, observation: Observation) -> Command | None:
            seen.append((now_s, observation))
            command = super().step(now_s, observation)
            decisions.append(self.decision)
            return command

    decisions: list[object] = []
    simulate(eventful(PAIR), Listening(), 1)
    kinds = {type(item.message).__name__ for _, o in seen for item in o.inputs}
    assert kinds >= {"AppTargets", "SubnetLibrary", "InferenceMonitor", "DeviceTelemetry"}
    assert kinds >= {"DeviceCapabilities", "DvfsState", "PowerModel"}
    manager = RuntimeManager()
    again = [manager.step(round(t * 1e9), Monitors(o.inputs, o.parameters)) for t, o in seen]
    assert again == decisions
    periods = [b - a for (a, _), (b, _) in zip(seen, seen[1:], strict=False)]
    assert max(periods) == pytest.approx(0.2) and {o.trigger for _, o in seen} == {"periodic", "event"}


def test_the_static_choice_meets_the_deadline_and_the_mode() -> None:
    app = STEADY.apps[0]
    assert static_entry(STEADY, app).id == "published_6_5"
    tight = replace(app, targets=replace(app.targets, latency_target_ms=60.0))
    assert static_entry(STEADY, tight).accuracy < static_entry(STEADY, app).accuracy
    hopeless = replace(app, targets=replace(app.targets, latency_target_ms=1.0))
    floor = [e for e in app.library if e.processor == "gpu" and e.accuracy >= 0.76]
    assert static_entry(STEADY, hopeless) == min(floor, key=lambda e: e.latency_ms)
    slow = static_entry(STEADY, tight, "MODE_10W_4CORE")
    assert slow.accuracy <= static_entry(STEADY, tight).accuracy
    assert static_entry(STEADY, replace(app, start="published_6_2")).id == "published_6_2"
    assert default_entry(app).latency_ms <= 80.0
    with pytest.raises(ValueError, match="nothing for 'dsp'"):
        static_entry(STEADY, replace(app, mapping="dsp"))


def test_governors_order_the_energy() -> None:
    runs = {name: simulate(STEADY, make_policy(name), 0) for name in ("B1", "B2", "B3", "B4", "B5_10w")}
    assert energy(runs["B2"]) < energy(runs["B5_10w"]) < energy(runs["B4"]) < energy(runs["B1"])
    assert misses(runs["B1"]) <= 0.02 and misses(runs["B2"]) == 1.0


def test_oracles_refuse_to_work_blind() -> None:
    with pytest.raises(ValueError, match="O1q needs the ground truth"):
        Oracle().start(STEADY, None)


def test_without_noise_nobody_beats_the_oracle() -> None:
    """At (nearly) no misses, no policy may need less energy than O1q: it would not be an oracle."""
    scene = replace(STEADY, noise=NONE, bias=0.0)
    oracle = simulate(scene, make_policy("O1q"), 0)
    assert misses(oracle) == 0.0
    for name in POLICIES:
        run = simulate(scene, make_policy(name), 0)
        accurate = min(f.accuracy for f in run.frames if isfinite(f.latency_ms))
        if misses(run) == 0.0 and accurate >= 0.76:
            assert energy(run) >= energy(oracle) * 0.999, name


@pytest.mark.parametrize("name", ["S1", "S1 D70", "S1 D150"])
def test_without_noise_ours_is_within_a_percent_of_the_oracle(name: str) -> None:
    """Headroom, dwell times and trials together cost no more, the first second left out."""
    scene = replace(next(s for s in scenes(["S1"]) if s.name == name), noise=NONE, bias=0.0)
    ours, oracle = (
        energy_between(simulate(scene, make_policy(policy), 0).samples, 1.0, scene.duration_s)
        for policy in ("ours", "O1q")
    )
    assert ours <= 1.01 * oracle


def test_rivals_that_share_a_processor_run_at_the_higher_of_their_clocks() -> None:
    policy = make_policy("B9")
    simulate(PAIR, policy, 0)
    members = policy._members  # type: ignore[attr-defined]
    assert policy._levels["gpu"] == max(m.instance.place[1] for m in members.values())  # type: ignore[attr-defined]


def test_rivals_move_only_when_their_processor_is_gone() -> None:
    scene = replace(scenes(["S11"])[0], duration_s=25.0)
    for name in ("B9", "B10"):
        run = simulate(scene, make_policy(name), 0)
        before = {f.processor for f in run.frames if f.arrived_s < 14.0}
        during = {f.processor for f in run.frames if f.arrived_s > 18.0}
        assert before == {"gpu"} and "gpu" not in during


@pytest.mark.parametrize(("number", "most"), [(7, 0.10), (26, 0.13)])
def test_frames_that_outlast_their_period_raise_a_clock_or_are_thinned(number: int, most: float) -> None:
    """With a deadline longer than the period a backlog of frames grows that no single time shows."""
    frames = simulate(drawn_scene(number, "practice"), make_policy("ours"), seed=0).frames
    assert sum(frame.missed for frame in frames) < most * len(frames)
