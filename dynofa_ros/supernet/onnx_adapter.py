"""ONNX files of others: read, checked, and adapted to the inputs and outputs that the package knows.

What an output means is said by its columns: words with blanks between them, in the order of the file.
`left top right bottom` or `cx cy w h` are a box; `classes` one score per class; `objectness` a factor of all
of them; `none` the score of no class; `score` and `class` score and number of one class; `-` nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dynofa_ros.errors import one_line
from dynofa_ros.files import read_bounded
from dynofa_ros.supernet.checkpoint import WeightsError
from dynofa_ros.supernet.engines.onnx_graph import GraphBuilder

PREFIX = "own/"  # of all names inside a file: those of the package stay free
OLDEST_OPSET = 11
LARGEST_FILE = 2**30
LARGEST_SIDE = 2**14  # px of an input
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
LEAST_PROBABILITY = 1e-9  # whose logarithm is taken
RESHAPING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
Dims = tuple[int | None, ...]
_LEFT_TO_BOTTOM = ("left", "top", "right", "bottom")
# Every side of a box as a sum of columns, in the ways in which files have it.
_SIDES: dict[str, tuple[dict[str, float], ...]] = {
    "left": ({"left": 1}, {"cx": 1, "w": -0.5}),
    "top": ({"top": 1}, {"cy": 1, "h": -0.5}),
    "right": ({"right": 1}, {"cx": 1, "w": 0.5}, {"left": 1, "w": 1}),
    "bottom": ({"bottom": 1}, {"cy": 1, "h": 0.5}, {"top": 1, "h": 1}),
}
_SCORES = ("classes", "objectness", "none", "score", "class", "-")
WORDS = (*_LEFT_TO_BOTTOM, "cx", "cy", "w", "h", *_SCORES)


@dataclass(frozen=True)
class ModelFile:
    """data: the model with its weights inside; sha256: over the file and those that it names."""

    data: bytes
    sha256: str


def read_model(path: Path) -> ModelFile:
    """An ONNX file, also one whose weights are in other files beside it. Raises WeightsError naming it."""
    try:
        data = read_bounded(path, LARGEST_FILE)
        hasher = hashlib.sha256(data)
        model = onnx.load_model_from_string(data)
        outside = sorted({e.value for t in _outside(model) for e in t.external_data if e.key == "location"})
        for name in outside:
            if name in ("", ".", "..") or "/" in name:
                raise ValueError(f"weights in {one_line(name)}: a file beside the model is expected")
            hasher.update(read_bounded(path.parent / name, LARGEST_FILE, os.O_NOFOLLOW))
        if outside:
            onnx.load_external_data_for_model(model, str(path.parent))
            data = model.SerializeToString()
    except OSError as error:
        raise WeightsError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001 - those of protobuf and of the checker of ONNX
        raise WeightsError(f"{path}: not an ONNX file: {one_line(error)}") from None
    if not model.graph.node:
        raise WeightsError(f"{path}: not an ONNX file: it has no node")
    return ModelFile(data, hasher.hexdigest())


def _outside(model: onnx.ModelProto) -> Iterator[TensorProto]:
    return (t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)


@dataclass(frozen=True)
class Input:
    """The one image that a network takes: float of one kind (of ONNX), planes or interleaved."""

    name: str
    height: int
    width: int
    kind: int
    planes: bool


def image_input(model: onnx.ModelProto) -> Input:
    """Raises ValueError, without the name of the file, for another input than one image of a fixed size."""
    stored = {t.name for t in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    text = ", ".join(f"{value.name} {_text(_dims(value))}" for value in inputs) or "none"
    if len(inputs) != 1:
        raise ValueError(f"has the inputs {text}: one image is expected")
    (value,) = inputs
    dims, kind = _dims(value), value.type.tensor_type.elem_type
    advice = "export it with the fixed shape (1, 3, height, width)"
    if len(dims) == 4 and dims[0] is None:
        raise ValueError(f"has the input {text}, a dynamic batch: {advice}")
    fixed = len(dims) == 4 and all(d and 0 < d <= LARGEST_SIDE for d in dims)
    if not fixed or dims[0] != 1 or 3 not in (dims[1], dims[3]):
        raise ValueError(f"has the input {text}: {advice}")
    if kind not in FLOATS:
        raise ValueError(f"takes {TensorProto.DataType.Name(kind)}: float is expected")
    planes = dims[1] == 3
    height, width = (dims[2], dims[3]) if planes else (dims[1], dims[2])
    return Input(value.name, int(height or 0), int(width or 0), kind, planes)


def outputs_of(model: onnx.ModelProto) -> dict[str, tuple[Dims, int]]:
    """Shape and kind of every output by name; what is not said in the file is inferred, else None."""
    if any(None in _dims(value) or not _dims(value) for value in model.graph.output):
        try:
            model = onnx.shape_inference.infer_shapes(model)
        except Exception:  # noqa: BLE001 - nodes of its own that ONNX does not know
            pass
    return {v.name: (_dims(v), v.type.tensor_type.elem_type) for v in model.graph.output}


def _dims(value: onnx.ValueInfoProto) -> Dims:
    shape = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in shape)


def _text(dims: Dims) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in dims)})"


def shown_outputs(model: onnx.ModelProto) -> str:
    """For people: "boxes (1, 300, 4), scores (1, 300, 91)"."""
    return ", ".join(f"{name} {_text(dims)}" for name, (dims, _) in outputs_of(model).items())


def is_probability(model: onnx.ModelProto, output: str) -> bool:
    """Whether the file makes an output by softmax or sigmoid itself."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in RESHAPING:
        node = makers.get(node.input[0])
    return node is not None and node.op_type in ("Softmax", "Sigmoid")


