"""What the recorder writes is what was said, over DDS, and stays readable whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_client import TIMEOUT_S
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.typesys import get_types_from_msg

from dynofa_ros import topics
from dynofa_ros.convert import ros_types
from dynofa_ros.recording import metrics
from dynofa_ros.recording.bag import BagError, open_bag, typestore
from dynofa_ros.recording.run import read_run
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.ros.recorder import ExpectedTopic, Recorder

pytestmark = pytest.mark.live


# A robot in a process of its own: says who it is, answers 20 frames, then waits to be ended.
TALKER = """
import sys, time
import rclpy
from sensor_msgs.msg import Image
from std_msgs.msg import String
from dynofa_ros.msg import *
from dynofa_ros import topics
from dynofa_ros.convert import ros_types
from dynofa_ros.ros.qos import qos_of
root = sys.argv[1]
rclpy.init()
node = rclpy.create_node("talker")
def publisher(topic):
    return node.create_publisher(ros_types(topic.kind), f"{root}/{topic.of('front')}", qos_of(topic))
library = publisher(topics.LIBRARY)
monitor = publisher(topics.MONITOR)
result = publisher(topics.CLASSIFICATION)
truth = publisher(topics.GROUND_TRUTH)
telemetry = publisher(topics.TELEMETRY)
image = publisher(topics.IMAGE)
phase = publisher(topics.PHASE)
library.publish(SubnetLibrary(app="front", entries=[SubnetEntry(id="a", processor="cpu", accuracy=0.75)]))
end = time.monotonic() + 90
while not all(p.get_subscription_count() for p in (monitor, result, truth, telemetry, phase)):
    assert time.monotonic() < end, "nobody records"
    time.sleep(0.05)
phase.publish(String(data="steady"))
for number in range(1, 21):
    message = InferenceMonitor(app="front", frame_sequence=number, subnet_id="a", processor="cpu")
    message.header.stamp.sec, message.header.frame_id = 1000 + number, "front_camera"
    message.latency_ms, message.inference_ms, message.latency_target_ms = 30.0 + number, 20.0 + number, 45.0
    message.deadline_missed = message.latency_ms > message.latency_target_ms
    seen = Classification(header=message.header, results=[ClassHypothesis(class_id="stop", score=0.9)])
    said = Classification(header=message.header, results=[ClassHypothesis(class_id="stop", score=1.0)])
    if number > 15:
        seen.results[0].class_id = "yield"
    image.publish(Image(width=1, height=1, step=3, encoding="rgb8", data=b"abc"))
    for sender, payload in ((truth, said), (result, seen), (monitor, message)):
        sender.publish(payload)
    telemetry.publish(DeviceTelemetry(total_power_w=5.0, energy_j=0.5 * number, source="simulated"))
    time.sleep(0.02)
phase.publish(String(data="end"))
time.sleep(300)
"""


TALK = {"monitor": 20, "library": 1, "classification": 20, "ground_truth": 20, "telemetry": 20, "phase": 2}


def is_whole(heard: Iterable[str]) -> bool:
    """Whether all of a talk is among the names of topics of messages: topics have no order between them."""
    counts = Counter(topic.rpartition("/")[2] for topic in heard)
    return all(counts[name] >= number for name, number in TALK.items())


@contextmanager
def talker(root: str = "") -> Iterator[None]:
    """A talker process in the namespace `root`."""
    process = subprocess.Popen([sys.executable, "-c", TALKER, root])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Spin the node in a thread."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(TIMEOUT_S)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.02)


@pytest.fixture
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def recorded(ros: None, tmp_path: Path) -> Iterator[tuple[Path, list[tuple[str, str, int, bytes]]]]:
    """The bag of a whole talk, and what the recorder's listener was told."""
    told: list[tuple[str, str, int, bytes]] = []
    expected = [
        ExpectedTopic(f"/{topic.of('front')}", topic.kind, qos_of(topic))
        for topic in (topics.MONITOR, topics.LIBRARY)
    ]
    recorder = Recorder(tmp_path / "bag", expected, lambda *message: told.append(message))
    with talker(), spinning(recorder):
        wait_for(lambda: is_whole(topic for topic, *_ in told), "the whole talk")
        recorder.close()
    assert recorder.failure is None
    recorder.destroy_node()
    yield tmp_path / "bag", told


def test_bag_holds_every_message_but_images(recorded: tuple[Path, list[Any]]) -> None:
    bag, told = recorded
    with open_bag(bag) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        stored = [(c.topic, c.msgtype, time_ns, raw) for c, time_ns, raw in reader.messages()]
    assert counts["/perception/front/monitor"] == counts["/demo/camera/ground_truth"] == 20
    assert counts["/dynofa/device/telemetry"] == counts["/perception/front/classification"] == 20
    assert counts["/perception/front/library"] == 1, "latched before the recorder's subscription"
    assert "/perception/front/image" not in counts
    assert stored == told[: len(stored)], "bytes and times are those that were received"


def test_definitions_are_embedded_and_are_those_of_ros(recorded: tuple[Path, list[Any]]) -> None:
    with open_bag(recorded[0]) as reader:
        connection = next(c for c in reader.connections if c.topic == "/perception/front/monitor")
        types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
    assert {"dynofa_ros/msg/InferenceMonitor", "std_msgs/msg/Header"} <= set(types)


