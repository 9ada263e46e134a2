"""Files are written whole or not at all, and what cannot be written is reported before the work."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from command import dynofa

from dynofa_ros.application.networks import DEMO_LIBRARY
from dynofa_ros.cli.common import check_outputs, write_json
from dynofa_ros.errors import CliError
from dynofa_ros.files import write_atomically
from dynofa_ros.library import files
from dynofa_ros.library.files import require_writable, save_with_statistics
from dynofa_ros.library.library import LibraryError, load_library, load_statistics
from dynofa_ros.paths import share_file
from dynofa_ros.plots import finish

DEMO = share_file(*DEMO_LIBRARY)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


# --- whole or not at all ------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, full_disk):
    from matplotlib.figure import Figure

    (tmp_path / "old").write_text("old")
    for write in (
        lambda path: write_atomically(path, b"new"),
        lambda path: finish(Figure(), path),
    ):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "old")
    with pytest.raises(CliError, match=r"cannot write .*old: No space"):
        write_json(tmp_path / "old", {})
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_figure_is_a_png_whatever_its_name(tmp_path):
    from matplotlib.figure import Figure

    finish(Figure(), tmp_path / "new" / "figure")
    assert (tmp_path / "new" / "figure").read_bytes().startswith(b"\x89PNG")


def test_a_pipe_is_written_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_outputs(pipe)
        write_json(pipe, [1])
        assert os.read(reader, 100) == b"[\n  1\n]\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_results_go_to_what_a_link_leads_to(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_json(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "1\n"


# --- reported before the work -----------------------------------------------------------------------


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_outputs(None, tmp_path / "new" / "folder" / "r.json", tmp_path / "file")
    with pytest.raises(CliError, match=f"cannot write {tmp_path}: Is a directory"):
        check_outputs(None, tmp_path)
    with pytest.raises(CliError, match=r"cannot write .*r\.json: Not a directory"):
        check_outputs(tmp_path / "file" / "r.json")
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(CliError, match=r"cannot write .*r\.json: Permission denied"):
        check_outputs(tmp_path / "r.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "looking creates nothing"


@pytest.mark.parametrize("name", ["", ".", "..", "folder", "folder/", "pipe"])
def test_a_library_needs_the_name_of_a_file(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LibraryError, match="is no file: name the library to write with --out"):
        require_writable(Path(name))


@pytest.mark.parametrize(
    "arguments",
    [
        ("library", "profile", "l.yaml", "--weights", "missing.pth", "--out", "l.yaml"),
        ("library", "calibrate", "l.yaml", "--weights", "missing.pth", "--images", "missing"),
        ("characterise", "--library", "missing.yaml", "--out", "l.yaml"),
        ("weights", "fetch", "missing"),
    ],
    ids=" ".join,
)
def test_results_that_cannot_be_written_are_reported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CliError, match=f"cannot write {tmp_path}: Is a directory"):
        dynofa(*arguments, "--json", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- a library and its statistics ---------------------------------------------------------------


def demo_with_own_statistics(path: Path) -> dict:
    """Writes the demo's library to ``path``; returns other statistics for it."""
    library = load_library(DEMO)
    own = load_statistics(DEMO, library)
    save_with_statistics(path, library, own)
    return {name: {key: array + 1 for key, array in arrays.items()} for name, arrays in own.items()}


def test_a_library_that_cannot_be_written_leaves_no_statistics(tmp_path, monkeypatch):
    path = tmp_path / "l.yaml"
    others = demo_with_own_statistics(path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    library = load_library(path)
    broken = msgspec.structs.replace(library, notes=("broken",))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "save_library", fail)
    for statistics in (others, load_statistics(path, library), {}):
        with pytest.raises(OSError, match="No space"):
            save_with_statistics(path, broken, statistics)
        assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("copy", ["copy.yaml", "copy.yml", "l.yaml.bak"])
def test_a_copied_library_keeps_its_statistics(tmp_path, copy):
    path = tmp_path / "l.yaml"
    others = demo_with_own_statistics(path)
    shutil.copy(path, tmp_path / copy)
    (tmp_path / "folder.yaml").mkdir()
    save_with_statistics(path, load_library(path), others)
    kept = load_library(tmp_path / copy)
    assert load_statistics(tmp_path / copy, kept).keys() == others.keys()
    (tmp_path / copy).unlink()
    save_with_statistics(path, load_library(path), {})
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"l.yaml", "folder.yaml", kept.bn_statistics.file}, "its own statistics went"
