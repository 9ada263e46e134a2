"""All that a manager knows, as a message, and a manager made of it that goes on bit for bit.

The objects that a `RuntimeManager` consists of are written as JSON, compressed by zlib, in base 64. Numbers,
strings and None stand for themselves; anything else is a list that begins with its kind:

    ["list", ...], ["tuple", ...], ["set", ...], ["frozenset", ...]     elements
    ["dict", key, value, ...], ["Counter", key, value, ...]             in their order
    ["deque", maxlen, ...]
    ["SubnetCondition", 4]                                              an enum's member
    ["State", ...]                      an object's attributes, named once per class in the head "classes"
    ["nan"], ["other nan"]              math.nan itself, and any other NaN
    ["same", n]                         the n-th object or other NaN once more

The last two are there because a tuple is equal to one with the very same NaN, and to no other: what is one
object must stay one. Only the classes below are written and read. Caches are left out and made again.
"""

from __future__ import annotations

import json
import math
import zlib
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from dynofa_ros.manager.actuator_guard import ActuatorGuard
from dynofa_ros.manager.alternatives import AlternativesTimer
from dynofa_ros.manager.app_state import AppState, FrameRate
from dynofa_ros.manager.budgets import Battery
from dynofa_ros.manager.bumpless_start import BumplessStart
from dynofa_ros.manager.clocks import Clocks
from dynofa_ros.manager.commands import AppCommand, CommandBook
from dynofa_ros.manager.estimator import AppEstimator, Overhead, Rise, SlowdownFilter
from dynofa_ros.manager.feedback import Feedback, PowerFeedback, TemperatureFeedback
from dynofa_ros.manager.hysteresis import Hysteresis
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.ladder import Trace
from dynofa_ros.manager.library_error import EntryError, LibraryErrors
from dynofa_ros.manager.limits import LimitFault
from dynofa_ros.manager.loads import Loads
from dynofa_ros.manager.margin import MarginEstimator, Window
from dynofa_ros.manager.miss_alarm import MissAlarm
from dynofa_ros.manager.plan import AppForecast, Choice, Forecast, Plan
from dynofa_ros.manager.power import PowerTables
from dynofa_ros.manager.power_guard import PowerGuard, Ripple
from dynofa_ros.manager.refusals import Refusal, Refusals
from dynofa_ros.manager.requests import ArrivalRate, RequestSizes
from dynofa_ros.manager.reversal_budget import ReversalBudget
from dynofa_ros.manager.runtime_manager import RuntimeManager
from dynofa_ros.manager.sensor_times import SensorTimes
from dynofa_ros.manager.state import State
from dynofa_ros.manager.thermal_guard import ThermalGuard
from dynofa_ros.manager.trial import Trials
from dynofa_ros.messages import CONSTANTS, MESSAGES, Header, ManagerState

FORMAT_VERSION = 1
MOST_BYTES = 1 << 24  # of the JSON text

_CLASSES: dict[str, type] = MESSAGES | {
    cls.__name__: cls
    for cls in (
        *(ActuatorGuard, AlternativesTimer, AppCommand, AppEstimator, AppForecast, AppState),
        *(ArrivalRate, Battery, BumplessStart, Choice, Clocks, CommandBook, Feedback, Forecast),
        *(EntryError, FrameRate, Header, Hysteresis, LibraryErrors, LimitFault, Loads),
        *(MarginEstimator, MissAlarm, Overhead, Rise),
        *(Parameters, Plan, PowerFeedback, PowerGuard, PowerTables, Refusal, Refusals, RequestSizes),
        *(ReversalBudget, Ripple, RuntimeManager, SensorTimes, SlowdownFilter, State, TemperatureFeedback),
        *(ThermalGuard, Trace, Trials, Window),
    )
}
_ENUMS: dict[str, type[Enum]] = {enum.__name__: enum for enum in CONSTANTS.values()}
# Pure functions of everything else.
_CACHES: dict[type, frozenset[str]] = {
    State: frozenset({"levels", "writable", "_clocks_of", "_drifts"}),
    AppState: frozenset(
        {"menu", "menu_key", "tables", "_index", "_index_of", "_clusters", "_clusters_of", "_sized"}
        | {"_sized_of", "_usable", "command", "command_of"}
    ),
    Hysteresis: frozenset({"conceded"}),
    PowerTables: frozenset({"_tables", "_constants_w"}),
    Window: frozenset({"_ordered"}),
}
_PLAIN = frozenset({bool, int, str, type(None)})
_SEQUENCES: dict[str, Callable[[Iterable[Any]], Any]] = {
    cls.__name__: cls for cls in (list, tuple, set, frozenset)
}


def snapshot(manager: RuntimeManager) -> ManagerState:
    """The state of a manager between two steps. Raises TypeError for an object of an unknown class."""
    manager.find_binding()
    encoder = _Encoder()
    root = encoder.value(manager)
    document = {
        "classes": {name: _attributes(_CLASSES[name]) for name in sorted(encoder.classes)},
        "manager": root,
    }
    text = json.dumps(document, separators=(",", ":"), check_circular=False)
    packed = b64encode(zlib.compress(text.encode(), 3)).decode()
    return ManagerState(manager.steps, FORMAT_VERSION, packed, header=Header(manager.last_ns or 0))


