"""The runtime manager of this package, fed as `nodes/manager_node.py` feeds it, whole and restricted.

- ``ours``: RuntimeManager as it is: every message in the order of arrival, a step each control_period_s and
  at once on events (targets, library, parameters, capabilities, departure, a missed deadline, a frame that
  waits for the one before it).
- ``ours_subnet`` = B7 (app-only): sub-networks alone. Clocks belong to B4's governors (the capabilities say
  that no clock can be written; they are still read back), the processor is fixed (the library is cut down
  to it).
- ``ours_dvfs``: clocks alone. Sub-network (`profile.static_entry`) and processor are fixed.
- ``ours_mapping``: processors alone. Clocks by B4's governors; the static sub-network, elsewhere its twin
  (`profile.twin`).
- B8 (sys-only): processors and clocks; the sub-network as in ``ours_mapping``.

The restrictions change what the manager sees, never the manager. Processors that no policy sets have B4's
governors from the start in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dynofa_ros.evaluation.policies.governors import JETSON, present_governors
from dynofa_ros.evaluation.policies.profile import on_processor, static_entry, twin
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Input, Message, Monitors
from dynofa_ros.manager.placement import Key, entry_key, place_of
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import AppTargets, DeviceCapabilities, SubnetLibrary
from dynofa_ros.simulation.application import default_entry, knob_of
from dynofa_ros.simulation.policy import Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import App, Scene


@dataclass(frozen=True)
class Freedom:
    """Which knobs the manager may turn."""

    subnet: bool = True
    clocks: bool = True
    mapping: bool = True


ALL = Freedom()
SUBNET_ONLY = Freedom(clocks=False, mapping=False)
DVFS_ONLY = Freedom(subnet=False, mapping=False)
MAPPING_ONLY = Freedom(subnet=False, clocks=False)
SYSTEM_ONLY = Freedom(subnet=False)


@dataclass
class ManagerPolicy(Policy):
    """RuntimeManager behind the interface of a policy. ``decision``: its last. ``aim``: factor on every
    miss_tolerance that the manager sees.

    It does nothing on a frame: the monitor message is among the inputs of the next step, which a miss causes
    at once.
    """

    name: str = "ours"
    freedom: Freedom = ALL
    aim: float = 1.0
    manager: RuntimeManager = field(default_factory=RuntimeManager)
    decision: Decision | None = None
    _allowed: dict[str, frozenset[Key]] = field(default_factory=dict)
    _period_s: float = 0.2

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        """What runs until the first decision: the nodes' own default, or the static sub-network."""
        self._period_s = scene.parameters.control_period_s
        self._allowed = {app.name: _allowed(scene, app, self.freedom) for app in scene.apps}
        pick = default_entry if self.freedom.subnet else lambda app: static_entry(scene, app)
        knobs = {app.name: knob_of(pick(app)) for app in scene.apps}
        return Command(knobs=knobs, governors=present_governors(scene, JETSON))

    def wants(self) -> float:
        """The control period in force."""
        return self._period_s

    def step(self, now_s: float, observation: Observation) -> Command | None:
        """One step of the manager."""
        self._period_s = observation.parameters.control_period_s
        inputs = observation.inputs
        if self.freedom != ALL or self.aim != 1.0:
            inputs = tuple(replace(item, message=self._restricted(item)) for item in inputs)
        now_ns = round(now_s * 1e9)
        self.decision = self.manager.step(now_ns, Monitors(inputs, observation.parameters))
        return command_of(self.decision)

    def _restricted(self, item: Input) -> Message:
        message = item.message
        if isinstance(message, SubnetLibrary):
            allowed = self._allowed[message.app]
            kept = tuple(e for e in message.entries if entry_key(e) in allowed)
            return replace(message, entries=kept or message.entries)
        if isinstance(message, AppTargets):
            return replace(message, miss_tolerance=min(0.5, self.aim * message.miss_tolerance))
        if isinstance(message, DeviceCapabilities) and not self.freedom.clocks:
            return replace(message, domains=tuple(replace(d, can_write=False) for d in message.domains))
        return message


def command_of(decision: Decision) -> Command | None:
    """The knobs of a decision that must be turned now; None if there are none."""
    bands = decision.dvfs.bands if decision.dvfs else ()
    if not decision.commands and not bands:
        return None
    knobs = {command.app: command for command in decision.commands}
    return Command(knobs=knobs, bands=bands, decision_id=decision.decision_id)


def _allowed(scene: Scene, app: App, freedom: Freedom) -> frozenset[Key]:
    """Entries that the manager sees."""
    processors = {place_of(e) for e in app.usable} if freedom.mapping else {app.mapping}
    own = {name: on_processor(app.usable, name) for name in processors}
    if freedom.subnet:
        return frozenset(entry_key(e) for entries in own.values() for e in entries)
    static = static_entry(scene, app)
    twins = [static if name == app.mapping else twin(static, entries) for name, entries in own.items()]
    return frozenset(entry_key(e) for e in twins if e is not None)
