"""What the manager knows of one application."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite, nan
from typing import Any

from dynofa_ros.latency import processor_of, size_factor
from dynofa_ros.manager.commands import AppCommand
from dynofa_ros.manager.estimator import AppEstimator
from dynofa_ros.manager.miss_alarm import MissAlarm
from dynofa_ros.manager.placement import CLUSTERED, Key, entry_key, on_whole_cpu, place_of, subnet_key
from dynofa_ros.manager.problem import Menu
from dynofa_ros.manager.requests import ArrivalRate, RequestSizes, usual_factor
from dynofa_ros.messages import AppTargets, InferenceMonitor, SubnetCondition, SubnetEntry, SubnetState

RATE_FRAMES = 8  # frames after which the rate that comes in is judged
RATE_WINDOW_S = 3.0
RATE_RESERVE = 1.15
SILENCE_S = 1.0
SOON_FRAMES = 2  # in which a wait that is over does not ask for higher clocks
# Nobody knows yet how its library fits this machine. It matters where a miss is much of what a minute allows.
FIRST_FRAMES, FIRST_S, FEW_PER_MIN = 3, 10.0, 4.0
CAUTION, CAUTIOUS_PER_MIN = 2.0, 2.0


@dataclass(frozen=True)
class _Usable:
    """Entries that may be run, and what they were selected from."""

    of: tuple[SubnetEntry, ...] | None = None
    pin: Key | None = None
    refused: frozenset[Key] = frozenset()
    clusters: frozenset[str] = frozenset()
    entries: tuple[SubnetEntry, ...] = ()
    processors: frozenset[str] = frozenset()  # of the allocation problem: see placement.place_of


@dataclass
class FrameRate:
    """Rate at which an application's requests really come."""

    hz: float = nan
    _frames: int = 0
    _since_s: float = 0.0

    def observe(self, frames: int, dt_s: float) -> None:
        """Takes the frames, answered and dropped, of the last ``dt_s``; silence is no rate."""
        if frames == 0 and self._frames == 0:
            return
        self._frames += frames
        self._since_s += dt_s
        if self._frames >= RATE_FRAMES or self._since_s > RATE_WINDOW_S:
            rate = self._frames / self._since_s if self._since_s > 0.0 else nan
            if isfinite(rate):
                self.hz = rate if not isfinite(self.hz) else 0.5 * (self.hz + rate)
            self.restart()

    def restart(self) -> None:
        """Starts counting anew; the rate found so far stays."""
        self._frames, self._since_s = 0, 0.0