def restore(message: ManagerState) -> RuntimeManager:
    """A manager that takes the next step as the one of the snapshot does.

    Raises ValueError, in one line, for a snapshot that is damaged or of another version.
    """
    name = f"the snapshot of the manager after step {message.step_number}"
    if message.format_version != FORMAT_VERSION:
        raise ValueError(
            f"{name} has format {message.format_version}, this version of the package reads {FORMAT_VERSION}"
        )
    try:
        document = json.loads(_unpacked(message.state))
        classes = document["classes"]
        for known, attributes in classes.items():
            if known not in _CLASSES or attributes != list(_attributes(_CLASSES[known])):
                raise ValueError(f"{known} is another one in this version of the package")
        manager = _Decoder(frozenset(classes)).value(document["manager"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise ValueError(f"{name} is damaged or of another version: {error}") from error
    if not isinstance(manager, RuntimeManager) or manager.steps != message.step_number:
        raise ValueError(f"{name} is damaged: it holds something else")
    return manager


def _unpacked(text: str) -> bytes:
    inflate = zlib.decompressobj()
    found = inflate.decompress(b64decode(text, validate=True), MOST_BYTES)
    if not inflate.eof:
        raise ValueError("it is cut off" if len(found) < MOST_BYTES else "it is too long")
    return found


@cache
def _attributes(cls: type) -> tuple[str, ...]:
    """Names of what is written of an object."""
    if is_dataclass(cls):
        names: Iterable[str] = (f.name for f in fields(cls))
    else:
        names = vars(RuntimeManager() if cls is RuntimeManager else Window(1))
    return tuple(name for name in names if name not in _CACHES.get(cls, ()))


class _Encoder:
    """``classes``: names of those met."""

    def __init__(self) -> None:
        self.classes: set[str] = set()
        self._numbers: dict[int, int] = {}  # of objects and other NaNs, by id: all of them are in use

    def value(self, item: Any) -> Any:
        kind = type(item)
        if kind in _PLAIN:
            return item
        if kind is float:
            return item if item == item else self._nan(item)
        name = kind.__name__
        if _CLASSES.get(name) is kind:
            return self._object(name, kind, item)
        if kind is list or kind is tuple:
            return [name, *map(self.value, item)]
        if kind is dict or kind is Counter:
            return [name, *(self.value(part) for pair in item.items() for part in pair)]
        if kind is set or kind is frozenset:
            return [name, *map(self.value, sorted(item))]
        if kind is deque:
            return [name, item.maxlen, *map(self.value, item)]
        if _ENUMS.get(name) is kind:
            return [name, item.value]
        raise TypeError(f"{kind.__module__}.{name} cannot be part of a snapshot of the manager")

    def _object(self, name: str, kind: type, item: Any) -> list[Any]:
        met = self._met(item)
        if met is not None:
            return met
        self.classes.add(name)
        values, written = vars(item), [name]
        for attribute in _attributes(kind):
            value = values[attribute]
            written.append(value if type(value) in _PLAIN else self.value(value))
        return written

    def _nan(self, item: float) -> list[Any]:
        return ["nan"] if item is math.nan else self._met(item) or ["other nan"]

    def _met(self, item: object) -> list[Any] | None:
        """What stands for an object that was met before; None for a new one, which gets the next number."""
        number = self._numbers.get(id(item))
        if number is not None:
            return ["same", number]
        self._numbers[id(item)] = len(self._numbers)
        return None


class _Decoder:
    """``classes``: names in the head of the document."""

    def __init__(self, classes: frozenset[str]) -> None:
        self._classes = classes
        self._numbered: list[Any] = []

    def value(self, item: Any) -> Any:
        if type(item) is float or type(item) in _PLAIN:
            return item
        kind, *parts = item
        if kind in self._classes:
            return self._object(_CLASSES[kind], parts)
        if kind == "nan":
            return math.nan
        if kind == "other nan":
            self._numbered.append(float("nan"))
            return self._numbered[-1]
        if kind == "same":
            return self._numbered[parts[0]]
        if kind in _ENUMS:
            return _ENUMS[kind](parts[0])
        if kind == "deque":
            return deque(map(self.value, parts[1:]), maxlen=parts[0])
        values = map(self.value, parts)
        if kind in ("dict", "Counter"):
            pairs = dict(zip(values, values, strict=True))
            return pairs if kind == "dict" else Counter(pairs)
        return _SEQUENCES[kind](values)

    def _object(self, cls: type, parts: list[Any]) -> Any:
        made: Any = object.__new__(cls)  # also of a frozen dataclass
        self._numbered.append(made)
        values = vars(made)
        values.update(zip(_attributes(cls), map(self.value, parts), strict=True))
        if cls is Window:
            values["_ordered"] = sorted(values["_newest"])
        elif cls in _CACHES:
            values.update(_empty(cls))
        if hasattr(made, "__post_init__"):
            made.__post_init__()
        return made


def _empty(cls: type) -> dict[str, Any]:
    """The caches of a new object of a dataclass."""
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(cls)
        if f.name in _CACHES[cls]
    }
