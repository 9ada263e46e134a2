"""Checkpoints: official once-for-all state_dicts and memory-mapped safetensors, checked against the space."""

from __future__ import annotations

import hashlib
import json
import mmap
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from dynofa_ros.supernet.plan import parameter_shapes
from dynofa_ros.supernet.space import SearchSpace

Array = np.ndarray
SUFFIX = ".safetensors"
OPTIONAL = ("num_batches_tracked",)  # counted in training only
BUFFERS = (*OPTIONAL, "running_mean", "running_var")
HEAD = "classifier.linear.weight"
CHUNK = 1 << 18  # values looked at in one go: 1 MiB
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or does not fit its space."""


def canonical_name(key: str) -> str:
    """The one name behind all names under which the official code ever stored the same array.

    It drops DataParallel's prefix, the block's old name and the doubled names of elastic layers
    ("bn.bn", "conv.conv", "linear.linear"), which an extracted sub-network does not have.
    """
    name = key.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    return ".".join(part for part, _ in groupby(name.split(".")))


@dataclass(frozen=True)
class Checkpoint:
    """Arrays of a file or state_dict under the names it gives them, not yet checked against a space."""

    arrays: Mapping[str, Array]
    labels: tuple[str, ...] = ()
    source: str = "state_dict"
    mapping: mmap.mmap | None = None

    @property
    def classes(self) -> int:
        """Outputs of the classifier. Raises WeightsError if there is none."""
        head = next((a for name, a in self.arrays.items() if canonical_name(name) == HEAD), None)
        if head is None or head.ndim != 2 or not head.size:
            raise WeightsError(f"{self.source}: {HEAD} is missing: this is no checkpoint of a known space")
        return int(head.shape[0])


@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, Array]):
    """The one set of weights of a supernet, float32 by official name; read-only views of a mapped file."""

    arrays: Mapping[str, Array]
    labels: tuple[str, ...] = ()
    source: str = "memory"
    mapping: mmap.mmap | None = None

    def __getitem__(self, key: str) -> Array:
        return self.arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def classes(self) -> int:
        return next(int(a.shape[0]) for key, a in self.arrays.items() if canonical_name(key) == HEAD)

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
            for chunk in _chunks(array):
                hasher.update(np.ascontiguousarray(chunk, "<f4").data)
            self.release()
        return hasher.hexdigest()


def _release(mapping: mmap.mmap | None) -> None:
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _chunks(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    return (flat[i : i + CHUNK] for i in range(0, flat.size, CHUNK))


# --- files ----------------------------------------------------------------------------------------------


def _map_safetensors(path: Path) -> Checkpoint:
    """Views of the mapped file. Layout: header length (8 bytes, little endian), header (JSON), values."""
    with safe_open(path, framework="np"):
        pass  # the library checks the header: sizes, bounds, gaps, overlaps, a cut file
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    labels = header.pop("__metadata__", {}).get("labels", "")
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise WeightsError(f"{path}: {name} is of type {entry['dtype']}: expected {', '.join(DTYPES)}")
        offset = 8 + length + entry["data_offsets"][0]
        flat = np.frombuffer(mapping, DTYPES[entry["dtype"]], prod(entry["shape"]), offset)
        arrays[name] = np.require(flat.reshape(entry["shape"]), requirements="A")
    return Checkpoint(arrays, tuple(labels.split(",")) if labels else (), str(path), mapping)


def _read_torch(path: Path) -> Checkpoint:
    try:
        import torch  # only the official checkpoints need it
    except ImportError:
        raise WeightsError(
            f"{path}: this format needs torch, which is not installed: pip install 'dynofa_ros[torch]', or "
            f"use the file that 'dynofa weights check {path.name} --out {path.stem}{SUFFIX}' writes elsewhere"
        ) from None
    state = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(_state_dict_arrays(state, str(path)), source=str(path))


def _state_dict_arrays(state: Any, source: str) -> dict[str, Array]:
    """Arrays of a state_dict, also nested as {'state_dict': ...}; tensors or arrays."""
    for _ in range(3):
        if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        found = "an empty one" if isinstance(state, Mapping) else type(state).__name__
        raise WeightsError(f"{source}: expected a mapping of names to tensors, got {found}")
    return {str(key): _as_array(value, f"{source}: {key}") for key, value in state.items()}


def _as_array(value: Any, place: str) -> Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    if not isinstance(value, np.ndarray | np.generic):
        raise WeightsError(f"{place} is of type {type(value).__name__}: expected a tensor")
    return np.asarray(value)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Arrays of a .safetensors file, memory-mapped, or of a torch checkpoint (imports torch).

    Raises WeightsError naming the file and the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file: give the path of a {SUFFIX} or torch checkpoint")
    try:
        return _map_safetensors(path) if path.suffix == SUFFIX else _read_torch(path)
    except WeightsError:
        raise
    except (pickle.UnpicklingError, KeyError, IndexError, EOFError):  # not a pickle, or of other objects
        raise WeightsError(
            f"{path}: not a readable checkpoint: a torch file of tensors alone is expected"
        ) from None
    except Exception as error:  # a foreign file makes torch raise zip, type and runtime errors alike
        raise WeightsError(f"{path}: not a readable checkpoint: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# --- fitting to a space ---------------------------------------------------------------------------------


def _by_canonical_name(checkpoint: Checkpoint) -> dict[str, str]:
    """Stored name by canonical name."""
    names: dict[str, str] = {}
    for name in checkpoint.arrays:
        first = names.setdefault(canonical_name(name), name)
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
    for key, shape in parameter_shapes(space, weights.classes).items():
        own = weights.arrays.get(key)
        if not key.endswith(OPTIONAL) and (own is None or own.shape != shape):
            what = "missing" if own is None else f"of shape {own.shape}"
            raise WeightsError(f"{weights.source}: {key} is {what}: {space.name} needs {shape}")


def fit(space: SearchSpace, checkpoint: Checkpoint) -> Weights:
    """The weights of ``space`` under their current official names.

    Raises WeightsError naming the first key that is missing, unknown, given twice, mis-shaped or not finite.
    """
    source, arrays, classes = checkpoint.source, checkpoint.arrays, checkpoint.classes
    names = _by_canonical_name(checkpoint)
    fitted: dict[str, Array] = {}
    for key, shape in parameter_shapes(space, classes).items():
        name = names.pop(canonical_name(key), None)
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
    return Weights(fitted, checkpoint.labels, source, checkpoint.mapping)


def agreement(space: SearchSpace, checkpoint: Checkpoint) -> int:
    """How many arrays of ``checkpoint`` have a name and the shape that ``space`` gives it."""
    expected = {canonical_name(k): s for k, s in parameter_shapes(space, checkpoint.classes).items()}
    return sum(expected.get(canonical_name(name)) == a.shape for name, a in checkpoint.arrays.items())


def load_weights(space: SearchSpace, source: str | Path | Mapping[str, Any]) -> Weights:
    """Weights of ``space`` from a .safetensors file, a torch checkpoint or a state_dict.

    Raises WeightsError naming the file and the key that is missing, unknown, given twice, mis-shaped or not
    finite, with the shape that is expected.
    """
    if isinstance(source, Weights):
        _check_shapes(space, source)
        return source
    if isinstance(source, Mapping):
        return fit(space, Checkpoint(_state_dict_arrays(source, "state_dict")))
    return fit(space, read_checkpoint(source))
