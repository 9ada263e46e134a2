"""Predictions for sub-networks of ofa_mbv3_w1.2 on the Jetson Xavier NX, calibrated to published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import msgspec
import numpy as np

from dynofa_ros.bench.published_networks import PublishedSubnet, published
from dynofa_ros.library.accuracy import load_predictor
from dynofa_ros.library.genomes import Objective
from dynofa_ros.library.latency_table import BlockCosts, LatencyTable, load_latency_table
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space

BOARD, SPACE, CLASSES = "xavier_nx", load_space("ofa_mbv3_w1.2"), 1000


@dataclass(frozen=True)
class Line:
    """y = slope * x + offset, and what it leaves of the points that it was fitted to."""

    slope: float
    offset: float
    residuals: np.ndarray
    left_out: np.ndarray  # of each point to the line through the others

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.slope * x + self.offset)

    def text(self, unit: str, scale: np.ndarray | float, digits: int) -> str:
        """The residuals for people."""

        def rms(values: np.ndarray) -> float:
            return float(np.sqrt(((values * scale) ** 2).mean()))

        largest = float(np.abs(self.residuals * scale).max())
        return (
            f"residual {rms(self.residuals):.{digits}f} {unit} rms, {largest:.{digits}f} {unit} at most, "
            f"{rms(self.left_out):.{digits}f} {unit} rms for points left out of the fit one by one"
        )


def fit_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray, offset: bool = True) -> Line:
    """Weighted least squares, without ``offset`` through the origin; x, y, weights (N,), N >= 3."""

    def solve(rows: np.ndarray) -> tuple[float, float]:
        columns = np.stack([x[rows], np.full(len(rows), float(offset))], axis=1)
        scaled = columns * weights[rows, None]
        slope, constant = np.linalg.lstsq(scaled, y[rows] * weights[rows], rcond=None)[0]
        return float(slope), float(constant)

    def residuals(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        slope, constant = solve(rows)
        return np.asarray(y[at] - (slope * x[at] + constant))

    every = np.arange(len(x))
    left_out = [residuals(np.delete(every, i), every[i : i + 1])[0] for i in every]
    return Line(*solve(every), residuals(every, every), np.array(left_out))


def published_subnets() -> tuple[PublishedSubnet, ...]:
    """The six sub-networks of run-time library 6, fastest first."""
    return tuple(s for s in published().dynamic_ofa if s.name.startswith("6/"))


def figure4_cpu() -> np.ndarray:
    """(ms, top-1 0..1) of Dynamic-OFA on the CPU, (7, 2)."""
    path = share_file("config", "published", "xavier_nx_figure4.yaml")
    return np.array(msgspec.yaml.decode(path.read_bytes())["cpu_s"]["Dynamic-OFA"]) * [1000.0, 0.01]


def table(processor: str) -> LatencyTable:
    return load_latency_table(share_file("config", "latency_tables", f"{BOARD}_{processor}.yaml"))


def calibrated_accuracy() -> tuple[Objective, Line]:
    """Top-1 (0..1): the predictor's, on a line through what was published of library 6."""
    predictor, subnets = load_predictor(SPACE.name), published_subnets()
    promised = predictor.predict([SPACE.from_mapping(s.config) for s in subnets]).astype(float)
    line = fit_line(promised, np.array([s.accuracy for s in subnets]), np.ones(len(subnets)))
    promise = predictor.objective()
    return lambda batch: line(promise(batch)), line


def operations(resolutions: Sequence[int]) -> BlockCosts:
    """Multiply-accumulates (millions) in the form of a latency table: they, too, add up block by block."""
    blocks, stages = len(SPACE.choices["kernel_sizes"]), len(SPACE.choices["depths"])
    stored = blocks // stages

    def macs(resolution: int, depths: list[int], block: int = 0, kernel: int = 3, expand: int = 3) -> float:
        kernels, expands = [3] * blocks, [3] * blocks
        kernels[block], expands[block] = kernel, expand
        config = SPACE.config(
            resolution=resolution, kernel_sizes=kernels, expand_ratios=expands, depths=depths
        )
        return SPACE.plan(config, CLASSES).macs / 1e6

    fixed, costs = np.zeros(len(resolutions)), np.zeros((len(resolutions), blocks, 3, 3))
    for row, resolution in enumerate(resolutions):
        shallow, deep = [2] * stages, [stored] * stages
        fixed[row], whole = macs(resolution, shallow), macs(resolution, deep)
        for block in range(blocks):
            stage, position = divmod(block, stored)
            for (i, kernel), (j, expand) in product(enumerate((3, 5, 7)), enumerate((3, 4, 6))):
                costs[row, block, i, j] = macs(resolution, deep, block, kernel, expand) - whole
            if position >= 2:  # what a block that depth may skip takes at all
                with_block = [position + 1 if s == stage else 2 for s in range(stages)]
                without = [position if s == stage else 2 for s in range(stages)]
                costs[row, block] += macs(resolution, with_block) - macs(resolution, without)
    return BlockCosts(tuple(resolutions), fixed, costs.reshape(*costs.shape[:2], SPACE.variants))
