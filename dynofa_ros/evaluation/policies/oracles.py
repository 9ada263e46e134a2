"""O1q and O1f: what could be reached by somebody who knows. Their knobs act at once and cost nothing.

- O1q knows the true slowdown of every application on every processor (bias and load from outside), the
  distribution of the noise (not the next frame's), the true power model, temperature and heat path, and the
  time of every camera. It chooses anew after every frame, every 20 ms and at events.
- O1f also knows the noise of every next frame (a per-frame clairvoyant; reported only), but not its overhead,
  of which it takes a quantile. A frame that cannot be saved gets O1q's choice. Processors are O1q's (waking
  one up for a frame costs more than it saves), and from two applications on the accuracies too.

Both solve `oracle_ladder.best` at each choice. A deadline holds if quantile(noise, 1 - miss_tolerance) x
expected time plus the overlap with others fits in latency_target - overhead; loads and power are by the mean
noise.
Interpretations:

- Overlap of applications on one processor: `oracle_model.overlap_law`.
- A power cap holds in the mean: while jobs run, power is above it for a tenth of a second now and then.
- Temperature: the power that reaches temperature_limit_c in 10 s (one RC, true ambient and resistance).
- `battery`: what is left of the true energy over the time left. Processors that host nobody: lowest clock,
  but the CPU keeps its governor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, nan

from dynofa_ros.evaluation.policies.governors import JETSON, present_governors
from dynofa_ros.evaluation.policies.oracle_ladder import best
from dynofa_ros.evaluation.policies.oracle_model import (
    Battery,
    Cameras,
    OracleModel,
    asked_accuracies,
    make_model,
    overlap_law,
    thermal_limit_w,
)
from dynofa_ros.evaluation.policies.oracle_solver import Answer, Client, Question, solve
from dynofa_ros.evaluation.policies.per_app import accuracy_wanted
from dynofa_ros.evaluation.policies.profile import knob_of, offered_now, static_entry
from dynofa_ros.messages import FrequencyBand
from dynofa_ros.simulation.log import FrameRecord, Knob
from dynofa_ros.simulation.noise import OVERHEAD_SIGMA, mean, quantile
from dynofa_ros.simulation.policy import AppView, Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import Noise, Scene

PERIOD_S = 0.02
LEAKAGE_GRAIN_C = 2.0
LIMIT_GRAIN_W = 0.1
MAX_SEARCHED = 1  # applications for which O1f searches accuracies at every frame
MAX_REMEMBERED = 20_000


def staying(question: Question, answer: Answer) -> Question:
    """The question with every application on the processor or cluster that it has in an answer."""
    homes = [entry.cluster or entry.processor for entry in answer.entries]
    clients = tuple(
        replace(client, choices={place: client.choices[place]})
        for client, place in zip(question.clients, homes, strict=True)
    )
    return replace(question, clients=clients, known={})


@dataclass
class Oracle(Policy):
    """``per_frame``: knows the noise of the next frame of every application (O1f)."""

    name: str = "O1q"
    per_frame: bool = False
    clairvoyant = True
    _answers: dict[object, Answer] = field(default_factory=dict)
    _views: Mapping[str, AppView] = field(default_factory=dict)
    _noises: dict[str, float] = field(default_factory=dict)
    _knobs: dict[str, Knob] = field(default_factory=dict)
    _bands: dict[str, FrequencyBand] = field(default_factory=dict)
    _questions: dict[object, Question] = field(default_factory=dict)

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """The static sub-network until the applications are there. Raises ValueError without the truth."""
        if truth is None:
            raise ValueError(f"{self.name} needs the ground truth of the simulator")
        self._scene, self._truth = scene, truth
        self._cameras = Cameras()
        self._battery = Battery()
        self._tables: dict[str, tuple[int, ...]] = {}
        self._offer: object = None
        self._kept: list[object] = []
        self._parameters = scene.parameters
        self._models: dict[object, OracleModel] = {}
        knobs = {a.name: knob_of(static_entry(scene, a)) for a in scene.apps}
        return Command(knobs=knobs, governors=present_governors(scene, JETSON))

    def wants(self) -> float:
        """So often that no change of the world goes unnoticed for long."""
        return PERIOD_S

    def on_frame(self, frame: FrameRecord) -> Command | None:
        """Learns when cameras look; chooses for the next frame."""
        if frame.app not in self._views:
            return None
        self._cameras.observe(frame.app, frame.index, frame.arrived_s)
        if frame.monitor is None and frame.app in self._noises:
            return None  # its frame is still in work
        self._noises[frame.app] = self._truth.next_noise(frame.app)
        return self._choose(frame.arrived_s if frame.monitor is None else frame.answered_s)

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """Takes what is published; chooses."""
        self._views = {n: v for n, v in observation.apps.items() if v.library and not v.targets.paused}
        self._tables = offered_now(observation.capabilities)
        self._offer = tuple(sorted((d, len(t)) for d, t in self._tables.items()))
        self._parameters = observation.parameters
        self._knobs = {n: v.running for n, v in observation.apps.items()}
        for name in self._views:
            self._noises.setdefault(name, self._truth.next_noise(name))
        return self._choose(now_s)

    def _choose(self, now_s: float) -> Command | None:
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
        bands = {band.domain: band for band in model.bands(answer.levels)}
        return [
            bands.get(d) or FrequencyBand(d, domains[d].start_min_hz, domains[d].start_max_hz)
            for levels in model.levels.values()
            for d in levels.domains
        ]

    # --- the question ------------------------------------------------------------------------

    def _answer(self, now_s: float) -> Answer:
        limit_w = self._limit_w(now_s)
        world = self._key()
        steady = (world, round(limit_w, 2))
        if steady not in self._answers:
            if world not in self._questions:
                self._questions[world] = self._question(limit_w, None)
            self._remember(steady, best(self._questions[world].within(limit_w)))
        answer = self._answers[steady]
        return self._per_frame(steady, limit_w, answer) if self.per_frame else answer

    def _per_frame(self, steady: object, limit_w: float, fallback: Answer) -> Answer:
        noises = tuple(self._noises[name] for name in sorted(self._views))
        key = (steady, noises)
        if key not in self._answers:
            question = staying(self._question(limit_w, noises), fallback)
            if len(noises) > MAX_SEARCHED:
                answer = solve(question, fallback.asked)
            else:
                found = best(question)
                answer = found if found.asked.whole else None  # cannot be saved
            self._remember(key, answer or fallback)
        return self._answers[key]

    def _remember(self, key: object, answer: Answer) -> None:
        if len(self._answers) > MAX_REMEMBERED:
            self._answers.clear()
        self._answers[key] = answer

    def _key(self) -> object:
        """Everything that the answer depends on, but for the limit."""
        names = sorted(self._views)
        processors = self._scene.places
        slow = tuple(round(self._truth.slowdown(n, p), 6) for n in names for p in processors)
        outside = tuple(self._truth.outside(p) for p in processors)
        targets = tuple((self._views[n].targets, len(self._views[n].library)) for n in names)
        known = self._cameras.known(names)
        wanted = self._parameters.objective
        return targets, slow, outside, self._leakage_c(), known, self._offer, wanted

    def _question(self, limit_w: float, noises: tuple[float, ...] | None) -> Question:
        names = sorted(self._views)
        model, known = self._model(), self._truth
        given = (None,) * len(names) if noises is None else noises
        clients = tuple(self._client(n, model, noise) for n, noise in zip(names, given, strict=True))
        targets = [self._views[n].targets for n in names]
        law = overlap_law(targets, self._scene.contention, self._cameras)
        return model.question(clients, known.outside, limit_w, law)

    def _client(self, name: str, model: OracleModel, noise: float | None) -> Client:
        view, known = self._views[name], self._truth
        targets = view.targets
        wanted = accuracy_wanted(targets, self._parameters)
        typical = mean(known.noise())
        upper = noise if noise is not None else quantile(known.noise(), 1.0 - targets.miss_tolerance)
        choices = {
            processor: replace(own, slowdown=known.slowdown(name, processor) * typical, guard=upper / typical)
            for processor, own in model.choices[name].items()
        }
        return Client(
            name=name,
            priority=targets.priority,
            rate_hz=targets.rate_hz,
            budget_ms=targets.latency_target_ms - self._overhead_ms(name, noise is not None),
            accuracies=asked_accuracies(view.library, wanted, targets.accuracy_floor),
            choices=choices,
        )

    def _overhead_ms(self, name: str, exact_noise: bool) -> float:
        """The mean; where only the overhead is left to chance, what miss_tolerance of them exceed."""
        mean_ms = self._truth.overhead_ms(name)
        if not exact_noise or not self._truth.noise().sigma:
            return mean_ms
        spread = Noise(OVERHEAD_SIGMA, 0.0, 1.0)
        return mean_ms * quantile(spread, 1.0 - self._views[name].targets.miss_tolerance)

    def _model(self) -> OracleModel:
        """Levels and times of what is on offer now, from memory."""
        libraries = {n: v.library for n, v in sorted(self._views.items())}
        key = (self._offer, tuple((n, id(own)) for n, own in libraries.items()), self._leakage_c())
        if key not in self._models:
            self._kept.append(libraries)  # an id is good as long as its object exists
            self._models[key] = make_model(self._scene.truth, self._tables, libraries, key[-1])
        return self._models[key]

    # --- limits -------------------------------------------------------------------------------

    def _leakage_c(self) -> float:
        return round(self._truth.temperature_c() / LEAKAGE_GRAIN_C) * LEAKAGE_GRAIN_C

    def _limit_w(self, now_s: float) -> float:
        used_j = self._truth.energy_j()
        cap_w = min(self._parameters.power_cap_w, self._battery.limit_w(self._parameters, now_s, used_j))
        thermal_w = thermal_limit_w(
            self._scene.truth.thermal,
            self._scene.timeline,
            now_s,
            self._truth.temperature_c(),
            self._parameters.temperature_limit_c,
        )
        limit_w = min(cap_w, thermal_w)
        if limit_w >= self._model().most_w():
            return inf
        return round(limit_w / LIMIT_GRAIN_W) * LIMIT_GRAIN_W
