"""The layouts for Foxglove and PlotJuggler: every path in them is a topic of ours with that field."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replay_runs import REFERENCE

from dynofa_ros.recording.bag import typestore
from dynofa_ros.recording.text_log import read_log
from dynofa_ros.topics import TOPICS

LAYOUTS = Path(__file__).resolve().parents[2] / "config" / "layouts"
FOXGLOVE = json.loads((LAYOUTS / "foxglove.json").read_text())
# `domains[:]{domain=="gpu"}`, `domains[0]`, `latency_ms`
PART = re.compile(r'(?P<name>\w+)(?P<array>\[[:\d]+\])?(\{(?P<key>\w+)=="(?P<value>[^"]*)"\})?')


def foxglove_paths() -> Iterator[str]:
    for panel in FOXGLOVE["configById"].values():
        yield from (path["value"] for path in panel.get("paths", ()))
        yield from (panel[key] for key in ("topicPath", "topicToRender") if key in panel)


def curves() -> list[str]:
    root = ElementTree.parse(LAYOUTS / "plotjuggler.xml").getroot()
    return [str(curve.get("name")) for curve in root.iter("curve")]


def kind_of(topic: str) -> str | None:
    """Message type of a topic of this package."""
    return next((t.kind for t in TOPICS if t.name == topic or t.match(topic[1:]) is not None), None)


def problem(topic: str, parts: list[str]) -> str:
    """What is wrong with a path of fields of a topic; empty if nothing is. It must end in one value."""
    kind = kind_of(topic)
    if kind is None:
        return f"no topic {topic}"
    for index, part in enumerate(parts):
        found = PART.fullmatch(part)
        if found is None or kind not in typestore().fielddefs:
            return f"{part} cannot be read"
        node, detail = dict(typestore().fielddefs[kind][1]).get(found["name"], (None, None))
        if node is None:
            return f"{kind} has no {found['name']}"
        if (node.name in ("ARRAY", "SEQUENCE")) != bool(found["array"]):
            return f"{found['name']} of {kind}: array or not?"
        if found["array"]:
            node, detail = detail[0]
        if node.name == "BASE":
            return "" if index + 1 == len(parts) and not found["key"] else f"{part} has no fields"
        kind = detail
        if found["key"] and found["key"] not in dict(typestore().fielddefs[kind][1]):
            return f"{kind} has no {found['key']}"
    return f"{kind} is no value" if parts else ""


@pytest.mark.parametrize("path", sorted(set(foxglove_paths())))
def test_path_of_foxglove(path: str) -> None:
    topic, *parts = path.split(".")
    assert problem(topic, parts) == ""


@pytest.mark.parametrize("curve", curves())
def test_curve_of_plotjuggler(curve: str) -> None:
    """The topic is the longest beginning that is one."""
    names = curve.split("/")
    topics = ["/".join(names[:end]) for end in range(len(names) - 1, 1, -1)]
    topic = next((name for name in topics if kind_of(name)), curve)
    assert problem(topic, names[topic.count("/") + 1 :]) == ""


def test_wrong_paths_are_found() -> None:
    telemetry = "/dynofa/device/telemetry"
    assert problem("/nowhere", ["x"]) == "no topic /nowhere"
    assert problem(telemetry, ["volts"]).endswith("has no volts")
    assert "array or not" in problem(telemetry, ["domains", "frequency_hz"])
    assert problem(telemetry, ['domains[:]{name=="gpu"}', "frequency_hz"]).endswith("has no name")
    assert problem(telemetry, ["domains[0]"]).endswith("is no value")


def test_foxglove_shows_every_panel_once() -> None:
    def panels(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
            yield from (name for side in ("first", "second") for name in panels(node[side]))

    assert sorted(panels(FOXGLOVE["layout"])) == sorted(FOXGLOVE["configById"])


def test_what_is_filtered_for_exists_in_a_recorded_demo() -> None:
    """An element of that name, e.g. a clock domain `gpu`, in the messages of the reference log."""
    wanted = {}
    for path in foxglove_paths():
        topic, *parts = path.split(".")
        for part in parts:
            found = PART.fullmatch(part)
            if found and found["key"]:
                wanted[path] = topic[1:], found["name"], found["key"], found["value"]
    seen = set()
    for topic, _, message in read_log(REFERENCE / "demo.jsonl", lenient=True):
        for path, (name, array, key, value) in wanted.items():
            if topic == name and any(getattr(item, key) == value for item in getattr(message, array)):
                seen.add(path)
    assert len(wanted) >= 5 and seen == set(wanted)
