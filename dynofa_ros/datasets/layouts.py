"""Layouts of images with boxes, COCO, YOLO and Pascal VOC: recognised, and read as they are."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec

from dynofa_ros.datasets.problems import DataError
from dynofa_ros.datasets.reader import SUFFIXES, files_of, plain_name, read_lines
from dynofa_ros.errors import one_line
from dynofa_ros.files import read_yaml

COCO_DEPTH = 3  # parts of the path of a .json in its folder, at most
EXPECTED = (
    "is no data set with boxes: expected COCO (a .json with images, annotations, categories), YOLO "
    "(data.yaml or classes.txt, a .txt per image) or VOC (an .xml per image)"
)


@dataclass(frozen=True)
class Box:
    """As a file has it. place: for errors; sides: left, top, width, height; relative: shares of the image.

    reason: why it is none, empty if it is one.
    """

    place: str
    name: str = ""
    sides: tuple[Any, ...] = ()
    relative: bool = False
    reason: str = ""


@dataclass
class Layout:
    """A data set as it stands there. declared: names of its classes; images: with their boxes.

    problems: what is wrong with it, one line each; notes: what is right and not read.
    """

    name: str
    declared: list[str] = field(default_factory=list)
    images: list[tuple[Path, list[Box]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Files:
    """The files of a folder, found by what a file of annotations calls them. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, files_of(folder)
        self.images = [path for path in self.all if path.suffix.lower() in SUFFIXES]
        self._named: dict[str, list[Path]] = defaultdict(list)
        for path in self.all:
            self._named[plain_name(path.name).casefold()].append(path)

    def of(self, *suffixes: str, depth: int = 99) -> list[Path]:
        """Those with one of the suffixes, at most so many parts below the folder."""
        found = [path for path in self.all if path.suffix.lower() in suffixes]
        return [path for path in found if len(path.relative_to(self.folder).parts) <= depth]

    def find(self, name: str, listed_in: Path) -> Path | None:
        """The file that ``listed_in`` calls so, None if it is not there. Raises ValueError if it may be any
        of several."""
        near = listed_in.parent
        for base in (near, *(near.parent,) * (near != self.folder), self.folder):
            for part in ("", "images", "JPEGImages"):
                if os.path.isfile(place := base / part / name):
                    return place
        parts = [p for p in _parts(name.replace("\\", "/").split("/")) if p not in ("", ".", "..")]
        same = self._named.get(parts[-1], ()) if parts else ()
        same = [p for p in same if _parts(p.relative_to(self.folder).parts)[-len(parts) :] == parts]
        beside = [p for p in same if p.parent == near]
        words = (near.name, *re.split(r"[\W_]", listed_in.stem))
        split = [p for p in same if p.parent.name in words]
        closest = beside or split or same
        if len(closest) > 1:
            raise ValueError(f"{listed_in}: image {name!r} may be {closest[0]} or {closest[1]}")
        return closest[0] if closest else None


def _parts(parts: Sequence[str]) -> list[str]:
    return [plain_name(part).casefold() for part in parts]


def read_layout(folder: Path) -> Layout:
    """The data set of a folder. Raises DataError if it is none."""
    files = Files(folder)
    coco, voc, broken = {}, {}, []
    for path in files.of(".json", depth=COCO_DEPTH):
        try:
            content = json.loads(path.read_bytes())  # finds out which UTF it is
            if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
                coco[path] = content
        except (OSError, ValueError, RecursionError) as error:
            broken.append(f"{path}: not a JSON file: {one_line(error)}")
    wrong_json = len(broken)
    for path in files.of(".xml"):
        try:
            root = ElementTree.parse(path).getroot()
            if root.tag == "annotation":
                voc[path] = root
        except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
            broken.append(f"{path}: not an XML file: {one_line(error)}")
    names, reason = _yolo_names(files)
    labelled = {path.with_suffix("").name for path in files.of(".txt")}
    yolo = names and any(path.stem in labelled for path in files.images)
    if coco:
        layout = _read_coco(files, coco)
        layout.problems += broken[:wrong_json]
    elif voc:
        layout = _read_voc(files, voc)
        layout.problems += broken[wrong_json:]
    elif names:
        return _read_yolo(files, names)
    else:
        raise DataError(f"{folder} {EXPECTED}", *broken, *filter(None, [reason]))
    others = ["VOC"] * (layout.name != "VOC" and bool(voc)) + ["YOLO"] * bool(yolo)
    layout.notes += [f"{folder}: read as {layout.name}, not what it has as {other}" for other in others]
    return layout


# --- COCO ------------------------------------------------------------------------------------------------

_Id = int | float | str


class _Image(msgspec.Struct):
    id: _Id
    file_name: str


class _Category(msgspec.Struct):
    id: _Id
    name: _Id


class _Annotation(msgspec.Struct):
    id: Any = None
    image_id: _Id | None = None
    category_id: _Id | None = None
    iscrowd: Any = 0
    bbox: Any = None
    segmentation: Any = None


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def _read_coco(files: Files, contents: Mapping[Path, Any]) -> Layout:
    layout = Layout("COCO")
    for path, content in contents.items():
        try:
            coco = msgspec.convert(content, _Coco)
        except msgspec.ValidationError as error:
            layout.problems.append(f"{path}: no COCO: {one_line(error)}")
            continue
        names = {c.id: plain_name(str(c.name)) for c in coco.categories}
        layout.declared += names.values()
        boxes: dict[_Id, list[Box]] = {image.id: [] for image in coco.images}
        for number, one in enumerate(coco.annotations):
            place = f"{path}: annotation {number if one.id is None else one.id}"
            if one.image_id not in boxes:
                layout.problems.append(f"{place}: there is no image {one.image_id!r}")
            elif one.category_id not in names:
                layout.problems.append(f"{place}: there is no category {one.category_id!r}")
            elif not one.iscrowd:
                boxes[one.image_id].append(_coco_box(place, names[one.category_id], one))
        for image in coco.images:
            _add(layout, files, path, [image.file_name], boxes[image.id])
    return layout


