"""`dynofa library build --data`: mAP50:95 of detectors, inputs of the aspect of the images."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rfdetr_reference as reference

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
from dynofa_ros.application.application import Application, Settings, loaded  # noqa: E402
from dynofa_ros.application.detection import ObjectDetection  # noqa: E402
from dynofa_ros.cli.main import main  # noqa: E402
from dynofa_ros.datasets.boxes import BoxData, read_boxes  # noqa: E402
from dynofa_ros.datasets.problems import DataError  # noqa: E402
from dynofa_ros.demo.signs import CLASS_NAMES, render_scene  # noqa: E402
from dynofa_ros.library import build as builder  # noqa: E402
from dynofa_ros.library.accuracy import split  # noqa: E402
from dynofa_ros.library.library import Library, load_library  # noqa: E402
from dynofa_ros.library.precision import MeasuredPrecision  # noqa: E402
from dynofa_ros.messages import AppTargets, Header  # noqa: E402
from dynofa_ros.supernet.families import rfdetr  # noqa: E402
from dynofa_ros.supernet.masked import initial_weights  # noqa: E402
from dynofa_ros.supernet.preprocess import letterbox_scale  # noqa: E402
from dynofa_ros.supernet.registry import load_space  # noqa: E402
from dynofa_ros.supernet.supernet import Supernet  # noqa: E402
from dynofa_ros.supernet.weights import load_weights, save_weights  # noqa: E402
from dynofa_ros.topics import DETECTIONS, LABEL_INFO, MONITOR, Topic  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SPACE = "ofa_mbv3_demo_detector"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of 4:3 in the layout of YOLO."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES))
    for index in range(6):
        scene = render_scene(61, index, 120, 160)
        cv2.imwrite(str(folder / f"{index}.png"), scene.image[..., ::-1])
        shares = scene.boxes / [160, 120, 160, 120]
        middles, sides = (shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]
        rows = zip(scene.labels, middles, sides, strict=True)
        lines = [f"{label} {m[0]} {m[1]} {s[0]} {s[1]}" for label, m, s in rows]
        (folder / f"{index}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    space = load_space(SPACE)
    weights = load_weights(space, initial_weights(space, len(CLASS_NAMES))).with_labels(CLASS_NAMES)
    return Supernet(space, weights)


def built(tmp_path: Path, scenes: Path, supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 6)
    weights, out, space = tmp_path / "w.safetensors", tmp_path / "cpu.yaml", supernet.space.name
    save_weights(weights, supernet.weights)
    command = ["library", "build", "--space", space, "--weights", weights, "--data", scenes, "--out", out]
    quick = ["--evaluations", "4", "--rounds", "5", "--points", "2", "--pause-ms", "0"]
    assert main([*map(str, command), *quick]) == 0
    library = load_library(out)
    assert library.accuracy_metric == "mAP50:95"
    return library


@pytest.mark.slow
def test_a_library_of_rfdetr(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing to normalise: all images are scored. Its boxes are in pixels of the image, too."""
    own = partial(rfdetr.RfDetrSpace, "rfdetr_reduced", reference.REDUCED)
    monkeypatch.setitem(rfdetr.FAMILY.known, own.args[0], own)
    monkeypatch.setattr(rfdetr.RfDetrSpace, "input_sizes", range(192, 257, 64))
    space = load_space("rfdetr_reduced")
    drawn = load_weights(space, reference.weights(space, len(CLASS_NAMES))).with_labels(CLASS_NAMES)
    library = built(tmp_path, scenes, Supernet(space, drawn), monkeypatch)
    assert "on 6 images" in library.notes[0] and "BN" not in library.notes[0]
    assert set(library.entries[0].config) == {"resolution", "decoder_layers", "queries", "windows"}
    published = answers_of(tmp_path / "w.safetensors", tmp_path / "cpu.yaml")
    (found,) = published[DETECTIONS]
    boxes = [d.bbox for d in found.detections]
    assert len(boxes) == 300 and found.header == SENT  # the likeliest classes of the queries, none suppressed
    assert all(0 <= b.center.position.x - b.size_x / 2 + 0.01 for b in boxes)
    assert max(b.center.position.x + b.size_x / 2 for b in boxes) <= 160.01


