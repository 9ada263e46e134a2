"""Whatever kills the process that changes clocks, and whenever: the clocks found at start come back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import dynofa
from fake_kernel import limits_on_disk, make_board

from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles

KILLS = 160  # at random moments; the kills before each system call that changes a file come on top
LONGEST_WAIT_S = 0.02
CHILD = Path(__file__).parents[1] / "helpers" / "clock_child.py"


class Bench:
    """A tree of plain files, and processes that change its clocks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = make_board(folder / "root")
        self.state = folder / "state"
        monkeypatch.setenv("DYNOFA_STATE_DIR", str(self.state))
        self.at_start = limits_on_disk(self.root)
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._restores = 0

    def start(self, **order: Any) -> int:
        """A new process; its number."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    end = _answer  # exit code of the process, negative for a signal

    def end_all(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:  # and its forks, which a test that failed leaves
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def changed(self) -> bool:
        return limits_on_disk(self.root) != self.at_start

    def wait_for_change(self) -> None:
        deadline_s = time.monotonic() + 10.0
        while not self.changed():
            assert time.monotonic() < deadline_s
            time.sleep(0.001)

    def restore(self) -> None:
        """By `dynofa device restore` and by the next start, in turn."""
        self._restores += 1
        if self._restores % 2:
            assert dynofa("device", "restore", "--sysfs-root", str(self.root)) == 0
        else:
            SysfsDevice(SysFiles(self.root), allow_writes=True).close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # A kill does not lose what a disk has not stored yet, so memory serves as well, and is fast.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path) as folder:
        bench = Bench(Path(folder), monkeypatch)
        yield bench
        bench.end_all()


@pytest.mark.slow
def test_killed_at_random_moments(bench: Bench) -> None:
    choice = random.Random(1)
    changed = 0
    for number in range(KILLS):
        pid = bench.start(how="forever", seed=number)
        if number % 4:  # the fourth is killed at its beginning
            bench.wait_for_change()
        time.sleep(choice.uniform(0.0, LONGEST_WAIT_S))
        os.kill(pid, signal.SIGKILL)
        assert bench.end() == -signal.SIGKILL
        changed += bench.changed()
        if choice.random() < 0.25:
            continue  # the next process finds it so, and is killed too
        bench.restore()
        assert limits_on_disk(bench.root) == bench.at_start, f"after kill {number}"
        assert not list(bench.state.glob("*.json"))
    assert changed > KILLS // 4  # otherwise it was killed too early to prove anything


def crash_points(
    bench: Bench, step: int = 1, left_at: int = 0, late: bool = False
) -> Iterator[tuple[int, bool, bool]]:
    """A kill before each system call that changes a file of a short life in turn, then restore.

    Yields the number of the call, whether clocks were changed then, and whether all were as found at the
    end. ``left_at``: another process was killed there before, so that the life begins with giving back.
    """
    for point in range(1, 1000, step):
        if left_at:
            bench.start(how="once", seed=3, point=left_at)
            assert bench.end() == -signal.SIGKILL
        bench.start(how="once", seed=7, point=point, late=late)
        code = bench.end()
        if code == 0:
            return
        assert code == -signal.SIGKILL
        changed = bench.changed()
        bench.restore()
        yield point, changed, not bench.changed()


@pytest.mark.slow
def test_killed_before_every_system_call_that_changes_a_file(bench: Bench) -> None:
    results = list(crash_points(bench))
    assert [point for point, _, as_found in results if not as_found] == []
    while_changed = [point for point, changed, _ in results if changed]
    assert len(while_changed) > 20

    # While it restores what another left, too: every third of a list that is longer by that.
    again = list(crash_points(bench, step=3, left_at=while_changed[len(while_changed) // 2]))
    assert [point for point, _, as_found in again if not as_found] == []
    assert 3 * len(again) > len(results)


def test_a_state_that_is_saved_too_late_is_noticed(bench: Bench) -> None:
    """The tests above can fail."""
    assert not all(as_found for _, _, as_found in crash_points(bench, late=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_asks_to_end(bench: Bench, number: signal.Signals) -> None:
    pid = bench.start(how="terminated", seed=1)
    bench.wait_for_change()
    os.kill(pid, number)
    assert bench.end() == 3  # KeyboardInterrupt reached the top
    assert not bench.changed() and not list(bench.state.glob("*.json"))


@pytest.mark.parametrize(("how", "code"), [("failing", 3), ("forgotten", 0), ("once", 0)])
def test_every_other_end(bench: Bench, how: str, code: int) -> None:
    bench.start(how=how, seed=1)
    assert bench.end() == code
    assert not bench.changed() and not list(bench.state.glob("*.json"))
