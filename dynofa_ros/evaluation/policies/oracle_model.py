"""What the oracles know: the true board, how much applications delay each other there, what power they have.

Two periodic applications can only overlap as far as the true offsets of their cameras allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import permutations
from math import ceil, exp, gcd, inf

import numpy as np

from dynofa_ros.device.board import Board, power_model, processor_domains
from dynofa_ros.device.board_sections import Thermal
from dynofa_ros.device.power_model import constant_power_w, domain_power
from dynofa_ros.evaluation.policies.oracle_solver import Choice, Client, Overlap, Place, Question
from dynofa_ros.evaluation.policies.profile import Array, Levels, Tables, make_levels, on_processor, times_ms
from dynofa_ros.evaluation.score import OVER_CAP_PERCENT
from dynofa_ros.latency import core_share, processor_of
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import AppTargets, FrequencyBand, SubnetEntry
from dynofa_ros.simulation.noise import Trace
from dynofa_ros.simulation.plant import CORES_EXPONENT
from dynofa_ros.simulation.scene import Event, Surroundings
from dynofa_ros.simulation.simulator import TELEMETRY_S

FEW = 4  # applications up to which offsets of cameras are reckoned with
GOVERNOR_TIPPING = 0.8  # schedutil: 1.25 x utilisation
MOST_OFFSETS = 64
SAME_S = 1e-6
LEAST_MS, SHORTEST, SPEEDS = 1e-3, 0.1, 460  # speeds that are tried: half a percent from one to the next
COARSE = 5  # every so many of them for the windows of a cap
FEW_FRAMES = 20  # after a state of the noise; of fewer no share can be said
THERMAL_HORIZON_S = 10.0
LAST_SECONDS_S = 5.0
PLAN_PERIOD_S = 1.0


def asked_accuracies(entries: Sequence[SubnetEntry], wanted: float, floor: float) -> tuple[float, ...]:
    """Accuracies from the one wanted (at most the best) down to the floor; the best if none reaches that."""
    known = sorted({e.accuracy for e in entries})
    top = next((a for a in known if a >= wanted), known[-1])
    between = [a for a in known if floor <= a <= top]
    return tuple(reversed(between or [next((a for a in known if a >= floor), known[-1])]))


@dataclass(frozen=True, eq=False)
class OracleModel:
    """Processors on offer at a temperature; ``choices`` of every application there, without slowdown."""

    board: Board
    temperature_c: float
    levels: Mapping[str, Levels]
    choices: Mapping[str, Mapping[str, Choice]]  # by application and processor

    def idle_w(self, name: str, outside: float) -> float:
        """Power of a processor that is not used: the CPU has its governor's clock, others the lowest."""
        levels = self.levels[name]
        hz = float(levels.speed_hz[0])
        if processor_of(name) == "cpu":
            lowest_hz = min(self.board.domains[d].start_min_hz for d in levels.domains)
            hz = float(levels.speed_hz[-1]) if outside > GOVERNOR_TIPPING else float(lowest_hz)
        level = int(np.abs(levels.speed_hz - hz).argmin())
        if not outside:
            return float(levels.unused_w[level])
        return float(levels.idle_w[level] + outside * (levels.busy_w[level] - levels.idle_w[level]))

    @cached_property
    def constant_w(self) -> float:
        """Power that no processor has part in."""
        model = power_model(self.board)
        total = constant_power_w(model, self.temperature_c)
        if "emc" in self.board.domains:
            hz = self.board.domains["emc"].start_max_hz
            total += domain_power(model, "emc", hz, self.temperature_c).unused_w
        return total

    @cached_property
    def most_w(self) -> float:
        """Power with everything busy at its top clock."""
        return self.constant_w + sum(float(levels.busy_w[-1]) for levels in self.levels.values())

    def question(
        self,
        clients: tuple[Client, ...],
        outside: Callable[[str], float],
        limits_w: tuple[float, float],
        overlap: Overlap,
        lead_s: float = inf,
    ) -> Question:
        """What is to be solved; ``outside``: utilisation of a processor by others; ``limits_w``: of the mean
        power, and of any 0.1 s. With a ``lead_s`` a processor without work rests at its lowest clock until
        so long before the next frame."""
        raised = min(1.0, lead_s * sum(client.rate_hz for client in clients))
        usable = {name for client in clients for name in client.choices}
        places, unused_w = [], 0.0
        for name, levels in self.levels.items():
            share = outside(name)
            if name in usable:
                slope = levels.busy_w - levels.idle_w
                awake_w = levels.idle_w + slope * share
                base_w = awake_w[0] + raised * (awake_w - awake_w[0])
                slope_w, idle_w = awake_w + slope - base_w, self.idle_w(name, share)
                places.append(Place(name, base_w, slope_w, idle_w, awake_w))
            else:
                unused_w += self.idle_w(name, share)
        limit_w, cap_w = limits_w
        return Question(clients, tuple(places), self.constant_w + unused_w, limit_w, overlap, cap_w)

    def bands(self, chosen: Mapping[str, int]) -> list[FrequencyBand]:
        """Clocks of the levels chosen; of processors without one the lowest, but the CPU's are left alone."""
        used = (name for name in self.levels if name in chosen or processor_of(name) != "cpu")
        return [band for name in used for band in self.levels[name].bands(chosen.get(name, 0))]


