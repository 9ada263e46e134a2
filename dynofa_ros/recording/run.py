"""A recorded run, from its bag: frames, decisions, clocks, power and diagnostics as plain records.

Reads what `dynofa demo` records and what `ros2 bag record` records of the same topics, without rclpy.
Unknown numbers are NaN; times are the recorder's receipt times in nanoseconds unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from dynofa_ros import topics
from dynofa_ros.convert import from_ros, stamp_ns
from dynofa_ros.errors import printable
from dynofa_ros.messages import (
    AppTargets,
    DomainStatus,
    InferenceMonitor,
    ManagerDecision,
    SubnetCondition,
    SubnetState,
    ThrottleFlag,
)
from dynofa_ros.recording import scoring
from dynofa_ros.recording.bag import BagError, open_bag
from dynofa_ros.topics import Topic

TRUTHS = (topics.GROUND_TRUTH, topics.TRUE_BOXES, topics.TRUE_SENTENCE, topics.TRUE_COMMAND)
MARK_DELAY_NS = 100_000_000  # a mark may be recorded so much later than the first frames after it

CLOCK_LEVELS = {DomainStatus.REJECTED: 2, DomainStatus.FALLBACK: 1, DomainStatus.THROTTLED: 1}

T = TypeVar("T")
FrameKey = tuple[int, str]  # header.stamp in nanoseconds, header.frame_id


@dataclass(frozen=True)
class Monitor(InferenceMonitor):
    """One answered frame, with the time of its receipt."""

    time_ns: int = 0

    @property
    def frame(self) -> FrameKey:
        """The image that it is of."""
        return self.header.stamp_ns, self.header.frame_id

    @property
    def unanswered(self) -> int:
        """Frames before it that got no answer."""
        return self.dropped_frames + self.malformed_frames


@dataclass(frozen=True)
class Label:
    """Answer to one request, or what it should be: a class, a text, or boxes as `scoring` has them.

    value: None = not known. metric: of a true one, by which answers are scored.
    """

    time_ns: int
    app: str  # empty where the truth is of any application that got the frame
    frame: FrameKey  # of a text: 0 and the text itself
    value: Any
    metric: str = scoring.TOP1


@dataclass(frozen=True)
class Telemetry:
    """One sample of the device. power_w: of the whole module. temperature_c: of the hottest sensor."""

    time_ns: int
    power_w: float
    energy_j: float
    temperature_c: float
    clocks_hz: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Fault:
    """Something became worse or better. level: 0 = in order again, 1 = WARN, 2 = ERROR, 3 = STALE.

    source: what it is about, always the same text, such as "/perception/front: deadline".
    """

    time_ns: int
    source: str
    level: int
    text: str


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A value at a time."""

    time_ns: int
    value: T


LibraryKey = tuple[str, str, str]  # app, subnet_id, processor
Collector = Callable[["Run", int, Any], None]
Adder = Callable[["Run", int, str, Any], None]  # with the name of the application


