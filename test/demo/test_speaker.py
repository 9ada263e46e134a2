"""The demo's speaker: its sentences, and what it sends over DDS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

import rclpy
from ros_client import TIMEOUT_S
from std_msgs.msg import String

from dynofa_ros import topics
from dynofa_ros.convert import ros_types
from dynofa_ros.demo.commands import held_out
from dynofa_ros.demo.processes import NodeSpec, Processes
from dynofa_ros.demo.speaker_node import SENTENCES, sentences
from dynofa_ros.library.sentences import read_pairs

TEXTS = 4


def test_sentences_come_all_once_and_then_again_in_another_order() -> None:
    pairs = read_pairs(SENTENCES, 1000, 0)
    first, second = (list(islice(sentences(3), n, n + len(pairs))) for n in (0, len(pairs)))
    assert sorted(first) == sorted(second) == sorted(pairs) and first != second
    assert list(islice(sentences(3), 5)) == first[:5] != list(islice(sentences(4), 5))


def test_sentences_are_whole_and_differ() -> None:
    pairs = read_pairs(SENTENCES, 1000, 0)
    assert len({source for source, _ in pairs}) == len(pairs) >= 100
    assert all(text[-1] in ".?!" and text[0].isupper() for pair in pairs for text in pair)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    rclpy.init()
    with Processes(tmp_path) as started:
        yield started
        assert started.end() == [], (tmp_path / "demo_speaker.log").read_text()
    rclpy.shutdown()


@pytest.mark.live
def test_texts_for_two_applications_with_their_answers(processes: Processes) -> None:
    node = rclpy.create_node("listener")
    heard: dict[str, list[Any]] = {"translator": [], "parser": []}
    truths: dict[str, list[Any]] = {"translator": [], "parser": []}
    for app, topic in (("translator", topics.TRUE_SENTENCE), ("parser", topics.TRUE_COMMAND)):
        node.create_subscription(String, f"/{topics.TEXT.of(app)}", heard[app].append, 100)
        node.create_subscription(ros_types(topic.kind), f"/{topic.name}", truths[app].append, 100)
    parameters = {"apps": "translator,parser", "parsers": "parser", "rate_hz": 10.0, "seed": 3}
    processes.start(NodeSpec("demo.speaker_node", "demo", "speaker", parameters))
    deadline = time.monotonic() + TIMEOUT_S

    def both(app: str) -> set[str]:
        """Texts that have come with their truth."""
        return {text.data for text in heard[app]} & {truth.source for truth in truths[app]}

    while min(len(both(app)) for app in heard) < TEXTS:
        assert time.monotonic() < deadline, (heard, truths)
        rclpy.spin_once(node, timeout_sec=0.1)
    known = dict(read_pairs(SENTENCES, 1000, 0))
    assert all(known[truth.source] == truth.text for truth in truths["translator"])
    assert all(held_out(text.data) for text in heard["parser"]), "none that the parser was trained on"
    assert all("_" in truth.text or "=" in truth.text for truth in truths["parser"]), "intents"
    for app in heard:
        assert {truth.header.frame_id for truth in truths[app]} == {app}
