"""B1 to B5: a static sub-network on a fixed processor, clocks by the governors of the kernel.

All five run the same sub-network (`profile.static_entry`), so that they differ in the clocks alone:

- B1 ``performance`` on every processor; B2 ``powersave`` (the lowest clock of the band found at start).
- B3 ``ondemand`` on the CPU, ``simple_ondemand`` (devfreq's own) on the GPU.
- B4 ``schedutil`` on the CPU, ``nvhost_podgov`` on the GPU: what a Jetson ships with.
- B5 B4's governors in an nvpmodel mode: the 15 W mode with all cores (``B5``) and the 10 W mode with four
  (``B5_10w``); the sub-network is chosen for the top clock of that mode.

The NPU keeps the board's own governor, memory its clock. Settings of the governors:
``device.simulated.governors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynofa_ros.evaluation.policies.profile import differing, mapped_levels, static_entry
from dynofa_ros.messages import FrequencyBand, SubnetCommand
from dynofa_ros.simulation.application import knob_of
from dynofa_ros.simulation.policy import Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import Scene

PERFORMANCE = {"cpu": "performance", "gpu": "performance", "npu": "performance"}
POWERSAVE = {"cpu": "powersave", "gpu": "powersave", "npu": "powersave"}
ONDEMAND = {"cpu": "ondemand", "gpu": "simple_ondemand"}
JETSON = {"cpu": "schedutil", "gpu": "nvhost_podgov"}
MODE_15W, MODE_10W = "MODE_15W_6CORE", "MODE_10W_4CORE"


def present_governors(scene: Scene, governors: Mapping[str, str]) -> dict[str, str]:
    """The governors of the processors that a board has."""
    return {name: law for name, law in governors.items() if name in scene.board.processors}


@dataclass
class StaticPolicy(Policy):
    """Nothing changes after the start. ``floor``: lowest clock that the governors may take / top clock, of
    the processors that applications are mapped to (0 = as the board starts)."""

    name: str
    governors: Mapping[str, str]
    mode: str | None = None
    floor: float = 0.0
    _wanted: dict[str, SubnetCommand] = field(default_factory=dict)

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """Sub-network and governors. Raises ValueError for a mode that the board lacks."""
        self._wanted = {app.name: knob_of(static_entry(scene, app, self.mode)) for app in scene.apps}
        bands = []
        for levels in {app.mapping: mapped_levels(scene, app, self.mode) for app in scene.apps}.values():
            lowest, highest = levels.bands(round(self.floor * (len(levels) - 1))), levels.bands(-1)
            bands += [
                FrequencyBand(b.domain, b.min_hz, t.max_hz) for b, t in zip(lowest, highest, strict=True)
            ]
        governors = present_governors(scene, self.governors)
        return Command(self._wanted, tuple(bands) if self.floor else (), governors, self.mode)

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """Tells an application that has just arrived what to run."""
        return differing(self._wanted, observation.apps)
