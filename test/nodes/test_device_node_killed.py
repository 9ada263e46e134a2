"""The device node killed at random moments while a client changes clocks: those found at start come back."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from device_client import Band, Client, parameters, start
from fake_kernel import CPU_TABLE, GPU_TABLE, limits_on_disk
from ros_client import TIMEOUT_S, end

from dynofa_ros.cli.main import main as dynofa

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("state")]

KILLS = 10
LONGEST_WAIT_S = 0.2


def random_bands(choice: random.Random) -> list[Band]:
    tables = {f"cpu{n}": [1000 * khz for khz in CPU_TABLE] for n in (0, 2, 4)} | {"gpu": GPU_TABLE}
    bands: list[Band] = []
    for name, table in tables.items():
        if choice.random() < 0.8:
            low, high = sorted(choice.choices(table, k=2))
            bands.append((name, low, high))
    return bands


def wait(condition: Callable[[], bool], what: str, also: Callable[[], None]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, f"not seen within {TIMEOUT_S} s: {what}"
        also()


def victims(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Nodes, one after another, on the same tree."""
    while True:
        node = start(*parameters(backend="sysfs", sysfs_root=root, allow_writes=True))
        try:
            yield node
        finally:
            end(node)


def test_killed_while_a_client_sends_changing_bands(root: Path, tmp_path: Path) -> None:
    at_start, choice, left_changed = limits_on_disk(root), random.Random(1), 0

    def as_found() -> bool:
        return limits_on_disk(root) == at_start

    # One client for all: Fast DDS may crash in a participant that goes just when a peer was killed.
    with closing(Client()) as client, closing(victims(root)) as nodes:
        ids = iter(range(1, 1_000_000))

        def send() -> None:
            client.bands(next(ids), random_bands(choice))
            client.spin(0.002)

        for number in range(KILLS):
            node = next(nodes)  # the last one is dead and may have left clocks changed
            wait(as_found, f"the clocks restored by start {number}", lambda: time.sleep(0.01))
            wait(lambda: not as_found(), "a change", send)
            until_s = time.monotonic() + choice.uniform(0.0, LONGEST_WAIT_S)
            while time.monotonic() < until_s:
                send()
            node.kill()
            assert node.wait(TIMEOUT_S) == -signal.SIGKILL
            left_changed += not as_found()
            if number % 2:  # otherwise the next start restores
                assert dynofa(["device", "restore", "--sysfs-root", str(root)]) == 0
                assert as_found(), f"after kill {number}"
                assert not list(tmp_path.glob("state/*.json"))
    assert dynofa(["device", "restore", "--sysfs-root", str(root)]) == 0
    assert as_found() and left_changed > KILLS // 2
