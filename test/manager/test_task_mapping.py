"""Placement on CPU clusters and numbers of threads as part of the operating point."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from manager_problems import brute_force, calm, mapped, random_demands, solved
from simulated_robot import published

from dynofa_ros.device.board import load_board
from dynofa_ros.latency import core_share
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.alternatives import alternatives
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.commands import AppCommand
from dynofa_ros.manager.grid import asked, make_grid
from dynofa_ros.manager.hysteresis import HEADROOM
from dynofa_ros.manager.inputs import Departure, Input, Monitors, Parameters
from dynofa_ros.manager.ladder import allocate
from dynofa_ros.manager.many import allocate_any
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import forecast, make_plan
from dynofa_ros.manager.problem import DIVIDERS, Demand, Problem
from dynofa_ros.manager.refusals import SHOWN_S
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.manager.solver import best_for
from dynofa_ros.manager.state import State
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DomainCapability,
    DomainFrequency,
    InferenceMonitor,
    SubnetCondition,
    SubnetEntry,
    SubnetLibrary,
    SubnetState,
)

INSTANCES = 500


def threads_of(problem: Problem) -> set[int]:
    return {e.threads for app in problem.apps for table in app.tables.values() for e in table.entries}


def test_the_allocator_equals_brute_force_over_clusters_and_threads() -> None:
    outcomes = {"feasible": 0, "infeasible": 0, "several": 0, "more than least": 0}
    for seed in range(INSTANCES):
        problem = mapped(seed)
        rng = np.random.default_rng(10_000 + seed)
        demands = random_demands(problem, rng)
        headroom = float(rng.choice([1.0, 0.9]))
        rules = {
            "power": bool(rng.random() < 0.8),
            "load": bool(rng.random() < 0.9),
            "background": bool(rng.random() < 0.5),
        }
        expected = brute_force(problem, demands, headroom=headroom, **rules)
        point = solved(problem, demands, headroom, **rules)
        outcomes["feasible" if expected < inf else "infeasible"] += 1
        outcomes["several"] += len(threads_of(problem)) > 2
        assert (point is None) == (expected == inf), seed
        if point is not None:
            assert point.power_w == pytest.approx(expected, rel=1e-12), seed
            outcomes["more than least"] += any(point.modes)
    assert min(outcomes.values()) > 60, outcomes


def test_the_most_for_one_application_equals_brute_force_over_clusters_and_threads() -> None:
    some = 0
    for seed in range(100):
        problem = mapped(seed)
        rng = np.random.default_rng(30_000 + seed)
        demands = random_demands(problem, rng)
        app, relaxed = int(rng.integers(len(problem.apps))), bool(rng.random() < 0.2)
        expected = None
        for divider in DIVIDERS:
            for level in range(len(problem.apps[app].accuracies)):
                tried = list(demands)
                tried[app] = Demand(level, divider, relaxed)
                if expected is None and brute_force(problem, tuple(tried)) < inf:
                    expected = divider, level
        with np.errstate(all="ignore"):
            found = best_for(make_grid(problem, 1.0), asked(demands), app, DIVIDERS, relaxed=relaxed)
        assert found == expected, seed
        some += found is not None
    assert 30 < some < 98, some


def test_a_plan_is_forecast_as_the_solver_priced_it() -> None:
    checked = clustered = 0
    for seed in range(200):
        problem = calm(mapped(seed))
        outcome = allocate(problem)
        plan = make_plan(problem, outcome)
        expected = forecast(problem, plan)
        assert expected.power_w == pytest.approx(outcome.point.power_w, rel=1e-12), seed
        if outcome.feasible:
            assert expected.sound or expected.excess_w, seed
            checked += 1
        for other in alternatives(problem, plan, forecast(problem, plan, headroom=HEADROOM), "power_cap"):
            assert other.processor in ("cpu", "gpu"), "a message names processors"
            tables = next(app.tables for app in problem.apps if app.name == other.app)
            assert any(e.id == other.subnet_id for e in tables[place_of(other)].entries)
            clustered += bool(other.cluster)
    assert checked > 60 and clustered > 60


def test_pins_hold_with_threads() -> None:
    for seed in range(60):
        problem = calm(mapped(seed))
        names = [p.name for p in problem.processors]
        able = [
            sorted(n for n in app.tables if np.isfinite(app.menu.unit_ms(n)).any(axis=-1).any())
            for app in problem.apps
        ]
        pins = tuple(names.index(places[-1]) for places in able)
        try:
            outcome = allocate(problem, pins=pins)
        except ValueError:
            continue
        assert outcome.point.mapping == tuple(names[pin] for pin in pins)
        free = allocate_any(problem, most=1, mapping=[names[p] for p in pins])
        assert forecast(problem, make_plan(problem, free)).applicable


# --- which way the CPU is used ------------------------------------------------------------------------


def entry(name: str, processor: str = "cpu", cluster: str = "", threads: int = 0) -> SubnetEntry:
    return SubnetEntry(name, processor, 0.7, 20.0, 2.0, 18.0, threads=threads, cluster=cluster)


def world(*libraries: tuple[SubnetEntry, ...], cpus: bool = True) -> tuple[State, list[AppState]]:
    known = State()
    domains = [
        DomainCapability(name, (500_000_000, 1_000_000_000), cpus=own if cpus else ())
        for name, own in (("cpu0", (0, 1)), ("cpu2", (2, 3)), ("gpu", ()))
    ]
    messages = [DeviceCapabilities("b", tuple(domains), ("cpu", "gpu"))]
    for n, entries in enumerate(libraries):
        messages += [AppTargets(f"app{n}", 100.0), SubnetLibrary(f"app{n}", entries)]
    for n, message in enumerate(messages):
        known.consume(Input("t", n + 1, message), 0, Parameters(), True)
    apps = list(known.apps.values())
    known.arrange(apps)
    return known, apps


CLUSTERED = (entry("a", cluster="cpu0", threads=1), entry("a", cluster="cpu2", threads=2))
WHOLE = (entry("b"), entry("b", "gpu"))


def test_the_cpu_is_used_by_clusters_where_a_library_names_them() -> None:
    known, (first, second) = world(CLUSTERED, WHOLE)
    assert known.clusters == {"cpu0", "cpu2"} and known.clocks_of("cpu2").cores == 2
    assert first.named_processors == {"cpu0", "cpu2"}
    assert second.named_processors == {"gpu"}, "what it costs the clusters is not known"
    assert "app1: entries of the whole CPU are left out: libraries name its clusters" in known.refusals.last
    assert known.refusals.counts["library"] == 1
    known.arrange([first, second])
    assert known.refusals.counts["library"] == 1, "said once"
    assert {d: known.place(d) for d in ("cpu0", "gpu", "emc")} == {"cpu0": "cpu0", "gpu": "gpu", "emc": None}


def test_the_cpu_is_used_as_a_whole_where_somebody_could_not_run_otherwise() -> None:
    known, (first, second) = world((*CLUSTERED, entry("a", "gpu")), WHOLE[:1])
    assert known.clusters == frozenset()
    assert (first.named_processors, second.named_processors) == ({"gpu"}, {"cpu"})
    assert "entries of clusters cpu0, cpu2 are left out" in known.refusals.last
    known.consume(Input("t", 9, Departure("app1")), 0, Parameters(), True)
    known.arrange([first])
    known.refusals.elapse(SHOWN_S + 1.0)
    assert known.clusters and known.refusals.last == "", "what was said of the first one is over"
    known, (first, second) = world(CLUSTERED, WHOLE[:1])
    assert known.clusters and second.named_processors == frozenset(), "no way for both"


def test_clusters_whose_cpus_nobody_knows_cannot_be_used() -> None:
    known, (first,) = world((*CLUSTERED, entry("a", "gpu")), cpus=False)
    assert known.clusters == frozenset() and first.named_processors == {"gpu"}
    assert "the device does not know their CPUs" in known.refusals.last


def test_a_cluster_that_is_refused_twice_is_given_up_until_the_device_changes() -> None:
    known, (app,) = world((*CLUSTERED, entry("a", cluster="cpu0", threads=2), entry("a", "gpu")))
    app.refused.add(("a", "cpu", "cpu0", 1))
    assert {e.threads for e in app.usable if e.cluster == "cpu0"} == {2}
    app.refused.add(("a", "cpu", "cpu0", 2))
    assert app.named_processors == {"cpu2", "gpu"}
    assert known.capabilities is not None
    changed = replace(known.capabilities, domains=known.capabilities.domains[:2])
    known.consume(Input("c", 99, changed), 0, Parameters(), True)
    assert "cpu0" in app.named_processors


def test_names_and_shares() -> None:
    assert place_of(entry("a")) == "cpu" and place_of(entry("a", cluster="cpu4")) == "cpu4"
    assert [core_share(*pair) for pair in ((1, 2), (2, 2), (4, 2), (0, 2), (2, 0))] == [0.5, 1, 1, 1, 1]


# --- what the manager commands --------------------------------------------------------------------------

SECOND = 1_000_000_000
TOP_HZ = 1_907_200_000


def measured(cluster: str, factor: float = 1.0) -> tuple[SubnetEntry, ...]:
    """Two sub-networks with one and two threads on a cluster of two cores."""
    reference = (DomainFrequency(cluster, TOP_HZ),)
    return tuple(
        SubnetEntry(
            f"s{n}", "cpu", accuracy, *(factor * share * ms * part for part in (1.0, 0.1, 0.9)),
            reference_frequencies=reference, threads=threads, cluster=cluster,
        )
        for threads, share in ((1, 1.0), (2, 0.64))
        for n, (accuracy, ms) in enumerate(((0.7, 40.0), (0.8, 80.0)))
    )  # fmt: skip


class Robot:
    """A manager on a Xavier NX whose CPU numbers are known, fed by hand."""

    def __init__(self, targets: dict[str, AppTargets], library: tuple[SubnetEntry, ...]) -> None:
        self.manager, self.now_ns, self._sequence = RuntimeManager(), SECOND, 0
        domains = tuple(
            DomainCapability(
                name,
                domain.frequencies_hz,
                can_write=name != "emc",
                cpus=tuple(range(int(name[3:]), int(name[3:]) + 2)) if name.startswith("cpu") else (),
            )
            for name, domain in load_board("xavier_nx").domains.items()
        )
        self.messages: list = [*published([DeviceCapabilities("xavier_nx", domains, ("cpu", "gpu", "npu"))])]
        for name, own in targets.items():
            state = SubnetState(0, "s0", "cpu", SubnetCondition.APPLIED, threads=1)
            self.messages += [own, SubnetLibrary(name, library), (name, state)]
        self.orders: dict[str, AppCommand] = {}

    def step(self, *messages, seconds: float = 0.2) -> Decision:
        self.messages += messages
        self.now_ns += int(seconds * SECOND)
        inputs = []
        for given in self.messages:
            self._sequence += 1
            app, message = given if isinstance(given, tuple) else ("front", given)
            inputs.append(Input(f"perception/{app}/t", self._sequence, message))
        self.messages = []
        decision = self.manager.step(self.now_ns, Monitors(tuple(inputs)))
        self.orders |= {c.app: c for c in decision.commands}
        return decision

    def frame(self, app: str, number: int, ms: float, **changes) -> InferenceMonitor:
        order = self.orders[app]
        monitor = InferenceMonitor(
            app, number, order.decision_id, order.subnet_id, order.processor, 0.0, 1.0, ms, 1.0, ms + 2.0,
            1000.0, False, threads=order.threads, cluster=order.cluster,
        )  # fmt: skip
        return replace(monitor, **changes)


def test_commands_and_decisions_name_cluster_threads_and_cpus() -> None:
    library = (*measured("cpu2"), *measured("cpu4"))
    robot = Robot({"front": AppTargets("front", 200.0, 0.8, 0.8, rate_hz=5.0)}, library)
    decision = robot.step()
    order, (app,) = robot.orders["front"], decision.apps
    assert order.cluster in ("cpu2", "cpu4") and order.processor == app.processor == "cpu"
    assert order.cpu_affinity == {"cpu2": (2, 3), "cpu4": (4, 5)}[order.cluster]
    assert (app.cluster, app.threads) == (order.cluster, order.threads) and order.threads in (1, 2)
    pinned = {b.domain for b in decision.bands if b.domain.startswith("cpu")}
    assert pinned == {order.cluster}, "the other clusters are left to their governor"


def test_threads_are_as_few_as_the_deadline_allows() -> None:
    chosen = {}
    for deadline_ms in (400.0, 70.0):
        targets = AppTargets("front", deadline_ms, 0.8, 0.8, rate_hz=4.0, miss_tolerance=0.05)
        robot = Robot({"front": targets}, measured("cpu0"))
        decision = robot.step()
        assert decision.feasible, deadline_ms
        chosen[deadline_ms] = robot.orders["front"].threads
    assert chosen[70.0] == 2, "80 ms with one thread is too late at any clock"
    robot = Robot({"front": AppTargets("front", 200.0, 0.8, 0.8, rate_hz=4.0)}, measured("cpu0"))
    one = tuple(e for e in measured("cpu0") if e.threads == 1)
    alone = Robot({"front": AppTargets("front", 200.0, 0.8, 0.8, rate_hz=4.0)}, one)
    assert robot.step().predicted_power_w <= alone.step().predicted_power_w + 1e-9


def test_what_is_measured_counts_for_its_place() -> None:
    library = (*measured("cpu0"), *measured("cpu2"))
    robot = Robot({"front": AppTargets("front", 200.0, 0.7, 0.7, rate_hz=5.0)}, library)
    robot.step()
    home = robot.orders["front"].cluster
    (expected,) = [e for e in library if (e.id, e.cluster, e.threads) == _named(robot.orders["front"])]
    for n in range(1, 12):
        robot.step(robot.frame("front", n, 2.0 * expected.latency_ms))
        robot.orders["front"] = replace(robot.orders["front"], cluster=home)
    app = robot.manager.state.apps["front"]
    assert app.estimator.known(home) and not app.estimator.known("cpu")
    rejected = robot.manager.state.refusals.counts["monitor"]
    robot.step(robot.frame("front", 20, 30.0, cluster="cpu4"))
    assert robot.manager.state.refusals.counts["monitor"] == rejected + 1
    assert "its library has no 's0' on 'cpu4'" in robot.manager.state.refusals.last


def test_a_pinned_sub_network_is_measured_though_it_names_no_cluster() -> None:
    """Only a command says which CPUs a cluster has, and who is pinned follows none."""
    library = (*measured("cpu0"), *measured("cpu2"))
    robot = Robot({"front": AppTargets("front", 100.0, 0.7, 0.7, rate_hz=5.0)}, library)
    pinned = SubnetState(0, "s0", "cpu", SubnetCondition.PINNED, threads=2)
    robot.step(pinned)
    robot.orders["front"] = AppCommand(0, "s0", "cpu", threads=2, app="front")
    state = robot.manager.state
    for n in range(1, 25):
        robot.step(robot.frame("front", n, 60.0))
        if n == 12:  # what the device says is waited for first
            refused = state.refusals.counts["monitor"]
    front = state.apps["front"]
    assert state.refusals.last == "" and state.refusals.counts["monitor"] == refused
    assert front.planned is not None and (front.planned.id, front.planned.threads) == ("s0", 2)
    assert front.estimator.known(front.planned.cluster) and not front.estimator.known("cpu")
    assert state.slowdown(front, front.planned.cluster) > 1.2, "60 ms are more than the library says"


def _named(order: AppCommand) -> tuple[str, str, int]:
    return order.subnet_id, order.cluster, order.threads


def test_a_cluster_that_a_node_refuses_is_planned_around() -> None:
    library = (*measured("cpu0"), *measured("cpu2", 1.3))
    robot = Robot({"front": AppTargets("front", 200.0, 0.7, 0.7, rate_hz=5.0)}, library)
    robot.step()
    refused = set()
    for _ in range(3):
        order = robot.orders["front"]
        if order.cluster != "cpu0":
            break
        refused.add(_named(order))
        state = SubnetState(order.decision_id, "s0", "cpu", SubnetCondition.REJECTED, threads=1, cluster="")
        robot.step(state)
        assert _named(robot.orders["front"]) not in refused
    assert robot.orders["front"].cluster == "cpu2" and len(refused) == 2


def test_two_applications_share_a_cluster_or_spread_as_it_costs_least() -> None:
    """Every plan is the least of all placements by the manager's own forecast."""
    targets = {n: AppTargets(n, 150.0, 0.8, 0.8, rate_hz=5.0) for n in ("front", "rear")}
    robot = Robot(targets, (*measured("cpu0"), *measured("cpu2")))
    decision = robot.step()
    apart = {app.cluster for app in decision.apps}
    assert decision.feasible and len(apart) == 2, "both on one cluster need a clock that is much higher"
