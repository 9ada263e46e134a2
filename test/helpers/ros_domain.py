"""ROS domains of the tests: each worker of pytest-xdist has its own, so that live ones run side by side."""

from __future__ import annotations

import os

WORKERS = 4  # at most


def own_domain(number: int) -> int:
    """A domain near ``number``, never 0. It differs by a multiple of WORKERS from others of this worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return number - number % WORKERS + WORKERS + worker % WORKERS
