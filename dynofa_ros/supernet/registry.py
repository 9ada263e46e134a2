"""Registry of supernet families and engines, by name. A file in families/ or engines/ adds one.

It is the FAMILY or the ENGINE of the file. Families are cheap to import and are all imported at the first
question. An engine is imported when it is used (torch takes a second), so its name is the name of its file:
that of the Python package it runs on.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dynofa_ros.supernet.space import SearchSpace

if TYPE_CHECKING:
    from dynofa_ros.supernet.engines.engine import Engine

DEMO_SPACE = "ofa_mbv3_demo"  # the space of the supernet that is part of the package
SHARED = ("engine", "onnx_graph", "onnxruntime_c")  # files of engines/ that engines have in common


class EngineError(RuntimeError):
    """An engine that is unknown, not installed, or refuses the sub-network."""


class Family:
    """One kind of supernet. ``known``: what makes its spaces, by name; ``official``: those with published
    weights. Where names follow a rule, ``spaces`` says it to people and ``space`` obeys it."""

    def __init__(
        self, known: Mapping[str, Callable[[], SearchSpace]] | None = None, official: tuple[str, ...] = ()
    ) -> None:
        self.known, self.official = known or {}, official

    @property
    def spaces(self) -> str:
        """The names it knows, for people."""
        return ", ".join(self.known)

    def space(self, name: str) -> SearchSpace | None:
        """The search space of a name, None if it is none of this family."""
        return self.known[name]() if name in self.known else None


def _files(room: str) -> list[str]:
    folder = Path(__file__).with_name(room)
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


@cache
def families() -> tuple[Family, ...]:
    """Every family, in the order of their files' names."""
    modules = (f"dynofa_ros.supernet.families.{name}" for name in _files("families"))
    return tuple(importlib.import_module(module).FAMILY for module in modules)


@cache
def load_space(name: str) -> SearchSpace:
    """The search space of a name. Raises ValueError naming the known ones."""
    for family in families():
        space = family.space(name)
        if space is not None:
            return space
    raise ValueError(f"space {name!r} is unknown: known are {', '.join(f.spaces for f in families())}")


def official_spaces() -> tuple[str, ...]:
    """Names of the spaces with published weights."""
    return tuple(name for family in families() for name in family.official)


def engine_names() -> tuple[str, ...]:
    """Names of all engines, installed or not."""
    return tuple(name for name in _files("engines") if name not in SHARED)


def load_engine(name: str) -> Engine:
    """An engine by name. Raises EngineError naming the choices."""
    if name not in engine_names():
        raise EngineError(f"engine {name!r} is unknown: choose one of {', '.join(engine_names())}")
    if importlib.util.find_spec(name) is None:
        raise EngineError(f"engine {name!r} is not installed: pip install {name}, or choose another engine")
    engine: Engine = importlib.import_module(f"dynofa_ros.supernet.engines.{name}").ENGINE
    return engine


def require_processor(name: str, processor: str) -> None:
    """Raises EngineError naming what there is if the engine does not reach ``processor`` on this machine."""
    reached = load_engine(name).processors()
    if processor not in reached:
        raise EngineError(
            f"engine {name} reaches no {processor} here, only {', '.join(reached)}: "
            "install a build of it for that processor, or choose another engine"
        )
