"""One writer per knob: of all nodes that claim a topic, one is active.

A node that has been active for a while stays. A younger one waits for a moment, in case the other is just
ending, and then gives way: first the one that found the other there before it, then the one with the greater
gid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rclpy.node import Node

from dynofa_ros.ros.diagnostics import Level, Status

DISCOVERY_S = 0.5  # in which a new node usually finds those that are there
YOUNG_S = 3.0  # after the claim; longer than discovery ever takes
WAIT_S = 2.0  # longer than the period of the diagnostics, so that the other one sees the claim
POLL_S = 0.05
EARLY_PERIOD_S = 0.2  # of `settle` while the claim is young
RECENT_S = 10.0
Gid = tuple[int, ...]


def publishers(node: Node, topic: str) -> dict[Gid, str]:
    """Full names of the nodes that publish a topic, by gid of the publisher."""
    return {
        tuple(info.endpoint_gid): f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        for info in node.get_publishers_info_by_topic(topic)
    }


class Claim:
    """The claim of a node to be the only one that publishes ``topic``; made before its publisher is.

    ``find``: names of the nodes that publish it now, by gid. ``clock_s``: steady.
    """

    def __init__(
        self, topic: str, find: Callable[[], Mapping[Gid, str]], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._topic, self._find, self._clock_s = topic, find, clock_s
        self._before = frozenset(find())
        self._own: Gid = ()
        self._since_s = clock_s()
        self._met_s: float | None = None  # when the others that are there came
        self._seen_s = -RECENT_S
        self._names = ""

    def settle(self) -> bool:
        """Wait while it is open which node stays; whether the claim is old, so that nothing can change that.

        Raises RuntimeError if it is another one.
        """
        while self._contested():
            time.sleep(POLL_S)
        return self._clock_s() - self._since_s >= YOUNG_S

    def status(self) -> Status:
        """An error while others publish the topic too, and for some time after."""
        self._contested()
        if self._clock_s() - self._seen_s >= RECENT_S:
            return Status(Level.OK, f"the only publisher of {self._topic}")
        return Status(Level.ERROR, self._text("publishes" if self._met_s is not None else "just published"))

    def _contested(self) -> bool:
        found, now_s = dict(self._find()), self._clock_s()
        self._own = self._own or min(found.keys() - self._before, default=())
        found.pop(self._own, None)
        if not found:
            self._met_s = None
            return False
        self._met_s = now_s if self._met_s is None else self._met_s
        self._seen_s, self._names = now_s, ", ".join(sorted(set(found.values())))
        if self._met_s - self._since_s >= YOUNG_S:
            return False
        waits = 1 if self._before & found.keys() else 2 if self._own > min(found) else 3
        if now_s - self._met_s >= waits * WAIT_S:
            raise RuntimeError(self._text("publishes"))
        return True

    def _text(self, publishes: str) -> str:
        return f"{self._names} {publishes} {self._topic} too: only one node of a kind may be active"
