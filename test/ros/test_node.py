"""The base of the nodes: transitions, parameters over services, diagnostics, and how a process ends."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_client import TIMEOUT_S
from std_msgs.msg import String

from dynofa_ros.ros.diagnostics import Diagnostics, Level, Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.parameters import ParameterError, ParameterSpec
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import Topic

pytestmark = pytest.mark.live

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR
SPECS = (
    ParameterSpec("latency_target_ms", 33.0, "time allowed", unit="ms", minimum=1.0, maximum=1000.0),
    ParameterSpec("accuracy_floor", 0.0, "never below", minimum=0.0, maximum=1.0),
    ParameterSpec("accuracy_target", 1.0, "wanted", minimum=0.0, maximum=1.0),
    ParameterSpec("engine", "torch", "what runs it", choices=("torch", "onnxruntime"), dynamic=False),
)


IN, OUT = Topic("demo/in", "std_msgs/msg/String"), Topic("demo/out", "std_msgs/msg/String")
LATE = Topic("demo/late", "std_msgs/msg/String", depth=1, latched=True)


class Probe(ManagedNode):
    """Counts what it is called for; `fail_in` makes one hook raise."""

    def __init__(self, fail_in: str = "", **arguments: Any) -> None:
        self.calls: list[str] = []
        self.changed: list[set[str]] = []
        self.ticks = 0
        self.received: list[str] = []
        self.fail_in = fail_in
        super().__init__("front", SPECS, namespace="/robot1/perception", **arguments)

    def configure(self) -> None:
        self.publisher = self.advertise(OUT)
        self._called("configure")

    def activate(self) -> None:
        self.subscribe(IN, self.on_message)
        self.every(0.01, self.on_tick)
        self._called("activate")

    def deactivate(self) -> None:
        self._called("deactivate")

    def cleanup(self) -> None:
        self._called("cleanup")

    def check_parameters(self, pending: dict[str, Any]) -> str | None:
        if pending["accuracy_floor"] > pending["accuracy_target"]:
            return "accuracy_floor must not be above accuracy_target"
        return None

    def on_parameters_changed(self, changed: set[str]) -> None:
        self.changed.append(changed)

    def on_tick(self) -> None:
        self.ticks += 1
        self.publisher.publish(String(data=str(self.ticks)))

    def on_message(self, message: String) -> None:
        if message.data == "bad":
            raise KeyError("no such thing")
        self.received.append(message.data)

    def _called(self, hook: str) -> None:
        self.calls.append(hook)
        if hook == self.fail_in:
            raise OSError(f"{hook} of the probe")


class Bench:
    """A node under test and an observer, spun together."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.observer = Node("observer", context=self.context)
        self.executor.add_node(self.observer)
        self.heard: list[str] = []
        self.observer.create_subscription(
            String, "/robot1/demo/out", lambda message: self.heard.append(message.data), qos_of(OUT)
        )
        self.diagnostics: list[Any] = []
        self.observer.create_subscription(
            DiagnosticArray, "/diagnostics", lambda message: self.diagnostics.extend(message.status), 10
        )
        self.input = self.observer.create_publisher(String, "/robot1/demo/in", qos_of(IN))

    def node(self, fail_in: str = "", autostart: bool = False, **overrides: Any) -> Probe:
        given = [
            Parameter(name, value=value) for name, value in {"autostart": autostart, **overrides}.items()
        ]
        node = Probe(fail_in, context=self.context, parameter_overrides=given)
        self.executor.add_node(node)
        return node

    def spin(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def spin_until(self, condition: Callable[[], bool], seconds: float = TIMEOUT_S) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.executor.spin_once(timeout_sec=0.01)
        return True

    def call(self, service: Any, name: str, request: Any) -> Any:
        client = self.observer.create_client(service, f"/robot1/perception/front/{name}")
        assert self.spin_until(client.service_is_ready)
        future = client.call_async(request)
        assert self.spin_until(future.done)
        self.observer.destroy_client(client)
        return future.result()

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(SetParameters, "set_parameters", request).results[0]
        return result.successful, result.reason

    def change_state(self, transition: int) -> tuple[bool, str]:
        request = ChangeState.Request(transition=Transition(id=transition))
        success = self.call(ChangeState, "change_state", request).success
        return success, self.call(GetState, "get_state", GetState.Request()).current_state.label

    def close(self) -> None:
        for node in list(self.executor.get_nodes()):
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_autostart_configures_and_activates_by_itself(bench: Bench) -> None:
    node = bench.node(autostart=True)
    assert bench.spin_until(lambda: node.active)
    assert node.calls == ["configure", "activate"]
    assert node.start_error is None
    assert bench.spin_until(lambda: node.ticks > 3 and len(bench.heard) > 3)


def test_without_autostart_the_node_waits(bench: Bench) -> None:
    node = bench.node()
    bench.spin(0.3)
    assert node.calls == []


def test_an_inactive_node_runs_no_callback_and_says_nothing(bench: Bench) -> None:
    node = bench.node()
    node.trigger_configure()
    node.trigger_activate()
    assert bench.spin_until(lambda: len(bench.heard) > 3)
    assert bench.spin_until(lambda: bench.input.get_subscription_count() == 1)
    node.trigger_deactivate()
    assert bench.spin_until(lambda: bench.heard[-1] == str(node.ticks)), "what it said before"
    ticks, heard = node.ticks, len(bench.heard)
    bench.input.publish(String(data="unheard"))
    node.publisher.publish(String(data="mute"))
    bench.spin(0.3)
    assert (node.ticks, len(bench.heard), node.received) == (ticks, heard, [])
    assert bench.spin_until(lambda: bench.input.get_subscription_count() == 0)
    node.trigger_activate()
    assert bench.spin_until(lambda: bench.input.get_subscription_count() == 1)
    bench.input.publish(String(data="heard"))
    assert bench.spin_until(lambda: node.received == ["heard"] and node.ticks > ticks)


def test_transitions_over_the_services(bench: Bench) -> None:
    node = bench.node()
    assert bench.change_state(Transition.TRANSITION_CONFIGURE) == (True, "inactive")
    assert bench.change_state(Transition.TRANSITION_ACTIVATE) == (True, "active")
    assert bench.change_state(Transition.TRANSITION_DEACTIVATE) == (True, "inactive")
    assert bench.change_state(Transition.TRANSITION_CLEANUP) == (True, "unconfigured")
    assert bench.change_state(Transition.TRANSITION_CONFIGURE) == (True, "inactive")
    assert node.calls == ["configure", "activate", "deactivate", "cleanup", "configure"]


@pytest.mark.parametrize(
    ("fail_in", "transitions", "results", "calls"),
    [
        ("configure", ["configure"], [FAILURE], ["configure", "cleanup"]),
        ("activate", ["configure", "activate"], [SUCCESS, FAILURE], ["configure", "activate", "deactivate"]),
        (
            "deactivate",
            ["configure", "activate", "deactivate"],
            [SUCCESS, SUCCESS, ERROR],
            ["configure", "activate", "deactivate", "cleanup"],
        ),
        ("cleanup", ["configure", "cleanup"], [SUCCESS, ERROR], ["configure", "cleanup"]),
    ],
)
def test_a_hook_that_raises_leaves_nothing_behind(
    bench: Bench,
    fail_in: str,
    transitions: list[str],
    results: list[TransitionCallbackReturn],
    calls: list[str],
) -> None:
    node = bench.node(fail_in)
    assert bench.spin_until(lambda: node.count_subscribers("/diagnostics") == 1)
    assert [getattr(node, f"trigger_{transition}")() for transition in transitions] == results
    assert node.calls == calls
    assert not node.active
    bench.spin(0.1)
    assert node.ticks == 0 or fail_in == "deactivate"
    failure = f"{fail_in} failed: {fail_in} of the probe"
    assert bench.spin_until(lambda: any(status.message == failure for status in bench.diagnostics))

    node.fail_in = ""  # and it can be started again
    if fail_in != "activate":
        assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert bench.spin_until(lambda: node.ticks > 0)


def test_shutdown_from_active_gives_everything_back(bench: Bench) -> None:
    node = bench.node(autostart=True)
    assert bench.spin_until(lambda: node.active)
    assert node.trigger_shutdown() == SUCCESS
    assert node.calls == ["configure", "activate", "deactivate", "cleanup"]


def test_a_failed_autostart_says_why(bench: Bench) -> None:
    node = bench.node("configure", autostart=True)
    assert bench.spin_until(lambda: node.start_error is not None)
    assert node.start_error == "configure failed: configure of the probe"


def test_a_callback_that_raises_is_reported_and_the_node_goes_on(bench: Bench) -> None:
    node = bench.node(autostart=True)
    assert bench.spin_until(lambda: bench.input.get_subscription_count() == 1)
    bench.input.publish(String(data="bad"))
    bench.input.publish(String(data="good"))
    assert bench.spin_until(lambda: node.received == ["good"])
    assert bench.spin_until(lambda: any("on_message failed" in s.message for s in bench.diagnostics))
    (status,) = [s for s in bench.diagnostics if "on_message failed" in s.message]
    assert status.level == bytes([Level.ERROR])
    assert "KeyError: 'no such thing' (test_node.py:" in status.message
    name = status.name
    assert bench.spin_until(
        lambda: [s.message for s in bench.diagnostics if s.name == name][-1] == "active"
    ), "reported once"


def test_diagnostics_once_a_second_under_the_full_name(bench: Bench) -> None:
    node = bench.node(autostart=True)
    node.diagnostics.hardware_id = "xavier_nx"
    node.diagnostics.add(
        "probe", lambda: Status(Level.WARN, "warm", {"temperature_c": 71.25, "sensor": "gpu"})
    )
    start = time.monotonic()
    assert bench.spin_until(lambda: len([s for s in bench.diagnostics if s.name.endswith("probe")]) == 2)
    assert time.monotonic() - start > 1.5
    status = next(s for s in bench.diagnostics if s.name.endswith("probe"))
    assert status.name == "/robot1/perception/front: probe"
    assert status.hardware_id == "xavier_nx"
    assert status.level == bytes([Level.WARN])
    assert {pair.key: pair.value for pair in status.values} == {"temperature_c": "71.25", "sensor": "gpu"}


def test_a_diagnostic_task_that_raises_does_not_hide_the_others() -> None:
    diagnostics = Diagnostics("/front", "board")
    diagnostics.add("broken", lambda: Status(Level.OK, str(1 / 0)))
    diagnostics.add("fine", lambda: Status(Level.OK, "fine"))
    broken, fine = diagnostics.collect(Time()).status
    assert broken.level == bytes([Level.ERROR])
    assert "ZeroDivisionError" in broken.message
    assert fine.message == "fine"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "latency_target_ms",
            -5.0,
            "latency_target_ms must be a number from 1.0 to 1000.0 ms, got -5.0",
        ),
        (
            "latency_target_ms",
            math.nan,
            "latency_target_ms must be a number from 1.0 to 1000.0 ms, got nan",
        ),
        (
            "latency_target_ms",
            "fast",
            "latency_target_ms must be a number from 1.0 to 1000.0 ms, got 'fast'",
        ),
        (
            "latency_target_ms",
            None,
            "latency_target_ms must be a number from 1.0 to 1000.0 ms, got None",
        ),
        ("engine", "torch", "engine can only be set at start-up"),
        ("autostart", False, "autostart can only be set at start-up"),
        ("speed", 1, "speed: no such parameter"),
    ],
)
def test_a_bad_set_is_refused_with_the_reason(bench: Bench, name: str, value: Any, reason: str) -> None:
    node = bench.node()
    assert bench.set_parameter(name, value) == (False, reason)
    assert node.set_parameters([Parameter(name, value=value)])[0].reason == reason
    assert node.changed == []
    assert node.value("latency_target_ms") == 33.0


