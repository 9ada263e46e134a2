"""Oracles: policies that know the true board, load and noise, as a bound to compare with.

Both know the true library, the true slowdown of every application on every processor (bias and load from
outside), the true power model, temperature and heat path, the time of every camera, and how many of the
frames of this run any operating point would be late for, but not which ones. They choose anew after every
frame, ten times a second and at events; a sub-network costs nothing to change.

- O1q: the least power at which every application keeps its miss_tolerance. One clock between frames, which
  changes at once. Kept because the goals of the protocol are against it.
- O1m: the least power + ``price_j`` x late frames per second. A run for each price, and a mix of those runs
  by `frontier.least_energy_j` (a small linear program), spend the misses where they save most: the price is
  that program's multiplier. It knows the state of the noise at the last frame. With ``lead_s`` the clocks
  take as long as real ones: a processor without work goes to its lowest clock, and up again so long before
  the next frame.

Both solve `oracle_ladder.best` at each choice; what that gives up in accuracy, rates or deadlines is given
up by both. The overlap of applications on one processor is that of `oracle_model.overlap_law`. Loads and
power are by the mean noise. A power cap holds in every 0.1 s that the score looks at, but for the share of
them that it tolerates: a processor is as busy there as the requests of this run make it, one application
after the other. With several the fullest times need not meet; ``peaks``, the share of what they take beyond
the mean, says how far they are expected to, and 0 keeps the cap in the mean. Temperature: the power that
reaches temperature_limit_c in 10 s (one RC, true ambient and resistance). `battery`: what is left of the
true energy over the time left. Processors in no use: lowest clock, but the CPU keeps its governor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite, nan
from typing import Any

import numpy as np

from dynofa_ros.evaluation.policies.governors import JETSON, present_governors
from dynofa_ros.evaluation.policies.oracle_ladder import best
from dynofa_ros.evaluation.policies.oracle_model import (
    Battery,
    Cameras,
    Chance,
    OracleModel,
    asked_accuracies,
    chance,
    make_model,
    overlap_law,
    thermal_limit_w,
)
from dynofa_ros.evaluation.policies.oracle_solver import Answer, Asked, Client, Question, put, solve, times_of
from dynofa_ros.evaluation.policies.per_app import accuracy_wanted
from dynofa_ros.evaluation.policies.profile import Array, offered_now, static_entry
from dynofa_ros.latency import processor_of
from dynofa_ros.manager.placement import Key, entry_key, place_of
from dynofa_ros.messages import FrequencyBand, SubnetCommand
from dynofa_ros.simulation.application import knob_of
from dynofa_ros.simulation.log import FrameRecord
from dynofa_ros.simulation.policy import AppView, Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import Scene

PERIOD_S = 0.1
LEAKAGE_GRAIN_C = 2.0
LIMIT_GRAIN_W = 0.1
SHARES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0)  # of late frames, tried by O1m
MOST_REGIMES = 2  # applications up to which the states of the noise are kept apart
Limits = tuple[float, float, float]  # of the mean power, of the power over 0.1 s (W), and `Oracle.peaks`
PREPARE_S = 0.0015  # of preprocessing, before a processor must be awake


def _lead_s(scene: Scene) -> float:
    """The longest that a clock of the processors in use takes, with the polling of its driver."""
    used = {e.processor for app in scene.apps for e in app.usable}
    domains = [d for name, d in scene.truth.domains.items() if processor_of(name) in used]
    return max(0.0, max(d.transition_s + d.poll_s for d in domains) - PREPARE_S)


@dataclass
class Oracle(Policy):
    """``wary``: factor on how much applications on one processor are expected to delay each other.

    ``peaks``: how much of the fullest 0.1 s must be below a power cap, 0 = the mean.
    ``memory``: what was found before, to be shared by the runs of one seed of a scene.
    """

    name: str = "O1q"
    price_j: float = nan  # J per late frame; NaN: keep the tolerance
    wary: float = 1.0
    peaks: float = 1.0
    lead_s: float = inf
    memory: dict[Any, Any] = field(default_factory=dict)
    clairvoyant = True
    _views: Mapping[str, AppView] = field(default_factory=dict)
    _knobs: dict[str, SubnetCommand] = field(default_factory=dict)
    _bands: dict[str, FrequencyBand] = field(default_factory=dict)
    _regimes: dict[str, int] = field(default_factory=dict)  # of the last frame answered
    _announced: dict[str, int] = field(default_factory=dict)  # number of the request that is to be answered

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """The static sub-network until the applications are there. Raises ValueError without the truth."""
        if truth is None:
            raise ValueError(f"{self.name} needs the ground truth of the simulator")
        self._scene, self._truth = scene, truth
        self._cameras = Cameras()
        self._battery = Battery()
        self._tables: dict[str, tuple[int, ...]] = {}
        self._offer: object = None
        self._parameters = scene.parameters
        self._libraries: dict[int, tuple[object, tuple[Key, ...]]] = {}
        if isfinite(self.lead_s):
            self.lead_s = _lead_s(scene)
        knobs = {a.name: knob_of(static_entry(scene, a)) for a in scene.apps}
        return Command(knobs=knobs, governors=present_governors(scene, JETSON))

    def wants(self) -> float:
        """So often that no change of the world goes unnoticed for long."""
        return PERIOD_S

    def on_announced(self, app: str) -> Command | None:
        """A frame comes: its processor is to be awake."""
        self._announced[app] = self._truth.apps[app].next_request
        return self._choose(self._now_s)

    def on_frame(self, frame: FrameRecord) -> Command | None:
        """Learns when cameras look; chooses for the next frame."""
        if frame.app not in self._views:
            return None
        self._cameras.observe(frame.app, frame.index, frame.arrived_s)
        if frame.monitor is None:
            return None  # another one is in work
        trace = self._truth.apps[frame.app].trace
        if trace.regimes:
            self._regimes[frame.app] = trace.regimes[frame.index]
        if self._announced.get(frame.app, -1) <= frame.index:
            self._announced.pop(frame.app, None)
        return self._choose(frame.answered_s)

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """Takes what is published; chooses."""
        self._views = {n: v for n, v in observation.apps.items() if v.library and not v.targets.paused}
        for view in self._views.values():  # an id is good as long as its object exists
            if id(view.library) not in self._libraries:
                self._libraries[id(view.library)] = view.library, tuple(map(entry_key, view.library))
        self._tables = offered_now(observation.capabilities)
        self._offer = tuple(sorted((d, len(t)) for d, t in self._tables.items()))
        self._parameters = observation.parameters
        self._knobs = {n: v.running for n, v in observation.apps.items()}
        return self._choose(now_s)

    def _choose(self, now_s: float) -> Command | None:
        self._now_s = now_s
        if not self._views:
            return None
        answer = self._answer(now_s)
        knobs = {}
        given = zip(sorted(self._views.items()), answer.entries, answer.asked.dividers, strict=True)
        for (name, view), entry, divider in given:
            knob = replace(knob_of(entry), rate_hz=nan if divider == 1 else view.targets.rate_hz / divider)
            if repr(self._knobs.get(name)) != repr(knob):  # NaN is equal to itself here
                self._knobs[name] = knobs[name] = knob
        bands = [b for b in self._wanted_bands(answer) if self._bands.get(b.domain) != b]
        self._bands.update({b.domain: b for b in bands})
        return Command(knobs=knobs, bands=tuple(bands)) if knobs or bands else None

    def _wanted_bands(self, answer: Answer) -> list[FrequencyBand]:
        model, domains = self._model(), self._scene.board.domains
        levels = answer.levels
        if isfinite(self.lead_s):
            homes = zip(sorted(self._views), answer.entries, strict=True)
            awake = {place_of(entry) for name, entry in homes if name in self._announced}
            levels = {place: level if place in awake else 0 for place, level in levels.items()}
        bands = {band.domain: band for band in model.bands(levels)}
        return [
            bands.get(d) or FrequencyBand(d, domains[d].start_min_hz, domains[d].start_max_hz)
            for levels_ in model.levels.values()
            for d in levels_.domains
        ]

    # --- the choice --------------------------------------------------------------------------

    def _answer(self, now_s: float) -> Answer:
        limits = self._limits_w(now_s)
        world = self._key()
        steady = (world, limits, self.price_j)
        if steady not in self.memory:
            tolerated = tuple(self._views[name].targets.miss_tolerance for name in sorted(self._views))
            answer = self._kept(("best", world, limits), lambda: best(self._question(limits, tolerated)))
            if isfinite(self.price_j):
                answer = self._priced(world, limits, answer, tolerated)
            self.memory[steady] = answer
        found: Answer = self.memory[steady]
        return found

    def _kept(self, key: object, make: Any) -> Any:
        """From memory."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def _priced(self, world: object, limits: Limits, start: Answer, tolerated: tuple[float, ...]) -> Answer:
        """Least power + price of what is late: all applications with the same share, then one by one.

        With all accuracies and rates; where no operating point has them, what ``start`` gives up.
        """
        everything = Asked((0,) * len(tolerated), (1,) * len(tolerated), (1.0,) * len(tolerated))
        rates = [self._views[name].targets.rate_hz for name in sorted(self._views)]

        def candidate(shares: tuple[float, ...]) -> tuple[float, Answer]:
            answer, late = self._kept(
                (world, limits, shares), lambda: self._candidate(limits, everything, shares)
            )
            missed = sum(rate * share for rate, share in zip(rates, late, strict=True))
            return (inf, start) if answer is None else (answer.power_w + self.price_j * missed, answer)

        tried = [tolerated, *((share,) * len(rates) for share in SHARES)]
        now = min(tried, key=lambda shares: candidate(shares)[0])
        for app in range(len(rates) if len(rates) > 1 else 0):
            now = min([now, *(put(now, app, s) for s in SHARES)], key=lambda shares: candidate(shares)[0])
        return candidate(now)[1]

    def _candidate(
        self, limits: Limits, asked: Asked, shares: tuple[float, ...]
    ) -> tuple[Answer | None, list[float]]:
        """The operating point of least power with these shares, and the shares that really are late."""
        question = self._question(limits, shares)
        answer = solve(question, asked)
        if answer is None:
            return None, [0.0] * len(shares)
        chances = [self._chance(name) for name in sorted(self._views)]
        times = zip(chances, times_of(question, answer), strict=True)
        return answer, [known.late_share(alone_ms * longer) for known, (alone_ms, longer) in times]

    # --- the question ------------------------------------------------------------------------

    def _key(self) -> object:
        """Everything that the answer depends on, but for the limits and the price."""
        names = sorted(self._views)
        processors = self._scene.places
        slow = tuple(round(self._truth.slowdown(n, p), 6) for n in names for p in processors)
        outside = tuple(self._truth.plant.outside(p) for p in processors)
        targets = tuple((self._views[n].targets, len(self._views[n].library)) for n in names)
        known = self._cameras.known(names)
        regimes = tuple(self._regime(n) for n in names)
        wanted = self._parameters.objective
        return (
            targets,
            slow,
            outside,
            self._leakage_c(),
            known,
            self._offer,
            wanted,
            regimes,
            self.lead_s,
            self.wary,
        )

    def _regime(self, name: str) -> int | None:
        few = len(self._views) <= MOST_REGIMES and isfinite(self.price_j)
        return self._regimes.get(name) if few else None

    def _chance(self, name: str) -> Chance:
        target_ms, regime = self._views[name].targets.latency_target_ms, self._regime(name)
        key = ("chance", name, target_ms, regime)
        known: Chance = self._kept(key, lambda: chance(self._truth.apps[name].trace, target_ms, regime))
        return known

    def _question(self, limits: Limits, late: tuple[float, ...]) -> Question:
        """``late``: share of its frames that each application may be late for."""
        names = sorted(self._views)
        model, known = self._model(), self._truth
        capped = limits[1] < inf
        clients = tuple(self._client(n, model, s, capped) for n, s in zip(names, late, strict=True))
        targets = [self._views[n].targets for n in names]
        contention = {p: self.wary * share for p, share in self._scene.contention.items()}
        law = overlap_law(targets, contention, self._cameras)
        return model.question(clients, known.plant.outside, limits[:2], law, self.lead_s)

    def _client(self, name: str, model: OracleModel, late: float, capped: bool) -> Client:
        view, known = self._views[name], self._truth
        targets, frames = view.targets, self._chance(name)
        wanted = accuracy_wanted(targets, self._parameters)
        budget_ms = targets.latency_target_ms - known.apps[name].spec.overhead_ms
        guard = budget_ms / frames.expected_ms(late)
        choices = {}
        for processor, own in model.choices[name].items():
            slowdown = known.slowdown(name, processor) * frames.typical
            unit_ms = own.unit_ms + frames.extra_ms / slowdown
            choices[processor] = replace(own, unit_ms=unit_ms, slowdown=slowdown, guard=guard)

        def fullest_load(expected_ms: Array) -> Array:
            mean = np.minimum(1.0, 1e-3 * targets.rate_hz * expected_ms)
            return mean + self.peaks * (frames.fullest_load(expected_ms) - mean)

        return Client(
            name=name,
            priority=targets.priority,
            rate_hz=targets.rate_hz,
            budget_ms=budget_ms,
            accuracies=asked_accuracies(view.library, wanted, targets.accuracy_floor),
            choices=choices,
            fullest_load=fullest_load if capped else np.ones_like,
        )

    def _model(self) -> OracleModel:
        """Levels and true times of what is on offer now."""
        offered = [(n, self._libraries[id(v.library)][1]) for n, v in sorted(self._views.items())]
        key = (self._offer, tuple((n, len(keys)) for n, keys in offered), self._leakage_c())

        def make() -> OracleModel:
            libraries = {n: [self._truth.apps[n].trace.entries[k] for k in keys] for n, keys in offered}
            return make_model(self._scene.truth, self._tables, libraries, self._leakage_c())

        model: OracleModel = self._kept(key, make)
        return model

    # --- limits -------------------------------------------------------------------------------

    def _leakage_c(self) -> float:
        return round(self._truth.plant.device.temperature_c / LEAKAGE_GRAIN_C) * LEAKAGE_GRAIN_C

    def _limits_w(self, now_s: float) -> Limits:
        used_j = self._truth.plant.device.energy_j
        battery_w = self._battery.limit_w(self._parameters, now_s, used_j)
        thermal_w = thermal_limit_w(
            self._scene.truth.thermal,
            self._scene.timeline,
            now_s,
            self._truth.plant.device.temperature_c,
            self._parameters.temperature_limit_c,
        )
        limit_w, cap_w, most_w = min(battery_w, thermal_w), self._parameters.power_cap_w, self._model().most_w
        limit_w = inf if limit_w >= most_w else round(limit_w / LIMIT_GRAIN_W) * LIMIT_GRAIN_W
        return (limit_w, inf, 0.0) if cap_w >= most_w else (limit_w, cap_w, self.peaks)
