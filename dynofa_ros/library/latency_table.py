"""Per-block latency tables: the latency of a sub-network as the sum of what its layers take alone.

The scheme and the key names are the once-for-all project's; the tables of the Jetson Xavier NX
(config/latency_tables/) are those of Dynamic-OFA (Lou et al., 2021), for `ofa_mbv3_w1.2` only.
Such a sum is far from the measured latency of the whole network: a library states how it was calibrated.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dynofa_ros.errors import one_line
from dynofa_ros.files import read_bounded, read_errors, read_yaml
from dynofa_ros.library.genomes import Batch, Objective
from dynofa_ros.library.library import LibraryError, Processor
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.space import TableLayout

SPACE = "ofa_mbv3_w1.2"
FIXED = ("first_conv", "blocks.0", "final_expand_layer", "pool", "feature_mix_layer", "classifier")
OFFICIAL_SUFFIX = "_lookup_table.json"


def _layout() -> TableLayout:
    layout = load_space(SPACE).latency_table
    assert layout is not None
    return layout


@dataclass(frozen=True)
class BlockCosts:
    """A latency table as arrays (ms) for a search: R input sizes, B blocks, V variants of a block."""

    input_sizes: tuple[int, ...]
    fixed_ms: np.ndarray  # (R,)
    block_ms: np.ndarray  # (R, B, V)

    def latency_ms(self, size_index: np.ndarray, variant: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Latency (ms) of N sub-networks, (N,): size_index (N,), the others (N, B)."""
        blocks = np.arange(self.block_ms.shape[1])
        costs = self.block_ms[size_index[:, None], blocks, variant]
        return np.asarray(self.fixed_ms[size_index] + np.where(active, costs, 0.0).sum(axis=1))


def summed_latency(costs: BlockCosts) -> Objective:
    """Latency (ms) as the sum of a table's entries, for input sizes that it has."""

    def objective(batch: Batch) -> np.ndarray:
        space, sizes = batch.genomes.space, np.searchsorted(costs.input_sizes, batch.input_sizes)
        return costs.latency_ms(sizes, space.variant(batch.genes), space.active(batch.genes))

    return objective


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input size (px). block_ms: per position, kernel 3, 5, 7 outside and expansion 3, 4, 6 inside."""

    px: int = msgspec.field(name="resolution")
    fixed_ms: tuple[float, ...]
    block_ms: tuple[tuple[float, ...], ...]


class TableFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The compact form of a table, as in config/latency_tables/."""

    space: str
    board: str
    processor: Processor
    notes: tuple[str, ...]
    fixed: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class LatencyTable:
    """Mean latency (ms) of every layer of ``space``, each measured alone; input sizes ascend.

    board and processor: where; None = not known, as of a folder of official tables.
    """

    source: str
    space: str
    board: str | None
    processor: Processor | None
    notes: tuple[str, ...]
    input_sizes: tuple[int, ...]
    fixed_ms: np.ndarray  # (R, len(FIXED))
    position_ms: np.ndarray  # (R, positions of a block, variants)

    def check_space(self, name: str) -> None:
        """Raises LibraryError if the table is for another search space."""
        if name != self.space:
            raise LibraryError(f"{self.source}: this latency table is for {self.space}, not for {name}")

    def block_costs(self) -> BlockCosts:
        """The table with one entry per block, for batches."""
        by_block = self.position_ms[:, _layout().position]
        return BlockCosts(self.input_sizes, self.fixed_ms.sum(axis=1), by_block)

    def latency_ms(self, config: Any) -> float:
        """Sum over the layers that run (ms). Raises ValueError naming an input size that the table lacks."""
        space = load_space(self.space)
        size, genes = space.input_size(config), space.encode([config])
        if size not in self.input_sizes:
            raise ValueError(
                f"{self.source}: {space.size_entry} {size} is not in this latency table "
                f"(it has {', '.join(map(str, self.input_sizes))})"
            )
        row = np.array([self.input_sizes.index(size)])
        return float(self.block_costs().latency_ms(row, space.variant(genes), space.active(genes))[0])


def load_latency_table(path: str | Path) -> LatencyTable:
    """A compact table file, or a folder of official `<px>_lookup_table.json` files.

    Raises LibraryError naming the file, and the key that is wrong or missing.
    """
    path = Path(path)
    board, processor = None, None
    try:
        if path.is_dir():
            rows, notes = official_rows(path)
        else:
            file = _compact_file(path)
            board, processor, rows, notes = file.board, file.processor, file.rows, file.notes
    except OSError as error:
        raise LibraryError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    return LatencyTable(
        str(path),
        SPACE,
        board,
        processor,
        notes,
        tuple(row.px for row in rows),
        np.array([row.fixed_ms for row in rows]),
        np.array([row.block_ms for row in rows]),
    )


def _compact_file(path: Path) -> TableFile:
    with read_errors(path, LibraryError):
        data = read_yaml(path, TableFile)
    if data.space != SPACE or data.fixed != FIXED or not data.rows:
        raise LibraryError(f"{path}: space must be {SPACE}, fixed [{', '.join(FIXED)}], and rows not empty")
    space = load_space(SPACE)
    size_entry, positions = space.size_entry, 1 + int(_layout().position.max())
    for row in data.rows:
        place = f"{path}: {size_entry} {row.px}"
        if len(row.fixed_ms) != len(FIXED) or [len(r) for r in row.block_ms] != [space.variants] * positions:
            needed = f"{len(FIXED)} fixed_ms and {positions} x {space.variants} block_ms"
            raise LibraryError(f"{place}: needs {needed}")
        for value in (*row.fixed_ms, *(v for line in row.block_ms for v in line)):
            _check_time(value, place)
    for before, after in pairwise(row.px for row in data.rows):
        if after <= before:
            raise LibraryError(
                f"{path}: rows must ascend in {size_entry}, each once: {after} comes after {before}"
            )
    return data


def official_rows(folder: Path) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """(rows, notes) of a folder of official tables. Raises LibraryError as load_latency_table does."""
    files = {p.name.removesuffix(OFFICIAL_SUFFIX): p for p in folder.glob(f"*{OFFICIAL_SUFFIX}")}
    sizes = sorted(int(name) for name in files if name.isdecimal())
    if not sizes:
        raise LibraryError(f"{folder}: no file in it is named like 224{OFFICIAL_SUFFIX}")
    rows = tuple(_official_row(files[str(size)], size) for size in sizes)
    return rows, (f"official look-up tables of {SPACE}",)


def _official_row(path: Path, px: int) -> Row:
    try:
        table = json.loads(read_bounded(path))
    except (ValueError, RecursionError) as error:
        raise LibraryError(f"{path}: not a JSON file: {one_line(error)}") from None

    def time_ms(key: str) -> float:
        try:
            value = float(table[key]["mean"])
        except (KeyError, TypeError, ValueError):
            raise LibraryError(f"{path}: the mean of {key!r} is missing") from None
        return _check_time(value, f"{path}: {key!r}")

    fixed, positions = _layout().keys(px)
    return Row(
        px=px,
        fixed_ms=tuple(map(time_ms, fixed)),
        block_ms=tuple(tuple(map(time_ms, keys)) for keys in positions),
    )


def _check_time(value: float, place: str) -> float:
    if not 0 < value < math.inf:
        raise LibraryError(f"{place}: {value} ms is not allowed: it must be positive and finite")
    return value
