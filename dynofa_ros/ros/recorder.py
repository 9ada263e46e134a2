"""Records all topics but images into a rosbag2, as `ros2 bag record` would on a robot.

The bag is mcap with the message definitions embedded, and stays readable if this process is killed.
Messages stay serialised from DDS to disk. Time of a message = its receipt here.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter

from dynofa_ros.convert import ros_types
from dynofa_ros.recording.bag import typestore

IMAGE_TYPES = frozenset({"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"})
DISCOVERY_PERIOD_S = 0.5
FLUSH_PERIOD_S = 2.0
QUEUE_DEPTH = 1000  # a burst must not lose messages while the executor is busy

Listener = Callable[[str, str, int, bytes], None]
BAG_VERSION: Literal[8] = 8  # the newest that every supported distribution (Humble on) reads

# Records that end an MCAP file without an index (mcap.dev/spec): DataEnd and Footer, all offsets 0, magic.
_END_OF_FILE = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + b"\x89MCAP0\r\n"


@dataclass(frozen=True)
class ExpectedTopic:
    """A topic known before it is published, so that not even its first message is lost."""

    topic: str
    message_type: str  # "std_msgs/msg/String"
    qos: QoSProfile


class Recorder(Node):
    """A node that records until `close`. Spin it like any node.

    bag: folder of the new bag, must not exist. expected: subscribed at once; all other topics are found
    by discovery. listener: called with (topic, type, time_ns, serialised message) of all that is recorded.
    `failure` is None, or one line on why recording stopped.
    """

    def __init__(
        self,
        bag: Path,
        expected: Iterable[ExpectedTopic] = (),
        listener: Listener | None = None,
        **node_arguments: Any,
    ) -> None:
        super().__init__("recorder", start_parameter_services=False, **node_arguments)
        self._listener = listener
        self.failure: str | None = None
        self._writer: BagWriter | None = BagWriter(bag)
        self._lock = threading.Lock()
        self._known: dict[str, ExpectedTopic] = {}
        self._refused: set[str] = set()
        for topic in expected:
            self._subscribe(topic)
        self.create_timer(DISCOVERY_PERIOD_S, self._discover)
        self.create_timer(FLUSH_PERIOD_S, self._flush)
        self._discover()

    def close(self) -> None:
        """Stop recording and write the bag's index and metadata. Safe to call from another thread."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is None:
                return
            try:
                writer.close()
            except (OSError, WriterError) as error:
                self._fail(writer, error)

    def _discover(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic in self._known or topic in self._refused or not self.get_publishers_info_by_topic(topic):
                continue
            if "/_" in topic:  # hidden, as those of an action
                self._refused.add(topic)
            elif len(types) == 1 and types[0] in IMAGE_TYPES:
                self._refused.add(topic)
            elif len(types) != 1:
                self._refuse(topic, f"has several types: {', '.join(types)}")
            elif not BagWriter.knows(types[0]):
                self._refuse(topic, f"the definition of {types[0]} is not known here")
            else:
                self._subscribe(ExpectedTopic(topic, types[0], self._matching_qos(topic)))

    def _refuse(self, topic: str, reason: str) -> None:
        self._refused.add(topic)
        self.get_logger().warning(f"{topic} is not recorded: {reason}")

    def _subscribe(self, topic: ExpectedTopic) -> None:
        try:
            message_class = ros_types(topic.message_type)
        except ImportError as error:
            self._refuse(topic.topic, str(error))
            return
        self._known[topic.topic] = topic
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=QUEUE_DEPTH,
            reliability=topic.qos.reliability,
            durability=topic.qos.durability,
        )
        self.create_subscription(message_class, topic.topic, partial(self._on_message, topic), qos, raw=True)

    def _matching_qos(self, topic: str) -> QoSProfile:
        """The strictest QoS that every publisher of the topic offers; discovery does not tell its queue."""
        offered = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
        latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
        return QoSProfile(
            history=HistoryPolicy.UNKNOWN,
            depth=0,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _offered_qos(self, topic: ExpectedTopic) -> list[Qos]:
        infos = self.get_publishers_info_by_topic(topic.topic)
        return [bag_qos(info.qos_profile, topic.qos) for info in infos] or [bag_qos(topic.qos, topic.qos)]

    def _on_message(self, topic: ExpectedTopic, data: bytes) -> None:
        time_ns = time.time_ns()
        with self._lock:
            writer = self._writer
            if writer is None:
                return
            try:
                writer.write(topic, partial(self._offered_qos, topic), time_ns, data)
            except (OSError, WriterError) as error:
                self._fail(writer, error)
        if self._listener is not None:
            self._listener(topic.topic, topic.message_type, time_ns, data)

    def _flush(self) -> None:
        with self._lock:
            if self._writer is None:
                return
            try:
                self._writer.flush()
            except OSError as error:
                self._fail(self._writer, error)

    def _fail(self, writer: BagWriter, error: Exception) -> None:
        self._writer = None
        writer.abort()
        self.failure = f"recording stopped: {error}"
        self.get_logger().error(self.failure)


def bag_qos(offered: QoSProfile, known: QoSProfile) -> Qos:
    """QoS as a bag stores it. DDS discovery does not tell history and depth: those come from `known`."""
    history, depth = offered.history, offered.depth
    if history not in (HistoryPolicy.KEEP_LAST, HistoryPolicy.KEEP_ALL):
        history, depth = known.history, known.depth
    return Qos(
        QosHistory(int(history)),
        int(depth),
        QosReliability(int(offered.reliability)),
        QosDurability(int(offered.durability)),
        _bag_time(offered.deadline),
        _bag_time(offered.lifespan),
        QosLiveliness(int(offered.liveliness)),
        _bag_time(offered.liveliness_lease_duration),
        bool(offered.avoid_ros_namespace_conventions),
    )


def _bag_time(duration: Duration) -> QosTime:
    return QosTime(*divmod(duration.nanoseconds, 1_000_000_000))


class BagWriter:
    """An open bag. `path`: its folder, which must not exist.

    Raises OSError or rosbags' WriterError if it cannot be created or written. Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Connection] = {}

    @staticmethod
    def knows(message_type: str) -> bool:
        """Whether the definition of the type ("std_msgs/msg/String") is known, so that it can be embedded."""
        return message_type in typestore().fielddefs

    def write(
        self, topic: ExpectedTopic, offered: Callable[[], Sequence[Qos]], time_ns: int, data: bytes
    ) -> None:
        """Append one serialised message; time_ns: receipt, system clock. offered: QoS of the publishers."""
        name = topic.topic
        if name not in self._connections:
            self._connections[name] = self._writer.add_connection(
                name, topic.message_type, typestore=typestore(), offered_qos_profiles=offered()
            )
        self._writer.write(self._connections[name], time_ns, data)

    def flush(self) -> None:
        """Put what was written so far on disk as a complete file without index, then go on behind it.

        A process killed after this leaves an .mcap file that any reader opens (without metadata.yaml).
        """
        storage = self._writer.storage
        if not isinstance(storage, McapWriter):
            return
        if storage.chunk.bio.tell():
            storage.close_chunk()
        position = storage.bio.tell()
        storage.bio.write(_END_OF_FILE)
        storage.bio.flush()
        storage.bio.seek(position)

    def close(self) -> None:
        """Write index and metadata."""
        self._writer.close()

    def abort(self) -> None:
        """Close after an error, leaving what is on disk. Never raises."""
        with suppress(OSError):  # what is still buffered cannot be written on a full disk either
            self._writer.abort()
