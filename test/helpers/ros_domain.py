"""ROS domains of the tests: no two processes that test on this machine have the same one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

FIRST, NUMBER = 2, 199  # further ones use ports that other programs have
_LOCKS: list[IO[str]] = []  # the kernel ends them with the process


def own_domain() -> int:
    """A domain that nobody else gets while this process runs; any one where all are taken."""
    domains = [FIRST + (os.getpid() + n) % NUMBER for n in range(NUMBER)]
    for domain in domains:
        with suppress(OSError):  # taken, or the file is another user's
            lock = Path(tempfile.gettempdir(), f"dynofa_ros_domain_{domain}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                raise
            _LOCKS.append(lock)
            return domain
    return domains[0]
