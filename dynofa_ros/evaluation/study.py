"""Scenarios x policies x seeds in parallel processes, and what follows from their scores.

Everything that one seed of one scene needs runs in one process, O1q first, because settling is judged by its
accuracies. Results do not depend on the number of processes or on their order.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from typing import Any

import msgspec
import numpy as np

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.drawn import Stream, drawn_scene
from dynofa_ros.evaluation.frontier import ORACLES, Point, sweep
from dynofa_ros.evaluation.policies import make_policy
from dynofa_ros.evaluation.policies.constants import KNOBS
from dynofa_ros.evaluation.recorded import recorded
from dynofa_ros.evaluation.scenarios import evaluation_board, scenario_of, scenes
from dynofa_ros.evaluation.score import accuracies, score
from dynofa_ros.recording import run as recording
from dynofa_ros.recording.metrics import mean
from dynofa_ros.simulation.log import Run
from dynofa_ros.simulation.scene import NONE, Scene
from dynofa_ros.simulation.simulator import simulate

OURS, STATIC, ORACLE = "ours", "B4", "O1q"
ENERGY = "energy_j.all_rails"
PARTS = ("ours_subnet", "ours_dvfs", "ours_mapping")
SHOWN_SAMPLES = 5  # one in so many, with the mean power in between
SHOWN = (OURS, STATIC, "B6", ORACLE)  # whose runs of the first seed are kept for pictures
NOISE_FREE, PAPER, SWEEP = "noise-free", "paper", "sweep "
FASTER, FLOOR = "S1 faster", "S1 floor"
PAPER_SHARE = 0.91  # the paper's 9 % less latency than the baseline
ORACLE_SCENES = ("S1", "S1 D70", "S1 D150", "S4", "S6")
PART_SCENES = ("S1", "S2", "S2 half", "S2 gpu", "S2 fixed", "S4", "S6", "S9", "S11")
SWEEP_SCENES, SWEEP_POLICIES = ("S1", "S2 half", "S4"), ("B1", STATIC, OURS, ORACLE)
FEW_SEEDS = 3
DRAWN, RUNS_OF_A_SWEEP = "drawn", 4
RESAMPLES = 2000

Score = dict[str, Any]
Interval = tuple[float, float, float]  # mean, low, high
Outcome = tuple[list[Score], dict[str, recording.Run]]  # of a job; runs by policy, as if recorded


@dataclass(frozen=True)
class Job:
    """One scene with one seed under several policies. ``group``: which part of the study it belongs to.

    ``seeds``: of a drawn scene, whose policies are swept over their knobs with all of them.
    """

    group: str
    scene: Scene
    seed: int
    policies: tuple[str, ...]
    keep: bool = False
    seeds: tuple[int, ...] = ()


@dataclass
class Study:
    """Scores by group (``main``, ``noise-free``, ``parts``, ``paper``, ``sweep <name>``) and kept runs; of
    the group ``drawn`` the points of sweeps, with their scenes by name."""

    scores: dict[str, list[Score]] = field(default_factory=dict)
    runs: dict[tuple[str, str], recording.Run] = field(default_factory=dict)  # of the first seed
    drawn: dict[str, Scene] = field(default_factory=dict)

    def rows(self, scene: str, policy: str, group: str = "main") -> list[Score]:
        """Scores of a scene and policy, by seed."""
        rows = [r for r in self.scores.get(group, []) if r["scenario"] == scene and r["policy"] == policy]
        return sorted(rows, key=lambda r: r["seed"])

    def values(self, scene: str, policy: str, key: str, group: str = "main") -> list[float]:
        """One figure of a scene and policy, by seed; ``energy_j.cpu_gpu`` looks inside."""
        return [_inside(row, key) for row in self.rows(scene, policy, group)]

    def mean(self, scene: str, policy: str, key: str, group: str = "main") -> float:
        """Mean over the seeds, NaN if it was not run."""
        return mean(self.values(scene, policy, key, group))

    def has(self, scene: str, policy: str, group: str = "main") -> bool:
        """Whether a scene was run under a policy."""
        return bool(self.rows(scene, policy, group))

    def change(
        self, scene: str, other: str, policy: str = OURS, group: str = "main", base: str = ""
    ) -> Interval:
        """Change of the energy against another policy, in the group ``base`` if it is not the same one."""
        ours = self.values(scene, policy, ENERGY, group)
        return change_percent(ours, self.values(scene, other, ENERGY, base or group))

    def points(self, scene: str) -> list[Point]:
        """What the sweeps of a drawn scene gave."""
        rows = (row for row in self.scores.get(DRAWN, []) if row["scenario"] == scene)
        return [msgspec.convert(row, Point) for row in rows]

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes of the main part, in order."""
        return list(dict.fromkeys(r["scenario"] for r in self.scores.get("main", [])))

    @property
    def policies(self) -> list[str]:
        """Names of the policies of the main part, in order."""
        return list(dict.fromkeys(r["policy"] for r in self.scores.get("main", [])))


