"""Base of the nodes that send the requests of a demo: a thread that sends until the node is deactivated."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from typing import Any

from std_msgs.msg import String

from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.one_line import one_line
from dynofa_ros.topics import DEMO, ERRORS


def names_of(value: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in value.split(",") if name.strip()]


class SourceNode(ManagedNode):
    """A node in the namespace `demo` that sends requests from a thread of its own."""

    def __init__(self, name: str, specs: Any) -> None:
        super().__init__(name, specs, namespace=DEMO)
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.sent, self._problem = 0, ""
        self.diagnostics.add(name, self._status)

    @abstractmethod
    def work(self) -> None:
        """Send requests until ``stopping``. Called in a thread; what it raises is an error of the run."""

    def configure(self) -> None:
        self._errors = self.advertise(ERRORS)

    def activate(self) -> None:
        self.stopping.clear()
        self.sent, self._problem = 0, ""
        self._thread = threading.Thread(target=self._work, name="source")
        self._thread.start()

    def deactivate(self) -> None:
        self.stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def sleep_until(self, steady_ns: int) -> bool:
        """False = this node was stopped meanwhile."""
        return not self.stopping.wait(max(0.0, (steady_ns - time.monotonic_ns()) / 1e9))

    def _work(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001 - the thread's last chance to say what happened
            self._problem = one_line(error)
            self.get_logger().error(self._problem)
            self._errors.publish(String(data=f"{DEMO}/{self.get_name()}: {self._problem}"))

    def _status(self) -> Status:
        values: dict[str, Any] = {"requests_sent": self.sent}
        if self._problem:
            return Status(Level.ERROR, self._problem, values)
        return Status(Level.OK, "publishing" if self.active else "inactive", values)
