"""Sentences: a manager that sees raw times, one that sees them at reference size, and one that grants a set.

The library is that of a trained prototype on two x86 cores, ten times slower; accuracy is BLEU / 100. Lengths
are true ones (`scene.SENTENCES`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import pytest

from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.scenarios import default_board
from dynofa_ros.messages import AppTargets, InferenceMonitor, SubnetEntry, SubnetLibrary
from dynofa_ros.simulation.application import QUEUE
from dynofa_ros.simulation.log import FrameRecord, Run
from dynofa_ros.simulation.noise import draw
from dynofa_ros.simulation.policy import Command, Observation
from dynofa_ros.simulation.scene import SENTENCES, App, Scene
from dynofa_ros.simulation.simulator import simulate

# id, fixed and per token ms, BLEU / 100
PROTOTYPE = (
    ("e2d1", 0.69, 0.228, 0.324),
    ("e2d2", 0.83, 0.334, 0.338),
    ("e3d3", 1.19, 0.425, 0.349),
    ("e4d3", 1.69, 0.503, 0.365),
    ("e4d4", 1.91, 0.608, 0.377),
    ("e4d4_beam4", 2.63, 0.806, 0.392),
)
SLOWER, REFERENCE = 10.0, 10.0


def entry(name: str, fixed_ms: float, token_ms: float, accuracy: float) -> SubnetEntry:
    own = fixed_ms + REFERENCE * token_ms
    ms = SLOWER * own
    return SubnetEntry(
        name,
        "cpu",
        accuracy=accuracy,
        latency_ms=ms,
        alpha_ms=0.1 * ms,
        beta_ms=0.9 * ms,
        fixed_share=fixed_ms / own,
        reference_size=REFERENCE,
    )


LIBRARY = tuple(entry(*row) for row in PROTOTYPE)


def sentences(rate_hz: float, duration_s: float, latency_target_ms: float = 250.0) -> Scene:
    targets = AppTargets("translator", latency_target_ms, rate_hz=rate_hz, miss_tolerance=0.02)
    app = App("translator", targets, LIBRARY, mapping="cpu", poisson=True, queued=True, sizes=SENTENCES)
    return Scene("sentences", "", default_board(), (app,), duration_s, mode="MODE_15W_6CORE")


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
    assert choice.missed < 0.02
    assert choice.missed <= min(raw.missed, reference.missed)
    assert len(choice.used) == len(LIBRARY)
    if rate_hz > 1.0:
        assert choice.accuracy > max(raw.accuracy, reference.accuracy) + 0.01
    else:
        assert reference.missed > 0.05  # what its accuracy costs
        assert choice.accuracy > 0.37


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


def _waiting(frames: list[FrameRecord]) -> list[int]:
    """How many requests wait or are in work when one is answered."""
    answered = [f for f in frames if isfinite(f.answered_s)]
    return [sum(f.arrived_s < done.answered_s < f.answered_s for f in answered) - 1 for done in answered]
