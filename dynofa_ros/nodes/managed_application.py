"""A node that runs an application: its lifecycle, parameters, commands and messages.

`ManagedApplication` is the public class for programs of others (docs/own_node.md), `NetworkNode` what the
nodes of this package have on top of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar

from rclpy.lifecycle import LifecyclePublisher

from dynofa_ros import topics
from dynofa_ros.application.application import Application, Settings, loaded
from dynofa_ros.application.levels import AtLevel, Level, Levels, measured
from dynofa_ros.application.networks import Libraries
from dynofa_ros.application.task import Output, Task, tasks
from dynofa_ros.application.worker import Outcome
from dynofa_ros.convert import from_ros, ros_types, to_ros
from dynofa_ros.messages import AppTargets, Header
from dynofa_ros.nodes import perception_status as status
from dynofa_ros.nodes.perception_parameters import PROGRAM_PARAMETERS, TARGETS, with_defaults
from dynofa_ros.ros.diagnostics import Status
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.topics import Topic

WATCH_PERIOD_S = 0.2
LOG_PERIOD_S = 5.0
PUBLISHED = (topics.MONITOR, topics.TARGETS, topics.SUBNET_STATE)


class ManagedApplication(ManagedNode):
    """One application under the runtime manager, on the topics `perception/<node name>/...`.

    A program writes ``answer`` and hands its requests to ``accept``. It gets the parameters of the targets,
    the level that the manager commands (its own choice while nobody manages), the newest request, a monitor
    per answer, and diagnostics.

    levels: what the program can run. defaults: of the parameters, by name. queued: requests wait in order;
    else a newer one takes the place of one that waits. specs: the table of parameters.
    """

    malformed = "request dropped"  # what is said in the log of one that cannot be decoded

    def __init__(
        self,
        name: str,
        levels: Sequence[Level] = (),
        *,
        defaults: Mapping[str, Any] | None = None,
        queued: bool = False,
        specs: Iterable[ParameterSpec] = PROGRAM_PARAMETERS,
        **arguments: Any,
    ) -> None:
        self._application: Application | None = None
        self._levels, self._queued = tuple(levels), queued
        super().__init__(name, with_defaults(specs, defaults or {}), topics.LIBRARY, **arguments)
        self.app = self.get_name()
        self._publish: dict[Topic, Callable[[Any], None]] = {}
        self._views: dict[Topic, LifecyclePublisher] = {}
        self.diagnostics.add("input", self._of(self.input_status))
        self.diagnostics.add("answers", self._of(status.answers))
        self.diagnostics.add("deadline", self._of(status.deadlines))
        self.diagnostics.add("sub-network", self._of(status.subnet))

    # --- hooks of a program ------------------------------------------------------------------

    def answer(self, request: Any, level: Level) -> Any:
        """The answer to a request; called in the inference thread, timed as `inference_ms`."""
        raise NotImplementedError(f"{type(self).__name__} has no answer()")

    def publish(self, answer: Any, request: Any) -> float | None:
        """Publish the answer to a request. Returns how sure it is, 0..1, None = not known."""

    def prepare(self, level: Level) -> None:
        """Acquire what a level needs, before it is first used; another one answers meanwhile."""

    def sample(self) -> Any:
        """A usual message, on which levels without a latency are measured at the start."""
        raise ValueError("a level has no latency_ms: give one, or write sample(), a message to measure it on")

    def accept(self, message: Any) -> None:
        """A request came: callback of a subscription, or called elsewhere. Ignored while inactive."""
        if self._application is not None and self.active:
            self._application.accept(message)

    def decode(self, message: Any) -> tuple[Header, Any]:
        """Header, of ROS or of `messages`, and request of a message. Raises MalformedRequest."""
        found = getattr(message, "header", None)
        return Header(self.get_clock().now().nanoseconds) if found is None else from_ros(found), message

    # --- hooks of the nodes of this package --------------------------------------------------

    def load(self, settings: Settings) -> tuple[Task, Libraries, Mapping[str, Any]]:
        """What is run, what it can run on, and the values of its options. Called to configure."""
        levels = measured(self._levels, self, lambda: self.decode(self.sample())[1])
        libraries = Levels(levels, self)
        for level in libraries.left_out:
            self.warn(f"level {level.id} is left out: another is as quick and as accurate")
        return AtLevel(self, self._queued), libraries, {}

    def listen(self, application: Application) -> None:
        """Subscribe to the requests. Called when the node becomes active."""

    def input_status(self, application: Application) -> Status:
        """Whether requests come, and are such."""
        return status.requests(application)

    def unanswered(self, message: Any, outcome: Outcome, reason: str) -> None:
        """A request gets no answer. Called in any thread."""

    def stream(self, topic: Topic, message: Any) -> None:
        """A result that is not finished. Called in the inference thread."""

    def watch(self, application: Application) -> None:
        """Called several times a second."""

    def send(self, topic: Topic, message: Any) -> None:
        """Publish a message of `messages`; called in the inference thread too."""
        if topic in self._publish:
            self._publish[topic](message)

    # --- lifecycle ---------------------------------------------------------------------------

    def configure(self) -> None:
        given = (field.name for field in fields(Settings))
        settings = Settings(**{name: self.value(name) for name in given if name in self.specs})
        task, libraries, options = self.load(settings)
        for topic in PUBLISHED:
            self._advertise(topic, to_ros)
        for output in task.outputs:
            self._add_output(output)
        self._application = Application(
            self.app,
            task,
            libraries,
            settings,
            self._targets(),
            self.value("subnet_id"),
            options=options,
            decode=self._decoded,
            publish=self.send,
            clock_ns=lambda: self.get_clock().now().nanoseconds,
            warn=self.warn,
            command_clock_ns=self.command_clock_ns,
            stream=self.stream,
            show=self._show,
            unanswered=self.unanswered,
        )

    def activate(self) -> None:
        application = self._application
        assert application is not None
        self._logged_ns = 0
        self._publish[topics.LIBRARY] = lambda message: self.sole_publisher.publish(to_ros(message))
        application.start()
        self.listen(application)
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
        self._views.clear()

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
            self._application.options = self._options(self._application.task.options)
            self._application.change(self._targets(), self.value("subnet_id"))

    def _targets(self) -> AppTargets:
        return AppTargets(app=self.app, **{name: self.value(name) for name in TARGETS})

    def _options(self, options: Iterable[Any]) -> dict[str, Any]:
        return {option.name: self.value(option.name) for option in options}

    def _decoded(self, message: Any) -> tuple[Header, Any]:
        header, request = self.decode(message)
        return header if isinstance(header, Header) else from_ros(header), request

    # --- callbacks ---------------------------------------------------------------------------

    def _on_dvfs_state(self, application: Application, message: Any) -> None:
        application.clocks = from_ros(message).domains

    def _watch(self, application: Application) -> None:
        application.command.watch()
        self.watch(application)
        for problem in application.counters.problems.copy().values():
            if problem.at_ns > self._logged_ns + LOG_PERIOD_S * 1e9:
                self._logged_ns = problem.at_ns
                what = self.malformed if problem.malformed else "frame failed"
                self.warn(f"{what}: {problem.reason}")

    def warn(self, text: str) -> None:
        """One line for the log."""
        self.get_logger().warning(text)

    # --- messages ----------------------------------------------------------------------------

    def _add_output(self, output: Output) -> None:
        """Advertise a topic of results, unless its messages are of another package that is not installed."""

        def types(name: str) -> Callable[..., Any]:
            return ros_types(output.sent_as.get(name, name))

        try:
            ros_types(output.topic.kind)
        except ImportError:
            if not (output.sent_as or output.view):
                raise
            return
        if output.view:
            self._views[output.topic] = self.advertise(output.topic, self.app)
        else:
            self._advertise(output.topic, partial(to_ros, types=types))

    def _show(self, topic: Topic, make: Callable[[], Any]) -> None:
        """Publish a view if somebody subscribes; called in the inference thread."""
        publisher = self._views.get(topic)
        if publisher is not None and publisher.get_subscription_count():
            publisher.publish(make())

    def _advertise(self, topic: Topic, convert: Callable[[Any], Any]) -> None:
        publish = self.advertise(topic, self.app).publish
        self._publish[topic] = lambda message: publish(convert(message))

    # --- diagnostics -------------------------------------------------------------------------

    def _of(self, task: Callable[[Application], Status]) -> Callable[[], Status]:
        """The status of the application while the node is active."""

        def check() -> Status:
            active = self.active and self._application is not None and self._application.current is not None
            return task(self._application) if active and self._application else status.INACTIVE

        return check


class NetworkNode(ManagedApplication):
    """An application that is a task on the sub-networks of a library.

    A subclass subscribes to the requests, decodes them, and says how they come.
    """

    request: ClassVar[str]  # kind of the requests, as tasks name it

    def load(self, settings: Settings) -> tuple[Task, Libraries, Mapping[str, Any]]:
        kind = tasks(self.request)[self.value("task")]
        options = self._options(kind.options)
        return *loaded(kind, settings, options), options
