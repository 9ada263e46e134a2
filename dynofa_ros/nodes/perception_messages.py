"""Messages of the perception node, built from plain values; every number is cast at this boundary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from dynofa_ros.application.networks import SubnetKey
from dynofa_ros.application.worker import Timing
from dynofa_ros.library.library import Library
from dynofa_ros.msg import (
    AppTargets,
    ClassHypothesis,
    Classification,
    DomainFrequency,
    InferenceMonitor,
    SubnetEntry,
    SubnetLibrary,
    SubnetState,
)

try:  # not part of every installation
    from vision_msgs.msg import Classification as VisionClassification
    from vision_msgs.msg import ObjectHypothesis
except ImportError:
    VisionClassification = None

COMPARABLE_MS = 10_000.0  # a frame older than this was recorded, or the camera has another clock


def classification(header: Header, results: Sequence[tuple[str, float]]) -> Classification:
    hypotheses = [ClassHypothesis(class_id=label, score=float(score)) for label, score in results]
    return Classification(header=header, results=hypotheses)


def vision_classification(header: Header, results: Sequence[tuple[str, float]]) -> Any:
    hypotheses = [ObjectHypothesis(class_id=label, score=float(score)) for label, score in results]
    return VisionClassification(header=header, results=hypotheses)


def end_to_end_ms(stamp: Time, now_ns: int) -> float:
    """Age of an image by the node's clock; NaN where the two clocks cannot be compared."""
    stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
    age_ms = (now_ns - stamp_ns) / 1e6
    return age_ms if stamp_ns > 0 and 0 <= age_ms < COMPARABLE_MS else math.nan


def monitor(
    *,
    app: str,
    header: Header,
    timing: Timing,
    key: SubnetKey,
    placement: tuple[str, int],
    decision_id: int,
    latency_target_ms: float,
    end_to_end_ms: float,
    counts: tuple[int, int, int],
    top1_score: float,
) -> InferenceMonitor:
    """placement: cluster and threads. counts: frame sequence, dropped and malformed frames since the previous
    message."""
    sequence, dropped, malformed = counts
    return InferenceMonitor(
        header=header,
        app=app,
        frame_sequence=sequence,
        decision_id=decision_id,
        subnet_id=key.subnet_id,
        processor=key.processor,
        cluster=placement[0],
        threads=placement[1],
        queue_wait_ms=timing.queue_wait_ms,
        preprocess_ms=timing.preprocess_ms,
        inference_ms=timing.inference_ms,
        postprocess_ms=timing.postprocess_ms,
        latency_ms=timing.latency_ms,
        end_to_end_ms=end_to_end_ms,
        latency_target_ms=float(latency_target_ms),
        deadline_missed=timing.latency_ms > latency_target_ms,
        dropped_frames=dropped,
        malformed_frames=malformed,
        top1_score=float(top1_score),
    )


def targets(stamp: Time, app: str, values: Mapping[str, Any]) -> AppTargets:
    """values: the target parameters by name."""
    return AppTargets(header=Header(stamp=stamp), app=app, **values)


def library(stamp: Time, app: str, libraries: Mapping[str, Library], slowdown: float) -> SubnetLibrary:
    """slowdown: factor on every latency, for an emulated device that is slower than this machine."""
    entries = [
        SubnetEntry(
            id=entry.id,
            processor=processor,
            cluster=entry.placement[0],
            threads=entry.placement[1],
            accuracy=float(entry.accuracy),
            latency_ms=float(entry.latency_ms.median * slowdown),
            alpha_ms=float(entry.alpha_ms * slowdown),
            beta_ms=float(entry.beta_ms * slowdown),
            energy_j=math.nan if entry.energy_j is None else float(entry.energy_j),
            reference_frequencies=[
                DomainFrequency(domain=d, frequency_hz=int(f))
                for d, f in own.reference_frequencies_hz.items()
            ],
        )
        for processor, own in libraries.items()
        for entry in own.entries
    ]
    return SubnetLibrary(header=Header(stamp=stamp), app=app, entries=entries)


def subnet_state(
    stamp: Time,
    decision_id: int,
    key: SubnetKey,
    placement: tuple[str, int],
    status: int,
    message: str,
    duration_ms: float,
    expected_accuracy: float,
) -> SubnetState:
    return SubnetState(
        header=Header(stamp=stamp),
        decision_id=decision_id,
        subnet_id=key.subnet_id,
        processor=key.processor,
        cluster=placement[0],
        threads=placement[1],
        status=status,
        message=message,
        switch_duration_ms=float(duration_ms),
        expected_accuracy=float(expected_accuracy),
    )
