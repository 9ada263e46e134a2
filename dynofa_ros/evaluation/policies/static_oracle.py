"""O2, OracleStatic: the best single configuration in hindsight.

One sub-network and processor per application and one clock level per processor for the whole scene, by
`oracle_ladder.best`, knowing all that will happen: the share of misses of a candidate is the mean over
the phases of the timeline (targets, load from outside, reservations; presence of the application) of the
probability that a frame is late, by the distribution of the noise and the true bias. It must not exceed
miss_tolerance. Accuracy: the highest that any phase asks for, at least the highest floor; then what
`oracle_ladder.best` gives up. Clocks: those that every mode of the timeline leaves. Power: the least cap; for
`battery` the budget over its time; for heat the most that never exceeds the limit when drawn all the time.

In hindsight of the distribution, not of the drawn frames; all applications are reckoned with at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

from dynofa_ros.evaluation.policies.governors import JETSON, StaticPolicy, present_governors
from dynofa_ros.evaluation.policies.oracle_ladder import best
from dynofa_ros.evaluation.policies.oracle_model import (
    OracleModel,
    asked_accuracies,
    constant_limit_w,
    make_model,
    overlap_law,
)
from dynofa_ros.evaluation.policies.oracle_solver import Client
from dynofa_ros.evaluation.policies.per_app import accuracy_wanted, power_budget_w
from dynofa_ros.evaluation.policies.profile import PROFILE_C, knob_of, offered
from dynofa_ros.latency import processor_of
from dynofa_ros.messages import AppTargets
from dynofa_ros.simulation.noise import cdf, mean
from dynofa_ros.simulation.policy import Command, GroundTruth
from dynofa_ros.simulation.scene import App, Load, NewMode, NewParameters, Noise, Reserved, Scene


@dataclass(frozen=True)
class Phase:
    """A stretch of an application's presence in which nothing changes. ``slowdown`` is from outside."""

    weight: float  # frames
    targets: AppTargets
    slowdown: float


def phases(scene: Scene, app: App, processor: str) -> list[Phase]:
    """All phases of an application, as it would meet them on a processor."""
    start_s, end_s = app.from_s, min(app.until_s, scene.duration_s)
    cuts = {start_s, end_s}
    for event in scene.timeline:
        cuts |= {event.at_s, event.until_s} if isinstance(event, Reserved) else {event.at_s}
    edges = sorted(t for t in cuts if start_s <= t <= end_s)
    found = []
    for begin_s, finish_s in pairwise(edges):
        targets = scene.targets_at(app, begin_s)
        if not targets.paused:
            weight = (finish_s - begin_s) * targets.rate_hz
            found.append(Phase(weight, targets, _slowdown(scene, processor, begin_s)))
    return found


def _slowdown(scene: Scene, processor: str, now_s: float) -> float:
    load = reserved = 1.0
    for event in scene.timeline:
        if isinstance(event, Load | Reserved) and event.at_s <= now_s:
            if event.processor not in (processor, processor_of(processor)):
                continue
            if isinstance(event, Load):
                load = 1.0 + event.slowdown
            elif now_s < event.until_s:
                reserved = event.slowdown
    return load * reserved


def longest_ms(found: Sequence[Phase], noise: Noise, overhead_ms: float, bias: float) -> float:
    """Longest unit time with which the share of late frames stays within miss_tolerance."""
    total = sum(phase.weight for phase in found)
    if total <= 0.0:
        return inf
    tolerated = sum(phase.weight * phase.targets.miss_tolerance for phase in found) / total

    def missed(unit_ms: float) -> float:
        late = 0.0
        for phase in found:
            budget_ms = phase.targets.latency_target_ms - overhead_ms
            late += phase.weight * (1.0 - cdf(noise, budget_ms / (phase.slowdown * bias * unit_ms)))
        return late / total

    low, high = 1e-3, max(phase.targets.latency_target_ms for phase in found)
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if missed(middle) <= tolerated + 1e-12 else (low, middle)
    return low


@dataclass
class StaticOracle(StaticPolicy):
    """Decides once."""

    name: str = "O2"
    governors: Mapping[str, str] = field(default_factory=lambda: JETSON)
    clairvoyant = True

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """The configuration. Raises ValueError without the truth."""
        if truth is None:
            raise ValueError(f"{self.name} needs the ground truth of the simulator")
        tables = _tables(scene)
        model = make_model(scene.truth, tables, {a.name: a.usable for a in scene.apps}, PROFILE_C)
        clients = tuple(_client(scene, truth, app, model) for app in scene.apps)
        law = overlap_law([app.targets for app in scene.apps], scene.contention, None)
        answer = best(model.question(clients, lambda _: 0.0, _limit_w(scene, truth), law))
        self._wanted = {c.name: knob_of(e) for c, e in zip(clients, answer.entries, strict=True)}
        bands = tuple(model.bands(answer.levels))
        return Command(self._wanted, bands, present_governors(scene, self.governors))


def _tables(scene: Scene) -> dict[str, tuple[int, ...]]:
    """Clocks that every mode of the scene leaves."""
    modes = {scene.mode, *(e.mode for e in scene.timeline if isinstance(e, NewMode))}
    offers = [offered(scene.truth, mode) for mode in modes]
    shared = [d for d in offers[0] if all(d in offer for offer in offers)]
    return {d: min((offer[d] for offer in offers), key=len) for d in shared}


def _client(scene: Scene, truth: GroundTruth, app: App, model: OracleModel) -> Client:
    known = phases(scene, app, app.mapping)
    targets = [phase.targets for phase in known] or [app.targets]
    typical, budget_ms = mean(scene.noise), targets[0].latency_target_ms - app.overhead_ms
    choices = {}
    for name, choice in model.choices[app.name].items():
        found = phases(scene, app, name)
        bias = truth.slowdown(app.name, name) / _slowdown(scene, name, 0.0)
        outside = sum(p.weight * p.slowdown for p in found) / max(1e-9, sum(p.weight for p in found))
        slowdown = bias * typical * (outside or 1.0)
        longest = longest_ms(found, scene.noise, app.overhead_ms, bias)
        choices[name] = replace(choice, slowdown=slowdown, guard=budget_ms / (longest * slowdown))
    return Client(
        name=app.name,
        priority=app.targets.priority,
        rate_hz=max(t.rate_hz for t in targets),
        budget_ms=budget_ms,
        accuracies=asked_accuracies(
            app.usable,
            max(accuracy_wanted(t, scene.parameters) for t in targets),
            max(t.accuracy_floor for t in targets),
        ),
        choices=choices,
    )


def _limit_w(scene: Scene, truth: GroundTruth) -> float:
    parameters = [scene.parameters, *(e.parameters for e in scene.timeline if isinstance(e, NewParameters))]
    heat_w = constant_limit_w(
        scene.truth.thermal,
        scene.timeline,
        scene.duration_s,
        truth.temperature_c(),
        min(p.temperature_limit_c for p in parameters),
    )
    return min(heat_w, *(power_budget_w(p) for p in parameters))
