"""A rosbag2 as a camera: finds its camera topic and plays it once, at the recorded pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dynofa_ros.recording.bag import BagError, open_bag
from dynofa_ros.recording.run import FrameKey

RAW_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
LATE_NS = 20_000_000
LONGEST_GAP_NS = 600_000_000_000  # a longer one is a clock that was set: a robot without one starts in 1970
TRANSPORTS = {RAW_TYPE: "raw", COMPRESSED_TYPE: "compressed"}


@dataclass(frozen=True)
class CameraTopic:
    """The camera topic of a bag."""

    bag: Path
    name: str
    message_type: str  # RAW_TYPE or COMPRESSED_TYPE
    frames: int
    duration_ns: int
    problems: tuple[str, ...] = ()  # what was repaired in the bag, or is missing

    @property
    def transport(self) -> str:
        """`raw` or `compressed`: the perception node's image_transport."""
        return TRANSPORTS[self.message_type]


@dataclass(frozen=True)
class BagFrame:
    """One recorded image, still serialised."""

    offset_ns: int  # since the first frame, from the bag's receipt times without jumps of the clock
    frame: FrameKey
    data: bytes


def find_camera(bag: Path, topic: str = "") -> CameraTopic:
    """The camera topic of a bag: `topic` if given, otherwise the only one with images.

    Raises BagError, in one line, if the bag cannot be read or has no such topic, or several.
    """
    with open_bag(bag) as reader:
        connections = [c for c in reader.connections if c.msgtype in TRANSPORTS and c.msgcount]
        cameras = {c.topic: c.msgtype for c in connections}
        name = _choose(bag, cameras, {c.topic: c.msgtype for c in reader.connections}, topic)
        count = sum(c.msgcount for c in connections if (c.topic, c.msgtype) == (name, cameras[name]))
        return CameraTopic(bag, name, cameras[name], count, reader.duration_ns, tuple(reader.problems))


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
        listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(topics.items())) or "no topic at all"
        wanted = " or ".join(TRANSPORTS)
        raise BagError(f"{bag} has no camera topic ({wanted} with messages in it); it has: {listed}")
    if len(cameras) > 1:
        raise BagError(
            f"{bag} has several camera topics: {', '.join(sorted(cameras))}; choose one with --topic"
        )
    return next(iter(cameras))


def frames(camera: CameraTopic, warn: Callable[[str], object]) -> Iterator[BagFrame]:
    """The images of the topic in recorded order; one without a readable header is skipped with a warning, as
    is the gap where the recorder's clock was set.

    Raises BagError if the bag turns out damaged.
    """
    offset_ns, last_ns = 0, None
    with open_bag(camera.bag) as reader:
        wanted = (camera.name, camera.message_type)
        connections = [c for c in reader.connections if (c.topic, c.msgtype) == wanted]
        for connection, time_ns, raw in reader.messages(connections):
            try:
                header = reader.deserialize(raw, connection.msgtype).header
            except Exception as error:  # noqa: BLE001 - rosbags checks little of what it unpacks
                warn(f"skipped an image of {camera.bag}: {type(error).__name__}: {error}")
                continue
            gap_ns = 0 if last_ns is None else time_ns - last_ns
            if 0 <= gap_ns <= LONGEST_GAP_NS:
                offset_ns += gap_ns
            else:
                warn(f"the clock of {camera.bag} jumps by {gap_ns / 1e9:.0f} s: that gap is skipped")
            last_ns = time_ns
            stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            yield BagFrame(offset_ns, (stamp_ns, header.frame_id), raw)


def play(
    recorded: Iterator[BagFrame], publish: Callable[[BagFrame], None], sleep_until: Callable[[int], bool]
) -> bool:
    """Publish every frame when it is due. sleep_until(steady_ns): False = stop. True = played to the end.

    Time starts with the first frame, so that opening a large or compressed bag costs none. A frame that
    comes late, because the disk is slow, moves all that follow: a burst would only be lost.
    """
    start_ns: int | None = None
    for frame in recorded:
        now_ns = time.monotonic_ns()
        if start_ns is None or now_ns > start_ns + frame.offset_ns + LATE_NS:
            start_ns = now_ns - frame.offset_ns
        if not sleep_until(start_ns + frame.offset_ns):
            return False
        publish(frame)
    return True
