"""Images on disk: every kind of file read alike, broken ones listed at once, three layouts of boxes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dynofa_ros.datasets.boxes import read_boxes
from dynofa_ros.datasets.classes import read_classes
from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import image_files, read_image

RED = (0, 0, 255)  # BGR


def picture(path: Path, width: int = 40, height: int = 30) -> Path:
    """Left half red, right half black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = RED
    ok, data = cv2.imencode(path.suffix, image)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def of_pillow(path: Path, mode: str, **options) -> Path:
    image = Image.fromarray(cv2.imread(str(picture(path.with_suffix(".png"))))[..., ::-1].copy())
    image.convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.jpg", "RGB"), ("p.png", "P"), ("c.jpg", "CMYK"), ("t.png", "RGBA"), ("w.webp", "RGB")],
)
def test_every_kind_of_file_gives_the_same_pixels(tmp_path: Path, name: str, mode: str):
    image = read_image(of_pillow(tmp_path / name, mode))
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8
    assert np.abs(image[5:25, 2:16].mean((0, 1)) - RED).max() < 25
    assert image[5:25, 24:38].mean() < 25


def test_sixteen_bits_keep_their_high_ones(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4), 0x8123, np.uint16))
    assert (read_image(tmp_path / "deep.png") == 0x81).all()


def test_an_image_is_turned_as_its_camera_was_held(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = read_image(of_pillow(tmp_path / "turned.jpg", "RGB", exif=exif))
    assert image.shape == (40, 30, 3)
    assert image[2:16, 5:25, 2].mean() > 200 and image[24:38, 5:25].mean() < 25  # red is at the top


def test_files_come_in_natural_order_without_hidden_ones_and_through_links(tmp_path: Path):
    for name in ("10.png", "9.png", ".hidden.png", ".git/x.png", "notes.txt"):
        picture(tmp_path / "real" / name) if name.endswith(".png") else (tmp_path / "real" / name).touch()
    os.symlink(tmp_path / "real", tmp_path / "linked")
    os.symlink(tmp_path, tmp_path / "real" / "round")  # a circle
    assert [p.name for p in image_files(tmp_path / "linked")][:2] == ["9.png", "10.png"]
    assert all(
        not part.startswith(".") for p in image_files(tmp_path) for part in p.relative_to(tmp_path).parts
    )


def test_classes_are_the_folders_in_natural_order(tmp_path: Path):
    for name in ("10", "9", "straße", ".ipynb_checkpoints"):
        picture(tmp_path / name / "a.png")
    data = read_classes(tmp_path)
    assert data.names == ("9", "10", "straße")
    assert data.labels.tolist() == [0, 1, 2]


def test_all_broken_images_are_listed_at_once_or_left_out(tmp_path: Path):
    whole = picture(tmp_path / "a" / "1.jpg").read_bytes()
    picture(tmp_path / "b" / "1.jpg")
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "b" / "page.jpg").write_text("<html>")
    with pytest.raises(DataError) as error:
        read_classes(tmp_path)
    lines = str(error.value).splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == ["cut.jpg", "empty.png", "page.jpg"]
    assert "cut off" in lines[0] and "empty" in lines[1]
    data = read_classes(tmp_path, skip_broken=True)
    assert len(data.files) == 2 and len(data.notes) == 3


def test_one_class_and_an_empty_class_are_refused(tmp_path: Path):
    picture(tmp_path / "only" / "1.png")
    with pytest.raises(DataError, match="has 1 class folders: at least two are needed"):
        read_classes(tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void: the class has no image"):
        read_classes(tmp_path)


def test_a_thousand_classes(tmp_path: Path):
    data = picture(tmp_path / "0" / "1.png").read_bytes()
    for index in range(1, 1000):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "1.png").write_bytes(data)
    classes = read_classes(tmp_path)
    assert classes.names == tuple(map(str, range(1000)))


# --- boxes -----------------------------------------------------------------------------------------------

