"""What a demo runs, as data: its applications with their tasks, rates and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynofa_ros.application.task import IMAGE, TEXT, tasks
from dynofa_ros.demo.signs import SCENE_HEIGHT, SCENE_WIDTH
from dynofa_ros.messages import MISS_TOLERANCE
from dynofa_ros.topics import DEMO, LANGUAGE, PERCEPTION

NAMES = ("front", "rear", "left", "right", "up", "down")  # of several cameras


CAMERA_MODULE = "camera_node"


@dataclass(frozen=True)
class Source:
    """What sends requests: the node demo/<name> of a module of this folder, with parameters of its own."""

    module: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """`demo/camera`."""
        return f"{DEMO}/{self.name}"


@dataclass(frozen=True)
class DemoApp:
    """An application of the demo.

    rate_hz: requests per second. largest_ms: the emulated device answers with the largest sub-network in this
    time, at its top clock; a text of the usual length. options: of the task.
    """

    name: str
    task: str
    source: Source
    rate_hz: float
    latency_target_ms: float
    largest_ms: float
    miss_tolerance: float = 0.5 * MISS_TOLERANCE  # noise drifts on a computer with other things to do
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """`perception/front`."""
        return f"{LANGUAGE if self.task in tasks(TEXT) else PERCEPTION}/{self.name}"

    @property
    def files(self) -> tuple[str, str]:
        """Names of the space and of the library that the package has for it."""
        task = (tasks(IMAGE) | tasks(TEXT))[self.task]
        return task.demo({option.name: option.default for option in task.options} | dict(self.options))


CAMERA = Source(CAMERA_MODULE, "camera")
# Scenes come as they are drawn, which is what the detector was trained on.
SCENES = Source(CAMERA_MODULE, "scenes", {"scenes": True, "width": SCENE_WIDTH, "height": SCENE_HEIGHT})
SPEAKER = Source("speaker_node", "speaker", {"parsers": "parser"})

CLASSIFIER = DemoApp("front", "classification", CAMERA, 15.0, 65.0, 45.0)
DETECTOR = DemoApp("detector", "detection", SCENES, 5.0, 180.0, 110.0, options={"score_threshold": 0.05})
TRANSLATOR = DemoApp("translator", "translation", SPEAKER, 2.0, 350.0, 140.0, 0.02, {"target": "de"})
PARSER = DemoApp("parser", "translation", SPEAKER, 2.0, 400.0, 44.0, 0.02, {"target": "intent"})

DEMOS: Mapping[str, tuple[DemoApp, ...]] = {
    "classification": (CLASSIFIER,),
    "detection": (DETECTOR,),
    "translation": (TRANSLATOR, PARSER),
}
DEFAULT_TASKS = ("detection", "translation")


def demo_apps(tasks: Sequence[str], number: int | None, rate_hz: float | None) -> Sequence[DemoApp]:
    """Applications of a demo: all of one task, or the first one of each of several tasks.

    number: of cameras, None = as it has. rate_hz: of the first application and of all others of its task.
    """
    apps = DEMOS[tasks[0]] if len(tasks) == 1 else tuple(DEMOS[task][0] for task in tasks)
    if number is not None:
        apps = tuple(replace(apps[0], name=name) for name in NAMES[:number])
    if rate_hz is None:
        return apps
    return [replace(app, rate_hz=rate_hz) if app.task == apps[0].task else app for app in apps]
