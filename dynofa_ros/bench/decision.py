"""Time of one decision of the runtime manager, in a closed loop with a small simulated robot.

The robot answers every command, its frames are noisy, its load, targets and power cap keep changing: so the
manager plans anew, meets targets that cannot be held, and takes every branch that it takes on a robot.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.bench.timing import Progress, part, silent
from dynofa_ros.device.board import Board, load_board, processor_of
from dynofa_ros.device.power_model import predict_power
from dynofa_ros.manager.runtime_manager import RuntimeManager
from dynofa_ros.manager.types import (
    AppTargets,
    Capabilities,
    Decision,
    DomainCapability,
    DomainReading,
    DomainStatus,
    DvfsStatus,
    FrameMonitor,
    Input,
    LibraryEntry,
    Message,
    Monitors,
    Parameters,
    SubnetCondition,
    SubnetLibrary,
    SubnetStatus,
    Telemetry,
)

APPS = (1, 2, 4, 8)
SUBNETS = 30
BOARD = "xavier_nx"
SLOWEST_MS = {"cpu": 60.0, "gpu": 30.0, "npu": 40.0}  # of the largest sub-network, at the top clock
SPREAD = 3.2  # largest over smallest
STEP_S, TELEMETRY_PER_STEP = 0.2, 2
WARM_UP_STEPS = 10  # tables are built, the applications are measured for the first time
TARGETS_EVERY, CAP_EVERY, LOAD_EVERY = 5, 25, 40  # steps
CAPS_W = (inf, 10.0, inf, 7.0)
SLOWDOWNS = (1.0, 1.5, 1.15, 0.9)
RATES_HZ = (5.0, 10.0, 15.0)
OVERHEAD_MS, NOISE = 2.0, 0.05


def run(
    progress: Progress = silent, *, apps: tuple[int, ...] = APPS, steps: int = 300, seed: int = 0
) -> list[dict[str, Any]]:
    """Milliseconds by the clock of one step of the manager, and CPU milliseconds of its thread, for each
    number of apps.

    ``overloaded``: the steps in which the targets cannot all be met, so that the ladder has to be searched;
    ``held``: the others.
    """
    return [_measure(count, steps, seed, part(progress, n, len(apps))) for n, count in enumerate(apps)]


def _measure(count: int, steps: int, seed: int, progress: Progress) -> dict[str, Any]:
    robot = Robot(count, seed)
    cpu_ms, wall_ms, decisions = [], [], []
    for number in range(-WARM_UP_STEPS, steps):
        monitors = robot.advance(number + WARM_UP_STEPS)
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        decision = robot.manager.step(robot.now_ns, monitors)
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        robot.obey(decision)
        if number >= 0:
            cpu_ms.append(cpu / 1e6)
            wall_ms.append(wall / 1e6)
            decisions.append(decision)
        progress((number + WARM_UP_STEPS + 1) / (steps + WARM_UP_STEPS))
    overloaded = np.array([d.ladder_step > 0 for d in decisions])
    wall_all, cpu_all = np.array(wall_ms), np.array(cpu_ms)
    return {
        "apps": count,
        **_percentiles(wall_all, cpu_all),
        "max_ms": float(wall_all.max()),
        "steps": steps,
        "subnets": SUBNETS,
        "processors": len(SLOWEST_MS),
        "held": _percentiles(wall_all[~overloaded], cpu_all[~overloaded]),
        "overloaded": _percentiles(wall_all[overloaded], cpu_all[overloaded]),
        "overloaded_steps": int(overloaded.sum()),
        "infeasible_steps": sum(not d.feasible for d in decisions),
        "steps_with_commands": sum(bool(d.commands or d.dvfs) for d in decisions),
    }


def _percentiles(wall_ms: NDArray[np.float64], cpu_ms: NDArray[np.float64]) -> dict[str, float | None]:
    """Median and 99th percentile, None without a step."""
    named = {"p50_ms": (wall_ms, 50), "p99_ms": (wall_ms, 99)}
    named |= {"cpu_p50_ms": (cpu_ms, 50), "cpu_p99_ms": (cpu_ms, 99)}
    return {
        key: float(np.percentile(values, q)) if len(values) else None for key, (values, q) in named.items()
    }


def library(app: str, board: Board) -> SubnetLibrary:
    """A front of ``SUBNETS`` sub-networks on each processor."""
    entries = []
    for processor, slowest_ms in SLOWEST_MS.items():
        domains = [d for d in board.domains if processor_of(d) == processor]
        reference = tuple((d, board.domains[d].frequencies_hz[-1]) for d in domains)
        for number in range(SUBNETS):
            share = number / (SUBNETS - 1)
            total = slowest_ms * (1 + (SPREAD - 1) * share) / SPREAD
            entries.append(
                LibraryEntry(
                    id=f"s{number}",
                    processor=processor,
                    accuracy=0.72 + 0.08 * share**0.6,
                    latency_ms=total,
                    alpha_ms=0.15 * total,
                    beta_ms=0.85 * total,
                    reference_hz=reference,
                )
            )
    return SubnetLibrary(app, tuple(entries))


@dataclass
class _App:
    targets: AppTargets
    entries: dict[tuple[str, str], LibraryEntry]
    running: tuple[str, str] = ("s0", "cpu")
    rate_hz: float = 0.0
    sequence: int = 0
    owed: float = 0.0  # frames, as a fraction


@dataclass
class Robot:
    """Applications, clocks and power of the board; ``advance`` lives through one control period."""

    count: int
    seed: int
    manager: RuntimeManager = field(default_factory=RuntimeManager)
    now_ns: int = 1_000_000_000_000

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.board = load_board(BOARD)
        self.hz = {name: float(d.start_max_hz) for name, d in self.board.domains.items()}
        self.parameters = Parameters()
        self.slowdown = 1.0
        self.decision_id = 0
        self.inbox: list[Input] = []
        self.apps = []
        self.send("capabilities", self._capabilities())
        self._send_clocks()
        for number in range(self.count):
            name = f"app{number}"
            offered = library(name, self.board)
            rate = float(self.rng.choice(RATES_HZ))
            targets = AppTargets(name, 60.0, rate_hz=rate, priority=number % 3)
            self.apps.append(_App(targets, {(e.id, e.processor): e for e in offered.entries}, rate_hz=rate))
            self.send(f"{name}/library", offered)
            self.send(f"{name}/targets", targets)
            self._send_state(self.apps[-1])

    def send(self, topic: str, message: Message) -> None:
        """Into the manager's next step."""
        self.inbox.append(Input(topic, self.now_ns, message))

    def advance(self, step: int) -> Monitors:
        """What the manager gets to know of the next control period."""
        if step % LOAD_EVERY == 0:
            self.slowdown = SLOWDOWNS[step // LOAD_EVERY % len(SLOWDOWNS)]
        if step % CAP_EVERY == 0:
            self.parameters = replace(self.parameters, power_cap_w=CAPS_W[step // CAP_EVERY % len(CAPS_W)])
        if step % TARGETS_EVERY == 0:
            self._change_targets(self.apps[int(self.rng.integers(len(self.apps)))])
        loads = self._frames()
        for _ in range(TELEMETRY_PER_STEP):
            self.now_ns += int(STEP_S / TELEMETRY_PER_STEP * 1e9)
            self.send("telemetry", self._telemetry(loads))
        monitors = Monitors(tuple(self.inbox), self.parameters)
        self.inbox.clear()
        return monitors

    def obey(self, decision: Decision) -> None:
        """The nodes carry out the commands at once."""
        self.decision_id = max(self.decision_id, decision.decision_id)
        for command in decision.commands:
            app = next(a for a in self.apps if a.targets.app == command.app)
            app.running = (command.subnet_id, command.processor)
            app.rate_hz = command.rate_hz if command.rate_hz > 0 else app.targets.rate_hz  # NaN = its own
            self._send_state(app)
        if decision.dvfs is not None:
            for band in decision.dvfs.bands:
                self.hz[band.domain] = float(min(max(self.hz[band.domain], band.min_hz), band.max_hz))
            self._send_clocks()

    def _change_targets(self, app: _App) -> None:
        app.targets = replace(
            app.targets,
            latency_target_ms=float(self.rng.uniform(25.0, 100.0)),
            accuracy_target=float(self.rng.uniform(0.74, 0.80)),
            accuracy_floor=float(self.rng.choice((0.0, 0.73))),
        )
        self.send(f"{app.targets.app}/targets", app.targets)

    def _frames(self) -> dict[str, float]:
        """Sends the monitors of one control period; the busy share of every processor."""
        busy_ms = dict.fromkeys(SLOWEST_MS, 0.0)
        for app in self.apps:
            app.owed += app.rate_hz * STEP_S
            while app.owed >= 1.0:
                app.owed -= 1.0
                busy_ms[app.running[1]] += self._frame(app)
        return {name: min(1.0, ms / (STEP_S * 1e3)) for name, ms in busy_ms.items()}

    def _frame(self, app: _App) -> float:
        entry = app.entries[app.running]
        speed = min(hz for domain, hz in self.hz.items() if processor_of(domain) == entry.processor)
        nominal = entry.alpha_ms + entry.beta_ms * entry.reference_hz[0][1] / speed
        inference = self.slowdown * nominal * float(np.exp(self.rng.normal(0.0, NOISE)))
        latency, target = inference + OVERHEAD_MS, app.targets.latency_target_ms
        app.sequence += 1
        frame = FrameMonitor(
            app=app.targets.app,
            frame_sequence=app.sequence,
            decision_id=self.decision_id,
            subnet_id=entry.id,
            processor=entry.processor,
            queue_wait_ms=0.0,
            preprocess_ms=OVERHEAD_MS / 2,
            inference_ms=inference,
            postprocess_ms=OVERHEAD_MS / 2,
            latency_ms=latency,
            latency_target_ms=target,
            deadline_missed=latency > target,
        )
        self.send(f"{frame.app}/monitor", frame)
        return inference

    def _telemetry(self, loads: dict[str, float]) -> Telemetry:
        used = {d: loads.get(processor_of(d) or "", 0.0) for d in self.board.domains}
        watts = predict_power(self.board, self.hz, used, 50.0).total_w + float(self.rng.normal(0.0, 0.02))
        readings = tuple(DomainReading(d, hz, used[d]) for d, hz in self.hz.items())
        return Telemetry(self.now_ns, watts, readings, (50.0,))

    def _send_clocks(self) -> None:
        domains = tuple(DomainStatus(d, 0, 0, hz) for d, hz in self.hz.items())
        self.send("dvfs_state", DvfsStatus(self.now_ns, self.decision_id, domains))

    def _send_state(self, app: _App) -> None:
        subnet, processor = app.running
        status = SubnetStatus(app.targets.app, self.decision_id, subnet, processor, SubnetCondition.APPLIED)
        self.send(f"{app.targets.app}/subnet_state", status)

    def _capabilities(self) -> Capabilities:
        domains = tuple(
            DomainCapability(name, domain.frequencies_hz, processor_of(name) is not None)
            for name, domain in self.board.domains.items()
        )
        return Capabilities(BOARD, domains, tuple(SLOWEST_MS))