def guessed_outputs(model: onnx.ModelProto, classes: int, boxes: bool) -> dict[str, str] | None:
    """Columns by output of the usual kinds of networks; None for one that is of another kind.

    Classifiers; YOLO (one array of boxes with scores, or with those that were selected); DETR (an array of
    boxes and one of scores, perhaps with one for no object); boxes, scores and numbers of classes apart.
    """
    outputs = outputs_of(model)
    names, last = list(outputs), {name: dims[-2:] for name, (dims, _) in outputs.items()}
    if not boxes:
        return {names[0]: "classes"} if len(names) == 1 else None
    if len(names) == 1:
        (dims,) = last.values()
        usual = {4 + classes: "cx cy w h classes", 5 + classes: "cx cy w h objectness classes"}
        chosen = dims[-1] == 6 and "left top right bottom score class"
        if dims[0] not in usual and chosen and 6 in usual:  # it may be either
            return None
        columns = usual.get(dims[0] or 0) or usual.get(dims[-1] or 0) or chosen
        return {names[0]: columns} if columns else None
    box = [name for name in names if last[name][-1:] == (4,)]
    rest = [name for name in names if name not in box]
    if len(box) == 1 and len(rest) == 1:
        scores = {classes: "classes", classes + 1: "classes none"}.get(last[rest[0]][-1] or 0)
        return {box[0]: "cx cy w h", rest[0]: scores} if scores else None
    if len(box) == 1 and len(rest) == 2:
        by_kind = {outputs[name][1] == TensorProto.INT64: name for name in rest}
        if len(by_kind) == 2:
            return {box[0]: "left top right bottom", by_kind[False]: "score", by_kind[True]: "class"}
    return None


def operations(model: onnx.ModelProto) -> tuple[int, int]:
    """(multiply-accumulates, parameters), as far as shapes are known: no fewer of the former."""
    params = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type in FLOATS}
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # noqa: BLE001 - nodes of its own
        inferred = model.graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    shapes: dict[str, Dims] = {v.name: _dims(v) for v in values} | dict(params)
    macs, size = 0, sum(map(prod, params.values()))
    for node in model.graph.node:
        out = shapes.get(node.output[0], ())
        if node.op_type in ("Conv", "MatMul", "Gemm") and out and None not in out:
            factor = shapes.get(node.input[1], ())
            each = factor[1:] if node.op_type == "Conv" else (factor[-2:-1] or factor[:1])
            if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
                each = factor[1:2]
            if each and None not in each:
                macs += prod(filter(None, out)) * prod(filter(None, each))
    return max(macs, size, 1), max(size, 1)


