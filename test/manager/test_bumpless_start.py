"""A manager that starts on a robot which another one has set up leaves the knobs alone at first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from simulated_robot import MS, SECOND, Plant, PlantApp, make_library, miss_share

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.bumpless_start import BUMPLESS_NS
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import (
    AppTargets,
    SubnetCondition,
    SubnetState,
)

TAKEOVER_S = BUMPLESS_NS / SECOND


@dataclass
class LatchedPlant(Plant):
    """A plant whose manager can be replaced by a new one."""

    def restart_manager(self, *order: str) -> int:
        """The manager is killed; a new one hears what is latched, part by part. Returns the time."""
        self.run(0.001)  # apart from the last step of the old one
        self.manager = RuntimeManager()
        self.inbox.clear()
        start_ns = self.now_ns
        for part in order or ("device and apps",):
            if "device" in part:
                self.announce_device()
            for app in self.apps if "apps" in part else ():
                self.announce(app)
            self.step()
            self.run(0.3 if order else 0.0)
        return start_ns

    def since(self, start_ns: int) -> list[Decision]:
        return [d for d in self.decisions if d.step_time >= start_ns]


def make(*names: str) -> LatchedPlant:
    wanted = AppTargets("", 75.0, 0.77, 0.72, 7.0, 0.01)
    apps = [PlantApp(replace(wanted, app=name), make_library(name, 10, 40.0), 7.0) for name in names]
    return LatchedPlant(RuntimeManager(), apps, noise=0.08)


def knobs(decision: Decision) -> tuple[object, ...]:
    return [(a.app, a.subnet_id, a.processor) for a in decision.apps], decision.bands


@pytest.mark.parametrize("names", [("front",), ("front", "rear")])
@pytest.mark.parametrize("seed", range(5))
def test_no_knob_moves_after_a_restart(names: tuple[str, ...], seed: int) -> None:
    plant = replace(make(*names), seed=seed)
    plant.run(10.0)
    before = knobs(plant.decisions[-1])
    start_ns = plant.restart_manager()
    assert knobs(plant.decisions[-1]) == before, "the first decision"
    plant.run(TAKEOVER_S - 0.1)
    missed_ns = min(
        (f.time_ns for f in plant.frames if f.missed and f.time_ns > start_ns), default=plant.now_ns
    )
    quiet = [d for d in plant.since(start_ns) if d.step_time < missed_ns]
    assert all(knobs(d) == before for d in quiet)
    assert [d for d in quiet if d.dvfs is not None and d.commands], "renewed before it lapses"


@pytest.mark.parametrize("order", [("device", "apps"), ("apps", "device")])
def test_whoever_is_heard_first(order: tuple[str, ...]) -> None:
    plant = make("front", "rear")
    plant.now_ns += 1_795_272_682_274 * MS  # a time of today, which a float does not hold to the nanosecond
    plant.run(10.0)
    before = knobs(plant.decisions[-1])
    start_ns = plant.restart_manager(*order)
    plant.run(1.0)
    found = [knobs(d) for d in plant.since(start_ns) if d.apps]
    assert set(map(str, found)) == {str(before)}


def test_without_a_device_sub_networks_are_managed_after_a_while() -> None:
    plant = make("front")
    plant.run(10.0)
    start_ns = plant.restart_manager("apps")
    plant.run(TAKEOVER_S + 1.0)
    first = next(d for d in plant.since(start_ns) if d.apps)
    assert first.step_time - start_ns <= 2.3 * SECOND and first.bands == ()


def test_a_robot_without_a_manager_is_planned_by_the_usual_way() -> None:
    plant = make("front")
    plant.run(10.0)
    fresh = knobs(plant.decisions[-1])
    plant.simulation.forget_commands()
    plant.apps[0].node.decision_id = 0
    plant.restart_manager()
    assert plant.decisions[-1].apps, "planned at once, from the library"
    plant.run(10.0)
    assert knobs(plant.decisions[-1])[0] == fresh[0]


@pytest.mark.parametrize("what", ["miss", "targets", "parameter", "cap"])
def test_a_reason_to_act_ends_the_bumpless_start(what: str) -> None:
    plant = make("front")
    plant.run(10.0)
    before = knobs(plant.decisions[-1])
    plant.restart_manager()
    plant.run(0.3)
    assert knobs(plant.decisions[-1]) == before
    app = plant.apps[0]
    if what == "miss":
        plant.slowdown = 2.0
        plant.run(0.8)
    elif what == "targets":
        plant.retarget(app, replace(app.targets, latency_target_ms=30.0))
    else:
        values = {"objective": "energy"} if what == "parameter" else {"power_cap_w": 3.5}
        plant.set_parameters(replace(plant.parameters, **values))
    assert knobs(plant.decisions[-1]) != before


def test_load_that_the_library_does_not_tell_of_is_no_reason_while_deadlines_hold() -> None:
    plant = make("front")
    plant.slowdown = 1.5
    plant.run(10.0)
    before = knobs(plant.decisions[-1])
    start_ns = plant.restart_manager()
    plant.run(TAKEOVER_S - 0.1)
    assert not any(f.missed for f in plant.frames if f.time_ns > start_ns)
    assert {str(knobs(d)) for d in plant.since(start_ns)} == {str(before)}


def test_it_goes_on_as_ever_afterwards() -> None:
    plant = make("front")
    plant.run(10.0)
    plant.restart_manager()
    plant.run(TAKEOVER_S + 8.0)
    before = knobs(plant.decisions[-1])
    plant.slowdown = 1.4
    plant.run(8.0)
    assert knobs(plant.decisions[-1]) != before
    assert miss_share(plant.frames, plant.now_ns - 4 * SECOND, plant.now_ns) < 0.1


def test_a_plan_that_names_something_unknown_is_not_taken_over() -> None:
    plant = make("front")
    plant.run(10.0)
    last_id = plant.decisions[-1].decision_id
    plant.apps[0] = PlantApp(plant.apps[0].targets, make_library("front", 5, 40.0), 7.0, start="s3")
    plant.add(plant.apps[0])
    plant.restart_manager()
    state = SubnetState(last_id, "s9", "cpu", SubnetCondition.APPLIED)
    plant.send("perception/front/subnet_state", state)
    plant.run(3.0)
    assert plant.decisions[-1].apps[0].subnet_id in {"s0", "s1", "s2", "s3", "s4"}


def test_the_same_inputs_give_the_same_bumpless_start() -> None:
    plant = make("front")
    plant.run(8.0)
    start_ns = plant.restart_manager()
    plant.run(4.0)
    again = RuntimeManager()
    for (now_ns, monitors), decision in zip(plant.steps, plant.decisions, strict=True):
        if now_ns < start_ns or decision.step_number > len(plant.since(start_ns)):
            continue
        repeated = again.step(now_ns, monitors)
        assert replace(repeated, compute_ms=0.0) == replace(decision, compute_ms=0.0)