def test_a_good_set_is_taken_and_an_int_becomes_a_float(bench: Bench) -> None:
    node = bench.node()
    assert bench.set_parameter("latency_target_ms", 20) == (True, "")
    assert node.value("latency_target_ms") == 20.0
    assert node.get_parameter("latency_target_ms").type_ == Parameter.Type.DOUBLE
    assert node.changed == [{"latency_target_ms"}]


def test_a_parameter_set_to_its_default_is_told_from_one_left_alone(bench: Bench) -> None:
    node = bench.node(accuracy_floor=0.0)
    assert node.is_set("accuracy_floor") and not node.is_set("accuracy_target")
    refused = node.set_parameters([Parameter("accuracy_target", value=7.0)])[0]
    assert not refused.successful and not node.is_set("accuracy_target")
    assert node.set_parameters([Parameter("accuracy_target", value=1.0)])[0].successful
    assert node.is_set("accuracy_target")


def test_rules_between_parameters_see_all_that_is_set_together(bench: Bench) -> None:
    node = bench.node()
    assert bench.set_parameter("accuracy_target", 0.5) == (True, "")
    refusal = (False, "accuracy_floor must not be above accuracy_target")
    assert bench.set_parameter("accuracy_floor", 0.7) == refusal
    pairs = [Parameter("accuracy_floor", value=0.7), Parameter("accuracy_target", value=1)]
    request = SetParametersAtomically.Request(parameters=[pair.to_parameter_msg() for pair in pairs])
    assert bench.call(SetParametersAtomically, "set_parameters_atomically", request).result.successful
    assert (node.value("accuracy_floor"), node.value("accuracy_target")) == (0.7, 1.0)
    assert node.changed[-1] == {"accuracy_floor", "accuracy_target"}
    pairs = [Parameter("accuracy_floor", value=0.1), Parameter("accuracy_target", value=7.0)]
    assert not node.set_parameters_atomically(pairs).successful
    assert node.value("accuracy_floor") == 0.7, "all or none"


