"""A simulated run as if it had been recorded, for the figures and pictures of recorded runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf, nan

from dynofa_ros.messages import Header, ManagerDecision, Parameter
from dynofa_ros.recording.run import Monitor, Reading, Run, Telemetry
from dynofa_ros.simulation import log
from dynofa_ros.topics import PHASE_END

# A decision of which nothing is known but, as parameters, the limits that the user has set.
LIMITS = ManagerDecision(0, 0, 0, (), "", "", "", 0, True, (), (), nan, ())


def recorded(
    run: log.Run,
    phases: Iterable[tuple[str, float]],
    warm_up_s: float = 0.0,
    origin_ns: int = 0,
    every: int = 1,
) -> Run:
    """What follows the warm-up. phases: name and start; the first begins at ``origin_ns``. every: one in so
    many samples, with the mean power since the one before."""

    def ns(at_s: float) -> int:
        return origin_ns + round(1e9 * (at_s - warm_up_s))

    found = Run(marks=[Reading(ns(warm_up_s + start_s), name) for name, start_s in phases])
    found.marks.append(Reading(ns(run.scene.duration_s) + 1, PHASE_END))  # after the last sample
    for frame in sorted(run.frames, key=lambda f: f.answered_s if f.monitor else inf):
        if frame.monitor is not None and frame.answered_s >= warm_up_s:
            received = {"header": Header(ns(frame.arrived_s), frame.app), "time_ns": ns(frame.answered_s)}
            found.monitors.append(Monitor(**vars(frame.monitor) | received))
    clocks_hz: dict[str, float] = {}
    for at_s, domain, hz in run.clocks:
        clocks_hz = {**clocks_hz, domain: float(hz)}
        found.clocks.append(Reading(ns(at_s), clocks_hz))
    for before, after in pairwise(run.samples[::every]):
        at_ns, passed_s = ns(after.at_s), after.at_s - before.at_s
        if after.at_s >= warm_up_s and passed_s > 0.0:
            power_w, clocks = (after.energy_j - before.energy_j) / passed_s, clocks_at(found.clocks, at_ns)
            sample = Telemetry(at_ns, power_w, after.energy_j, after.temperature_c, clocks, "simulated")
            found.telemetry.append(sample)
            set_ = {"power_cap_w": after.cap_w, "temperature_limit_c": after.limit_c}
            known = replace(LIMITS, parameters=tuple(Parameter(*one) for one in set_.items()))
            found.decisions.append(Reading(at_ns, known))
    found.command_times_ns = sorted({ns(at_s) for at_s, *_ in run.bands if at_s >= warm_up_s})
    for app in run.scene.apps:
        found.accuracy |= {(app.name, e.id, e.processor): e.accuracy for e in app.library}
    return found


def clocks_at(clocks: Sequence[Reading[Mapping[str, float]]], at_ns: int) -> Mapping[str, float]:
    """What the device had applied last at a time; nothing before its first word."""
    index = bisect_right(clocks, at_ns, key=lambda c: c.time_ns)
    return clocks[index - 1].value if index else {}
