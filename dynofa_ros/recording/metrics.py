"""Figures of a recorded run: pure functions from records to the keys of summary.json.

Definitions: frames_due = results + dropped + malformed; a miss is a due frame answered
later than its target or not at all. A frame belongs to the phase in which its monitor was received.
Percentiles interpolate linearly. Unknown is NaN here and null in JSON.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from dynofa_ros.recording.run import Label, Monitor, Run, Telemetry
from dynofa_ros.recording.scoring import score
from dynofa_ros.topics import PHASE_END, camera_frame_id

SETTLING_NS = 1_000_000_000  # start of a phase that deadline_miss_percent_settled leaves out
FOREVER_NS = 2**63 - 1

Timed = TypeVar("Timed", bound=Any)


@dataclass(frozen=True)
class Phase:
    """A named part of the run, [start_ns, end_ns) on the recorder's clock."""

    name: str
    start_ns: int
    end_ns: int


def phases(run: Run) -> list[Phase]:
    """The phases marked in the recording; the last one ends at the mark `end` or with the recording."""
    last = max((r.time_ns for records in (run.monitors, run.telemetry) for r in records), default=0) + 1
    found = []
    for mark, following in zip_longest(run.marks, run.marks[1:]):
        end_ns = following.time_ns if following else max(last, mark.time_ns)
        if mark.value != PHASE_END:
            found.append(Phase(mark.value, mark.time_ns, end_ns))
    return found


def summary(run: Run) -> dict[str, Any]:
    """The figures of the whole recording, of each phase and, with several applications, of each in both."""
    found = phases(run)
    apps = sorted({m.app for m in run.monitors})
    origin = found[0].start_ns if found else 0
    result = figures(run, found, 0, FOREVER_NS) | {"accuracy_metric": accuracy_metric(run)}
    result["phases"] = [_phase_figures(run, found, phase, origin) for phase in found]
    if len(apps) > 1:
        owned = {app: of_app(run, app, apps) for app in apps}
        result["apps"] = {app: _app_figures(own, found, 0, FOREVER_NS) for app, own in owned.items()}
        for phase, part in zip(found, result["phases"], strict=True):
            part["apps"] = {
                app: _app_figures(own, found, phase.start_ns, phase.end_ns) for app, own in owned.items()
            }
    result["errors"] = list(run.errors)
    return result


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear-interpolated percentile of the finite values, NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.percentile(finite, percent)) if finite else math.nan


def mean(values: Iterable[float]) -> float:
    """Mean of the finite values, NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def miss_percent(monitors: Sequence[Monitor]) -> float:
    """Share of the due frames that missed, 0..100; NaN if none was due."""
    unanswered = sum(m.unanswered for m in monitors)
    due = len(monitors) + unanswered
    return 100.0 * (sum(m.deadline_missed for m in monitors) + unanswered) / due if due else math.nan


def settled(monitors: Sequence[Monitor], found: Sequence[Phase]) -> list[Monitor]:
    """The monitors that were not received in the first second of a phase."""
    starts = [phase.start_ns for phase in found]
    return [m for m in monitors if not any(s <= m.time_ns < s + SETTLING_NS for s in starts)]


def switch_times_ns(monitors: Sequence[Monitor]) -> list[int]:
    """Receipt times of the frames that another sub-network answered than the app's frame before."""
    running: dict[str, str] = {}
    times = []
    for monitor in monitors:
        if running.get(monitor.app, monitor.subnet_id) != monitor.subnet_id:
            times.append(monitor.time_ns)
        running[monitor.app] = monitor.subnet_id
    return times


def clocks_used(run: Run, start_ns: int, end_ns: int) -> dict[str, list[int]]:
    """Distinct clocks per domain in Hz, ascending, from telemetry and from what the device applied."""
    used: defaultdict[str, set[int]] = defaultdict(set)
    observed = [t.clocks_hz for t in within(run.telemetry, start_ns, end_ns)]
    applied = [c.value for c in within(run.clocks, start_ns, end_ns)]
    for clocks_hz in [*observed, *applied]:
        for domain, hz in clocks_hz.items():
            if math.isfinite(hz):
                used[domain].add(round(hz))
    return {domain: sorted(clocks) for domain, clocks in sorted(used.items())}


def energy_j(samples: Sequence[Telemetry], start_ns: int, end_ns: int) -> float:
    """Energy used between the last sample before `start_ns` (or the first one) and the last before `end_ns`.

    So the energies of phases that follow each other add up to that of the run. NaN if unknown.
    """
    before = [s.energy_j for s in samples if s.time_ns < end_ns and math.isfinite(s.energy_j)]
    if not before:
        return math.nan
    at_start = [s.energy_j for s in samples if s.time_ns < start_ns and math.isfinite(s.energy_j)]
    return before[-1] - (at_start[-1] if at_start else before[0])


def within(records: Iterable[Timed], start_ns: int, end_ns: int) -> list[Timed]:
    """The records received in [start_ns, end_ns)."""
    return [record for record in records if start_ns <= record.time_ns < end_ns]


