"""Bags as robots leave them: killed recorders, lost power, compression, splits, old names, damaged files."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import hostile
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from dynofa_ros.recording import mcap_file
from dynofa_ros.recording.bag import Bag, BagError, open_bag, typestore

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "std_msgs/msg/String"
STORAGES = (StoragePlugin.SQLITE3, StoragePlugin.MCAP)


def raw(number: int) -> bytes:
    store = typestore()
    return bytes(store.serialize_cdr(store.types[TEXT](data=f"message {number}"), TEXT))


def write(
    path: Path,
    numbers: range = range(20),
    storage: StoragePlugin = StoragePlugin.MCAP,
    mode: CompressionMode = CompressionMode.NONE,
    topics: tuple[str, ...] = ("/text",),
) -> Path:
    """A bag with one message per number and topic, a nanosecond apart, message n at time 1000 + n."""
    writer = Writer(path, version=8, storage_plugin=storage)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = [writer.add_connection(topic, TEXT, typestore=typestore()) for topic in topics]
        for number in numbers:
            for connection in connections:
                writer.write(connection, 1000 + number, raw(number))
    return path


def numbers_of(bag: Bag) -> list[int]:
    found = [(time_ns, bag.deserialize(data, c.msgtype).data) for c, time_ns, data in bag.messages()]
    assert all(text == f"message {time_ns - 1000}" for time_ns, text in found)
    return [time_ns - 1000 for time_ns, _ in found]


def read(path: Path) -> tuple[list[int], list[str]]:
    with open_bag(path) as bag:
        return numbers_of(bag), bag.problems


def storage_file(bag: Path) -> Path:
    return next(f for f in bag.iterdir() if f.name != "metadata.yaml")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("metadata", [True, False])
def test_every_compression_with_and_without_metadata(
    storage: StoragePlugin, mode: CompressionMode, metadata: bool, tmp_path: Path
) -> None:
    bag = write(tmp_path / "bag", storage=storage, mode=mode)
    if not metadata:
        (bag / "metadata.yaml").unlink()
    assert read(bag) == (list(range(20)), [])
    assert read(tmp_path) == (list(range(20)), []), "the folder that holds bag/"
    assert read(storage_file(bag)) == (list(range(20)), [])


def test_only_a_bag_that_needs_a_copy_needs_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, packed = write(tmp_path / "whole"), write(tmp_path / "packed", mode=CompressionMode.FILE)

    def refuse(**arguments: str) -> None:
        raise OSError(30, "Read-only file system", "/tmp")

    monkeypatch.setattr("dynofa_ros.recording.bag.TemporaryDirectory", refuse)
    assert read(whole) == (list(range(20)), [])
    with pytest.raises(BagError, match=r"cannot read .*packed.* temporary folder .*Read-only.*; set TMPDIR"):
        read(packed)


def test_the_write_ahead_log_of_a_killed_recorder_is_read(tmp_path: Path) -> None:
    """sqlite keeps what is committed in the -wal file until it is closed (rosbag2 issue 521)."""
    done = storage_file(write(tmp_path / "done", range(20), StoragePlugin.SQLITE3))
    live = sqlite3.connect(tmp_path / "live.db3")
    live.execute("PRAGMA journal_mode=WAL")
    live.execute("PRAGMA wal_autocheckpoint=0")
    with sqlite3.connect(done) as source:
        live.executescript("\n".join(source.iterdump()))
    live.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("live.db3", "live.db3-wal"):
        shutil.copy(tmp_path / name, killed)
    live.close()
    assert (killed / "live.db3-wal").stat().st_size > (killed / "live.db3").stat().st_size
    before = {f.name: f.read_bytes() for f in killed.iterdir()}
    numbers, problems = read(killed)
    assert numbers == list(range(20))
    assert len(problems) == 1 and "was not closed by its recorder" in problems[0]
    assert {f.name: f.read_bytes() for f in killed.iterdir()} == before, "the bag itself is left as it is"
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link.db3").symlink_to(killed / "live.db3")
    assert read(tmp_path / "links")[0] == list(range(20)), "the log lies beside the file itself"


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.STORAGE])
@pytest.mark.parametrize("share", [0.999, 0.8, 0.5])
def test_an_mcap_cut_by_lost_power_is_read_up_to_there(
    mode: CompressionMode, share: float, tmp_path: Path
) -> None:
    whole = storage_file(write(tmp_path / "bag", range(2000), mode=mode))
    cut = tmp_path / "cut.mcap"
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    numbers, problems = read(cut)
    assert numbers == list(range(len(numbers)))
    # In a chunked file the chunk that is cut goes as a whole.
    if mode is CompressionMode.NONE and share >= 0.8:
        assert len(numbers) > 0.5 * share * 2000
    assert len(problems) == 1 and "not closed by its recorder" in problems[0] and "last" in problems[0]


def test_a_damaged_summary_does_not_hide_the_messages(tmp_path: Path) -> None:
    file = storage_file(write(tmp_path / "bag"))
    data = bytearray(file.read_bytes())
    data[-28:-20] = (len(data) * 2).to_bytes(8, "little")  # summary_start of the footer
    file.write_bytes(data)
    numbers, problems = read(file)
    assert numbers == list(range(20)) and any("summary" in problem for problem in problems)


def messages(times: Iterable[int]) -> list[bytes]:
    return [hostile.message(raw(number), 1000 + number) for number in times]


JUMBLED = [1, 0, 2, 5, 3, 4, 6, 9, 8, 7]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_an_mcap_without_an_index_may_be_out_of_order(chunked: bool, closed: bool, tmp_path: Path) -> None:
    """As rosbag2 writes it with the profile `fastwrite`, and as every recorder leaves it that is killed."""
    records = messages(JUMBLED)
    if chunked:
        parts = (b"".join(records[:4]), b"".join(records[4:]))
        records = [hostile.chunk(part, len(part), "") for part in parts]
    data = hostile.mcap(*records)
    (tmp_path / "x.mcap").write_bytes(data if closed else data[:-50])
    numbers, problems = read(tmp_path / "x.mcap")
    assert numbers == sorted(JUMBLED) and len(problems) == (not closed)


def test_a_clock_that_was_set_back_loses_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcap_file.in_order, "__defaults__", (100,))  # bytes: four of these messages
    times = [*range(500, 600), *range(100)]
    (tmp_path / "x.mcap").write_bytes(hostile.mcap(*messages(times)))
    numbers, problems = read(tmp_path / "x.mcap")
    assert sorted(numbers) == sorted(times) and problems == []
    assert sum(b < a for a, b in itertools.pairwise(numbers)) < 10, "in order but where the clock jumped"


def test_an_mcap_without_a_profile_is_read_and_one_of_ros_1_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(hostile.mcap(*messages(range(20)), profile=""))
    assert read(tmp_path / "x.mcap") == (list(range(20)), [])
    (tmp_path / "x.mcap").write_bytes(hostile.mcap(*messages(range(20)), profile="ros1"))
    with pytest.raises(BagError, match="x.mcap: its messages are of the profile 'ros1': it must be ros2"):
        read(tmp_path / "x.mcap")


@pytest.mark.parametrize("encoding", ["unknown", "", "ros1msg", "jsonschema", "protobuf"])
def test_a_topic_in_another_encoding_or_of_an_unknown_definition_does_no_harm(
    encoding: str, tmp_path: Path
) -> None:
    """A recorder that does not find the definition of a type calls its encoding "unknown"."""
    (tmp_path / "x.mcap").write_bytes(
        hostile.mcap(*messages(range(20)), encoding=encoding, definition=b"\xff\xfe\x01")
    )
    assert read(tmp_path / "x.mcap") == (list(range(20)), [])
    bag = write(tmp_path / "bag", storage=StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(bag)) as database:
        database.execute(
            "UPDATE message_definitions SET encoding = ?, encoded_message_definition = ''", [encoding]
        )
    assert read(bag) == (list(range(20)), [])


@pytest.mark.parametrize("lacking", ["message indexes", "channels", "statistics"])
def test_a_summary_that_does_not_lead_to_the_messages_is_not_used(lacking: str, tmp_path: Path) -> None:
    """mcap allows a writer to leave out each of them."""
    part = b"".join(messages(range(20)))
    statistics = struct.pack("<QHIIIIQQ", 20, 1, 1, 0, 0, 1, 1000, 1019) + struct.pack("<IHQ", 10, 1, 20)
    head = hostile.mcap()[:-50]  # up to the end of the data
    start, schema_and_channel = len(head), head[head.index(hostile.string(TEXT)) - 11 :]
    chunk_index = struct.pack("<QQQQIQ", 1000, 1019, start, len(hostile.chunk(part, len(part), "")), 0, 0)
    chunk_index += hostile.string("") + struct.pack("<QQ", len(part), len(part))
    summary = {
        "message indexes": schema_and_channel + hostile.record(8, chunk_index),
        "channels": schema_and_channel[:60],  # the schema alone
        "statistics": schema_and_channel,
    }[lacking]
    if lacking != "statistics":
        summary += hostile.record(11, statistics)
    data = hostile.mcap(hostile.chunk(part, len(part), ""), summary=summary)
    (tmp_path / "x.mcap").write_bytes(data)
    assert read(tmp_path / "x.mcap") == (list(range(20)), [])


@pytest.mark.parametrize("share", [0.4, 0.7, 0.99])
def test_a_database_that_is_cut_off_is_read_up_to_there(share: float, tmp_path: Path) -> None:
    """As of a copy that did not end."""
    whole = storage_file(write(tmp_path / "bag", range(3000), StoragePlugin.SQLITE3))
    cut = tmp_path / "cut.db3"
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    numbers, problems = read(cut)
    assert numbers == list(range(len(numbers))) and len(numbers) > 0.2 * 3000
    assert problems[0].startswith(f"{cut} is damaged (") and problems[0].endswith("as far as it is whole")


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.MESSAGE])
def test_no_message_of_a_page_that_is_cut_off_is_made_up(mode: CompressionMode, tmp_path: Path) -> None:
    """sqlite takes zeros for the bytes that are missing in a page."""
    whole = storage_file(write(tmp_path / "bag", range(400), StoragePlugin.SQLITE3, mode))
    cut, data = tmp_path / "cut.db3", whole.read_bytes()
    for size in range(5 * len(data) // 6, len(data), 397):
        cut.write_bytes(data[:size])
        numbers, problems = read(cut)  # compares the texts
        assert numbers == list(range(len(numbers))) and len(numbers) > 100
        assert problems[0].startswith(f"{cut} is damaged (")


def test_odd_rows_of_a_database_do_no_harm(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", storage=StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(bag)) as database:
        database.execute("UPDATE topics SET offered_qos_profiles = '- history: of another distribution'")
        database.execute("UPDATE messages SET data = 'text' WHERE timestamp = 1003")
    numbers, problems = read(bag)
    assert numbers == [n for n in range(20) if n != 3]
    assert problems == [f"{storage_file(bag)} is damaged: 1 of 20 messages are gone"]


def test_the_files_that_a_mac_leaves_on_a_stick_are_no_storage_files(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    (bag / f"._{storage_file(bag).name}").write_bytes(b"Mac OS X")
    assert read(bag) == (list(range(20)), [])


@pytest.mark.parametrize("storage", STORAGES)
def test_a_folder_may_have_any_name(storage: StoragePlugin, tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", storage=storage)
    odd = bag.rename(tmp_path / "50%20 off #1?")
    assert read(odd) == (list(range(20)), [])


def test_splits_are_merged_by_time_though_they_overlap(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    for part, numbers in enumerate((range(0, 20, 2), range(1, 20, 2), range(20, 30))):
        shutil.copy(storage_file(write(tmp_path / f"part{part}", numbers)), bag / f"bag_{part}.mcap")
    assert read(bag) == (list(range(30)), [])


def test_a_file_of_another_recording_is_left_out_and_named(tmp_path: Path) -> None:
    """As of `mcap filter`, whose result lies beside what it was made of; not so the next file of a series."""
    bag = write(tmp_path / "bag")
    shutil.copy(storage_file(write(tmp_path / "part", range(20, 30))), bag / "bag_1.mcap")
    shutil.copy(storage_file(write(tmp_path / "copy")), bag / "filtered.mcap")
    numbers, problems = read(bag)
    assert numbers == list(range(30))
    assert problems == [f"{bag} has filtered.mcap, which metadata.yaml does not name: left out"]


@pytest.mark.parametrize("text", ["", "- 1", "rosbag2_bagfile_information: {relative_file_paths: null}"])
def test_metadata_without_a_list_of_files_are_not_needed(text: str, tmp_path: Path) -> None:
    bag = write(tmp_path / "bag")
    (bag / "metadata.yaml").write_text(text)
    numbers, problems = read(bag)
    assert numbers == list(range(20))
    assert len(problems) == 1 and problems[0].endswith("it has no list of relative_file_paths")


def test_a_split_that_is_missing_is_named(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag")
    metadata = bag / "metadata.yaml"
    name = storage_file(bag).name
    metadata.write_text(metadata.read_text().replace(f"- {name}", f"- {name}\n  - bag_7.mcap", 1))
    numbers, problems = read(bag)
    assert numbers == list(range(20))
    assert problems == [f"{bag / 'bag_7.mcap'}, which metadata.yaml names, is missing"]


@pytest.mark.parametrize(
    "change", [("storage_identifier: mcap", "storage_identifier: ''"), ("version: 8", ": [")]
)
def test_what_metadata_says_of_the_storage_is_not_needed(change: tuple[str, str], tmp_path: Path) -> None:
    bag = write(tmp_path / "bag")
    text = (bag / "metadata.yaml").read_text()
    assert change[0] in text
    (bag / "metadata.yaml").write_text(text.replace(*change))
    assert read(bag)[0] == list(range(20))


def test_types_by_their_old_names_are_understood(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", storage=StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(bag)) as database:
        database.execute("UPDATE topics SET type = 'std_msgs/String'")
        database.execute("DELETE FROM message_definitions")
    with open_bag(bag) as reader:
        assert {c.msgtype for c in reader.connections} == {TEXT}
        assert numbers_of(reader) == list(range(20))


def test_a_definition_that_contradicts_ros_2_does_no_harm_to_other_topics(tmp_path: Path) -> None:
    """A time as of ROS 1, from a converter."""
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        time = f"{'=' * 80}\nMSG: builtin_interfaces/Time\nuint32 sec\nuint32 nsec\n"
        odd = f"builtin_interfaces/Time stamp\n{time}"
        writer.add_connection("/odd", "odd_msgs/msg/Odd", msgdef=odd, rihs01="RIHS01_" + "0" * 64)
        writer.write(writer.add_connection("/text", TEXT, typestore=typestore()), 1000, raw(0))
    numbers, problems = read(tmp_path / "bag")
    assert numbers == [0]
    assert len(problems) == 1
    assert problems[0].startswith("the definition of odd_msgs/msg/Odd is damaged: Type 'builtin_interfaces")


def test_chosen_connections_only(tmp_path: Path) -> None:
    with open_bag(write(tmp_path / "bag", topics=("/a", "/b"))) as bag:
        chosen = [c for c in bag.connections if c.topic == "/b"]
        assert {c.topic for c, _, _ in bag.messages(chosen)} == {"/b"}
        assert list(bag.messages([])) == []
        assert bag.duration_ns == 20


def empty_file(folder: Path) -> Path:
    (folder / "x.mcap").touch()
    return folder / "x.mcap"


def wrong_content(folder: Path) -> Path:
    (folder / "x.mcap").write_bytes(b"no bag at all, but long enough")
    return folder / "x.mcap"


def ros1(folder: Path) -> Path:
    (folder / "x.bag").write_bytes(b"#ROSBAG V2.0\n")
    return folder / "x.bag"


def two_bags(folder: Path) -> Path:
    for name in ("left.mcap", "right.mcap"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty_file, "the file is empty"),
        (wrong_content, "does not begin as an mcap file"),
        (ros1, "ROS 1 bag: convert it with `rosbags-convert"),
        (lambda folder: ros1(folder).parent, "ROS 1 bag: convert it with `rosbags-convert"),
        (two_bags, "several storage files and no metadata.yaml"),
        (lambda folder: folder, "is not a rosbag2"),
        (lambda folder: folder / "missing", "does not exist"),
    ],
)
def test_what_cannot_be_read_is_one_line(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=words) as error, open_bag(make(tmp_path)):
        pass
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    file = storage_file(write(tmp_path / "bag", range(4000), mode=CompressionMode.STORAGE))
    data = bytearray(file.read_bytes())
    start = data.index(b"zstd") + 100  # inside the first chunk
    data[start : start + 200] = bytes(200)
    file.write_bytes(data)
    seen = 0
    with open_bag(file) as bag:
        try:
            for _ in bag.messages():
                seen += 1
        except BagError as error:
            assert str(file) in str(error)
        else:
            assert bag.problems == [f"{file} is damaged: {4000 - seen} of 4000 messages are gone"]
    assert seen < 4000


@pytest.mark.parametrize("storage", STORAGES)
def test_a_zstd_file_that_is_cut_off_before_its_first_block_is_named(
    storage: StoragePlugin, tmp_path: Path
) -> None:
    packed = storage_file(write(tmp_path / "bag", storage=storage, mode=CompressionMode.FILE))
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(BagError, match=r"cannot read .*zstd: nothing of it can be unpacked: .*end"):
        read(tmp_path / "bag")


def test_a_cut_zstd_file_gives_what_came(tmp_path: Path) -> None:
    whole = storage_file(write(tmp_path / "bag", range(2000)))
    packed = zstd.compress(whole.read_bytes())
    cut = tmp_path / "cut.mcap.zstd"
    cut.write_bytes(packed[: len(packed) // 2])
    try:
        numbers, problems = read(cut)
    except BagError as error:
        assert "cut" in str(error)
    else:
        assert numbers == list(range(len(numbers))) and any("cut off" in problem for problem in problems)
