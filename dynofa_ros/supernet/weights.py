"""Checkpoint I/O: official once-for-all state_dicts and safetensors, checked against the space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from dynofa_ros.supernet.plan import parameter_shapes
from dynofa_ros.supernet.space import SearchSpace

Array = np.ndarray
OPTIONAL = ("num_batches_tracked",)  # counted in training only


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or does not fit its space."""


@dataclass(frozen=True)
class Weights(Mapping[str, Array]):
    """The one set of weights of a supernet, by official name; arrays may be memory-mapped from the file."""

    arrays: Mapping[str, Array]
    labels: tuple[str, ...] = ()
    source: str = "memory"
    _digest: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, key: str) -> Array:
        return self.arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def classes(self) -> int:
        return int(self.arrays["classifier.linear.weight"].shape[0])

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and values, whatever file format or order they came in."""
        if "value" not in self._digest:
            hasher = hashlib.sha256()
            for key in sorted(k for k in self.arrays if not k.endswith(OPTIONAL)):
                array = np.ascontiguousarray(self.arrays[key], dtype="<f4")
                hasher.update(f"{key}{array.shape}".encode())
                hasher.update(array.tobytes())
            self._digest["value"] = hasher.hexdigest()
        return self._digest["value"]


def _read_safetensors(path: Path) -> tuple[dict[str, Array], tuple[str, ...]]:
    with safe_open(path, framework="np") as file:
        labels = (file.metadata() or {}).get("labels", "")
        return {k: file.get_tensor(k) for k in file.keys()}, tuple(labels.split(",")) if labels else ()


def _read_torch(path: Path) -> dict[str, Array]:
    import torch  # only the official checkpoints need it

    state = torch.load(path, map_location="cpu", weights_only=True)
    return _state_dict_arrays(state)


def _state_dict_arrays(state: Any) -> dict[str, Array]:
    """Arrays of a state_dict, also nested as {'state_dict': ...}; tensors or arrays."""
    for _ in range(3):
        if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"expected a mapping of names to tensors, got {type(state).__name__}")
    arrays: dict[str, Array] = {}
    for key, value in state.items():
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        if not isinstance(array, np.ndarray | np.generic):
            raise WeightsError(f"{key} is a {type(value).__name__}: expected a tensor")
        arrays[str(key).removeprefix("module.")] = np.asarray(array)
    return arrays


def _aliases(key: str) -> Iterator[str]:
    """Names under which the official code ever stored ``key``: the block's old name, and single instead of
    doubled layer names (a static, extracted sub-network)."""
    single = key
    for doubled, plain in ((".bn.bn.", ".bn."), (".conv.conv.weight", ".conv.weight")):
        single = single.replace(doubled, plain)
    names = [key, single]
    if key.startswith("classifier.linear."):
        names.append(key.replace("classifier.linear.", "classifier.linear.linear."))
    for name in names:
        yield name
        yield name.replace(".conv.", ".mobile_inverted_conv.", 1) if name.startswith("blocks.") else name


def _fit(space: SearchSpace, arrays: dict[str, Array], source: str) -> dict[str, Array]:
    """Arrays under their current official names; raises WeightsError naming the first that does not fit."""
    head = next((arrays[n] for n in _aliases("classifier.linear.weight") if n in arrays), None)
    if head is None or head.ndim != 2:
        raise WeightsError(
            f"{source}: classifier.linear.weight is missing, so this is no checkpoint of {space.name}"
        )
    shapes = parameter_shapes(space, head.shape[0])
    fitted: dict[str, Array] = {}
    used: set[str] = set()
    for key, shape in shapes.items():
        name = next((n for n in _aliases(key) if n in arrays and n not in used), None)
        if name is None:
            if key.endswith(OPTIONAL):
                continue
            raise WeightsError(f"{source}: {key} is missing: {space.name} needs it with shape {shape}")
        used.add(name)
        array = arrays[name]
        if array.shape != shape:
            raise WeightsError(f"{source}: {name} has shape {array.shape}: {space.name} needs {shape}")
        if not key.endswith(OPTIONAL):
            array = array.astype(np.float32, copy=False)
            if not np.isfinite(array).all():
                raise WeightsError(f"{source}: {name} holds values that are not finite")
        fitted[key] = array
    unknown = sorted(set(arrays) - used)
    if unknown:
        raise WeightsError(
            f"{source}: {unknown[0]} is unknown to {space.name} ({len(unknown)} unknown keys in all)"
        )
    return fitted


def load_weights(space: SearchSpace, source: str | Path | Mapping[str, Any]) -> Weights:
    """Weights of ``space`` from a .safetensors file, a torch checkpoint or a state_dict.

    Raises WeightsError naming the file and the key that is missing, unknown, mis-shaped or not finite.
    """
    if isinstance(source, Weights):
        return source
    if isinstance(source, Mapping):
        return Weights(_fit(space, _state_dict_arrays(source), "state_dict"))
    path = Path(source)
    labels: tuple[str, ...] = ()
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file: give the path of a .safetensors or torch checkpoint of {space.name}"
        )
    try:
        if path.suffix == ".safetensors":
            arrays, labels = _read_safetensors(path)
        else:
            arrays = _read_torch(path)
    except Exception as error:  # a foreign file makes torch raise unpickling, zip, key and type errors alike
        raise WeightsError(f"{path}: not a readable checkpoint: {_first_line(error)}") from error
    fitted = _fit(space, arrays, str(path))
    classes = fitted["classifier.linear.weight"].shape[0]
    if labels and len(labels) != classes:
        raise WeightsError(f"{path}: {len(labels)} labels for {classes} classes")
    return Weights(fitted, labels, str(path))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
