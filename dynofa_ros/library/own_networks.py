"""A library of ONNX files that somebody else trained: what they are, how good and how fast they are here."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import onnx

from dynofa_ros.errors import one_line
from dynofa_ros.files import read_errors, read_yaml
from dynofa_ros.library.accuracy import MeasuredAccuracy
from dynofa_ros.library.accuracy_source import Request, Source, from_boxes, from_images
from dynofa_ros.library.build import HERE, SHARES, OnStep, live_note, make_entry, named_entries
from dynofa_ros.library.library import Library, LibraryError, Processor, pareto_front
from dynofa_ros.library.profiling import Job, Runs, measure_subnets
from dynofa_ros.library.search import Candidate
from dynofa_ros.supernet.families.onnx_files import SPACES, Colour, NetworksFile, OnnxConfig, own_weights
from dynofa_ros.supernet.onnx_adapter import (
    column_names,
    guessed_outputs,
    image_input,
    is_probability,
    operations,
    outputs_of,
    read_model,
    shown_outputs,
)
from dynofa_ros.supernet.preprocess import MEAN, STD
from dynofa_ros.supernet.registry import EngineError, load_space
from dynofa_ros.supernet.supernet import Supernet

ACCURACY = (
    "accuracy: measured on {scored} images of {folder}, prepared as the perception node prepares a frame"
)
COUNTED = "; no names of classes are known: its folders were counted, in natural order"
NO_LABELS = (
    "{}: names of the classes are needed, in the order of its outputs: give --labels FILE, one per line"
)


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes in and comes out, as `OnnxConfig` has it; None = as networks of that kind usually have it.

    networks: what is different for some files, by name.
    """

    outputs: dict[str, str] | None = None
    unit: Literal["pixels", "share"] | None = None
    activation: Literal["none", "sigmoid", "softmax"] | None = None
    fit: Literal["letterbox", "stretch", "centre"] | None = None
    colours: Literal["rgb", "bgr"] | None = None
    mean: Colour | None = None
    std: Colour | None = None
    fill: int | None = None
    networks: dict[str, Description] = {}


@dataclass(frozen=True)
class OwnNetworks:
    """What to measure. images: a folder per class; data: images with boxes; one of the two is given.

    files: in the order of the command; count: of images at most; out: the library, whose folder the list of
    the networks is written to. labels: empty = those that the files carry.
    """

    files: Sequence[Path]
    out: Path
    images: Path | None = None
    data: Path | None = None
    labels: tuple[str, ...] = ()
    description: Description = Description()
    count: int = 2000
    seed: int = 0
    skip_broken: bool = False
    board: str = HERE
    runs: Runs = field(default_factory=Runs)

    @property
    def task(self) -> Literal["classification", "detection"]:
        return "classification" if self.data is None else "detection"

    @property
    def listed_at(self) -> Path:
        """Where the list of the networks goes, which stands for the weights."""
        return self.out.with_name(f"{self.out.stem}_networks.yaml")


@dataclass(frozen=True)
class Measured:
    """slower: names of files that are not on the front, because another one is quicker and as accurate."""

    library: Library
    networks: NetworksFile
    slower: tuple[str, ...]


def read_description(path: Path) -> Description:
    """Raises LibraryError naming the file and the reason."""
    with read_errors(path, LibraryError):
        return read_yaml(path, Description)


def measure(request: OwnNetworks, on_step: OnStep = lambda stage, total: None) -> Measured:
    """Measure accuracy and latency of every file here.

    Raises ValueError (LibraryError, WeightsError, DataError) or EngineError, in one line that names the file.
    """
    space = next(load_space(name) for name, task in SPACES.items() if task == request.task)
    names = {file: _relative(file, request.out.parent) for file in request.files}
    if unknown := request.description.networks.keys() - {file.name for file in names}:
        raise LibraryError(
            f"the output description is also for {min(unknown)}, which is none of the networks"
        )
    models = {file: read_model(file) for file in names}
    labels = request.labels
    configs: dict[Path, OnnxConfig] = {}
    for file, read in models.items():
        model = onnx.load_model_from_string(read.data)
        stored = () if request.labels else _stored_labels(model)
        if stored and labels and stored != labels:
            raise LibraryError(
                f"{file}: its classes are {', '.join(stored[:3])}, ..., those before it have "
                f"{', '.join(labels[:3])}, ...: the networks of a library have the same, in one order"
            )
        labels = labels or stored
        if not labels and request.task == "detection":
            raise LibraryError(NO_LABELS.format(file))
        try:
            usual = usual_config(names[file], model, _described(request, file), len(labels), request.task)
            configs[file] = space.checked(usual)
        except ValueError as error:
            raise LibraryError(f"{file} {error}") from None
    digests = {names[file]: read.sha256 for file, read in models.items()}
    number = len(labels) or _classes(configs, models)
    networks = NetworksFile(1, request.task, number, labels, digests)
    supernet = Supernet(space, own_weights(networks, request.listed_at))
    for config in configs.values():  # what does not fit is named before minutes of work
        try:
            supernet.prepare(config, request.runs.engine, processor=request.runs.processor)
        except EngineError as error:
            raise EngineError(f"{config.file}: {one_line(error)}") from None
        on_step("reading networks", len(configs))
    accuracy, folder = _accuracy(request, supernet, on_step), request.data or request.images
    assert isinstance(accuracy.objective, MeasuredAccuracy) and folder is not None
    score = accuracy.objective.score
    jobs = {names[file]: Job(config, request.runs.threads) for file, config in configs.items()}
    times = measure_subnets(
        supernet, jobs, request.runs, request.seed, on_round=lambda total: on_step("measuring latency", total)
    )
    measured = [
        make_entry(supernet, Candidate(job.config, score(job.config), 0.0), "measured", times[name], name)
        for name, job in jobs.items()
    ]
    front = named_entries(space, pareto_front(measured))
    kept = {entry.config["file"] for entry in front}
    library = Library(
        schema_version=1,
        space=space.name,
        weights_sha256=supernet.weights.digest,
        board=request.board,
        processor=msgspec.convert(request.runs.processor, Processor),
        reference_frequencies_hz={},
        notes=(
            ACCURACY.format(scored=accuracy.scored, folder=folder.name) + COUNTED * (not labels),
            live_note(request.runs, request.board),
            SHARES,
        ),
        entries=tuple(front),
        accuracy_metric=accuracy.metric,
    )
    return Measured(library, networks, tuple(name for name in names.values() if name not in kept))