@dataclass
class AppState:
    """One application."""

    name: str
    targets: AppTargets | None = None
    entries: tuple[SubnetEntry, ...] = ()
    status: SubnetState | None = None
    estimator: AppEstimator = field(default_factory=AppEstimator)
    rate: FrameRate = field(default_factory=FrameRate)
    queued: bool = False  # its requests come at any time and wait in order
    arrivals: ArrivalRate = field(default_factory=ArrivalRate)  # of these
    sizes: RequestSizes = field(default_factory=RequestSizes)
    refused: set[Key] = field(default_factory=set)  # entries that the node could not run
    clusters: frozenset[str] = frozenset()  # of the CPU that may be used; empty = the CPU as a whole
    reported: str = ""  # why some of its entries are left out
    since_ns: int = 0
    last_frame_ns: int = 0
    last_sequence: int = 0
    shared: float = 1.0  # factor by which the plan expects other applications to slow it
    thinned: bool = False  # the plan asks for fewer frames than the user: their rate says nothing
    held: SubnetEntry | None = None  # what it keeps running while it sends nothing
    new_frames: int = 0
    fresh: bool = False  # it answers its first frames, and they count: see `begins`
    missed: bool = False  # its last frame missed its deadline
    backlog_ms: float = 0.0  # for which the next frame waits: see `backlog_after`
    misses: MissAlarm = field(default_factory=MissAlarm)
    planned: SubnetEntry | None = None  # what it is to run
    menu: Menu | None = None  # these three are kept by build_problem.py from step to step
    menu_key: tuple[Any, ...] = ()
    tables: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    command: AppCommand | None = None  # the last one, and the objects that it was made of: see knobs.py
    command_of: tuple[Any, ...] = ()
    _index: dict[Key, SubnetEntry] = field(default_factory=dict)
    _index_of: tuple[SubnetEntry, ...] | None = None
    _clusters: frozenset[str] = frozenset()
    _clusters_of: tuple[SubnetEntry, ...] | None = None
    _sized: bool = False
    _sized_of: tuple[SubnetEntry, ...] | None = None
    _usable: _Usable = field(default_factory=lambda: _Usable())

    @property
    def ready(self) -> bool:
        """Whether it can be planned: targets and a library, not paused, not disabled."""
        disabled = self.status is not None and self.status.status == SubnetCondition.DISABLED
        return self.targets is not None and bool(self.entries) and not (self.targets.paused or disabled)

    @property
    def usable(self) -> tuple[SubnetEntry, ...]:
        """Entries it may be commanded to run: the pinned or held one, or all the node has not refused."""
        return self._current().entries

    @property
    def named_processors(self) -> frozenset[str]:
        """Processors of the allocation problem that the usable entries run on."""
        return self._current().processors

    def _current(self) -> _Usable:
        status = self.status
        pin = None
        if status is not None and status.status == SubnetCondition.PINNED:
            pin = subnet_key(status)
        elif self.held is not None:
            pin = entry_key(self.held)
        kept = self._usable
        same = kept.of is self.entries and kept.pin == pin and kept.clusters == self.clusters
        if not same or kept.refused != self.refused:
            entries = self._select(pin)
            processors = frozenset(map(place_of, entries))
            kept = _Usable(self.entries, pin, frozenset(self.refused), self.clusters, entries, processors)
            self._usable = kept
        return kept

    def _select(self, pin: Key | None) -> tuple[SubnetEntry, ...]:
        fitting = tuple(e for e in self.entries if self.may_run(e, self.clusters))
        if pin is not None:
            pinned = self.entry(pin)
            same = [e for e in fitting if (e.id, e.processor) == pin[:2]]  # a pin may name no cluster
            same.sort(key=lambda e: e.threads != pin[3])
            return (pinned,) if pinned in fitting else tuple(same[:1]) or fitting
        # A node that refuses two sub-networks on a cluster cannot use the cluster.
        clusters = [cluster for _, _, cluster, _ in self.refused if cluster]
        lost = {cluster for cluster in clusters if clusters.count(cluster) > 1}
        left = tuple(e for e in fitting if entry_key(e) not in self.refused and e.cluster not in lost)
        return left or fitting

    @property
    def named_clusters(self) -> frozenset[str]:
        """Clusters that its library names."""
        if self._clusters_of is not self.entries:
            self._clusters_of = self.entries
            self._clusters = frozenset(e.cluster for e in self.entries if e.cluster)
        return self._clusters

    def can_run(self, clusters: frozenset[str]) -> bool:
        """Whether it has an entry for the CPU used in this way, or for another processor."""
        return any(self.may_run(entry, clusters) for entry in self.entries)

    def left_out(self) -> str:
        """Why entries are left out because of the way the CPU is used, "" = none is."""
        if self.clusters and any(map(on_whole_cpu, self.entries)):
            return "entries of the whole CPU are left out: libraries name its clusters"
        if not self.clusters and self.named_clusters:
            return (
                f"entries of clusters {', '.join(sorted(self.named_clusters))} are left out: the device "
                "does not know their CPUs, or another library has entries of the whole CPU only"
            )
        return ""

    @staticmethod
    def may_run(entry: SubnetEntry, clusters: frozenset[str]) -> bool:
        """Whether an entry fits the way the CPU is used: by these clusters, or as a whole without any."""
        if entry.processor != CLUSTERED:
            return True
        return entry.cluster in clusters if clusters else not entry.cluster

    def entry(self, key: Key) -> SubnetEntry | None:
        """Library entry by its key."""
        if self._index_of is not self.entries:
            self._index_of, self._index = self.entries, {entry_key(e): e for e in self.entries}
        return self._index.get(key)

    def ran(self, frame: InferenceMonitor) -> SubnetEntry | None:
        """Entry that a frame stands for. A pinned sub-network runs on no cluster in particular, as only a
        command says which CPUs one has: its frames stand for the entry that is planned with.
        """
        found = self.entry(subnet_key(frame))
        pinned = self.status is not None and self.status.status == SubnetCondition.PINNED
        if found is not None or frame.cluster or not pinned:
            return found
        same = (e for e in self.usable if (e.id, e.processor) == (frame.subnet_id, frame.processor))
        return next(same, None)

    @property
    def sized(self) -> bool:
        """Whether the time of a request depends on its size."""
        if self._sized_of is not self.entries:
            self._sized_of, self._sized = self.entries, any(e.reference_size > 0.0 for e in self.entries)
        return self._sized

    def size_factors(self, size: float, entry: SubnetEntry) -> tuple[float, float]:
        """Takes the size of a request that an entry answered, NaN = it has none. Returns the time of that
        request, and of one of usual size, over that at the reference size.
        """
        if size > 0.0 and entry.reference_size > 0.0:
            self.sizes.observe(size, entry.reference_size)
        own = size_factor(entry.fixed_share, entry.reference_size, size)
        return own, usual_factor(((entry.fixed_share, entry.reference_size),), self.sizes.usual)

    def begins(self, now_ns: int) -> bool:
        """Whether it answers its first frames, and so few are due that one of them counts."""
        few = self.tolerated_per_min < FEW_PER_MIN
        return few and self.estimator.frames < FIRST_FRAMES and now_ns - self.since_ns < FIRST_S * 1e9

    @property
    def tolerated_per_min(self) -> float:
        """Frames that may be late in a minute."""
        return 60.0 * self.targets.rate_hz * self.targets.miss_tolerance if self.targets else inf

    def caution(self, place: str) -> float:
        """Standard deviations by which plans take what was not tried in a place to be slower than its library
        says: where hardly a frame may be late, on a CPU. Its libraries are wrong by 5 to 21 %."""
        few = self.tolerated_per_min < CAUTIOUS_PER_MIN and not self.queued
        return CAUTION if few and processor_of(place) == "cpu" else 0.0

    def backlog_after(self, frame: InferenceMonitor) -> float:
        """For how many ms the next frame has waited when one is answered: it came a period later.

        0 where the next frames make up for it soon: one of them is at work already when this is known.
        """
        rate = self.due_hz()
        if self.queued or self.thinned or rate <= 0.0:  # thinned: the next one comes later
            return 0.0
        period_ms = 1e3 / rate
        busy_ms = frame.queue_wait_ms + frame.preprocess_ms + frame.inference_ms + frame.postprocess_ms
        waits_ms = min(max(busy_ms - period_ms, 0.0), period_ms)
        made_up_ms = SOON_FRAMES * (period_ms - self.misses.promised_ms)
        return waits_ms if waits_ms > made_up_ms else 0.0

    def silent(self, now_ns: int) -> bool:
        """Whether no frame has come for much longer than its rate explains."""
        rate = self.due_hz()
        return now_ns - self.last_frame_ns > 1e9 * (SILENCE_S + (3.0 / rate if rate > 0.0 else 0.0))

    def due_hz(self) -> float:
        """Frames per second to plan for: what was asked for, or what comes if that is less; of requests
        that wait in order what comes, as none is left out."""
        asked = self.targets.rate_hz if self.targets else 0.0
        if self.queued and asked:
            return self.arrivals.hz(asked)
        comes = RATE_RESERVE * self.rate.hz
        return comes if comes < asked else asked  # NaN is not less
