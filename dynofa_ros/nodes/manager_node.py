"""Runtime manager node: finds applications, collects monitors, steps the manager, sends its commands."""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rclpy.lifecycle import LifecyclePublisher
from rclpy.subscription import Subscription

from dynofa_ros import topics
from dynofa_ros.convert import to_ros
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import OBJECTIVES, Departure, Input, Monitors, Parameters, make_input
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.manager.snapshot import snapshot
from dynofa_ros.messages import DvfsCommand, InferenceMonitor
from dynofa_ros.nodes import manager_status as status
from dynofa_ros.ros.decoding import decoder
from dynofa_ros.ros.diagnostics import Level, Status
from dynofa_ros.ros.entities import Inbox
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.ros.run import run
from dynofa_ros.topics import Topic

DISCOVERY_PERIOD_S = 0.5
EARLY_DISCOVERY_PERIOD_S, EARLY_S = 0.1, 2.0  # after a start: applications may run that lost their manager
EVENT_DELAY_S = 0.02  # events that come together are answered together
NEARLY = 0.9  # of a control period: whatever wakes the node then brings the step forward
RECENT_STEPS = 100
LOOK_PERIOD_S = 0.05  # at monitors and telemetry: a missed deadline is answered so soon
MOST_SILENT = 200  # messages of a topic that may come between two looks
SNAPSHOT_PERIOD_S = 10.0
RENEWAL_S = 1.25  # of the device's command; where steps are frequent the manager renews it sooner
MISSED_STEPS = 2.0  # control periods without a step after which nothing is renewed
MAX_INPUTS = 2000  # of a step, which then comes before its time; more are lost

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


