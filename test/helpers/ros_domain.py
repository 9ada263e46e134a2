"""ROS domains of the tests: each worker of pytest-xdist has its own, so that live ones run side by side."""

from __future__ import annotations

import os


def own_domain(number: int) -> int:
    """A domain near ``number``: even ones belong to one worker, odd ones to the other; never 0 or 1."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return number - number % 2 + 2 + worker % 2
