"""What the scenarios are made of: the board and the committed libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import nan

import msgspec

from dynofa_ros.device.board import Board, load_board
from dynofa_ros.device.board_sections import Mode
from dynofa_ros.library.library import load_library
from dynofa_ros.manager.types import LibraryEntry
from dynofa_ros.paths import share_file

BOARD = "xavier_nx"
SPACE = "ofa_mbv3_w1.2"
MODE_10W, MODE_CAPPED = "MODE_10W_4CORE", "MODE_GPU_510"
OVERHEAD_MS = 3.0
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
