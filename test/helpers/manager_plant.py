"""A small simulated robot for the manager's tests: applications, clocks, power; time in nanoseconds.

latency = slowdown * (alpha + beta * f_ref / f) * noise, with noise like that of published board logs;
power from the committed board description. It shares no code with the manager's own model but the board file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isfinite, nan

import numpy as np

from dynofa_ros.device.board import load_board, power_model
from dynofa_ros.device.power_model import predict_power
from dynofa_ros.device.simulated.real_time import BusyTimes
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.commands import AppCommand
from dynofa_ros.manager.inputs import Input, Monitors, Parameters
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainFrequency,
    DomainState,
    DomainTelemetry,
    DvfsCommand,
    DvfsState,
    Header,
    InferenceMonitor,
    PowerModel,
    SubnetCondition,
    SubnetEntry,
    SubnetLibrary,
    SubnetState,
    TemperatureReading,
)

MS = 1_000_000
SECOND = 1_000_000_000
TOP_HZ = 1_907_200_000
BOARD = load_board("xavier_nx")
MODEL = power_model(BOARD)
CPU = ("cpu0", "cpu2", "cpu4")


def make_library(
    app: str, entries: int = 10, slowest_ms: float = 45.0, processor: str = "cpu"
) -> SubnetLibrary:
    """A front from 0.72 at a third of the time to 0.80 at ``slowest_ms``."""
    reference = tuple(
        DomainFrequency(d, BOARD.domains[d].frequencies_hz[-1])
        for d in BOARD.domains
        if d.startswith(processor)
    )
    rows = []
    for n in range(entries):
        share = n / (entries - 1) if entries > 1 else 1.0
        total = slowest_ms * (1.0 + 2.2 * share) / 3.2
        accuracy = 0.72 + 0.08 * share**0.6
        rows.append(
            SubnetEntry(f"s{n}", processor, accuracy, total, 0.15 * total, 0.85 * total, nan, reference)
        )
    return SubnetLibrary(app, tuple(rows))


def capabilities() -> DeviceCapabilities:
    domains = tuple(
        DomainCapability(name, domain.frequencies_hz, can_write=name != "emc")
        for name, domain in BOARD.domains.items()
    )
    return DeviceCapabilities("xavier_nx", domains, ("cpu", "gpu", "npu"))


def telemetry(
    stamp_ns: int, power_w: float, domains: tuple[DomainTelemetry, ...], *temperatures_c: float
) -> DeviceTelemetry:
    """One sample of the device."""
    temperatures = tuple(TemperatureReading(f"zone{n}", t) for n, t in enumerate(temperatures_c))
    return DeviceTelemetry(power_w, domains=domains, temperatures=temperatures, header=Header(stamp_ns))


def published(messages: Iterable[object]) -> tuple[object, ...]:
    """The messages, and with the capabilities of the board its power model, as its device publishes both."""
    together = ((m, MODEL) if isinstance(m, DeviceCapabilities) else (m,) for m in messages)
    return tuple(chain.from_iterable(together))


@dataclass
class PlantApp:
    """One perception node with a latest-frame slot."""

    targets: AppTargets
    library: SubnetLibrary
    camera_hz: float = 15.0
    running: str = "s0"
    processor: str = "cpu"
    decision_id: int = 0
    pending: list[tuple[int, AppCommand]] = field(default_factory=list)
    sequence: int = 0
    next_image_ns: int = 0
    waiting_ns: int | None = None
    busy_until_ns: int = 0
    current: InferenceMonitor | None = None
    dropped: int = 0
    rate_hz: float = nan
    last_taken_ns: int = -SECOND


@dataclass
class Frame:
    """One due frame as the judge sees it."""

    time_ns: int
    app: str
    subnet_id: str
    latency_ms: float
    missed: bool
    hz: float


@dataclass
class Plant:
    """Runs a manager against simulated nodes; the log is for the test to judge."""

    manager: RuntimeManager
    apps: list[PlantApp]
    parameters: Parameters = field(default_factory=Parameters)
    slowdown: float = 1.0
    background: float = 0.0  # utilisation by others at the top clock
    noise: float = 0.04
    spike_share: float = 0.005
    spike: float = 1.3
    overhead_ms: float = 2.0
    seed: int = 0
    switch_ms: float = 60.0
    telemetry_on: bool = True
    model: PowerModel | None = MODEL
    tamper: Callable[[Input], Input] | None = None
    now_ns: int = 1_000 * SECOND

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.hz = {name: float(domain.start_max_hz) for name, domain in BOARD.domains.items()}
        self.clock_changes: list[tuple[int, DvfsCommand]] = []
        self.inbox: list[Input] = []
        self.frames: list[Frame] = []
        self.decisions: list[Decision] = []
        self.steps: list[tuple[int, Monitors]] = []
        self.power: list[tuple[int, float]] = []
        self._busy = BusyTimes()
        self._next_telemetry = self.now_ns
        self._next_step = self.now_ns
        self.send("dynofa/device/capabilities", capabilities())
        if self.model is not None:
            self.send("dynofa/device/power_model", self.model)
        self._send_dvfs(0)
        for app in self.apps:
            self.add(app)

    def add(self, app: PlantApp) -> None:
        """Announces a node."""
        if app not in self.apps:
            self.apps.append(app)
        app.next_image_ns = self.now_ns
        self.send(f"perception/{app.targets.app}/targets", app.targets)
        self.send(f"perception/{app.targets.app}/library", app.library)
        self._send_state(app)

    def send(self, topic: str, message: object, sequence: int | None = None) -> None:
        item = Input(topic, self.now_ns if sequence is None else sequence, message)
        self.inbox.append(self.tamper(item) if self.tamper else item)

    def retarget(self, app: PlantApp, targets: AppTargets) -> None:
        """A user changes targets: the node publishes them and the manager steps at once."""
        app.targets = targets
        self.send(f"perception/{targets.app}/targets", targets)
        self._step()

    def set_parameters(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._step()

    def run(self, seconds: float) -> None:
        """Advances time in steps of 1 ms."""
        end = self.now_ns + int(seconds * SECOND)
        while self.now_ns < end:
            self.now_ns += MS
            self._apply_clocks()
            for app in self.apps:
                self._work(app)
            if self.telemetry_on and self.now_ns >= self._next_telemetry:
                self._telemetry()
            if self.now_ns >= self._next_step:
                self._step()

    def _work(self, app: PlantApp) -> None:
        name = app.targets.app
        while app.pending and app.pending[0][0] <= self.now_ns:
            _, command = app.pending.pop(0)
            app.running, app.processor, app.decision_id = (
                command.subnet_id,
                command.processor,
                command.decision_id,
            )
            self._send_state(app)
        if app.current is not None and app.busy_until_ns <= self.now_ns:
            frame, app.current = app.current, None
            self.send(f"perception/{name}/monitor", frame, frame.frame_sequence)
            self._log(app, frame)
            self._busy.add(name, app.processor, frame.inference_ms * 1e-3, self.now_ns * 1e-9)
            if frame.deadline_missed:
                self._step()
        if self.now_ns >= app.next_image_ns:
            app.next_image_ns += int(SECOND / app.camera_hz)
            rate = app.targets.rate_hz if not isfinite(app.rate_hz) else app.rate_hz
            if self.now_ns - app.last_taken_ns >= 0.9 * SECOND / rate:
                app.last_taken_ns = self.now_ns
                if app.waiting_ns is not None:
                    app.dropped += 1
                    self.frames.append(Frame(self.now_ns, name, app.running, inf, True, self.hz["cpu0"]))
                app.waiting_ns = self.now_ns
        if app.waiting_ns is not None and app.busy_until_ns <= self.now_ns:
            self._start(app, app.waiting_ns)
            app.waiting_ns = None

    def _start(self, app: PlantApp, received_ns: int) -> None:
        entry = next(e for e in app.library.entries if e.id == app.running)
        noise = float(np.exp(self.rng.normal(0.0, self.noise)))
        if self.rng.random() < self.spike_share:
            noise *= self.spike
        hz = min(self.hz[d] for d in CPU)
        inference = self.slowdown * (entry.alpha_ms + entry.beta_ms * TOP_HZ / hz) * noise
        extra = self.overhead_ms * float(np.exp(self.rng.normal(0.0, 0.2)))
        wait = (self.now_ns - received_ns) / MS
        app.sequence += 1
        target = app.targets.latency_target_ms
        latency = wait + extra + inference
        app.current = InferenceMonitor(
            app.targets.app, app.sequence, app.decision_id, app.running, app.processor,
            wait, 0.5 * extra, inference, 0.5 * extra, latency, target, latency > target, app.dropped,
        )  # fmt: skip
        app.dropped = 0
        app.busy_until_ns = self.now_ns + int((extra + inference) * MS)

    def _log(self, app: PlantApp, frame: InferenceMonitor) -> None:
        missed = frame.deadline_missed
        hz = min(self.hz[d] for d in CPU)
        self.frames.append(Frame(self.now_ns, frame.app, frame.subnet_id, frame.latency_ms, missed, hz))

    def _utilization(self) -> float:
        own = self._busy.utilization(self.now_ns * 1e-9).get("cpu", 0.0)
        return min(1.0, own + self.background)

    def _telemetry(self) -> None:
        self._next_telemetry += 100 * MS
        utilization = self._utilization()
        used = {d: utilization for d in CPU}
        power = predict_power(MODEL, self.hz, used, 45.0).total_w * 1.05 + float(self.rng.normal(0.0, 0.02))
        self.power.append((self.now_ns, power))
        readings = tuple(DomainTelemetry(d, hz, 100.0 * used.get(d, 0.0)) for d, hz in self.hz.items())
        self.send("dynofa/device/telemetry", telemetry(self.now_ns, power, readings, 45.0))

    def _apply_clocks(self) -> None:
        while self.clock_changes and self.clock_changes[0][0] <= self.now_ns:
            _, command = self.clock_changes.pop(0)
            for band in command.bands:
                self.hz[band.domain] = float(min(max(self.hz[band.domain], band.min_hz), band.max_hz))
            self._send_dvfs(command.decision_id)

    def _send_dvfs(self, decision_id: int) -> None:
        domains = tuple(DomainState(d, 0, 0, hz) for d, hz in self.hz.items())
        self.send("dynofa/device/dvfs_state", DvfsState(decision_id, domains, header=Header(self.now_ns)))

    def _send_state(self, app: PlantApp) -> None:
        status = SubnetState(app.decision_id, app.running, app.processor, SubnetCondition.APPLIED)
        self.send(f"perception/{app.targets.app}/subnet_state", status)

    def _step(self) -> None:
        self._next_step = self.now_ns + int(self.parameters.control_period_s * SECOND)
        monitors = Monitors(tuple(self.inbox), self.parameters)
        self.inbox.clear()
        self.steps.append((self.now_ns, monitors))
        decision = self.manager.step(self.now_ns, monitors)
        self.decisions.append(decision)
        if decision.dvfs is not None:
            self.clock_changes.append((self.now_ns + 3 * MS, decision.dvfs))
        for command in decision.commands:
            for app in self.apps:
                if app.targets.app == command.app:
                    delay = self.switch_ms if command.subnet_id != app.running else 1.0
                    app.pending.append((self.now_ns + int(delay * MS), command))
                    app.rate_hz = command.rate_hz


def miss_share(frames: list[Frame], start_ns: int, end_ns: int) -> float:
    """Share of missed frames in an interval; NaN if there are none."""
    inside = [f.missed for f in frames if start_ns <= f.time_ns < end_ns]
    return sum(inside) / len(inside) if inside else nan


def switches(frames: list[Frame], start_ns: int, end_ns: int) -> int:
    """Changes of sub-network or clock from frame to frame."""
    knobs = [(f.subnet_id, f.hz) for f in frames if start_ns <= f.time_ns < end_ns]
    return sum(a != b for a, b in zip(knobs, knobs[1:], strict=False))