def make_model(
    board: Board, tables: Tables, libraries: Mapping[str, Sequence[SubnetEntry]], temperature_c: float
) -> OracleModel:
    """The model for the clocks on offer. The clusters of the CPU replace it if a library names any."""
    clustered = any(e.cluster for library in libraries.values() for e in library)
    others = tuple(name for name in board.processors if name != "cpu")
    levels = {
        name: make_levels(board, name, tables, temperature_c)
        for name in ((*processor_domains(board, "cpu"), *others) if clustered else board.processors)
        if any(tables.get(d) for d in processor_domains(board, name))
    }

    def choice(name: str, own: tuple[SubnetEntry, ...]) -> Choice:
        cores = {d: board.domains[d].cores for d in processor_domains(board, name)}
        total = sum(cores.values())
        left = sum(n for d, n in cores.items() if d in tables)  # a mode may take some away
        times = times_ms(own, levels[name], float((left / total) ** CORES_EXPONENT))
        shares = tuple(core_share(e.threads, total) for e in own)
        return Choice(own, times, slowdown=1.0, guard=1.0, shares=shares)

    own = {app: {name: on_processor(library, name) for name in levels} for app, library in libraries.items()}
    choices = {app: {name: choice(name, e) for name, e in mine.items() if e} for app, mine in own.items()}
    return OracleModel(board, temperature_c, levels, choices)


# --- chance -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chance:
    """How many frames of an application are late at which speed: not which ones, in hindsight of the run.

    ``own_ms``: times by the true library, slowed down, ascending; ``late``: share of the frames that are late
    with each. ``typical``: mean factor of the noise. ``extra_ms``: mean of what comes on top. ``fullest``: by
    time, busy share of the fullest windows of a cap, but for those that may be above it.
    """

    own_ms: Array
    late: Array
    typical: float
    extra_ms: float
    fullest: Array

    def expected_ms(self, late: float) -> float:
        """Longest expected time with which no more than a share of the frames is late."""
        place = int(self.late.searchsorted(late + 1e-9, side="right")) - 1
        return self.typical * float(self.own_ms[max(place, 0)]) + self.extra_ms

    def late_share(self, expected_ms: float) -> float:
        """Share of the frames that are late at an expected time."""
        own_ms = (expected_ms - self.extra_ms) / self.typical * (1.0 - 1e-9)
        return float(self.late[min(int(self.own_ms.searchsorted(own_ms)), len(self.late) - 1)])

    def fullest_load(self, expected_ms: Array) -> Array:
        """Busy share of the fullest windows at expected times."""
        own_ms = (expected_ms - self.extra_ms) / self.typical
        return np.interp(own_ms, self.own_ms, self.fullest, right=1.0)


def chance(trace: Trace, target_ms: float, regime: int | None) -> Chance:
    """Of all frames of an application, or of those that follow one in a state of the noise; of windows, those
    whose first half such a frame is the last to come in.

    One application alone, whose queue holds one request: a late frame makes the next one wait.
    """
    number = len(trace.noise)
    chosen = np.ones(number, bool)
    if regime is not None and number:
        before = np.array((trace.regimes[0], *trace.regimes[:-1])) == regime
        chosen = before if before.sum() >= FEW_FRAMES else chosen
    own_ms = np.geomspace(max(LEAST_MS, SHORTEST * target_ms), target_ms, SPEEDS)
    if not number:
        return Chance(own_ms, np.zeros(SPEEDS), 1.0, 0.0, np.ones(SPEEDS))
    arrivals_ms = 1e3 * np.array(trace.arrivals_s)
    after_ms = [*arrivals_ms[1:].tolist(), inf]  # a frame that waits until the next one comes is dropped
    free_ms, late = np.zeros(SPEEDS), np.zeros(SPEEDS)
    spans_ms = np.empty((2, number, len(own_ms[::COARSE])))  # begin and end of every inference
    frames = zip(arrivals_ms.tolist(), after_ms, trace.overhead_ms, trace.extra_ms, trace.noise, strict=True)
    for n, (arrived, after, overhead, extra, factor) in enumerate(frames):
        start = np.maximum(free_ms, arrived)
        served = start <= after
        end = start + (overhead + extra) + factor * own_ms
        if chosen[n]:
            late += ~served | (end - arrived > target_ms)
        begin = np.where(served, start + overhead, free_ms)
        free_ms = np.where(served, end, free_ms)
        spans_ms[:, n] = begin[::COARSE], free_ms[::COARSE]
    share = np.maximum.accumulate(late / chosen.sum())
    factors, extras = np.array(trace.noise)[chosen], np.array(trace.extra_ms)[chosen]
    fullest = np.interp(own_ms, own_ms[::COARSE], _fullest(spans_ms, arrivals_ms, chosen))
    return Chance(own_ms, share, float(factors.mean()), float(extras.mean()), fullest)