@pytest.mark.slow
def test_a_library_of_a_detector(
    tmp_path: Path, scenes: Path, supernet: Supernet, monkeypatch: pytest.MonkeyPatch
):
    weights, out = tmp_path / "w.safetensors", tmp_path / "cpu.yaml"
    library = built(tmp_path, scenes, supernet, monkeypatch)
    assert "mAP50:95 by pycocotools on 4 images" in library.notes[0]
    entry = library.entries[0]
    assert entry.config["height"] / entry.config["width"] == pytest.approx(3 / 4, abs=0.1)
    assert entry.id.endswith(f"_{entry.config['width']}x{entry.config['height']}")
    published = answers_of(weights, out)
    assert [c.class_name for c in published[LABEL_INFO][0].class_map] == list(CLASS_NAMES)
    (found,), (monitor,) = published[DETECTIONS], published[MONITOR]
    assert found.header == SENT and monitor.header == SENT
    assert 0 < len(found.detections) <= 300  # random weights find something below the threshold of 0.011
    for box in (d.bbox for d in found.detections):
        middle, half = (box.center.position.x, box.center.position.y), (box.size_x / 2, box.size_y / 2)
        for at, reach, edge in zip(middle, half, (160, 120), strict=True):
            assert -0.01 <= at - reach and at + reach <= edge + 0.01


SENT = Header(12, "lens")


def answers_of(weights: Path, library: Path) -> dict[Topic, list[Any]]:
    """What an application of these files publishes for one image of 160 x 120 px."""
    published: dict[Topic, list[Any]] = {}
    settings = Settings(str(weights), str(library), cache_mb=32.0)
    options = {o.name: o.default for o in ObjectDetection.options} | {"score_threshold": 0.011}
    application = Application(
        "front",
        *loaded(ObjectDetection, settings, options),
        settings,
        AppTargets(app="front", latency_target_ms=1000.0, rate_hz=100.0),
        "",
        options=options,
        decode=lambda message: (SENT, message),
        publish=lambda topic, message: published.setdefault(topic, []).append(message),
        clock_ns=time.time_ns,
        warn=lambda text: None,
        unanswered=lambda *what: None,
    )
    application.start()
    try:
        assert application.accept(np.full((120, 160, 3), 127, np.uint8))
        end = time.monotonic() + 20
        while MONITOR not in published:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        application.stop("")
        application.close()
    return published


def test_a_perfect_detector_has_a_precision_of_one(
    scenes: Path, supernet: Supernet, monkeypatch: pytest.MonkeyPatch
):
    """Boxes in pixels of its input become those of the image, its classes those of the weights."""
    data = read_boxes(scenes)
    measure = MeasuredPrecision(supernet, data, split(6, 100, 0))
    assert measure.numbers == (2, 4)
    config = supernet.space.config(width=256, height=192)
    scored = iter(measure._marked)

    def run(images: np.ndarray) -> np.ndarray:
        marked = next(scored)
        rows = np.zeros((1, len(marked.boxes), 4 + len(CLASS_NAMES)), np.float32)
        rows[0, :, :4] = marked.boxes * (2 * letterbox_scale(marked.size, config.height, config.width))
        for row, label in zip(rows[0], marked.labels, strict=True):
            row[4 + CLASS_NAMES.index(data.names[label])] = 0.9
        return rows

    assert measure._rate(run, config) == pytest.approx(1)


def test_what_is_refused(
    tmp_path: Path, scenes: Path, supernet: Supernet, capsys: pytest.CaptureFixture[str]
):
    out = ["--out", str(tmp_path / "x.yaml")]
    assert main(["library", "build", "--space", SPACE, *out]) == 1
    assert f"accuracy of {SPACE} must come from --data DIR, images with boxes" in capsys.readouterr().err
    assert main(["library", "build", "--space", SPACE, "--data", str(scenes), *out]) == 2
    assert "--data needs --weights" in capsys.readouterr().err
    data = read_boxes(scenes)
    with pytest.raises(DataError, match="1 images are too few"):
        split(6, 1, 0)
    with pytest.raises(DataError, match="has no class 'cup': it knows 25, such as stop"):
        MeasuredPrecision(supernet, BoxData("COCO", ("cup",), data.images), split(6, 9, 0))


def test_the_library_of_the_demo_is_measured_on_drawn_scenes(
    tmp_path: Path, supernet: Supernet, monkeypatch: pytest.MonkeyPatch
):
    """As tools/build_demo_library.py does it: BN statistics and scores from different scenes."""
    import build_demo_library as tool

    monkeypatch.setattr(tool, "CALIBRATION", 3)
    measured = tool.KINDS[SPACE].measure(supernet, 5, 2, tmp_path, lambda: None)
    assert measured.numbers == (3, 2) and len(list(tmp_path.iterdir())) == 5
    assert 0 <= measured.score(supernet.space.config(width=256, height=160)) < 0.1, "random weights"
    assert len(measured.statistics) == 1
