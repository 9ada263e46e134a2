"""Files of weights as they are: memory-mapped safetensors and torch checkpoints, within bounds.

A torch checkpoint is a pickle: only tensors are taken from it, and no more memory than its size explains.
"""

from __future__ import annotations

import argparse
import json
import mmap
import pickle
import re
import resource
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BF16": "<u2"}
MOST_KINDS = 64  # of foreign objects in a torch file
FOREIGN = re.compile(r"Unsupported global: GLOBAL ([\w.]+) was not an allowed global")
# Where trainers put the arrays, best first; averaged weights only where there are no others.
WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "weights"),
    *("params", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "shadow"),
)
COUNTED = ("n_averaged",)  # beside the arrays of an averaged model


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
    labels_of(metadata)  # raises ValueError
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise WeightsError(f"{path}: {name} is of type {entry['dtype']}: expected {', '.join(DTYPES)}")
        offset = 8 + length + entry["data_offsets"][0]
        flat = np.frombuffer(mapping, DTYPES[entry["dtype"]], prod(entry["shape"]), offset)
        if entry["dtype"] == "BF16":  # the upper half of a float32
            flat = (flat.astype("<u4") << 16).view("<f4")
        arrays[name] = np.require(flat.reshape(entry["shape"]), requirements="A")
    return Checkpoint(arrays, metadata, str(path), mapping)


class Foreign:
    """Stands for an object that a checkpoint holds beside its tensors; nothing of its package is run."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


def _read_torch(path: Path) -> Checkpoint:
    try:
        import torch  # only the official checkpoints need it
    except ImportError:
        raise WeightsError(
            f"{path}: this format needs {not_installed('torch')}; or "
            f"use the file that 'dynofa weights check {path.name} --out {path.stem}{SUFFIX}' writes elsewhere"
        ) from None
    _check_archive(path)
    known: list[Any] = [argparse.Namespace]
    while True:
        try:
            # torch warns of what it then refuses
            with torch.serialization.safe_globals(known), _limited_memory(path), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
                return Checkpoint(state_dict_arrays(state, str(path)), source=str(path))
        except pickle.UnpicklingError as error:
            found = FOREIGN.search(str(error))
            if found is None or len(known) > MOST_KINDS or found[1].startswith(("builtins.", "__builtin__.")):
                raise
            known.append((type("Foreign", (Foreign,), {}), found[1]))


def _check_archive(path: Path) -> None:
    """Raises WeightsError for an archive that unpacks to more than it is: torch stores values as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any("/code/" in member.filename for member in members):
        raise WeightsError(f"{path}: a TorchScript program: its state_dict() is needed, saved by torch.save")
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
    """Arrays of a state_dict or of a saved model, tensors or arrays, also nested as trainers nest them."""
    for _ in WRAPPERS:
        state = _module_state(state)
        inner = (state[name] for name in WRAPPERS if name in state) if isinstance(state, Mapping) else ()
        nested = next((i for i in map(_module_state, inner) if isinstance(i, Mapping) and i), None)
        if nested is None:
            break
        state = nested
    if not isinstance(state, Mapping) or not state:
        found = "an empty one" if isinstance(state, Mapping) else type(state).__name__
        raise WeightsError(f"{source}: expected a mapping of names to tensors, got {found}")
    return {str(k): _as_array(v, f"{source}: {k}") for k, v in state.items() if k not in COUNTED}


def _module_state(state: Any) -> Any:
    """Parameters and buffers of a saved module by name; what else there is as it is."""
    if not isinstance(state, Foreign) or "_modules" not in vars(state):
        return state
    found = {**vars(state).get("_parameters", {}), **vars(state).get("_buffers", {})}
    for name, module in vars(state)["_modules"].items():
        inner = _module_state(module)
        found |= {f"{name}.{key}": v for key, v in inner.items()} if isinstance(inner, Mapping) else {}
    return {key: value for key, value in found.items() if value is not None}


def plain(checkpoint: Checkpoint) -> Checkpoint:
    """Under the names of the network itself: without prefixes that wrappers give to all arrays (`module.`,
    `_orig_mod.`, `model.`), and with a class layer of one linear layer under the official name."""
    arrays = dict(checkpoint.arrays)
    while len(arrays) > 1 and len({name.partition(".")[0] for name in arrays}) == 1:
        if not all("." in name for name in arrays):
            break
        arrays = {name.partition(".")[2]: array for name, array in arrays.items()}
    if not any(name.startswith("classifier.linear.") for name in arrays):
        for leaf in ("weight", "bias"):
            if f"classifier.{leaf}" in arrays:
                arrays[f"classifier.linear.{leaf}"] = arrays.pop(f"classifier.{leaf}")
    return replace(checkpoint, arrays=arrays)


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
        return plain(_map_safetensors(path) if path.suffix == SUFFIX else _read_torch(path))
    except WeightsError:
        raise
    except MemoryError:
        raise WeightsError(f"{path}: names more values than it holds") from None
    except (pickle.UnpicklingError, KeyError, IndexError, EOFError):  # not a pickle, or of code
        raise WeightsError(
            f"{path}: not a readable checkpoint: a torch file of tensors is expected"
        ) from None
    except Exception as error:  # a foreign file makes torch raise zip, type and runtime errors alike
        raise WeightsError(f"{path}: not a readable checkpoint: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])
