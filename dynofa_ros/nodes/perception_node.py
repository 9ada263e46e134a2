"""Perception node: an application that answers camera images, as a ROS node."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import cv2
from rclpy.qos import ReliabilityPolicy

from dynofa_ros import topics
from dynofa_ros.application.application import Application, Settings
from dynofa_ros.application.task import IMAGE, Output, tasks
from dynofa_ros.application.worker import MalformedRequest
from dynofa_ros.convert import from_ros, ros_types, to_ros
from dynofa_ros.messages import AppTargets, Header
from dynofa_ros.nodes import perception_status as status
from dynofa_ros.nodes.perception_parameters import PARAMETERS, TARGETS
from dynofa_ros.ros.arrivals import Arrivals
from dynofa_ros.ros.diagnostics import Status
from dynofa_ros.ros.images import ImageDecoder, MalformedImage, default_converter
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.run import run
from dynofa_ros.supernet.switching import SWITCH_INTERVAL_S
from dynofa_ros.topics import Topic

WATCH_PERIOD_S = 0.2
LOG_PERIOD_S = 5.0
YIELD_S = 1e-4
IMAGE_TYPES = (topics.IMAGE.kind, topics.COMPRESSED_IMAGE.kind)
PUBLISHED = (topics.MONITOR, topics.TARGETS, topics.SUBNET_STATE)


class PerceptionNode(ManagedNode):
    """One application: its topics are `perception/<node name>/...`."""

    def __init__(self, **arguments: Any) -> None:
        self._application: Application | None = None
        super().__init__("front", PARAMETERS, topics.LIBRARY, **arguments)
        self.app = self.get_name()
        self._publish: dict[Topic, Callable[[Any], None]] = {}
        self._reliable = False
        self.diagnostics.add("input", self._of(self._input_status))
        self.diagnostics.add("answers", self._of(status.answers))
        self.diagnostics.add("deadline", self._of(status.deadlines))
        self.diagnostics.add("sub-network", self._of(status.subnet))

    # --- lifecycle ---------------------------------------------------------------------------

    def configure(self) -> None:
        try:
            default_converter()
        except ImportError as error:
            raise RuntimeError(str(error)) from error
        task = tasks(IMAGE)[self.value("task")]
        for topic in PUBLISHED:
            self._advertise(topic, to_ros)
        for output in task.outputs:
            self._add_output(output)
        self._application = Application(
            self.app,
            task,
            Settings(**{field.name: self.value(field.name) for field in fields(Settings)}),
            self._targets(),
            self.value("subnet_id"),
            decode=self._decode,
            publish=self._send,
            clock_ns=lambda: self.get_clock().now().nanoseconds,
            warn=self._warn,
            command_clock_ns=self.command_clock_ns,
        )
        self._set_options()

    def activate(self) -> None:
        application = self._application
        assert application is not None
        self._decoder = ImageDecoder(self.value("significant_bits"))
        self._logged_ns = 0
        self._publish[topics.LIBRARY] = lambda message: self.sole_publisher.publish(to_ros(message))
        application.start()
        self._reliable = self._wants_reliable()
        self._subscribe_images(application)
        self.subscribe(
            topics.SUBNET_COMMAND,
            lambda message: application.command.take(from_ros(message)),
            self.app,
        )
        if self.value("emulate_dvfs"):
            self.subscribe(topics.DVFS_STATE, partial(self._on_dvfs_state, application))
        self.every(WATCH_PERIOD_S, partial(self._watch, application))

    def deactivate(self) -> None:
        if self._application is not None and not self._application.stop("the node is inactive"):
            self.get_logger().error("the frame being answered did not end within 1 s")

    def cleanup(self) -> None:
        if self._application is not None:
            self._application.close()
        self._application = None
        self._publish.clear()

    # --- parameters --------------------------------------------------------------------------

    def check_parameters(self, pending: dict[str, Any]) -> str | None:
        if pending["accuracy_floor"] > pending["accuracy_target"]:
            return (
                f"accuracy_floor must be at most accuracy_target: "
                f"{pending['accuracy_floor']} > {pending['accuracy_target']}"
            )
        if self._application is None:
            return None
        return self._application.networks.pin_refusal(pending["subnet_id"]) or None

    def on_parameters_changed(self, changed: set[str]) -> None:
        if self._application is not None:
            self._set_options()
            self._application.change(self._targets(), self.value("subnet_id"))

    def _targets(self) -> AppTargets:
        return AppTargets(app=self.app, **{name: self.value(name) for name in TARGETS})

    def _set_options(self) -> None:
        assert self._application is not None
        options = self._application.task.options
        self._application.options = {option.name: self.value(option.name) for option in options}

    # --- callbacks ---------------------------------------------------------------------------

    def _image_topic(self) -> Topic:
        compressed = self.value("image_transport") == "compressed"
        return topics.COMPRESSED_IMAGE if compressed else topics.IMAGE

    def _wants_reliable(self) -> bool:
        """As the parameter says; with `auto` as all publishers offer, and as before while there are none."""
        if (asked := self.value("reliability")) != "auto":
            return bool(asked == "reliable")
        name = self.full_name(self._image_topic(), self.app)
        offered = {info.qos_profile.reliability for info in self.get_publishers_info_by_topic(name)}
        return offered == {ReliabilityPolicy.RELIABLE} if offered else self._reliable

    def _subscribe_images(self, application: Application) -> None:
        self._arrivals = Arrivals()
        topic = replace(self._image_topic(), reliable=self._reliable)
        self._images = self.subscribe(topic, partial(self._on_image, application), self.app, foreign=True)

    def _on_image(self, application: Application, message: Any, info: dict[str, Any]) -> None:
        stamp = message.header.stamp
        self._arrivals.add(time.monotonic(), stamp.sec + 1e-9 * stamp.nanosec, info)
        if application.accept(message):
            # Let go of the interpreter, so that the worker starts now and not at the next switch.
            time.sleep(YIELD_S)

    def _on_dvfs_state(self, application: Application, message: Any) -> None:
        application.clocks = from_ros(message).domains

    def _watch(self, application: Application) -> None:
        application.command.watch()
        if (reliable := self._wants_reliable()) != self._reliable:
            self._reliable = reliable
            self.unsubscribe(self._images)
            self._subscribe_images(application)
        for problem in application.counters.problems.copy().values():
            if problem.at_ns > self._logged_ns + LOG_PERIOD_S * 1e9:
                self._logged_ns = problem.at_ns
                what = "image dropped" if problem.malformed else "frame failed"
                self._warn(f"{what}: {problem.reason}")

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text)

    # --- messages ----------------------------------------------------------------------------

    def _decode(self, message: Any) -> tuple[Header, Any]:
        try:
            return from_ros(message.header), self._decoder.decode(message)
        except MalformedImage as error:
            raise MalformedRequest(str(error)) from error

    def _add_output(self, output: Output) -> None:
        """Advertise a topic of results, unless its messages are of a package that is not installed."""

        def types(name: str) -> Callable[..., Any]:
            return ros_types(output.sent_as.get(name, name))

        try:
            ros_types(output.topic.kind)
        except ImportError:
            if not output.sent_as:
                raise
            return
        self._advertise(output.topic, partial(to_ros, types=types))

    def _advertise(self, topic: Topic, convert: Callable[[Any], Any]) -> None:
        publish = self.advertise(topic, self.app).publish
        self._publish[topic] = lambda message: publish(convert(message))

    def _send(self, topic: Topic, message: Any) -> None:
        if topic in self._publish:
            self._publish[topic](message)

    # --- diagnostics -------------------------------------------------------------------------

    def _of(self, task: Callable[[Application], Status]) -> Callable[[], Status]:
        """The status of the application while the node is active."""

        def check() -> Status:
            active = self.active and self._application is not None and self._application.current is not None
            return task(self._application) if active and self._application else status.INACTIVE

        return check

    def _input_status(self, application: Application) -> Status:
        return status.images(application, self._where_images_are, self._arrivals, self._reliable)

    def _where_images_are(self) -> str:
        """For a user whose images do not come: what is published, and where."""
        topic, kind = self._images.topic_name, f"sensor_msgs/msg/{self._images.msg_type.__name__}"
        found = {publisher.topic_type for publisher in self.get_publishers_info_by_topic(topic)}
        if kind in found and self._reliable and self.value("reliability") == "reliable":
            return f"{topic} is published, but nothing arrives; reliability = reliable needs a camera that is"
        if kind in found:
            return f"{topic} is published, but nothing arrives; check the camera and the network"
        if found:
            return f"{topic} carries {', '.join(sorted(found))}; this node takes {kind}"
        others = [
            f"{name} ({other})"
            for name, kinds in self.get_topic_names_and_types()
            for other in kinds
            if other in IMAGE_TYPES and self.count_publishers(name)
        ]
        return f"nobody publishes {topic} ({kind}); images are on {', '.join(others) or 'no topic'}"


def main() -> int:
    # Between the executor and the inference thread the interpreter changes only every 5 ms by default; a
    # frame would wait that long for its turn several times.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    cv2.setNumThreads(1)  # a resize is too short to be worth waking other cores for
    return run(PerceptionNode)


if __name__ == "__main__":
    raise SystemExit(main())
