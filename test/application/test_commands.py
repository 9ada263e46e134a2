"""Commands of a manager: which library entry they choose, and what a node cannot follow."""

from __future__ import annotations

import msgspec
import pytest

from dynofa_ros.application.commands import Order, commanded, default_order, hinted, placement, refusal
from dynofa_ros.application.networks import DEMO_LIBRARY, Networks, SubnetKey
from dynofa_ros.library.library import Entry, Latency, load_library, save_library
from dynofa_ros.messages import DomainState, SubnetCommand
from dynofa_ros.paths import share_file

DEMO = load_library(share_file(*DEMO_LIBRARY))
FIRST = DEMO.entries[0]


def placed(entry: Entry, cluster: str, threads: int, factor: float) -> Entry:
    latency = Latency(factor * entry.latency_ms.median, factor * entry.latency_ms.p95)
    alpha, beta = factor * entry.alpha_ms, factor * entry.beta_ms
    return msgspec.structs.replace(
        entry, cluster=cluster, threads=threads, latency_ms=latency, alpha_ms=alpha, beta_ms=beta
    )


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Networks:
    """The demo's networks, measured on two clusters with one and two threads; cpu4 is twice as slow."""
    entries = [
        placed(e, cluster, threads, factor)
        for cluster, threads, factor in (("cpu0", 1, 1.0), ("cpu0", 2, 0.6), ("cpu4", 1, 2.0))
        for e in DEMO.entries
    ]
    path = tmp_path_factory.mktemp("library") / "cpu.yaml"
    clocks = {"cpu0": 2_000_000_000, "cpu4": 1_000_000_000}
    save_library(
        path,
        msgspec.structs.replace(
            DEMO, entries=tuple(entries), bn_statistics=None, reference_frequencies_hz=clocks
        ),
    )
    return Networks.load("", str(path), "onnxruntime")


@pytest.fixture(scope="module")
def plain() -> Networks:
    return Networks.load("", "", "onnxruntime")


def order(cluster: str = "", threads: int = 1, affinity: tuple[int, ...] = ()) -> Order:
    return Order(SubnetKey("cpu", FIRST.id, threads), affinity=frozenset(affinity), cluster=cluster)


def test_a_command_chooses_the_entry_of_its_cluster_and_threads(networks):
    command = SubnetCommand(
        subnet_id=FIRST.id,
        cluster="cpu0",
        threads=2,
        cpu_affinity=(0, 1),
        decision_id=7,
    )
    assert refusal(command, order(), networks) == ""
    new = commanded(command, order(), 0)
    assert (new.key, new.cluster, new.affinity) == (
        SubnetKey("cpu", FIRST.id, 2),
        "cpu0",
        frozenset({0, 1}),
    )
    assert placement(new, new.key, networks) == ("cpu0", 2)
    assert placement(new, SubnetKey("cpu", FIRST.id, 1), networks) == ("cpu0", 1), "the network before it"
    entry = networks.entry("cpu", FIRST.id, "cpu0", 2)
    assert entry is not None and entry.latency_ms.median == pytest.approx(0.6 * FIRST.latency_ms.median)
    assert [k.threads for k in hinted([DEMO.entries[1].id], new.key, networks)] == [2]


def test_cpus_of_a_cluster_are_free_again_after_a_command_without_one(networks):
    on_cluster = order("cpu0", affinity=(0, 1))
    assert commanded(SubnetCommand(decision_id=1, subnet_id=FIRST.id), on_cluster, 0).affinity == frozenset()
    by_hand = order(affinity=(0, 1))
    assert commanded(SubnetCommand(decision_id=1, subnet_id=FIRST.id), by_hand, 0).affinity == {0, 1}, (
        "left as it is"
    )


@pytest.mark.parametrize(
    ("cluster", "cpus", "words"),
    [
        ("cpu2", (2, 3), "has no library entry for cluster 'cpu2': the library names cpu0, cpu4"),
        ("cpu4", (), "cluster 'cpu4' needs cpu_affinity, the numbers of its CPUs"),
    ],
)
def test_a_placement_that_is_unknown_is_refused_in_one_line(networks, cluster, cpus, words):
    command = SubnetCommand(decision_id=1, subnet_id=FIRST.id, cluster=cluster, cpu_affinity=tuple(cpus))
    reason = refusal(command, order(), networks)
    assert words in reason and "\n" not in reason


def test_a_library_without_placements_is_commanded_as_before(plain):
    command = SubnetCommand(decision_id=1, subnet_id=FIRST.id, threads=2, cpu_affinity=(1,))
    assert refusal(command, order(), plain) == ""
    new = commanded(command, order(), 0)
    assert new.key.threads == 2 and placement(new, new.key, plain) == ("", 0)
    assert "no library entry for cluster 'cpu0'" in refusal(
        SubnetCommand(decision_id=1, subnet_id=FIRST.id, cluster="cpu0", cpu_affinity=(0,)), order(), plain
    )


def test_who_is_not_managed_has_the_threads_of_its_entry_and_no_cluster(networks, plain):
    own = default_order(networks, "cpu", "", 1.25 * 1e6)
    assert own.key.subnet_id == DEMO.entries[-1].id and own.key.threads == 1
    assert placement(own, own.key, networks) == ("", 1), "nobody said which CPUs a cluster has"
    assert default_order(networks, "cpu", FIRST.id, 1.0).key == SubnetKey("cpu", FIRST.id, 1)
    assert default_order(plain, "cpu", FIRST.id, 1.0).key == SubnetKey("cpu", FIRST.id, 1)


def test_an_emulated_cluster_has_its_own_clock_and_binds_nothing(networks):
    command = SubnetCommand(
        decision_id=1,
        subnet_id=FIRST.id,
        cluster="cpu4",
        threads=1,
        cpu_affinity=(4, 5),
    )
    assert refusal(command, order(), networks, emulated=True) == ""
    new = commanded(command, order(), 0, emulated=True)
    assert new.affinity == frozenset() and new.cluster == "cpu4"
    clocks = [
        DomainState(domain, 0, 0, hz, external_slowdown=slowdown)
        for domain, hz, slowdown in (("cpu0", 2e9, 0.0), ("cpu4", 5e8, 0.5), ("cpu40", 1e8, 9.0))
    ]
    entry = networks.entry("cpu", FIRST.id, "cpu4", 1)
    assert entry is not None
    slower = (entry.alpha_ms + entry.beta_ms * 1e9 / 5e8) / (entry.alpha_ms + entry.beta_ms)
    assert networks.stretch_factor(new.key, clocks, 3.0, "cpu4") == pytest.approx(3.0 * 1.5 * slower)
    assert networks.stretch_factor(new.key, clocks[:1], 3.0, "cpu0") == pytest.approx(3.0)
