"""Runtime manager node: finds applications, collects monitors, steps the manager, sends its commands."""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypeAlias

from rclpy.lifecycle import LifecyclePublisher
from rclpy.subscription import Subscription

from dynofa_ros import topics
from dynofa_ros.cdr import to_cdr
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import OBJECTIVES, Departure, Input, Monitors, Parameters, make_input
from dynofa_ros.manager.runtime_manager import Decision, no_collection
from dynofa_ros.manager.snapshot import snapshot
from dynofa_ros.messages import (
    AppDecision,
    AppTargets,
    DvfsCommand,
    InferenceMonitor,
    SubnetLibrary,
    SubnetState,
)
from dynofa_ros.nodes import manager_status as status
from dynofa_ros.ros.decoding import decoder
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.entities import Inbox
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.ros.run import run
from dynofa_ros.topics import Topic

DISCOVERY_PERIOD_S = 0.5
EARLY_S = 2.0  # after a start, in which every look discovers: applications may have lost their manager
EVENT_DELAY_S = 0.02  # events that come together are answered together
NEARLY = 0.9  # of a period: whatever wakes the node then brings forward what is due
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.05, 0.2  # at monitors, each a wake-up: one per frame of the fastest
RECENT_STEPS = 100
MOST_SILENT = 600  # messages of a topic between two steps: telemetry at 50 Hz in the longest control period
SNAPSHOT_PERIOD_S = 10.0
RENEWAL_NS = 1_150_000_000  # of the device's command; where steps are frequent the manager renews it sooner
MISSED_STEPS = 2.0  # control periods without a step after which nothing is renewed
MAX_INPUTS = 2000  # of a step, which comes before its time where half of them wait; more are lost

_DEFAULT = Parameters()
PARAMETERS = (
    ParameterSpec(
        "objective",
        _DEFAULT.objective,
        "what to aim for once power cap, temperature, accuracy floors and deadlines hold: "
        + "; ".join(f"'{name}' = {meaning}" for name, meaning in OBJECTIVES.items()),
        choices=tuple(OBJECTIVES),
    ),
    ParameterSpec(
        "power_cap_w",
        _DEFAULT.power_cap_w,
        "power that the whole module may take; with neither a power sensor nor a power model decisions are "
        "infeasible",
        unit="W",
        minimum=0.0,
        allow_infinite=True,
    ),
    ParameterSpec(
        "temperature_limit_c",
        _DEFAULT.temperature_limit_c,
        "temperature that the hottest sensor may reach; keep it below the trip point of the board. Without a "
        "thermometer decisions are infeasible where this is set, whatever the value",
        unit="C",
        minimum=30.0,
        maximum=120.0,
        unset=True,
    ),
    ParameterSpec(
        "control_period_s",
        _DEFAULT.control_period_s,
        "time between two steps; events are answered at once",
        unit="s",
        minimum=0.02,
        maximum=10.0,
    ),
    ParameterSpec(
        "min_dwell_s",
        _DEFAULT.min_dwell_s,
        "time for which a better operating point must have been possible, and the present one in force, "
        "before it is taken; degradation and changes by the user do not wait",
        unit="s",
        minimum=0.0,
        maximum=60.0,
    ),
    ParameterSpec(
        "battery_energy_j",
        _DEFAULT.battery_energy_j,
        "objective 'battery': energy that the whole module may use from the moment this or battery_time_s is "
        "set",
        unit="J",
        minimum=0.0,
        allow_infinite=True,
    ),
    ParameterSpec(
        "battery_time_s",
        _DEFAULT.battery_time_s,
        "objective 'battery': time for which battery_energy_j has to last",
        unit="s",
        minimum=1.0,
        maximum=1e7,
    ),
)


_Collect: TypeAlias = Callable[[bytes, dict[str, Any]], None]  # of a message, with what rclpy says about it


@dataclass
class _App:
    """Connections to one application. answered_ns: by the command clock, when it last answered a command."""

    subscriptions: list[Subscription]
    commands: LifecyclePublisher
    answered_ns: int


