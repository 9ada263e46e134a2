"""Levels: what a program without a supernet can run, such as a VLM, or SLAM with a quality knob.

They take the place of sub-networks: a library of levels, each with its accuracy and its latency, and a task
that runs the program at the level in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, isnan, nan
from numbers import Real
from typing import Any, Protocol, get_args

import numpy as np

from dynofa_ros.application.networks import Libraries, SubnetKey
from dynofa_ros.application.task import Answer, Task
from dynofa_ros.application.worker import LatestSlot, OrderedQueue
from dynofa_ros.library.library import Entry, FigureSource, Latency, Library, Processor, pareto_front
from dynofa_ros.library.profiling import measure
from dynofa_ros.supernet.graphs import Runner
from dynofa_ros.supernet.switching import Prepared

ROUNDS = 10  # in which levels without a latency are measured
PAUSE_S = 0.01  # before each call: see `measure`


@dataclass(frozen=True)
class Level:
    """One setting of a program's knob.

    accuracy: a share 0..1, by any measure that rises with quality. latency_ms: usual time of ``answer`` here
    at the top clock, NaN = measured at the start. fixed_ms: the part of it that no clock shortens.
    latency_source: "declared", or "measured" at the start.
    """

    id: str
    accuracy: float
    latency_ms: float = nan
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    processor: str = "cpu"
    fixed_ms: float = 0.0
    latency_source: FigureSource = field(default="declared", compare=False)


class Program(Protocol):
    """What runs at a level; `ManagedApplication` says what each does."""

    def prepare(self, level: Level) -> None: ...
    def answer(self, request: Any, level: Level) -> Any: ...
    def publish(self, answer: Any, request: Any) -> float | None: ...


class Levels(Libraries):
    """The levels of a program, as libraries. Raises ValueError in one line for levels that are none."""

    def __init__(self, levels: Sequence[Level], program: Program) -> None:
        self._program = program
        _check_types(levels)
        self._levels = {(level.processor, level.id): level for level in levels}
        if not levels or len(self._levels) < len(levels):
            raise ValueError("levels: at least one is needed, and each needs an id of its own")
        for level in levels:
            times_fit = 0 < level.latency_ms < inf and 0 <= level.fixed_ms <= level.latency_ms
            if not (times_fit and 0 <= level.accuracy <= 1):
                raise ValueError(
                    f"level {level.id}: accuracy must be in 0..1, latency_ms positive and at least fixed_ms; "
                    f"got {level.accuracy}, {level.latency_ms}, {level.fixed_ms}"
                )
        processors = dict.fromkeys(level.processor for level in levels)
        super().__init__(
            {p: _library(p, [level for level in levels if level.processor == p]) for p in processors}
        )

        kept = {(p, entry.id) for p, library in self.libraries.items() for entry in library}
        self.left_out = [level for key, level in self._levels.items() if key not in kept]

    def prepare(self, key: SubnetKey) -> Prepared[SubnetKey]:
        level = self._levels[key.processor, key.subnet_id]
        self._program.prepare(level)
        run = Runner({"program": lambda request: self._program.answer(request, level)}, {})
        return Prepared(key, run, (), 0, lambda request: request)


def _check_types(levels: Sequence[Level]) -> None:
    for level in levels:
        if not isinstance(level, Level):
            raise ValueError(f"levels: {level!r} is no Level")
        if not isinstance(level.id, str) or not level.id.strip() or not level.id.isprintable():
            raise ValueError(f"level {level.id!r}: its id must be a name")
        if level.processor not in get_args(Processor):
            raise ValueError(f"level {level.id}: processor {level.processor!r} is none of cpu, gpu, npu")
        if not isinstance(level.settings, Mapping):
            raise ValueError(f"level {level.id}: settings must be by name, got {level.settings!r}")
        numbers = level.accuracy, level.latency_ms, level.fixed_ms
        if not all(isinstance(number, Real) for number in numbers):
            raise ValueError(
                f"level {level.id}: accuracy, latency_ms and fixed_ms must be numbers: {numbers}"
            )


def _library(processor: str, levels: Sequence[Level]) -> Library:
    entries = [
        Entry(
            id=level.id,
            config=dict(level.settings),
            accuracy=level.accuracy,
            accuracy_source="declared",
            latency_ms=Latency(level.latency_ms, nan),
            latency_source=level.latency_source,
            alpha_ms=level.fixed_ms,
            beta_ms=level.latency_ms - level.fixed_ms,
            macs=None,
            params=None,
        )
        for level in levels
    ]
    front = pareto_front(entries)
    return Library(1, "levels", None, "", processor, {}, (), front, None, "accuracy")  # type: ignore[arg-type]


class AtLevel(Task):
    """Runs a program at the level in force. queued: requests wait in order, else the newest one wins."""

    name, request = "level", "request"

    def __init__(self, program: Program, queued: bool) -> None:
        self._program, self.queued = program, queued
        self.queue = OrderedQueue if queued else LatestSlot

    def infer(self, run: Runner, tensors: Any, emit: Any) -> Any:
        return run.graphs["program"](tensors)

    def postprocess(self, outputs: Any, request: Any, network: Any, options: Any) -> Answer:
        score = self._program.publish(outputs, request)
        try:
            sure = nan if score is None else float(score)
        except (TypeError, ValueError, OverflowError):
            sure = inf
        if sure < 0 or sure > 1:
            raise ValueError(f"publish() returned {score!r}: how sure the answer is, 0..1, or None")
        return Answer({}, sure)


def measured(levels: Sequence[Level], program: Program, sample: Callable[[], Any]) -> list[Level]:
    """The same levels, those without a latency with the median time of an answer to the sample.

    Raises ValueError in one line for what is no level.
    """
    _check_types(levels)
    unknown = [level for level in levels if isnan(level.latency_ms)]
    if not unknown:
        return list(levels)
    request = sample()
    for level in unknown:
        program.prepare(level)
    calls = {f"{level.processor}/{level.id}": partial(program.answer, request, level) for level in unknown}
    times = measure(calls, ROUNDS, pause_s=PAUSE_S)
    found = dict(zip(unknown, times.values(), strict=True))
    return [
        replace(v, latency_ms=float(np.median(found[v])), latency_source="measured") if v in found else v
        for v in levels
    ]
