"""Bags and snapshots made to harm who reads them: they are read as far as they can, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import hostile
import pytest
from confined import confined, refused

from dynofa_ros.manager.snapshot import restore
from dynofa_ros.messages import Header, ManagerState
from dynofa_ros.recording import bag
from dynofa_ros.recording.bag import BagError, open_bag
from dynofa_ros.recording.recorded_steps import read_recording
from dynofa_ros.recording.run import read_run


def read_or_refused(path: Path) -> None:
    """Where something can be read of the bag, what cannot is a problem of one line each."""
    outcome = confined(hostile.read_bag, path)
    if outcome.kind:
        assert outcome.kind == "BagError", outcome
        refused(outcome, path)
    else:
        assert all(text.isprintable() and len(text) < 2000 for text in outcome.value[1]), outcome
    for reader in (read_run, read_recording):
        refused(confined(reader, path), path)


@pytest.mark.parametrize("name", hostile.MCAP)
def test_mcap(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    path.write_bytes(hostile.MCAP[name]())
    read_or_refused(path)


@pytest.mark.parametrize("name", hostile.DATABASES)
def test_sqlite(name: str, tmp_path: Path) -> None:
    read_or_refused(hostile.database_file(tmp_path / "bag.db3", name))


def test_a_harmless_database_and_a_harmless_mcap_are_read(tmp_path: Path) -> None:
    (tmp_path / "bag.mcap").write_bytes(hostile.mcap(hostile.message(hostile.cdr())))
    for path in (hostile.database(tmp_path / "bag.db3"), tmp_path / "bag.mcap"):
        assert confined(hostile.read_bag, path).value[0] == 1


def test_a_record_as_long_as_a_sparse_file(tmp_path: Path) -> None:
    head = hostile.MCAP_MAGIC + hostile.record(1, hostile.string("ros2") + hostile.string("x"))
    path = tmp_path / "bag.mcap"
    read_or_refused(hostile.sparse(path, 50 << 30, head + hostile.record(3, b"", (50 << 30) - len(head) - 9)))


@pytest.mark.parametrize("name", ["alias bomb", "merge bomb", "brackets", "object", "controls", "NULs"])
def test_metadata(name: str, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(hostile.mcap(hostile.message(hostile.cdr())))
    (tmp_path / "bag" / "metadata.yaml").write_bytes(hostile.yaml_documents()[name])
    assert confined(hostile.read_bag, tmp_path / "bag").value[0] == 1


@pytest.mark.parametrize(
    "listed", ["../../outside/x.mcap", "/etc/passwd", "..", "", "a\x1b[2J.mcap", "x" * 5000]
)
def test_metadata_names_no_files_elsewhere(listed: str, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "x.mcap").write_bytes(hostile.mcap(hostile.message(hostile.cdr())))
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(hostile.mcap(hostile.message(hostile.cdr())))
    text = f"rosbag2_bagfile_information: {{relative_file_paths: [{json.dumps(listed)}]}}"
    (tmp_path / "bag" / "metadata.yaml").write_text(text)
    outcome = confined(hostile.read_bag, tmp_path / "bag")
    assert outcome.value[0] == 1 and all(text.isprintable() for text in outcome.value[1])


@pytest.mark.parametrize("kind", ["fifo", "directory", "circle of links", "endless"])
def test_what_is_no_bag(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    path.symlink_to(hostile.special_files(tmp_path / "special")[kind])
    refused(confined(read_run, path), path)


def test_unpacking_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bag.mcap.zstd"
    path.write_bytes(hostile.packed_zeros(1 << 20))
    monkeypatch.setattr(bag, "SPARE_BYTES", 1 << 60)
    with pytest.raises(BagError, match="does not fit on the disk"), open_bag(path):
        pass


@pytest.mark.parametrize("name", hostile.SNAPSHOTS)
def test_snapshots(name: str) -> None:
    message = ManagerState(1, 1, hostile.SNAPSHOTS[name](), header=Header(1))
    refused(confined(restore, message))
