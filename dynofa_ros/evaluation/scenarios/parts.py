"""What the scenarios are made of: the board, the committed libraries, applications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import nan
from typing import Any

import msgspec

from dynofa_ros.device.board import Board, Mode, load_board
from dynofa_ros.library.library import load_library
from dynofa_ros.manager.types import AppTargets, LibraryEntry
from dynofa_ros.paths import share_file
from dynofa_ros.simulation.scene import App

BOARD = "xavier_nx"
SPACE = "ofa_mbv3_w1.2"
MODE_15W, MODE_10W, MODE_CAPPED = "MODE_15W_6CORE", "MODE_10W_4CORE", "MODE_GPU_510"
OVERHEAD_MS = 3.0
# Level 4 (77.5 %) takes 62.2 ms in the measurement that the deadlines of S3 and S6 were written for.
LEVEL_4_MS, LEVEL_4 = 62.2, "published_6_3"
FIGURE_7_MS = 46.0  # idle latency in figure 7 of Dynamic-OFA
MISS_TOLERANCE = 0.01


def evaluation_board(name: str = BOARD) -> Board:
    """A board with one more mode, the cap of the GPU at 510 MHz that S4 has on top of 10 W."""
    board = load_board(name)
    caps = {**board.modes[MODE_10W].caps_hz, "gpu": 510_000_000}
    mode = Mode(max(m.id for m in board.modes.values()) + 1, board.modes[MODE_10W].cores, caps)
    return msgspec.structs.replace(board, modes={**board.modes, MODE_CAPPED: mode})


@lru_cache(maxsize=1)
def default_board() -> Board:
    """The board of all scenarios, read once."""
    return evaluation_board()


@lru_cache(maxsize=1)
def vision_library() -> tuple[LibraryEntry, ...]:
    """The committed sub-networks of the board, all processors together."""
    entries = []
    for processor in ("cpu", "gpu", "npu"):
        library = load_library(share_file("config", "libraries", BOARD, f"{processor}_{SPACE}.yaml"))
        reference = tuple(library.reference_frequencies_hz.items())
        entries += [
            LibraryEntry(
                e.id, processor, e.accuracy, e.latency_ms.median, e.alpha_ms, e.beta_ms, nan, reference
            )
            for e in library
        ]
    return tuple(entries)


def scaled(library: Sequence[LibraryEntry], factor: float) -> tuple[LibraryEntry, ...]:
    """The same sub-networks with all latencies multiplied."""
    return tuple(
        replace(e, latency_ms=factor * e.latency_ms, alpha_ms=factor * e.alpha_ms, beta_ms=factor * e.beta_ms)
        for e in library
    )


def level_4_ratio() -> float:
    """Latency of level 4 in the committed library / in the measurement that deadlines were written for."""
    return next(e.latency_ms for e in vision_library() if e.id == LEVEL_4) / LEVEL_4_MS


def targets(
    app: str,
    rate_hz: float,
    latency_ms: float,
    accuracy: float,
    floor: float | None = None,
    priority: int = 0,
) -> AppTargets:
    """Targets; the floor is the accuracy itself where none is given."""
    lowest = accuracy if floor is None else floor
    return AppTargets(app, latency_ms, accuracy, lowest, rate_hz, MISS_TOLERANCE, priority)


def vision(asked: AppTargets, mapping: str = "gpu", **more: Any) -> App:
    """An application that looks, with the committed libraries."""
    return replace(App(asked.app, asked, vision_library(), mapping, overhead_ms=OVERHEAD_MS), **more)


def pair() -> tuple[App, ...]:
    """The two applications of S4, S8 and S10; their accuracies were chosen here."""
    return (
        vision(targets("front", 10.0, 100.0, 0.78, 0.74)),
        vision(targets("side", 4.0, 250.0, 0.77, 0.74, priority=1)),
    )


def ambitious(apps: tuple[App, ...]) -> tuple[App, ...]:
    """The same applications wanting the best that their libraries have."""
    return tuple(replace(app, targets=replace(app.targets, accuracy_target=1.0)) for app in apps)
