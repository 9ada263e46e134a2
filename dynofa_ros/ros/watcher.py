"""Listens to robots that run already, and disturbs none: subscriptions alone, read when the caller looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions

from dynofa_ros.convert import ros_types
from dynofa_ros.recording.run import Collector, Fault, Run, collector, robot_roots, since
from dynofa_ros.recording.status import status
from dynofa_ros.ros.entities import Inbox
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import DIAGNOSTICS, TOPICS, Topic

WINDOW_S = 10.0  # what the figures are about
QUEUE_DEPTH = 500  # what may come between two looks
KINDS = {topic.kind: topic for topic in TOPICS}


@dataclass
class _Robot:
    run: Run = field(default_factory=Run)
    collectors: dict[str, Collector | None] = field(default_factory=dict)  # by name of topic


class Watcher:
    """Subscribes to what is published of these robots, best effort but for what is latched.

    roots: prefixes of their topics, "" or "/robot1"; None = of all robots that are found.
    It needs no executor: messages wait until `look`, which is to be called about once a second.
    """

    def __init__(self, roots: Sequence[str] | None = None, domain_id: int | None = None) -> None:
        self._context = Context()
        rclpy.init(
            args=[],
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = rclpy.create_node(
            "dynofa_top", context=self._context, start_parameter_services=False, enable_rosout=False
        )
        self._all = roots is None
        self._robots = {root: _Robot() for root in roots or ()}
        self._inboxes: dict[str, tuple[str, Inbox]] = {}  # by name of topic: its type
        self._seen: set[str] = set()  # names of topics
        self._start_ns = time.time_ns()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def look(self) -> dict[str, dict[str, Any]]:
        """What every robot does now, by its namespace ("/" or "/robot1"): see `recording.status`."""
        self._discover()
        now_ns = time.time_ns()
        for name, (kind, inbox) in self._inboxes.items():
            for message, _ in inbox.take():
                for root, robot in self._robots.items():
                    self._collect(robot, root, name, kind, now_ns, message)
        start_ns = max(self._start_ns, now_ns - round(WINDOW_S * 1e9))
        for robot in self._robots.values():
            robot.run = since(robot.run, start_ns)
            for source, fault in list(robot.run.health.items()):
                if source.startswith("/") and fault.time_ns < start_ns:
                    del robot.run.health[source]  # its node says nothing any more
        return {
            root or "/": status(self._robots[root].run, start_ns, now_ns) for root in sorted(self._robots)
        }

    def _discover(self) -> None:
        found = dict(self._node.get_topic_names_and_types())
        new = found.keys() - self._seen
        for root in robot_roots(new) if self._all else ():
            if root not in self._robots:
                self._robots[root] = _Robot()
                new = found.keys() - self._inboxes.keys()
        self._seen |= new
        for name in new:
            kind = found[name][0]
            if any(collector(root, name, kind) for root in self._robots):
                self._inboxes[name] = kind, self._subscribe(name, kind)

    def _subscribe(self, name: str, kind: str) -> Inbox:
        latched = name != DIAGNOSTICS.name and KINDS[kind].latched
        topic = Topic(name, kind, depth=QUEUE_DEPTH, reliable=latched, latched=latched)
        return Inbox(self._node, ros_types(kind), name, qos_of(topic))

    @staticmethod
    def _collect(robot: _Robot, root: str, name: str, kind: str, now_ns: int, message: Any) -> None:
        if name not in robot.collectors:
            robot.collectors[name] = collector(root, name, kind)
        collect = robot.collectors[name]
        if collect is None:
            return
        try:
            collect(robot.run, now_ns, message)
        except Exception as error:  # noqa: BLE001 - whoever publishes nonsense is named
            robot.run.report(Fault(now_ns, f"{name}: refused", 2, f"{type(error).__name__}: {error}"))
