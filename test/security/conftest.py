from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hostile files say that they write: the folder `outside` of the working folder. Stays empty."""
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "outside"
    assert not list((tmp_path / "outside").iterdir())
