"""`dynofa library from-onnx`: files of others, measured here, and an application that switches among them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_networks import COLOURS, classifier, colour_images, detr, save, scenes, yolo

from dynofa_ros.application.application import Application, Settings, loaded
from dynofa_ros.application.classification import ImageClassification
from dynofa_ros.application.detection import ObjectDetection
from dynofa_ros.application.task import Task
from dynofa_ros.cli.main import main
from dynofa_ros.library.library import load_library
from dynofa_ros.messages import AppTargets, Header
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.weights import load_weights
from dynofa_ros.topics import CLASSIFICATION, DETECTIONS, MONITOR, Topic

QUICK = ("--rounds", "5", "--pause-ms", "0")


def from_onnx(*arguments: object) -> int:
    try:
        return main(["library", "from-onnx", *map(str, (*arguments, *QUICK))])
    except SystemExit as error:
        return int(error.code or 0)


def answers(task: type[Task], library: Path, image: np.ndarray, *pinned: str) -> list[dict[Topic, Any]]:
    """What an application publishes for an image, with each sub-network pinned in turn."""
    published: list[dict[Topic, Any]] = []
    current: dict[Topic, Any] = {}
    weights = library.with_name(f"{library.stem}_networks.yaml")
    targets = AppTargets(app="front", latency_target_ms=1000.0, rate_hz=1000.0)
    settings = Settings(str(weights), str(library), cache_mb=32.0)
    options = {option.name: option.default for option in task.options}
    application = Application(
        "front",
        *loaded(task, settings, options),
        settings,
        targets,
        pinned[0],
        options=options,
        decode=lambda message: (Header(7, "lens"), message),
        publish=current.__setitem__,
        clock_ns=time.time_ns,
        warn=lambda text: None,
    )
    application.start()
    try:
        for subnet in pinned:
            application.change(targets, subnet)
            end = time.monotonic() + 30
            while application.current.key.subnet_id != subnet:
                assert time.monotonic() < end
                time.sleep(0.005)
            current.pop(MONITOR, None)
            assert application.accept(image)
            while MONITOR not in current:
                assert time.monotonic() < end
                time.sleep(0.005)
            assert current[MONITOR].subnet_id == subnet
            published.append(dict(current))
    finally:
        application.stop("")
        application.close()
    return published


def test_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The quick one is blind for a colour; a third is as blind and slower, so it is left out."""
    images = colour_images(tmp_path / "images")
    (tmp_path / "nets").mkdir()
    files = [
        classifier(tmp_path / "nets" / "good.onnx", 640),
        classifier(tmp_path / "nets" / "blind.onnx", 32, blind=True),
        classifier(tmp_path / "nets" / "late.onnx", 900, blind=True),
    ]
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    out = tmp_path / "cpu.yaml"
    named = ("--labels", tmp_path / "labels.txt", "--out", out)
    assert from_onnx(*files, "--images", images, *named, "--json", tmp_path / "j") == 0
    assert "left out: nets/late.onnx" in capsys.readouterr().out
    assert json.loads((tmp_path / "j").read_text())["slower"] == ["nets/late.onnx"]
    listed = tmp_path / "cpu_networks.yaml"
    library = load_library(out, load_weights(load_space("onnx_classification"), listed))
    assert [e.id for e in library] == ["s00_blind", "s01_good"]
    assert [e.accuracy for e in library] == pytest.approx([2 / 3, 1], abs=1e-4)
    assert library.entries[1].macs == 9 and library.entries[1].params == 9
    blue = np.full((48, 64, 3), (255, 0, 0), np.uint8)
    found = [
        answer[CLASSIFICATION].results[0].class_id
        for answer in answers(ImageClassification, out, blue, "s00_blind", "s01_good", "s00_blind")
    ]
    assert found == ["green", "blue", "green"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_detectors_of_both_kinds(tmp_path: Path, engine: str):
    """One of each kind and one that is a little off, in pixels of the image whatever the input's aspect."""
    pytest.importorskip("pycocotools")
    pytest.importorskip(engine)
    data = scenes(tmp_path / "data")
    files = [
        yolo(tmp_path / "y.onnx", 256),
        yolo(tmp_path / "off.onnx", 64, off=4),
        detr(tmp_path / "d.onnx", 256),
    ]
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    arguments = ("--data", data, "--labels", tmp_path / "labels.txt", "--engine", engine)
    for file in files[1:]:  # a library of two, as either of the good ones may be the quicker one
        out = tmp_path / f"{file.stem}.yaml"
        other = files[0] if file.stem == "off" else files[1]
        assert from_onnx(file, other, *arguments, "--out", out) == 0
        library = load_library(out)
        assert library.accuracy_metric == "mAP50:95" and library.space == "onnx_detection"
        assert library.entries[-1].accuracy == pytest.approx(1, abs=1e-3)
        assert library.entries[0].id == "s00_off" and 0 < library.entries[0].accuracy < 0.8
    marks = (tmp_path / "data" / "0.txt").read_text().split()
    image = cv2.imread(str(data / "0.png"))
    answer = answers(ObjectDetection, tmp_path / "d.yaml", image, "s01_d")[0]
    best = answer[DETECTIONS].detections[0]
    assert best.results[0].hypothesis.class_id == COLOURS[int(marks[0])]
    assert best.bbox.center.position.x == pytest.approx(float(marks[1]) * 128, abs=0.1)
    assert best.bbox.center.position.y == pytest.approx(float(marks[2]) * 64, abs=0.1)
    assert (best.bbox.size_x, best.bbox.size_y) == pytest.approx((32, 32), abs=0.1)


def detector(path: Path, **outputs: Any) -> Path:
    """A network whose outputs are constants, each an array with the dimension of images."""
    nodes = [helper.make_node("Identity", [f"{name}_is"], [name]) for name in outputs]
    arrays = {f"{name}_is": value for name, value in outputs.items()}
    shapes = {name: np.shape(value) for name, value in outputs.items()}
    return save(path, nodes, arrays, (1, 3, 32, 32), shapes)


ROWS = [[4, 6, 12, 22, 0.8, 0.0], [8, 8, 16, 16, 0.0, 0.3]]  # left, top, right, bottom and two scores
CENTRED = [[8, 14, 8, 16], [12, 12, 8, 8]]


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"o": [np.c_[CENTRED, [[0.8, 0], [0, 0.3]]].T]}, {}),  # YOLOv8
        ({"o": [np.c_[CENTRED, [[0.8, 1, 0], [0.5, 0, 0.6]]]]}, {}),  # YOLOv5, with objectness
        (
            {"o": [np.c_[np.array(ROWS)[:, :4], [[0.8, 0], [0.3, 1]]]]},
            {"outputs": {"o": "left top right bottom score class"}},
        ),  # selected, as YOLOv10
        (
            {"b": [np.divide(CENTRED, 32)], "s": [np.log([[4, 1e-9], [1e-9, 3 / 7]])]},
            {},
        ),  # RF-DETR
        (
            {"b": [np.divide(CENTRED, 32)], "s": [np.log([[0.8, 1e-9, 0.2], [1e-9, 0.3, 0.7]])]},
            {},
        ),  # DETR: the last is no object
        (
            {"s": [np.log([[0.2, 0.8, 1e-9], [0.7, 1e-9, 0.3]])], "b": [np.array(ROWS)[:, :4]]},
            {"outputs": {"b": "left top right bottom", "s": "none classes"}},
        ),
        (
            {"o": [np.c_[[4, 8], [7, 8], [6, 8], [8, 8], [16, 8], [0.8, 0], [0, 0.3]]]},
            {"outputs": {"o": "left - top w h classes"}},
        ),
    ],
    ids=["yolo8", "yolo5", "selected", "sigmoid", "softmax", "background first", "described"],
)
def test_what_outputs_mean(tmp_path: Path, outputs: dict[str, Any], said: dict[str, Any]):
    from dynofa_ros.library.own_networks import usual_config
    from dynofa_ros.supernet.families.onnx_files import NetworksFile, own_weights
    from dynofa_ros.supernet.onnx_adapter import read_model
    from dynofa_ros.supernet.supernet import Supernet

    path = detector(tmp_path / "n.onnx", **{k: np.array(v, np.float32) for k, v in outputs.items()})
    config = usual_config("n.onnx", onnx.load(path), said, 2, "detection")
    listed = NetworksFile(1, "detection", 2, ("a", "b"), {"n.onnx": read_model(path).sha256})
    supernet = Supernet(load_space("onnx_detection"), own_weights(listed, tmp_path / "list.yaml"))
    rows = supernet.prepare(config, processor="cpu")(np.zeros((1, 3, 32, 32), np.float32))
    np.testing.assert_allclose(rows[0], ROWS, atol=1e-4)


