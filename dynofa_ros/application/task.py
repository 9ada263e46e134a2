"""Base class of tasks: all that depends on what an application answers, one file per task.

The node asks its task; nothing else in the application, the manager or the device layer knows classes, boxes,
words or resolutions. A task is a subclass of `Task` with `@register_task`, in a file that `_FILES` names. It
supplies

- `name`, the value of the parameter `task`;
- `request`, the kind of its requests: IMAGE (BGR, uint8, H x W x 3, of any size) or TEXT (`Text`);
- `queue`, what requests wait in: by default the newest one wins;
- `size`, where the time depends on it: what the size of a request seems to be before it is answered;
- `outputs`, the topics of its results and their messages, and of views of them that are made only while
  somebody subscribes; `announcements`, what is latched on them from the start, such as the names of classes;
- `options`, parameters of its own, and `configure`, which follows them;
- `preprocess` (request -> tensors), `infer` (tensors -> outputs of the network, which may be
  several) and `postprocess` (outputs -> `Answer`: the results, and score and size for the monitor).
  `postprocess` gets the request too: boxes are in the pixels of the camera.

The time of each of the three is a stage of the monitor. A task that generates overrides `infer`: it calls the
network once per token and hands what it has so far to `emit`, which publishes it at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from dynofa_ros.application.worker import LatestSlot, Queue
from dynofa_ros.messages import Header
from dynofa_ros.supernet.engines.engine import Runner
from dynofa_ros.supernet.registry import DEMO_SPACE
from dynofa_ros.supernet.switching import Prepared
from dynofa_ros.supernet.weights import Weights
from dynofa_ros.topics import TOPICS, Topic

IMAGE, TEXT = "image", "text"
_FILES = ("classification", "detection", "translation")


@dataclass(frozen=True)
class Output:
    """A topic of results, each a dataclass of `messages`.

    sent_as: message types of other packages that take the place of ours, field by field. view: made only
    while somebody subscribes, see `Answer`. Both are left out where the type of the topic is not installed.
    """

    topic: Topic
    sent_as: Mapping[str, str] = field(default_factory=dict)
    view: bool = False


@dataclass(frozen=True)
class Option:
    """A parameter of a task; its type is that of the default."""

    name: str
    default: bool | int | float | str
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    dynamic: bool = True  # may change while the application runs


@dataclass(frozen=True)
class Text:
    """A request in words. cancelled: whether who asked does not want the answer any more."""

    text: str
    streamed: bool = False  # whether somebody reads what is generated so far
    cancelled: Callable[[], bool] = lambda: False


Views = Mapping[Topic, Callable[[Header], Any]]


@dataclass(frozen=True)
class Answer:
    """Results by topic, without their headers. score: how sure the network is, 0..1, NaN = not known.

    size: of the request, in the unit of the library's law, NaN = has none. views: by topic, what makes the
    ROS message of a view from the header of the request; called after the monitor, if somebody subscribes.
    """

    results: Mapping[Topic, Any]
    score: float
    size: float = math.nan
    views: Views = field(default_factory=dict)


Emit = Callable[[Mapping[Topic, Any]], None]


class Task(ABC):
    """One task with the weights of one application. Its methods are called in the inference thread."""

    name: ClassVar[str]
    request: ClassVar[str]
    outputs: ClassVar[tuple[Output, ...]] = ()
    options: ClassVar[tuple[Option, ...]] = ()
    queue: Callable[[], Queue] = LatestSlot
    queued: bool = False  # whether requests wait in order, and none gives way to another

    @classmethod
    def demo(cls, options: Mapping[str, Any]) -> tuple[str, str]:
        """Names of the space and of the library that the package has for it, with these options."""
        return DEMO_SPACE, DEMO_SPACE

    @abstractmethod
    def __init__(self, weights: Weights) -> None:
        """weights: of the supernet; they name what it was trained for. Raises ValueError if they do not."""

    def configure(self, options: Mapping[str, Any]) -> None:  # noqa: B027 - most follow none
        """Follow the options; called before the first request, and when they change.

        Raises ValueError for one that does not fit the weights.
        """

    def announcements(self) -> Mapping[Topic, Any]:
        """Messages by topic that are published once, when the application starts."""
        return {}

    def size(self, request: Any) -> float:
        """Size that a request seems to have, in any unit that grows with the library's; NaN = unknown."""
        return math.nan

    def preprocess(self, request: Any, network: Prepared[Any]) -> Any:
        """Tensors of a request; those of an image here. network: of what size."""
        return network.preprocess(request)

    def wanted(self, request: Any) -> bool:
        """Whether who asked still wants the answer: asked before `infer` and with each output that it emits.
        If not, the request gets none."""
        return True

    def infer(self, run: Runner, tensors: Any, emit: Emit) -> Any:
        """Outputs of the network that ``run`` is."""
        return run(tensors)

    @abstractmethod
    def postprocess(
        self, outputs: Any, request: Any, network: Prepared[Any], options: Mapping[str, Any]
    ) -> Answer:
        """The answer to a request. options: present values by name."""


_TASKS: dict[str, type[Task]] = {}
AnyTask = TypeVar("AnyTask", bound=type[Task])


def register_task(task: AnyTask) -> AnyTask:
    """Make a task known under its name."""
    _TASKS[task.name] = task
    return task


def tasks(request: str) -> dict[str, type[Task]]:
    """Every task with this kind of request, by name: those of `_FILES` in that order, then others."""
    own = {import_module(f"{__package__}.{name}").__name__: place for place, name in enumerate(_FILES)}
    known = sorted(_TASKS.values(), key=lambda task: own.get(task.__module__, len(own)))
    return {task.name: task for task in known if task.request == request}


def further_topics() -> tuple[Topic, ...]:
    """Topics of tasks that the table `topics` does not have: of types of other packages."""
    known = (*tasks(IMAGE).values(), *tasks(TEXT).values())
    return tuple(o.topic for task in known for o in task.outputs if o.topic not in TOPICS)