def _coco_box(place: str, name: str, one: _Annotation) -> Box:
    if one.bbox is None and isinstance(one.segmentation, list):
        try:
            return Box(place, name, _around([float(v) for polygon in one.segmentation for v in polygon]))
        except (TypeError, ValueError):
            pass
    return Box(place, name, tuple(one.bbox) if isinstance(one.bbox, list) else (one.bbox,))


def _around(points: Sequence[float]) -> tuple[float, ...]:
    """Left, top, width, height around points x, y, x, y, ... Raises ValueError for none."""
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def _add(layout: Layout, files: Files, listed_in: Path, names: Sequence[str], boxes: list[Box]) -> None:
    """An image that is there by one of these names."""
    try:
        layout.images.append((next(p for name in names if (p := files.find(name, listed_in))), boxes))
    except ValueError as error:
        layout.problems.append(str(error))
    except StopIteration:
        missing = f"{listed_in.parent / names[0]}: cannot be read: No such file, as {listed_in.name} lists it"
        layout.problems.append(missing)


# --- YOLO ------------------------------------------------------------------------------------------------


def _yolo_names(files: Files) -> tuple[dict[int, str], str]:
    """Names of the classes by number; and why there are none."""
    reason = ""
    for path in files.of(".yaml", ".yml", depth=1):
        try:
            content = read_yaml(path)
            if isinstance(content, dict) and (names := content.get("names")):
                numbered = names.items() if isinstance(names, dict) else enumerate(names)
                if isinstance(names, str):
                    raise ValueError(f"names: {names}")
                return {int(number): plain_name(str(name)) for number, name in numbered}, ""
        except (OSError, ValueError, TypeError, msgspec.DecodeError) as error:
            reason = f"{path}: has no names of classes by number: {one_line(error)}"
    for place in ("classes.txt", "obj.names", "labels/classes.txt"):
        if (path := files.folder / place).is_file():
            return {n: plain_name(line) for n, line in enumerate(read_lines(path)) if line}, reason
    return {}, reason


def _read_yolo(files: Files, names: Mapping[int, str]) -> Layout:
    layout = Layout("YOLO", list(names.values()))
    if not files.images:
        raise DataError(f"{files.folder} holds no image: the names of the classes belong into their folder")
    used: set[Path] = set()
    for path in files.images:
        parts = ["labels" if part == "images" else part for part in path.relative_to(files.folder).parts]
        text = files.folder.joinpath(*parts).with_suffix(".txt")
        text = text if text.is_file() else path.with_suffix(".txt")
        used.add(text)
        layout.images.append((path, list(_yolo_boxes(text, names, layout)) if text.is_file() else []))
    for path in files.of(".txt"):
        if path not in used and any(box.name for box in _yolo_boxes(path, names, Layout(""))):
            layout.problems.append(f"{path}: has boxes, but there is no image of its name")
    return layout


def _yolo_boxes(path: Path, names: Mapping[int, str], layout: Layout) -> Iterator[Box]:
    try:
        lines = read_lines(path)
    except DataError as error:
        layout.problems.append(str(error))
        return
    for number, line in enumerate(lines, 1):
        if line:
            yield _yolo_box(f"{path}:{number}", line, names)


def _yolo_box(place: str, line: str, names: Mapping[int, str]) -> Box:
    """A line is class, middle x and y, width and height, as shares of the image, or class and a polygon."""
    label, *fields = line.split()
    try:
        name = names.get(float(label))  # type: ignore[call-overload]  # some write 1.0
    except ValueError:
        name = None
    if name is None:
        return Box(place, reason=f"class {label!r} is unknown: there are {len(names)}, from {min(names)}")
    try:
        if len(fields) >= 6 and len(fields) % 2 == 0:
            return Box(place, name, _around([float(v) for v in fields]), relative=True)
        x, y, wide, high = map(float, fields)
    except ValueError:
        return Box(place, reason=f"{line!r}: a class and four numbers are expected")
    return Box(place, name, (x - wide / 2, y - high / 2, wide, high), relative=True)


# --- VOC -------------------------------------------------------------------------------------------------


def _read_voc(files: Files, roots: Mapping[Path, ElementTree.Element]) -> Layout:
    layout = Layout("VOC")
    for path, root in roots.items():
        boxes = []
        for number, item in enumerate(root.iter("object"), 1):
            sides = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            name = plain_name(item.findtext("name") or "")
            boxes.append(Box(f"{path}: object {number}", name, _from_corners(sides)))
        called = (root.findtext("filename") or "").strip()
        names = [*filter(None, [called]), *(path.stem + suffix for suffix in sorted(SUFFIXES))]
        _add(layout, files, path, names, boxes)
    return layout


def _from_corners(corners: list[str | None]) -> tuple[Any, ...]:
    try:
        left, top, right, bottom = (float(v or "") for v in corners)
    except ValueError:
        return tuple(corners)
    return (left, top, right - left, bottom - top)