def _inside(row: Score, key: str) -> float:
    value: Any = row
    for part in key.split("."):
        value = value[part]
    return float(value)


# --- what is run --------------------------------------------------------------------------------------------


def drawn_jobs(stream: Stream, number: int, policies: Sequence[str], seeds: int) -> list[Job]:
    """Sweeps of the first scenes of a stream: ours, the oracles, and those baselines that are asked for."""
    swept = tuple(name for name in KNOBS if name in (OURS, *ORACLES, *policies))
    return [Job(DRAWN, drawn_scene(n, stream), 0, swept, seeds=tuple(range(seeds))) for n in range(number)]


def plan(names: Sequence[str], policies: Sequence[str], seeds: int, *, quick: bool = False) -> list[Job]:
    """All jobs of the scenarios. ``quick``: the main part alone, of each scenario its first scene."""
    wanted = scenes(names)
    if quick:
        wanted = list({scenario_of(scene.name): scene for scene in reversed(wanted)}.values())[::-1]
    jobs = [Job("main", scene, seed, tuple(policies), seed == 0) for scene in wanted for seed in range(seeds)]
    if quick or OURS not in policies:
        return jobs
    few = range(min(seeds, FEW_SEEDS))
    named = {scene.name: scene for scene in wanted}
    if ORACLE in policies:
        calm = (replace(named[n], noise=NONE, bias=0.0) for n in ORACLE_SCENES if n in named)
        jobs += [Job(NOISE_FREE, scene, seed, (OURS, ORACLE)) for scene in calm for seed in few]
    parts = [named[name] for name in PART_SCENES if name in named]
    jobs += [Job("parts", scene, seed, PARTS) for scene in parts for seed in range(seeds)]
    if "S1" in named:
        faster = faster_scene(named["S1"])
        jobs += [Job(PAPER, faster, seed, (OURS,)) for seed in range(seeds)]
        jobs += [Job(PAPER, floor_scene(named["S1"]), seed, ("B1", STATIC)) for seed in range(seeds)]
    for name, board in power_variants(evaluation_board()).items():
        changed = (replace(named[n], board=board, real_board=None) for n in SWEEP_SCENES if n in named)
        jobs += [Job(SWEEP + name, scene, seed, SWEEP_POLICIES) for scene in changed for seed in few]
    return jobs


def faster_scene(scene: Scene) -> Scene:
    """S1 with 91 % of the median latency of B4 as the deadline of ours."""
    frames = _simulate(scene, STATIC, 0).frames
    median_ms = float(np.median([f.latency_ms for f in frames if isfinite(f.latency_ms)]))
    app = scene.apps[0]
    targets = replace(app.targets, latency_target_ms=round(PAPER_SHARE * median_ms, 1))
    return replace(scene, name=FASTER, apps=(replace(app, targets=targets),))


def floor_scene(scene: Scene) -> Scene:
    """S1 whose static policies run the least sub-network that has the accuracy."""
    app = scene.apps[0]
    enough = [e for e in app.library if app.mapping in (e.processor, e.cluster)]
    enough = [e for e in enough if e.accuracy >= app.targets.accuracy_floor]
    least = min(enough, key=lambda e: e.latency_ms)
    return replace(scene, name=FLOOR, apps=(replace(app, start=least.id),))


