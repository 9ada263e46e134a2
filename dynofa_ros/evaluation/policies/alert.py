"""B9: ALERT (Wan et al., "ALERT: Accurate Learning for Energy and Timeliness", USENIX ATC 2020).

One global slow-down factor for all (network, power setting) pairs, estimated by a Kalman filter with adaptive
process noise and taken as a normal variable; its rule enumerates all pairs. Here the power settings are the
clock levels of the application's processor.

The equations and constants are UNCONFIRMED: they are from memory, the paper's text was not available. Only
the form of the process noise with a = 0.3, Q0 = 0.1 and K0 = 0.5 was also found in a public
re-implementation by others. Two settings are run:

- ``B9``: as remembered: R = 0.001, Q0 = 0.1.
- ``B9_tuned``: Q0 = 0.0001, and R = 0.0144 where the noise of the scene is contended (0.001 elsewhere):
  re-tuned in a simulation of the filter alone; ALERT would not know which noise it meets.

Interpretations, all in its favour: the deadline is latency_target, or the frame period if that is less (else
frames would queue), minus the mean overhead of the last 20 frames; the slowdown is that of the inference;
idle power is the profile's (a meter without noise) and lasts until the next frame is due; Pr_th = 1 -
miss_tolerance; q_fail = 0.

Rule: least energy with expected accuracy of at least the accuracy wanted; if there is none, the most accurate
network that is in time, at its least energy; if none is in time, the most likely one (latency before accuracy
before power). With a power cap or an energy budget, pairs above it count only if nothing else is in time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from scipy.special import ndtr

from dynofa_ros.evaluation.policies.constants import (
    FORGETTING,
    GAIN_START,
    IDLE_NOISE,
    IDLE_PROCESS,
    IDLE_START,
    IDLE_VARIANCE,
    MEAN_START,
    OVERHEAD_FRAMES,
    OVERHEAD_START_MS,
    REMEMBERED,
    TUNED,
    TUNED_CONTENDED,
    VARIANCE_START,
    Constants,
)
from dynofa_ros.evaluation.policies.per_app import (
    Instance,
    PerAppPolicy,
    Profile,
    accuracy_wanted,
    power_budget_w,
    time_to_answer_ms,
)
from dynofa_ros.evaluation.policies.profile import Array
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import AppTargets, InferenceMonitor
from dynofa_ros.simulation.scene import CONTENDED


@dataclass
class SlowdownFilter:
    """xi ~ N(mean, variance): mu_n, sigma_n^2, K_n and Q_n of the paper as remembered."""

    constants: Constants = REMEMBERED
    mean: float = MEAN_START
    variance: float = VARIANCE_START
    gain: float = GAIN_START
    process: float = 0.0

    def __post_init__(self) -> None:
        self.process = self.constants.process_noise

    def update(self, ratio: float) -> None:
        """Takes measured / profiled time of one frame."""
        innovation = ratio - self.mean
        adapted = FORGETTING * self.process + (1.0 - FORGETTING) * (self.gain * innovation) ** 2
        self.process = max(self.constants.process_noise, adapted)
        predicted = (1.0 - self.gain) * self.variance + self.process
        self.gain = predicted / (predicted + self.constants.measurement_noise)
        self.mean += self.gain * innovation
        self.variance = predicted


@dataclass
class IdleFilter:
    """phi: power while waiting / power while running."""

    ratio: float = IDLE_START
    variance: float = IDLE_VARIANCE

    def update(self, measured: float) -> None:
        """Takes one measured ratio."""
        widened = self.variance + IDLE_PROCESS
        weight = widened / (widened + IDLE_NOISE)
        self.variance = (1.0 - weight) * widened
        self.ratio += weight * (measured - self.ratio)


@dataclass(frozen=True)
class Goals:
    """What the rule is to reach. ``period_ms``: from one frame to the next."""

    deadline_ms: float
    period_ms: float
    accuracy: float
    probability: float
    budget_w: float


def choose(profile: Profile, slowdown: SlowdownFilter, idle: float, goals: Goals) -> tuple[int, int]:
    """Entry and level by ALERT's rule."""
    spread = sqrt(slowdown.variance)
    distance = (goals.deadline_ms / profile.times_ms - slowdown.mean) / spread
    in_time = ndtr(distance)
    expected = profile.accuracies[:, None] * in_time
    busy_ms = slowdown.mean * profile.times_ms
    energy = profile.busy_w * (busy_ms + idle * np.maximum(goals.period_ms - busy_ms, 0.0))
    sure = in_time >= goals.probability
    if not sure.any():
        return _place(distance, ~sure)  # also where all probabilities round to 0
    within = sure & (energy <= goals.budget_w * goals.period_ms)
    sure = within if within.any() else sure
    enough = sure & (expected >= goals.accuracy)
    if enough.any():
        return _place(-energy, enough)
    accuracies = np.broadcast_to(profile.accuracies[:, None], energy.shape)
    return _place(accuracies, sure, -energy)