def test_bad_values_at_start_up_raise(bench: Bench) -> None:
    with pytest.raises(ParameterError, match="latency_target_ms must be .*, got -5.0"):
        bench.node(latency_target_ms=-5.0)
    with pytest.raises(ParameterError, match="accuracy_floor must not be above"):
        bench.node(accuracy_floor=0.9, accuracy_target=0.5)
    assert bench.node(latency_target_ms=20).value("latency_target_ms") == 20.0


def test_publishers_made_while_active_speak_and_can_be_withdrawn(bench: Bench) -> None:
    node = bench.node(autostart=True)
    assert bench.spin_until(lambda: node.active)
    late = node.advertise(LATE)
    late.publish(String(data="hello"))
    heard: list[str] = []
    bench.observer.create_subscription(
        String, "/robot1/demo/late", lambda message: heard.append(message.data), qos_of(LATE)
    )
    assert bench.spin_until(lambda: heard == ["hello"])
    node.withdraw(late)
    assert bench.spin_until(lambda: bench.observer.count_publishers("/robot1/demo/late") == 0)
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS


PROCESS = """
    import sys, time
    from rclpy.duration import Duration
    from std_msgs.msg import String
    from dynofa_ros.topics import Topic
    from dynofa_ros.ros.node import ManagedNode
    from dynofa_ros.ros.run import run
    from dynofa_ros.ros.parameters import ParameterSpec

    class Held(ManagedNode):
        def __init__(self):
            rate = ParameterSpec("rate", 1.0, "any", minimum=0.5)
            super().__init__("held", [rate, ParameterSpec("file", "", "read by configure")])
        def configure(self):
            self.out = self.advertise(Topic("demo/out", "std_msgs/msg/String", depth=1, latched=True))
            if self.value("file"):
                open(self.value("file")).close()
        def activate(self):
            print("active", flush=True)
        def deactivate(self):
            end = time.monotonic() + 60
            while not self.out.get_subscription_count() and time.monotonic() < end:
                time.sleep(0.01)
            self.out.publish(String(data="restored"))
            self.out.wait_for_all_acked(Duration(seconds=60))
            print("restored", flush=True)
        def cleanup(self):
            print("clean", flush=True)

    sys.exit(run(Held))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the node above as a process; whatever still runs at the end of the test is killed."""
    script = tmp_path / "held"
    script.write_text(textwrap.dedent(PROCESS))
    processes: list[subprocess.Popen[str]] = []

    def started(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), "--ros-args", "-r", "__ns:=/robot1/demo", *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_process_with_everything_given_back(
    start: Start, bench: Bench, number: signal.Signals
) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline() == "active\n"
    assert bench.spin_until(lambda: bench.observer.count_publishers("/robot1/demo/out") == 1)
    process.send_signal(number)
    while process.poll() is None:  # Ctrl-C reaches a node twice, from the terminal and from ros2 launch
        time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert output == "restored\nclean\n"
    assert "Traceback" not in errors
    assert bench.spin_until(lambda: bench.heard == ["restored"]), "the context was open to the end"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-p", "rate:=0.1"], "held cannot start: rate must be a finite number of at least 0.5, got 0.1"),
        (["-p", "rate:=fast"], "held cannot start: rate must be a finite number of at least 0.5, got 'fast'"),
        (
            ["-p", "file:=/no/such/file"],
            "configure failed: [Errno 2] No such file or directory: '/no/such/file'",
        ),
        (["--params-file", "/no/such.yaml"], "/no/such.yaml"),
    ],
)
def test_a_start_that_cannot_be_is_one_line_and_exit_code_1(
    start: Start, arguments: list[str], line: str
) -> None:
    process = start(*arguments)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert line in errors
    assert "Traceback" not in errors
    assert "active" not in output


@pytest.mark.usefixtures("bench")  # hears the last words
def test_yaml_takes_integers_and_warns_of_unknown_names(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**/held:\n  ros__parameters:\n    rate: 3\n    raet: 3\n")
    process = start("--params-file", str(file))
    assert process.stdout is not None
    assert process.stdout.readline() == "active\n"
    process.terminate()
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert "parameters without meaning here: raet" in errors