def _fullest(spans_ms: Array, arrivals_ms: Array, chosen: np.ndarray) -> Array:
    """Busy share of the windows in which a cap is judged, by speed: of the fullest, but for as many as may be
    above the cap. ``spans_ms``: begin and end x frames x speeds; ``chosen``: frames whose windows count."""
    window_ms = 1e3 * TELEMETRY_S
    edges_ms = np.arange(0.0, arrivals_ms[-1] + 2.0 * window_ms, window_ms)
    middles_ms = edges_ms[:-1] + 0.5 * window_ms
    counts = chosen[np.maximum(arrivals_ms.searchsorted(middles_ms) - 1, 0)]
    above = int(OVER_CAP_PERCENT / 100.0 * counts.sum())
    fullest = np.empty(spans_ms.shape[2])
    for speed, (begins, ends) in enumerate(zip(*spans_ms.transpose(0, 2, 1), strict=True)):
        busy_ms = np.concatenate(([0.0], np.cumsum(ends - begins)))
        times = np.ravel((begins, ends), order="F")
        known = np.interp(edges_ms, times, np.repeat(busy_ms, 2)[1:-1])
        shares = np.sort(np.diff(known)[counts]) / window_ms
        fullest[speed] = shares[max(len(shares) - 1 - above, 0)] if len(shares) else 1.0
    return np.maximum.accumulate(fullest)


# --- overlap ------------------------------------------------------------------------------------------------


@dataclass
class Cameras:
    """Time of request 0 of every application whose requests come at its rate; others are not periodic."""

    first_s: dict[str, float] = field(default_factory=dict)
    _last: dict[str, tuple[int, float]] = field(default_factory=dict)
    _irregular: set[str] = field(default_factory=set)
    _period_s: dict[str, float] = field(default_factory=dict)

    def observe(self, app: str, index: int, arrived_s: float) -> None:
        """Takes the number and the time of a request."""
        before = self._last.get(app)
        self._last[app] = (index, arrived_s)
        if before is None or index == before[0] or app in self._irregular:
            return
        period_s = (arrived_s - before[1]) / (index - before[0])
        if abs(period_s - self._period_s.setdefault(app, period_s)) > SAME_S:
            self._irregular.add(app)
            self.first_s.pop(app, None)
        elif app not in self.first_s:
            self.first_s[app] = arrived_s - index * period_s

    def known(self, apps: Sequence[str]) -> tuple[bool, ...]:
        """Of which applications the offset is known."""
        return tuple(app in self.first_s for app in apps)

    def worst(self, targets: AppTargets, other: AppTargets, own_ms: Array, other_ms: Array) -> Array | None:
        """Longest overlap (ms, per level) of a job with those of another application; None = unknown."""
        if targets.app not in self.first_s or other.app not in self.first_s:
            return None
        if any(abs(self._period_s[t.app] * t.rate_hz - 1.0) > 1e-6 for t in (targets, other)):
            return None  # the targets ask for another rate than the camera has
        offset_ms = 1e3 * (self.first_s[other.app] - self.first_s[targets.app])
        offsets = offsets_ms(offset_ms, (targets.rate_hz, other.rate_hz))
        return worst_overlap_ms(offsets, 1e3 / other.rate_hz, own_ms, other_ms)


@lru_cache(maxsize=1024)
def offsets_ms(offset_ms: float, rates_hz: tuple[float, float]) -> Array:
    """All offsets in [0, period of the other) at which its requests come after one of the first's."""
    own, other = (1000 / Fraction(hz).limit_denominator(1000) for hz in rates_hz)
    step = Fraction(gcd(own.numerator * other.denominator, other.numerator * own.denominator),
                    own.denominator * other.denominator)  # fmt: skip
    count = min(int(other / step), MOST_OFFSETS)
    return np.sort((offset_ms + float(other) * np.arange(count) / count) % float(other))


