"""Images on disk: every kind of file read alike, broken ones listed at once, three layouts of boxes."""

from __future__ import annotations

import json
import os
import unicodedata
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


def test_folders_that_are_no_classes_and_files_that_are_no_images(tmp_path: Path):
    for name in ("own/train/a/1.png", "own/train/b/1.png", "own/val/a/1.png"):
        picture(tmp_path / name)
    with pytest.raises(
        DataError, match=r"own: has no classes, but train, val: give one of them, .*own/train"
    ):
        read_classes(tmp_path / "own")
    (tmp_path / "own" / "train" / "a" / "2.gif").touch()
    (note,) = read_classes(tmp_path / "own" / "train").notes
    assert "1 files of other kinds are left out (.gif)" in note
    os.mkfifo(tmp_path / "own" / "train" / "a" / "pipe.png")  # would be waited for
    with pytest.raises(DataError, match=r"pipe.png: cannot be read: not an ordinary file"):
        read_classes(tmp_path / "own" / "train")


@pytest.mark.parametrize("other", [unicodedata.normalize("NFD", "Gefäß"), " Gefäß"])
def test_two_folders_of_one_name(tmp_path: Path, other: str):
    for name in ("Gefäß", other, "z"):
        picture(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="are of one name: a class has one folder"):
        read_classes(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Root may read all, so that the refusal is the kernel's in name only."""
    picture(tmp_path / "a" / "1.png")

    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        image_files(tmp_path)


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
        (7, "four numbers are expected"),
        ([10, 5, 10**400, 15], "four numbers are expected"),
        ([40.5, 5, 1, 1], "is not inside its image of 40 x 30 px"),  # nothing is left of it when it is cut
    ],
)
def test_broken_boxes_name_their_place(tmp_path: Path, bbox, reason: str):
    good = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 15]}
    folder = coco(tmp_path, annotations=[good, good | {"id": 2, "bbox": bbox}])
    with pytest.raises(DataError, match=rf"annotations.json: annotation 2: .*{reason}"):
        read_boxes(folder)
    data = read_boxes(folder, skip_broken=True)
    assert len(data.images[0].boxes) == 1 and reason in data.notes[0]


ONE = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 15]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"categories": [{"name": "x"}]}, r"missing required field `id` - at `\$.categories\[0\]`"),
        ({"categories": {"3": "x"}}, r"Expected `array`, got `object` - at `\$.categories`"),
        ({"images": [{"id": 7}]}, r"missing required field `file_name` - at `\$.images\[0\]`"),
        ({"annotations": None}, r"Expected `array`, got `null` - at `\$.annotations`"),
        ({"annotations": [3]}, r"Expected `object`, got `int` - at `\$.annotations\[0\]`"),
        ({"annotations": [ONE | {"image_id": [7]}]}, r"got `array` - at `\$.annotations\[0\].image_id`"),
        ({"annotations": [ONE | {"image_id": 8}]}, "annotation 1: there is no image 8"),
        (
            {"images": [{"id": 7, "file_name": "a\0"}]},
            "cannot be read: No such file, as annotations.json lists",
        ),
        ({"images": [{"id": 7, "file_name": "a" * 5000}]}, "cannot be read: No such file"),
    ],
)
def test_coco_that_is_none_is_named(tmp_path: Path, changes, reason: str):
    with pytest.raises(DataError, match=reason):
        read_boxes(coco(tmp_path, **changes))


def test_what_is_wrong_is_left_out_on_request_wherever_it_is(tmp_path: Path):
    wrong = [ONE | {"id": 2, "image_id": 99}, ONE | {"id": 3, "category_id": 99}]
    data = read_boxes(coco(tmp_path, annotations=[ONE, *wrong]), skip_broken=True)
    assert data.images[0].boxes.tolist() == [SIDES]
    assert [note.partition("annotation ")[2] for note in data.notes[:2]] == [
        "2: there is no image 99",
        "3: there is no category 99",
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_editors(tmp_path: Path, encoding: str):
    file = coco(tmp_path / "c") / "annotations.json"
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    assert read_boxes(tmp_path / "c").names == ("Gefäß",)


def test_an_image_that_is_listed_several_times_is_one_image(tmp_path: Path):
    """Else a copy of what is trained on may be held out. Also backups of editors are no data."""
    images = [{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "images/1.png"}]
    other = ONE | {"id": 2, "image_id": 8, "bbox": [1, 2, 3, 4]}
    folder = coco(tmp_path, images=images, annotations=[ONE, other, ONE | {"image_id": 8}])
    text = (folder / "annotations.json").read_text()
    (folder / "again.json").write_text(text)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "annotations-checkpoint.json").write_text(text.replace("images/1", "2"))
    (marked,) = read_boxes(folder).images
    assert marked.boxes.tolist() == [SIDES, [1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["train2017/1.png", "val2017/1.png"], {"annotations/instances_val2017.json": "1.png"}),
        (["train/1.png", "val/1.png"], {"val/_annotations.coco.json": "1.png"}),
        (["pictures/val/1.png", "pictures/train/1.png"], {"a.json": "val\\1.png"}),
        (["Val/1.PNG"], {"a.json": "val/1.png"}),
    ],
)
def test_where_the_images_of_coco_are(tmp_path: Path, names: list[str], listed: dict[str, str]):
    for name in names:
        picture(tmp_path / name)
    ((file, image),) = listed.items()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    content = {"images": [{"id": 7, "file_name": image}], "annotations": [ONE]}
    (tmp_path / file).write_text(json.dumps(content | {"categories": [{"id": 3, "name": "x"}]}))
    (marked,) = read_boxes(tmp_path).images
    assert "val" in marked.path.parent.name.lower()