def test_other_layouts_of_the_input_and_probabilities(tmp_path: Path):
    """Interleaved, half precision, weights in another file; probabilities stay what they are."""
    from dynofa_ros.library.own_networks import usual_config
    from dynofa_ros.supernet.families.onnx_files import NetworksFile, own_weights
    from dynofa_ros.supernet.onnx_adapter import read_model
    from dynofa_ros.supernet.supernet import Supernet

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["mean", "w"], ["y"]),
    ]
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", half, (1, 8, 12, 3))],
        [helper.make_tensor_value_info("y", half, (1, 3))],
        [onnx.numpy_helper.from_array(np.array([0.5, 0.25, 0.25], np.float16), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "n.onnx"
    onnx.save(model, path, save_as_external_data=True, location="n.data", size_threshold=0)
    said = {"activation": "none", "mean": [0, 0, 0], "std": [1, 1, 1], "colours": "bgr"}
    config = usual_config("n.onnx", onnx.load(path), said, 3, "classification")
    assert (config.height, config.width) == (8, 12)
    listed = NetworksFile(1, "classification", 3, (), {"n.onnx": read_model(path).sha256})
    supernet = Supernet(load_space("onnx_classification"), own_weights(listed, tmp_path / "list.yaml"))
    white = np.full((80, 90, 3), 255, np.uint8)
    image = supernet.space.preprocess(white, config)
    logits = supernet.prepare(config, processor="cpu")(image)[0]
    np.testing.assert_allclose(np.exp(logits), [0.5, 0.25, 0.25], atol=1e-3)
    (tmp_path / "n.data").write_bytes(b"\0" * (tmp_path / "n.data").stat().st_size)
    with pytest.raises(ValueError, match="n.onnx has changed since it was measured"):
        supernet.weights["n.onnx"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert from_onnx(*arguments) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images, out = colour_images(tmp_path / "images"), ("--out", tmp_path / "x.yaml")
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    colours = ("--images", images, "--labels", tmp_path / "labels.txt", *out)
    good = classifier(tmp_path / "good.onnx", 64)
    assert "give --images DIR for classifiers" in refused(capsys, good, *out)
    assert "no.onnx: cannot be read: No such file" in refused(capsys, tmp_path / "no.onnx", *colours)
    dynamic = classifier(tmp_path / "d.onnx", 64, batch="N")
    assert "d.onnx has the input x (?, 3, 64, 64), a dynamic batch: export it with the fixed shape" in (
        refused(capsys, good, dynamic, *colours)
    )
    gray = helper.make_node("Flatten", ["x"], ["y"])
    gray = save(tmp_path / "gray.onnx", [gray], {}, (1, 1, 28, 28), {"y": (1, 784)})
    assert "gray.onnx has the input x (1, 1, 28, 28): export it with the fixed shape (1, 3" in refused(
        capsys, good, gray, *colours
    )
    flat = detector(tmp_path / "flat.onnx", a=np.zeros((1, 4)), b=np.zeros((1, 9)))
    assert "flat.onnx has outputs of an unknown kind for 3 classes: a (1, 4), b (1, 9)" in refused(
        capsys, flat, *colours
    )
    (tmp_path / "what.yaml").write_text("outputs: {z: classes}")
    described = ("--output-description", tmp_path / "what.yaml")
    assert "good.onnx has no output 'z': it has y (1, 3)" in refused(capsys, good, *colours, *described)
    (tmp_path / "what.yaml").write_text("outputs: {y: klasses}")
    assert "column 'klasses' is unknown" in refused(capsys, good, *colours, *described)
    (tmp_path / "what.yaml").write_text("output: {}")
    assert "unknown field `output`" in refused(capsys, good, *colours, *described)
    (tmp_path / "what.yaml").write_text("networks: {god.onnx: {fit: stretch}}")
    assert "is also for god.onnx, which is none of the networks" in refused(
        capsys, good, *colours, *described
    )
    (tmp_path / "what.yaml").write_text("fill: 300")
    assert "good.onnx fill = 300 is not allowed" in refused(capsys, good, *colours, *described)
    for side in (0, -1, 10**6):
        wrong = classifier(tmp_path / "side.onnx", side)
        assert f"side.onnx has the input x (1, 3, {side}, {side}): export it with the" in refused(
            capsys, wrong, *colours
        )
    later = onnx.load(good)
    later.opset_import[0].version = 99
    onnx.save(later, tmp_path / "later.onnx")
    assert "later.onnx: onnxruntime refused the sub-network: " in refused(
        capsys, tmp_path / "later.onnx", *colours
    )
    later = onnx.load(good)
    later.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.full((3, 3), np.nan, np.float32), "w")
    )
    onnx.save(later, tmp_path / "nan.onnx")
    assert "nan: its outputs are no numbers (NaN)" in refused(capsys, tmp_path / "nan.onnx", *colours)
    assert f"{tmp_path}: cannot be read: not an ordinary file" in refused(capsys, tmp_path, *colours)
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    assert "good.onnx has the output y (1, 3), but its description has 2 columns" in refused(
        capsys, good, *colours
    )
    (tmp_path / "text.onnx").write_text("no network")
    assert "text.onnx: not an ONNX file" in refused(capsys, tmp_path / "text.onnx", *colours)
    assert "names of the classes are needed" in refused(
        capsys, yolo(tmp_path / "y.onnx", 64), "--data", images, *out
    )
    assert not (tmp_path / "x.yaml").exists() and not (tmp_path / "x_networks.yaml").exists()


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("{0: 'red', 1: 'green', 2: 'blue'}", COLOURS),
        ('{"0": "red", "10": "blue", "2": "green"}', COLOURS),  # of JSON: by number, too
        ("['red', 'green', 'blue']", COLOURS),
        ("{0: 'red', 'b': 'green'}", ()),
        ("[" * 5000, ()),
    ],
)
def test_names_that_a_file_carries(tmp_path: Path, names: str, read: tuple[str, ...]):
    from dynofa_ros.library.own_networks import _stored_labels

    model = onnx.load(classifier(tmp_path / "n.onnx", 32))
    onnx.helper.set_model_props(model, {"names": names})
    assert _stored_labels(model) == read


