"""Every run talks only to itself, and the processes it starts run this source tree."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from _pytest.runner import runtestprotocol
from fake_kernel import make_board
from hypothesis import HealthCheck, settings
from ros_domain import own_domain

ROOT = str(Path(__file__).resolve().parent.parent)

if "ROS_DOMAIN_ID" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:  # a worker has its parent's
    os.environ["ROS_DOMAIN_ID"] = str(own_domain())
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")  # as Humble always does
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Workers share the cores: threads of torch that wait for each other spin, and take twice the time of one.
    cores, share = psutil.cpu_count, max(1, len(os.sched_getaffinity(0)) // workers)
    os.environ["OMP_NUM_THREADS"] = str(share)
    psutil.cpu_count = lambda logical=True: min(share, cores(logical) or 1)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests send it, and under nohup processes would ignore it

# A busy machine is no failure: neither an example that takes long, nor the first one of a fresh clone, for
# which Hypothesis builds its tables of characters.
settings.register_profile("dynofa", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dynofa")


TRIES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A test marked `alone` is about how fast something is: it has failed where it fails three times.

    Another program may have the machine for seconds, and nothing in a test can tell that from a slow node.
    Everything is set up anew for the next try, what a whole file shares too.
    """
    if item.get_closest_marker("alone") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for number in range(1, TRIES + 1):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = [report for report in reports if report.failed]
        if not failed or number == TRIES:
            break
        item.warn(pytest.PytestWarning(f"try {number} failed: {failed[0].longreprtext[-2000:]}"))
        item.session._setupstate.teardown_exact(None)
        item._initrequest()  # type: ignore[attr-defined]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the device layer keeps what it found at start; never the machine's own place."""
    folder = tmp_path / "state"
    monkeypatch.setenv("DYNOFA_STATE_DIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: small products wait longer for others than they take, and sums are the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a small Jetson."""
    return make_board(tmp_path / "root")