def power_variants(board: Board) -> dict[str, Board]:
    """The board with one guess of its power model changed at a time (facts: b0, k, slope of V of the GPU)."""
    power, gpu = board.power, board.domains["gpu"]
    variants = {
        "base_w -0.5 W": {"base_w": power.base_w - 0.5},
        "base_w +0.5 W": {"base_w": power.base_w + 0.5},
        "conversion_loss 0.15": {"conversion_loss": 0.15},
        "conversion_loss 0.40": {"conversion_loss": 0.40},
    }
    replaced = msgspec.structs.replace
    boards = {name: replaced(board, power=replaced(power, **v)) for name, v in variants.items()}
    for text, factor in (("-30 %", 0.7), ("+30 %", 1.3)):
        low = gpu.voltages[0][1]
        volts = tuple((hz, low + factor * (v - low)) for hz, v in gpu.voltages)
        domains = {**board.domains, "gpu": replaced(gpu, voltages=volts)}
        boards[f"GPU voltage slope {text}"] = replaced(board, domains=domains)
    return boards


# --- running ------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], workers: int, done: Callable[[int], None]) -> Study:
    """Run all jobs; ``done`` is called after each with their number."""
    study = Study()
    finished: dict[int, Outcome] = {}
    for number, outcome in _outcomes(jobs, workers):
        finished[number] = outcome
        done(len(jobs))
    for number, job in enumerate(jobs):
        rows, kept = finished[number]
        study.scores.setdefault(job.group, []).extend(rows)
        study.drawn.update({job.scene.name: job.scene} if job.group == DRAWN else {})
        study.runs.update({(job.scene.name, policy): run for policy, run in kept.items()})
    return study


def _outcomes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Outcome]]:
    if workers <= 1:
        yield from ((number, run_job(job)) for number, job in enumerate(jobs))
        return
    order = sorted(range(len(jobs)), key=lambda number: -_size(jobs[number]))  # so that they end together
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_prepare_worker) as pool:
        try:
            futures = {pool.submit(run_job, jobs[number]): number for number in order}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException as error:
            for process in multiprocessing.active_children():
                process.terminate()  # or the end would wait for the simulations under way
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    "a worker process died (killed, or out of memory); try --jobs 1"
                ) from error
            raise


def _size(job: Job) -> float:
    return (
        job.scene.duration_s
        * len(job.policies)
        * len(job.scene.apps)
        * (RUNS_OF_A_SWEEP * len(job.seeds) or 1)
    )


def _prepare_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected between simulations, never within the time that a decision takes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _simulate(scene: Scene, policy: str, seed: int) -> Run:
    with _no_collection():
        return simulate(scene, make_policy(policy), seed)


def run_job(job: Job) -> Outcome:
    """Scores of all policies of a job, and the runs that are to be shown."""
    if job.seeds:
        with _no_collection():
            points = sweep(job.scene, job.seeds, job.policies)
        return [{"scenario": job.scene.name, **asdict(point)} for point in points], {}
    ordered = sorted(job.policies, key=lambda name: name != ORACLE)
    reference = None
    if job.scene.steps and ORACLE not in ordered and job.group == "main":
        reference = accuracies(_simulate(job.scene, ORACLE, job.seed))
    scores, kept = {}, {}
    for name in ordered:
        run = _simulate(job.scene, name, job.seed)
        if name == ORACLE:
            reference = accuracies(run)
        scores[name] = score(run, reference)
        if job.keep and name in SHOWN:
            steps = [("", at_s) for at_s in (0.0, *job.scene.steps) if isfinite(at_s)]
            kept[name] = recorded(run, steps, every=SHOWN_SAMPLES)
    return [scores[name] for name in job.policies], kept


# --- statistics ---------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % bootstrap interval (percentiles) over the seeds; NaN without values."""
    from scipy.stats import bootstrap

    known = np.array([v for v in values if isfinite(v)])
    if len(known) < 2:
        only = float(known[0]) if len(known) else nan
        return only, only, only
    rng = np.random.default_rng(1)
    span = bootstrap((known,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=rng)
    return float(known.mean()), float(span.confidence_interval.low), float(span.confidence_interval.high)


def change_percent(ours: Sequence[float], other: Sequence[float]) -> Interval:
    """Paired change against another policy in percent: mean and 95 % bootstrap interval over the seeds."""
    pairs = zip(ours, other, strict=False)
    return interval([100.0 * (a / b - 1.0) for a, b in pairs if b])
