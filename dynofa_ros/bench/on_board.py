"""What only a board can confirm: every processor of an engine compiled, timed and compared with the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynofa_ros.bench.switching import frame_figures, preparation, stream_with_switches
from dynofa_ros.bench.timing import Progress, call, images, interleaved
from dynofa_ros.errors import one_line
from dynofa_ros.supernet.registry import EngineError, load_engine
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import Pauses, Prepared

SEGMENTS = 12  # of the stream, a second each, every other one with a switch


def run(
    progress: Progress,
    supernet: Supernet,
    configs: Mapping[str, Any],
    *,
    engine: str = "onnxruntime",
    rounds: int = 50,
    segments: int = SEGMENTS,
) -> list[dict[str, Any]]:
    """One row per processor that the engine names here; its ``error`` where it cannot be used."""
    processors = sorted(load_engine(engine).processors())  # cpu, gpu, npu
    answers = _answers(supernet, configs, engine)
    rows = []
    for number, processor in enumerate(processors, start=1):
        row: dict[str, Any] = {"processor": processor, "engine": engine}
        try:
            row |= _measured(supernet, configs, engine, processor, answers, rounds, segments)
        except EngineError as error:
            row["error"] = one_line(error)
        rows.append(row)
        progress(number / len(processors))
    return rows


def _answers(supernet: Supernet, configs: Mapping[str, Any], engine: str) -> dict[str, np.ndarray]:
    """What the CPU says to the same image, as a measure."""
    prepare = preparation(supernet, configs, engine, 1)
    return {name: _answer(prepare(name)) for name in configs}


def _answer(network: Prepared[str]) -> np.ndarray:
    return np.asarray(network.run(images(network.input_shape)))


def _measured(
    supernet: Supernet,
    configs: Mapping[str, Any],
    engine: str,
    processor: str,
    answers: Mapping[str, np.ndarray],
    rounds: int,
    segments: int,
) -> dict[str, Any]:
    """Seconds to prepare at first and again; ms; the largest difference as a share of the largest output."""
    pauses = Pauses()
    prepare = preparation(supernet, configs, engine, 1, processor, pauses.wait)
    held: dict[str, Prepared[str]] = {}
    networks: dict[str, dict[str, Any]] = {}
    for name in configs:
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            held[name] = prepare(name)
            seconds.append(time.perf_counter() - start)
        expected = answers[name]
        error = np.abs(_answer(held[name]) - expected).max()
        networks[name] = {"subnet": name, "first_s": seconds[0], "again_s": seconds[1]}
        networks[name]["difference"] = float(error / np.abs(expected).max())
    times = interleaved([{n: call(p.run, p.input_shape) for n, p in held.items()}], rounds, warm_up=5)
    for name, own in times.items():
        networks[name] |= {"median_ms": float(np.median(own)), "p95_ms": float(np.percentile(own, 95))}
    order = [entry for _ in range(segments) for name in configs for entry in (name, None)][:segments]
    stream = stream_with_switches(prepare, order, 0, pauses=pauses)
    figures = {"cold_p50_ms": float(np.median(stream.switches_ms)), **frame_figures(stream)}
    return {"networks": list(networks.values()), "switch": figures, "errors": stream.errors}
