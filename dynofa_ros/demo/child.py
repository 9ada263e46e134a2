"""Runs a node as a child that never outlives its parent.

`python -m dynofa_ros.demo.child MODULE [ARGUMENTS]` calls the module's `main()`, and ends when its standard
input closes, which the kernel does when the parent is gone, however it ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from dynofa_ros.entry_point import node

GRACE_S = 3.0  # for a clean end, so that DDS removes its shared memory


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Entry point; returns what the module's `main()` returns."""
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    del sys.argv[0]
    return node(sys.argv[0])


if __name__ == "__main__":
    raise SystemExit(main())