def worst_overlap_ms(offsets: Array, period_ms: float, own_ms: Array, other_ms: Array) -> Array:
    """Longest total overlap of one job that starts at 0 with jobs that start at an offset + k periods."""
    finite = own_ms[np.isfinite(own_ms)]
    last = min(20, ceil(float(finite.max()) / period_ms)) if len(finite) else 0
    total = np.zeros((len(offsets), len(own_ms)))
    for k in range(-1, last + 1):
        start = (offsets + k * period_ms)[:, None]
        ends = np.minimum(own_ms - np.maximum(start, 0.0), other_ms + np.minimum(start, 0.0))
        total += np.maximum(0.0, ends)
    worst: Array = total.max(axis=0)
    return worst


def overlap_law(
    targets: Sequence[AppTargets], contention: Mapping[str, float], cameras: Cameras | None
) -> Overlap:
    """Time that one application adds to another's: their overlap x the contention of the processor.

    With the offsets of the cameras, and few applications: the longest overlap there is. Else, if they meet in
    more than miss_tolerance of the frames, the worst case. For many, or without cameras: the worst case
    times the chance of meeting.
    """
    rates = np.array([1e-3 * t.rate_hz for t in targets])[None, :, None]
    tolerances = np.array([t.miss_tolerance for t in targets])[:, None, None]
    known = cameras if cameras is not None and len(targets) <= FEW else None

    def added(processor: str, own_ms: Array, other_ms: Array) -> Array:
        own, other = own_ms[:, None], other_ms[None]
        share = contention.get(processor_of(processor) or processor, 0.0)
        meet = np.minimum(1.0, rates * (own + other))
        if known is None:
            return share * np.minimum(own, other) * meet
        overlap = np.where(meet < tolerances, 0.0, np.minimum(own, np.ceil(rates * own) * other))
        here = np.flatnonzero(np.isfinite(own_ms).any(axis=1)).tolist()  # who can be on this processor
        for i, j in permutations(here, 2):
            worst = known.worst(targets[i], targets[j], own_ms[i], other_ms[j])
            if worst is not None:
                overlap[i, j] = worst
        return share * overlap

    return added


# --- limits of power: what a battery leaves, and what the heat path lets out --------------------------------


@dataclass
class Battery:
    """Objective `battery`: the rest of the energy budget over the rest of its time, by the true energy."""

    _asked: tuple[float, float] | None = None
    _end: tuple[float, float] = (inf, inf)  # energy at which it is used up, time at which it is over
    _limit_w: float = inf
    _due_s: float = -inf

    def limit_w(self, parameters: Parameters, now_s: float, used_j: float) -> float:
        """Power that is left, reckoned every second; inf without a budget, or when its time is over."""
        if parameters.objective != "battery":
            self._asked = None
            return inf
        asked = (parameters.battery_energy_j, parameters.battery_time_s)
        if asked != self._asked:
            self._asked, self._end = asked, (used_j + asked[0], now_s + asked[1])
            self._due_s = now_s
        end_j, end_s = self._end
        if now_s >= end_s:
            return inf
        if now_s >= self._due_s:
            self._due_s = now_s + PLAN_PERIOD_S
            self._limit_w = max(0.0, end_j - used_j) / max(end_s - now_s, LAST_SECONDS_S)
        return self._limit_w


def surroundings(thermal: Thermal, timeline: Sequence[Event], now_s: float) -> tuple[float, float]:
    """True ambient temperature and thermal resistance at a time."""
    ambient_c, factor = thermal.ambient_c, 1.0
    for event in timeline:
        if isinstance(event, Surroundings) and event.at_s <= now_s:
            ambient_c, factor = event.ambient_c, event.resistance_factor
    return ambient_c, thermal.resistance_c_per_w * factor


def thermal_limit_w(
    thermal: Thermal, timeline: Sequence[Event], now_s: float, temperature_c: float, limit_c: float
) -> float:
    """Power that reaches the limit within the horizon: one RC, P = (T_steady - T_ambient) / R."""
    ambient_c, resistance = surroundings(thermal, timeline, now_s)
    kept = exp(-THERMAL_HORIZON_S / thermal.time_constant_s)
    steady_c = (limit_c - temperature_c * kept) / (1.0 - kept)
    return max(0.0, (steady_c - ambient_c) / resistance)
