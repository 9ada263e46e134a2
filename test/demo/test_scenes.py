"""Scenes of the demo's camera, in the data of a library and in the picture of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_pictures import drawn_scenes
from factories import START, S, monitor

from dynofa_ros.datasets.reader import read_image
from dynofa_ros.demo.camera_sources import scene_picture
from dynofa_ros.demo.scene_sheet import _shown, plot_scenes
from dynofa_ros.demo.signs import (
    CLASS_NAMES,
    SCENE_HEIGHT,
    SCENE_WIDTH,
    SCENES_HELD_OUT_SEED,
    render_scene,
)
from dynofa_ros.messages import Header
from dynofa_ros.recording.run import Label, Reading, Run
from dynofa_ros.recording.scoring import PRECISION, Box


def test_scenes_are_reproducible_and_have_boxes() -> None:
    first, again, other = scene_picture(2, 3), scene_picture(2, 3), scene_picture(3, 3)
    assert np.array_equal(first.rgb, again.rgb) and not np.array_equal(first.rgb, other.rgb)
    assert first.label is None and first.boxes is not None and len(first.boxes.boxes) >= 1


def test_a_scene_fills_the_image_and_its_boxes_follow() -> None:
    scene = scene_picture(0, 0)
    shown = scene.shown(2 * SCENE_WIDTH, SCENE_HEIGHT)
    assert shown.rgb.shape == (SCENE_HEIGHT, 2 * SCENE_WIDTH, 3)
    assert scene.boxes is not None and shown.boxes is not None
    assert np.allclose(shown.boxes.boxes, scene.boxes.boxes * [2, 1, 2, 1])


def test_drawn_scenes_are_data_with_boxes(tmp_path: Path) -> None:
    data = drawn_scenes(SCENES_HELD_OUT_SEED, 2, tmp_path)
    assert data.names == CLASS_NAMES and len(data.images) == 2
    assert data.aspect == pytest.approx(SCENE_HEIGHT / SCENE_WIDTH)
    scene = render_scene(SCENES_HELD_OUT_SEED, 1)
    assert np.array_equal(read_image(data.images[1].path)[..., ::-1], scene.image)
    assert np.array_equal(data.images[1].boxes, scene.boxes)


def boxes_of(index: int, score: float) -> tuple[Box, ...]:
    found = scene_picture(0, index).boxes
    assert found is not None
    rows = zip(found.labels.tolist(), found.boxes.tolist(), strict=True)
    return tuple((CLASS_NAMES[label], score, *sides) for label, sides in rows)


def run_of(score: float) -> Run:
    """Two scenes, the second one answered, with boxes of this score."""
    frames = [(START + n * S, "detector_camera") for n in range(2)]
    run = Run(marks=[Reading(START, "steady"), Reading(START + 5 * S, "end")])
    run.truths = [Label(START, "", frame, boxes_of(n, 1.0), PRECISION) for n, frame in enumerate(frames)]
    run.results = [Label(START + 2 * S, "detector", frames[1], boxes_of(1, score))]
    run.monitors = [replace(monitor(2.0), app="detector", header=Header(*frames[1]))]
    return run


def test_the_picture_has_the_boxes_that_are_sure_enough(tmp_path: Path) -> None:
    yellow = []
    for score in (0.9, 0.1):
        plot_scenes(run_of(score), 0, tmp_path / "scenes.png")
        picture = cv2.imread(str(tmp_path / "scenes.png")).astype(int)
        yellow.append(int((np.abs(picture - (0x3D, 0xD3, 0xFF)).max(axis=2) < 8).sum()))
    assert yellow[0] > yellow[1] + 100


def test_of_several_classes_in_one_place_the_surest_is_shown() -> None:
    same = [("stop", 0.9, 0.0, 0.0, 40.0, 40.0), ("yield", 0.8, 1.0, 1.0, 40.0, 40.0)]
    other = ("stop", 0.5, 100.0, 100.0, 140.0, 140.0)
    assert _shown([*same, other]) == [same[0], other] and _shown([]) == []


def test_a_run_without_an_answer_has_no_picture(tmp_path: Path) -> None:
    run = run_of(0.9)
    run.results = []
    plot_scenes(run, 0, tmp_path / "scenes.png")
    assert not (tmp_path / "scenes.png").exists()
