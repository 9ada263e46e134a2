"""Figures of a simulated run: pure functions from a Run to the keys of the results.

Definitions are those of the evaluation protocol. A miss is a due frame answered later than its target or not
at all; frames that a policy thins out count as misses too. Percentiles interpolate linearly. Unknown is NaN.

What is not simulated: power of preprocessing, postprocessing and of the manager itself (at 1 % of one core of
the Xavier NX 6 mW, 0.1 % of the least energy here). Times of decisions are processor time of the thread on
this computer without garbage collection: other processes do not count, but a busy sibling core slows it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf, isfinite, isnan, nan
from typing import Any

import numpy as np

from dynofa_ros.recording.metrics import mean, percentile
from dynofa_ros.simulation.log import FrameRecord, Run, Sample
from dynofa_ros.simulation.plant import idle_power
from dynofa_ros.simulation.scene import Scene

AFTER_STEP_S = 2.0  # what follows a step is not the steady state
SETTLED_FRAMES = 20
SETTLED_ACCURACY = 0.01 + 1e-9
REVERSAL_S = 2.0
OVER_CAP_PERCENT = 0.5  # of the time under a power cap that may be above it, by means over 0.1 s

Accuracies = Mapping[tuple[str, int], float]


def score(run: Run, reference: Accuracies | None = None) -> dict[str, Any]:
    """All figures of a run. ``reference``: accuracy per (application, request) of O1q, for settling."""
    frames, minutes = run.frames, run.scene.duration_s / 60.0
    answered = [f for f in frames if isfinite(f.latency_ms)]
    latencies = [f.latency_ms for f in answered]
    energy = energies(run)
    misses = miss_percent(frames)
    reversed_ = reversals(run)
    settled = [settle_frames(run, at_s, reference) for at_s in run.scene.steps]
    per_frame_j = energy["all_rails"] / len(answered) if answered else nan
    return {
        "scenario": run.scene.name,
        "policy": run.policy,
        "seed": run.seed,
        "miss_percent": misses,
        "miss_feasible_percent": miss_percent(_inside(frames, run.scene.feasible)),
        "miss_steady_percent": miss_percent(steady(frames, run.scene)),
        "miss_after_step_percent": miss_percent(after_steps(frames, run.scene)),
        "miss_by_priority": miss_by_priority(frames, run.scene),
        "thinned_percent": 100.0 * sum(f.thinned for f in frames) / len(frames) if frames else nan,
        "energy_j": energy,
        "energy_feasible_j": sum(energy_between(run.samples, a, b) for a, b in run.scene.feasible),
        "joule_per_frame": per_frame_j,
        "latency_ms": {f"p{p}": percentile(latencies, p) for p in (50, 95, 99)} | {"mean": mean(latencies)},
        "accuracy": mean(f.accuracy for f in answered),
        "accuracy_due": sum(f.accuracy for f in answered) / len(frames) if frames else nan,
        "accuracy_shortfall": shortfall(answered, run.scene),
        "accuracy_feasible": mean(f.accuracy for f in _inside(answered, run.scene.feasible)),
        "edp": per_frame_j * mean(latencies) * 1e-3,
        "ux_cost": (1.0 + misses / 100.0) * energy["all_rails"],
        "settle_frames": max((s for s in settled if not isnan(s)), default=nan),
        "settle_by_step": settled,
        "unsettled_steps": sum(s == inf for s in settled),
        "reversals_per_min": sum(reversed_.values()) / minutes,
        "reversals_by_knob": {knob: number / minutes for knob, number in reversed_.items()},
        "switches_per_min": switches(run) / minutes,
        **cap_violation(run.samples),
        **over_temperature(run.samples, run.scene.truth.thermal.trip_c),
        "decision_p50_ms": 1e3 * percentile(run.decisions_s, 50),
        "decision_p99_ms": 1e3 * percentile(run.decisions_s, 99),
        "decision_max_ms": 1e3 * max(run.decisions_s, default=nan),
        "manager_cpu_percent": 100.0 * run.manager_s / run.scene.duration_s,
    }


def accuracies(run: Run) -> dict[tuple[str, int], float]:
    """Accuracy per application and request; what was not answered is left out."""
    return {(f.app, f.index): f.accuracy for f in run.frames if isfinite(f.latency_ms)}


def shortfall(answered: Sequence[FrameRecord], scene: Scene) -> float:
    """How far answers were below the accuracy_target in force; mean of an application, then of all."""
    return mean(
        mean(
            max(0.0, scene.targets_at(app, frame.arrived_s).accuracy_target - frame.accuracy)
            for frame in answered
            if frame.app == app.name
        )
        for app in scene.apps
    )


# --- misses -------------------------------------------------------------------------------------------------


def miss_percent(frames: Sequence[FrameRecord]) -> float:
    """Share of due frames that missed, NaN if none was due."""
    return 100.0 * sum(f.missed for f in frames) / len(frames) if frames else nan


def miss_by_priority(frames: Sequence[FrameRecord], scene: Scene) -> dict[str, float]:
    """Misses by the priority class of the application."""
    classes = {app.name: app.targets.priority for app in scene.apps}
    return {
        str(priority): miss_percent([f for f in frames if classes[f.app] == priority])
        for priority in sorted(set(classes.values()))
    }


def after_steps(frames: Iterable[FrameRecord], scene: Scene) -> list[FrameRecord]:
    """Frames that came within two seconds after a step."""
    return _inside(frames, [(at_s, at_s + AFTER_STEP_S) for at_s in scene.steps])


def steady(frames: Iterable[FrameRecord], scene: Scene) -> list[FrameRecord]:
    """Frames of the feasible phases that did not follow a step."""
    inside = _inside(frames, scene.feasible)
    late = {(f.app, f.index) for f in after_steps(inside, scene)}
    return [f for f in inside if (f.app, f.index) not in late]


def _inside(frames: Iterable[FrameRecord], spans: Sequence[tuple[float, float]]) -> list[FrameRecord]:
    return [f for f in frames if any(start <= f.arrived_s < end for start, end in spans)]


# --- energy, power, heat ------------------------------------------------------------------------------------


def energies(run: Run) -> dict[str, float]:
    """Energy of the run (J) in three accountings: the module; its CPU-GPU rail; the module above idle."""
    last = run.samples[-1]
    idle_w, _ = idle_power(run.scene)
    return {
        "all_rails": last.energy_j,
        "cpu_gpu": last.cpu_gpu_j,
        "above_idle": last.energy_j - idle_w * last.at_s,
    }


def energy_between(samples: Sequence[Sample], start_s: float, end_s: float) -> float:
    """Energy of the module between two times (J)."""
    times = [s.at_s for s in samples]
    total = [s.energy_j for s in samples]
    low, high = np.interp([start_s, min(end_s, times[-1])], times, total)
    return float(high - low)


def cap_violation(samples: Sequence[Sample]) -> dict[str, float]:
    """Time and energy above the power cap, by means over 0.1 s; percent of the time under a cap."""
    over_s = over_j = capped_s = run_s = longest_s = 0.0
    for before, after in pairwise(samples):
        passed_s = after.at_s - before.at_s
        if passed_s < 1e-6:
            continue
        cap_w, power_w = before.cap_w, (after.energy_j - before.energy_j) / passed_s
        capped_s += passed_s if isfinite(cap_w) else 0.0
        above = power_w > cap_w
        run_s = run_s + passed_s if above else 0.0
        longest_s = max(longest_s, run_s)
        over_s += passed_s if above else 0.0
        over_j += passed_s * (power_w - cap_w) if above else 0.0
    return {
        "cap_violation_s": over_s,
        "cap_violation_j": over_j,
        "cap_violation_longest_s": longest_s,
        "cap_violation_percent": 100.0 * over_s / capped_s if capped_s else nan,
    }


def over_temperature(samples: Sequence[Sample], trip_c: float) -> dict[str, float]:
    """How far and how long the true temperature was above the limit, and its distance from the trip point."""
    over = [s.temperature_c - s.limit_c for s in samples]
    time_s = sum(b.at_s - a.at_s for a, b in pairwise(samples) if a.temperature_c > a.limit_c)
    return {
        "over_temperature_s": time_s,
        "over_temperature_c": max(0.0, max(over)),
        "below_trip_c": trip_c - max(s.temperature_c for s in samples),
    }


# --- how calm a policy is -----------------------------------------------------------------------------------


def settle_frames(run: Run, at_s: float, reference: Accuracies | None) -> float:
    """Frames after a step until 20 consecutive ones meet the deadline at the accuracy of O1q +-1 point.

    The worst application counts. Where fewer than 20 frames are left until the next step, all of them must
    be good. Infinite if it never settles before the next step, NaN if no frame follows.
    """
    end_s = min((s for s in run.scene.steps if s > at_s), default=inf)
    worst = nan
    for app in run.scene.apps:
        frames = sorted(
            (f for f in run.frames if f.app == app.name and at_s <= f.arrived_s < end_s),
            key=lambda f: f.index,
        )
        if not frames:
            continue
        found = _first_run([_good(f, reference) for f in frames])
        worst = found if isnan(worst) else max(worst, found)
    return worst


def _good(frame: FrameRecord, reference: Accuracies | None) -> bool:
    if frame.missed:
        return False
    wanted = (reference or {}).get((frame.app, frame.index), frame.accuracy)
    return abs(frame.accuracy - wanted) <= SETTLED_ACCURACY


def _first_run(good: Sequence[bool]) -> float:
    needed = min(SETTLED_FRAMES, len(good))
    length = 0
    for number, ok in enumerate(good):
        length = length + 1 if ok else 0
        if length == needed:
            return float(number + 1 - needed)
    return float(len(good) - length) if length else inf


def reversals(run: Run) -> dict[str, int]:
    """Knobs that went from A to B and back to A within two seconds."""
    subnets: dict[str, list[tuple[float, Hashable]]] = {}
    places: dict[str, list[tuple[float, Hashable]]] = {}
    clocks: dict[str, list[tuple[float, Hashable]]] = {}
    for at_s, app, knob in run.knobs:
        subnets.setdefault(app, []).append((at_s, knob.subnet_id))
        places.setdefault(app, []).append((at_s, knob.cluster or knob.processor))
    for at_s, domain, low, high in run.bands:
        clocks.setdefault(domain, []).append((at_s, (low, high)))
    return {
        knob: sum(_reversals(track) for track in tracks.values())
        for knob, tracks in (("subnet", subnets), ("clock", clocks), ("mapping", places))
    }


def _reversals(track: Iterable[tuple[float, Hashable]]) -> int:
    changes: list[tuple[float, Hashable]] = []
    for at_s, value in track:
        if not changes or changes[-1][1] != value:
            changes.append((at_s, value))
    return sum(
        first[1] == third[1] and third[0] - second[0] <= REVERSAL_S
        for first, second, third in zip(changes, changes[1:], changes[2:], strict=False)
    )


def switches(run: Run) -> int:
    """Changes of a sub-network, a processor, a cluster or the number of threads."""
    running: dict[str, tuple[str, str, str, int]] = {}
    number = 0
    for _, app, knob in run.knobs:
        key = (knob.subnet_id, knob.processor, knob.cluster, knob.threads)
        number += running.get(app, key) != key
        running[app] = key
    return number
