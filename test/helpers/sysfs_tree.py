"""Builds a root folder of kernel files from a YAML tree: path -> content, as in test/data/sysfs_trees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

TREES = Path(__file__).parents[1] / "data" / "sysfs_trees"
# The larger set of trees of real boards lies outside the package; its tests skip without it.
SHARED_TREES = Path(__file__).resolve().parents[3] / "shared" / "data" / "sysfs_trees"


def shared_tree(name: str) -> Path | None:
    """A tree of a real board, if that folder is there."""
    path = SHARED_TREES / f"{name}.yaml"
    return path if path.is_file() else None


def build(tree: Path, root: Path, with_links: bool = True) -> Path:
    """Write the files of a tree below ``root``.

    Links and modes stand in symlinks.yaml and modes.yaml beside the tree. A line end is added to every
    file, ``\\0`` becomes NUL, and each thermal zone gets its class link.
    """
    content: Mapping[str, str] = yaml.safe_load(tree.read_text())
    for path, text in content.items():
        put(root, path, text)
    if with_links:
        for link, target in _side_file(tree, "symlinks.yaml").items():
            _link(root, link, target)
        for zone in {path.rsplit("/", 1)[0] for path in content if "/virtual/thermal/thermal_zone" in path}:
            _link(root, f"/sys/class/thermal/{zone.rsplit('/', 1)[1]}", zone)
    for path, mode in _side_file(tree, "modes.yaml").items():
        (root / path[1:]).chmod(int(mode, 8))
    return root


def put(root: Path, path: str, text: str) -> None:
    """Write one kernel file; who reads it meanwhile never finds it empty."""
    file = root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    content = str(text).replace("\\0", "\0").encode() + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def break_files(root: Path, faults: Sequence[tuple[int, str]], garbage: bytes) -> None:
    """Delete files, close them to everybody, or fill them with something else: (number of the file, what)."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for number, fault in faults:
        file = files[number % len(files)]
        if fault == "gone":
            file.unlink(missing_ok=True)
        elif file.exists() and fault == "closed":
            file.chmod(0)
        elif file.exists() and file.stat().st_mode & 0o200:
            file.write_bytes(garbage)


def _side_file(tree: Path, name: str) -> Mapping[str, str]:
    path = tree.with_name(name)
    return (yaml.safe_load(path.read_text()).get(tree.stem) or {}) if path.is_file() else {}


def _link(root: Path, link: str, target: str) -> None:
    """A relative link, so that it stays inside the root, as the kernel's own links are."""
    place = root / link[1:]
    if place.is_symlink() or place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(root / target[1:], place.parent))
