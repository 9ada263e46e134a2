"""Per-block latency tables: the latency of a sub-network as the sum of what its layers take alone.

The scheme and the key names are the once-for-all project's; the tables of the Jetson Xavier NX
(config/latency_tables/) are those of Dynamic-OFA (Lou et al., 2021), for `ofa_mbv3_w1.2` only.
Such a sum is far from the measured latency of the whole network: a library states how it was calibrated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import msgspec
import numpy as np

from dynofa_ros.library.genomes import to_indices
from dynofa_ros.library.library import LibraryError, Processor
from dynofa_ros.supernet.space import SubnetConfig, load_space

SPACE = "ofa_mbv3_w1.2"
FIXED = ("first_conv", "blocks.0", "final_expand_layer", "pool", "feature_mix_layer", "classifier")
OFFICIAL_SUFFIX = "_lookup_table.json"
STEM, FINAL, FEATURES, CLASSES = 24, 1152, 1536, 1000
STAGES = (  # output channels, stride, squeeze-and-excite, h_swish: as the official keys spell them
    (32, 2, 0, 0),
    (48, 2, 1, 0),
    (96, 2, 0, 1),
    (136, 1, 1, 1),
    (192, 2, 1, 1),
)
KERNEL_SIZES, EXPAND_RATIOS, STAGE_BLOCKS = (3, 5, 7), (3, 4, 6), 4
BLOCK_INDEX = np.arange(len(STAGES) * STAGE_BLOCKS)
POSITIONS = 2 * len(STAGES)  # of every stage its first block, and any later one
POSITION_OF_BLOCK = BLOCK_INDEX // STAGE_BLOCKS * 2 + (BLOCK_INDEX % STAGE_BLOCKS > 0)


@dataclass(frozen=True)
class BlockCosts:
    """A latency table as arrays (ms) for a search: R resolutions, B blocks, 3 kernel sizes, 3 expansions."""

    resolutions: tuple[int, ...]
    fixed_ms: np.ndarray  # (R,)
    block_ms: np.ndarray  # (R, B, 3, 3)

    def latency_ms(
        self,
        resolution_index: np.ndarray,
        kernel_index: np.ndarray,
        expand_index: np.ndarray,
        active: np.ndarray,
    ) -> np.ndarray:
        """Latency (ms) of N sub-networks, (N,): resolution_index (N,), the others (N, B)."""
        blocks = np.arange(self.block_ms.shape[1])
        costs = self.block_ms[resolution_index[:, None], blocks, kernel_index, expand_index]
        return np.asarray(self.fixed_ms[resolution_index] + np.where(active, costs, 0.0).sum(axis=1))


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One resolution (px). block_ms: per position, kernel 3, 5, 7 outside and expansion 3, 4, 6 inside."""

    resolution: int
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
    """Mean latency (ms) of every layer of ``space``, each measured alone; resolutions ascend.

    board and processor: where; None = not known, as of a folder of official tables.
    """

    source: str
    space: str
    board: str | None
    processor: Processor | None
    notes: tuple[str, ...]
    resolutions: tuple[int, ...]
    fixed_ms: np.ndarray  # (R, len(FIXED))
    position_ms: np.ndarray  # (R, POSITIONS, 3, 3)

    def check_space(self, name: str) -> None:
        """Raises LibraryError if the table is for another search space."""
        if name != self.space:
            raise LibraryError(f"{self.source}: this latency table is for {self.space}, not for {name}")

    def block_costs(self) -> BlockCosts:
        """The table with one entry per block, for batches."""
        return BlockCosts(self.resolutions, self.fixed_ms.sum(axis=1), self.position_ms[:, POSITION_OF_BLOCK])

    def latency_ms(self, config: SubnetConfig) -> float:
        """Sum over the layers that run (ms). Raises ValueError naming a resolution that the table lacks."""
        if config.resolution not in self.resolutions:
            raise ValueError(
                f"{self.source}: resolution {config.resolution} is not in this latency table "
                f"(it has {', '.join(map(str, self.resolutions))})"
            )
        _, *indices = to_indices(load_space(self.space), [config])
        row = np.array([self.resolutions.index(config.resolution)])
        return float(self.block_costs().latency_ms(row, *indices)[0])


