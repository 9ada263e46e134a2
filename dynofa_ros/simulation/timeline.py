"""What happens in a scene: applications come and go, and the events of its timeline."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dynofa_ros.manager.types import Departure, SubnetCondition, SubnetLibrary
from dynofa_ros.simulation.application import SimulatedApplication
from dynofa_ros.simulation.scene import (
    Event,
    Load,
    NewMode,
    NewParameters,
    NewTargets,
    Reserved,
    Surroundings,
)

if TYPE_CHECKING:
    from dynofa_ros.simulation.simulator import Simulation

RESERVED_UTILIZATION = 0.95


def schedule(sim: Simulation) -> None:
    """Everything that the scene has in store."""
    for app in sim.apps.values():
        sim.at(app.spec.from_s, partial(_join, sim, app))
        if app.spec.until_s < sim.scene.duration_s:
            sim.at(app.spec.until_s, partial(_leave, sim, app))
    for event in sim.scene.timeline:
        sim.at(event.at_s, partial(_happen, sim, event))


def _join(sim: Simulation, app: SimulatedApplication) -> None:
    app.present = True
    sim.log.knobs.append((sim.now_s, app.name, app.current))
    sim.publish(f"perception/{app.name}/targets", app.targets)
    _publish_library(sim, app)
    sim.publish(f"perception/{app.name}/subnet_state", app.status(SubnetCondition.APPLIED))
    sim.await_image(app)


def _leave(sim: Simulation, app: SimulatedApplication) -> None:
    sim.log.frames += app.late(sim.now_s)
    app.present = False
    for processor in sim.plant.processors.values():
        for job in [job for job in processor.jobs if job.app == app.name]:
            processor.finish(job, sim.now_s)
            sim.plant.occupy(processor)
    sim.publish(f"perception/{app.name}/targets", Departure(app.name))
    sim.ask_for_step()


def _publish_library(sim: Simulation, app: SimulatedApplication) -> None:
    sim.publish(f"perception/{app.name}/library", SubnetLibrary(app.name, app.library))
    sim.ask_for_step()


def _happen(sim: Simulation, event: Event) -> None:
    if isinstance(event, NewTargets):
        sim.apps[event.targets.app].targets = event.targets
        sim.publish(f"perception/{event.targets.app}/targets", event.targets)
        sim.ask_for_step()
    elif isinstance(event, NewParameters):
        sim.parameters = event.parameters
        sim.sample()  # from here on another cap holds
        sim.ask_for_step()
    elif isinstance(event, Load):
        sim.plant.set_load("load", event.processor, event.utilization, event.slowdown, sim.now_s)
    elif isinstance(event, NewMode):
        sim.change_clocks(partial(sim.plant.set_mode, event.mode, sim.now_s))
        sim.offer()
    elif isinstance(event, Surroundings):
        sim.plant.set_surroundings(event)
    elif isinstance(event, Reserved):
        _reserve(sim, event, taken=True)
        sim.at(event.until_s, partial(_reserve, sim, event, taken=False))
    else:
        sim.faults.add(event.kind)
        sim.at(event.until_s, partial(sim.repair, event.kind))


def _reserve(sim: Simulation, event: Reserved, *, taken: bool) -> None:
    utilization, slowdown = (RESERVED_UTILIZATION, event.slowdown - 1.0) if taken else (0.0, 0.0)
    sim.plant.set_load("reserved", event.processor, utilization, slowdown, sim.now_s)
    for app in sim.apps.values():
        left = tuple(e for e in app.spec.usable if not taken or e.processor != event.processor)
        app.library = left or app.spec.usable
        if app.present:
            _publish_library(sim, app)
