"""The demo camera: its pictures, its bags, and the node as a real process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from dynofa_ros.msg import Classification
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.serialization import deserialize_message, serialize_message
from ros_client import TIMEOUT_S
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from dynofa_ros.demo import camera_bag
from dynofa_ros.demo.camera_sources import ENCODERS, FolderSource, SourceError, compose, sign_picture
from dynofa_ros.demo.demo import Demo
from dynofa_ros.demo.processes import NodeSpec, Processes
from dynofa_ros.demo.setup import DemoOptions
from dynofa_ros.demo.signs import CLASS_NAMES
from dynofa_ros.recording.bag import BagError, typestore

pytestmark = pytest.mark.live

STORAGES = (StoragePlugin.SQLITE3, StoragePlugin.MCAP)
PERIOD_NS = 100_000_000


def picture(number: int, encoding: str = "bgr8", width: int = 8, height: int = 6) -> Image:
    """A small image with padded rows and a stamp of its own."""
    image = Image(width=width, height=height, encoding=encoding, step=width * 3 + 5)
    image.header.stamp.sec, image.header.stamp.nanosec = 100 + number, number
    image.header.frame_id = "lens"
    image.data = bytes((number + i) % 256 for i in range(image.step * height))
    return image


def write_bag(path: Path, topics: dict[str, list[Any]], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """A bag with the messages of each topic 0.1 s apart."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        for name, messages in topics.items():
            kind = {Image: camera_bag.RAW_TYPE, CompressedImage: camera_bag.COMPRESSED_TYPE}.get(
                type(messages[0]) if messages else Image, "dynofa_ros/msg/Classification"
            )
            connection = writer.add_connection(name, kind, typestore=typestore())
            for number, message in enumerate(messages):
                writer.write(connection, 10**18 + number * PERIOD_NS, serialize_message(message))
    return path


# --- pictures --------------------------------------------------------------------------------


def test_signs_are_reproducible_and_labelled() -> None:
    first, again, other = sign_picture(4, 7), sign_picture(4, 7), sign_picture(5, 7)
    assert first.label in CLASS_NAMES
    assert np.array_equal(first.rgb, again.rgb) and first.label == again.label
    assert not np.array_equal(first.rgb, other.rgb)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (720, 720), (480, 640), (64, 48)])
def test_the_picture_fills_the_centre_square(width: int, height: int) -> None:
    rgb = np.full((128, 128, 3), (10, 200, 90), np.uint8)
    image = compose(rgb, width, height)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    assert image.shape == (height, width, 3)
    assert (image[top : top + side, left : left + side] == (10, 200, 90)).all()
    if width > side:
        assert image[height // 2, 0].tolist() == [4, 80, 36], "the sides are dimmed"


PIXELS = {"rgb8": [1, 2, 3], "bgr8": [3, 2, 1], "rgba8": [1, 2, 3, 255], "bgra8": [3, 2, 1, 255], "mono8": 2}


@pytest.mark.parametrize(("encoding", "pixel"), PIXELS.items())
def test_encodings(encoding: str, pixel: object) -> None:
    assert ENCODERS[encoding](np.full((2, 2, 3), (1, 2, 3), np.uint8))[0, 0].tolist() == pixel


def test_a_folder_gives_every_image_with_its_class(tmp_path: Path) -> None:
    for name, colour in (("stop", (0, 0, 255)), ("yield", (0, 255, 255))):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.full((9, 9, 3), colour, np.uint8))
    source = FolderSource(tmp_path, 0, pytest.fail)
    seen = {source(i).label: source(i).rgb[0, 0].tolist() for i in range(2)}
    assert seen == {"stop": [255, 0, 0], "yield": [255, 255, 0]}
    assert source(2).label == source(0).label, "again from the start"


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    assert FolderSource(tmp_path, 0, pytest.fail)(0).label is None


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a folder"):
        FolderSource(tmp_path / "missing", 0, pytest.fail)
    with pytest.raises(SourceError, match="holds no image"):
        FolderSource(tmp_path, 0, pytest.fail)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="no image that OpenCV can decode"):
        FolderSource(tmp_path, 0, lambda _: None)(0)


def test_a_broken_image_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((9, 9, 3), ord(name), np.uint8))
    warnings: list[str] = []
    source = FolderSource(tmp_path, 0, warnings.append)
    assert {int(source(i).rgb[0, 0, 0]) for i in range(6)} == {ord("a"), ord("b")}
    assert len(warnings) == 1 and "broken.png" in warnings[0]


# --- bags ------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_the_only_camera_is_found(storage: StoragePlugin, tmp_path: Path) -> None:
    topics = {"/result": [Classification()], "/eye/image": [picture(i) for i in range(3)], "/unused": []}
    found = camera_bag.find_camera(write_bag(tmp_path / "bag", topics, storage))
    assert (found.name, found.frames, found.transport) == ("/eye/image", 3, "raw")
    assert found.duration_ns == pytest.approx(2 * PERIOD_NS, abs=10)


