"""One writer per knob: which of several nodes that claim a topic stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from dynofa_ros import topics
from dynofa_ros.ros import claim as claims
from dynofa_ros.ros.claim import RECENT_S, WAIT_S, YOUNG_S, Claim, publishers
from dynofa_ros.ros.diagnostics import Level
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.qos import qos_of

TICK_S = 0.05


class Graph:
    """Publishers of one topic, and nodes that look at it in turn; a node ends as soon as it gives way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.cut = 0.0, False
        self.seen: dict[tuple[int, ...], str] = {}
        self.nodes: dict[tuple[int, ...], Claim] = {}
        monkeypatch.setattr(claims.time, "sleep", lambda seconds: (_ for _ in ()).throw(TimeoutError))

    def start(self, gid: int) -> Claim:
        def find() -> dict[tuple[int, ...], str]:
            return {key: name for key, name in self.seen.items() if key == (gid,) or not self.cut}

        claim = Claim("/dynofa/device/dvfs_command", find, lambda: self.now_s)
        self.seen[(gid,)] = f"/node_{gid}"
        self.nodes[(gid,)] = claim
        return claim

    def run(self, seconds: float) -> set[int]:
        """Gids that are left. A `settle` that waits is asked again at the next tick."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            for gid, claim in list(self.nodes.items()):
                try:
                    claim.settle()
                except TimeoutError:
                    pass
                except RuntimeError:
                    del self.nodes[gid], self.seen[gid]
            self.now_s += TICK_S
        return {gid for (gid,) in self.nodes}


@pytest.mark.parametrize("newcomer", [1, 9])
def test_the_older_one_stays_and_says_so(monkeypatch: pytest.MonkeyPatch, newcomer: int) -> None:
    graph = Graph(monkeypatch)
    older = graph.start(5)
    graph.run(YOUNG_S + 1.0)
    assert older.status().level is Level.OK
    graph.start(newcomer)
    graph.run(1.0)
    assert older.status().level is Level.ERROR and f"/node_{newcomer} publishes" in older.status().message
    assert graph.run(WAIT_S) == {5}
    assert older.status().level is Level.ERROR and "just published" in older.status().message
    graph.run(RECENT_S)
    assert older.status().level is Level.OK


@pytest.mark.parametrize("gids", [(1, 9), (9, 1), (4, 2, 7)])
def test_of_nodes_that_start_together_exactly_one_stays(
    monkeypatch: pytest.MonkeyPatch, gids: tuple[int, ...]
) -> None:
    graph = Graph(monkeypatch)
    graph.cut = True  # nobody sees the others yet
    for gid in gids:
        graph.start(gid)
    graph.run(TICK_S)
    graph.cut = False
    assert graph.run(10.0) == {min(gids)}


@pytest.mark.parametrize("newcomer", [1, 9])
def test_the_first_of_two_young_ones_stays(monkeypatch: pytest.MonkeyPatch, newcomer: int) -> None:
    graph = Graph(monkeypatch)
    graph.start(5)
    graph.run(TICK_S)
    graph.start(newcomer)
    assert graph.run(10.0) == {5}


@pytest.mark.parametrize("newcomer", [1, 9])
def test_a_node_that_takes_over_from_one_that_ends_stays(
    monkeypatch: pytest.MonkeyPatch, newcomer: int
) -> None:
    graph = Graph(monkeypatch)
    graph.start(5)
    graph.run(YOUNG_S + 1.0)
    graph.start(newcomer)
    graph.run(WAIT_S / 2)
    del graph.nodes[(5,)], graph.seen[(5,)]
    assert graph.run(10.0) == {newcomer}


def test_nodes_that_find_each_other_late_both_stay_and_both_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two halves of a network that was cut: neither takes the manager from a robot that has one."""
    graph = Graph(monkeypatch)
    graph.cut = True
    both = graph.start(1), graph.start(9)
    graph.run(YOUNG_S + 1.0)
    assert [claim.status().level for claim in both] == [Level.OK, Level.OK]
    graph.cut = False
    assert graph.run(10.0) == {1, 9}
    assert [claim.status().level for claim in both] == [Level.ERROR, Level.ERROR]


def test_a_second_node_does_not_become_active(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WAIT_S", 0.2)
    heard: list[tuple[str, int, str]] = []
    listener = ManagedNode("listener", (), context=context)

    def hear(message: DiagnosticArray) -> None:
        heard.extend((s.name, ord(s.level), s.message) for s in message.status)

    listener.create_subscription(
        DiagnosticArray, topics.DIAGNOSTICS.name, hear, qos_of(replace(topics.DIAGNOSTICS, depth=20))
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    first, second = (
        ManagedNode("twin", (), topics.DVFS_COMMAND, context=context, namespace="/r1/dynofa")
        for _ in range(2)
    )
    try:
        for node in (first, second):
            assert node.trigger_configure().name == "SUCCESS"
        assert first.trigger_activate().name == "SUCCESS"
        topic = first.full_name(topics.DVFS_COMMAND)
        assert list(publishers(listener, topic).values()) == ["/r1/dynofa/twin"]
        assert second.trigger_activate().name == "FAILURE"
        assert not second.active and len(publishers(listener, topic)) == 1
        for _ in range(20):
            executor.spin_once(timeout_sec=0.05)
        text = (
            f"activate failed: /r1/dynofa/twin publishes {topic} too: only one node of a kind may be active"
        )
        assert ("/r1/dynofa/twin: lifecycle", 2, text) in heard
        first.trigger_deactivate()
        assert second.trigger_activate().name == "SUCCESS"
    finally:
        for node in (first, second, listener):
            node.end()
