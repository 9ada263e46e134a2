"""What happens in a scene: applications come and go, and the events of its timeline."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dynofa_ros.manager.types import Departure, SubnetCondition, SubnetLibrary
from dynofa_ros.simulation.application import Robot
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
    for robot in sim.robots.values():
        sim.at(robot.app.from_s, partial(_join, sim, robot))
        if robot.app.until_s < sim.scene.duration_s:
            sim.at(robot.app.until_s, partial(_leave, sim, robot))
    for event in sim.scene.timeline:
        sim.at(event.at_s, partial(_happen, sim, event))


def _join(sim: Simulation, robot: Robot) -> None:
    robot.present = True
    sim.log.knobs.append((sim.now_s, robot.name, robot.current))
    sim.publish(f"perception/{robot.name}/targets", robot.targets)
    _publish_library(sim, robot)
    sim.publish(f"perception/{robot.name}/subnet_state", robot.status(SubnetCondition.APPLIED))
    sim.await_image(robot)


def _leave(sim: Simulation, robot: Robot) -> None:
    sim.log.frames += robot.late(sim.now_s)
    robot.present = False
    for processor in sim.plant.processors.values():
        for job in [job for job in processor.jobs if job.app == robot.name]:
            processor.finish(job, sim.now_s)
            sim.plant.occupy(processor)
    sim.publish(f"perception/{robot.name}/targets", Departure(robot.name))
    sim.ask_for_step()


def _publish_library(sim: Simulation, robot: Robot) -> None:
    sim.publish(f"perception/{robot.name}/library", SubnetLibrary(robot.name, robot.library))
    sim.ask_for_step()


def _happen(sim: Simulation, event: Event) -> None:
    if isinstance(event, NewTargets):
        sim.robots[event.targets.app].targets = event.targets
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
    for robot in sim.robots.values():
        left = tuple(e for e in robot.app.usable if not taken or e.processor != event.processor)
        robot.library = left or robot.app.usable
        if robot.present:
            _publish_library(sim, robot)
