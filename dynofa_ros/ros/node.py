"""Base of every node: lifecycle with autostart, validated parameters, diagnostics, clean end.

A subclass writes four plain hooks - `configure`, `activate`, `deactivate`, `cleanup` - that return
nothing and raise to fail. Subscriptions and timers are made in `activate` with `subscribe` and `every`
and vanish on deactivation, because rclpy mutes only the publishers of an inactive node.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from dynofa_ros.convert import ros_types
from dynofa_ros.ros import parameters
from dynofa_ros.ros.claim import DISCOVERY_S, EARLY_PERIOD_S, Claim, publishers
from dynofa_ros.ros.command_clock import CommandClock
from dynofa_ros.ros.diagnostics import PERIOD_S, Diagnostics, Level, Status
from dynofa_ros.ros.entities import Inbox, quiet_publisher, quiet_subscription
from dynofa_ros.ros.one_line import one_line
from dynofa_ros.ros.parameters import ParameterError, ParameterSpec
from dynofa_ros.ros.qos import qos_of
from dynofa_ros.topics import DIAGNOSTICS, Topic, absolute, app_of

EARLY_NS = round(0.1e9 * PERIOD_S)  # diagnostics come with what else wakes the node: to wake costs as much
AUTOSTART = ParameterSpec("autostart", True, "configure and activate by itself at start", dynamic=False)

_SUCCESS = TransitionCallbackReturn.SUCCESS
_FAILURE = TransitionCallbackReturn.FAILURE
_ERROR = TransitionCallbackReturn.ERROR
_LIFECYCLE_TASK = "lifecycle"
_INACTIVE = LifecycleState("inactive", State.PRIMARY_STATE_INACTIVE)


class ManagedNode(LifecycleNode):
    """A lifecycle node with a parameter table.

    sole: topic that only one active node may publish. It is published through `sole_publisher`, which exists
    while the node is active; while another node has it, this one does not become active.
    Private names have two underscores, so that no subclass can hide one by accident.
    Raises ParameterError if a parameter given at start-up is not allowed.
    """

    def __init__(
        self, name: str, specs: Iterable[ParameterSpec], sole: Topic | None = None, **node_arguments: Any
    ) -> None:
        super().__init__(name, **node_arguments)
        self.sole_publisher: LifecyclePublisher
        self.__sole, self.__born_s = sole, time.monotonic()
        self.__claim: Claim | None = None
        self.specs = {spec.name: spec for spec in (*specs, AUTOSTART)}
        self.start_error: str | None = None  # why autostart did not reach `active`
        self.active = False
        self.finish_wake_up = self.__guarded(self.__finish_wake_up)  # for `run`
        self.__held = False  # whether `cleanup` is due
        self.__speaking = False  # whether the lifecycle publishers are on
        self.__phase = "unconfigured"
        self.__failure = ""
        self.__callback_failure = ""
        self.__steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.command_clock_ns = CommandClock(
            cast(ROSClock, self.get_clock()), lambda: self.count_publishers("/clock")
        )
        self.__active_subscriptions: list[Subscription] = []
        self.__active_timers: list[Timer] = []
        self.__configured_publishers: list[LifecyclePublisher] = []
        self.__declare_parameters()
        self.diagnostics = Diagnostics(self.get_fully_qualified_name(), platform.node())
        self.diagnostics.add(_LIFECYCLE_TASK, self.__lifecycle_status)
        self.diagnostics.add("time", self.command_clock_ns.status)
        if sole is not None:
            self.diagnostics.add("one of its kind", self.__claim_status)
        self.__diagnostics_publisher = self.create_publisher(
            DiagnosticArray, DIAGNOSTICS.name, qos_of(DIAGNOSTICS), event_callbacks=quiet_publisher()
        )
        if self.value("autostart"):
            self.__autostart_timer = self.create_timer(0.0, self.__autostart, clock=self.__steady_clock)

    # --- hooks of the subclass ---------------------------------------------------------------

    def configure(self) -> None:
        """Acquire what is slow or can fail (files, models, hardware) and create the publishers."""

    def activate(self) -> None:
        """Subscribe, start timers and workers, publish latched states. Publishers work already."""

    def deactivate(self) -> None:
        """Stop workers, restore clocks. Publishers still work. Must bear a half-done `activate`."""

    def cleanup(self) -> None:
        """Release what `configure` acquired. Must bear a half-done `configure`."""

    def check_parameters(self, pending: dict[str, Any]) -> str | None:
        """Why parameter values, each allowed alone, are refused together; None = allowed.

        Called at start-up too, before the constructor of the subclass ends: judge `pending` alone.
        pending: the value of every parameter of the table as it would be after the set.
        """
        return None

    def on_parameters_changed(self, changed: set[str]) -> None:
        """Called after a successful set with the names that were set."""

    def after_wake_up(self) -> None:
        """Called while active, after all callbacks of a wake-up."""

    # --- for the subclass --------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """Value of a parameter of the table, of the type of its default."""
        return self.get_parameter(name).value

    def is_set(self, name: str) -> bool:
        """Whether a parameter of the table was given at start-up or set since, be it to its default."""
        return name in self.__set

    def full_name(self, topic: Topic, app: str = "") -> str:
        """Name of a topic of this robot, of an application where it is one of each."""
        return absolute(self.get_namespace(), topic.of(app))

    def applications(self, topic: Topic) -> set[str]:
        """Applications of this robot for which somebody publishes a topic."""
        named = (
            (app_of(self.get_namespace(), name, topic), name)
            for name, kinds in self.get_topic_names_and_types()
            if topic.kind in kinds
        )
        return {app for app, name in named if app and self.count_publishers(name)}

    def advertise(self, topic: Topic, app: str = "") -> LifecyclePublisher:
        """Publisher that is mute unless the node is active; it exists until `cleanup`."""
        publisher = self.create_lifecycle_publisher(
            ros_types(topic.kind),
            self.full_name(topic, app),
            qos_of(topic),
            event_callbacks=quiet_publisher(),
        )
        if self.__speaking:
            publisher.on_activate(_INACTIVE)
        self.__configured_publishers.append(publisher)
        return publisher

    def withdraw(self, publisher: LifecyclePublisher) -> None:
        """End a publisher made by `advertise` before `cleanup` does."""
        if publisher in self.__configured_publishers:
            self.__configured_publishers.remove(publisher)
        self.destroy_lifecycle_publisher(publisher)

    def subscribe(
        self,
        topic: Topic,
        callback: Callable[..., None],
        app: str = "",
        *,
        foreign: bool = False,
        raw: bool = False,
    ) -> Subscription:
        """Subscription that exists until deactivation; call it in or after `activate`.

        callback: takes the message, and rclpy's message info where it has a second argument.
        foreign: others than our nodes publish there too, so that rclpy shall warn of a QoS that does not fit.
        raw: the callback takes bytes, for a `decoder`.
        """
        events = None if foreign else quiet_subscription()
        subscription = self.create_subscription(
            ros_types(topic.kind),
            self.full_name(topic, app),
            self.__guarded(callback),
            qos_of(topic),
            event_callbacks=events,
            raw=raw,
        )
        self.__active_subscriptions.append(subscription)
        return subscription

    def subscribe_silently(self, topic: Topic, app: str = "", raw: bool = False) -> Inbox:
        """As `subscribe`, but messages wait (as many as the QoS keeps) until they are taken: no wake-ups."""
        inbox = Inbox(self, ros_types(topic.kind), self.full_name(topic, app), qos_of(topic), raw)
        self.__active_subscriptions.append(inbox.subscription)
        return inbox

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription made by `subscribe` before deactivation does."""
        if subscription in self.__active_subscriptions:
            self.__active_subscriptions.remove(subscription)
        self.destroy_subscription(subscription)

    def every(self, period_s: float, callback: Callable[[], None]) -> Timer:
        """Timer of the steady clock, also in a simulation; it exists until deactivation."""
        timer = self.create_timer(period_s, self.__guarded(callback), clock=self.__steady_clock)
        self.__active_timers.append(timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """End a timer made by `every` before deactivation does."""
        if timer in self.__active_timers:
            self.__active_timers.remove(timer)
        self.destroy_timer(timer)

    # --- parameters --------------------------------------------------------------------------

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """Set one by one, as `ros2 param set` does; each gets our reason if it is refused."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set all or none, with ints taken for doubles, which rclpy refuses on every distribution."""
        unknown = [p.name for p in parameter_list if not self.has_parameter(p.name)]
        ours = {p.name: p.value for p in parameter_list if p.name in self.specs}
        reason = f"{', '.join(unknown)}: no such parameter" if unknown else None
        reason = reason or parameters.refusal(self.specs, ours) or self.__joint_refusal(ours)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        result = super().set_parameters_atomically([self.__coerced(p) for p in parameter_list])
        if result.successful and ours:
            self.__set |= set(ours)
            self.__guarded(self.on_parameters_changed, only_active=False)(set(ours))
        return result

    def __joint_refusal(self, changes: dict[str, Any]) -> str | None:
        pending = {name: self.value(name) for name in self.specs}
        pending |= {name: parameters.coerce(self.specs[name], value) for name, value in changes.items()}
        return self.check_parameters(pending)

    def __coerced(self, parameter: Parameter) -> Parameter:
        if parameter.name not in self.specs:
            return parameter
        return Parameter(parameter.name, value=parameters.coerce(self.specs[parameter.name], parameter.value))

    def __declare_parameters(self) -> None:
        try:
            parameters.declare(self, self.specs.values())
            reason = self.__joint_refusal({})
            if reason is not None:
                raise ParameterError(reason)
        except BaseException:
            self.destroy_node()
            raise
        given = set(getattr(self, "_parameter_overrides", {}))  # rclpy has no public list of them
        self.__set = given & set(self.specs)
        unknown = sorted(name for name in given if not self.has_parameter(name))
        if unknown:
            self.get_logger().warning(f"parameters without meaning here: {', '.join(unknown)}")

    # --- lifecycle ---------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.__held = True
        if not self.__succeeds("configure", self.configure):
            self.__release()
            return _FAILURE
        return self.__reached("inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        super().on_activate(state)
        self.__speaking = True
        if not self.__succeeds("activate", self.__claim_topic):
            self.__be_silent(state)
            return _FAILURE
        if not self.__succeeds("activate", self.activate):
            self.__stop(state)
            return _FAILURE
        self.active = True
        self.__diagnostics_timer = self.every(PERIOD_S, self.publish_diagnostics)
        self.__settle_timer = self.every(EARLY_PERIOD_S, self.__settle)
        return self.__reached("active")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        # Not FAILURE: that would go back to `active` with everything stopped.
        return self.__reached("inactive") if self.__stop(state) else _ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.__reached("unconfigured") if self.__release() else _ERROR

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        stopped = not self.active or self.__stop(state)
        released = self.__release()
        self.__phase = "finalized"
        return self.__reached("finalized") if stopped and released else _FAILURE

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.__release()
        self.__phase = "unconfigured"
        return _SUCCESS  # everything is released: the node can be configured again

    def end(self) -> None:
        """Deactivate, shut down and destroy the node, from whatever state it is in."""
        if self.active:
            self.trigger_deactivate()
        if self.__phase != "finalized":
            self.trigger_shutdown()
        self.destroy_node()

    def publish_diagnostics(self, *tasks: str) -> None:
        """Publish the status of the named tasks, or all; an active node does so once a second by itself."""
        message = self.diagnostics.collect(self.get_clock().now().to_msg(), tasks)
        self.__diagnostics_publisher.publish(message)

    def __finish_wake_up(self) -> None:
        self.after_wake_up()
        if (self.__diagnostics_timer.time_until_next_call() or 0) < EARLY_NS:
            self.__diagnostics_timer.reset()
            self.publish_diagnostics()

    def __stop(self, state: LifecycleState) -> bool:
        self.active = False
        succeeded = self.__succeeds("deactivate", self.deactivate)
        for subscription in list(self.__active_subscriptions):
            self.unsubscribe(subscription)
        for timer in list(self.__active_timers):
            self.cancel(timer)
        self.__be_silent(state)
        return succeeded

    def __be_silent(self, state: LifecycleState) -> None:
        super().on_deactivate(state)
        self.__speaking = False
        if self.__claim is not None:
            self.__claim = None
            self.withdraw(self.sole_publisher)

    def __claim_topic(self) -> None:
        if self.__sole is not None:
            topic = self.full_name(self.__sole, self.get_name())
            time.sleep(max(0.0, self.__born_s + DISCOVERY_S - time.monotonic()))
            self.__claim = Claim(topic, functools.partial(publishers, self, topic))
            self.sole_publisher = self.advertise(self.__sole, self.get_name())
            self.__claim.settle()

    def __claim_status(self) -> Status:
        return self.__claim.status() if self.__claim else Status(Level.OK, "inactive")

    def __settle(self) -> None:
        try:
            if self.__claim is None or self.__claim.settle():
                self.cancel(self.__settle_timer)
        except RuntimeError as error:  # the other one could not be seen yet when this one was activated
            self.trigger_deactivate()
            self.__fail(f"deactivated: {error}")
            self.start_error = self.__failure if self.value("autostart") else None

    def __release(self) -> bool:
        if not self.__held:
            return True
        self.__held = False
        succeeded = self.__succeeds("cleanup", self.cleanup)
        for publisher in list(self.__configured_publishers):
            self.withdraw(publisher)
        return succeeded

    def __succeeds(self, phase: str, hook: Callable[[], None]) -> bool:
        try:
            hook()
        except Exception as error:  # whatever goes wrong, the node must reach a defined state
            self.__fail(f"{phase} failed: {one_line(error)}")
            return False
        return True

    def __fail(self, reason: str) -> None:
        self.__failure = reason
        self.get_logger().error(reason)
        self.publish_diagnostics(_LIFECYCLE_TASK)

    def __reached(self, phase: str) -> TransitionCallbackReturn:
        self.__phase = phase
        self.__failure = ""
        self.get_logger().info(phase)
        self.publish_diagnostics(_LIFECYCLE_TASK)
        return _SUCCESS

    def __autostart(self) -> None:
        self.destroy_timer(self.__autostart_timer)
        if self.__phase != "unconfigured":
            return  # a manager was faster
        if self.trigger_configure() != _SUCCESS or self.trigger_activate() != _SUCCESS:
            self.start_error = self.__failure

    def __lifecycle_status(self) -> Status:
        failure, self.__callback_failure = self.__failure or self.__callback_failure, ""
        return Status(Level.ERROR if failure else Level.OK, failure or self.__phase, {"state": self.__phase})

    def __guarded(self, callback: Callable[..., None], *, only_active: bool = True) -> Callable[..., None]:
        """`callback`, but quiet while inactive, and an exception is reported instead of ending the node."""

        @functools.wraps(callback)
        def guarded(*arguments: Any) -> None:
            if only_active and not self.active:
                return
            try:
                callback(*arguments)
            except Exception as error:  # one bad message must not end the node
                name = getattr(callback, "__name__", "callback")
                self.__callback_failure = f"{name} failed: {one_line(error)}"
                self.get_logger().error(self.__callback_failure, throttle_duration_sec=1.0)

        return guarded
