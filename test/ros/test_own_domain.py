"""ROS domains that processes of tests share with nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ros_domain
from ros_domain import own_domain


def of_another_process() -> int:
    """The domain of a process whose number asks for the same ones."""
    text = f"import os, ros_domain; os.getpid = lambda: {os.getpid()}; print(ros_domain.own_domain())"
    environment = {**os.environ, "PYTHONPATH": str(Path(ros_domain.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", text], env=environment, check=True, capture_output=True)
    return int(done.stdout)


def test_no_two_processes_have_the_same_domain_and_the_next_one_gets_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(ros_domain.tempfile, "tempdir", None)
    monkeypatch.setattr(ros_domain, "_LOCKS", [])
    own = [own_domain(), own_domain()]
    assert own[0] != own[1] and all(2 <= domain <= 200 for domain in own)
    other = of_another_process()
    assert other not in own
    assert of_another_process() == other, "it is free again"