# --- adaption -------------------------------------------------------------------------------------------


def column_names(text: str, classes: int) -> list[str]:
    """The columns of an output. Raises ValueError naming a word that means nothing."""
    words = text.split()
    if unknown := [word for word in words if word not in WORDS]:
        raise ValueError(f"column {unknown[0]!r} is unknown: {text!r} may have {', '.join(WORDS)}")
    return [name for word in words for name in ([word] * classes if word == "classes" else [word])]


@dataclass(frozen=True)
class Meaning:
    """What the outputs are. columns: by output; scale: px per unit of a box, across and down; activation:
    what makes probabilities of the scores (none, sigmoid, softmax)."""

    columns: Mapping[str, str]
    scale: tuple[float, float]
    activation: str
    classes: int
    boxes: bool


def adapted(model: onnx.ModelProto, meaning: Meaning) -> onnx.ModelProto:
    """The model with the input ``images``, float32 (1, 3, H, W), and the output ``logits``, float32.

    ``logits`` are (1, classes), or rows of a detector, (1, n, 4 + classes), as families/detector.py has them.
    Changes ``model``. Raises ValueError, without the name of the file, for what does not fit.
    """
    opset = next((o.version for o in model.opset_import if not o.domain), OLDEST_OPSET)
    if opset < OLDEST_OPSET:
        raise ValueError(f"is of opset {opset}: at least {OLDEST_OPSET} is needed, export it anew")
    image, outputs = image_input(model), outputs_of(model)
    for name in meaning.columns:
        if name not in outputs:
            raise ValueError(f"has no output {name!r}: it has {shown_outputs(model)}")
    onnx.compose.add_prefix(model, PREFIX, inplace=True)
    nodes = _Nodes()
    x = "images" if image.planes else nodes.node("Transpose", "images", perm=[0, 2, 3, 1])
    cast = nodes.node("Cast", x, to=image.kind)
    before = len(nodes.steps)
    found = {
        name: nodes.table(PREFIX + name, column_names(text, meaning.classes), outputs[name][0])
        for name, text in meaning.columns.items()
    }
    names = [c for text in meaning.columns.values() for c in column_names(text, meaning.classes)]
    joined = nodes.joined(list(found.values()))
    logits = nodes.rows(joined, names, meaning) if meaning.boxes else nodes.logits(joined, names, meaning)
    own = nodes.renamed({cast: PREFIX + image.name, logits: "logits"})
    steps = [*own[:before], *model.graph.node, *own[before:]]
    given = [v for v in model.graph.input if v.name != PREFIX + image.name]
    shape = (1, 3, image.height, image.width)
    wanted = (1, "n", 4 + meaning.classes) if meaning.boxes else (1, meaning.classes)
    graph = model.graph
    for field in (graph.node, graph.input, graph.output):
        del field[:]
    graph.node.extend(steps)
    graph.input.extend([helper.make_tensor_value_info("images", TensorProto.FLOAT, shape), *given])
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, wanted))
    return model