def test_a_camera_is_chosen_by_topic(tmp_path: Path) -> None:
    topics: dict[str, list[Any]] = {
        "/left": [picture(0)],
        "/right": [CompressedImage(format="jpeg")],
        "/result": [Classification()],
    }
    bag = write_bag(tmp_path / "bag", topics)
    assert camera_bag.find_camera(bag, "/right").transport == "compressed"
    assert camera_bag.find_camera(bag, "left").name == "/left"
    with pytest.raises(BagError, match="several camera topics: /left, /right; choose one with --topic"):
        camera_bag.find_camera(bag)
    with pytest.raises(BagError, match="has no topic /up; it has: /left, /result, /right"):
        camera_bag.find_camera(bag, "/up")
    with pytest.raises(BagError, match="/result of .* is dynofa_ros/msg/Classification"):
        camera_bag.find_camera(bag, "/result")


def test_a_bag_without_camera_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"no camera topic .*; it has: /result \(dynofa_ros/msg/Class"):
        camera_bag.find_camera(write_bag(tmp_path / "bag", {"/result": [Classification()]}))


@pytest.mark.parametrize("storage", STORAGES)
def test_frames_are_the_recorded_bytes(storage: StoragePlugin, tmp_path: Path) -> None:
    sent = [picture(i) for i in range(3)]
    camera = camera_bag.find_camera(write_bag(tmp_path / "bag", {"/eye": sent}, storage))
    frames = list(camera_bag.frames(camera, pytest.fail))
    assert [deserialize_message(f.data, Image) for f in frames] == sent
    assert [f.offset_ns for f in frames] == [0, PERIOD_NS, 2 * PERIOD_NS]
    assert frames[2].frame == (102 * 10**9 + 2, "lens")


def test_of_a_topic_with_two_types_the_images_are_played(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=8) as writer:
        for kind, message in {
            camera_bag.COMPRESSED_TYPE: CompressedImage(format="jpeg"),
            camera_bag.RAW_TYPE: picture(1),
            "dynofa_ros/msg/Classification": Classification(),
        }.items():
            connection = writer.add_connection("/eye", kind, typestore=typestore())
            writer.write(connection, 1, serialize_message(message))
    camera = camera_bag.find_camera(tmp_path / "bag")
    assert (camera.transport, camera.frames) == ("raw", 1)
    assert [f.frame for f in camera_bag.frames(camera, pytest.fail)] == [(101 * 10**9 + 1, "lens")]


def test_a_message_without_a_readable_header_is_skipped(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=8) as writer:
        connection = writer.add_connection("/eye", camera_bag.RAW_TYPE, typestore=typestore())
        writer.write(connection, 1, b"\x00\x01\x00\x00\x01")
        writer.write(connection, 2, serialize_message(picture(1)))
    warnings: list[str] = []
    frames = list(camera_bag.frames(camera_bag.find_camera(tmp_path / "bag"), warnings.append))
    assert len(frames) == 1 and len(warnings) == 1


def test_a_clock_that_was_set_while_recording_stops_no_playback(tmp_path: Path) -> None:
    """A robot without a clock of its own starts in 1970, until it has a network."""
    with Writer(tmp_path / "bag", version=8) as writer:
        connection = writer.add_connection("/eye", camera_bag.RAW_TYPE, typestore=typestore())
        for number, time_ms in enumerate((1_000, 1_500, 1_700_000_000_000, 1_700_000_000_250)):
            writer.write(connection, time_ms * 1_000_000, serialize_message(picture(number)))
    warnings: list[str] = []
    frames = list(camera_bag.frames(camera_bag.find_camera(tmp_path / "bag"), warnings.append))
    assert [frame.offset_ns for frame in frames] == [0, 500_000_000, 500_000_000, 750_000_000]
    assert len(warnings) == 1 and "jumps by 1699999998 s: that gap is skipped" in warnings[0]


