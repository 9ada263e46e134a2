"""The steps of a manager as they were recorded: decisions, the inputs that they name, snapshots of its state.

Reads rosbag2 without rclpy. A decision is kept as plain data: dicts, lists, and leaves of the precision of
its message (float32 as numpy.float32).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rosbags.typesys.store import Typestore

from dynofa_ros import topics
from dynofa_ros.convert import from_ros
from dynofa_ros.manager.inputs import GONE, Departure, Input, make_input, parameters_of
from dynofa_ros.messages import ConsumedInput, ManagerDecision, ManagerState
from dynofa_ros.recording.bag import BagError, open_bag, typestore
from dynofa_ros.recording.run import robot_root
from dynofa_ros.recording.text_log import Message, all_types, plain, read_log

DECISION_TYPE = topics.DECISION.kind


@dataclass(frozen=True)
class RecordedDecision(ManagerDecision):
    """One step of the manager as it was published. ``fields``: the whole message as plain data."""

    fields: Mapping[str, Any] = field(kw_only=True)


class MissingInput(LookupError):
    """An input that a decision names was not recorded; the text names topic and sequence."""


@dataclass
class RecordedInputs:
    """Inputs by topic and sequence.

    A sequence can come again when its node restarts: what was recorded later is then taken later.
    """

    _items: list[Input] = field(default_factory=list)
    _places: defaultdict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    _taken: set[int] = field(default_factory=set)
    _last: dict[str, int] = field(default_factory=dict)  # place of the input taken last, per topic

    def add(self, item: Input) -> None:
        """The next message of the recording."""
        self._places[item.topic, item.sequence].append(len(self._items))
        self._items.append(item)

    def of(self, named: Sequence[ConsumedInput]) -> tuple[Input, ...]:
        """The inputs that a decision names, all taken. Raises MissingInput if one was not recorded."""
        taken = [self.take(name.topic, name.sequence) for name in named]
        if None in taken:
            name = named[taken.index(None)]
            raise MissingInput(f"{name.topic} {name.sequence}")
        return tuple(filter(None, taken))

    def take(self, topic: str, sequence: int) -> Input | None:
        """The input that a decision names, None if it was not recorded."""
        if sequence == GONE and topics.TARGETS.match(topic):
            return make_input(topic, Departure(topic.split("/")[1]))
        places = self._places.get((topic, sequence), [])
        if not _latched(topic):
            places = [place for place in places if place not in self._taken]
        if not places:
            return None
        last = self._last.get(topic, -1)
        place = next((place for place in places if place > last), places[-1])
        self._taken.add(place)
        self._last[topic] = place
        return self._items[place]


@dataclass
class Recording:
    """Decisions and snapshots in the order of recording, and all inputs."""

    decisions: list[RecordedDecision] = field(default_factory=list)
    snapshots: list[ManagerState] = field(default_factory=list)
    inputs: RecordedInputs = field(default_factory=RecordedInputs)
    problems: tuple[str, ...] = ()  # what was repaired in the bag, or is missing


def read_recording(
    path: Path, namespace: str | None = None, step: Callable[[int], None] = lambda total: None
) -> Recording:
    """Read a bag, or a log of messages (.jsonl).

    namespace: of the robot, e.g. `/robot1`; None = the only one in the bag. step: called once per message
    with their number.

    Messages that are damaged are left out, and named in ``problems``.
    Raises BagError if it cannot be read, holds several namespaces or no decisions, or if its messages
    are those of another version of this package.
    """
    if path.suffix == ".jsonl":
        return recording(path, read_log(path), typestore())
    with open_bag(path) as reader:
        root = robot_root(path, {c.topic for c in reader.connections}, namespace)
        wanted = [c for c in reader.connections if is_wanted(root, c.topic, c.msgtype)]
        _check_definitions(path, reader.typestore, {c.msgtype for c in wanted})

        total = sum(connection.msgcount for connection in wanted)
        damaged: Counter[str] = Counter()

        def messages() -> Iterator[Message]:
            for connection, _, raw in reader.messages(wanted):
                step(total)
                try:
                    message = reader.deserialize(raw, connection.msgtype)
                except Exception:  # noqa: BLE001 - rosbags checks little of what it unpacks
                    damaged[connection.topic] += 1
                else:
                    yield connection.topic[len(root) + 1 :], connection.msgtype, message

        def problems() -> tuple[str, ...]:
            odd = (f"{path}: {n} of {topic} are damaged and left out" for topic, n in damaged.items())
            return (*reader.problems, *odd)

        try:
            found = recording(path, messages(), reader.typestore)
        except BagError as error:  # perhaps for what is left out
            raise BagError("; ".join([str(error), *problems()])) from error
        return replace(found, problems=problems())


def recording(path: Path, messages: Iterable[Message], store: Typestore) -> Recording:
    """What these messages hold; their topics lack the robot's namespace.

    path: for errors. Raises BagError if there are no decisions, or none of this version.
    """
    found = Recording()
    for topic, message_type, message in messages:
        if message_type == topics.MANAGER_STATE.kind:
            found.snapshots.append(from_ros(message))
            continue
        if message_type != DECISION_TYPE:
            _add_input(found.inputs, topic, message)
            continue
        try:
            found.decisions.append(_decision(message, store))
        except ValueError as error:
            raise BagError(f"{path}: decision {message.decision_id} cannot be replayed: {error}") from error
    if not found.decisions:
        raise BagError(f"{path} holds no decision: record {topics.DECISION.name} and the monitors with it")
    return found


def _add_input(inputs: RecordedInputs, topic: str, message: Any) -> None:
    """As the manager's node takes it: what names another application or has no meaning is left out."""
    with suppress(ValueError):
        inputs.add(make_input(topic, from_ros(message)))


def _decision(message: Any, store: Typestore) -> RecordedDecision:
    decision: ManagerDecision = from_ros(message)
    parameters_of(decision)  # raises ValueError for parameters of another version
    return RecordedDecision(**vars(decision), fields=plain(message, DECISION_TYPE, store))


def is_wanted(root: str, topic: str, message_type: str) -> bool:
    """Whether a replay needs a topic. root: prefix of the robot's topics, empty or `/robot1`."""
    if not topic.startswith(root + "/"):
        return False
    relative = topic[len(root) + 1 :]
    wanted = (topics.DECISION, topics.MANAGER_STATE, *topics.MANAGER_INPUTS)
    return any(message_type == topic.kind and topic.match(relative) is not None for topic in wanted)


def _latched(relative: str) -> bool:
    """Whether a subscriber that comes later gets the last message of a topic again."""
    return any(topic.latched and topic.match(relative) is not None for topic in topics.MANAGER_INPUTS)


def _check_definitions(path: Path, theirs: Typestore, message_types: set[str]) -> None:
    """Raises BagError if a message of this package was defined otherwise when it was recorded."""
    ours = typestore()
    for name in all_types(message_types, ours):
        if name not in theirs.fielddefs:
            raise BagError(f"{path} does not say what {name} consists of")
        here, there = dict(ours.fielddefs[name][1]), dict(theirs.fielddefs[name][1])
        odd = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        if odd:
            raise BagError(
                f"{path} was recorded with another version of this package: {name} differs in "
                f"{', '.join(odd)}; replay it with that version"
            )
