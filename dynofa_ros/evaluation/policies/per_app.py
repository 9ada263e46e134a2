"""Managers that know of one application only, run side by side: one instance per application.

Each instance chooses sub-network and clock level on the processor its application is mapped to. Where two of
them share a processor the higher level wins, as the kernel resolves competing requests; none knows of the
other. The processor is fixed (no source of these managers has a mapping rule); only if the application's
library has nothing left for it does the instance move to the processor with the fastest entry. Processors
without an application keep B4's governors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.policies.governors import JETSON, present_governors
from dynofa_ros.evaluation.policies.profile import (
    Array,
    Levels,
    Tables,
    make_levels,
    offered,
    offered_now,
    on_processor,
    rest_w,
    times_ms,
)
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.placement import entry_key, subnet_key
from dynofa_ros.messages import AppTargets, FrequencyBand, InferenceMonitor, SubnetCommand, SubnetEntry
from dynofa_ros.simulation.application import knob_of
from dynofa_ros.simulation.log import FrameRecord
from dynofa_ros.simulation.policy import Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import Scene


@dataclass(frozen=True, eq=False)
class Profile:
    """What one instance chooses from; ``times_ms`` is entries x levels, at slowdown 1.

    ``busy_w``, ``idle_w``: power of the whole module at each level, while the network runs and while not.
    """

    entries: tuple[SubnetEntry, ...]
    accuracies: Array
    levels: Levels
    times_ms: Array
    busy_w: Array
    idle_w: Array


def make_profile(board: Board, entries: Sequence[SubnetEntry], processor: str, tables: Tables) -> Profile:
    """Profile of an application on a processor. Raises ValueError without an entry or a clock for it."""
    own = on_processor(entries, processor)
    if not own:
        raise ValueError(f"no library entry for '{processor}'")
    levels = make_levels(board, processor, tables)
    other_w = rest_w(board, levels)
    return Profile(
        entries=own,
        accuracies=np.array([e.accuracy for e in own]),
        levels=levels,
        times_ms=times_ms(own, levels),
        busy_w=levels.busy_w + other_w,
        idle_w=levels.idle_w + other_w,
    )


def home(entries: Sequence[SubnetEntry], mapping: str) -> str:
    """The mapped processor, or that of the fastest entry if there is none left for it."""
    if not entries or any(mapping in (e.processor, e.cluster) for e in entries):
        return mapping
    fastest = min(entries, key=lambda e: e.latency_ms)
    return fastest.cluster or fastest.processor


def power_budget_w(parameters: Parameters) -> float:
    """Power that a user allows: the cap, or an energy budget spread evenly over its time; inf = none."""
    if parameters.objective == "battery" and parameters.battery_energy_j < inf:
        return min(parameters.power_cap_w, parameters.battery_energy_j / parameters.battery_time_s)
    return parameters.power_cap_w


def time_to_answer_ms(targets: AppTargets) -> float:
    """What a frame may take: the latency target, and not more than until the next one is due."""
    return min(targets.latency_target_ms, 1e3 / targets.rate_hz)


def accuracy_wanted(targets: AppTargets, parameters: Parameters) -> float:
    """Accuracy to reach before energy counts, by the objective."""
    if parameters.objective in ("energy", "latency"):
        return targets.accuracy_floor
    if parameters.objective == "accuracy_under_power":
        return 1.0
    return max(targets.accuracy_target, targets.accuracy_floor)


@dataclass
class Instance(ABC):
    """Manager of one application. ``place`` = (entry, level) of its profile that it wants now."""

    profile: Profile
    targets: AppTargets
    parameters: Parameters
    place: tuple[int, int] = field(default=(0, 0), init=False)

    def retarget(self, profile: Profile, targets: AppTargets, parameters: Parameters) -> None:
        """Something it does not control has changed: choose anew."""
        self.profile, self.targets, self.parameters = profile, targets, parameters

    @abstractmethod
    def observe(self, monitor: InferenceMonitor, entry: int, level: int) -> None:
        """A frame was answered by an entry while the processor was asked for a level: choose anew."""


@dataclass
class _Member:
    instance: Instance
    mapping: str
    known: tuple[object, ...]
    here: bool


@dataclass
class PerAppPolicy(Policy):
    """Runs the instances after every frame and merges what they ask for."""

    name: str
    _members: dict[str, _Member] = field(default_factory=dict)
    _levels: dict[str, int] = field(default_factory=dict)  # commanded, by processor
    _knobs: dict[str, SubnetCommand] = field(default_factory=dict)
    _pinned: dict[str, Levels] = field(default_factory=dict)

    @abstractmethod
    def make(self, profile: Profile, targets: AppTargets, parameters: Parameters) -> Instance:
        """An instance."""

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """First choices of all applications; those that come later ask for clocks when they are there."""
        self.scene = scene
        tables = offered(scene.board, scene.mode)
        for app in scene.apps:
            profile = make_profile(scene.board, app.library, app.mapping, tables)
            instance = self.make(profile, app.targets, scene.parameters)
            self._members[app.name] = _Member(instance, app.mapping, (), app.from_s <= 0.0)
        command = self._command() or Command()
        return Command(command.knobs, command.bands, present_governors(scene, JETSON))

    def on_frame(self, frame: FrameRecord) -> Command | None:
        """Feeds the instance of the application that was answered."""
        member, monitor = self._members[frame.app], frame.monitor
        if monitor is None:
            return None
        profile, key = member.instance.profile, subnet_key(monitor)
        level = self._levels.get(profile.levels.processor)
        entry = next((n for n, e in enumerate(profile.entries) if entry_key(e) == key), None)
        if entry is None or level is None:
            return None
        member.instance.observe(monitor, entry, level)
        return self._command()

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """Takes changes of targets, libraries, parameters, clocks on offer, and who is there."""
        tables = offered_now(observation.capabilities)
        for name, member in self._members.items():
            view = observation.apps.get(name)
            member.here = view is not None and not view.targets.paused
            if view is None or not view.library:
                continue
            known = (view.targets, view.library, observation.parameters, tuple(sorted(tables.items())))
            if known == member.known:
                continue
            profile = member.instance.profile
            if member.known[1:2] + member.known[3:] != known[1:2] + known[3:]:
                processor = home(view.library, member.mapping)
                profile = make_profile(self.scene.board, view.library, processor, tables)
            member.known = known
            member.instance.retarget(profile, view.targets, observation.parameters)
        return self._command()

    def _command(self) -> Command | None:
        """What differs from what was commanded last."""
        levels: dict[str, tuple[int, Levels]] = {}
        knobs = {}
        for name, member in self._members.items():
            (entry, level), profile = member.instance.place, member.instance.profile
            knob = knob_of(profile.entries[entry])
            if self._knobs.get(name) != knob:
                self._knobs[name] = knobs[name] = knob
            if member.here:
                processor = profile.levels.processor
                asked = max(level, levels[processor][0]) if processor in levels else level
                levels[processor] = (asked, profile.levels)
        bands: list[FrequencyBand] = []
        for processor, (level, table) in levels.items():
            if self._levels.get(processor) != level or self._pinned.get(processor) is not table:
                self._levels[processor], self._pinned[processor] = level, table
                bands += table.bands(level)
        return Command(knobs=knobs, bands=tuple(bands)) if knobs or bands else None
