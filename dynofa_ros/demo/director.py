"""The demo's side of ROS: waits for the nodes, turns their knobs, watches and records the run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64, String

from dynofa_ros import topics
from dynofa_ros.convert import ros_types
from dynofa_ros.errors import CliError, writing
from dynofa_ros.latency import domains_of
from dynofa_ros.msg import DeviceCapabilities, ManagerDecision, SimulatedLoad
from dynofa_ros.recording.run import Collector, Run, collector
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.ros.recorder import ExpectedTopic, Recorder
from dynofa_ros.topics import DECISION, DIAGNOSTICS, Topic, absolute

NODE_NAME, NAMESPACE = "director", "/demo"
ASK_AGAIN_S = 3.0
SERVICE_TIMEOUT_S = 20.0  # the demo's camera runs at low priority, and a robot may be busy
POLL_S = 0.02


class Director:
    """A ROS node `/demo/director` that is spun in a thread of its own, and the recorder.

    wait: called as wait(seconds) while something is awaited; it raises to give up.
    """

    def __init__(self, apps: Sequence[str], wait: Callable[[float], None]) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._apps = apps
        self._wait = wait
        self._node = rclpy.create_node(NODE_NAME, namespace=NAMESPACE, start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._recorder: Recorder | None = None
        self._clients: dict[str, Any] = {}
        self.failure: str | None = None  # why the ROS thread ended
        self.live = Run()  # what was recorded so far
        self._newest: dict[str, bytes] = {}  # recorded message by topic, relative to the root
        self._collectors: dict[tuple[str, str], tuple[Collector, Any] | None] = {}
        self._phase = self._publisher(topics.PHASE)
        self._cpu = {topic: self._publisher(topic) for topic in (topics.MANAGER_CPU, topics.DEVICE_CPU)}
        self._errors = self._publisher(topics.ERRORS)
        self._load = self._publisher(topics.SIMULATED_LOAD)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)
        self._thread.start()

    # --- before the run ----------------------------------------------------------------------

    def check_alone(self, own: int) -> None:
        """Raises CliError if this domain and namespace have more managers or devices than our `own`."""
        seen = self._node.get_node_names_and_namespaces()
        if max(seen.count((name, "/dynofa")) for name in ("manager", "device")) > own:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            raise CliError(f"ROS domain {domain} has a dynofa manager or device already; set ROS_DOMAIN_ID")

    def record(self, bag: Path) -> None:
        """Start recording, before the nodes: a replay needs the first step. CliError if it cannot write."""
        with writing(bag):
            self._recorder = Recorder(bag, self._expected_topics(), self._collect, namespace=NAMESPACE)
        self._executor.add_node(self._recorder)

    def wait_until_recorded(self, timeout_s: float) -> None:
        """Until device and applications are recorded: the manager must not receive more than the recorder.

        Raises CliError that names what is missing.
        """
        expected = [
            topic.of(app)
            for topic in topics.MANAGER_INPUTS
            if topic is not topics.MONITOR  # there are no frames yet
            for app in (self._apps if "{app}" in topic.name else ("",))
        ]

        def missing() -> list[str]:
            heard = self._phase.get_subscription_count() > 0
            return [t for t in expected if t not in self._newest] + ([] if heard else ["the recorder"])

        self._wait_for(missing, timeout_s)

    def wait_until_decided(self, timeout_s: float) -> None:
        """Until the manager decides for every application. Raises CliError if it does not."""

        def missing() -> list[str]:
            newest = self._message(ManagerDecision, topics.DECISION.name)
            decided = {app.app for app in newest.apps} if newest else set()
            return [f"a decision of dynofa/manager for {app}" for app in self._apps if app not in decided]

        self._wait_for(missing, timeout_s)

    @property
    def camera_finished(self) -> bool:
        """Whether the camera has played its bag to the end."""
        return topics.CAMERA_FINISHED.name in self._newest

    # --- knobs -------------------------------------------------------------------------------

    def start_phase(self, name: str) -> None:
        """Mark the start of a phase in the recording."""
        self._phase.publish(String(data=name))

    def set_load(self, processor: str, utilization_percent: float, slowdown: float) -> None:
        """Load from outside on every clock domain of a processor of the simulated device.

        slowdown: 0.5 = our work takes 50 % longer.
        """
        capabilities = self._message(DeviceCapabilities, topics.CAPABILITIES.name)
        assert capabilities is not None, "wait_until_recorded comes first"
        for domain in domains_of(processor, (d.domain for d in capabilities.domains)):
            message = SimulatedLoad(domain=domain)
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.utilization_percent, message.slowdown = utilization_percent, slowdown
            self._load.publish(message)

    def publish_cpu(self, topic: Topic, percent: float) -> None:
        """Of the manager or of the device node, 100 = one core."""
        self._cpu[topic].publish(Float64(data=percent))

    def publish_error(self, text: str) -> None:
        """Put an error of the run into the recording."""
        self._errors.publish(String(data=text))

    def get_parameter(self, node: str, name: str) -> Any:
        """Value of a parameter of /<node>. Raises CliError."""
        response = self._call(GetParameters, f"/{node}/get_parameters", GetParameters.Request(names=[name]))
        if not response.values:
            raise CliError(f"{node} has no parameter {name}")
        return parameter_value_to_python(response.values[0])

    def set_parameters(self, node: str, values: Mapping[str, Any]) -> None:
        """Set parameters of /<node> together. Raises CliError with the node's reason if it refuses."""
        request = SetParametersAtomically.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        )
        service = f"/{node}/set_parameters_atomically"
        result = self._call(SetParametersAtomically, service, request).result
        if not result.successful:
            asked = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise CliError(f"{node} refused {asked}: {result.reason}")

    def activate(self, node: str, *, active: bool = True) -> None:
        """Activate (or deactivate) the lifecycle node /<node>. Raises CliError if it cannot."""
        if active:
            self._change_state(node, Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE)
        else:
            self._change_state(node, Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE)

    def configure(self, node: str) -> None:
        """Configure the lifecycle node /<node>. Raises CliError if it cannot."""
        self._change_state(node, Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE)

    # --- end ---------------------------------------------------------------------------------

    def stop_recording(self) -> str | None:
        """Close the bag. Returns why recording had failed, None if it had not."""
        if self._recorder is None:
            return None
        self._recorder.close()
        return self._recorder.failure

    def close(self) -> None:
        """Leave ROS."""
        self.stop_recording()
        self._executor.shutdown(timeout_sec=1.0)
        if self._recorder is not None:
            self._recorder.destroy_node()
        self._node.destroy_node()
        rclpy.shutdown()
        self._thread.join(timeout=1.0)

    # --- inside ------------------------------------------------------------------------------

    def _publisher(self, topic: Topic) -> Publisher:
        name = absolute(NAMESPACE, topic.name)
        return self._node.create_publisher(ros_types(topic.kind), name, qos_of(topic))

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except Exception as error:  # noqa: BLE001 - the main thread reports it
            self.failure = f"{type(error).__name__}: {error}"

    def _expected_topics(self) -> list[ExpectedTopic]:
        """Everything but images, what it needs no application for first, and the decisions last.

        What waits is taken in this order: no decision is recorded before what it names.
        """
        known = [t for t in topics.TOPICS if t.sender != "camera" and t not in (DECISION, DIAGNOSTICS)]
        return [
            ExpectedTopic(absolute(NAMESPACE, topic.of(app)), topic.kind, qos_of(topic))
            for topic in (*sorted(known, key=lambda t: "{app}" in t.name), DECISION)
            for app in (self._apps if "{app}" in topic.name else ("",))
        ]

    def _collect(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Everything recorded also goes into `live`."""
        self._newest[topic.removeprefix("/")] = data
        key = topic, message_type
        if key not in self._collectors:
            collect = collector("", topic, message_type)
            self._collectors[key] = (collect, ros_types(message_type)) if collect else None
        found = self._collectors[key]
        if found is not None:
            collect, message_class = found
            collect(self.live, time_ns, deserialize_message(data, message_class))

    def _message(self, kind: Any, relative: str) -> Any:
        """The newest recorded message of a topic, None if there is none yet."""
        data = self._newest.get(relative)
        return None if data is None else deserialize_message(data, kind)

    def _wait_for(self, missing: Callable[[], list[str]], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while lacking := missing():
            self.check_alone(own=1)
            if time.monotonic() > deadline:
                what = ", ".join(lacking)
                raise CliError(f"not ready after {timeout_s:g} s (see the logs); missing: {what}")
            self._wait(POLL_S)
        self.check_alone(own=1)

    def _change_state(self, node: str, transition: int, goal: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        if self._call(ChangeState, f"/{node}/change_state", request).success:
            return
        # Refused, or done already and the first answer was lost.
        state = self._call(GetState, f"/{node}/get_state", GetState.Request()).current_state
        if state.id != goal:
            raise CliError(f"{node} could not be changed, it is {state.label}")

    def _call(self, service_type: Any, name: str, request: Any) -> Any:
        """The answer. A node may hear a request before it can reach who asked: then it is lost, ask again."""
        if name not in self._clients:
            self._clients[name] = self._node.create_client(service_type, name)
        client = self._clients[name]
        deadline = time.monotonic() + SERVICE_TIMEOUT_S
        while not client.service_is_ready():
            self._give_up_after(deadline, name)
        while True:
            future, asked_s = client.call_async(request), time.monotonic()
            while not future.done() and time.monotonic() - asked_s < ASK_AGAIN_S:
                self._give_up_after(deadline, name)
            if future.done():
                return future.result()
            client.remove_pending_request(future)

    def _give_up_after(self, deadline: float, name: str) -> None:
        if time.monotonic() > deadline:
            raise CliError(f"service {name} did not answer within {SERVICE_TIMEOUT_S:g} s")
        self._wait(POLL_S)
