"""The perception node as a real process over DDS."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from dynofa_ros.msg import (
    Classification,
    DomainState,
    DvfsState,
    SubnetCommand,
    SubnetState,
)
from lifecycle_msgs.msg import Transition
from perception_client import (
    APP,
    DOMAIN_ID,
    LARGEST,
    LIBRARY,
    NAMESPACE,
    SCENE,
    SMALLEST,
    STAMP,
    Client,
    image,
    start,
)
from rclpy.qos import ReliabilityPolicy
from ros_client import TIMEOUT_S
from ros_domain import own_domain
from sensor_msgs.msg import CompressedImage, Image

from dynofa_ros import topics
from dynofa_ros.application.networks import Networks, SubnetKey
from dynofa_ros.ros.qos import qos_of

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen]:
    process = start("-p", "latency_target_ms:=1000.0", "-p", "rate_hz:=100", "-p", "top_k:=3")
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0, process.stderr and process.stderr.read()


@pytest.fixture(scope="module")
def node(process) -> Iterator[Client]:
    client = Client(process=process)
    client.wait_for_node()
    yield client
    client.close()


def test_a_frame_gets_the_class_of_the_network_and_its_own_header(node):
    result = node.answer(image())
    assert len(result.results) == 3
    scores = [r.score for r in result.results]
    assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1.0001
    monitor = node.received["monitor"][-1]
    networks = Networks.load("", "", "onnxruntime")
    network = networks.prepare(SubnetKey(monitor.processor, monitor.subnet_id))
    logits = network.run(network.preprocess(np.ascontiguousarray(SCENE[..., ::-1])))[0]
    assert result.results[0].class_id == networks.weights.labels[int(logits.argmax())]


def test_every_encoding_gives_the_same_class(node):
    classes = {e: node.answer(image(e)).results[0].class_id for e in ("bgr8", "rgb8", "bgra8")}
    assert len(set(classes.values())) == 1, classes


def test_the_monitor_adds_up(node):
    node.answer(image())
    monitor = node.received["monitor"][-1]
    stages = (monitor.queue_wait_ms, monitor.preprocess_ms, monitor.inference_ms, monitor.postprocess_ms)
    assert all(s >= 0 for s in stages) and monitor.inference_ms > 0
    assert monitor.latency_ms == pytest.approx(sum(stages), abs=0.01)
    assert monitor.deadline_missed == (monitor.latency_ms > monitor.latency_target_ms)
    assert math.isnan(monitor.end_to_end_ms)  # a stamp of 1970 cannot be compared
    assert monitor.app == APP and 0 < monitor.top1_score <= 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": b"\0" * 100}, "100 bytes of data"),
        ({"encoding": "martian8"}, "'martian8' is not one of"),
        ({"width": 0, "height": 0, "data": b""}, "must be at least 1"),
        ({"step": 10}, "must be at least 960"),
    ],
)
def test_a_malformed_image_is_dropped_counted_and_named(node, fields, words):
    node.diagnostics.clear()
    node.forget()
    malformed, sent_s = image(**fields), []

    def said() -> bool:
        """It is said for two seconds: where this machine stood still for longer the next one is."""
        if not sent_s or time.monotonic() - sent_s[-1] > 3.0:
            node.image.publish(malformed)
            sent_s.append(time.monotonic())
        return words in node.diagnostics.get("input", (0, ""))[1]

    node.wait(said, f"diagnostic with {words!r}")
    assert not node.answers("classification", malformed)
    node.answer(image())  # the node goes on
    assert 1 <= node.received["monitor"][-1].malformed_frames <= len(sent_s)


def test_a_command_switches_and_is_tied_to_the_frames(node):
    node.forget()
    for number, entry in enumerate((SMALLEST, LARGEST, SMALLEST), start=100):
        node.command.publish(
            SubnetCommand(decision_id=number, subnet_id=entry.id, processor="cpu", rate_hz=math.nan)
        )
        state = node.state(SubnetState.APPLIED, entry.id, number)
        assert state.expected_accuracy == pytest.approx(entry.accuracy)
        node.answer(image())
        monitor = node.received["monitor"][-1]
        assert (monitor.subnet_id, monitor.decision_id) == (entry.id, number)


def test_an_old_or_impossible_command_changes_nothing(node):
    node.forget()
    node.command.publish(SubnetCommand(decision_id=200, subnet_id=SMALLEST.id))
    node.state(SubnetState.APPLIED, SMALLEST.id, 200)
    node.forget()
    node.command.publish(SubnetCommand(decision_id=199, subnet_id=LARGEST.id, processor="cpu"))
    node.command.publish(SubnetCommand(decision_id=201, subnet_id="none", processor="cpu"))
    state = node.state(SubnetState.REJECTED, SMALLEST.id)
    assert "'none' is not in the library" in state.message and state.decision_id == 201
    node.answer(image())
    assert node.received["monitor"][-1].subnet_id == SMALLEST.id


def test_a_command_that_is_not_renewed_lapses(node):
    node.forget("subnet_state")
    node.command.publish(
        SubnetCommand(decision_id=300, subnet_id=SMALLEST.id, processor="cpu", valid_for_s=0.5)
    )
    node.state(SubnetState.APPLIED, SMALLEST.id, 300)
    node.state(SubnetState.APPLIED, LARGEST.id, 0)  # with 1 s to spare the best is the default


def test_parameters_act_or_are_refused_with_the_range(node):
    node.forget("targets")
    assert node.set(latency_target_ms=40)[0].successful  # an integer is taken for a double
    targets = node.received["targets"]
    node.wait(lambda: targets and targets[-1].latency_target_ms == 40.0, "targets")
    assert targets[-1].app == APP
    for bad in (-5.0, math.nan, "fast"):
        result = node.set(latency_target_ms=bad)[0]
        assert not result.successful
        assert "latency_target_ms" in result.reason and "1.0" in result.reason and "10000.0" in result.reason
    assert "subnet_id must be empty or one of" in node.set(subnet_id="none")[0].reason
    assert "accuracy_floor" in node.set(accuracy_target=0.5, accuracy_floor=0.9)[1].reason
    assert node.set(latency_target_ms=1000.0, accuracy_target=1.0)[0].successful


def test_pin_and_release(node):
    node.forget("subnet_state")
    assert node.set(subnet_id=SMALLEST.id)[0].successful
    node.state(SubnetState.PINNED, SMALLEST.id)
    node.command.publish(SubnetCommand(decision_id=400, subnet_id=LARGEST.id, processor="cpu"))
    node.spin(0.5)
    node.answer(image())
    assert node.received["monitor"][-1].subnet_id == SMALLEST.id
    assert node.set(subnet_id="")[0].successful
    node.state(SubnetState.APPLIED, LARGEST.id)  # what the manager wanted meanwhile


def test_paused_answers_nothing(node):
    node.forget()
    node.set(paused=True)
    node.state(SubnetState.DISABLED)
    unanswered = image()
    node.image.publish(unanswered)
    node.spin(0.5)
    assert not node.answers("classification", unanswered)
    node.set(paused=False)
    node.answer(image())


def test_inactive_runs_no_callback_and_comes_back(node):
    node.forget()
    assert node.change_state(Transition.TRANSITION_DEACTIVATE)
    node.state(SubnetState.DISABLED)
    node.wait(lambda: node.image.get_subscription_count() == 0, "the subscription to end")
    assert node.change_state(Transition.TRANSITION_ACTIVATE)
    node.wait(lambda: node.image.get_subscription_count(), "the subscription to come back")
    node.answer(image())


def test_the_onnxruntime_process_has_no_torch(node, process):
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "onnxruntime" in maps and "libtorch" not in maps


@pytest.mark.alone
def test_compressed_images_and_emulated_clocks():
    """A second node: JPEG in; at half the clock and 50 % load from outside the inference takes longer."""
    domain_id = own_domain()  # the other node has the same name
    process = start(
        *("-p", "image_transport:=compressed", "-p", "emulate_dvfs:=true", "-p", "emulated_slowdown:=8"),
        *("-p", "latency_target_ms:=1000.0", "-p", f"subnet_id:={LARGEST.id}"),
        domain_id=domain_id,
    )
    client = Client(domain_id, process)
    try:
        client.wait(lambda: client.received["library"] and client.received["subnet_state"], "the node")
        client.wait(
            lambda: client.compressed.get_subscription_count() and client.dvfs.get_subscription_count(),
            "discovery",
        )
        library = {e.id: e for e in client.received["library"][-1].entries}
        assert library[LARGEST.id].latency_ms == pytest.approx(8 * LARGEST.latency_ms.median, rel=1e-4)
        reference = LIBRARY.reference_frequencies_hz["cpu0"]

        def inference_ms(frequency_hz: float, slowdown: float) -> float:
            domain = DomainState(domain="cpu0", actual_hz=frequency_hz, external_slowdown=slowdown)
            client.dvfs.publish(DvfsState(domains=[domain], source="simulated"))
            client.spin(1.0)  # a node that is late loses the first of the frames, not all
            times = []
            for _ in range(12):
                jpeg = cv2.imencode(".jpg", SCENE[..., ::-1])[1].tobytes()
                message = CompressedImage(format="jpeg", data=jpeg)
                message.header.stamp.sec = next(STAMP)
                client.answer(message, client.compressed)
                times.append(client.received["monitor"][-1].inference_ms)
            return sorted(times)[3]  # others on this machine make frames slower, none faster

        full, half = inference_ms(float(reference), 0.0), inference_ms(reference / 2, 0.5)
        expected = 1.5 * (LARGEST.alpha_ms + 2 * LARGEST.beta_ms) / LARGEST.latency_ms.median
        assert half / full == pytest.approx(expected, rel=0.35)
    finally:
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "latency_target_ms:=-3"], "latency_target_ms must be"),
        (["-p", "library:=/none.yaml"], "/none.yaml"),
        (["-p", "weights:=/none.pth"], "/none.pth"),
        (["-p", "processor:=gpu"], "'gpu' has no library"),
        (["-p", "task:=juggling"], "task must be one of 'classification'"),
    ],
)
def test_a_wrong_start_is_one_line_and_exit_code_1(arguments, words):
    process = start(*arguments)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1 and words in errors and "Traceback" not in errors


def test_without_an_image_converter_the_node_does_not_start():
    """vision_opencv#535: a cv_bridge built for another NumPy, and no rosbags-image."""
    absent = "import sys; sys.modules.update({'cv_bridge': None, 'rosbags.image': None})"
    code = f"{absent}; from dynofa_ros.nodes.perception_node import main; raise SystemExit(main())"
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(DOMAIN_ID),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 1
    assert "configure failed: images need cv_bridge or rosbags-image: " in done.stderr
    assert "Traceback" not in done.stderr


