"""Factories of the manager's tests: a manager that is stepped by hand, and simulated robots of one kind."""

from __future__ import annotations

from simulated_robot import SECOND, Plant, PlantApp, make_library, published

from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Input, Monitors, Parameters
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import AppTargets

START = 1_000 * SECOND


class Bench:
    """Steps a manager by hand, 0.2 s apart."""

    def __init__(self, *first: object, parameters: Parameters | None = None) -> None:
        self.manager = RuntimeManager()
        self.now_ns = START
        self.parameters = parameters or Parameters()
        self.sequence = 0
        if first:
            self.step(*first)

    def step(self, *messages: object, after_s: float = 0.2) -> Decision:
        self.now_ns += int(after_s * SECOND)
        inputs = []
        for message in published(messages):
            self.sequence += 1
            inputs.append(Input("perception/front/t", self.sequence, message))  # type: ignore[arg-type]
        return self.manager.step(self.now_ns, Monitors(tuple(inputs), self.parameters))


FRONT = AppTargets("front", 60.0)


def one_app(targets: AppTargets = FRONT, **arguments: object) -> tuple[Plant, PlantApp]:
    """A robot with one application; ``arguments`` of the plant."""
    app = PlantApp(targets, make_library(targets.app))
    return Plant(RuntimeManager(), [app], **arguments), app  # type: ignore[arg-type]


def settled(
    *targets: AppTargets, parameters: Parameters | None = None, seconds: float = 6.0
) -> tuple[Decision, Plant]:
    """The decision that a robot with these applications has come to after some seconds."""
    apps = [PlantApp(t, make_library(t.app), camera_hz=t.rate_hz) for t in targets]
    plant = Plant(RuntimeManager(), apps, parameters=parameters or Parameters())
    plant.run(seconds)
    return plant.decisions[-1], plant