class _Nodes(GraphBuilder):
    """Nodes before and behind a file, in forms that no opset has changed since OLDEST_OPSET."""

    def value(self, values: Any, kind: Any = np.float32) -> str:
        return self.node("Constant", value=numpy_helper.from_array(np.array(values, kind)))

    def pick(self, x: str, columns: Sequence[int]) -> str:
        return self.node("Gather", x, self.value(columns, np.int64), axis=2)

    def joined(self, values: Sequence[str]) -> str:
        return self.node("Concat", *values, axis=2) if len(values) > 1 else values[0]

    def table(self, x: str, columns: Sequence[str], dims: Dims) -> str:
        """An output as float32 (1, n, columns)."""
        number, own = len(columns), dims[1:] if len(dims) > 1 and dims[0] == 1 else dims
        while len(own) > 2 and own[-1] == 1:  # a classifier without its last reshape
            own = own[:-1]
        x = self.node("Cast", x, to=TensorProto.FLOAT)
        across = number == 1 or own[-1:] == (number,)
        if across and (len(own) <= 2 or number == 1):
            return self.node("Reshape", x, self.value([1, -1, number], np.int64))
        if len(own) == 2 and own[0] == number:
            x = self.node("Reshape", x, self.value([1, number, -1], np.int64))
            return self.node("Transpose", x, perm=[0, 2, 1])
        name = self.steps[-1].input[0].removeprefix(PREFIX)
        raise ValueError(
            f"has the output {name} {_text(dims)}, but its description has {number} columns: "
            "classes are counted by the labels"
        )

    def probabilities(self, x: str, activation: str) -> str:
        if activation == "softmax":
            return self.node("Softmax", x, axis=2)
        return self.node("Sigmoid", x) if activation == "sigmoid" else x

    def scores(self, x: str, names: Sequence[str], activation: str) -> tuple[str, list[int]]:
        """The columns of classes and of no class, and which of these are the classes."""
        own = [i for i, name in enumerate(names) if name in ("classes", "none")]
        return self.pick(x, own), [n for n, i in enumerate(own) if names[i] == "classes"]

    def logits(self, x: str, names: Sequence[str], meaning: Meaning) -> str:
        """Of a classifier: what is a probability becomes its logarithm, of which the task makes it again."""
        x, kept = self.scores(x, names, meaning.activation)
        if not kept:
            raise ValueError(f"needs an output with classes: {dict(meaning.columns)}")
        x = self.pick(x, kept)
        if meaning.activation != "softmax":
            x = self.probabilities(x, meaning.activation)
            x = self.node("Log", self.node("Max", x, self.value(LEAST_PROBABILITY)))
        return self.node("Reshape", x, self.value([1, -1], np.int64))

    def rows(self, x: str, names: Sequence[str], meaning: Meaning) -> str:
        """Of a detector: boxes in px of the input, then probabilities."""
        columns = [i for i, name in enumerate(names) if name not in _SCORES]
        present = [names[i] for i in columns]
        matrix = np.zeros((len(columns), 4), np.float32)
        for side, name in enumerate(_LEFT_TO_BOTTOM):
            ways = [way for way in _SIDES[name] if all(present.count(c) == 1 for c in way)]
            if not ways:
                raise ValueError(f"needs outputs with a box, such as 'cx cy w h': {dict(meaning.columns)}")
            for column, factor in ways[0].items():
                matrix[present.index(column), side] = factor * meaning.scale[side % 2]
        boxes = self.node("MatMul", self.pick(x, columns), self.value(matrix))
        if "classes" in names:
            raw, kept = self.scores(x, names, meaning.activation)
            scores = self.pick(self.probabilities(raw, meaning.activation), kept)
            if "objectness" in names:
                sure = self.pick(x, [names.index("objectness")])
                scores = self.node("Mul", scores, self.probabilities(sure, meaning.activation))
        elif {"score", "class"} <= set(names):
            number, score = (self.pick(x, [names.index(name)]) for name in ("class", "score"))
            number = self.node("Reshape", number, self.value([1, -1], np.int64))
            number = self.node("Cast", number, to=TensorProto.INT64)
            depth, levels = self.value(meaning.classes, np.int64), self.value([0, 1])
            hot = self.node("OneHot", number, depth, levels, axis=2)
            scores = self.node("Mul", hot, self.probabilities(score, meaning.activation))
        else:
            raise ValueError(f"needs outputs with classes, or with score and class: {dict(meaning.columns)}")
        return self.joined([boxes, scores])
