"""Time of one decision of the runtime manager, in the closed loop of the simulator.

Frames are noisy, and load, targets and power cap keep changing: so the manager plans anew, meets targets that
cannot be held, and takes every branch that it takes on a real board.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from math import inf
from operator import attrgetter
from timeit import timeit
from typing import Any

import numpy as np

from dynofa_ros.bench.timing import Progress, part, silent
from dynofa_ros.device.board import Board, load_board
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.latency import processor_of
from dynofa_ros.manager.inputs import Monitors, Parameters
from dynofa_ros.manager.runtime_manager import Decision, RuntimeManager, no_collection
from dynofa_ros.messages import AppTargets, DomainFrequency, SubnetEntry
from dynofa_ros.simulation.scene import App, Event, Load, NewParameters, NewTargets, Noise, Scene
from dynofa_ros.simulation.simulator import simulate

APPS = (1, 2, 4, 8, 16)
SUBNETS = 30
BOARD = "xavier_nx"
SLOWEST_MS = {"cpu": 60.0, "gpu": 30.0, "npu": 40.0}  # of the largest sub-network, at the top clock
SPREAD = 3.2  # largest over smallest
STEP_S = 0.2
WARM_UP_STEPS = 10  # tables are built, the applications are measured for the first time
TARGETS_EVERY, CAP_EVERY, LOAD_EVERY = 5, 25, 40  # steps
CAPS_W = (inf, 10.0, inf, 7.0)
# Of what users ask for: latency targets (ms) and least accuracies. With the second everything can be held.
ASKED_MS, ASKED_ACCURACY = ((25.0, 100.0), (90.0, 160.0)), ((0.74, 0.80), (0.73, 0.75))
SLOWDOWNS = (0.0, 0.5, 0.15, 0.05)  # by load from outside
RATES_HZ = (5.0, 10.0, 15.0)
OVERHEAD_MS, NOISE = 2.0, Noise(0.05, 0.0, 1.0)


def run(
    progress: Progress = silent, *, apps: tuple[int, ...] = APPS, steps: int = 300, seed: int = 0
) -> list[dict[str, Any]]:
    """Milliseconds by the clock of one step of the manager, and CPU milliseconds of its thread, for each
    number of apps.

    ``overloaded``: the steps in which the targets cannot all be met, so that the ladder has to be searched;
    ``held``: those of another run, of targets that can be met, in which nothing is given up.
    ``explanations``: by the clock, of what binds and of the alternatives: both are found after the decision,
    when it is published.
    """
    return [_measure(count, steps, seed, part(progress, n, len(apps))) for n, count in enumerate(apps)]


class TimedManager(RuntimeManager):
    """Keeps every decision with its milliseconds by the clock and of its thread."""

    def __init__(self, steps: int, progress: Progress = silent) -> None:
        super().__init__()
        self.taken: list[tuple[Decision, float, float]] = []
        self.explained_ms: list[float] = []  # what is found when a decision is read, where it has such
        self._expected, self._progress = steps, progress

    def step(self, now_ns: int, monitors: Monitors) -> Decision:
        """As the manager does."""
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        with no_collection():  # as in the node, which has sent the commands when garbage is collected
            decision = super().step(now_ns, monitors)
            cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        self.taken.append((decision, wall / 1e6, cpu / 1e6))
        if decision.later:
            read = attrgetter(*decision.later)
            self.explained_ms.append(1e3 * timeit(lambda: read(decision), number=1))
        self._progress(min(1.0, len(self.taken) / self._expected))
        return decision


def _measure(count: int, steps: int, seed: int, progress: Progress) -> dict[str, Any]:
    runs, explained_ms = [], []
    for calm in (False, True):
        manager = TimedManager(WARM_UP_STEPS + steps, part(progress, int(calm), 2))
        scene = make_scene(count, WARM_UP_STEPS + steps, seed, calm=calm)
        gc.collect()
        gc.freeze()  # as the node does: what is there already is not visited in the middle of a step
        simulate(scene, ManagerPolicy(manager=manager), seed)
        runs.append(manager.taken[WARM_UP_STEPS : WARM_UP_STEPS + steps])
        explained_ms += manager.explained_ms
    decisions = [decision for decision, *_ in runs[0]]
    overloaded, held = ([t for t in run if bool(t[0].ladder_step) != calm] for calm, run in enumerate(runs))
    return {
        "apps": count,
        **_percentiles(runs[0]),
        "max_ms": max(wall_ms for _, wall_ms, _ in runs[0]),
        "cpu_max_ms": max(cpu_ms for *_, cpu_ms in runs[0]),
        "steps": steps,
        "subnets": SUBNETS,
        "processors": len(SLOWEST_MS),
        "held": _percentiles(held),
        "held_steps": len(held),
        "explanations": {f"p{q}_ms": float(np.percentile(explained_ms, q)) for q in (50, 99)},
        "overloaded": _percentiles(overloaded),
        "overloaded_steps": len(overloaded),
        "infeasible_steps": sum(not d.feasible for d in decisions),
        "steps_with_commands": sum(bool(d.commands or d.dvfs) for d in decisions),
    }


def _percentiles(taken: list[tuple[Decision, float, float]]) -> dict[str, float | None]:
    """Median and 99th percentile, None without a step."""
    named = {f"{prefix}p{q}_ms": (n, q) for n, prefix in ((1, ""), (2, "cpu_")) for q in (50, 99)}
    return {
        key: float(np.percentile([times[n] for times in taken], q)) if taken else None
        for key, (n, q) in named.items()
    }


def library(board: Board) -> tuple[SubnetEntry, ...]:
    """A front of ``SUBNETS`` sub-networks on each processor."""
    entries = []
    for processor, slowest_ms in SLOWEST_MS.items():
        domains = [d for d in board.domains if processor_of(d) == processor]
        reference = tuple(DomainFrequency(d, board.domains[d].frequencies_hz[-1]) for d in domains)
        for number in range(SUBNETS):
            share = number / (SUBNETS - 1)
            total = slowest_ms * (1 + (SPREAD - 1) * share) / SPREAD
            entries.append(
                SubnetEntry(
                    id=f"s{number}",
                    processor=processor,
                    accuracy=0.72 + 0.08 * share**0.6,
                    latency_ms=total,
                    alpha_ms=0.15 * total,
                    beta_ms=0.85 * total,
                    reference_frequencies=reference,
                )
            )
    return tuple(entries)


def make_scene(count: int, steps: int, seed: int, *, calm: bool = False) -> Scene:
    """``count`` applications for as long as ``steps`` control periods, with everything that changes.

    ``calm``: with targets that can all be met, and no power cap.
    """
    rng, board = np.random.default_rng(seed), load_board(BOARD)
    asked = [
        AppTargets(f"app{n}", 60.0, rate_hz=float(rng.choice(RATES_HZ)), priority=n % 3) for n in range(count)
    ]
    entries = library(board)
    apps = tuple(App(t.app, t, entries, "cpu", start="s0", overhead_ms=OVERHEAD_MS) for t in asked)
    timeline: list[Event] = []
    for step in range(1, steps):
        now_s = STEP_S * step
        if step % LOAD_EVERY == 0:
            slowdown = SLOWDOWNS[step // LOAD_EVERY % len(SLOWDOWNS)]
            timeline += [Load(now_s, processor, 0.0, slowdown) for processor in SLOWEST_MS]
        if step % CAP_EVERY == 0 and not calm:
            cap_w = CAPS_W[step // CAP_EVERY % len(CAPS_W)]
            timeline.append(NewParameters(now_s, Parameters(power_cap_w=cap_w)))
        if step % TARGETS_EVERY == 0:
            timeline.append(NewTargets(now_s, _changed(asked[int(rng.integers(count))], rng, calm)))
    return Scene(
        name="decision",
        title="load, targets and power cap keep changing",
        board=board,
        apps=apps,
        duration_s=STEP_S * steps,
        timeline=tuple(timeline),
        noise=NOISE,
        bias=0.0,
        contention={},  # else eight applications would be overloaded all the time
    )


def _changed(targets: AppTargets, rng: np.random.Generator, calm: bool) -> AppTargets:
    return replace(
        targets,
        latency_target_ms=float(rng.uniform(*ASKED_MS[calm])),
        accuracy_target=float(rng.uniform(*ASKED_ACCURACY[calm])),
        accuracy_floor=float(rng.choice((0.0, 0.73))),
    )