SIDES = [10, 5, 30, 20]  # left, top, right, bottom


def coco(folder: Path, **changes) -> Path:
    picture(folder / "images" / "1.png")
    content = {
        "images": [{"id": 7, "file_name": "1.png"}],
        "categories": [{"id": 3, "name": "Gefäß"}, {"id": 4, "name": "unused"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 15]}],
    }
    (folder / "annotations.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return folder


def yolo(folder: Path, line: str = "1 0.5 0.416667 0.5 0.5") -> Path:
    picture(folder / "images" / "train" / "1.png")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "1.txt").write_text(f"{line}\n")
    (folder / "data.yaml").write_text("names: [unused, Gefäß]\ntrain: images/train\n", encoding="utf-8")
    return folder


def voc(folder: Path, xmax: str = "30") -> Path:
    picture(folder / "JPEGImages" / "1.png")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "1.xml").write_text(
        "<annotation><filename>1.png</filename><object><name>Gefäß</name><bndbox><xmin>10</xmin><ymin>5</ymin>"
        f"<xmax>{xmax}</xmax><ymax>20</ymax></bndbox></object></annotation>",
        encoding="utf-8",
    )
    return folder


@pytest.mark.parametrize("layout", [coco, yolo, voc])
def test_the_layouts_of_boxes_are_told_apart(tmp_path: Path, layout):
    data = read_boxes(layout(tmp_path))
    assert data.layout == layout.__name__.upper()
    assert data.names == ("Gefäß",)
    (marked,) = data.images
    assert marked.boxes.tolist() == pytest.approx(np.array([SIDES]), abs=1e-3)
    assert marked.labels.tolist() == [0] and marked.size == (30, 40)
    unused = [] if layout is voc else ["class 'unused' has no example and is left out"]
    assert [note.partition(": ")[2] for note in data.notes] == unused


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([10, 5, 0, 15], "width and height must be more than 0"),
        ([10, 5, float("nan"), 15], "width and height must be more than 0"),
        ([30, 5, 20, 15], "is not inside its image of 40 x 30 px"),
        ([10, 5], "four numbers are expected"),
    ],
)
def test_broken_boxes_name_their_place(tmp_path: Path, bbox, reason: str):
    good = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 15]}
    folder = coco(tmp_path, annotations=[good, good | {"id": 2, "bbox": bbox}])
    with pytest.raises(DataError, match=rf"annotations.json: annotation 2: .*{reason}"):
        read_boxes(folder)
    data = read_boxes(folder, skip_broken=True)
    assert len(data.images[0].boxes) == 1 and reason in data.notes[0]


def test_a_box_that_ends_just_outside_is_cut(tmp_path: Path):
    data = read_boxes(voc(tmp_path, xmax="41"))
    assert data.images[0].boxes[0, 2] == 40


def test_missing_images_and_unknown_classes(tmp_path: Path):
    folder = coco(
        tmp_path / "a", images=[{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "gone.png"}]
    )
    with pytest.raises(DataError, match=r"gone.png: cannot be read: No such file"):
        read_boxes(folder)
    wrong = {"id": 5, "image_id": 7, "category_id": 99, "bbox": SIDES}
    with pytest.raises(DataError, match="annotation 5: there is no category 99"):
        read_boxes(coco(tmp_path / "b", annotations=[wrong]))
    with pytest.raises(DataError, match=r"1.txt:1: class '2' is unknown: there are 2, from 0"):
        read_boxes(yolo(tmp_path / "c", "2 0.5 0.5 0.1 0.1"))
    with pytest.raises(DataError, match=r"1.txt:1: .*a class and four numbers are expected"):
        read_boxes(yolo(tmp_path / "d", "1 0.5 0.5"))
    with pytest.raises(DataError, match="has no box in 1 images"):
        read_boxes(coco(tmp_path / "e", annotations=[]))
    with pytest.raises(DataError, match="is no data set with boxes: expected COCO"):
        read_boxes(picture(tmp_path / "f" / "1.png").parent)
