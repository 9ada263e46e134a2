"""What the scenarios are made of: the board and the committed libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import msgspec

from dynofa_ros.device.board import Board, cluster_cpus, load_board
from dynofa_ros.device.board_sections import Mode
from dynofa_ros.library.library import load_library
from dynofa_ros.library.testbench import thread_share
from dynofa_ros.messages import SubnetEntry
from dynofa_ros.paths import share_file

BOARD = "xavier_nx"
SPACE = "ofa_mbv3_w1.2"
MODE_10W, MODE_CAPPED = "MODE_10W_4CORE", "MODE_GPU_510"
OVERHEAD_MS = 3.0


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
def vision_library() -> tuple[SubnetEntry, ...]:
    """The committed sub-networks of the board, all processors together."""
    entries: list[SubnetEntry] = []
    for processor in ("cpu", "gpu", "npu"):
        library = load_library(share_file("config", "libraries", BOARD, f"{processor}_{SPACE}.yaml"))
        entries += library.subnet_entries()
    return tuple(entries)


@lru_cache(maxsize=1)
def clustered_library() -> tuple[SubnetEntry, ...]:
    """The committed sub-networks of the CPU on each of its clusters, with one thread and with two.

    The committed library is of all six cores; how much longer fewer threads take is `thread_share`, a guess
    for this board.
    """
    board = default_board()
    clusters = cluster_cpus(board)
    cores = sum(map(len, clusters.values()))
    entries = [e for e in vision_library() if e.processor == "cpu"]
    placed = []
    for cluster, cpus in clusters.items():
        reference = tuple(r for r in entries[0].reference_frequencies if r.domain == cluster)
        for threads in range(1, len(cpus) + 1):
            slower = scaled(entries, thread_share(threads) / thread_share(cores))
            placed += [
                replace(e, cluster=cluster, threads=threads, reference_frequencies=reference) for e in slower
            ]
    return tuple(placed)


def scaled(library: Sequence[SubnetEntry], factor: float) -> tuple[SubnetEntry, ...]:
    """The same sub-networks with all latencies multiplied."""
    return tuple(
        replace(e, latency_ms=factor * e.latency_ms, alpha_ms=factor * e.alpha_ms, beta_ms=factor * e.beta_ms)
        for e in library
    )
