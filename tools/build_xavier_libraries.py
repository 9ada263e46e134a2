#!/usr/bin/env python3
"""Make the libraries of the Jetson Xavier NX, config/libraries/xavier_nx/: published figures and the search.

gpu: six sub-networks that were published with accuracy and latency, and between each two of them predicted
     ones near the line that joins them. A prediction never displaces a measurement.
cpu: the predicted front; its latency is fitted to the points of figure 4b, whose sub-networks are not public.
npu: the sub-networks of gpu, slower by a guessed factor.

The same files every time. Their notes state how the predictions were calibrated, and how well.

    python tools/build_xavier_libraries.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from xavier_predictions import (
    BOARD,
    CLASSES,
    SPACE,
    calibrated_accuracy,
    figure4_cpu,
    fit_line,
    operations,
    published_subnets,
    table,
)

from dynofa_ros.device.board import load_board, processor_domains
from dynofa_ros.library.genomes import Batch, Genomes, Objective
from dynofa_ros.library.latency_table import summed_latency
from dynofa_ros.library.library import Entry, Latency, Library, Processor, save_library
from dynofa_ros.library.search import search, thin
from dynofa_ros.supernet.space import SubnetConfig

SEED = 0
GAP_ENTRIES = (5, 5, 2, 7, 6)  # predicted sub-networks between the published ones, about 0.7 ms apart
CPU_ENTRIES = 32
GENERATIONS, CHILDREN, SURVIVORS, MUTATION = 50, 100, 20, 0.05
CPU_EVALUATIONS = 20_000
IMPORTANCE = np.array([3.0, 3.0, 1.0])  # of accuracy, latency, operations
P95_RATIO = 1.09
NPU_FACTOR = 1.75
# Read off a figure of Dynamic-OFA: 43 ms at 1109.25 MHz, 49.5 ms at 803.25 MHz; t = alpha + beta * f_ref / f
GPU_BETA_SHARE = round((49.5 / 43 - 1) / (1109.25 / 803.25 - 1), 2)
BETA_SHARES: dict[str, float] = {"gpu": GPU_BETA_SHARE, "cpu": 0.9, "npu": 0.8}
Source = Literal["published", "predicted"]

COMMON_NOTES = f"""
weights_sha256 is null: the figures belong to the official weights of ofa_mbv3_w1.2 (once-for-all), which
may not be redistributed, with BN statistics of every sub-network's own. `dynofa library calibrate` makes
those, `dynofa library profile` measures on the board

latency_ms.p95 = {P95_RATIO} x median, from the spread of 4 to 7 % in logs of Dynamic-OFA's authors: no
source gives a 95th percentile

energy_j is null: nobody has published a measurement
"""
ACCURACY_NOTE = """
predicted accuracy = {slope:.4f} x accuracy predictor {offset:+.4f}, fitted to the published top-1 of the
six sub-networks of library 6: {residual}
"""
GPU_NOTES = """
published: the six sub-networks of run-time library 6 of Dynamic-OFA (Lou et al., 2021), with the ImageNet
top-1 and the GPU latency that its authors measured on the board (PyTorch, batch 1). Their library 7 gives
the architectures that both have 0.010 to 0.012 less accuracy and 4 to 9 % less latency. Figure 4 of their
paper is another measurement of the six, 1.17 to 1.29 times slower: never mix the two

predicted: between each two published neighbours, descendants of the two by an evolutionary search, whose
predicted accuracy, predicted latency and operations lie near the straight line between them. A search
that only trusts the predictions promises about 0.02 more accuracy at the fast end; nobody has measured
that, and a prediction displaces no measurement here

predicted latency = {slope:.4f} x sum of the per-block table {offset:+.3f} ms, fitted to the relative
error of the same six: {residual}

the source names no clock: the top one of the board is assumed as reference

alpha and beta: the share of beta ({beta}) comes from one network read off a figure, 43 ms at 1109 MHz and
49.5 ms at 803 MHz; the +-2 ms of the reading make it 0.28 to 0.52
"""
CPU_NOTES = """
every entry is predicted: nobody has measured these sub-networks on this board

the front that the search finds with the accuracy predictor and the per-block table, cut to the latencies
of figure 4b of Dynamic-OFA (Lou et al., 2021) and to the highest top-1 of their library 6, beyond which
the calibrations have no point. A search picks what the predictor and the noisy table (std 34 % of the
mean) flatter: expect less

