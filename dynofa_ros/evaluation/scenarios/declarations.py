"""Scenes from their declarations in config/scenarios.yaml."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from math import inf
from typing import Any, Literal

import msgspec

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.scenarios.parts import (
    OVERHEAD_MS,
    clustered_library,
    scaled,
    vision_library,
)
from dynofa_ros.evaluation.scenarios.translation import translation_library
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import MISS_TOLERANCE, AppTargets, DomainFrequency, SubnetEntry
from dynofa_ros.paths import share_file
from dynofa_ros.simulation import scene as parts
from dynofa_ros.simulation.scene import App, Event, NewTargets, Scene

NOISES = {"none": parts.NONE, "isolated": parts.ISOLATED, "contended": parts.CONTENDED}
EVENTS: dict[str, Any] = {  # but for targets
    "load": parts.Load,
    "parameters": parts.NewParameters,
    "mode": parts.NewMode,
    "surroundings": parts.Surroundings,
    "reserved": parts.Reserved,
    "fault": parts.Fault,
}


class AppRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An application; see the head of the file."""

    name: str
    rate_hz: float
    latency_target_ms: float
    accuracy_target: float
    accuracy_floor: float | None = None
    miss_tolerance: float = MISS_TOLERANCE
    priority: int = 0
    library: Literal["vision", "translation", "clusters"] = "vision"
    stretched: dict[str, float] = {}
    mapping: str = "gpu"
    movable: bool = True
    start: str | None = None
    from_s: float = 0.0
    until_s: float = inf
    poisson: bool = False


class SceneRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scene; names as in ``simulation.scene.Scene``."""

    name: str
    title: str
    duration_s: float
    feasible: tuple[tuple[float, float], ...]
    apps: tuple[AppRecord, ...]
    timeline: tuple[dict[str, dict[str, Any]], ...] = ()
    steps: tuple[float, ...] | Literal["timeline"] = ()
    parameters: Parameters = Parameters()
    mode: str | None = None
    noise: Literal["none", "isolated", "contended"] = "isolated"
    bias: float = 0.03
    sensors: dict[str, float] = {}
    temperature_c: float | None = None
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def declared() -> dict[str, tuple[SceneRecord, ...]]:
    """The scenes of every scenario; a variant has what it does not say from the first one.

    Raises FileNotFoundError, or msgspec.ValidationError naming the key.
    """
    path = share_file("config", "scenarios.yaml")
    raw = msgspec.yaml.decode(path.read_bytes(), type=dict[str, list[dict[str, Any]]])
    merged = {name: [{**scenes[0], **scene} for scene in scenes] for name, scenes in raw.items()}
    return msgspec.convert(merged, dict[str, tuple[SceneRecord, ...]])


def make_scene(record: SceneRecord, board: Board) -> Scene:
    """The scene on a board. Raises ValueError naming an event that is none."""
    apps = tuple(_app(one, board) for one in record.apps)
    timeline = tuple(_event(kind, raw, apps) for event in record.timeline for kind, raw in event.items())
    noisy = msgspec.structs.replace(board, sensors=msgspec.structs.replace(board.sensors, **record.sensors))
    return Scene(
        name=record.name,
        title=record.title,
        board=board,
        apps=apps,
        duration_s=record.duration_s,
        timeline=timeline,
        parameters=record.parameters,
        mode=record.mode,
        noise=NOISES[record.noise],
        bias=record.bias,
        feasible=record.feasible,
        steps=tuple(e.at_s for e in timeline) if record.steps == "timeline" else record.steps,
        real_board=noisy if record.sensors else None,
        temperature_c=record.temperature_c,
        notes=record.notes,
    )


def _app(record: AppRecord, board: Board) -> App:
    floor = record.accuracy_target if record.accuracy_floor is None else record.accuracy_floor
    return App(
        name=record.name,
        targets=AppTargets(
            app=record.name,
            latency_target_ms=record.latency_target_ms,
            accuracy_target=record.accuracy_target,
            accuracy_floor=floor,
            rate_hz=record.rate_hz,
            miss_tolerance=record.miss_tolerance,
            priority=record.priority,
        ),
        library=_library(record, board),
        mapping=record.mapping,
        movable=record.movable,
        start=record.start,
        from_s=record.from_s,
        until_s=record.until_s,
        poisson=record.poisson,
        overhead_ms=OVERHEAD_MS,
    )


def _library(record: AppRecord, board: Board) -> tuple[SubnetEntry, ...]:
    if record.library == "translation":
        reference = (DomainFrequency("gpu", board.domains["gpu"].frequencies_hz[-1]),)
        return translation_library("gpu", reference)
    entries = vision_library() if record.library == "vision" else clustered_library()
    for name, wanted_ms in record.stretched.items():
        entries = scaled(entries, wanted_ms / next(e.latency_ms for e in entries if e.id == name))
    return entries


def _event(kind: str, raw: dict[str, Any], apps: tuple[App, ...]) -> Event:
    if kind == "targets":
        before = next(app.targets for app in apps if app.name == raw["app"])
        changed = {**asdict(before), "accuracy_floor": raw["accuracy_target"], **raw}
        return NewTargets(float(raw["at_s"]), msgspec.convert(changed, AppTargets))
    if kind not in EVENTS:
        raise ValueError(f"unknown event '{kind}' (known: targets, {', '.join(EVENTS)})")
    event: Event = msgspec.convert(raw, EVENTS[kind])
    return event
