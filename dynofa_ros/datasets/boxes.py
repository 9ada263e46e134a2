"""Images with boxes: the layouts of COCO, YOLO and Pascal VOC, found out by what is in the folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
from numpy.typing import NDArray

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import image_files, read_image
from dynofa_ros.files import natural, read_yaml

EDGE_PX = 2.0  # a box may end that far outside its image, and is cut there


@dataclass(frozen=True)
class Marked:
    """An image file with boxes (n, 4), px: left, top, right, bottom, and labels (n,) of the names."""

    path: Path
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    size: tuple[int, int] = (0, 0)  # height, width


@dataclass(frozen=True)
class BoxData:
    """A data set; names of classes without an example are left out. notes: what was left out, and why."""

    layout: str
    names: tuple[str, ...]
    images: tuple[Marked, ...]
    notes: tuple[str, ...] = ()

    @property
    def aspect(self) -> float:
        """The usual height by width of its images."""
        return float(np.median([image.size[0] / image.size[1] for image in self.images]))


@dataclass(frozen=True)
class _Box:
    """As a file has it. place: for errors; sides: left, top, width, height; relative: shares of the image.

    reason: why it is none, empty if it is one.
    """

    place: str
    name: str = ""
    sides: tuple[Any, ...] = ()
    relative: bool = False
    reason: str = ""


_Found = Iterator[tuple[Path, list[_Box]]]


def read_boxes(
    folder: Path, skip_broken: bool = False, on_file: Callable[[int], object] = lambda total: None
) -> BoxData:
    """The data set of a folder; every image is decoded once.

    skip_broken: leave broken images and boxes out. on_file gets the number of files, once per file. Raises
    DataError with all that is wrong, one line each.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    layout, declared, found = _found(folder)
    problems: list[str] = []
    marked: list[tuple[Path, tuple[int, int], list[tuple[str, list[float]]]]] = []
    for path, boxes in found:
        on_file(len(found))
        try:
            height, width = read_image(path).shape[:2]
        except DataError as error:
            problems.append(str(error))
            continue
        kept: list[tuple[str, list[float]]] = []
        for box in boxes:
            try:
                kept.append((box.name, _sides(box, height, width)))
            except ValueError as error:
                problems.append(f"{box.place}: {error}")
        marked.append((path, (height, width), kept))
    if problems and not skip_broken:
        raise DataError(*problems)
    names = tuple(sorted({n for _, _, own in marked for n, _ in own}, key=natural))
    if not names:
        raise DataError(*problems, f"{folder} has no box in {len(marked)} images: nothing could be learnt")
    images = tuple(
        Marked(
            path,
            np.array([sides for _, sides in own], np.float32).reshape(-1, 4),
            np.array([names.index(name) for name, _ in own], np.int64),
            size,
        )
        for path, size, own in marked
    )
    unused = [f"{folder}: class {n!r} has no example and is left out" for n in declared if n not in names]
    return BoxData(layout, names, images, (*problems, *unused))


def _sides(box: _Box, height: int, width: int) -> list[float]:
    """Left, top, right, bottom in px, within the image. Raises ValueError saying what is wrong."""
    if box.reason or not box.name:
        raise ValueError(box.reason or "it has no class")
    try:
        left, top, wide, high = (float(v) for v in box.sides)
    except (TypeError, ValueError):
        raise ValueError(f"box {list(box.sides)}: four numbers are expected") from None
    if box.relative:
        left, top, wide, high = left * width, top * height, wide * width, high * height
    text = f"box of {wide:g} x {high:g} px at {left:g}, {top:g}"
    if not all(map(math.isfinite, (left, top, wide, high))) or wide <= 0 or high <= 0:
        raise ValueError(f"{text}: width and height must be more than 0")
    if left < -EDGE_PX or top < -EDGE_PX or left + wide > width + EDGE_PX or top + high > height + EDGE_PX:
        raise ValueError(f"{text} is not inside its image of {width} x {height} px")
    return [max(0.0, left), max(0.0, top), min(float(width), left + wide), min(float(height), top + high)]


