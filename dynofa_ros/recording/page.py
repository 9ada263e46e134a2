"""A run as one HTML page that needs no network: a JSON-able document of the run, in a template."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dynofa_ros.files import to_json, write_atomically
from dynofa_ros.messages import ManagerDecision
from dynofa_ros.plots import APP_COLOURS
from dynofa_ros.recording import metrics
from dynofa_ros.recording.run import Fault, Monitor, Reading, Run, Telemetry, limit

TEMPLATE = Path(__file__).with_name("page.html")
LEFT_OUT = ("header", "step_time", "inputs", "parameters")  # of a decision
Steps = list[list[Any]]  # [s, value] where the value changes; it holds until the next one


def write_page(run: Run, path: Path, summary: dict[str, Any] | None = None) -> None:
    """Write the page, atomically. summary: of the run, if it has more to say than the run. Raises OSError."""
    write_atomically(path, page(document(run, summary)).encode())


def page(content: dict[str, Any]) -> str:
    """The page of a `document`.

    What a robot said is in it only as JSON without `<`, which scripts put into the page as text. The page's
    policy lets nothing run but the script of the template, and nothing be fetched.
    """
    text = TEMPLATE.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(to_json(content), separators=(",", ":")).replace("<", "\\u003c")
    return text.replace("{{script_digest}}", digest).replace("{{data}}", data)


def document(run: Run, summary: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that the page shows. Times are in seconds since the first phase or record, ascending."""
    found = metrics.phases(run)
    origin = found[0].start_ns if found else first_time(run)
    by_app = of_apps(run)
    return {
        "start": datetime.fromtimestamp(origin / 1e9, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round((last_time(run) - origin) / 1e9, 3),
        "device": " ".join(filter(None, [run.board, *sorted({t.source for t in run.telemetry})])),
        "colours": APP_COLOURS,
        "summary": summary or metrics.summary(run),
        "apps": [_app(run, app, monitors, origin) for app, monitors in by_app.items()],
        "telemetry": {
            "t": seconds(run.telemetry, origin),
            "power_w": [round(t.power_w, 3) for t in run.telemetry],
            "temperature_c": [round(t.temperature_c, 2) for t in run.telemetry],
        },
        "clocks": [
            {"domains": domains, "mhz": steps(zip(seconds(run.telemetry, origin), mhz, strict=True))}
            for mhz, domains in clock_series(run.telemetry).items()
        ],
        "power_cap_w": _limits(run, "power_cap_w", origin),
        "temperature_limit_c": _limits(run, "temperature_limit_c", origin),
        "steps_of_manager": len(run.decisions),
        "decisions": _decisions(run.decisions, origin),
        "faults": _faults(run.faults, origin),
    }


def of_apps(run: Run) -> dict[str, list[Monitor]]:
    """The monitors of each application."""
    return {app: [m for m in run.monitors if m.app == app] for app in sorted({m.app for m in run.monitors})}


def first_time(run: Run) -> int:
    """Of the first frame, sample or decision; 0 if there is none."""
    return min(
        (records[0].time_ns for records in (run.monitors, run.telemetry, run.decisions) if records), default=0
    )


def last_time(run: Run) -> int:
    """Of the last frame, sample, decision or mark; 0 if there is none."""
    kinds: tuple[Sequence[Any], ...] = (run.monitors, run.telemetry, run.decisions, run.marks)
    return max((records[-1].time_ns for records in kinds if records), default=0)


def seconds(records: Iterable[Any], origin: int) -> list[float]:
    """Receipt times since ``origin``."""
    return [round((record.time_ns - origin) / 1e9, 3) for record in records]


def steps(points: Iterable[tuple[float, Any]]) -> Steps:
    """Only the points at which the value changes. NaN is equal to NaN."""
    found: Steps = []
    for time, value in points:
        if not found or repr(value) != repr(found[-1][1]):
            found.append([time, value])
    return found


def clock_series(telemetry: Sequence[Telemetry]) -> dict[tuple[float, ...], list[str]]:
    """Clock over time in MHz -> the domains that had it: domains with one common clock are one line."""
    series: dict[tuple[float, ...], list[str]] = {}
    for domain in sorted({domain for t in telemetry for domain in t.clocks_hz} - {"emc"}):
        mhz = tuple(round(t.clocks_hz.get(domain, math.nan) / 1e6, 1) for t in telemetry)
        series.setdefault(mhz, []).append(domain)
    return series


def _app(run: Run, app: str, monitors: Sequence[Monitor], origin: int) -> dict[str, Any]:
    times = seconds(monitors, origin)

    def ran(monitor: Monitor) -> list[Any]:
        accuracy = run.accuracy.get((app, monitor.subnet_id, monitor.processor), math.nan)
        return [monitor.subnet_id, monitor.processor, round(accuracy, 4)]

    return {
        "name": app,
        "accuracy_metric": run.metrics.get(app, ""),
        "t": times,
        "latency_ms": [round(m.latency_ms, 2) for m in monitors],
        "target_ms": steps(zip(times, (round(m.latency_target_ms, 3) for m in monitors), strict=True)),
        "missed": [index for index, m in enumerate(monitors) if m.deadline_missed],
        "unanswered": [[t, m.unanswered] for t, m in zip(times, monitors, strict=True) if m.unanswered],
        "subnets": steps(zip(times, map(ran, monitors), strict=True)),
    }


def _limits(run: Run, name: str, origin: int) -> Steps:
    times = seconds(run.decisions, origin)
    return steps((t, limit(d, name)) for t, d in zip(times, run.decisions, strict=True))


def _decisions(decisions: Sequence[Reading[ManagerDecision]], origin: int) -> list[dict[str, Any]]:
    """The decisions that changed a knob, that an event made, or whose reason is another one.

    Alternatives are computed once a second and for every new plan: in between those before still hold.
    """
    found: list[dict[str, Any]] = []
    plan, reason, alternatives = None, None, {"alternatives": [], "alternatives_t": math.nan}
    for decision, t in zip(decisions, seconds(decisions, origin), strict=True):
        made = decision.value
        knobs = (
            [(a.app, a.subnet_id, a.processor, a.threads, a.cluster, a.rate_hz) for a in made.apps],
            made.bands,
        )
        why = made.binding_constraint, made.ladder_step, made.feasible, made.objective
        if made.alternatives or knobs != plan:
            alternatives = {
                "alternatives": [_short(asdict(a)) for a in made.alternatives],
                "alternatives_t": t,
            }
        if knobs != plan or why != reason or made.trigger != "periodic":
            shown = {name: _short(value) for name, value in asdict(made).items() if name not in LEFT_OUT}
            found.append({"t": t, "changed": knobs != plan, **shown, **alternatives})
        plan, reason = knobs, why
    return found


def _short(value: Any) -> Any:
    """Numbers with the six digits that a float32 has."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _faults(faults: Sequence[Fault], origin: int) -> list[dict[str, Any]]:
    """Spans from the first to the last moment at which a source was not in order; open ones have no end."""
    found: list[dict[str, Any]] = []
    present: dict[str, dict[str, Any]] = {}
    for fault, t in zip(faults, seconds(faults, origin), strict=True):
        if (before := present.pop(fault.source, None)) is not None:
            before["end"] = t
        if fault.level:
            span = {"t": t, "end": None, "source": fault.source, "level": fault.level, "text": fault.text}
            found.append(span)
            present[fault.source] = span
    return found