@dataclass
class _App:
    """Connections to one application."""

    subscriptions: list[Subscription]
    commands: LifecyclePublisher
    answered_s: float = field(default_factory=time.monotonic)  # when it last answered a command


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
        self._inputs: list[Input] = []
        self._read_parameters()
        self._lost_inputs = self._known_lost = 0
        self._compute_ms.clear()
        self._last_step_s = 0.0
        self._clocks: DvfsCommand | None = None  # the last command to the device
        self._clocks_s = self._stepped_s = 0.0  # when it was sent, and when a step succeeded
        self._snapshot_s = -math.inf
        self._silent: dict[str, tuple[Inbox, Callable[[bytes], Input | None]]] = {}
        self._listen(topics.TELEMETRY)
        for topic in (topics.CAPABILITIES, topics.POWER_MODEL, topics.DVFS_STATE):
            self.subscribe(topic, self._collector(topic), raw=True)
        self._step_timer = self.every(self.value("control_period_s"), self._step)
        self._event_timer = self.every(EVENT_DELAY_S, self._on_event_timer)
        self._event_timer.cancel()
        self.every(LOOK_PERIOD_S, self._look)
        self.every(DISCOVERY_PERIOD_S, self._discover)
        self._early_timer = self.every(EARLY_DISCOVERY_PERIOD_S, self._discover_early)
        self._started_s = time.monotonic()

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
        if "control_period_s" in changed:
            self.cancel(self._step_timer)
            self._step_timer = self.every(self.value("control_period_s"), self._step)
        if changed & {spec.name for spec in PARAMETERS}:
            self._read_parameters()
            self._step()

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
            self._take(make_input(topics.TARGETS.of(app), Departure(app)), event=True)
        for app in found - self._apps.keys():
            self._follow(app)

    def _discover_early(self) -> None:
        self._discover()
        if time.monotonic() - self._started_s > EARLY_S:
            self._early_timer.cancel()

    def _follow(self, app: str) -> None:
        self.get_logger().info(f"application {app} found")
        subscriptions = [
            self.subscribe(topic, self._collector(topic, app, event), app, raw=True)
            for topic, event in (
                (topics.TARGETS, True),
                (topics.LIBRARY, True),
                (topics.SUBNET_STATE, False),
            )
        ]
        subscriptions.append(self._listen(topics.MONITOR, app))
        self._apps[app] = _App(subscriptions, self.advertise(topics.SUBNET_COMMAND, app))

    def _forget(self, app: str) -> None:
        self.get_logger().info(f"application {app} gone")
        connections = self._apps.pop(app)
        del self._silent[topics.MONITOR.of(app)]
        for subscription in connections.subscriptions:
            self.unsubscribe(subscription)
        self.withdraw(connections.commands)

    def _collector(self, topic: Topic, app: str = "", event: bool = False) -> Callable[[bytes], None]:
        """Callback that keeps the messages of a topic for the next step; ``event``: it then comes at once."""
        read = self._reader(topic, app)

        def collect(message: bytes) -> None:
            item = read(message)
            if item is not None:
                followed = self._apps.get(app)  # None: the message was on its way when its node left
                if topic is topics.SUBNET_STATE and followed is not None:
                    followed.answered_s = time.monotonic()
                self._take(item, event=event)

        return collect

    def _listen(self, topic: Topic, app: str = "") -> Subscription:
        """Keep the messages of a topic without being woken by them: they come often."""
        inbox = self.subscribe_silently(replace(topic, depth=MOST_SILENT), app, raw=True)
        self._silent[topic.of(app)] = inbox, self._reader(topic, app)
        return inbox.subscription

    def _reader(self, topic: Topic, app: str) -> Callable[[bytes], Input | None]:
        """What makes an input of a message, None where it cannot be one."""
        name, decode = topic.of(app), decoder(topic)

        def read(message: bytes) -> Input | None:
            try:
                return make_input(name, decode(message))
            except ValueError as error:
                self.get_logger().warning(f"ignored: {error}", throttle_duration_sec=5.0)
                return None

        return read

    def _look(self) -> None:
        self._answer(event=self._take_silent())

    def _take_silent(self) -> bool:
        """Keep what has come without waking the node; whether a frame among it is an event."""
        urgent = False
        for inbox, read in self._silent.values():
            for message, _ in inbox.take():
                item = read(message)
                if item is not None:
                    self._keep(item)
                    frame = item.message
                    urgent |= isinstance(frame, InferenceMonitor) and self._manager.urgent(frame)
        return urgent

    def _take(self, item: Input, *, event: bool = False) -> None:
        self._keep(item)
        self._answer(event=event)

    def _answer(self, *, event: bool) -> None:
        """Step where it is time to, at once after an event."""
        passed_s = time.monotonic() - self._last_step_s
        if event and passed_s < EVENT_DELAY_S:
            self._event_timer.reset()
        elif event or len(self._inputs) >= MAX_INPUTS or passed_s >= NEARLY * self._in_force.control_period_s:
            self._step()

    def _keep(self, item: Input) -> None:
        if len(self._inputs) < MAX_INPUTS:
            self._inputs.append(item)
        else:
            self._lost_inputs += 1

    # --- steps -------------------------------------------------------------------------------

    def _on_event_timer(self) -> None:
        self._event_timer.cancel()
        self._step()

    def _step(self) -> None:
        self._last_step_s = time.monotonic()
        self._step_timer.reset()
        self._take_silent()
        inputs, self._inputs = tuple(self._inputs), []
        decision = self._manager.step(self._now_ns(), Monitors(inputs, self._in_force))
        for command in self._manager.publication_order(decision):
            if isinstance(command, DvfsCommand):
                self._clocks = command
                self._send_clocks()
            elif command.app in self._apps:
                self._apps[command.app].commands.publish(to_ros(command))
        self._decisions.publish(to_ros(decision))
        self._decision, self._stepped_s = decision, self._last_step_s
        self._compute_ms.append(decision.compute_ms)
        if self._last_step_s - self._snapshot_s >= SNAPSHOT_PERIOD_S:
            self._snapshot_s = self._last_step_s
            self._publish_snapshot()

    def _send_clocks(self) -> None:
        self._clocks_s = time.monotonic()
        self.sole_publisher.publish(to_ros(self._clocks))

    def _renew_clocks(self) -> None:
        """Repeat the last command where steps are so rare that it would lapse in between."""
        now_s = time.monotonic()
        in_time = now_s - self._stepped_s < MISSED_STEPS * self._in_force.control_period_s
        if self._clocks is not None and in_time and now_s - self._clocks_s >= RENEWAL_S:
            self._send_clocks()

    def _publish_snapshot(self) -> None:
        """So that a replay can begin with the next step. Without it the robot is managed all the same."""
        try:
            self._snapshots.publish(to_ros(snapshot(self._manager)))
        except TypeError as error:
            self.get_logger().error(f"no snapshot of the manager's state: {error}")

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # --- diagnostics -------------------------------------------------------------------------

    def _applications_status(self) -> Status:
        # Up to the last step but one: the last one's commands may still be on their way.
        silent_s = {
            name: self._stepped_s - self._in_force.control_period_s - app.answered_s
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