def _found(folder: Path) -> tuple[str, list[str], list[tuple[Path, list[_Box]]]]:
    """Name of the layout, classes that it declares, and the images with their boxes as they stand there."""
    shallow = [p for pattern in ("*.json", "*/*.json") for p in sorted(folder.glob(pattern), key=natural)]
    coco = {path: content for path in shallow if (content := _coco(path)) is not None}
    if coco:
        declared = [str(c["name"]) for content in coco.values() for c in content["categories"]]
        return (
            "COCO",
            declared,
            [e for path, content in coco.items() for e in _read_coco(folder, path, content)],
        )
    if voc := [p for p in sorted(folder.rglob("*.xml"), key=natural) if not p.name.startswith(".")]:
        return "VOC", [], list(_read_voc(folder, voc))
    names = _yolo_names(folder)
    if names:
        return "YOLO", names, list(_read_yolo(folder, names))
    raise DataError(
        f"{folder} is no data set with boxes: expected COCO (a .json with images, annotations, categories), "
        "YOLO (data.yaml or classes.txt, a .txt per image) or VOC (an .xml per image)"
    )


# --- COCO ------------------------------------------------------------------------------------------------


def _coco(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()
    return content if known else None


def _read_coco(folder: Path, path: Path, content: dict[str, Any]) -> _Found:
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    boxes: dict[Any, list[_Box]] = {image["id"]: [] for image in content["images"]}
    wrong: list[str] = []
    for number, annotation in enumerate(content["annotations"]):
        place = f"{path}: annotation {annotation.get('id', number)}"
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if image not in boxes:
            wrong.append(f"{place}: there is no image {image!r}")
        elif category not in names:
            wrong.append(f"{place}: there is no category {category!r}")
        elif not annotation.get("iscrowd"):
            boxes[image].append(_Box(place, names[category], tuple(annotation.get("bbox") or ())))
    if wrong:
        raise DataError(*wrong)
    for image in content["images"]:
        yield _beside(folder, path.parent, image["file_name"]), boxes[image["id"]]


def _beside(folder: Path, near: Path, name: str) -> Path:
    """Where an image lies that a file of annotations names."""
    places = [base / part / name for base in (near, folder) for part in ("", "images", "JPEGImages")]
    return next((p for p in places if p.is_file()), places[0])


# --- YOLO ------------------------------------------------------------------------------------------------


def _yolo_names(folder: Path) -> list[str] | None:
    for path in (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))):
        try:
            content = read_yaml(path)
        except (OSError, msgspec.DecodeError):
            continue
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            return [str(names[key]) for key in sorted(names)]
        if isinstance(names, list):
            return [str(name) for name in names]
    for path in (folder / "classes.txt", folder / "obj.names", folder / "labels" / "classes.txt"):
        if path.is_file():
            return path.read_text(encoding="utf-8").splitlines()
    return None


def _read_yolo(folder: Path, names: list[str]) -> _Found:
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder} holds no image")
    for path in files:
        parts = ["labels" if part == "images" else part for part in path.relative_to(folder).parts]
        text = folder.joinpath(*parts).with_suffix(".txt")
        text = text if text.is_file() else path.with_suffix(".txt")
        lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
        yield path, [_yolo_box(f"{text}:{n}", line, names) for n, line in enumerate(lines, 1) if line.strip()]


def _yolo_box(place: str, line: str, names: list[str]) -> _Box:
    """A line is class, middle x and y, width and height, as shares of the image."""
    fields = line.split()
    if not fields[0].isdecimal() or int(fields[0]) >= len(names):
        return _Box(place, reason=f"class {fields[0]!r} is unknown: there are {len(names)}, from 0")
    try:
        x, y, wide, high = map(float, fields[1:])
    except ValueError:
        return _Box(place, reason=f"{line!r}: a class and four numbers are expected")
    return _Box(place, names[int(fields[0])], (x - wide / 2, y - high / 2, wide, high), relative=True)


# --- VOC -------------------------------------------------------------------------------------------------


def _read_voc(folder: Path, files: list[Path]) -> _Found:
    for path in files:
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            yield path.with_suffix(".jpg"), [_Box(str(path), reason=f"not an XML file: {error}")]
            continue
        name = root.findtext("filename") or f"{path.stem}.jpg"
        boxes = []
        for number, item in enumerate(root.iter("object"), 1):
            sides = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            place = f"{path}: object {number}"
            boxes.append(_Box(place, item.findtext("name") or "", _from_corners(sides)))
        yield _beside(folder, path.parent.parent, name), boxes


def _from_corners(corners: list[str | None]) -> tuple[Any, ...]:
    try:
        left, top, right, bottom = (float(v or "") for v in corners)
    except ValueError:
        return tuple(corners)
    return (left, top, right - left, bottom - top)
