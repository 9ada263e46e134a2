"""Sentences: a manager that sees raw times, one that sees them at reference size, and one that grants a set.

The library is the shipped one (`scenarios.backbone_library`), accuracy is BLEU / 100. Lengths are true
ones (`scene.SENTENCES`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import pytest

from dynofa_ros.evaluation.policies import make_policy
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.scenarios import backbone_library, scenes
from dynofa_ros.messages import InferenceMonitor, SubnetLibrary
from dynofa_ros.simulation.application import QUEUE
from dynofa_ros.simulation.log import FrameRecord, Run
from dynofa_ros.simulation.noise import draw
from dynofa_ros.simulation.policy import Command, Observation
from dynofa_ros.simulation.scene import Scene
from dynofa_ros.simulation.simulator import simulate

LIBRARY = backbone_library()


def sentences(rate_hz: float, duration_s: float, latency_target_ms: float = 250.0) -> Scene:
    """As S12, at another rate."""
    scene = next(s for s in scenes(["S12"]) if s.name == "S12 4 Hz")
    (app,) = scene.apps
    targets = replace(app.targets, rate_hz=rate_hz, latency_target_ms=latency_target_ms)
    return replace(scene, apps=(replace(app, targets=targets),), duration_s=duration_s)


@dataclass
class Blind(ManagerPolicy):
    """A manager that is not shown sizes. at_reference: times are brought to the reference size instead."""

    at_reference: bool = False

    def step(self, now_s: float, observation: Observation) -> Command | None:
        return super().step(
            now_s,
            replace(
                observation,
                inputs=tuple(replace(i, message=self._blinded(i.message)) for i in observation.inputs),
            ),
        )

    def _blinded(self, message: object) -> object:
        if isinstance(message, SubnetLibrary):
            return replace(message, entries=tuple(replace(e, reference_size=0.0) for e in message.entries))
        if isinstance(message, InferenceMonitor) and self.at_reference:
            shorter_ms = message.inference_ms - message.normalized_ms
            return replace(
                message, latency_ms=message.latency_ms - shorter_ms, inference_ms=message.normalized_ms
            )
        return message


@dataclass(frozen=True)
class Figures:
    requests: int
    missed: float
    accuracy: float
    used: Counter[str]

    @classmethod
    def of(cls, run: Run, from_s: float = 5.0) -> Figures:
        frames = [f for f in run.frames if f.arrived_s > from_s]
        answered = [f for f in frames if f.monitor is not None]
        return cls(
            len(frames),
            float(np.mean([f.missed for f in frames])),
            float(np.mean([f.accuracy for f in answered])),
            Counter(f.subnet_id for f in answered),
        )


@pytest.mark.slow
@pytest.mark.parametrize(("rate_hz", "duration_s"), [(4.0, 250.0), (0.3, 500.0)])
def test_a_choice_per_request_is_more_accurate_at_no_more_misses(rate_hz: float, duration_s: float) -> None:
    scene = sentences(rate_hz, duration_s)
    policies = {"raw": Blind(), "at reference": Blind(at_reference=True), "per request": ManagerPolicy()}
    found = {name: Figures.of(simulate(scene, policy, 1)) for name, policy in policies.items()}
    for name, figures in found.items():
        print(f"{rate_hz} Hz, {name}: {figures}")
    raw, reference, choice = found.values()
    assert choice.missed < 0.02  # the tolerance
    assert choice.missed <= min(raw.missed, reference.missed) + 0.005
    if rate_hz > 1.0:
        assert len(choice.used) == len(LIBRARY)
        assert choice.accuracy > max(raw.accuracy, reference.accuracy) + 0.01
    else:
        assert reference.missed > 0.05  # what its accuracy costs
        assert len(choice.used) > len(LIBRARY) / 2
        assert choice.accuracy > raw.accuracy - 0.005, "which misses more"
        assert raw.missed > choice.missed + 0.03


def test_short_sentences_get_larger_networks() -> None:
    run = simulate(sentences(4.0, 120.0), ManagerPolicy(), 2)
    trace = draw(run.scene, 2)["translator"]
    ranks = {e.id: n for n, e in enumerate(LIBRARY)}
    answered = [f for f in run.frames if f.monitor and f.monitor.queue_wait_ms < 1.0 and f.arrived_s > 5.0]
    sizes = [trace.sizes[f.index] for f in answered]
    assert np.corrcoef(sizes, [ranks[f.subnet_id] for f in answered])[0, 1] < -0.5


def test_monitors_carry_the_size_and_the_time_at_reference_size() -> None:
    run = simulate(sentences(2.0, 30.0), ManagerPolicy(), 3)
    trace = draw(run.scene, 3)["translator"]
    frames = [f for f in run.frames if f.monitor is not None]
    assert [f.monitor.request_size for f in frames if f.monitor] == [trace.sizes[f.index] for f in frames]
    longest = max(frames, key=lambda f: trace.sizes[f.index])
    assert longest.monitor is not None
    assert longest.monitor.normalized_ms < longest.monitor.inference_ms


def test_requests_wait_in_order_and_a_full_queue_refuses() -> None:
    run = simulate(sentences(40.0, 10.0, latency_target_ms=100.0), ManagerPolicy(), 4)
    answered = [f for f in run.frames if isfinite(f.answered_s)]
    assert [f.index for f in answered] == sorted(f.index for f in answered)
    refused = [f for f in run.frames if f.monitor is None]
    assert refused and not any(f.thinned for f in refused)
    assert max(_waiting(run.frames)) <= QUEUE


@pytest.mark.slow
def test_networks_of_different_kinds_share_a_board_under_load_and_cap() -> None:
    (scene,) = scenes(["S14"])
    run = simulate(scene, make_policy("ours"), 1)

    def of(app: str, from_s: float, to_s: float) -> list[FrameRecord]:
        return [f for f in run.frames if f.app == app and from_s < f.arrived_s < to_s]

    def accuracy(app: str, from_s: float, to_s: float) -> float:
        return float(np.mean([f.accuracy for f in of(app, from_s, to_s) if f.monitor]))

    for app in ("camera", "translator", "parser"):
        frames = of(app, 1.0, 120.0)
        missed = np.mean([f.missed for f in frames])
        print(f"{app}: {len(frames)} requests, missed {missed:.3f}, ", end="")
        print([round(accuracy(app, *phase), 4) for phase in ((1, 30), (31, 50), (62, 90), (92, 120))])
        assert missed < 0.03
    assert accuracy("translator", 31, 50) < accuracy("translator", 1, 30) - 0.01  # load on the CPU
    assert accuracy("camera", 62, 90) < accuracy("camera", 1, 30)  # the cap
    assert accuracy("camera", 92, 120) == pytest.approx(accuracy("camera", 1, 30), abs=0.002)


def _waiting(frames: list[FrameRecord]) -> list[int]:
    """How many requests wait or are in work when one is answered."""
    answered = [f for f in frames if isfinite(f.answered_s)]
    return [sum(f.arrived_s < done.answered_s < f.answered_s for f in answered) - 1 for done in answered]