def test_vision_msgs_carry_the_same_result_where_they_are_installed(tmp_path, monkeypatch):
    """Stood in for by messages of ours under their names: the fields are the same."""
    package = tmp_path / "vision_msgs" / "msg"
    package.mkdir(parents=True)
    text = "from dynofa_ros.msg import ClassHypothesis as ObjectHypothesis, Classification\n"
    (package / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    domain_id = own_domain()  # the other node has the same name
    process = start("-p", "latency_target_ms:=1000.0", domain_id=domain_id)
    client = Client(domain_id, process)
    vision: list[Classification] = []
    try:
        topic = replace(topics.CLASSIFICATION, name="perception/{app}/vision_classification")
        client.subscribe(topic, vision.append, APP)
        client.wait_for_node()
        full = topics.absolute(client.namespace, topic.of(APP))
        client.wait(lambda: client.node.count_publishers(full), "the topic")

        def same() -> bool:
            """The node may find the second subscription later than the first."""
            result = client.answer(image())
            client.spin(0.2)
            return result in vision

        client.wait(same, "the same result")
    finally:
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


def test_the_subscription_is_as_reliable_as_the_camera_or_as_asked_for():
    domain_id = own_domain()  # the other node has the same name
    process = start("-p", "latency_target_ms:=1000.0", domain_id=domain_id)
    client = Client(domain_id, process)

    def subscribed(reliability: ReliabilityPolicy) -> None:
        def is_so() -> bool:
            found = client.node.get_subscriptions_info_by_topic(client.image.topic_name)
            return [info.qos_profile.reliability for info in found] == [reliability]

        client.wait(is_so, reliability.name)

    def says(level: int, text: str) -> None:
        def is_so() -> bool:
            client.answer(image())
            found = client.diagnostics.get("input", (0, ""))
            return found[0] == level and text in found[1]

        client.wait(is_so, text)

    try:
        client.wait(lambda: client.received["subnet_state"], "the node")
        subscribed(ReliabilityPolicy.RELIABLE)
        client.answer(image())
        other = client.node.create_publisher(Image, client.image.topic_name, qos_of(topics.IMAGE))
        subscribed(ReliabilityPolicy.BEST_EFFORT)  # both cameras reach it
        client.answer(image(), other)
        camera = client.node.get_fully_qualified_name()
        says(1, f"2 publishers on one topic ({camera}, {camera})")
        client.node.destroy_publisher(other)
        says(0, "images arrive")
        assert client.set_parameter("reliability", "reliable") == ""
        subscribed(ReliabilityPolicy.RELIABLE)
        client.answer(image())
        client.wait(lambda: client.facts.get("input", {}).get("reliability") == "reliable", "diagnostics")
    finally:
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


def test_without_images_the_diagnostic_says_where_there_are_some():
    own, elsewhere = topics.absolute(NAMESPACE, topics.IMAGE.of(APP)), "/elsewhere/image"
    image_type, compressed_type = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
    domain_id = own_domain()  # the other node has the same name
    process = start("-r", f"{own}:={elsewhere}", domain_id=domain_id)
    client = Client(domain_id, process)

    def advises(text: str) -> None:
        def matches() -> bool:
            level, message = client.diagnostics.get("input", (0, ""))
            return level == 1 and message.startswith(f"no images: {text}")

        client.wait(matches, text)

    try:
        client.wait(lambda: client.received["subnet_state"], "the node")
        advises(
            f"nobody publishes {elsewhere} ({image_type}); images are on {own} ({image_type}), {own}/comp"
        )
        wrong = client.node.create_publisher(CompressedImage, elsewhere, 1)
        advises(f"{elsewhere} carries {compressed_type}; this node takes {image_type}")
        client.node.destroy_publisher(wrong)
        client.node.create_publisher(Image, elsewhere, 1)
        advises(f"{elsewhere} is published, but nothing arrives; check the camera and the network")
    finally:
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
