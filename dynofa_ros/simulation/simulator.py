"""Discrete-event simulation of applications and a board under a policy: frames, knobs, messages, a timeline.

Time jumps from event to event; in between the simulated board is integrated exactly. The same
(scene, policy, seed) gives the same run bit for bit, but for the processor time of the decisions.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from math import inf, isfinite, isinf
from typing import Literal

from dynofa_ros.device.board import power_model
from dynofa_ros.manager.inputs import Departure, Input, Message
from dynofa_ros.manager.placement import entry_key, place_of
from dynofa_ros.messages import DeviceTelemetry, SubnetCondition, SubnetLibrary
from dynofa_ros.simulation.application import SimulatedApplication
from dynofa_ros.simulation.log import FrameRecord, Run, Sample
from dynofa_ros.simulation.noise import draw
from dynofa_ros.simulation.plant import Job, Plant, SharedProcessor, cpu_gpu_rail
from dynofa_ros.simulation.policy import AppView, Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import (
    Event,
    Load,
    NewMode,
    NewParameters,
    NewTargets,
    Reserved,
    Scene,
    Surroundings,
)

TELEMETRY_S = 0.0997  # 10 Hz, but not in step with cameras: samples must not all meet one phase of a frame
COMMAND_S = 0.001  # from a decision to the knob
EVENT_DELAY_S = 0.02  # events that come together are answered together
MAX_INPUTS = 2000
RESERVED_UTILIZATION = 0.95
DEVICE = "dynofa/device/"


class Simulation:
    """One run: ``run``, or ``begin`` and then ``advance`` step by step. ``plant``: another than the usual."""

    def __init__(self, scene: Scene, policy: Policy, seed: int, plant: Plant | None = None) -> None:
        self.scene = scene
        self._policy = policy
        self._free = policy.clairvoyant
        self.plant = plant or Plant(scene, seed, instant=self._free and isinf(policy.lead_s))
        traces = draw(scene, seed)
        self.apps = {app.name: SimulatedApplication(app, traces[app.name]) for app in scene.apps}
        self.parameters = scene.parameters
        self.faults: set[str] = set()
        self._frozen: dict[str, FrameRecord] = {}
        self._inputs: list[Input] = []
        self._telemetry: DeviceTelemetry | None = None
        self._capabilities = self.plant.capabilities()
        self._published_hz: dict[str, int] = {}
        self._decision_id = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.now_s = 0.0
        self._last_step_s = -inf
        self._step_due = False
        self._rail = cpu_gpu_rail(scene.truth)
        self.log = Run(scene, policy.name, seed)

    # --- the run -------------------------------------------------------------------------------

    def run(self) -> Run:
        """Simulate the whole scene."""
        self.begin()
        end_s = self.scene.duration_s
        self.advance(end_s)
        for app in self.apps.values():
            self.log.frames += app.late(end_s)
        self._sample()
        return self.log

    def begin(self) -> None:
        """Everything before the first event."""
        self.publish(DEVICE + "capabilities", self._capabilities)
        self.publish(DEVICE + "power_model", power_model(self.scene.board))
        self._publish_clocks()
        self._log_clocks({})
        truth = GroundTruth(self.scene, self.plant, self.apps)
        first = self._policy.start(self.scene, truth if self._free else None)
        self._execute(first)
        for app in self.apps.values():
            self._at(app.spec.from_s, partial(self._join, app))
            if app.spec.until_s < self.scene.duration_s:
                self._at(app.spec.until_s, partial(self._leave, app))
        for event in self.scene.timeline:
            self._at(event.at_s, partial(self.happen, event))
        self._at(0.0, self._tick)
        self._at(0.0, self._periodic)

    def advance(self, end_s: float) -> None:
        """Let everything happen that comes before ``end_s``."""
        while self.now_s < end_s:
            self._go_on(end_s)

    def _go_on(self, end_s: float) -> None:
        """To the next event, or to a change of a clock if that comes first."""
        plant = self.plant
        due_s = min(self._events[0][0], plant.ready_s, end_s)
        if due_s > self.now_s:
            before = plant.clocks_hz
            self.now_s = plant.advance(due_s)
            if plant.clocks_hz is not before:
                self._log_clocks(before)
            if self.now_s < due_s:
                return
        for processor in plant.processors.values():
            while processor.ready_s <= self.now_s:
                self._finish(processor, min(processor.jobs, key=lambda job: job.ready_s))
        while self._events[0][0] <= self.now_s < end_s:
            heapq.heappop(self._events)[2]()

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), action))

    # --- frames --------------------------------------------------------------------------------

    def _arrive(self, app: SimulatedApplication) -> None:
        if not app.present:
            return
        dropped = app.arrive(self.now_s)
        self._await_request(app)
        if dropped is not None:
            self.log.frames.append(dropped)
            self._tell(dropped)
        self._take(app)

    def _await_request(self, app: SimulatedApplication) -> None:
        if app.next_request < len(app.trace.arrivals_s):
            arrives_s = app.trace.arrivals_s[app.next_request]
            if isfinite(self._policy.lead_s):
                self._at(max(self.now_s, arrives_s - self._policy.lead_s), partial(self._announce, app))
            self._at(arrives_s, partial(self._arrive, app))

    def _announce(self, app: SimulatedApplication) -> None:
        if app.present:
            self._obey(self._policy.on_announced(app.name))

    def _take(self, app: SimulatedApplication) -> None:
        index = app.take(self.now_s)
        if index is not None:
            self._at(self.now_s + 1e-3 * app.trace.overhead_ms[index], partial(self._infer, app, index))

    def _infer(self, app: SimulatedApplication, index: int) -> None:
        if app.serving != index:
            return  # the application has left meanwhile
        entry = app.choose(self.now_s)
        processor = self.plant.processors[place_of(entry)]
        true = app.trace.entries[entry_key(entry)]
        processor.start(app.name, true, app.factor(entry), self.now_s, 1e-3 * app.trace.extra_ms[index])
        self.plant.occupy(processor)

    def _finish(self, processor: SharedProcessor, job: Job) -> None:
        processor.finish(job, self.now_s)
        self.plant.occupy(processor)
        app = self.apps[job.app]
        record = app.answer(self.now_s, job.entry, self.now_s - job.started_s)
        self.log.frames.append(record)
        if "frozen_monitors" in self.faults:
            record = self._frozen.setdefault(record.app, record)
        assert record.monitor is not None
        self.publish(f"perception/{record.app}/monitor", record.monitor)
        self._tell(record)
        if record.missed or (app.waiting is not None and not app.spec.queued):
            self._ask_for_step()
        self._take(app)

    def _tell(self, record: FrameRecord) -> None:
        if "manager_paused" in self.faults:
            return
        before_s = time.thread_time()
        command = self._policy.on_frame(record)
        self._decided(time.thread_time() - before_s, command is not None)
        self._obey(command)

    # --- the policy ----------------------------------------------------------------------------

    def _periodic(self) -> None:
        period_s = self._policy.wants()
        if isfinite(period_s):
            self._at(self.now_s + period_s, self._periodic)
            self._step("periodic")

    def _ask_for_step(self) -> None:
        """A step at once, but not sooner than EVENT_DELAY_S after the last."""
        if not self._step_due:
            self._step_due = True
            self._at(max(self.now_s, self._last_step_s + EVENT_DELAY_S), self._event_step)

    def _event_step(self) -> None:
        self._step_due = False
        self._step("event")

    def _step(self, trigger: Literal["periodic", "event"]) -> None:
        if "manager_paused" in self.faults:
            return
        self._last_step_s = self.now_s
        inputs, self._inputs = tuple(self._inputs), []
        views = {r.name: AppView(r.targets, r.library, r.current) for r in self.apps.values() if r.present}
        clocks = {name: float(hz) for name, hz in self.plant.clocks_hz.items()}
        observation = Observation(
            trigger, inputs, views, self.parameters, self._capabilities, clocks, self._telemetry
        )
        before_s = time.thread_time()
        command = self._policy.step(self.now_s, observation)
        self._decided(time.thread_time() - before_s, True)
        self._obey(command)

    def _decided(self, spent_s: float, counts: bool) -> None:
        self.log.manager_s += spent_s
        if counts:
            self.log.decisions_s.append(spent_s)

    def _obey(self, command: Command | None) -> None:
        if command is None:
            return
        if self._free:
            self._execute(command)
        else:
            self._at(self.now_s + COMMAND_S, partial(self._execute, command))

    def _execute(self, command: Command) -> None:
        for name, knob in sorted(command.knobs.items()):
            app = self.apps[name]
            status = app.command(knob, command.decision_id, self.now_s, self._free or not app.present)
            if app.wanted is not None:
                self._at(app.wanted[2], partial(self._switch, app))
            if app.present:
                self.publish(f"perception/{name}/subnet_state", status)
            if status.status == SubnetCondition.APPLIED:
                self.log.knobs.append((self.now_s, name, app.current))
        if command.mode is not None:
            self._change_clocks(partial(self.plant.set_mode, command.mode, self.now_s, own=True))
            self._offer()
        if command.bands or command.governors:
            self._command_clocks(command)

    def _switch(self, app: SimulatedApplication) -> None:
        if app.switch(self.now_s):
            self.log.knobs.append((self.now_s, app.name, app.current))
            if app.present:
                state = app.status(SubnetCondition.APPLIED)
                self.publish(f"perception/{app.name}/subnet_state", state)

    def _command_clocks(self, command: Command) -> None:
        self.log.bands += [(self.now_s, b.domain, b.min_hz, b.max_hz) for b in command.bands]
        bands = () if "ignored_clocks" in self.faults else command.bands
        governors = sorted(command.governors.items())
        self._change_clocks(partial(self.plant.apply, bands, governors, self.now_s))
        self._decision_id = max(self._decision_id, command.decision_id)
        self._publish_clocks()

    def _change_clocks(self, action: Callable[[], None]) -> None:
        before = self.plant.clocks_hz
        action()
        self._log_clocks(before)

    def _log_clocks(self, before: dict[str, int]) -> None:
        """Clocks that have changed; the device publishes its state when a commanded one arrives."""
        changed = [(d, hz) for d, hz in self.plant.clocks_hz.items() if before.get(d) != hz]
        self.log.clocks += [(self.now_s, domain, hz) for domain, hz in changed]
        if any(self.plant.pinned(domain) for domain, _ in changed):
            self._publish_clocks()

    # --- messages ------------------------------------------------------------------------------

    def publish(self, topic: str, message: Message) -> None:
        if len(self._inputs) < MAX_INPUTS:
            sequence = getattr(message, "frame_sequence", round(self.now_s * 1e9))
            self._inputs.append(Input(topic, sequence, message))

    def _publish_clocks(self) -> None:
        self._published_hz = self.plant.clocks_hz
        self.publish(DEVICE + "dvfs_state", self.plant.states(round(self.now_s * 1e9), self._decision_id))

    def _tick(self) -> None:
        """Telemetry, and the truth for the score."""
        self._at(self.now_s + TELEMETRY_S, self._tick)
        self._telemetry = self.plant.telemetry(round(self.now_s * 1e9), "no_temperature" in self.faults)
        self.publish(DEVICE + "telemetry", self._telemetry)
        if self._published_hz is not self.plant.clocks_hz:
            self._publish_clocks()
        self._sample()

    def _sample(self) -> None:
        truth = self.plant.device.truth()
        self.log.samples.append(
            Sample(
                self.now_s,
                truth.energy_j,
                truth.rail_energy_j[self._rail],
                truth.temperature_c,
                self.parameters.power_cap_w,
                self.parameters.temperature_limit_c,
            )
        )

    def _offer(self) -> None:
        """The device publishes what it can do now."""
        self._capabilities = self.plant.capabilities()
        self.publish(DEVICE + "capabilities", self._capabilities)
        self._publish_clocks()
        self._ask_for_step()

    # --- what happens --------------------------------------------------------------------------

    def _join(self, app: SimulatedApplication) -> None:
        app.present = True
        self.log.knobs.append((self.now_s, app.name, app.current))
        self.publish(f"perception/{app.name}/targets", app.targets)
        self._publish_library(app)
        self.publish(f"perception/{app.name}/subnet_state", app.status(SubnetCondition.APPLIED))
        self._await_request(app)

    def _leave(self, app: SimulatedApplication) -> None:
        self.log.frames += app.late(self.now_s)
        app.present = False
        for processor in self.plant.processors.values():
            for job in [job for job in processor.jobs if job.app == app.name]:
                processor.finish(job, self.now_s)
                self.plant.occupy(processor)
        self.publish(f"perception/{app.name}/targets", Departure(app.name))
        self._ask_for_step()

    def _publish_library(self, app: SimulatedApplication) -> None:
        self.publish(
            f"perception/{app.name}/library", SubnetLibrary(app.name, app.library, queued=app.spec.queued)
        )
        self._ask_for_step()

    def happen(self, event: Event) -> None:
        """An event of the timeline happens now."""
        if isinstance(event, NewTargets):
            self.apps[event.targets.app].targets = event.targets
            self.publish(f"perception/{event.targets.app}/targets", event.targets)
            self._ask_for_step()
        elif isinstance(event, NewParameters):
            self.parameters = event.parameters
            self._sample()  # from here on another cap holds
            self._ask_for_step()
        elif isinstance(event, Load):
            self.plant.set_load("load", event.processor, event.utilization, event.slowdown, self.now_s)
        elif isinstance(event, NewMode):
            self._change_clocks(partial(self.plant.set_mode, event.mode, self.now_s))
            self._offer()
        elif isinstance(event, Surroundings):
            self.plant.set_surroundings(event)
        elif isinstance(event, Reserved):
            self._reserve(event, taken=True)
            self._at(event.until_s, partial(self._reserve, event, taken=False))
        else:
            self.faults.add(event.kind)
            self._at(event.until_s, partial(self._repair, event.kind))

    def _repair(self, kind: str) -> None:
        self.faults.discard(kind)
        self._frozen.clear()

    def _reserve(self, event: Reserved, *, taken: bool) -> None:
        utilization, slowdown = (RESERVED_UTILIZATION, event.slowdown - 1.0) if taken else (0.0, 0.0)
        self.plant.set_load("reserved", event.processor, utilization, slowdown, self.now_s)
        for app in self.apps.values():
            kept = [e for e in app.spec.usable if event.processor not in (e.processor, e.cluster)]
            others = tuple(kept if taken else app.spec.usable)
            app.library = others or app.spec.usable
            if app.present:
                self._publish_library(app)


def simulate(scene: Scene, policy: Policy, seed: int) -> Run:
    """One run of a scene under a policy."""
    return Simulation(scene, policy, seed).run()
