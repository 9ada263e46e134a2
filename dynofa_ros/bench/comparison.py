"""The published comparison replayed on this machine: latency measured here, accuracy as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dynofa_ros.bench.published_networks import Network, networks, published, random_weights
from dynofa_ros.bench.timing import Progress, call, interleaved, silent
from dynofa_ros.supernet.materialise import materialise
from dynofa_ros.supernet.registry import load_engine
from dynofa_ros.supernet.space import Plan

OURS = "dynamic_ofa_"  # followed by the number of the published library
Row = dict[str, Any]


def run(
    progress: Progress = silent, *, rounds: int = 50, engine: str = "onnxruntime", threads: int = 1
) -> dict[str, Any]:
    """{"comparison": a row per network, "summary": how ours does against the others}.

    All networks have random weights and run on the CPU in one engine, in one interleaved run. Raises
    EngineError where the engine is missing.
    """
    members = networks()
    latency = _latencies({n.plan for n in members}, rounds, engine, threads, progress)
    rows = judge([_row(n, latency[n.plan]) for n in members])
    gains = {n: msgspec.structs.asdict(gain) for n, gain in published().published_gains.items()}
    summary = {
        "engine": engine,
        "threads": threads,
        "accuracies": "as published (config/published/comparison.yaml), none measured here",
        "libraries": {name.removeprefix(OURS): summarise(rows, name) for name in _libraries(rows)},
        "published_xavier_nx": gains,
    }
    return {"comparison": rows, "summary": summary}


def _latencies(
    plans: set[Plan], rounds: int, engine: str, threads: int, progress: Progress
) -> dict[Plan, float]:
    """Median milliseconds of each plan; a plan that two libraries share is measured once."""
    prepare = load_engine(engine).prepare
    ordered = sorted(plans, key=repr)

    runners = (prepare(materialise(plan, random_weights(plan)), threads, "cpu") for plan in ordered)
    pairs = enumerate(zip(runners, ordered, strict=True))
    contenders = {str(index): call(runner, plan.input_shape) for index, (runner, plan) in pairs}
    times = interleaved([contenders], rounds, progress=progress)
    return {plan: float(np.median(times[str(index)])) for index, plan in enumerate(ordered)}


def _row(network: Network, latency_ms: float) -> Row:
    return {
        "name": network.name,
        "family": network.family,
        "latency_ms": latency_ms,
        "top1": network.accuracy,
        "macs_m": network.macs / 1e6,
        "published_macs_m": network.published_macs / 1e6,
        "resolution": network.plan.input_shape[-1],
    }


def _libraries(rows: Sequence[Row]) -> list[str]:
    return sorted({r["family"] for r in rows if r["family"].startswith(OURS)})


def judge(rows: Sequence[Row]) -> list[Row]:
    """The rows with, for the others, which of our libraries dominates them.

    ``dominated_by_ours`` is true where every library does: they disagree on the accuracy of the same
    networks by about a point.
    """
    libraries, judged = _libraries(rows), []
    for row in rows:
        own = row["family"] in libraries
        by = [] if own else [name for name in libraries if _dominated(row, rows, name)]
        verdict = {
            "dominated_by_ours": bool(libraries) and by == libraries,
            "dominated_by_libraries": [name.removeprefix(OURS) for name in by],
        }
        judged.append(row | verdict)
    return judged


def _dominated(row: Row, rows: Sequence[Row], library: str) -> bool:
    return any(
        r["latency_ms"] <= row["latency_ms"]
        and r["top1"] >= row["top1"]
        and (r["latency_ms"] < row["latency_ms"] or r["top1"] > row["top1"])
        for r in rows
        if r["family"] == library
    )


def summarise(rows: Sequence[Row], library: str) -> dict[str, Any]:
    """One of our libraries against all the others.

    Speed-up = latency of the other / ours at its accuracy; gain = our accuracy at its latency less its own,
    in points. Both lie on the straight line between two of our sub-networks, and are None outside their
    range; ``best`` and the goal do not count those.
    """
    front = _front([r for r in rows if r["family"] == library])
    others = [r for r in rows if not r["family"].startswith(OURS)]
    number = library.removeprefix(OURS)
    reachable = [r for r in others if r["latency_ms"] >= front[0]["latency_ms"]]
    missed = [r["name"] for r in reachable if number not in r["dominated_by_libraries"]]
    points = [{"name": r["name"], "family": r["family"], **_gains(front, r)} for r in others]
    return {
        "smallest_ms": front[0]["latency_ms"],
        "largest_ms": front[-1]["latency_ms"],
        "baselines_at_or_above_smallest": len(reachable),
        "not_dominated": missed,
        "below_smallest": [r["name"] for r in others if r not in reachable],
        "points": points,
        "best": _best(points),
        "best_by_family": {
            family: _best([p for p in points if p["family"] == family])
            for family in dict.fromkeys(p["family"] for p in points)
        },
    }


def _front(rows: Sequence[Row]) -> list[Row]:
    """Our sub-networks that no other of the library beats on this machine, ascending in both."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r["latency_ms"], -r["top1"])):
        if not front or row["top1"] > front[-1]["top1"]:
            front.append(row)
    return front


def _inside(front: Sequence[Row], key: str, value: float, wanted: str) -> float | None:
    if not front[0][key] <= value <= front[-1][key]:
        return None
    return float(np.interp(value, [r[key] for r in front], [r[wanted] for r in front]))


def _gains(front: Sequence[Row], row: Row) -> dict[str, float | None]:
    latency_ms = _inside(front, "top1", row["top1"], "latency_ms")
    accuracy = _inside(front, "latency_ms", row["latency_ms"], "top1")
    return {
        "speed_up": None if latency_ms is None else row["latency_ms"] / latency_ms,
        "gain_points": None if accuracy is None else 100 * (accuracy - row["top1"]),
    }


def _best(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for key in ("speed_up", "gain_points"):
        known = [p for p in points if p[key] is not None]
        first = max(known, key=lambda p: p[key], default=None)
        best[key] = None if first is None else first[key]
        best[f"{key}_against"] = None if first is None else first["name"]
    return best
