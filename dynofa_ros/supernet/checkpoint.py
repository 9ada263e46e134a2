"""Files of weights as they are: memory-mapped safetensors and torch checkpoints, within bounds.

A torch checkpoint is a pickle: only tensors are taken from it, and no more memory than its size explains.
"""

from __future__ import annotations

import argparse
import json
import mmap
import pickle
import resource
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from dynofa_ros.errors import not_installed, one_line
from dynofa_ros.supernet.space import SearchSpace

Array = np.ndarray
SUFFIX = ".safetensors"
LARGEST_HEADER = 1 << 23  # bytes of a safetensors header: 80,000 arrays
SPARE_BYTES = 1 << 28  # that unpickling may take beside the values themselves
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or does not fit its space."""


@dataclass(frozen=True)
class Checkpoint:
    """Arrays of a file or state_dict under the names it gives them, not yet checked against a space."""

    arrays: Mapping[str, Array]
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: str = "state_dict"
    mapping: mmap.mmap | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; none where the file has none."""
        return labels_of(self.metadata)

    def classes(self, space: SearchSpace) -> int:
        """Outputs of the head. Raises WeightsError if there is none."""
        named = (a for name, a in self.arrays.items() if space.canonical_name(name) == space.head)
        head = next(named, None)
        if head is None or head.ndim != 2 or not head.size:
            raise WeightsError(
                f"{self.source}: {space.head} is missing: this is no checkpoint of a known space"
            )
        return int(head.shape[0])


def labels_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """A JSON list, or names with commas between them, as older files have."""
    labels = metadata.get("labels", "")
    if labels.startswith("["):
        return tuple(map(str, json.loads(labels)))
    return tuple(labels.split(",")) if labels else ()


def check_header(path: Path, start: bytes) -> int:
    """Length of the header of a safetensors file that starts so. Raises WeightsError if it is too long."""
    length = int.from_bytes(start[:8], "little")
    if length > LARGEST_HEADER:
        raise WeightsError(f"{path}: a header of {length} bytes: at most {LARGEST_HEADER} are accepted")
    return length


def _map_safetensors(path: Path) -> Checkpoint:
    """Views of the mapped file. Layout: header length (8 bytes, little endian), header (JSON), values."""
    with path.open("rb") as file:
        check_header(path, file.read(8))
    with safe_open(path, framework="np"):
        pass  # the library checks the header: sizes, bounds, gaps, overlaps, a cut file
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    metadata = header.pop("__metadata__", {})
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise WeightsError(f"{path}: {name} is of type {entry['dtype']}: expected {', '.join(DTYPES)}")
        offset = 8 + length + entry["data_offsets"][0]
        flat = np.frombuffer(mapping, DTYPES[entry["dtype"]], prod(entry["shape"]), offset)
        arrays[name] = np.require(flat.reshape(entry["shape"]), requirements="A")
    return Checkpoint(arrays, metadata, str(path), mapping)


class Meter:
    """Stands for an object of training that a checkpoint holds beside its weights."""


def _read_torch(path: Path) -> Checkpoint:
    try:
        import torch  # only the official checkpoints need it
    except ImportError:
        raise WeightsError(
            f"{path}: this format needs {not_installed('torch')}; or "
            f"use the file that 'dynofa weights check {path.name} --out {path.stem}{SUFFIX}' writes elsewhere"
        ) from None
    _check_archive(path)
    # those of AutoFormer and fairseq hold the training arguments, fairseq's meters, too
    meters = [(Meter, f"fairseq.meters.{kind}Meter") for kind in ("Average", "Time", "Stopwatch")]
    with torch.serialization.safe_globals([argparse.Namespace, *meters]), _limited_memory(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(state_dict_arrays(state, str(path)), source=str(path))


def _check_archive(path: Path) -> None:
    """Raises WeightsError for an archive that unpacks to more than it is: torch stores values as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(m.compress_type for m in members) or sum(m.file_size for m in members) > path.stat().st_size:
        raise WeightsError(f"{path}: an archive that torch did not write: its members are compressed")


@contextmanager
def _limited_memory(path: Path) -> Iterator[None]:
    """What is unpickled may take the size of its file a few times, whatever sizes it names.

    Beyond, Python and torch raise a MemoryError. Where there is no /proc nothing is limited.
    """
    statm, before = Path("/proc/self/statm"), resource.getrlimit(resource.RLIMIT_DATA)
    if not statm.exists():
        yield
        return
    used = int(statm.read_text().split()[5]) * resource.getpagesize()
    limit = used + 4 * path.stat().st_size + SPARE_BYTES
    highest = [value for value in (limit, *before) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(highest), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def state_dict_arrays(state: Any, source: str) -> dict[str, Array]:
    """Arrays of a state_dict, also nested as {'state_dict': ...} or {'model': ...}; tensors or arrays."""
    for name in ("model", *("state_dict",) * 3):
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
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
    except MemoryError:
        raise WeightsError(f"{path}: names more values than it holds") from None
    except (pickle.UnpicklingError, KeyError, IndexError, EOFError):  # not a pickle, or of other objects
        raise WeightsError(
            f"{path}: not a readable checkpoint: a torch file of tensors alone is expected"
        ) from None
    except Exception as error:  # a foreign file makes torch raise zip, type and runtime errors alike
        raise WeightsError(f"{path}: not a readable checkpoint: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])
