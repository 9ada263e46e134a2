"""Folders of the package on computers that lack some of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from dynofa_ros.paths import cache_folder


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a home: HOME is not set, and the system does not know the user. The temporary folder."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_the_cache_is_a_private_temporary_folder(homeless: Path) -> None:
    folder = cache_folder("weights")
    assert folder == cache_folder("weights") and folder.is_relative_to(homeless)
    own = homeless / folder.relative_to(homeless).parts[0]
    assert own.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_another_user_prepared_is_no_cache(homeless: Path) -> None:
    own = homeless / cache_folder().relative_to(homeless).parts[0]
    own.rmdir()
    (homeless / "theirs").mkdir()
    own.symlink_to(homeless / "theirs")
    with pytest.raises(PermissionError, match="set XDG_CACHE_HOME"):
        cache_folder("weights")


def test_without_any_writable_folder_there_is_no_cache(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(homeless / "missing"))
    with pytest.raises(OSError, match="missing"):
        cache_folder("weights")