@dataclass
class Run:
    """Everything of a recorded run that figures and plots need, each list in order of receipt."""

    monitors: list[Monitor] = field(default_factory=list)
    results: list[Label] = field(default_factory=list)
    truths: list[Label] = field(default_factory=list)
    telemetry: list[Telemetry] = field(default_factory=list)
    clocks: list[Reading[Mapping[str, float]]] = field(default_factory=list)  # that the device applied, Hz
    decisions: list[Reading[ManagerDecision]] = field(default_factory=list)
    command_times_ns: list[int] = field(default_factory=list)
    marks: list[Reading[str]] = field(default_factory=list)  # starts of phases; `end` closes the last one
    manager_cpu: list[Reading[float]] = field(default_factory=list)  # of the node, 100 = one core
    device_cpu: list[Reading[float]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)  # changes of level
    accuracy: dict[LibraryKey, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    has_ground_truth: bool = False
    # The newest of each application or source.
    targets: dict[str, AppTargets] = field(default_factory=dict)
    subnets: dict[str, SubnetState] = field(default_factory=dict)
    health: dict[str, Fault] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # that an application was asked about
    metrics: dict[str, str] = field(default_factory=dict)  # that its accuracies are by
    board: str = ""

    def report(self, fault: Fault) -> None:
        """Note how a source is; only a change of its level is one of the ``faults``."""
        before = self.health.get(fault.source)
        self.health[fault.source] = fault
        if fault.level != (before.level if before else 0):
            self.faults.append(fault)


def limit(step: Reading[ManagerDecision], name: str) -> float:
    """`power_cap_w` or `temperature_limit_c` in force for a step; NaN = none, or not known."""
    value = next((p.value for p in step.value.parameters if p.name == name), None)
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if known else math.nan  # type: ignore[arg-type]


def read_run(path: Path, namespace: str | None = None) -> Run:
    """Read a bag. namespace: of the robot, e.g. `/robot1`; None = the only one in the bag.

    What came before the first mark, a demo's start and warm-up, is left out. So are messages that cannot be
    read; ``errors`` says how many of which topic, and why.
    Raises BagError if the bag cannot be read, holds several namespaces, or holds no run of this package.
    """
    run = Run()
    unread: dict[str, list[str]] = {}
    with open_bag(path) as reader:
        root = robot_root(path, {c.topic for c in reader.connections}, namespace)
        collectors = {(c.topic, c.msgtype): collector(root, c.topic, c.msgtype) for c in reader.connections}
        chosen = [c for c in reader.connections if collectors[c.topic, c.msgtype]]
        truths = {f"{root}/{topic.name}" for topic in TRUTHS}
        run.has_ground_truth = any(c.topic in truths for c in chosen)
        for connection, time_ns, raw in reader.messages(chosen):
            collect = collectors[connection.topic, connection.msgtype]
            assert collect is not None
            try:
                collect(run, time_ns, reader.deserialize(raw, connection.msgtype))
            except Exception as error:  # noqa: BLE001 - rosbags checks little of what it unpacks
                unread.setdefault(connection.topic, []).append(f"{type(error).__name__}: {error}")
        run.errors += reader.problems
    for topic, reasons in unread.items():
        text = f"{len(reasons)} of {topic} are damaged, or of another version"
        run.errors.append(f"{path}: {text} ({reasons[0]})")
    return from_first_mark(run)


def collector(root: str, topic: str, message_type: str) -> Collector | None:
    """What adds a message of this topic to a Run; None if a Run has no use for it.

    root: prefix of the robot's topics, empty or `/robot1`. Messages may be those of rclpy or of rosbags.
    """
    if (topic, message_type) == (topics.DIAGNOSTICS.name, topics.DIAGNOSTICS.kind):
        return partial(_diagnostics, root)
    if not topic.startswith(root + "/"):
        return None
    relative = topic[len(root) + 1 :]
    for known, add in _COLLECTORS.items():
        app = known.match(relative)
        if app is not None and message_type == known.kind:
            return lambda run, time_ns, message: add(run, time_ns, app, message)  # noqa: B023 - returned
    return None


def robot_roots(names: Iterable[str]) -> list[str]:
    """Prefixes of all robots whose topics have these names."""
    known = (topics.MONITOR, topics.TELEMETRY, topics.DECISION)
    return sorted({root for name in names for topic in known if (root := topic.root(name)) is not None})


def robot_root(path: Path, names: set[str], namespace: str | None) -> str:
    """Prefix of the robot's topics, which have these names: empty, or `/robot1`."""
    roots = robot_roots(names)
    if namespace is not None:
        wanted = "/" + namespace.strip("/") if namespace.strip("/") else ""
        if wanted not in roots:
            raise BagError(f"{path} holds no run in namespace {namespace!r}; it has: {_names(roots)}")
        return wanted
    if not roots:
        raise BagError(f"{path} holds no run: no topic perception/<app>/monitor, dynofa/... in it")
    if len(roots) > 1:
        raise BagError(f"{path} holds several namespaces ({_names(roots)}); choose one with --namespace")
    return roots[0]


def from_first_mark(run: Run) -> Run:
    """The run without its warm-up. What the device reported last before the mark still holds and is kept."""
    return since(run, run.marks[0].time_ns - MARK_DELAY_NS) if run.marks else run


def since(run: Run, start_ns: int) -> Run:
    """What was received from ``start_ns`` on, and what held at that time of the device and of faults."""

    def later(records: list[Any]) -> list[Any]:
        return [record for record in records if record.time_ns >= start_ns]

    def last_and_later(records: list[Any]) -> list[Any]:
        return [record for record in records if record.time_ns < start_ns][-1:] + later(records)

    before = {fault.source: fault for fault in run.faults if fault.time_ns < start_ns}
    return replace(
        run,
        monitors=later(run.monitors),
        results=later(run.results),
        truths=later(run.truths),
        telemetry=last_and_later(run.telemetry),
        clocks=last_and_later(run.clocks),
        decisions=later(run.decisions),
        command_times_ns=[time_ns for time_ns in run.command_times_ns if time_ns >= start_ns],
        manager_cpu=later(run.manager_cpu),
        device_cpu=later(run.device_cpu),
        faults=[fault for fault in before.values() if fault.level] + later(run.faults),
    )


def _names(roots: list[str]) -> str:
    return ", ".join(root or "/" for root in roots) or "none"


def _frame(header: Any) -> FrameKey:
    return stamp_ns(header.stamp), printable(header.frame_id)


def _monitor(run: Run, time_ns: int, app: str, message: Any) -> None:
    raw = {"subnet_id": message.subnet_id, "processor": message.processor}  # as the library has them
    run.monitors.append(Monitor(**vars(from_ros(message)) | raw | {"app": app, "time_ns": time_ns}))


def _label(time_ns: int, app: str, message: Any) -> Label:
    best = message.results[0].class_id if message.results else None
    return Label(time_ns, app, _frame(message.header), best)


def _boxes(time_ns: int, app: str, message: Any) -> Label:
    return Label(time_ns, app, _frame(message.header), scoring.boxes_of(message), scoring.PRECISION)


def _translation(run: Run, time_ns: int, app: str, message: Any) -> None:
    if not message.reason:  # else it is no answer
        run.results.append(Label(time_ns, app, (0, message.source), message.text))


def _true_text(metric: str) -> Adder:
    def add(run: Run, time_ns: int, app: str, message: Any) -> None:
        asked = message.header.frame_id
        run.truths.append(Label(time_ns, asked, (0, message.source), message.text, metric))

    return add


def _telemetry(run: Run, time_ns: int, app: str, message: Any) -> None:
    temperatures = [float(t.temperature_c) for t in message.temperatures if math.isfinite(t.temperature_c)]
    run.telemetry.append(
        Telemetry(
            time_ns=time_ns,
            power_w=float(message.total_power_w),
            energy_j=float(message.energy_j),
            temperature_c=max(temperatures, default=math.nan),
            clocks_hz={d.domain: float(d.frequency_hz) for d in message.domains},
            source=message.source,
        )
    )
    flags = int(message.throttle_flags)
    reasons = ", ".join(str(flag.name).lower() for flag in ThrottleFlag if flag & flags)
    run.report(Fault(time_ns, "device: throttling", int(flags > 0), reasons))


def _clocks(run: Run, time_ns: int, app: str, message: Any) -> None:
    run.clocks.append(Reading(time_ns, {d.domain: float(d.actual_hz) for d in message.domains}))
    for domain in message.domains:
        status = DomainStatus(domain.status)
        reason = getattr(domain, "reason", "") or message.message  # of all; older recordings have only that
        text = f"{status.name.lower()}: {reason}".rstrip(": ")
        run.report(Fault(time_ns, f"device: clock {domain.domain}", CLOCK_LEVELS.get(status, 0), text))


def _library(run: Run, time_ns: int, app: str, message: Any) -> None:
    run.metrics[app] = getattr(message, "accuracy_metric", "")  # older recordings lack it
    run.accuracy.update({(app, e.id, e.processor): float(e.accuracy) for e in message.entries})


def _subnet(run: Run, time_ns: int, app: str, message: Any) -> None:
    state: SubnetState = from_ros(message)
    run.subnets[app] = state
    rejected = state.status == SubnetCondition.REJECTED
    run.report(Fault(time_ns, f"{app}: command", 2 * rejected, state.message or state.status.name.lower()))


def _diagnostics(root: str, run: Run, time_ns: int, message: Any) -> None:
    """Of the nodes of this robot; /diagnostics is everybody's."""
    for status in message.status:
        node, task, _ = status.name.partition(": ")
        namespace = node.rpartition("/")[0]
        if task and node.startswith("/") and topics.root_namespace(namespace) == (root or "/"):
            level = status.level if isinstance(status.level, int) else ord(status.level)  # rclpy has a byte
            run.report(Fault(time_ns, status.name, level, status.message))


def _error(run: Run, time_ns: int, app: str, message: Any) -> None:
    run.errors.append(message.data)
    run.faults.append(Fault(time_ns, "demo", 2, message.data))


_COLLECTORS: dict[Topic, Adder] = {
    topics.MONITOR: _monitor,
    topics.CLASSIFICATION: lambda run, t, app, m: run.results.append(_label(t, app, m)),
    topics.DETECTIONS: lambda run, t, app, m: run.results.append(_boxes(t, app, m)),
    topics.TRANSLATION: _translation,
    topics.TEXT: lambda run, t, app, m: run.texts.update({app: m.data}),
    topics.LIBRARY: _library,
    topics.TARGETS: lambda run, t, app, m: run.targets.update({app: from_ros(m)}),
    topics.SUBNET_STATE: _subnet,
    topics.GROUND_TRUTH: lambda run, t, app, m: run.truths.append(_label(t, app, m)),
    topics.TRUE_BOXES: lambda run, t, app, m: run.truths.append(_boxes(t, app, m)),
    topics.TRUE_SENTENCE: _true_text(scoring.BLEU),
    topics.TRUE_COMMAND: _true_text(scoring.EXACT),
    topics.TELEMETRY: _telemetry,
    topics.CAPABILITIES: lambda run, t, app, m: setattr(run, "board", m.board),
    topics.DVFS_STATE: _clocks,
    topics.DVFS_COMMAND: lambda run, t, app, m: run.command_times_ns.append(t),
    topics.DECISION: lambda run, t, app, m: run.decisions.append(Reading(t, from_ros(m))),
    topics.PHASE: lambda run, t, app, m: run.marks.append(Reading(t, m.data)),
    topics.MANAGER_CPU: lambda run, t, app, m: run.manager_cpu.append(Reading(t, float(m.data))),
    topics.DEVICE_CPU: lambda run, t, app, m: run.device_cpu.append(Reading(t, float(m.data))),
    topics.ERRORS: _error,
}
