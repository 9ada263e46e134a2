"""Torch checkpoints as memory-mappable safetensors, converted once, in a process of its own.

`python -m dynofa_ros.supernet.convert SOURCE TARGET SPACE` writes TARGET. A perception process calls
`memory_mapped`, so that it never imports torch, which would cost it hundreds of megabytes and a second.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save

from dynofa_ros.files import write_atomically
from dynofa_ros.paths import cache_folder
from dynofa_ros.supernet.space import SearchSpace, load_space
from dynofa_ros.supernet.weights import SUFFIX, Weights, WeightsError, load_weights

TIMEOUT_S = 600.0  # a large checkpoint on a slow memory card


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces. Raises OSError."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def save_weights(path: Path, weights: Weights) -> None:
    """Write safetensors with the current official names, atomically. Raises WeightsError naming the file."""
    metadata = {"labels": ",".join(weights.labels)} if weights.labels else None
    try:
        write_atomically(path, save(dict(weights), metadata))
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
    if path.suffix == SUFFIX or not path.is_file():
        return load_weights(space, path)
    try:
        target = cache_folder("weights") / f"{space.name}-{file_sha256(path)}{SUFFIX}"
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        raise WeightsError(f"{path}: cannot be read or cached: {error}") from None
    if not target.is_file():
        _convert_in_child(path, target, space)
    return replace(load_weights(space, target), source=str(path))


def _convert_in_child(source: Path, target: Path, space: SearchSpace) -> None:
    command = [sys.executable, "-m", "dynofa_ros.supernet.convert", str(source), str(target), space.name]
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
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
