"""`dynofa library build`: predictor or images, table or this machine, and what it says of wrong input."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dynofa_ros.cli.main import main
from dynofa_ros.datasets.problems import DataError
from dynofa_ros.demo.signs import CLASS_NAMES, render_sample
from dynofa_ros.files import natural
from dynofa_ros.library import build as builder
from dynofa_ros.library.accuracy import FileImages, labelled_files, split
from dynofa_ros.library.files import open_library
from dynofa_ros.library.library import load_library
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
from dynofa_ros.supernet.weights import Weights, load_weights

TABLE = share_file("config", "latency_tables", "xavier_nx_gpu.yaml")
WEIGHTS = share_file("config", "weights", f"{DEMO_SPACE}.safetensors")
PREDICTED = ["--space", "ofa_mbv3_w1.2", "--latency-table", str(TABLE), "--evaluations", "2000"]
MEASURED = ["--space", DEMO_SPACE, "--weights", str(WEIGHTS), "--evaluations", "12", "--rounds", "5"]
QUICK = ["--pause-ms", "0", "--points", "4"]


def build(*arguments: str | Path) -> int:
    return main(["library", "build", *map(str, arguments)])


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 labelled pictures of the demo's signs, one folder per class."""
    folder = tmp_path_factory.mktemp("signs")
    for index in range(48):
        image, label = render_sample(9, index)
        (folder / CLASS_NAMES[label]).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / CLASS_NAMES[label] / f"{index}.png"), image[..., ::-1])
    return folder


def test_table_and_predictor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.yaml", "b.yaml")]
    for file in files:
        assert build(*PREDICTED, "--out", file, "--json", tmp_path / "front.json") == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    library = load_library(files[0])
    assert len(library.entries) == 32 and library.weights_sha256 is None
    assert {(e.accuracy_source, e.latency_source) for e in library} == {("predicted", "predicted")}
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "4.5 to 6.9 points more",
        "about half of what was measured",
        "share of beta (0.9) is a guess",
    ):
        assert words in text and words in " ".join(library.notes)
    document = json.loads((tmp_path / "front.json").read_text())
    assert document["points"] == 32 and document["seconds"] > 0
    assert [e["id"] for e in document["entries"]] == [e.id for e in library]


def test_bounds_hold(tmp_path: Path) -> None:
    out = tmp_path / "bounded.yaml"
    assert build(*PREDICTED, "--min-accuracy", "0.80", "--max-latency", "24", "--out", out) == 0
    library = load_library(out)
    assert all(e.accuracy >= 0.80 and e.latency_ms.median <= 24 for e in library)
    assert library.entries[-1].latency_ms.median > 22  # comes near the limit, after few evaluations
    assert "accuracy of 0.8 or more, at most 24 ms" in library.notes[-1]


def test_live_profile_with_predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 16)
    out = tmp_path / "live.yaml"
    space = ["--space", "ofa_mbv3_w1.2", "--evaluations", "1000", "--rounds", "5"]
    assert build(*space, *QUICK, "--board", "bench", "--out", out) == 0
    library = load_library(out)
    assert library.board == "bench" and len(library.entries) == 4
    assert {(e.accuracy_source, e.latency_source) for e in library} == {("predicted", "measured")}
    assert "its error on networks that it was not fitted to" in " ".join(library.notes)


def test_accuracy_from_images(tmp_path: Path, signs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 16)
    out = tmp_path / "signs.yaml"
    assert build(*MEASURED, *QUICK, "--images", signs, "--out", out) == 0
    assert sorted(os.listdir(tmp_path)) == sorted(["signs.yaml", load_library(out).bn_statistics.file])
    opened = open_library(out, WEIGHTS)
    library, statistics = opened.library, opened.statistics
    assert {e.accuracy_source for e in library} == {"measured"} and set(statistics) == {e.id for e in library}
    assert "36 images" in library.notes[0] and "12 others" in library.notes[0]
    best = library.entries[-1]
    files, labels = labelled_files(signs, opened.supernet.weights)
    _, chosen = split(len(files), 2000, 0)
    scored = FileImages(opened.supernet.space, [files[i] for i in chosen])
    run = opened.supernet.prepare(
        library.config(best), statistics=statistics[best.id], threads=1, processor="cpu"
    )
    answers = [run(b).argmax(1) for b in scored.batches(library.config(best))]
    hits = np.concatenate(answers) == labels[chosen]
    assert hits.mean() == pytest.approx(best.accuracy, abs=1e-4) and hits.mean() > 0.5


