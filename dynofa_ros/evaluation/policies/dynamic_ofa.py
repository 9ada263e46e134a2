"""B6: the run-time manager that the authors of Dynamic-OFA published, on B4's governors.

Source: github.com/UoS-EEC/DynamicOFA at 349461f, runtime_demo/runtime_adjustment (run.sh, test2.py,
imagenet_eval_helper.py): a process per level; frames are counted from its start.

- After 21 frames every latency below a ceiling is recorded; once the sum of the last 20 records, divided by
  20, is above the latency constraint: one level down.
- From the 72nd frame on (51 frames, then 21 more), if the level is below the accuracy wanted: one level up.
- ``hold``: a level that was left downwards just after it had been climbed to is not climbed to again. In
  the published script the line that would do so is commented out; B6 follows the script as it is and B6_hold
  has the hold.

Settings: ceiling 90 ms at a constraint of 60 ms, here 1.5 x latency target; six levels, as published (the
library's published entries, else six spread evenly over it): of all 31 a manager that goes one level at a
time would be slower still. Start at level 4 (of 0..5), or at the application's own start. Accuracy wanted =
accuracy_target, but not more than that of the start level (the demo: 76, start 77.54 in the run of figure
7), so that it comes back to where it started.

In its favour: the 5 to 30 s in which the published demo reloads the model do not exist here, and a change
of targets restarts the counting but not the level.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dynofa_ros.evaluation.policies.constants import (
    CEILING,
    CLIMB_FRAMES,
    LEVELS,
    PATIENCE_FRAMES,
    START_LEVEL,
    WARM_FRAMES,
    WINDOW,
)
from dynofa_ros.evaluation.policies.governors import JETSON, present_governors
from dynofa_ros.evaluation.policies.profile import on_processor
from dynofa_ros.messages import SubnetEntry
from dynofa_ros.simulation.application import knob_of
from dynofa_ros.simulation.log import FrameRecord
from dynofa_ros.simulation.policy import Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import App, Scene


@dataclass
class StepManager:
    """The rule for one application; ``accuracies`` ascend with the level."""

    accuracies: tuple[float, ...]
    level: int
    constraint_ms: float
    accuracy: float
    hold: bool = False
    _frames: int = 0
    _records: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _climbed_from: int | None = None
    _held: set[int] = field(default_factory=set)

    def observe(self, latency_ms: float) -> int:
        """Takes one answered frame; the level to run from now on."""
        self._frames += 1
        if self._frames > WARM_FRAMES and latency_ms < CEILING * self.constraint_ms:
            self._records.append(latency_ms)
            if sum(self._records) / WINDOW > self.constraint_ms:
                return self._down()
        wants_more = self.accuracies[self.level] < self.accuracy
        if self._frames > PATIENCE_FRAMES + CLIMB_FRAMES - 1 and wants_more:
            return self._up()
        return self.level

    def retarget(self, constraint_ms: float, accuracy: float) -> None:
        """New targets: the counting starts anew."""
        self.constraint_ms, self.accuracy = constraint_ms, accuracy
        self._climbed_from = None
        self._held.clear()
        self._restart()

    def _down(self) -> int:
        if self._climbed_from == self.level - 1:
            self._held.add(self.level)
        self._climbed_from = None
        self.level = max(0, self.level - 1)
        return self._restart()

    def _up(self) -> int:
        above = self.level + 1
        if above >= len(self.accuracies) or (self.hold and above in self._held):
            return self.level
        self._climbed_from, self.level = self.level, above
        return self._restart()

    def _restart(self) -> int:
        self._frames = 0
        self._records.clear()
        return self.level


def levels_of(entries: tuple[SubnetEntry, ...]) -> tuple[SubnetEntry, ...]:
    """Six levels of a library: the published sub-networks, else spread evenly."""
    published = tuple(e for e in entries if e.id.startswith("published_"))
    if len(published) == LEVELS:
        return published
    if len(entries) <= LEVELS:
        return entries
    places = [round(n * (len(entries) - 1) / (LEVELS - 1)) for n in range(LEVELS)]
    return tuple(entries[place] for place in places)


@dataclass
class DynamicOfaPolicy(Policy):
    """One stepper per application; clocks by B4's governors, processor fixed. ``margin``: deadline /
    constraint."""

    name: str = "B6"
    hold: bool = False
    margin: float = 1.0
    _levels: dict[str, tuple[SubnetEntry, ...]] = field(default_factory=dict)
    _steppers: dict[str, StepManager] = field(default_factory=dict)
    _ceilings: dict[str, float] = field(default_factory=dict)  # accuracy of the start level

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """The start level of every application."""
        knobs = {}
        for app in scene.apps:
            self._add(app)
            knobs[app.name] = knob_of(self._levels[app.name][self._steppers[app.name].level])
        return Command(knobs=knobs, governors=present_governors(scene, JETSON))

    def on_frame(self, frame: FrameRecord) -> Command | None:
        """Counts answered frames."""
        stepper = self._steppers[frame.app]
        if frame.monitor is None:
            return None
        before = stepper.level
        if stepper.observe(frame.monitor.latency_ms) == before:
            return None
        return Command(knobs={frame.app: knob_of(self._levels[frame.app][stepper.level])})

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """Takes new targets."""
        for name, view in observation.apps.items():
            stepper = self._steppers[name]
            accuracy = min(view.targets.accuracy_target, self._ceilings[name])
            if view.targets.accuracy_floor > self._ceilings[name]:
                accuracy = view.targets.accuracy_floor
            constraint_ms = view.targets.latency_target_ms / self.margin
            if (constraint_ms, accuracy) != (stepper.constraint_ms, stepper.accuracy):
                stepper.retarget(constraint_ms, accuracy)
        return None

    def _add(self, app: App) -> None:
        levels = levels_of(on_processor(app.library, app.mapping))
        level = min(START_LEVEL, len(levels) - 1)
        for entry in app.library:
            if entry.id == app.start and app.mapping in (entry.processor, entry.cluster):
                level = next((n for n, e in enumerate(levels) if e.accuracy >= entry.accuracy), level)
        self._levels[app.name], self._ceilings[app.name] = levels, levels[level].accuracy
        self._steppers[app.name] = StepManager(
            accuracies=tuple(e.accuracy for e in levels),
            level=level,
            constraint_ms=app.targets.latency_target_ms / self.margin,
            accuracy=min(app.targets.accuracy_target, levels[level].accuracy),
            hold=self.hold,
        )