def _accuracy(request: OwnNetworks, supernet: Supernet, on_step: OnStep) -> Source:
    asked = Request(
        supernet.space.name,
        evaluations=len(request.files),
        images=request.images,
        data=request.data,
        count=request.count,
        skip_broken=request.skip_broken,
        runs=request.runs,
        seed=request.seed,
    )
    if request.data is None:
        return from_images(asked, supernet, on_step)
    return from_boxes(asked, supernet, on_step)[1]


def _relative(file: Path, folder: Path) -> str:
    """Name of a file in the list, which stands in ``folder``: both may move together."""
    return os.path.relpath(file.resolve(), folder.resolve())


def _described(request: OwnNetworks, file: Path) -> Mapping[str, Any]:
    """What is said about a file, without what is not."""
    shared, own = request.description, request.description.networks.get(file.name, Description())
    both = msgspec.structs.asdict(shared), msgspec.structs.asdict(own)
    said = [{k: v for k, v in one.items() if v is not None and k != "networks"} for one in both]
    return said[0] | said[1]


def _stored_labels(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the classes where an exporter has left them: {0: 'person', ...} or a list, under "names"."""
    stored = {p.key: p.value for p in model.metadata_props}.get("names", "")
    try:
        found = ast.literal_eval(stored)
        names = [found[key] for key in sorted(found, key=int)] if isinstance(found, dict) else found
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _classes(configs: Mapping[Path, OnnxConfig], models: Mapping[Path, Any]) -> int:
    """Number of outputs of a classifier without labels."""
    file, config = next(iter(configs.items()))
    outputs = outputs_of(onnx.load_model_from_string(models[file].data))
    for name in config.outputs:
        for length in reversed(outputs[name][0]):
            if length and length > 1:
                return length
    raise LibraryError(NO_LABELS.format(file))


def usual_config(
    name: str, model: onnx.ModelProto, said: Mapping[str, Any], classes: int, task: str
) -> OnnxConfig:
    """What is said, and for the rest what is usual. Raises ValueError without the name of the file."""
    image, boxes = image_input(model), task == "detection"
    outputs = said.get("outputs") or guessed_outputs(model, classes, boxes)
    if outputs is None:
        raise ValueError(
            f"has outputs of an unknown kind for {classes} classes: {shown_outputs(model)}: "
            "say with --output-description what their columns are"
        )
    columns = [column for text in outputs.values() for column in column_names(text, classes)]
    share = boxes and len(outputs) == 2 and {"cx", "classes"} <= set(columns)
    unit = said.get("unit", "share" if share else "pixels")
    imagenet = not boxes or unit == "share"
    if any(is_probability(model, name) for name, text in outputs.items() if "classes" in text.split()):
        activation = "none"
    elif "none" in columns or not boxes:
        activation = "softmax"
    else:
        activation = "sigmoid" if unit == "share" else "none"
    usual = {
        "fit": "centre" if not boxes else "stretch" if unit == "share" else "letterbox",
        "colours": "rgb",
        "mean": MEAN if imagenet else (0, 0, 0),
        "std": STD if imagenet else (1, 1, 1),
        "fill": 114,
        "unit": unit,
        "activation": activation,
    }
    macs, params = operations(model)
    size = {"file": name, "height": image.height, "width": image.width, "macs": macs, "params": params}
    try:
        return msgspec.convert(usual | dict(said) | size | {"outputs": outputs}, OnnxConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f": {error}") from None
