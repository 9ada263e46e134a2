"""The page of a run: its document from hand-made and recorded runs, hostile text, and a real browser."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAM, browser
from factories import START, S, chosen, decision, monitor
from replay_runs import REFERENCE

from dynofa_ros.files import to_json
from dynofa_ros.messages import Alternative, ManagerDecision, Parameter
from dynofa_ros.recording.page import document, page, steps, write_page
from dynofa_ros.recording.run import Fault, Monitor, Reading, Run, Telemetry, collector, since
from dynofa_ros.recording.text_log import make, read_log

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def frame(time_s: float, **changes: Any) -> Monitor:
    return replace(
        monitor(time_s), **{"subnet_id": "large", "processor": "gpu", "latency_target_ms": 50.0, **changes}
    )


def step(time_s: float, **changes: Any) -> Reading[ManagerDecision]:
    return Reading(START + round(time_s * S), decision(**changes))


def small_run() -> Run:
    """Four frames in two phases, the second with a power cap and another sub-network."""
    better = Alternative("front", "better", "large", "gpu", 0.8, 1.5, False, "power_cap")
    capped = {"parameters": (Parameter("power_cap_w", 7.0),)}
    run = Run(board="a board", accuracy={("front", "large", "gpu"): 0.8, ("front", "small", "gpu"): 0.7})
    run.marks = [Reading(START, "steady"), Reading(START + 2 * S, "power_cap"), Reading(START + 4 * S, "end")]
    run.monitors = [
        frame(0.5),
        frame(1.5, latency_ms=60.0, deadline_missed=True),
        frame(2.5, subnet_id="small", dropped_frames=2),
        frame(3.5, subnet_id="small", latency_target_ms=45.0),
    ]
    for t in range(4):
        clocks_hz = {"cpu0": 1e9, "cpu1": 1e9, "gpu": t * 1e8}
        run.telemetry.append(Telemetry(START + t * S, 5.0 + t, 5.0 * t, math.nan, clocks_hz, "sysfs"))
    run.decisions = [
        step(0.0, **chosen("large")),
        step(0.2, **chosen("large")),
        step(1.6, trigger="latency", **chosen("large")),
        step(2.2, **chosen("small", 5 * 10**8), alternatives=(better,), **capped),
        step(2.4, binding_constraint="power_cap", **chosen("small", 5 * 10**8), **capped),
    ]
    run.faults = [
        Fault(START + S, "/perception/front: deadline", 1, "late"),
        Fault(START + 2 * S, "/dynofa/device: sensors", 2, "gone"),
        Fault(START + 3 * S, "/perception/front: deadline", 0, "in time"),
    ]
    return run


def test_document_of_a_small_run() -> None:
    found = document(small_run())
    assert (found["start"], found["seconds"]) == ("2023-11-14T22:13:20+00:00", 4.0)
    assert found["device"] == "a board sysfs"
    (app,) = found["apps"]
    assert app["t"] == [0.5, 1.5, 2.5, 3.5] and app["latency_ms"] == [40.0, 60.0, 40.0, 40.0]
    assert app["target_ms"] == [[0.5, 50.0], [3.5, 45.0]]
    assert app["missed"] == [1] and app["unanswered"] == [[2.5, 2]]
    assert app["subnets"] == [[0.5, ["large", "gpu", 0.8]], [2.5, ["small", "gpu", 0.7]]]
    assert found["telemetry"]["power_w"] == [5.0, 6.0, 7.0, 8.0]
    cpus, gpu = found["clocks"]
    assert cpus == {"domains": ["cpu0", "cpu1"], "mhz": [[0.0, 1000.0]]}
    assert gpu["mhz"] == [[float(t), 100.0 * t] for t in range(4)]
    assert found["power_cap_w"][1] == [2.2, 7.0] and math.isnan(found["power_cap_w"][0][1])
    assert [phase["name"] for phase in found["summary"]["phases"]] == ["steady", "power_cap"]


def test_decisions_that_say_something_are_shown_with_the_alternatives_that_hold() -> None:
    shown = document(small_run())["decisions"]
    assert [(d["t"], d["changed"]) for d in shown] == [(0.0, True), (1.6, False), (2.2, True), (2.4, False)]
    assert [len(d["alternatives"]) for d in shown] == [0, 0, 1, 1]
    assert shown[3]["alternatives_t"] == 2.2, "computed for the same plan"
    assert shown[2]["alternatives"][0]["binding_constraint"] == "power_cap"
    assert shown[2]["apps"][0]["subnet_id"] == "small" and shown[2]["bands"][0]["max_hz"] == 5 * 10**8
    assert document(small_run())["steps_of_manager"] == 5


def test_faults_are_spans() -> None:
    late, gone = document(small_run())["faults"]
    assert (late["t"], late["end"], late["text"]) == (1.0, 3.0, "late")
    assert (gone["t"], gone["end"], gone["level"]) == (2.0, None, 2)


def test_a_fault_that_holds_at_the_start_is_kept() -> None:
    run = since(small_run(), START + round(2.5 * S))
    assert [(f.source, f.level) for f in run.faults] == [
        ("/perception/front: deadline", 1),
        ("/dynofa/device: sensors", 2),
        ("/perception/front: deadline", 0),
    ]


def test_unknown_stays_unknown_and_equal() -> None:
    assert to_json(steps([(0.0, math.nan), (1.0, math.nan), (2.0, 3.0)])) == [[0.0, None], [2.0, 3.0]]
    assert "NaN" not in page(document(small_run()))


@pytest.mark.parametrize(
    "kept", [(), ("monitors",), ("telemetry",), ("decisions",), ("marks",), ("faults",)], ids=str
)
def test_whatever_a_bag_lacks_there_is_a_page(kept: tuple[str, ...], tmp_path: Path) -> None:
    whole = small_run()
    run = Run(**{name: getattr(whole, name) for name in kept})
    write_page(run, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


def recorded_run() -> Run:
    """The reference log of a demo with two applications; its times are made up."""
    run = Run()
    for number, (topic, kind, message) in enumerate(read_log(REFERENCE / "demo.jsonl", lenient=True)):
        collect = collector("", f"/{topic}", kind)
        if collect is not None:
            collect(run, START + number * 50_000_000, message)
    return run


def test_page_of_a_recorded_run_is_small() -> None:
    run = recorded_run()
    found = document(run)
    assert [app["name"] for app in found["apps"]] == ["front", "rear"]
    assert found["steps_of_manager"] == len(run.decisions) > 100
    assert 10 < len(found["decisions"]) < len(run.decisions)
    assert {a["app"] for d in found["decisions"] for a in d["apps"]} == {"front", "rear"}
    assert any(d["alternatives"] for d in found["decisions"])
    assert len(page(found)) < 500_000


def hostile_run() -> Run:
    run = small_run()
    run.board, run.errors = HOSTILE, [HOSTILE]
    run.marks[0] = Reading(START, HOSTILE)
    run.monitors = [replace(m, app=HOSTILE, subnet_id=HOSTILE, processor=HOSTILE) for m in run.monitors]
    run.faults = [Fault(START + S, HOSTILE, 2, HOSTILE)]
    made = run.decisions[3].value
    hostile = replace(
        made,
        trigger=HOSTILE,
        binding_constraint=HOSTILE,
        apps=tuple(replace(a, app=HOSTILE, subnet_id=HOSTILE) for a in made.apps),
        alternatives=tuple(
            replace(a, app=HOSTILE, subnet_id=HOSTILE, kind=HOSTILE) for a in made.alternatives
        ),
        bands=tuple(replace(b, domain=HOSTILE) for b in made.bands),
    )
    run.decisions[3] = replace(run.decisions[3], value=hostile)
    return run


def test_hostile_text_is_data() -> None:
    text = page(document(hostile_run()))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert "<" not in data and "</script>" in json.loads(data)["device"]
    assert text.count("<script") == text.count("</script>") == 2


def test_the_page_fetches_nothing() -> None:
    text = page(document(recorded_run()))
    assert re.findall(r"https?://|\bsrc=|\burl\(|@import|<link", text) == []
    assert "default-src 'none'" in text and re.search(r"script-src 'sha256-[\w+/]{43}='", text)


def test_diagnostics_are_those_of_the_robot() -> None:
    run = Run()
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    collect = collector("/robot1", "/diagnostics", kind)
    assert collect is not None
    for time_ns, level, text in ((1, 0, "fine"), (2, 1, "late"), (3, 1, "later"), (4, 0, "fine")):
        names = (
            "/robot1/perception/front: deadline",
            "/robot2/perception/front: deadline",
            "camera_driver: fps",
        )
        status = [{"name": name, "level": level, "message": text} for name in names]
        collect(run, time_ns, make(kind, {"status": status}))
    source = "/robot1/perception/front: deadline"
    assert run.faults == [Fault(2, source, 1, "late"), Fault(4, source, 0, "fine")]
    assert run.health == {source: Fault(4, source, 0, "fine")}


def test_clocks_commands_and_throttling_are_faults() -> None:
    run = Run()

    def hear(topic: str, kind: str, **fields: Any) -> None:
        collect = collector("", topic, f"dynofa_ros/msg/{kind}")
        assert collect is not None
        collect(run, 1, make(f"dynofa_ros/msg/{kind}", fields))

    hear("/dynofa/device/dvfs_state", "DvfsState", message="a lock", domains=[{"domain": "gpu", "status": 4}])
    hear("/dynofa/device/telemetry", "DeviceTelemetry", throttle_flags=3)
    hear("/perception/front/subnet_state", "SubnetState", status=2, message="unknown key")
    hear("/perception/front/subnet_state", "SubnetState", status=0)
    assert [(f.source, f.level, f.text) for f in run.faults] == [
        ("device: clock gpu", 1, "fallback: a lock"),
        ("device: throttling", 1, "thermal, power"),
        ("front: command", 2, "unknown key"),
        ("front: command", 0, "applied"),
    ]


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
@pytest.mark.slow
def test_a_browser_shows_it(tmp_path: Path) -> None:
    """Drawn, zoomed, a decision chosen by a click; hostile text stays text; no error, no request."""
    write_page(recorded_run(), tmp_path / "recorded.html")
    write_page(hostile_run(), tmp_path / "hostile.html")
    write_page(Run(), tmp_path / "empty.html")
    with browser(tmp_path / "profile") as b:
        b.open((tmp_path / "recorded.html").as_uri())
        assert b.value("panels.map(p => p.canvas).every(c => new Set(c.getContext('2d')"
                       ".getImageData(0, 0, c.width, c.height).data).size > 10)")  # fmt: skip
        left, top, width = b.value("(r => [r.left, r.top, r.width])"
                                   "(panels.find(p => p.marks).canvas.getBoundingClientRect())")  # fmt: skip
        where = b.value(f"toX(D.decisions[12].t, {width})")
        b.drag(left + where + 1, top + 10)
        assert b.value("chosen") == 12
        shown, made = (
            b.value("document.querySelector('aside').innerText"),
            document(recorded_run())["decisions"][12],
        )
        assert f"Decision at {made['t']:.3f} s" in shown and f"step {made['step_number']}" in shown
        for alternative in made["alternatives"]:
            assert alternative["subnet_id"] in shown
        b.drag(left + 300, top - 100, left + 400)
        assert b.value("view[1] - view[0]") < 0.2 * b.value("whole[1]")
        b.open((tmp_path / "hostile.html").as_uri() + "#step=1")
        b.value("D.decisions.forEach((d, k) => choose(k))")
        assert b.value("document.title").startswith("dynofa report")
        assert b.value("document.querySelectorAll('img').length") == 0
        assert HOSTILE in b.value("document.body.innerText")
        b.open((tmp_path / "empty.html").as_uri(), 800)
        assert "No decision was recorded" in b.value("document.body.innerText")
        assert b.errors == []
        assert {url.split("#")[0] for url in b.requests} <= {p.as_uri() for p in tmp_path.glob("*.html")} | {
            "about:blank"
        }