def test_a_failed_build_leaves_the_old_library(tmp_path: Path, signs: Path) -> None:
    out = tmp_path / "library.yaml"
    assert build(*PREDICTED, "--out", out) == 0
    before = out.read_bytes()
    assert build(*MEASURED, "--images", tmp_path / "nowhere", "--out", out) == 1
    assert out.read_bytes() == before and os.listdir(tmp_path) == ["library.yaml"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr of a build that fails."""
    capsys.readouterr()
    code = build(*arguments)
    line = capsys.readouterr().err
    assert line.startswith("dynofa library: ") or line.startswith("dynofa library build: ")
    assert code in (1, 2) and line.count("\n") == 1
    return line


def test_what_is_refused(tmp_path: Path, signs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", tmp_path / "x.yaml"]
    assert "--images DIR" in refused(capsys, "--space", "ofa_resnet50", *out)
    assert "needs --weights" in refused(capsys, "--space", DEMO_SPACE, "--images", signs, *out)
    assert "'ofa_vit' is unknown" in refused(capsys, "--space", "ofa_vit", *out)
    assert "0.99 or more" in refused(capsys, *PREDICTED, "--min-accuracy", "0.99", *out)
    table = ["--latency-table", tmp_path / "none.yaml", *out]
    assert "none.yaml" in refused(capsys, "--space", "ofa_mbv3_w1.2", *table)
    assert "not for ofa_mbv3_demo" in refused(
        capsys, *MEASURED, "--images", signs, "--latency-table", TABLE, *out
    )
    assert "'tflite' is unknown" in refused(capsys, "--space", "ofa_mbv3_w1.2", "--engine", "tflite", *out)
    assert os.listdir(tmp_path) == []


def test_wrong_image_folders(tmp_path: Path, signs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = tmp_path / "images", ["--out", tmp_path / "x.yaml"]
    images.mkdir()
    (tmp_path / "file").touch()
    assert "file is not a folder" in refused(capsys, *MEASURED, "--images", tmp_path / "file", *out)
    assert "one folder of images per class" in refused(capsys, *MEASURED, "--images", images, *out)
    (images / "zebra").mkdir()
    assert "zebra: the class has no image" in refused(capsys, *MEASURED, "--images", images, *out)
    (images / "zebra" / "1.png").write_bytes(b"no image")
    assert "has no class 'zebra'" in refused(capsys, *MEASURED, "--images", images, *out)
    (images / "zebra").rename(images / CLASS_NAMES[0])
    assert "1 images are too few" in refused(capsys, *MEASURED, "--images", images, *out)
    for number in (2, 3, 4):
        (images / CLASS_NAMES[0] / f"{number}.png").write_bytes(b"no image")
    assert build(*MEASURED, *QUICK, "--images", images, *out) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sorted(Path(line.split(": not a whole image")[0].split()[-1]).name for line in lines) == [
        f"{number}.png" for number in (1, 2, 3, 4)
    ]
    assert not (tmp_path / "x.yaml").exists()


def test_classes_without_labels(signs: Path) -> None:
    """Folders are counted, so every class needs one: a subset would be scored as other classes."""
    labelled = load_weights(load_space(DEMO_SPACE), WEIGHTS)
    assert labelled.labels == CLASS_NAMES
    _, named = labelled_files(signs, labelled)
    present = [p.name for p in sorted(signs.iterdir(), key=natural)]

    def with_classes(number: int) -> Weights:
        return Weights(
            {k: v[:number] if k.startswith("classifier.") else v for k, v in labelled.arrays.items()},
            number,
        )

    _, counted = labelled_files(signs, with_classes(len(present)))
    assert [present[i] for i in counted] == [CLASS_NAMES[i] for i in named]
    for other in (3, len(present) + 1):
        with pytest.raises(DataError, match=f"class folders: .* knows {other} classes"):
            labelled_files(signs, with_classes(other))


def test_a_table_says_where_it_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*PREDICTED, "--evaluations", "300", "--points", "3"]
    assert build(*arguments, "--out", tmp_path / "a.yaml") == 0
    library = load_library(tmp_path / "a.yaml")
    assert (library.board, library.processor) == ("xavier_nx", "gpu")
    assert build(*arguments, "--processor", "cpu", "--out", tmp_path / "b.yaml") == 1
    assert "--processor cpu: the latency table is of processor gpu" in capsys.readouterr().err
    assert not (tmp_path / "b.yaml").exists()


def test_images_are_read_and_prepared_as_the_node_does(tmp_path: Path) -> None:
    space, wide = load_space(DEMO_SPACE), np.zeros((160, 320, 3), np.uint8)
    wide[:, 80:240] = (0, 0, 255)  # BGR: the centre square is red
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    config, files = space.config(resolution=64), [tmp_path / "wide.png"] * 70
    batches = list(FileImages(space, files).batches(config))
    assert [b.shape for b in batches] == [(64, 3, 64, 64), (6, 3, 64, 64)]
    assert all((b == space.preprocess(wide, config)).all() for b in batches)
    assert batches[0][0, :, 0, 0] == pytest.approx(((1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225))
    streamed = list(FileImages(space, files, cache_bytes=0).batches(config))
    assert all((one == two).all() for one, two in zip(batches, streamed, strict=True))


def test_broken_images_are_left_out_on_demand(
    tmp_path: Path, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 16)
    shutil.copytree(signs, tmp_path / "images")
    (tmp_path / "images" / CLASS_NAMES[0] / "cut.png").write_bytes(b"no image")
    (tmp_path / "images" / ".git").mkdir()
    out = tmp_path / "x.yaml"
    quick = [*MEASURED[:4], "--evaluations", "2", "--rounds", "5", *QUICK]
    assert build(*quick, "--images", tmp_path / "images", "--skip-broken", "--out", out) == 0
    note = load_library(out).notes[0]
    assert "(few: 256 and more give steadier statistics)" in note
    numbers = [int(word) for word in note.split() if word.isdecimal()]
    assert numbers[0] + numbers[1] == 48