class ManagerNode(ManagedNode):
    """Node `dynofa/manager`: one per user namespace, it manages the applications of that namespace only."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("manager", PARAMETERS, topics.DVFS_COMMAND, namespace=topics.CORE, **node_arguments)
        self._apps: dict[str, _App] = {}
        self._manager = RuntimeManager()
        self._decision: Decision | None = None
        self._compute_ms: deque[float] = deque(maxlen=RECENT_STEPS)
        self._lost_inputs = self._known_lost = 0
        self.diagnostics.add("telemetry", lambda: status.telemetry(self._manager.state, self._now_ns()))
        self.diagnostics.add(
            "decision", lambda: status.decision(self._manager, self._decision, self._compute_ms)
        )
        self.diagnostics.add("applications", self._applications_status)
        self.diagnostics.add("monitors", self._monitors_status)

    # --- lifecycle ---------------------------------------------------------------------------

    def configure(self) -> None:
        self._decisions = self.advertise(topics.DECISION)
        self._snapshots = self.advertise(topics.MANAGER_STATE)

    def activate(self) -> None:
        self._manager = RuntimeManager()
        self._decision = None
        self._inputs: list[tuple[int, Input]] = []  # with when they came
        self._read_parameters()
        self._lost_inputs = self._known_lost = 0
        self._compute_ms.clear()
        self._asked = False  # whether an event asks for a step
        self._started_s = time.monotonic()
        self._discovered_s = self._last_step_s = 0.0
        self._clocks: DvfsCommand | None = None  # the last command to the device
        self._clocks_ns = self._stepped_ns = 0  # by the command clock: when it was sent, and a step succeeded
        self._snapshot_s = -math.inf
        self._silent: dict[str, tuple[Inbox, _Collect]] = {}
        for topic in (topics.TELEMETRY, topics.DVFS_STATE):
            self._listen(topic)
        for topic in (topics.CAPABILITIES, topics.POWER_MODEL):
            self.subscribe(topic, self._collector(topic), raw=True)
        self._look_timer = self.every(LONGEST_LOOK_S, self._look)

    def deactivate(self) -> None:
        for app in list(self._apps):
            self._forget(app)

    def check_parameters(self, pending: dict[str, Any]) -> str | None:
        if pending["objective"] == "battery" and math.isinf(pending["battery_energy_j"]):
            return "objective 'battery' needs a budget: set battery_energy_j (J) and battery_time_s (s) first"
        return None

    def on_parameters_changed(self, changed: set[str]) -> None:
        if not self.active:  # `activate` reads them
            return
        if changed & {spec.name for spec in PARAMETERS}:
            self._read_parameters()
            self._asked = True

    def _read_parameters(self) -> None:
        self._in_force = Parameters(
            **{spec.name: self.value(spec.name) for spec in PARAMETERS},
            temperature_asked=self.is_set("temperature_limit_c"),
        )

    # --- monitors ----------------------------------------------------------------------------

    def _discover(self) -> None:
        """Follows the applications of this namespace as they come and go."""
        self._renew_clocks()
        found = self.applications(topics.TARGETS)
        for app in self._apps.keys() - found:
            self._forget(app)
            self._keep(time.time_ns(), make_input(topics.TARGETS.of(app), Departure(app)))
            self._asked = True
        for app in found - self._apps.keys():
            self._follow(app)

    def _follow(self, app: str) -> None:
        self.get_logger().info(f"application {app} found")
        subscriptions = [
            self.subscribe(topic, self._collector(topic, app), app, raw=True)
            for topic in (topics.TARGETS, topics.LIBRARY)
        ]
        subscriptions += [self._listen(topic, app) for topic in (topics.SUBNET_STATE, topics.MONITOR)]
        commands = self.advertise(topics.SUBNET_COMMAND, app)
        self._apps[app] = _App(subscriptions, commands, self.command_clock_ns())

    def _forget(self, app: str) -> None:
        self.get_logger().info(f"application {app} gone")
        connections = self._apps.pop(app)
        for topic in (topics.SUBNET_STATE, topics.MONITOR):
            del self._silent[topic.of(app)]
        for subscription in connections.subscriptions:
            self.unsubscribe(subscription)
        self.withdraw(connections.commands)

    def _listen(self, topic: Topic, app: str = "") -> Subscription:
        """Keep the messages of a topic without being woken by them."""
        inbox = self.subscribe_silently(replace(topic, depth=MOST_SILENT), app, raw=True)
        self._silent[topic.of(app)] = inbox, self._collector(topic, app)
        return inbox.subscription

    def _take(self, names: Iterable[str]) -> None:
        """Keep what has come of these topics without waking the node."""
        for name in names:
            inbox, collect = self._silent[name]
            for message, info in inbox.take():
                collect(message, info)

    def _collector(self, topic: Topic, app: str = "") -> _Collect:
        """Callback that keeps the messages of a topic for the next step, and asks for it after an event."""
        name, decode = topic.of(app), decoder(topic)

        def collect(data: bytes, info: dict[str, Any]) -> None:
            try:
                item = make_input(name, decode(data))
            except ValueError as error:
                self.get_logger().warning(f"ignored: {error}", throttle_duration_sec=5.0)
                return
            self._keep(info["received_timestamp"] or time.time_ns(), item)  # not every middleware knows it
            message = item.message
            if isinstance(message, SubnetState):
                self._apps[app].answered_ns = self.command_clock_ns()
            elif isinstance(message, InferenceMonitor):
                self._asked |= self._manager.urgent(message)
            else:
                self._asked |= isinstance(message, AppTargets | SubnetLibrary)

        return collect

    def _keep(self, came_ns: int, item: Input) -> None:
        if len(self._inputs) < MAX_INPUTS:
            self._inputs.append((came_ns, item))
        else:
            self._lost_inputs += 1

    # --- steps -------------------------------------------------------------------------------

    def _set_look_period(self, apps: Iterable[AppDecision]) -> None:
        """A part of the control period, so that steps come with looks."""
        fastest_hz = max((1.0 / LONGEST_LOOK_S, *(app.rate_hz for app in apps)))
        period_s = self._in_force.control_period_s
        looks = math.ceil(period_s / max(SHORTEST_LOOK_S, 1.0 / fastest_hz) - 1e-6)
        if (look_ns := round(1e9 * period_s / looks)) != self._look_timer.timer_period_ns:
            self._look_timer.timer_period_ns = look_ns

    def after_wake_up(self) -> None:
        """Answer an event at once. Where another executor than that of `run` spins the node, a look does."""
        if self._asked:
            self._look()

    def _look(self) -> None:
        """Keep the monitors that have come, which may ask for a step, and step where it is time to."""
        self._take([topics.MONITOR.of(app) for app in self._apps])
        now_s = time.monotonic()
        early = now_s - self._started_s < EARLY_S
        if early or now_s - self._discovered_s >= NEARLY * DISCOVERY_PERIOD_S:
            self._discovered_s = now_s
            self._discover()
        passed_s = now_s - self._last_step_s
        if self._asked or len(self._inputs) >= MAX_INPUTS // 2:
            if passed_s < EVENT_DELAY_S:
                time.sleep(EVENT_DELAY_S - passed_s)
            self._look_timer.reset()
            self._step()
        elif passed_s >= NEARLY * self._in_force.control_period_s:
            self._step()

    def _step(self) -> None:
        self._take(self._silent)
        self._last_step_s, self._asked = time.monotonic(), False
        inputs, self._inputs = tuple(item for _, item in sorted(self._inputs, key=itemgetter(0))), []
        with no_collection():
            decision = self._manager.step(self._now_ns(), Monitors(inputs, self._in_force))
            for command in self._manager.publication_order(decision):
                if isinstance(command, DvfsCommand):
                    self._clocks = command
                    self._send_clocks()
                elif command.app in self._apps:
                    self._apps[command.app].commands.publish(to_cdr(command))
        self._decisions.publish(to_cdr(decision))
        self._decision, self._stepped_ns = decision, self.command_clock_ns()
        self._compute_ms.append(decision.compute_ms)
        self._set_look_period(decision.apps)
        if self._last_step_s - self._snapshot_s >= SNAPSHOT_PERIOD_S:
            self._snapshot_s = self._last_step_s
            self._publish_snapshot()

    def _send_clocks(self) -> None:
        self._clocks_ns = self.command_clock_ns()
        self.sole_publisher.publish(to_cdr(self._clocks))

    def _renew_clocks(self) -> None:
        """Repeat the last command where steps are so rare that it would lapse in between."""
        now_ns = self.command_clock_ns()
        in_time = now_ns - self._stepped_ns < MISSED_STEPS * self._in_force.control_period_s * 1e9
        if self._clocks is not None and in_time and now_ns - self._clocks_ns >= RENEWAL_NS:
            self._send_clocks()

    def _publish_snapshot(self) -> None:
        """So that a replay can begin with the next step. Without it the robot is managed all the same."""
        try:
            self._snapshots.publish(to_cdr(snapshot(self._manager)))
        except TypeError as error:
            self.get_logger().error(f"no snapshot of the manager's state: {error}")

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # --- diagnostics -------------------------------------------------------------------------

    def _applications_status(self) -> Status:
        # Up to the last step but one: the last one's commands may still be on their way.
        silent_s = {
            name: 1e-9 * (self._stepped_ns - app.answered_ns) - self._in_force.control_period_s
            for name, app in self._apps.items()
        }
        return status.applications(self._manager.state.apps, self._decision, silent_s)

    def _monitors_status(self) -> Status:
        state = self._manager.state
        values: dict[str, object] = {
            f"rejected_{kind}": n for kind, n in sorted(state.refusals.counts.items())
        }
        values["lost_inputs"] = self._lost_inputs
        lost, self._known_lost = self._lost_inputs - self._known_lost, self._lost_inputs
        if lost:
            return Status(Level.WARN, f"{lost} inputs were lost: more than {MAX_INPUTS} in a step", values)
        if state.refusals.last:
            values["last_rejection"] = state.refusals.last
            return Status(Level.WARN, f"refused: {state.refusals.last}", values)
        return Status(Level.OK, "all inputs accepted", values)


def main() -> int:
    """Entry point of the executable `manager_node`."""
    gc.freeze()  # the modules: no collection has to visit them in the middle of a step
    return run(ManagerNode)