def test_playback_starts_with_the_first_frame_and_never_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening takes 5 s, and the disk stalls for 0.35 s before frame 3."""
    now_ns, published = 0, []
    monkeypatch.setattr(camera_bag.time, "monotonic_ns", lambda: now_ns)

    def recorded() -> Iterator[camera_bag.BagFrame]:
        nonlocal now_ns
        now_ns += 5 * 10**9
        for number in range(6):
            now_ns += 350_000_000 if number == 3 else 0
            yield camera_bag.BagFrame(number * PERIOD_NS, (number, "lens"), b"")

    def sleep_until(steady_ns: int) -> bool:
        nonlocal now_ns
        now_ns = max(now_ns, steady_ns)
        return True

    assert camera_bag.play(recorded(), lambda frame: published.append(now_ns), sleep_until)
    gaps = [after - before for before, after in zip(published, published[1:], strict=False)]
    assert len(published) == 6 and published[0] == 5 * 10**9
    assert gaps == [PERIOD_NS, PERIOD_NS, 350_000_000, PERIOD_NS, PERIOD_NS]


def test_a_bag_whose_images_are_all_refused_is_an_error(tmp_path: Path) -> None:
    """As one of depth images (realsense-ros#2140): what is recorded has images and no answer."""
    sent = {"/demo/camera/ground_truth": [Classification()] * 3, "/perception/front/monitor": []}
    write_bag(tmp_path / "bag", sent)
    summary = Demo(DemoOptions(tmp_path), None)._summarise()
    assert (summary["frames_published"], summary["results"]) == (3, 0)
    assert summary["errors"] == [
        f"3 requests were published and none was answered; {tmp_path / 'logs'} has the reasons of the nodes"
    ]


# --- the node --------------------------------------------------------------------------------


class Viewer:
    """Subscribes to images and ground truth, with a queue: this is about what the camera sends."""

    def __init__(self, apps: tuple[str, ...], kind: type = Image) -> None:
        self.node = rclpy.create_node("viewer")
        self.images: dict[str, list[Any]] = {app: [] for app in apps}
        self.truths: list[Classification] = []
        # First: who finds a subscription for images has found those before it.
        self.node.create_subscription(Classification, "/demo/camera/ground_truth", self.truths.append, 100)
        for app in apps:
            topic = f"/perception/{app}/image" + ("/compressed" if kind is CompressedImage else "")
            self.node.create_subscription(kind, topic, self.images[app].append, 100)

    def watch(self, count: int) -> None:
        """Until every application has `count` images and every image its ground truth."""
        deadline = time.monotonic() + TIMEOUT_S
        while min(map(len, self.images.values())) < count or len(self.truths) < count * len(self.images):
            seen = {app: len(images) for app, images in self.images.items()}
            assert time.monotonic() < deadline, f"timeout with {seen} images and {len(self.truths)} truths"
            rclpy.spin_once(self.node, timeout_sec=0.1)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    rclpy.init()
    with Processes(tmp_path) as started:
        yield started
        assert started.end() == [], (tmp_path / "demo_camera.log").read_text()
    rclpy.shutdown()


def start(processes: Processes, **parameters: Any) -> None:
    processes.start(NodeSpec("demo.camera_node", "demo", "camera", parameters))


def test_generated_images_for_two_applications(processes: Processes) -> None:
    viewer = Viewer(("front", "rear"))
    start(processes, apps="front,rear", width=64, height=48, rate_hz=20.0, encoding="bgr8")
    viewer.watch(10)
    for app, images in viewer.images.items():
        assert {(i.width, i.height, i.step, i.encoding) for i in images} == {(64, 48, 192, "bgr8")}
        assert {i.header.frame_id for i in images} == {f"{app}_camera"}
        assert all(len(i.data) == 64 * 48 * 3 for i in images)
    assert bytes(viewer.images["front"][0].data) != bytes(viewer.images["rear"][0].data)
    keys = {(t.header.stamp.sec, t.header.stamp.nanosec, t.header.frame_id) for t in viewer.truths}
    stamps = [image.header.stamp for image in viewer.images["front"]]
    shown = {(stamp.sec, stamp.nanosec, "front_camera") for stamp in stamps}
    assert len(shown & keys) > 3, "each image has its truth, of which the first and last may still be missing"
    assert {t.results[0].class_id for t in viewer.truths} <= set(CLASS_NAMES)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_is_played_once_unchanged(processes: Processes, storage: StoragePlugin, tmp_path: Path) -> None:
    sent = [picture(i, encoding) for i, encoding in enumerate(("bgr8", "rgb8", "strange", "bgr8"))]
    bag = write_bag(tmp_path / "bag", {"/eye": sent}, storage)
    start(processes, bag=str(bag))
    time.sleep(2.0)  # nobody listens: the camera must wait
    begin = time.monotonic()
    viewer = Viewer(("front",))
    viewer.watch(len(sent))
    assert time.monotonic() - begin > 3 * PERIOD_NS / 1e9, "at the recorded pace"
    assert viewer.images["front"] == sent
    assert [t.header.stamp.sec for t in viewer.truths] == [100, 101, 102, 103]
    assert all(not t.results for t in viewer.truths)
    rclpy.spin_once(viewer.node, timeout_sec=0.5)
    assert len(viewer.images["front"]) == len(sent), "once"


def test_compressed_images_are_played(processes: Processes, tmp_path: Path) -> None:
    sent = CompressedImage(format="jpeg", data=b"\xff\xd8 not really")
    bag = write_bag(tmp_path / "bag", {"/eye/compressed": [sent]})
    viewer = Viewer(("front",), CompressedImage)
    start(processes, bag=str(bag))
    viewer.watch(1)
    assert viewer.images["front"] == [sent]


def test_a_camera_that_fails_says_so(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    node = rclpy.create_node("listener")
    errors: list[str] = []
    node.create_subscription(String, "/demo/errors", lambda message: errors.append(message.data), 20)
    start(processes, images=str(tmp_path), autostart=False)
    client: Any = node.create_client(ChangeState, "/demo/camera/change_state")
    assert client.wait_for_service(TIMEOUT_S)
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(node, future, timeout_sec=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while not errors:
        assert time.monotonic() < deadline, "no error was published"
        rclpy.spin_once(node, timeout_sec=0.1)
    assert errors[0].startswith("demo/camera: ") and "no image that OpenCV can decode" in errors[0]
