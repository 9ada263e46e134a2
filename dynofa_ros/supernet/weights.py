"""The weights of a supernet: a checkpoint or a state_dict, checked against the space.

`python -m dynofa_ros.supernet.weights SOURCE TARGET SPACE` converts a torch checkpoint to safetensors. A
perception process calls `memory_mapped`, which does that once in a child process, so that it never imports
torch: that would cost it hundreds of megabytes and a second.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dynofa_ros.errors import one_line
from dynofa_ros.files import write_atomically
from dynofa_ros.paths import cache_folder
from dynofa_ros.supernet.checkpoint import (
    SUFFIX,
    Array,
    Checkpoint,
    WeightsError,
    labels_of,
    plain,
    read_checkpoint,
    state_dict_arrays,
)
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.space import SearchSpace

# counted in training only; of fairseq: the format's version, and memory that nothing ever wrote to; of
# RF-DETR: what other tasks have
OPTIONAL = (
    *("num_batches_tracked", "coder.version", "embed_positions._float_tensor"),
    "_kp_active_mask",
)
BUFFERS = (*OPTIONAL, "running_mean", "running_var")
CHUNK = 1 << 18  # values looked at in one go: 1 MiB
TIMEOUT_S = 600.0  # of a conversion: a large checkpoint on a slow memory card


@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, Array]):
    """The one set of weights of a supernet, float32 by official name; read-only views of a mapped file."""

    arrays: Mapping[str, Array]
    classes: int
    metadata: Mapping[str, str] = field(default_factory=dict)  # of its file: "labels", "tokenizer"
    source: str = "memory"
    mapping: mmap.mmap | None = None
    task: str = "classification"  # of the space that they are for

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; none where the file has none."""
        return labels_of(self.metadata)

    def __getitem__(self, key: str) -> Array:
        return self.arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def with_labels(self, labels: Sequence[str]) -> Weights:
        """The same with these names of its classes."""
        return replace(self, metadata={**self.metadata, "labels": json.dumps(labels, ensure_ascii=False)})

    @property
    def parameters(self) -> int:
        """Number of trained values: without BN statistics, with kernel matrices."""
        return sum(a.size for key, a in self.arrays.items() if not key.endswith(BUFFERS))

    def release(self) -> None:
        """Give the memory of a mapped file back; an array that is used again comes from the page cache."""
        _release(self.mapping)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes and values, whatever file format or order they came in."""
        hasher = hashlib.sha256()
        for key in sorted(k for k in self.arrays if not k.endswith(OPTIONAL)):
            array = self.arrays[key]
            hasher.update(f"{key}{array.shape}".encode())
            kind = "<f4" if array.dtype.kind == "f" else array.dtype  # bytes are those of files
            for chunk in _chunks(array):
                hasher.update(np.ascontiguousarray(chunk, kind).data)
            self.release()
        return hasher.hexdigest()


def _release(mapping: mmap.mmap | None) -> None:
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _chunks(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    return (flat[i : i + CHUNK] for i in range(0, flat.size, CHUNK))


# --- fitting to a space ---------------------------------------------------------------------------------


def _by_canonical_name(space: SearchSpace, checkpoint: Checkpoint) -> dict[str, str]:
    """Stored name by canonical name."""
    names: dict[str, str] = {}
    for name in checkpoint.arrays:
        first = names.setdefault(space.canonical_name(name), name)
        if first != name:
            raise WeightsError(f"{checkpoint.source}: {first} and {name} name the same array: expected one")
    return names


def _checked(array: Array, shape: tuple[int, ...], place: str, space: SearchSpace) -> Array:
    """``array`` as float32, without a copy where it is one."""
    if array.shape != shape:
        raise WeightsError(f"{place} has shape {array.shape}: {space.name} needs {shape}")
    if array.dtype.kind not in "fiu":
        raise WeightsError(f"{place} is of type {array.dtype}: {space.name} needs float32 {shape}")
    with np.errstate(over="ignore"):  # a float64 out of range becomes infinite, which is refused
        array = array.astype(np.float32, copy=False)
    if not all(np.isfinite(chunk).all() for chunk in _chunks(array)):
        raise WeightsError(f"{place} holds values that are not finite: {space.name} needs finite {shape}")
    if place.endswith("running_var") and array.size and array.min() < 0:
        raise WeightsError(f"{place} holds a negative variance")
    return array


def _check_shapes(space: SearchSpace, weights: Weights) -> None:
    """Raises WeightsError if weights that were checked for one space are not of ``space``."""
    for key, shape in space.parameter_shapes(weights.classes).items():
        own = weights.arrays.get(key)
        if not key.endswith(OPTIONAL) and (own is None or own.shape != shape):
            what = "missing" if own is None else f"of shape {own.shape}"
            raise WeightsError(f"{weights.source}: {key} is {what}: {space.name} needs {shape}")


def fit(space: SearchSpace, checkpoint: Checkpoint) -> Weights:
    """The weights of ``space`` under their current official names.

    Raises WeightsError naming the first key that is missing, unknown, given twice, mis-shaped or not finite.
    """
    source, arrays, classes = checkpoint.source, checkpoint.arrays, checkpoint.classes(space)
    names = _by_canonical_name(space, checkpoint)
    if _extracted(space, names):
        raise WeightsError(
            f"{source}: is one static sub-network that was cut out of a supernet: {space.name} needs the "
            "supernet itself (a static network runs as ONNX: dynofa library from-onnx)"
        )
    fitted: dict[str, Array] = {}
    for key, shape in space.parameter_shapes(classes).items():
        name = names.pop(space.canonical_name(key), None)
        if key.endswith(OPTIONAL):
            continue
        if name is None:
            raise WeightsError(f"{source}: {key} is missing: {space.name} needs it with shape {shape}")
        fitted[key] = _checked(arrays[name], shape, f"{source}: {name}", space)
        _release(checkpoint.mapping)
    if names:
        raise WeightsError(
            f"{source}: {min(names.values())} is unknown to {space.name} ({len(names)} unknown keys in all)"
        )
    if checkpoint.labels and len(checkpoint.labels) != classes:
        raise WeightsError(f"{source}: {len(checkpoint.labels)} labels for {classes} classes")
    return Weights(fitted, classes, checkpoint.metadata, source, checkpoint.mapping, space.task)


def _extracted(space: SearchSpace, names: Mapping[str, str]) -> bool:
    """Whether names are those of a network that was cut out of a supernet: nothing in it is elastic."""
    shapes = {space.canonical_name(key) for key in space.parameter_shapes(1)}

    def kinds(keys: Iterable[str]) -> set[str]:
        return {re.sub(r"\d+", "", key) for key in keys if not key.endswith(OPTIONAL)}

    elastic = {kind for kind in kinds(shapes) if kind.endswith("_matrix")}
    return bool(elastic) and kinds(names) == kinds(shapes) - elastic


def agreement(space: SearchSpace, checkpoint: Checkpoint) -> int:
    """How many arrays of ``checkpoint`` have a name and the shape that ``space`` gives it."""
    try:
        shapes = space.parameter_shapes(checkpoint.classes(space))
    except WeightsError:  # another family
        return 0
    expected = {space.canonical_name(key): shape for key, shape in shapes.items()}
    return sum(expected.get(space.canonical_name(name)) == a.shape for name, a in checkpoint.arrays.items())


def load_weights(space: SearchSpace, source: str | Path | Mapping[str, Any]) -> Weights:
    """Weights of ``space`` from a .safetensors file, a torch checkpoint or a state_dict.

    Raises WeightsError naming the file and the key that is missing, unknown, given twice, mis-shaped or not
    finite, with the shape that is expected.
    """
    if isinstance(source, Weights):
        _check_shapes(space, source)
        return source
    if isinstance(source, Mapping):
        return fit(space, plain(Checkpoint(state_dict_arrays(source, "state_dict"))))
    own: Weights | None = space.read(Path(source))
    return fit(space, read_checkpoint(source)) if own is None else own


# --- conversion -----------------------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces. Raises OSError."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def save_weights(path: Path, weights: Weights) -> None:
    """Write safetensors with the current official names, atomically. Raises WeightsError naming the file."""
    try:
        write_atomically(path, save(dict(weights), dict(weights.metadata) or None))
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror}") from None


def convert(source: Path, target: Path, space: SearchSpace) -> None:
    """Check ``source`` and write it to ``target``. Raises WeightsError in one line."""
    save_weights(target, load_weights(space, source))


def memory_mapped(space: SearchSpace, path: str | Path) -> Weights:
    """Weights of ``space``, memory-mapped without importing torch, whatever the format of the file.

    A torch checkpoint is converted once by a child process; its copy in the cache is named by its content.
    Raises WeightsError, in one line that names the file and the reason.
    """
    path = Path(path)
    own: Weights | None = space.read(path)
    if own is not None or path.suffix == SUFFIX or not path.is_file():
        return own or load_weights(space, path)
    try:
        target = cache_folder("weights") / f"{space.name}-{file_sha256(path)}{SUFFIX}"
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read or cached: {error}") from None
    if not target.is_file():
        _convert_in_child(path, target, space)
    return replace(load_weights(space, target), source=str(path))


def _convert_in_child(source: Path, target: Path, space: SearchSpace) -> None:
    command = [sys.executable, "-m", "dynofa_ros.supernet.weights", str(source), str(target), space.name]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(f"{source}: not converted within {TIMEOUT_S:g} s") from None
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"the conversion ended with exit code {child.returncode}"
        raise WeightsError(reason if str(source) in reason else f"{source}: {reason}")


def main() -> int:
    """Entry point of the child: exit code 1 with one line on stderr if the checkpoint does not fit."""
    source, target, space = sys.argv[1:]
    try:
        convert(Path(source), Path(target), load_space(space))
    except ValueError as error:
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
