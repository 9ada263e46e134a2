"""Every run talks only to itself, and the processes it starts run this source tree."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
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
