"""The truth of a running simulation at the present instant, for oracles only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynofa_ros.device.board import processor_of
from dynofa_ros.simulation.application import SimulatedApplication
from dynofa_ros.simulation.plant import Plant
from dynofa_ros.simulation.scene import Noise, Scene


@dataclass(frozen=True)
class GroundTruth:
    """What nobody can measure. ``scene``: what is simulated, with its timeline."""

    scene: Scene
    plant: Plant
    apps: Mapping[str, SimulatedApplication]

    def slowdown(self, app: str, processor: str) -> float:
        """True time of an application on a processor or cluster / time by its library: bias and outside
        load."""
        bias = self.apps[app].trace.bias
        return bias[processor_of(processor) or processor] * self.plant.processors[processor].slowdown

    def noise(self) -> Noise:
        """Noise in force."""
        return self.scene.noise

    def next_noise(self, app: str) -> float:
        """Factor on the inference of the frame that the application will answer next."""
        one = self.apps[app]
        index = one.next_image if one.waiting is None else one.waiting
        noise = one.trace.noise
        return noise[min(index, len(noise) - 1)] if noise else 1.0

    def overhead_ms(self, app: str) -> float:
        """Mean overhead of a frame."""
        return self.apps[app].spec.overhead_ms

    def outside(self, processor: str) -> float:
        """Utilisation from outside of the domains of a processor."""
        return self.plant.outside(processor)

    def temperature_c(self) -> float:
        """True temperature."""
        return self.plant.device.temperature_c

    def energy_j(self) -> float:
        """True energy of the module since the start."""
        return self.plant.device.energy_j