def test_an_image_that_may_be_any_of_two_is_not_guessed(tmp_path: Path):
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / name)
    folder = coco(tmp_path)
    (folder / "images" / "1.png").unlink()
    with pytest.raises(DataError, match=r"annotations.json: image '1.png' may be .*a/1.png or .*b/1.png"):
        read_boxes(folder)
    names = [{"id": 7, "file_name": "c/1.png"}]  # there is no such folder: neither is another picture taken
    with pytest.raises(DataError, match=r"c/1.png: cannot be read: No such file"):
        read_boxes(coco(tmp_path, images=names))


def test_a_polygon_is_as_good_as_a_box(tmp_path: Path):
    polygon = {k: v for k, v in ONE.items() if k != "bbox"} | {"segmentation": [[10, 5, 30, 5, 30, 20]]}
    assert read_boxes(coco(tmp_path / "c", annotations=[polygon])).images[0].boxes.tolist() == [SIDES]
    data = read_boxes(yolo(tmp_path / "y", "1 0.25 0.2 0.75 0.2 0.5 0.8"))
    assert data.images[0].boxes.tolist() == pytest.approx(np.array([[10, 6, 30, 24]]))


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("data.yaml", 'names: {"0": a, "10": k, "2": c, "1": Gefäß}', ("Gefäß",)),
        ("data.yaml", "names: {1: Gefäß, 7: other}", ("Gefäß",)),
        ("classes.txt", "\ufeffa \r\nGefäß \r\n\r\n", ("Gefäß",)),
        ("classes.txt", unicodedata.normalize("NFD", "a\nGefäß"), ("Gefäß",)),
    ],
)
def test_names_of_yolo_go_by_their_numbers(tmp_path: Path, file: str, text: str, names: tuple[str, ...]):
    folder = yolo(tmp_path, "\ufeff1.0 0.5 0.5 0.5 0.5\r\n")
    (folder / "data.yaml").unlink()
    (folder / file).write_text(text, encoding="utf-8")
    assert read_boxes(folder).names == names


@pytest.mark.parametrize(("width", "height", "aspect"), [(4, 2000, 8), (2000, 4, 1 / 8), (40, 30, 0.75)])
def test_strips_get_inputs_of_a_usual_size(tmp_path: Path, width: int, height: int, aspect: float):
    picture(yolo(tmp_path) / "images" / "train" / "1.png", width, height)
    assert read_boxes(tmp_path).aspect == aspect


def test_what_yolo_would_lose_is_named(tmp_path: Path):
    folder = yolo(tmp_path)
    (folder / "labels" / "train" / "2.txt").write_text("1 0.5 0.5 0.5 0.5")
    (folder / "notes.txt").write_text("all images are of 2026")
    with pytest.raises(DataError, match=r"labels/train/2.txt: has boxes, but there is no image of its name"):
        read_boxes(folder)
    (folder / "labels" / "train" / "2.txt").write_bytes(b"\xe4")
    picture(folder / "images" / "train" / "2.png")
    with pytest.raises(DataError, match=r"labels/train/2.txt: cannot be read: it is not UTF-8"):
        read_boxes(folder)
    (folder / "labels" / "train" / "2.txt").unlink()
    assert "1 of 2 images have no box: nothing is to be found in them" in read_boxes(folder).notes[-1]
    (folder / "data.yaml").write_text("names: [car")
    with pytest.raises(DataError, match=r"data.yaml: has no names of classes by number: while parsing"):
        read_boxes(folder)


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("train/1.xml", "train/1.png"),
        ("Annotations/sub/1.xml", "JPEGImages/sub/1.png"),
        ("VOC2007/Annotations/1.xml", "VOC2007/JPEGImages/1.png"),
    ],
)
@pytest.mark.parametrize("called", ["1.png", "1", "photo of the day.jpg", ""])
def test_where_the_images_of_voc_are(tmp_path: Path, xml: str, image: str, called: str):
    text = (voc(tmp_path / "as" / "usual") / "Annotations" / "1.xml").read_text(encoding="utf-8")
    text = text.replace("1.png", called).replace("Gefäß", " Gefäß ")
    picture(tmp_path / "own" / image)
    picture(tmp_path / "own" / "other" / "1.png")
    (tmp_path / "own" / xml).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "own" / xml).write_text(text, encoding="utf-8")
    data = read_boxes(tmp_path / "own")
    assert data.names == ("Gefäß",) and data.images[0].path == tmp_path / "own" / image


def test_another_layout_beside_is_named_and_another_xml_is_none(tmp_path: Path):
    folder = yolo(tmp_path)
    (folder / "project.xml").write_text("<project/>")
    (folder / ".idea").mkdir()
    (folder / ".idea" / "1.xml").write_text("<annotation/>")
    assert read_boxes(folder).layout == "YOLO"
    picture(voc(folder) / "images" / "1.png")
    data = read_boxes(folder)
    assert data.layout == "VOC" and "read as VOC, not what it has as YOLO" in data.notes[-1]
    (folder / "Annotations" / "2.xml").write_text("<annotation>")
    with pytest.raises(
        DataError, match=r"2.xml: not an XML file: no element|2.xml: not an XML file: unclosed"
    ):
        read_boxes(folder)


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