latency = {slope:.4f} x sum of the per-block table, fitted to the relative error at the seven points (seconds,
top-1) of Dynamic-OFA in figure 4b, each taken for the front's sub-network of that accuracy, as theirs are not
public: {residual}

the source names neither clock nor threads: the top clocks of the board are assumed as reference

alpha and beta: the share of beta ({beta}) is a guess
"""
NPU_NOTES = """
every entry is a guess: no network of this kind has been measured on the DLA of this board

latency = {factor} x that of the GPU library: guess, any factor from 1.5 to 2 is as likely

accuracy: that of the GPU library, published or predicted; what the number formats of the DLA cost is
unknown, and whether it runs every layer (squeeze-and-excite, h_swish) is unknown as well

reference clock: the higher of the two that are known

alpha and beta: the share of beta ({beta}) is a guess
"""


def paragraphs(text: str) -> tuple[str, ...]:
    return tuple(" ".join(p.split()) for p in text.strip().split("\n\n"))


# --- libraries ------------------------------------------------------------------------------------


def make_entry(
    key: str, config: SubnetConfig, accuracy: float, latency_ms: float, processor: Processor, source: Source
) -> Entry:
    plan = SPACE.plan(config, CLASSES)
    median = round(float(latency_ms), 2)
    beta = round(median * BETA_SHARES[processor], 3)
    return Entry(
        id=key,
        config=config.to_dict(),
        accuracy=round(float(accuracy), 5 if source == "published" else 4),
        accuracy_source=source,
        latency_ms=Latency(median, round(median * P95_RATIO, 2)),
        latency_source=source,
        alpha_ms=round(median - beta, 3),
        beta_ms=beta,
        macs=plan.macs,
        params=plan.params,
    )


def make_library(processor: Processor, notes: str, entries: Sequence[Entry]) -> Library:
    board = load_board(BOARD)
    domains = processor_domains(board, processor)
    return Library(
        schema_version=1,
        space=SPACE.name,
        weights_sha256=None,
        board=BOARD,
        processor=processor,
        reference_frequencies_hz={d: board.domains[d].frequencies_hz[-1] for d in domains},
        notes=(*paragraphs(notes), *paragraphs(COMMON_NOTES)),
        entries=tuple(entries),
    )


# --- gpu: sub-networks between two published ones ------------------------------------------------


def evolve(
    genomes: Genomes, parents: np.ndarray, distance: Objective, rng: np.random.Generator
) -> np.ndarray:
    """The row nearest to a target among descendants of two rows."""
    population, distances = parents, distance(Batch(genomes, parents))
    for _ in range(GENERATIONS):
        mother, father = population[rng.integers(0, len(population), (2, CHILDREN))]
        children = np.where(rng.random(mother.shape) < 0.5, mother, father)
        fresh = rng.integers(0, genomes.sizes, children.shape)
        children = np.where(rng.random(children.shape) < MUTATION, fresh, children)
        population = np.concatenate([population, children])
        distances = np.concatenate([distances, distance(Batch(genomes, children))])
        best = np.argsort(distances, kind="stable")[:SURVIVORS]
        population, distances = population[best], distances[best]
    return population[0]


def between(
    configs: tuple[SubnetConfig, SubnetConfig],
    low: np.ndarray,
    high: np.ndarray,
    number: int,
    properties: Objective,
) -> Batch:
    """``number`` descendants of two sub-networks whose properties are those on the line from low to high.

    Their resolution is between those of the two.
    """
    sizes = [px for px in SPACE.input_sizes if configs[0].resolution <= px <= configs[1].resolution]
    genomes = Genomes(SPACE, sizes)
    parents = genomes.encode(configs)
    tolerance = (high - low) / (number + 1) / IMPORTANCE
    rng = np.random.default_rng(SEED)

    def distance_to(target: np.ndarray) -> Objective:
        return lambda batch: (((properties(batch) - target) / tolerance) ** 2).sum(axis=1)

    targets = [low + k / (number + 1) * (high - low) for k in range(1, number + 1)]
    return Batch(genomes, np.stack([evolve(genomes, parents, distance_to(t), rng) for t in targets]))


def gpu_library(accuracy: Objective, accuracy_note: str) -> Library:
    """The published sub-networks and predicted ones between them."""
    subnets, own_table = published_subnets(), table("gpu")
    configs = [SPACE.from_mapping(s.config) for s in subnets]
    ms = np.array([s.xavier_nx_gpu_ms for s in subnets])
    line = fit_line(np.array([own_table.latency_ms(c) for c in configs]), ms, 1 / ms)
    sums, macs = summed_latency(own_table.block_costs()), summed_latency(operations(own_table.input_sizes))

    def properties(batch: Batch) -> np.ndarray:
        return np.stack([accuracy(batch), line(sums(batch)), macs(batch)], axis=1)

    entries = [
        make_entry(
            f"published_{s.name.replace('/', '_')}", c, s.accuracy, s.xavier_nx_gpu_ms, "gpu", "published"
        )
        for s, c in zip(subnets, configs, strict=True)
    ]
    exact = np.array([[e.accuracy, e.latency_ms.median, e.macs] for e in entries]) / [1, 1, 1e6]
    for i, number in enumerate(GAP_ENTRIES):
        found = between((configs[i], configs[i + 1]), exact[i], exact[i + 1], number, properties)
        for k, (config, figures) in enumerate(zip(found.configs, properties(found), strict=True), start=1):
            name = f"s{i}{k}_r{config.resolution}"
            entries.append(make_entry(name, config, figures[0], figures[1], "gpu", "predicted"))
    residual = line.text("%", 100 / ms, 1)
    notes = GPU_NOTES.format(slope=line.slope, offset=line.offset, residual=residual, beta=BETA_SHARES["gpu"])
    entries.sort(key=lambda e: e.latency_ms.median)
    return make_library("gpu", notes + accuracy_note, entries)


# --- cpu and npu: predicted only ------------------------------------------------------------------


def cpu_library(accuracy: Objective, accuracy_note: str) -> Library:
    """The predicted front, as long as figure 4b is."""
    own_table, figure = table("cpu"), figure4_cpu()
    front = search(
        SPACE,
        accuracy,
        summed_latency(own_table.block_costs()),
        evaluations=CPU_EVALUATIONS,
        seed=SEED,
        input_sizes=own_table.input_sizes,
    )
    sums, accuracies = np.array([[c.latency_ms, c.accuracy] for c in front]).T
    # The sub-networks of the figure are not public: each point is taken for the front's of that accuracy.
    sums_there = np.interp(figure[:, 1], accuracies, sums)
    line = fit_line(sums_there, figure[:, 0], 1 / figure[:, 0], offset=False)
    ms = line(sums)
    highest = max(s.accuracy for s in published_subnets())
    inside = np.flatnonzero((ms >= figure[0, 0]) & (ms <= figure[-1, 0]) & (accuracies <= highest))
    chosen = inside[thin(ms[inside].tolist(), CPU_ENTRIES)]
    entries = [
        make_entry(f"c{n:02d}_r{c.config.resolution}", c.config, c.accuracy, ms[i], "cpu", "predicted")
        for n, (i, c) in enumerate((i, front[i]) for i in chosen)
    ]
    residual = line.text("%", 100 / figure[:, 0], 0)
    notes = CPU_NOTES.format(slope=line.slope, residual=residual, beta=BETA_SHARES["cpu"])
    return make_library("cpu", notes + accuracy_note, entries)


def npu_library(gpu: Library) -> Library:
    """The sub-networks of the GPU, slower by a guess."""
    entries = [
        make_entry(e.id, gpu.config(e), e.accuracy, e.latency_ms.median * NPU_FACTOR, "npu", "predicted")
        for e in gpu
    ]
    notes = NPU_NOTES.format(factor=NPU_FACTOR, beta=BETA_SHARES["npu"])
    return make_library("npu", notes, entries)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("config/libraries/xavier_nx"), metavar="DIR")
    options = parser.parse_args()
    accuracy, line = calibrated_accuracy()
    note = ACCURACY_NOTE.format(slope=line.slope, offset=line.offset, residual=line.text("points", 100, 2))
    gpu = gpu_library(accuracy, note)
    for library in (gpu, cpu_library(accuracy, note), npu_library(gpu)):
        save_library(options.out / f"{library.processor}_{SPACE.name}.yaml", library)


if __name__ == "__main__":
    main()