def load_latency_table(path: str | Path) -> LatencyTable:
    """A compact table file, or a folder of official `<resolution>_lookup_table.json` files.

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
        tuple(row.resolution for row in rows),
        np.array([row.fixed_ms for row in rows]),
        np.array([row.block_ms for row in rows]).reshape(len(rows), POSITIONS, 3, 3),
    )


def _compact_file(path: Path) -> TableFile:
    try:
        data = msgspec.yaml.decode(path.read_bytes(), type=TableFile)
    except (ValueError, msgspec.DecodeError) as error:
        raise LibraryError(f"{path}: {' '.join(str(error).split())}") from None
    if data.space != SPACE or data.fixed != FIXED or not data.rows:
        raise LibraryError(f"{path}: space must be {SPACE}, fixed [{', '.join(FIXED)}], and rows not empty")
    for row in data.rows:
        place = f"{path}: resolution {row.resolution}"
        if len(row.fixed_ms) != len(FIXED) or [len(r) for r in row.block_ms] != [9] * POSITIONS:
            raise LibraryError(f"{place}: needs {len(FIXED)} fixed_ms and {POSITIONS} x 9 block_ms")
        for value in (*row.fixed_ms, *(v for line in row.block_ms for v in line)):
            _check_time(value, place)
    for before, after in pairwise(row.resolution for row in data.rows):
        if after <= before:
            raise LibraryError(
                f"{path}: rows must ascend in resolution, each once: {after} comes after {before}"
            )
    return data


def official_rows(folder: Path) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """(rows, notes) of a folder of official tables. Raises LibraryError as load_latency_table does."""
    files = {p.name.removesuffix(OFFICIAL_SUFFIX): p for p in folder.glob(f"*{OFFICIAL_SUFFIX}")}
    resolutions = sorted(int(name) for name in files if name.isdecimal())
    if not resolutions:
        raise LibraryError(f"{folder}: no file in it is named like 224{OFFICIAL_SUFFIX}")
    rows = tuple(_official_row(files[str(r)], r) for r in resolutions)
    return rows, (f"official look-up tables of {SPACE}",)


def _official_row(path: Path, resolution: int) -> Row:
    try:
        table = json.loads(path.read_bytes())
    except ValueError as error:
        raise LibraryError(f"{path}: not a JSON file: {error}") from None

    def time_ms(key: str) -> float:
        try:
            value = float(table[key]["mean"])
        except (KeyError, TypeError, ValueError):
            raise LibraryError(f"{path}: the mean of {key!r} is missing") from None
        return _check_time(value, f"{path}: {key!r}")

    fixed, positions = official_keys(resolution)
    return Row(
        resolution,
        tuple(map(time_ms, fixed)),
        tuple(tuple(map(time_ms, keys)) for keys in positions),
    )


def official_keys(resolution: int) -> tuple[list[str], list[list[str]]]:
    """The names in an official look-up table, in the order of Row.fixed_ms and Row.block_ms."""
    side = (resolution + 1) // 2
    channels = STEM
    stem = f"{side}x{side}x{STEM}"
    positions: list[list[str]] = []
    for width, stride, attention, swish in STAGES:
        for step, skip in ((stride, 0), (1, 1)):
            before, side = f"{side}x{side}x{channels}", (side - 1) // step + 1
            positions.append(
                [
                    f"expanded_conv-input:{before}-output:{side}x{side}x{width}-expand:{channels * expand}"
                    f"-kernel:{kernel}-stride:{step}-idskip:{skip}-se:{attention}-hs:{swish}"
                    for kernel, expand in product(KERNEL_SIZES, EXPAND_RATIOS)
                ]
            )
            channels = width
    fixed = [
        f"Conv-input:{resolution}x{resolution}x3-output:{stem}",
        f"expanded_conv-input:{stem}-output:{stem}-expand:{STEM}-kernel:3-stride:1-idskip:1-se:0-hs:0",
        f"Conv_1-input:{side}x{side}x{channels}-output:{side}x{side}x{FINAL}",
        f"AvgPool2D-input:{side}x{side}x{FINAL}-output:1x1x{FINAL}",
        f"Conv_2-input:1x1x{FINAL}-output:1x1x{FEATURES}",
        f"Logits-input:1x1x{FEATURES}-output:{CLASSES}",
    ]
    return fixed, positions


def _check_time(value: float, place: str) -> float:
    if not 0 < value < math.inf:
        raise LibraryError(f"{place}: {value} ms is not allowed: it must be positive and finite")
    return value


def table_text(board: str, processor: str, notes: Sequence[str], rows: Sequence[Row]) -> str:
    """The compact file of a table: six significant digits, a line per resolution and position."""

    def line(values: Sequence[float]) -> str:
        return f"[{', '.join(f'{v:.6g}' for v in values)}]"

    lines = [f"space: {SPACE}", f"board: {board}", f"processor: {processor}", "notes:"]
    lines += [f"- {json.dumps(note)}" for note in notes]
    lines += [f"fixed: [{', '.join(FIXED)}]", "rows:"]
    for row in rows:
        lines += [f"- resolution: {row.resolution}", f"  fixed_ms: {line(row.fixed_ms)}", "  block_ms:"]
        lines += [f"  - {line(values)}" for values in row.block_ms]
    return "\n".join(lines) + "\n"
