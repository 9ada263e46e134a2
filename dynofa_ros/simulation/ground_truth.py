"""The truth of a running simulation, for clairvoyant policies: implements ``scene.Knowledge``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynofa_ros.simulation.application import Robot
from dynofa_ros.simulation.plant import Plant
from dynofa_ros.simulation.scene import Noise, Scene


@dataclass(frozen=True)
class Insight:
    """See ``scene.Knowledge`` for the methods."""

    scene: Scene
    plant: Plant
    robots: Mapping[str, Robot]

    def slowdown(self, app: str, processor: str) -> float:
        return self.robots[app].trace.bias[processor] * self.plant.processors[processor].slowdown

    def noise(self) -> Noise:
        return self.scene.noise

    def next_noise(self, app: str) -> float:
        robot = self.robots[app]
        index = robot.next_image if robot.waiting is None else robot.waiting
        noise = robot.trace.noise
        return noise[min(index, len(noise) - 1)] if noise else 1.0

    def overhead_ms(self, app: str) -> float:
        return self.robots[app].app.overhead_ms

    def outside(self, processor: str) -> float:
        return self.plant.outside(processor)

    def temperature_c(self) -> float:
        return self.plant.device.temperature_c

    def energy_j(self) -> float:
        return self.plant.device.energy_j
