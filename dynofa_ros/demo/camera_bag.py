"""A rosbag2 as a camera: finds its camera topic and plays it once, at the recorded pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError

from dynofa_ros.recording.bag import BagError, find_bag, typestore
from dynofa_ros.recording.run import FrameKey

RAW_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
TRANSPORTS = {RAW_TYPE: "raw", COMPRESSED_TYPE: "compressed"}


@dataclass(frozen=True)
class CameraTopic:
    """The camera topic of a bag."""

    bag: Path
    name: str
    message_type: str  # RAW_TYPE or COMPRESSED_TYPE
    frames: int
    duration_ns: int

    @property
    def transport(self) -> str:
        """`raw` or `compressed`: the perception node's image_transport."""
        return TRANSPORTS[self.message_type]


@dataclass(frozen=True)
class BagFrame:
    """One recorded image, still serialised."""

    offset_ns: int  # since the first frame, from the bag's receipt times
    frame: FrameKey
    data: bytes


def find_camera(bag: Path, topic: str = "") -> CameraTopic:
    """The camera topic of a bag: `topic` if given, otherwise the only one with images.

    Raises BagError, in one line, if the bag cannot be read or has no such topic, or several.
    """
    with _reader(bag) as reader:
        connections = [c for c in reader.connections if c.msgtype in TRANSPORTS and c.msgcount]
        cameras = {c.topic: c.msgtype for c in connections}
        name = _choose(bag, cameras, {c.topic: c.msgtype for c in reader.connections}, topic)
        frames = sum(c.msgcount for c in connections if c.topic == name)
        return CameraTopic(bag, name, cameras[name], frames, reader.duration)


def _choose(bag: Path, cameras: dict[str, str], topics: dict[str, str], topic: str) -> str:
    if topic:
        name = next((t for t in topics if t.strip("/") == topic.strip("/")), None)
        if name is None:
            raise BagError(f"{bag} has no topic {topic}; it has: {', '.join(sorted(topics)) or 'none'}")
        if name not in cameras:
            wanted = " or ".join(TRANSPORTS)
            raise BagError(f"topic {name} of {bag} is {topics[name]} or empty; a camera is {wanted}")
        return name
    if not cameras:
        raise BagError(f"{bag} has no camera topic ({' or '.join(TRANSPORTS)} with messages in it)")
    if len(cameras) > 1:
        raise BagError(
            f"{bag} has several camera topics: {', '.join(sorted(cameras))}; choose one with --topic"
        )
    return next(iter(cameras))


def frames(camera: CameraTopic, warn: Callable[[str], object]) -> Iterator[BagFrame]:
    """The images of the topic in recorded order; one without a readable header is skipped with a warning.

    Raises BagError if the bag turns out damaged.
    """
    first_ns: int | None = None
    with _reader(camera.bag) as reader:
        connections: list[Connection] = [c for c in reader.connections if c.topic == camera.name]
        for connection, time_ns, raw in reader.messages(connections):
            try:
                message = typestore().deserialize_cdr(raw, connection.msgtype)
            except SerdeError as error:
                warn(f"skipped an image of {camera.bag}: {error}")
                continue
            first_ns = time_ns if first_ns is None else first_ns
            header = message.header  # type: ignore[attr-defined]
            stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            yield BagFrame(time_ns - first_ns, (stamp_ns, header.frame_id), bytes(raw))


@contextmanager
def _reader(bag: Path) -> Iterator[Reader]:
    """Unlike `open_bag`, needs no message definitions: a camera's bag may hold types unknown here."""
    path = find_bag(bag)
    try:
        with Reader(path) as reader:
            yield reader
    except (ReaderError, OSError) as error:
        raise BagError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def play(
    recorded: Iterator[BagFrame], publish: Callable[[BagFrame], None], sleep_until: Callable[[int], bool]
) -> bool:
    """Publish every frame when it is due. sleep_until(steady_ns): False = stop. True = played to the end."""
    start_ns = time.monotonic_ns()
    for frame in recorded:
        if not sleep_until(start_ns + frame.offset_ns):
            return False
        publish(frame)
    return True
