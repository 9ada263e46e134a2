"""Networks that somebody else trained: ONNX files, among which an application switches.

They share no weights. Their "weights" are a file that lists them (`NetworksFile`), their configurations the
files with what goes in and what comes out, so that libraries, engines and manager take them for sub-networks.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from dynofa_ros.files import read_errors, read_yaml
from dynofa_ros.supernet.checkpoint import WeightsError
from dynofa_ros.supernet.graphs import Compute, Graph, Put, Value
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.registry import EngineError, Family
from dynofa_ros.supernet.space import Config, Plan, SearchSpace, Statistics
from dynofa_ros.supernet.weights import Weights

if TYPE_CHECKING:
    from dynofa_ros.supernet.builder import GraphBuilder
    from dynofa_ros.supernet.preprocess import Image

SPACES = {"onnx_classification": "classification", "onnx_detection": "detection"}
Colour = tuple[float, float, float]


class OnnxConfig(Config, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file. height, width: of its input, px.

    The image comes whole with a border (letterbox), whole but out of its aspect (stretch) or as its middle
    (centre). Its channels, 0..1, in the order of ``colours``, are reduced by ``mean`` and divided by ``std``;
    fill: 0..255, the border. outputs: columns by name (supernet/onnx_adapter.py); unit: of boxes, px of the
    input or shares of its sides; activation: what makes probabilities of its scores. macs, params: of one
    inference.
    """

    file: str
    height: int
    width: int
    fit: Literal["letterbox", "stretch", "centre"]
    colours: Literal["rgb", "bgr"]
    mean: Colour
    std: Colour
    fill: int
    outputs: dict[str, str]
    unit: Literal["pixels", "share"]
    activation: Literal["none", "sigmoid", "softmax"]
    macs: int
    params: int


class NetworksFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SHA-256 by file, relative to this one. labels: names of the classes, in the order of the outputs."""

    schema_version: Literal[1]
    task: Literal["classification", "detection"]
    classes: int
    labels: tuple[str, ...]
    networks: dict[str, str]


@dataclass(frozen=True, eq=False)
class OnnxFiles(Mapping[str, np.ndarray]):
    """Models as bytes, read when they are asked for and compared with what they were when they were measured.

    Raises WeightsError for a file that is missing, or another one by now.
    """

    folder: Path
    sha256: Mapping[str, str]

    def __getitem__(self, name: str) -> np.ndarray:
        from dynofa_ros.supernet.onnx_adapter import read_model

        if name not in self.sha256:
            raise WeightsError(f"{name} is none of the networks {', '.join(self.sha256)}")
        path = Path(os.path.normpath(self.folder / name))
        model = read_model(path)
        if model.sha256 != self.sha256[name]:
            raise WeightsError(
                f"{path} has changed since it was measured: run `dynofa library from-onnx` again"
            )
        return np.frombuffer(model.data, np.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sha256)

    def __len__(self) -> int:
        return len(self.sha256)


def own_weights(listed: NetworksFile, source: Path) -> Weights:
    """What stands for the weights of the files listed at ``source``."""
    files = OnnxFiles(source.parent, listed.networks)
    weights = Weights(files, listed.classes, source=str(source), task=listed.task)
    return weights.with_labels(listed.labels) if listed.labels else weights


@dataclass(frozen=True)
class OnnxGraph(Graph):
    """A file, adapted when an engine asks for it. Raises ValueError naming the file that does not fit."""

    config: OnnxConfig
    data: np.ndarray
    classes: int
    boxes: bool

    @property
    def inputs(self) -> tuple[Value, ...]:  # type: ignore[override]
        return (Value("images", (1, 3, self.config.height, self.config.width)),)

    @property
    def outputs(self) -> tuple[Value, ...]:  # type: ignore[override]
        return (Value("logits", (1, "n", 4 + self.classes) if self.boxes else (1, self.classes)),)

    def arrays(self) -> Iterator[np.ndarray]:
        return iter((self.data,))

    def model(self) -> bytes:
        import onnx

        from dynofa_ros.supernet.onnx_adapter import Meaning, adapted, image_input

        config = self.config
        scale = (1.0, 1.0) if config.unit == "pixels" else (float(config.width), float(config.height))
        meaning = Meaning(config.outputs, scale, config.activation, self.classes, self.boxes)
        try:
            model = onnx.load_model_from_string(self.data.tobytes())
            image = image_input(model)
            if (image.height, image.width) != (config.height, config.width):
                raise ValueError(
                    f"takes {image.height} x {image.width} px, the library says "
                    f"{config.height} x {config.width}"
                )
            return adapted(model, meaning).SerializeToString()
        except ValueError as error:
            raise ValueError(f"{config.file} {error}") from None

    def export(self, builder: GraphBuilder) -> Sequence[str]:
        raise EngineError(f"{self.config.file} is ONNX already")

    def compute(self, put: Put) -> Compute:
        raise EngineError(f"torch cannot run {self.config.file}: set engine to onnxruntime or openvino")


@dataclass(frozen=True)
class OnnxPlan(Plan):
    """One file as a sub-network."""

    config: OnnxConfig
    classes: int
    boxes: bool

    @property
    def macs(self) -> int:
        return self.config.macs

    @property
    def params(self) -> int:
        return self.config.params

    def stored(self) -> dict[str, Shape]:
        return {}

    def graphs(self, weights: Mapping[str, np.ndarray], statistics: Statistics) -> dict[str, Graph]:
        return {"network": OnnxGraph(self.config, weights[self.config.file], self.classes, self.boxes)}


class OnnxSpace(SearchSpace):
    """The networks of any list of files of one task. Nothing in it can be searched."""

    config_type = OnnxConfig
    input_sizes = ()
    per_block = ()
    batch_normalised = False

    def __init__(self, name: str, task: str) -> None:
        self.name, self.task, self.choices = name, task, {}

    def config(self, **entries: Any) -> OnnxConfig:
        return self.checked(msgspec.convert(entries, OnnxConfig))

    def checked(self, config: OnnxConfig) -> OnnxConfig:
        low = {"height": config.height, "width": config.width, "macs": config.macs, "params": config.params}
        for name, value in low.items():
            if value < 1:
                raise ValueError(f"{name} = {value} is not allowed: it must be at least 1")
        if not 0 <= config.fill <= 255:
            raise ValueError(f"fill = {config.fill} is not allowed: it must be in 0..255")
        if not (np.isfinite(config.mean).all() and np.isfinite(config.std).all() and min(config.std) > 0):
            raise ValueError("mean and std must be finite, and std more than 0")
        if self.task == "detection" and config.fit == "centre":
            raise ValueError("fit = 'centre' is for classification: a detector gets the whole image")
        return config

    def parameter_shapes(self, classes: int) -> dict[str, Shape]:
        return {}

    def plan(self, config: OnnxConfig, classes: int = 0) -> OnnxPlan:
        shape = (3, config.height, config.width)
        return OnnxPlan((), shape, 0.0, config, classes, self.task == "detection")

    def read(self, path: Path) -> Weights:
        """Raises WeightsError, also for a file of the list that is missing or has changed."""
        with read_errors(path, WeightsError, "no list of networks as `dynofa library from-onnx` writes it: "):
            listed = read_yaml(path, NetworksFile)
        if listed.task != self.task:
            raise WeightsError(f"{path}: its networks are for {listed.task}, {self.name} for {self.task}")
        return own_weights(listed, path)

    def input_size(self, config: OnnxConfig) -> int:
        return config.width

    def label(self, config: OnnxConfig) -> str:
        return Path(config.file).stem

    def describe(self, config: OnnxConfig) -> dict[str, str]:
        return {"file": config.file, "px": f"{config.width}x{config.height}"}

    def preparation(self, config: OnnxConfig) -> Hashable:
        shape = (config.height, config.width, config.fit, config.fill)
        return (*shape, config.colours, config.mean, config.std)

    def preprocess(self, bgr: Image, config: OnnxConfig) -> np.ndarray:
        from dynofa_ros.supernet.preprocess import letterbox_size, middle, normalised, resized  # loads OpenCV

        height, width = config.height, config.width
        if config.fit == "letterbox":
            rows, columns = letterbox_size(bgr.shape, height, width)
            pixels = np.full((height, width, 3), config.fill, np.uint8)
            pixels[:rows, :columns] = resized(bgr, rows, columns)
        else:
            pixels = resized(middle(bgr, height, width) if config.fit == "centre" else bgr, height, width)
        if config.colours == "bgr":  # as if it was the other way round
            pixels = pixels[..., ::-1]
        return normalised(pixels, config.mean, config.std)[None]

    def scale(self, image: Shape, config: OnnxConfig) -> tuple[float, float]:
        from dynofa_ros.supernet.preprocess import letterbox_scale

        if config.fit == "letterbox":
            return letterbox_scale(image, config.height, config.width)
        return config.width / image[1], config.height / image[0]


FAMILY = Family({name: partial(OnnxSpace, name, task) for name, task in SPACES.items()})
