"""Answers against the truth: classes, texts, boxes, and several kinds in one run."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
from factories import START, S, monitor

from dynofa_ros.messages import Header
from dynofa_ros.recording import metrics, scoring, status
from dynofa_ros.recording.run import Label, Run
from dynofa_ros.recording.scoring import BLEU, EXACT, PRECISION, TOP1, boxes_of, score
from dynofa_ros.recording.timeline_plot import plot_timeline

SAID, MEANT = "Der Hund schläft unter dem Tisch.", "Der Hund schläft auf dem Tisch."


def test_classes_and_intents_are_right_or_wrong() -> None:
    for metric in (TOP1, EXACT):
        assert score(metric, ["a", "b", "c", "d"], ["a", "b", "c", "x"]) == 0.75


def test_answers_without_their_truth_are_an_error_and_no_missing_package() -> None:
    with pytest.raises(ValueError, match="zip"):
        score(TOP1, ["a", "b"], ["a"])


def test_texts_are_scored_by_bleu() -> None:
    pytest.importorskip("sacrebleu")
    assert score(BLEU, [MEANT, SAID], [MEANT, SAID]) == pytest.approx(1.0)
    assert 0.3 < score(BLEU, [SAID], [MEANT]) < 0.9


def test_boxes_are_scored_by_average_precision() -> None:
    pytest.importorskip("pycocotools")
    truth = [[("stop", 1.0, 10.0, 10.0, 50.0, 50.0)], [("yield", 1.0, 0.0, 0.0, 40.0, 40.0)]]
    assert score(PRECISION, truth, truth) == pytest.approx(1.0)
    wrong_class = [[("yield", 0.9, *truth[0][0][2:])], truth[1]]
    assert score(PRECISION, wrong_class, truth) < 0.6
    other = [*truth[0], ("a class that is nowhere", 0.99, 0.0, 0.0, 9.0, 9.0)]
    assert score(PRECISION, [other, truth[1]], truth) == pytest.approx(1.0)


def test_nothing_to_score_and_no_package_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math.isnan(score(TOP1, [], []))
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert math.isnan(score(BLEU, [SAID], [MEANT]))
    box = [("stop", 1.0, 0.0, 0.0, 9.0, 9.0)]
    assert math.isnan(score(PRECISION, [box], [box]))


def test_boxes_of_a_message_have_sides() -> None:
    hypothesis = SimpleNamespace(class_id="stop", score=0.5)
    centre = SimpleNamespace(position=SimpleNamespace(x=30.0, y=20.0))
    box = SimpleNamespace(center=centre, size_x=20.0, size_y=10.0)
    found = SimpleNamespace(results=[SimpleNamespace(hypothesis=hypothesis)], bbox=box)
    assert boxes_of(SimpleNamespace(detections=[found])) == (("stop", 0.5, 20.0, 15.0, 40.0, 25.0),)


def mixed() -> Run:
    """Four frames of a camera, three of them right, and two texts, one of them as it should be."""
    run = Run(has_ground_truth=True)
    run.accuracy = {("front", "a", "cpu"): 0.8, ("translator", "a", "cpu"): 0.4}
    for n in range(4):
        run.monitors.append(made := monitor(n, subnet_id="a"))
        run.truths.append(Label(made.time_ns - 1, "", made.frame, "stop"))
        run.results.append(Label(made.time_ns, "front", made.frame, "stop" if n else "yield"))
    for n, (text, answer) in enumerate(((MEANT, MEANT), (SAID, "Nein."))):
        at_ns, frame = START + n * S, (0, f"text {n}")
        run.monitors.append(monitor(n, app="translator", subnet_id="a", header=Header(at_ns)))
        run.truths.append(Label(at_ns, "translator", frame, text, EXACT))
        run.results.append(Label(at_ns + 1, "translator", frame, answer))
    run.texts = {"translator": "text 1"}
    return run


def test_every_application_has_its_own_metric() -> None:
    summary = metrics.summary(mixed())
    front, translator = summary["apps"]["front"], summary["apps"]["translator"]
    assert (front["accuracy_metric"], translator["accuracy_metric"]) == (TOP1, EXACT)
    assert front["accuracy"] == {"measured": 0.75, "expected": 0.8, "frames_scored": 4}
    assert translator["accuracy"] == {"measured": 0.5, "expected": 0.4, "frames_scored": 2}
    assert (front["frames_published"], translator["frames_published"]) == (4, 2)
    assert summary["accuracy"]["measured"] == pytest.approx((4 * 0.75 + 2 * 0.5) / 6)
    assert summary["frames_published"] == 6 and summary["accuracy_metric"] == "exact match, top-1"


def test_without_a_truth_the_metric_is_that_of_the_library() -> None:
    run = mixed()
    run.truths, run.metrics = [], {"front": TOP1, "translator": BLEU}
    apps = metrics.summary(run)["apps"]
    assert [apps[app]["accuracy_metric"] for app in ("front", "translator")] == [TOP1, BLEU]


def test_the_live_table_shows_what_was_asked_and_answered() -> None:
    run = mixed()
    boxes = (("stop", 0.9, 0, 0, 9, 9), ("stop", 0.8, 0, 0, 9, 9), ("yield", 0.1, 0, 0, 9, 9))
    run.results.append(Label(START, "detector", (1, "x"), boxes))
    run.monitors.append(monitor(0, app="detector"))
    rows = {row["app"]: row for row in status.status(run, START, START + 5 * S)["applications"]}
    assert (rows["translator"]["request"], rows["translator"]["answer"]) == ("text 1", "Nein.")
    assert (rows["front"]["request"], rows["front"]["answer"]) == ("", "stop")
    assert rows["detector"]["answer"] == "2 stop"
    run.texts = {}
    rows = {row["app"]: row for row in status.status(run, START, START + 5 * S)["applications"]}
    assert rows["translator"]["request"] == "text 1", "of an action nobody but the answer knows"


def test_kinds_of_applications_have_panels_of_their_own(tmp_path) -> None:
    cv2 = pytest.importorskip("cv2")
    heights = []
    for name, run in (("one.png", Run(monitors=[monitor(0)])), ("two.png", mixed())):
        plot_timeline(run, tmp_path / name)
        heights.append(cv2.imread(str(tmp_path / name)).shape[0])
    assert heights[1] > heights[0]
    assert set(scoring._SCORES) == {TOP1, EXACT, BLEU, PRECISION}