def test_type_hashes_are_those_of_dds(ros: None) -> None:
    node = rclpy.create_node("hashes")
    types = ("dynofa_ros/msg/ManagerDecision", "dynofa_ros/msg/DvfsState", "std_msgs/msg/String")
    for index, kind in enumerate(types):
        node.create_publisher(ros_types(kind), f"hash_{index}", 1)
    for index, kind in enumerate(types):
        wait_for(partial(node.get_publishers_info_by_topic, f"/hash_{index}"), "discovery")
        info = node.get_publishers_info_by_topic(f"/hash_{index}")[0]
        if not hasattr(info, "topic_type_hash"):
            pytest.skip("type hashes came with ROS 2 Iron")
        assert typestore().hash_rihs01(kind) == f"RIHS01_{bytes(info.topic_type_hash.value).hex()}"
    node.destroy_node()


def test_qos_is_the_offered_one(recorded: tuple[Path, list[Any]]) -> None:
    with open_bag(recorded[0]) as reader:
        profiles: dict[str, Any] = {
            c.topic: getattr(c.ext, "offered_qos_profiles", []) for c in reader.connections
        }
    library = profiles["/perception/front/library"][0]
    assert (library.durability, library.depth) == (QosDurability.TRANSIENT_LOCAL, 1)
    monitor = profiles["/perception/front/monitor"][0]
    assert (monitor.durability, monitor.reliability) == (QosDurability.VOLATILE, QosReliability.RELIABLE)


def test_figures_of_the_bag(recorded: tuple[Path, list[Any]]) -> None:
    summary = metrics.summary(read_run(recorded[0]))
    assert summary["results"] == summary["frames_published"] == 20
    assert summary["deadline_miss_percent"] == pytest.approx(25.0)
    assert summary["latency_ms"]["p50"] == pytest.approx(40.5)
    assert summary["overhead_ms"] == {"p50": pytest.approx(10.0), "p95": pytest.approx(10.0)}
    assert summary["accuracy"] == {"measured": 0.75, "expected": 0.75, "frames_scored": 20}
    assert summary["energy_j"] == pytest.approx(9.5)
    assert [phase["name"] for phase in summary["phases"]] == ["steady"]
    assert summary["phases"][0]["subnets_used"] == ["a"]


def test_namespaces_of_a_bag(ros: None, tmp_path: Path) -> None:
    told: list[str] = []
    recorder = Recorder(tmp_path / "bag", listener=lambda topic, *_: told.append(topic))
    with talker("/robot1"), talker("/robot2"), spinning(recorder):
        for root in ("/robot1/", "/robot2/"):
            wait_for(lambda root=root: is_whole(t for t in told if t.startswith(root)), f"the talk of {root}")
        recorder.close()
    recorder.destroy_node()
    assert metrics.summary(read_run(tmp_path / "bag", "robot2"))["results"] == 20
    with pytest.raises(BagError, match=r"several namespaces \(/robot1, /robot2\)"):
        read_run(tmp_path / "bag")
    with pytest.raises(BagError, match="no run in namespace 'robot3'"):
        read_run(tmp_path / "bag", "robot3")


KILLED = """
import sys
from pathlib import Path
import rclpy
from dynofa_ros.ros.recorder import Recorder
rclpy.init()
told = []
def listen(topic, *_):
    print(topic, flush=True)
rclpy.spin(Recorder(Path(sys.argv[1]), listener=listen))
"""


def test_a_killed_recorder_leaves_a_readable_bag(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "bag")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    heard: list[str] = []
    assert process.stdout is not None
    reading = threading.Thread(target=lambda: heard.extend(process.stdout or ()))
    reading.start()
    try:
        with talker():
            wait_for(lambda: is_whole(map(str.strip, heard)), "the whole talk")
            wait_for(lambda: results_on_disk(tmp_path / "bag") == 20, "the talk on disk")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        reading.join()
    assert not (tmp_path / "bag" / "metadata.yaml").exists()
    assert metrics.summary(read_run(tmp_path / "bag"))["results"] == 20


def results_on_disk(bag: Path) -> int:
    """Of a recording that goes on; 0 while it is written to."""
    with suppress(BagError):
        return int(metrics.summary(read_run(bag))["results"])
    return 0


def test_an_existing_bag_is_not_overwritten(ros: None, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(Exception, match="exists already"):
        Recorder(tmp_path / "bag")


def test_a_full_disk_ends_the_recording_with_a_reason(ros: None, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "bag")
    storage: Any = recorder._writer._writer.storage  # type: ignore[union-attr]
    storage.bio.close()
    storage.bio = open("/dev/full", "wb")
    publisher = recorder.create_publisher(ros_types("std_msgs/msg/String"), "chatter", 5)
    with spinning(recorder):
        deadline = time.monotonic() + TIMEOUT_S
        while recorder.failure is None and time.monotonic() < deadline:
            publisher.publish(ros_types("std_msgs/msg/String")(data="x" * 1000))
            time.sleep(0.05)
    assert recorder.failure is not None and "No space left" in recorder.failure
    recorder.close()
    recorder.destroy_node()


def test_unreadable_bags_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"\x89MCAP0\r\n" + b"\x00" * 100)
    text = tmp_path / "notes.txt"
    text.write_text("not a bag")
    for path in (tmp_path / "missing", tmp_path / "empty", broken, text):
        with pytest.raises(BagError) as refusal:
            read_run(path)
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
