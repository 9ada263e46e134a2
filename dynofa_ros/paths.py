"""Where the package's own data files (config/, launch/) are, installed or in the source tree."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

PACKAGE = "dynofa_ros"


def share_directories() -> list[Path]:
    """Candidate share folders, best first: the source tree, the ament prefixes, this Python's prefix."""
    source = Path(__file__).resolve().parent.parent
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # <prefix>/lib/pythonX.Y/site-packages/dynofa_ros/paths.py
    installed = [p for p in Path(__file__).resolve().parents if (p / "share" / PACKAGE).is_dir()]
    candidates = [source] if (source / "package.xml").is_file() else []
    candidates += [p / "share" / PACKAGE for p in [*prefixes, *installed, Path(sys.prefix)]]
    return [c for c in candidates if c.is_dir()]


def share_file(*parts: str) -> Path:
    """Path of a file of the package's share folder, e.g. ``share_file("config", "dynofa.yaml")``.

    Raises FileNotFoundError naming the file and the folders that were searched.
    """
    searched = share_directories()
    for directory in searched:
        path = directory.joinpath(*parts)
        if path.exists():
            return path
    folders = ", ".join(str(d) for d in searched) or "none found: is the package installed?"
    raise FileNotFoundError(f"{'/'.join(parts)} is not part of {PACKAGE} (searched: {folders})")


def cache_folder(*parts: str) -> Path:
    """Folder for what can be made again (converted weights, compiled engines), e.g. ``~/.cache/dynofa_ros``.

    It is not created. ``XDG_CACHE_HOME`` moves it. For a user without a home it is among the temporary files.
    Raises OSError where there is no place for it.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        base = Path(tempfile.gettempdir(), f"{PACKAGE}_{os.getuid()}")
        base.mkdir(mode=0o700, exist_ok=True)
        if base.is_symlink() or base.stat().st_uid != os.getuid():  # networks are read from it
            raise PermissionError(f"{base} belongs to another user: set XDG_CACHE_HOME") from None
    return Path(base, PACKAGE, *parts)
