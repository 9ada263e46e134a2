"""CPU clusters and threads in the simulator, and scenario S13: the manager against the oracles there."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import pytest

from dynofa_ros.evaluation.policies import POLICIES, make_policy
from dynofa_ros.evaluation.scenarios import default_board, scenes
from dynofa_ros.messages import SubnetEntry
from dynofa_ros.simulation.log import Run
from dynofa_ros.simulation.plant import Plant, SharedProcessor
from dynofa_ros.simulation.scene import NONE, Load, Scene
from dynofa_ros.simulation.simulator import simulate

CLUSTERS = scenes(["S13"])[0]


# --- CPU clusters -------------------------------------------------------------------------------------


def placed(threads: int, cluster: str = "cpu0") -> SubnetEntry:
    return SubnetEntry(f"x{threads}", "cpu", 0.8, 100.0, 100.0, 0.0, threads=threads, cluster=cluster)


@pytest.mark.parametrize(
    ("threads", "slower"), [((1, 1), 1.0), ((1, 2), 1.5), ((2, 2), 2.0), ((1, 1, 1), 1.5), ((0, 0), 2.0)]
)
def test_jobs_on_a_cluster_wait_as_far_as_they_ask_for_more_cores_than_there_are(threads, slower):
    shared = SharedProcessor(default_board(), "cpu0", 1.0)
    shared.set_clocks({"cpu0": 1_190_400_000})
    for n, number in enumerate(threads):
        shared.start(f"app{n}", placed(number), 1.0, 0.0)
    assert [job.ready_s for job in shared.jobs] == pytest.approx([0.1 * slower] * len(threads))
    assert min(1.0, shared.asked) == min(1.0, sum((n or 2) / 2 for n in threads))


def test_the_places_of_a_scene_are_clusters_where_a_library_names_them():
    assert scenes(["S1"])[0].places == ("cpu", "gpu", "npu")
    clustered = scenes(["S13"])[0]
    assert clustered.places == ("cpu0", "cpu2", "cpu4", "gpu", "npu")
    plant = Plant(clustered, 0, instant=True)
    plant.set_load("load", "cpu", 0.3, 0.5, 0.0)
    plant.set_load("load", "cpu2", 0.1, 0.0, 0.0)
    assert [plant.outside(name) for name in ("cpu0", "cpu2", "gpu")] == [0.3, 0.1, 0.0]
    cpus = {d.domain: d.cpus for d in plant.capabilities().domains}
    assert (cpus["cpu0"], cpus["cpu4"], cpus["gpu"]) == ((0, 1), (4, 5), ())
    job = plant.processors["cpu4"]
    job.start("app", placed(1, "cpu4"), 1.0, 0.0)
    plant.occupy(job)
    plant.advance(1e-3)
    busy = {d.domain: d.utilization for d in plant.device.read().domains}
    assert busy["cpu4"] == pytest.approx(0.3 + 0.5, abs=0.02), "one of two cores, and the load from outside"
    assert busy["cpu0"] == pytest.approx(0.3, abs=0.02)


# --- the scenario -----------------------------------------------------------------------------------------


def placements(run: Run, from_s: float, until_s: float) -> dict[str, set[tuple[str, int]]]:
    """Cluster and threads of every application in the frames that it answered in some time."""
    found: dict[str, set[tuple[str, int]]] = {}
    for f in run.frames:
        if f.monitor is not None and from_s <= f.arrived_s < until_s:
            found.setdefault(f.app, set()).add((f.monitor.cluster, f.monitor.threads))
    return found


def misses(run: Run) -> float:
    late = [f.missed for f in run.frames if f.arrived_s > 1.0]
    return sum(late) / len(late)


def quiet(scene: Scene) -> Scene:
    return replace(scene, noise=NONE, bias=0.0)


def test_placement_and_threads_follow_deadlines_at_the_energy_of_the_oracle() -> None:
    """Two applications with a tight deadline get a cluster of their own each and both of its cores; the one
    that has time, and the one whose deadline is loosened, one core."""
    ours, oracle = (simulate(CLUSTERS, make_policy(name), 0) for name in ("ours", "O1q"))
    tight = placements(ours, 2.0, 19.0)
    assert {threads for _, threads in tight["front"] | tight["rear"]} == {2}
    assert {threads for _, threads in tight["slow"]} == {1}
    homes = {app: {cluster for cluster, _ in own} for app, own in tight.items()}
    assert all(len(own) == 1 for own in homes.values()), "nobody moves without a reason"
    assert homes["front"] != homes["rear"]
    loose = placements(ours, 23.0, 39.0)
    assert {threads for _, threads in loose["front"]} == {1}
    assert {threads for _, threads in placements(ours, 41.0, 60.0)["front"]} == {2}
    assert misses(ours) <= misses(oracle) + 0.005
    energy = [run.samples[-1].energy_j for run in (ours, oracle)]
    assert energy[0] <= 1.01 * energy[1], energy


def test_sharing_a_cluster_costs_more_than_spreading() -> None:
    """The same two applications, and a library of one cluster only."""
    apart = quiet(replace(CLUSTERS, apps=CLUSTERS.apps[:2], timeline=(), duration_s=20.0))
    one = tuple(
        replace(app, library=tuple(e for e in app.library if e.cluster == "cpu0"), mapping="cpu0")
        for app in apart.apps
    )
    spread, shared = (
        simulate(apart, make_policy("ours"), 0),
        simulate(replace(apart, apps=one), make_policy("ours"), 0),
    )
    both = placements(spread, 2.0, 20.0)
    assert {c for c, _ in both["front"]}.isdisjoint(c for c, _ in both["rear"])
    assert misses(spread) == 0.0
    assert shared.samples[-1].energy_j > spread.samples[-1].energy_j + 1.0 or misses(shared) > 0.0


def test_the_manager_leaves_a_cluster_that_others_fill() -> None:
    busy = quiet(replace(CLUSTERS, apps=CLUSTERS.apps[:1], duration_s=24.0, timeline=()))
    first = simulate(busy, make_policy("ours"), 0)
    (home,) = {cluster for cluster, _ in placements(first, 2.0, 24.0)["front"]}
    loaded = replace(busy, timeline=(Load(8.0, home, 0.8, 1.5),))
    run = simulate(loaded, make_policy("ours"), 0)
    assert {cluster for cluster, _ in placements(run, 2.0, 8.0)["front"]} == {home}
    assert home not in {cluster for cluster, _ in placements(run, 16.0, 24.0)["front"]}
    late = [f.missed for f in run.frames if f.arrived_s > 12.0]
    assert sum(late) <= 0.05 * len(late)


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_runs_on_clusters_and_repeats_itself(name: str) -> None:
    scene = replace(CLUSTERS, duration_s=3.0, timeline=())
    one, two = (simulate(scene, make_policy(name), 3) for _ in range(2))
    assert any(isfinite(f.latency_ms) for f in one.frames)
    assert repr(one.frames) == repr(two.frames) and one.samples == two.samples
    assert {cluster for own in placements(one, 0.0, 3.0).values() for cluster, _ in own} <= {
        "cpu0",
        "cpu2",
        "cpu4",
    }