def figures(run: Run, found: Sequence[Phase], start_ns: int, end_ns: int) -> dict[str, Any]:
    """The figures of [start_ns, end_ns): the keys of summary.json without phases, apps and errors."""
    monitors = within(run.monitors, start_ns, end_ns)
    telemetry = within(run.telemetry, start_ns, end_ns)
    dropped = sum(m.dropped_frames for m in monitors)
    malformed = sum(m.malformed_frames for m in monitors)
    latencies = [m.latency_ms for m in monitors]
    overheads = [m.latency_ms - m.inference_ms for m in monitors]
    return {
        "frames_published": len(within(run.truths, start_ns, end_ns)) if run.has_ground_truth else math.nan,
        "frames_due": len(monitors) + dropped + malformed,
        "results": len(monitors),
        "dropped_frames": dropped,
        "malformed_frames": malformed,
        "deadline_miss_percent": miss_percent(monitors),
        "deadline_miss_percent_settled": miss_percent(settled(monitors, found)),
        "latency_ms": {f"p{p}": percentile(latencies, p) for p in (50, 95, 99)},
        "overhead_ms": {f"p{p}": percentile(overheads, p) for p in (50, 95)},
        "accuracy": _accuracy(run, monitors, start_ns, end_ns),
        "energy_j": energy_j(run.telemetry, start_ns, end_ns),
        "mean_power_w": mean(t.power_w for t in telemetry),
        "subnet_switches": sum(start_ns <= t < end_ns for t in switch_times_ns(run.monitors)),
        "dvfs_commands": sum(start_ns <= t < end_ns for t in run.command_times_ns),
        "decisions": len(within(run.decisions, start_ns, end_ns)),
        "manager_cpu_percent": mean(r.value for r in within(run.manager_cpu, start_ns, end_ns)),
        "device_cpu_percent": mean(r.value for r in within(run.device_cpu, start_ns, end_ns)),
    }


def _accuracy(run: Run, monitors: Sequence[Monitor], start_ns: int, end_ns: int) -> dict[str, float | int]:
    """Measured against ground truth, and expected from the library weighted by frames.

    Of several applications it is the mean of what each measures by its own metric, weighted by its answers.
    """
    truth = {t.frame: t for t in run.truths if t.value is not None}
    scored: defaultdict[tuple[str, str], list[tuple[Any, Any]]] = defaultdict(list)
    for r in within(run.results, start_ns, end_ns):
        if r.frame in truth:
            scored[r.app, truth[r.frame].metric].append((r.value, truth[r.frame].value))
    count = sum(map(len, scored.values()))
    measured = (len(own) * score(metric, *zip(*own, strict=True)) for (_, metric), own in scored.items())
    known = (run.accuracy.get((m.app, m.subnet_id, m.processor), math.nan) for m in monitors)
    return {
        "measured": sum(measured) / count if count else math.nan,
        "expected": mean(known),
        "frames_scored": count,
    }


def _phase_figures(run: Run, found: Sequence[Phase], phase: Phase, origin_ns: int) -> dict[str, Any]:
    subnets = {m.subnet_id for m in within(run.monitors, phase.start_ns, phase.end_ns)}
    return {
        "name": phase.name,
        "start_s": (phase.start_ns - origin_ns) / 1e9,
        "end_s": (phase.end_ns - origin_ns) / 1e9,
        **figures(run, found, phase.start_ns, phase.end_ns),
        "subnets_used": sorted(subnets),
        "clocks_used": clocks_used(run, phase.start_ns, phase.end_ns),
    }


NODE_CPU = ("manager_cpu_percent", "device_cpu_percent")
_DEVICE_FIGURES = ("energy_j", "mean_power_w", "dvfs_commands", "decisions", *NODE_CPU)


def _app_figures(run: Run, found: Sequence[Phase], start_ns: int, end_ns: int) -> dict[str, Any]:
    """Figures of one application; what belongs to the whole device is left out."""
    values = figures(run, found, start_ns, end_ns)
    own = {key: value for key, value in values.items() if key not in _DEVICE_FIGURES}
    subnets = sorted({m.subnet_id for m in within(run.monitors, start_ns, end_ns)})
    return {**own, "accuracy_metric": accuracy_metric(run), "subnets_used": subnets}


def accuracy_metric(run: Run) -> str:
    """What the accuracies of a run are by: as its answers were scored, else as its libraries say."""
    scored = {t.metric for t in run.truths if t.value is not None}
    return ", ".join(sorted(scored or set(filter(None, run.metrics.values()))))


def of_percent(metric: str) -> str:
    """Name of a metric where accuracies are in percent: BLEU, not BLEU / 100."""
    return metric.partition(" / ")[0]


def of_app(run: Run, app: str, apps: Sequence[str]) -> Run:
    """The records of one of several applications."""
    return replace(
        run,
        monitors=[m for m in run.monitors if m.app == app],
        results=[r for r in run.results if r.app == app],
        truths=_truths_of(run.truths, app, apps),
        metrics={app: run.metrics.get(app, "")},
    )


def _truths_of(truths: Sequence[Label], app: str, apps: Sequence[str]) -> list[Label]:
    """Frames sent to `app`. A replayed bag keeps its own frame_id and goes to every application in turn."""
    cameras = {camera_frame_id(name) for name in apps}
    shared = [t for t in truths if not t.app and t.frame[1] not in cameras]
    own = [t for t in truths if t.app == app or (not t.app and t.frame[1] == camera_frame_id(app))]
    return own + shared[:: len(apps)]
