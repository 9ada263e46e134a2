"""Progress bars: on a terminal, on stderr, gone at the end; nothing elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from dynofa_ros.cli import bench, weights
from dynofa_ros.cli.work import progress, stages


def show() -> None:
    """Every kind of bar that the commands have, with a step each."""
    with progress("measuring") as step:
        step(3)
    with stages("searching") as stage:
        stage("searching", None)
        stage("the front", 2)
        stage("the front", 2)
    share: AbstractContextManager = bench._bar("engines")
    with share as done:
        done(0.5)
    with weights._bar("w.pth", 2.0) as received:
        received(1_000_000, 0)


def test_bars_are_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    show()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    show()
    out, err = capsys.readouterr()
    assert out == ""
    for shown in (
        "measuring",
        "1/3",
        "searching",
        "1/?",
        "the front",
        "2/2",
        "engines",
        "50%",
        "w.pth",
        "1.0/2.0 MB",
    ):
        assert shown in err, shown
    assert err.rstrip().endswith("\x1b[2K"), "the last bar is cleared"
