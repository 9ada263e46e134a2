"""Small ONNX files that answer exactly: classifiers and detectors of red, green and blue squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = ("red", "green", "blue")
BGR = ((0, 0, 255), (0, 255, 0), (255, 0, 0))
FLOAT = TensorProto.FLOAT


def save(path: Path, nodes: list[Any], arrays: dict[str, Any], shape: Any, outputs: dict[str, Any]) -> Path:
    """A model with the input "x" and outputs of these shapes."""
    values = [helper.make_tensor_value_info(name, FLOAT, s) for name, s in outputs.items()]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        values,
        [numpy_helper.from_array(np.array(a, np.float32), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def classifier(path: Path, side: int, blind: bool = False, batch: Any = 1) -> Path:
    """Logits of the colours of an image, normalised as for ImageNet; a blind one takes blue for green."""
    mixing = 10 * np.eye(3)
    if blind:
        mixing[2] = mixing[1]
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    return save(path, nodes, {"w": mixing}, (batch, 3, side, side), {"y": (batch, 3)})


def colour_images(folder: Path, number: int = 4) -> Path:
    """A folder per colour."""
    for name, colour in zip(COLOURS, BGR, strict=True):
        (folder / name).mkdir(parents=True)
        for index in range(number):
            image = np.full((40, 60, 3), colour, np.uint8)
            image[: 2 * index] = 0
            cv2.imwrite(str(folder / name / f"{index}.png"), image)
    return folder


HEIGHT, WIDTH, SQUARE, STEP = 64, 128, 32, 16  # px of the scenes


def scenes(folder: Path, number: int = 6) -> Path:
    """Images with one square each, in the layout of YOLO."""
    folder.mkdir()
    (folder / "classes.txt").write_text("\n".join(COLOURS[:2]))
    rng = np.random.default_rng(0)
    for index in range(number):
        label = index % 2
        left, top = STEP * rng.integers(0, 7), STEP * rng.integers(0, 3)
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[top : top + SQUARE, left : left + SQUARE] = BGR[label]
        cv2.imwrite(str(folder / f"{index}.png"), image)
        middle = (left + SQUARE / 2) / WIDTH, (top + SQUARE / 2) / HEIGHT
        line = f"{label} {middle[0]} {middle[1]} {SQUARE / WIDTH} {SQUARE / HEIGHT}"
        (folder / f"{index}.txt").write_text(line)
    return folder


def _cells(rows: int, columns: int, step: tuple[float, float]) -> np.ndarray:
    """Boxes cx, cy, w, h of windows that are two steps (down, across) large, (cells, 4)."""
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 1
    size = np.ones(len(x))
    return np.stack([x * step[1], y * step[0], 2 * step[1] * size, 2 * step[0] * size], 1)


def yolo(path: Path, side: int, off: float = 0.0) -> Path:
    """(1, 4 + 2, cells) in px of its input, for images that are fitted into it. off: px, an error."""
    square = side * SQUARE // WIDTH
    count = side // (square // 2) - 1
    boxes = _cells(count, count, (square / 2, square / 2)) + [off, 0, 0, 0]
    nodes = [
        helper.make_node(
            "AveragePool", ["x"], ["mean"], kernel_shape=[square] * 2, strides=[square // 2] * 2
        ),
        helper.make_node("Conv", ["mean", "mix"], ["mixed"]),
        helper.make_node("Constant", [], ["rows"], value_ints=[1, 2, -1]),
        helper.make_node("Reshape", ["mixed", "rows"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    mix = np.array([[1.0, 0, -1], [0, 1, -1]])[:, :, None, None]  # the border is gray
    arrays = {"mix": mix, "boxes": boxes.T[None]}
    return save(path, nodes, arrays, (1, 3, side, side), {"output0": (1, 6, count * count)})


def detr(path: Path, side: int = 64) -> Path:
    """Boxes as shares of the sides and logits, for images that are stretched to its input."""
    kernel = side * SQUARE // HEIGHT, side * SQUARE // WIDTH
    rows, columns = (2 * side // k - 1 for k in kernel)
    boxes = _cells(rows, columns, (SQUARE / 2 / HEIGHT, SQUARE / 2 / WIDTH))
    nodes = [
        helper.make_node(
            "AveragePool", ["x"], ["mean"], kernel_shape=kernel, strides=[k // 2 for k in kernel]
        ),
        helper.make_node("Conv", ["mean", "mix", "bias"], ["mixed"]),
        helper.make_node("Constant", [], ["rows"], value_ints=[1, 2, -1]),
        helper.make_node("Reshape", ["mixed", "rows"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["labels"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["boxes"], ["dets"]),
    ]
    # of channels that are normalised as for ImageNet: pure red is 2.25, -2.04, -1.80
    mix = np.array([[5.0, -5, 0], [-5, 5, 0]])[:, :, None, None]
    arrays = {"mix": mix, "bias": [-15.0, -15.0], "boxes": boxes[None]}
    cells = rows * columns
    outputs = {"dets": (1, cells, 4), "labels": (1, cells, 2)}
    return save(path, nodes, arrays, (1, 3, side, side), outputs)
