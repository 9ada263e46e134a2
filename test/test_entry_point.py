"""Signals that come before a program has begun its work: the end, at once and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynofa_ros.cli import main as cli

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
# A library that is interrupted while it is imported, and swallows what Python makes of it.
VICTIM = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(10)
except BaseException:
    pass
def main():
    return 5
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("entry", "exit_code"), [("node", 0), ("main", 1)])
def test_an_interrupted_import_ends_the_program(
    tmp_path: Path, name: str, entry: str, exit_code: int
) -> None:
    (tmp_path / "victim.py").write_text(VICTIM.format(name=name))
    code = f"import sys; from dynofa_ros.entry_point import {entry}; sys.exit({entry}('victim'))"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (exit_code, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_fails_without_a_traceback(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> int:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None
        return 0

    monkeypatch.setattr("dynofa_ros.cli.probe._run", interrupted)
    before = signal.getsignal(number)
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr() == ("", "") and signal.getsignal(number) is before


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["camera_node", "device_node", "manager_node", "perception_node"])
def test_a_node_that_has_just_started_ends_cleanly(script: str, number: signal.Signals) -> None:
    node = subprocess.Popen([sys.executable, SCRIPTS / script], stderr=subprocess.PIPE, text=True)
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:  # before, it is the interpreter that starts
        time.sleep(0.01)
        status = dict(line.split(":\t") for line in Path(f"/proc/{node.pid}/status").read_text().splitlines())
        caught = int(status["SigCgt"], 16)
    node.send_signal(number)
    _, error = node.communicate(timeout=90)
    assert node.returncode == 0 and "Traceback" not in error