def _place(score: Array, allowed: np.ndarray, second: Array | None = None) -> tuple[int, int]:
    """Place of the highest score among those allowed; of several, that with the highest ``second``."""
    masked = np.where(allowed, score, -np.inf)
    if second is not None:
        masked = np.where(masked == masked.max(), second, -np.inf)
    entry, level = np.unravel_index(int(masked.argmax()), masked.shape)
    return int(entry), int(level)


@dataclass
class Alert(Instance):
    """ALERT for one application."""

    constants: Constants
    margin: float = 1.0
    idle: IdleFilter = field(default_factory=IdleFilter)
    _overheads_ms: deque[float] = field(default_factory=lambda: deque(maxlen=OVERHEAD_FRAMES))

    def __post_init__(self) -> None:
        self.slowdown = SlowdownFilter(self.constants)
        self._choose()

    def retarget(self, profile: Profile, targets: AppTargets, parameters: Parameters) -> None:
        """Keeps what was learned: xi is of all configurations."""
        super().retarget(profile, targets, parameters)
        self._choose()

    def observe(self, monitor: InferenceMonitor, entry: int, level: int) -> None:
        """Updates both filters."""
        level = min(level, len(self.profile.levels) - 1)
        self.slowdown.update(monitor.inference_ms / float(self.profile.times_ms[entry, level]))
        self.idle.update(float(self.profile.idle_w[level] / self.profile.busy_w[level]))
        overhead = monitor.latency_ms - monitor.inference_ms - monitor.queue_wait_ms
        self._overheads_ms.append(max(0.0, overhead))
        self._choose()

    def _choose(self) -> None:
        known = self._overheads_ms
        overhead_ms = sum(known) / len(known) if known else OVERHEAD_START_MS
        targets = self.targets
        goals = Goals(
            deadline_ms=max(1e-3, time_to_answer_ms(targets) / self.margin - overhead_ms),
            period_ms=1e3 / targets.rate_hz,
            accuracy=accuracy_wanted(targets, self.parameters),
            probability=1.0 - targets.miss_tolerance,
            budget_w=power_budget_w(self.parameters),
        )
        self.place = choose(self.profile, self.slowdown, self.idle.ratio, goals)


@dataclass
class AlertPolicy(PerAppPolicy):
    """One ALERT per application. ``tuned``: the re-tuned constants. ``margin``: deadline / that of the
    rule."""

    name: str = "B9"
    tuned: bool = False
    margin: float = 1.0

    def make(self, profile: Profile, targets: AppTargets, parameters: Parameters) -> Instance:
        """An ALERT with the constants for the scene."""
        tuned = TUNED_CONTENDED if self.scene.noise == CONTENDED else TUNED
        return Alert(profile, targets, parameters, tuned if self.tuned else REMEMBERED, self.margin)
