"""Node `demo/virtual_board`: a virtual board below a folder, loaded by the applications of this robot."""

from __future__ import annotations

import threading
from pathlib import Path

from dynofa_ros.convert import to_ros
from dynofa_ros.device.virtual.kernel import VirtualKernel
from dynofa_ros.device.virtual.plain_files import PERIOD_S, PlainFiles
from dynofa_ros.device.virtual.tree import load_tree
from dynofa_ros.errors import one_line
from dynofa_ros.messages import DvfsState, Header
from dynofa_ros.nodes.device_simulation import SimulatedInputs
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.ros.run import run
from dynofa_ros.topics import VIRTUAL_CLOCKS

SPECS = (
    ParameterSpec("tree", "xavier_nx_jetpack5", "name in config/virtual_boards, or a file", dynamic=False),
    ParameterSpec("folder", "", "empty folder in which the board's files appear", dynamic=False),
    ParameterSpec("fuse", True, "by FUSE where it works; false = plain files", dynamic=False),
)
CLOCKS_PERIOD_S, DISCOVERY_PERIOD_S = 0.05, 0.5


class VirtualBoardNode(ManagedNode):
    """Keeps the files of the board up to date, and says what its clocks really are.

    The emulation of perception follows these clocks and not those that the device node has read: a device
    node that reads wrong must not make the board slower.
    """

    def __init__(self) -> None:
        super().__init__("virtual_board", SPECS, namespace="demo")
        self._close = lambda: None
        self._lock = threading.Lock()
        self._problem = ""
        self.diagnostics.add("board", self._status)

    def configure(self) -> None:
        self._kernel = VirtualKernel(*load_tree(self.value("tree")))
        self._inputs = SimulatedInputs(self, self._kernel.simulation, self._publish_clocks, self._lock)
        self._clocks = self.advertise(VIRTUAL_CLOCKS)
        folder = Path(self.value("folder"))
        folder.mkdir(parents=True, exist_ok=True)
        self._plain: PlainFiles | None = None
        self._problem = ""
        if self.value("fuse"):
            try:
                from dynofa_ros.device.virtual.mount import Mount

                self._close = Mount(self._kernel, folder, self._lock).close
                return
            except (ImportError, OSError) as error:  # OSError: libfuse is missing, or may not be used here
                self._problem = f"plain files without the kernel's errors, as FUSE fails: {one_line(error)}"
                self.get_logger().warning(self._problem)
        self._plain = PlainFiles(self._kernel, folder)

    def activate(self) -> None:
        self._inputs.start()
        self.every(DISCOVERY_PERIOD_S, self._inputs.discover)
        self.every(CLOCKS_PERIOD_S, self._publish_clocks)
        if self._plain is not None:
            self.every(PERIOD_S, self._plain.update)

    def deactivate(self) -> None:
        self._inputs.stop()

    def cleanup(self) -> None:
        self._close()

    def _publish_clocks(self) -> None:
        self._inputs.take()
        with self._lock:
            domains = self._kernel.simulation.applied()
        header = Header(int(self.get_clock().now().nanoseconds))
        self._clocks.publish(to_ros(DvfsState(0, domains, source="simulated", header=header)))

    def _status(self) -> Status:
        how = self._problem or ("plain files" if self._plain else "by FUSE")
        return Status(Level.WARN if self._problem else Level.OK, f"{self.value('tree')}: {how}")


def main() -> int:
    """Entry point of the demo's process."""
    return run(VirtualBoardNode)


if __name__ == "__main__":
    raise SystemExit(main())