def test_names_in_two_orders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Else the classes of the second would be those of the first."""
    files = []
    for order in (COLOURS, COLOURS[::-1]):
        model = onnx.load(classifier(tmp_path / "n.onnx", 32))
        onnx.helper.set_model_props(model, {"names": str(list(order))})
        files.append(tmp_path / f"{order[0]}.onnx")
        onnx.save(model, files[-1])
    images, out = colour_images(tmp_path / "images"), ("--out", tmp_path / "x.yaml")
    assert "blue.onnx: its classes are blue, green, red, ..., those before it have red, green" in refused(
        capsys, *files, "--images", images, *out
    )


@pytest.mark.parametrize("tail", [(), ("Flatten",)])
def test_a_softmax_of_the_file_is_the_only_one(tmp_path: Path, tail: tuple[str, ...]):
    """Twice it leaves the best class where it is, and its score at e / (e + n - 1)."""
    from dynofa_ros.library.own_networks import usual_config

    model = onnx.load(classifier(tmp_path / "n.onnx", 32))
    assert usual_config("n", model, {}, 3, "classification").activation == "softmax"
    model.graph.node[-1].output[0] = "scores"
    for op, (source, target) in zip(
        ("Softmax", *tail), [("scores", "p" if tail else "y"), ("p", "y")], strict=False
    ):
        model.graph.node.append(helper.make_node(op, [source], [target]))
    assert usual_config("n", model, {}, 3, "classification").activation == "none"


def test_a_file_that_is_another_one_by_now(tmp_path: Path):
    images, out = colour_images(tmp_path / "images"), tmp_path / "cpu.yaml"
    good = classifier(tmp_path / "good.onnx", 64)
    assert from_onnx(good, "--images", images, "--out", out) == 0  # in natural order: blue, green, red
    (entry,), notes = (found := load_library(out)).entries, found.notes
    assert entry.accuracy == pytest.approx(1 / 3, abs=1e-4) and "no names of classes are known" in notes[0]
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    assert from_onnx(good, "--images", images, "--labels", tmp_path / "labels.txt", "--out", out) == 0
    blue = np.full((48, 64, 3), (255, 0, 0), np.uint8)
    classifier(good, 32)
    with pytest.raises(ValueError, match="good.onnx has changed since it was measured"):
        answers(ImageClassification, out, blue, "s00_good")
    good.unlink()
    with pytest.raises(ValueError, match="good.onnx: cannot be read: No such file"):
        answers(ImageClassification, out, blue, "s00_good")
    listed = tmp_path / "cpu_networks.yaml"
    with pytest.raises(ValueError, match="its networks are for classification, onnx_detection for detection"):
        load_weights(load_space("onnx_detection"), listed)
    listed.write_text("schema_version: 1")
    with pytest.raises(ValueError, match="no list of networks as `dynofa library from-onnx` writes it"):
        load_weights(load_space("onnx_classification"), listed)
