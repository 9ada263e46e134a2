"""The measured sections of `dynofa bench` against the goals of the design."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("dynofa_ros", "numpy", "onnxruntime", "openvino", "torch", "onnx", "ofa")
NOT_MEASURED, REPORTED, MET, NOT_MET = "not measured", "reported", "met", "not met"
STATIC_RATIO, OFFICIAL_RATIO = 1.03, 0.45
# Number of applications, the steps that count, their figure, and the goal in ms.
DECISIONS = (
    (8, "held", "p99", ", nothing given up", 1.0),
    (8, "overloaded", "p99", ", overload", 3.0),
    (16, "", "max", "", 10.0),
)
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """One line of the report; ``met`` None = reported only, or not measured (``value`` None)."""

    section: str
    name: str
    goal: str
    value: float | None
    text: str
    met: bool | None

    @property
    def status(self) -> str:
        if self.value is None:
            return NOT_MEASURED
        return REPORTED if self.met is None else MET if self.met else NOT_MET


def thread_count(number: int) -> str:
    """For people: "1 thread", "2 threads"."""
    return f"{number} thread{'s' if number != 1 else ''}"


def goals(results: Results) -> list[Goal]:
    """Every goal of this layer; sections that were not run, or failed, are not measured."""
    return [
        *_engines(results.get("engines") or []),
        *_switch(results.get("switch") or {}),
        *_memory(results.get("memory") or {}),
        *_static_models(results.get("static_models") or {}),
        *_search(results.get("search") or {}),
        *_decision(results.get("decision") or []),
        *_comparison(results.get("comparison_summary") or {}),
    ]


def _at_most(
    section: str, name: str, limit: float, value: float | None, text: str = "", unit: str = ""
) -> Goal:
    shown = "" if value is None else f"{value:.4g}{unit}"
    met = None if value is None else value <= limit
    return Goal(section, name, f"<= {limit:g}{unit}", value, f"{shown}{text}", met)


def _engines(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    blocks = list(dict.fromkeys((r["engine"], r["threads"]) for r in rows)) or [("each engine", 0)]
    for engine, threads in blocks:
        own = [r for r in rows if (r["engine"], r["threads"]) == (engine, threads)]
        name = f"masked / static latency, {engine}" + (f", {thread_count(threads)}" if threads else "")
        value, text = None, ""
        if own:
            worst = max(own, key=lambda r: r["ratio_to_static"])
            value, (least, largest) = worst["ratio_to_static"], worst["ratio_to_static_repeats"]
            half = median(r["ratio_to_static"] for r in own)
            where = f"{worst['space']} {worst['subnet']}, repeats {least:.2f} to {largest:.2f}"
            text = f" worst ({where}); {half:.3f} median of {len(own)}"
        yield _at_most("engines", name, STATIC_RATIO, value, text)
    yield from _official([r for r in rows if r["engine"] == "onnxruntime" and r["ratio_to_official"]])


def _official(known: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    small = [r for r in known if not r["space"].startswith("ofa_resnet")]
    value, text = None, ""
    if small:
        worst = max(small, key=lambda r: r["ratio_to_official"])
        value = worst["ratio_to_official"]
        text = (
            f" worst of {len(small)} ({worst['space']} {worst['subnet']}, {thread_count(worst['threads'])})"
        )
    yield _at_most("engines", "masked in onnxruntime / official dynamic forward", OFFICIAL_RATIO, value, text)
    resnet = [r["ratio_to_official"] for r in known if r not in small]
    shown = ", ".join(f"{v:.2f}" for v in resnet)
    yield Goal("engines", "the same for ofa_resnet50", REPORTED, max(resnet, default=None), shown, None)


def _switch(found: Mapping[str, Any]) -> Iterator[Goal]:
    yield _at_most("switch", "warm switch p99", 1.0, found.get("warm_p99_ms"), unit=" ms")
    yield _at_most("switch", "cold switch p99", 150.0, found.get("cold_p99_ms"), unit=" ms")
    for frames, where in ((found, ""), (found.get("held") or {}, ", library held")):
        share = frames.get("delayed_share_extra")
        points = None if share is None else 100 * share
        name = f"delayed frames beyond those without switching{where}"
        yield _at_most("switch", name, 1.0, points, unit=" points")
        worst, quiet = (frames.get(f"worst_frame_ratio{kind}") for kind in ("", "_quiet"))
        text = "" if quiet is None else f"; {quiet:.2f} without switching"
        yield _at_most("switch", f"worst frame / median{where}", 1.5, worst, text)


def _memory(found: Mapping[str, Any]) -> Iterator[Goal]:
    text = ""
    if found:
        text = f"; weights {found['weights_ratio']:.2f}, cache bound {found['cache_mb']:g} MB"
    yield _at_most("memory", "peak PSS / largest static network alone", 1.6, found.get("pss_ratio"), text)


def _static_models(found: Results) -> Iterator[Goal]:
    for figure, name, unit in (
        ("pss_mb", "memory with all held", "MB"),
        ("cold_p50_ms", "cold switch, median", "ms"),
        ("disk_mb", "files", "MB"),
    ):
        value, text = None, ""
        if found:
            own, static = found["supernet"][figure], found["static"][figure]
            value, text = own / static, f"{own:.3g} {unit} / {static:.3g} {unit}, {found['subnets']} networks"
        yield Goal("static_models", f"{name}: supernet / static models", REPORTED, value, text, None)


def _search(found: Mapping[str, Any]) -> Iterator[Goal]:
    points = found.get("points")
    yield _at_most("search", "library search", 60.0, found.get("seconds"), unit=" s")
    many = None if points is None else points >= 30
    yield Goal("search", "points on the front", ">= 30", points, f"{points}", many)
    yield _at_most(
        "search", "points that the official search dominates", 0, found.get("dominated_by_official")
    )


def _decision(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    for apps, steps, figure, what, limit_ms in DECISIONS:
        value, text = None, ""
        for row in (r for r in rows if r["apps"] == apps):
            found = row[steps] if steps else row
            value = found[f"{figure}_ms"]
            if value is not None:
                text = f", p50 {found['p50_ms']:.2f} ms; of the CPU time {found[f'cpu_{figure}_ms']:.2f} ms"
        name = f"decision {figure}, {apps} apps x 30 sub-networks x 3 processors{what}"
        yield _at_most("decision", name, limit_ms, value, text, unit=" ms")


def _comparison(summary: Mapping[str, Any]) -> Iterator[Goal]:
    libraries = summary.get("libraries") or {"6": None, "7": None}
    for number, found in libraries.items():
        yield _domination(number, found)
        if found is None:
            continue
        best, others = found["best"], summary["published_xavier_nx"]
        for key, unit, what in (
            ("speed_up", " x", "speed-up at similar top-1"),
            ("gain_points", " points", "gain at similar latency"),
        ):
            published = ", ".join(f"{name} {gain[key]:g}" for name, gain in others.items())
            value = best[key]
            text = "" if value is None else f"{value:.2f}{unit} at best, against {best[f'{key}_against']}"
            name = f"library {number}: {what}"
            yield Goal("comparison", name, f"published: {published}{unit}", value, text, None)


def _domination(number: str, found: Mapping[str, Any] | None) -> Goal:
    name = f"baselines not slower than library {number}'s smallest, dominated"
    if found is None:
        return Goal("comparison", name, "all", None, "", None)
    count, missed = found["baselines_at_or_above_smallest"], found["not_dominated"]
    text = f"{count - len(missed)} of {count}; {len(found['below_smallest'])} are faster"
    if missed:
        text += f"; not {', '.join(missed)}"
    return Goal("comparison", name, "all", count - len(missed), text, not missed)


def environment() -> dict[str, Any]:
    """What the figures depend on; names neither the machine nor its files."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def cpu_model() -> str:
    """Name of the processor; its architecture where the kernel does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE | re.IGNORECASE)
    return named[1] if named else platform.machine()
