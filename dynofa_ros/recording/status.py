"""What a robot does now, from what was just received: the rows of the live table as a JSON-able document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dynofa_ros.messages import SubnetCondition
from dynofa_ros.recording.metrics import FOREVER_NS, accuracy_metric, figures, of_app, percentile, within
from dynofa_ros.recording.run import Label, Run, limit

RECENT = 75  # frames per app that the latency columns look at: 5 s at 15 Hz
SCORED = 200  # newest answers per app that accuracy is measured on
SHOWN_SCORE = 0.35  # boxes less sure are not worth a word
SILENT_NS = 3_000_000_000  # a device or manager that says nothing for so long is missing


def status(run: Run, start_ns: int, now_ns: int) -> dict[str, Any]:
    """The present state; misses, accuracy and rate are those since ``start_ns``. Unknown is NaN."""
    apps = sorted({m.app for m in list(run.monitors)} | run.targets.keys() | run.subnets.keys())
    rows = [_application(of_app(run, app, apps), app, start_ns) for app in apps]
    return {
        "applications": rows,
        "device": None if _silent(run.telemetry, now_ns) else _device(run),
        "decision": _decision(run, now_ns),
        "faults": [
            {"source": f.source, "level": f.level, "text": f.text}
            for f in sorted(list(run.health.values()), key=lambda f: (-f.level, f.source))
            if f.level
        ],
        "missing": _missing(run, rows, now_ns),
    }


def _application(own: Run, app: str, start_ns: int) -> dict[str, Any]:
    """own: the records of this application."""
    last, state = own.monitors[-1] if own.monitors else None, own.subnets.get(app)
    running = last or state
    target = last or own.targets.get(app)
    recent = [m.latency_ms for m in own.monitors[-RECENT:]]
    values = figures(replace(own, results=own.results[-SCORED:]), [], start_ns, FOREVER_NS)
    answer = own.results[-1] if own.results else None
    expected = state.expected_accuracy if state and not last else values["accuracy"]["expected"]
    return {
        "app": app,
        "subnet_id": running.subnet_id if running else "",
        "processor": running.processor if running else "",
        "state": state.status.name.lower() if state else "",
        "why": state.message if state and state.status != SubnetCondition.APPLIED else "",
        "latency_ms": {f"p{p}": percentile(recent, p) for p in (50, 95)},
        "latency_target_ms": target.latency_target_ms if target else math.nan,
        "answers_per_s": _per_second([m.frame[0] for m in within(own.monitors, start_ns, FOREVER_NS)]),
        "deadline_miss_percent": values["deadline_miss_percent"],
        "accuracy": {"expected": expected, "measured": values["accuracy"]["measured"]},
        "accuracy_metric": accuracy_metric(own),
        "request": _text(own.texts.get(app, ""), answer),
        "answer": _words(answer),
    }


def _text(asked: str, answer: Label | None) -> str:
    """The text that was asked about last; the answered one where it came by an action."""
    return asked or (answer.frame[1] if answer and answer.frame[0] == 0 else "")


def _words(answer: Label | None) -> str:
    """What was answered last, for people: a class, a text, the number of boxes of each class."""
    if answer is None or answer.value is None:
        return ""
    if isinstance(answer.value, str):
        return answer.value
    sure = Counter(name for name, score, *_ in answer.value if score >= SHOWN_SCORE)
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in sure.items()) or "nothing"


def _per_second(stamps_ns: Sequence[int]) -> float:
    """By the images' own times: several messages may have been received at once."""
    span_ns = stamps_ns[-1] - stamps_ns[0] if stamps_ns else 0
    return (len(stamps_ns) - 1) * 1e9 / span_ns if span_ns > 0 else math.nan


def _device(run: Run) -> dict[str, Any]:
    sample = run.telemetry[-1]
    return {
        "source": sample.source,
        "board": run.board,
        "clocks_hz": dict(sorted(sample.clocks_hz.items())),
        "power_w": sample.power_w,
        "power_cap_w": limit(run.decisions[-1], "power_cap_w") if run.decisions else math.nan,
        "temperature_c": sample.temperature_c,
    }


def _decision(run: Run, now_ns: int) -> dict[str, Any] | None:
    if not run.decisions:
        return None
    last = run.decisions[-1]
    made = last.value
    return {
        "age_s": (now_ns - last.time_ns) / 1e9,
        "decision_id": made.decision_id,
        "objective": made.objective,
        "trigger": made.trigger,
        "binding_constraint": made.binding_constraint,
        "ladder_step": made.ladder_step,
        "feasible": made.feasible,
        "applications": {
            a.app: {"subnet_id": a.subnet_id, "processor": a.processor, "rate_hz": a.rate_hz}
            for a in made.apps
        },
    }


def _silent(records: Sequence[Any], now_ns: int) -> bool:
    return not records or now_ns - records[-1].time_ns > SILENT_NS


def _missing(run: Run, rows: list[dict[str, Any]], now_ns: int) -> list[str]:
    """What is not there or silent, in words."""
    missing = [] if rows else ["no application: no publisher of perception/<app>/monitor"]
    for row in rows:
        if _silent([m for m in run.monitors if m.app == row["app"]], now_ns):
            why = f": {row['state']}" if row["state"] not in ("", "applied") else ""
            missing.append(f"{row['app']} answers no frames{why}" + f", {row['why']}" * bool(row["why"]))
    if _silent(run.telemetry, now_ns):
        missing.append("no device: dynofa/device/telemetry is silent")
    if _silent(run.decisions, now_ns):
        missing.append("no manager: dynofa/manager/decision is silent, so nothing is decided")
    return missing
