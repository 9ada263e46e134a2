"""`dynofa train`: from a folder of images to weights that the rest of the package takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
from dynofa_ros.cli.main import main
from dynofa_ros.cli.train import SPACES, first_checkpoint
from dynofa_ros.demo.signs import CLASS_NAMES, render_sample, render_scene
from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.weights import load_weights, read_checkpoint, save_weights
from dynofa_ros.training.own_data import first_weights, read_data

QUICK = ("--passes", "0.01", "--batch", "2", "--threads", "1")


@pytest.mark.parametrize("name", SPACES.values())
def test_a_training_begins_with_the_demo_weights_of_its_space(name: str) -> None:
    """A detector that began with the body of the classifier reached mAP50 .27 on road signs, not .65."""
    space, init = load_space(name), first_checkpoint(None, load_space(name))
    assert init is not None
    stored = read_checkpoint(init)
    begun = first_weights(space, stored.labels, init, seed=0)
    assert all((begun[key].numpy() == array).all() for key, array in stored.arrays.items())


def train(*arguments: object) -> int:
    try:
        return main(["train", *map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three images; a name with a comma."""
    folder = tmp_path_factory.mktemp("classes")
    for index in range(60):
        image, label = render_sample(50, index)
        name = ("Stop, halt", "Größe")[label % 2]
        (folder / name).mkdir(exist_ok=True)
        if len(list((folder / name).iterdir())) < 3:
            cv2.imwrite(str(folder / name / f"{index}.png"), image[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes in the layout of YOLO."""
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES))
    for index in range(4):
        scene = render_scene(51, index, 144, 256)
        cv2.imwrite(str(folder / f"{index}.png"), scene.image[..., ::-1])
        lines = []
        for label, (left, top, right, bottom) in zip(scene.labels, scene.boxes, strict=True):
            middle = (left + right) / 512, (top + bottom) / 288
            lines.append(f"{label} {middle[0]} {middle[1]} {(right - left) / 256} {(bottom - top) / 144}")
        (folder / f"{index}.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_own_classes(tmp_path: Path, classes: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "own.safetensors"
    command = ("--task", "classification", "--images", classes, "--out", out, *QUICK)
    assert train(*command, "--json", tmp_path / "j") == 0
    document = json.loads((tmp_path / "j").read_text())
    assert document["labels"] == ["Größe", "Stop, halt"] and document["steps"] == 1
    assert (document["trained_images"], document["held_out_images"]) == (4, 2)
    assert set(document["scores"]) == {"smallest_top1", "largest_top1"}
    assert f"written: {out}" in capsys.readouterr().out
    supernet = load_supernet("ofa_mbv3_demo", out)
    assert supernet.weights.labels == ("Größe", "Stop, halt")
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")
    checkpoint = tmp_path / "own.training" / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns
    assert train(*command) == 0  # it is at its end
    assert checkpoint.stat().st_mtime_ns == before


@pytest.mark.slow
def test_own_boxes(tmp_path: Path, boxes: Path):
    out = tmp_path / "own.safetensors"
    assert train("--task", "detection", "--data", boxes, "--out", out, *QUICK, "--json", tmp_path / "j") == 0
    document = json.loads((tmp_path / "j").read_text())
    assert document["space"] == "ofa_mbv3_demo_detector" and document["held_out_images"] == 1
    assert all(0 <= value <= 1 for value in document["scores"].values())
    assert len(document["notes"]) == len(CLASS_NAMES) - len(document["labels"])  # without an example
    assert load_supernet("ofa_mbv3_demo_detector", out).weights.labels == tuple(document["labels"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert train(*arguments) in (1, 2)
    return capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, classes: Path, boxes: Path, capsys: pytest.CaptureFixture[str]):
    out = ("--out", tmp_path / "x.safetensors")
    classify, detect = ("--task", "classification", *out), ("--task", "detection", *out)
    assert "takes its images from --images DIR" in refused(capsys, *classify, "--data", boxes)
    assert "takes its images from --data DIR" in refused(capsys, *detect)
    assert "must end in .safetensors" in refused(
        capsys, "--task", "detection", "--data", boxes, "--out", tmp_path / "x.pth"
    )
    wrong = refused(capsys, *classify, "--images", classes, "--space", "ofa_mbv3_demo_detector")
    assert "--space ofa_mbv3_demo_detector is for the task detection" in wrong
    for command, folder, space in (
        (detect, ("--data", boxes), "rfdetr_nano"),
        (classify, ("--images", classes), "onnx_classification"),
    ):
        assert f"--space {space} is trained elsewhere" in refused(capsys, *command, *folder, "--space", space)
    random = refused(capsys, *classify, "--images", classes, "--space", "ofa_mbv3_w1.0", "--freeze", 0.5)
    assert "--freeze keeps the weights of a checkpoint, and ofa_mbv3_w1.0 has none: give --init" in random
    (tmp_path / "bad").mkdir()
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "bad" / name).parent.mkdir()
        (tmp_path / "bad" / name).write_text("no image")
    lines = refused(capsys, *classify, "--images", tmp_path / "bad").splitlines()
    assert lines[0].startswith("dynofa train: ") and [
        line.count("not a whole image") for line in lines[:2]
    ] == [1, 1]
    for name in ("a/1.png", "b/2.png"):
        cv2.imwrite(str(tmp_path / "bad" / name), np.zeros((8, 8, 3), np.uint8))
    assert "no image is left to measure a library on: at least two of a class" in refused(
        capsys, *classify, "--images", tmp_path / "bad", "--library", tmp_path / "x.yaml"
    )
    init = tmp_path / "other.pth"
    init.write_text("no checkpoint")
    assert "other.pth: not a readable checkpoint" in refused(
        capsys, *classify, "--images", classes, "--init", init
    )


def test_an_image_with_a_box_is_held_out_wherever_there_are_two(tmp_path: Path):
    """Else accuracy is that of images without a box, which is none."""
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((48, 64, 3), np.uint8))
    for index in range(1, 8):
        (tmp_path / f"{index}.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "classes.txt").write_text("car")
    for marked, scored in (("3", 0), ("35", 1)):
        for index in marked:
            (tmp_path / f"{index}.txt").write_text("0 .5 .5 .5 .5")
        space = load_space("ofa_mbv3_demo_detector")
        data = [read_data(space, tmp_path, 0.2, seed, False, lambda total: None) for seed in range(8)]
        assert {one.scored for one in data} == {scored} and len({one.digest for one in data}) > 1


def test_a_training_begins_with_what_fits_of_a_checkpoint(tmp_path: Path):
    classifier, detector = map(load_space, SPACES.values())
    demo = first_checkpoint(None, classifier)
    assert demo is not None
    stored = load_weights(classifier, demo)
    own = first_weights(classifier, ["a", "b"], demo, seed=0)
    assert own["classifier.linear.weight"].shape[0] == 2
    assert (own["first_conv.conv.weight"].numpy() == stored["first_conv.conv.weight"]).all()
    same = first_weights(classifier, read_checkpoint(demo).labels, demo, seed=0)
    assert (same["classifier.linear.weight"].numpy() == stored["classifier.linear.weight"]).all()
    boxes = first_weights(detector, ["a", "b"], demo, seed=0)
    assert (boxes["first_conv.conv.weight"].numpy() == stored["first_conv.conv.weight"]).all()
    broken = tmp_path / "broken.safetensors"
    name = "first_conv.conv.weight"
    save_weights(broken, replace(stored, arrays={**stored.arrays, name: np.full_like(stored[name], np.nan)}))
    with pytest.raises(ValueError, match=r"broken.safetensors: first_conv.conv.weight holds values that are"):
        first_weights(classifier, ["a", "b"], broken, seed=0)
    with pytest.raises(ValueError, match="of its arrays are those of ofa_mbv3_w1.0"):
        first_weights(load_space("ofa_mbv3_w1.0"), ["a", "b"], demo, seed=0)
