"""A library from a search: accuracy predicted or from images, latency from a table or measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dynofa_ros.library.accuracy import MeasuredAccuracy, Statistics, load_predictor
from dynofa_ros.library.accuracy_source import (
    OnStep,
    Request,
    Source,
    from_boxes,
    from_images,
    from_pairs,
    predicted,
)
from dynofa_ros.library.genomes import Batch, Genomes
from dynofa_ros.library.latency_model import fit_model, spread_subnets
from dynofa_ros.library.latency_table import LatencyTable, load_latency_table, summed_latency
from dynofa_ros.library.library import Entry, Latency, Library, LibraryError, Processor, pareto_front
from dynofa_ros.library.profiling import Job, Runs, fixed_shares, measure_subnets
from dynofa_ros.library.search import Candidate, search, thin
from dynofa_ros.library.sentences import MeasuredSentences
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.supernet import Supernet, load_supernet

BETA_SHARE = 0.9
HERE = "host"  # name of a board that nobody named
FITTED_SUBNETS = 64  # measured for the latency model, which only ranks: few rounds, short pauses
FIT_ROUNDS, FIT_PAUSE_S = 8, 0.005
SPARE = 1.25  # candidates measured per point that is wanted: some leave the front when they are measured

MEASURED_ON = {  # by task: the option, and what it must be
    "classification": ("images", "--images DIR"),
    "detection": ("data", "--data DIR, images with boxes"),
    "translation": ("pairs", "--pairs FILE, sentences with what should come out"),
}
TABLE_LATENCY = (
    "latency: predicted, the sum of entries of {table}; such sums are off for whole networks (about half of "
    "what was measured on the GPU of a Jetson Xavier NX): `dynofa library profile` measures on the board; "
    "p95 is not known and repeats the median"
)
LIVE_LATENCY = (
    "latency: measured on {board}, {engine}, {threads} thread(s), {rounds} rounds, {pause:g} ms between "
    "inferences"
)
FITTED = (
    "; the search used a model fitted to {fitted} sub-networks, its error on networks that it was "
    "not fitted to: median {median:.1%}, 90 % within {most:.1%}"
)
SHARES = "alpha and beta: the share of beta (0.9) is a guess; one clock frequency cannot tell them apart"


@dataclass(frozen=True)
class Built:
    """A library, and the BN statistics of its entries where images gave them."""

    library: Library
    statistics: dict[str, Statistics]


def build(request: Request, on_step: OnStep = lambda stage, total: None) -> Built:
    """Search, measure, and keep the Pareto front.

    on_step gets a stage's name and its number of steps in all, once per step. Raises ValueError (of which
    LibraryError, WeightsError and DataError are kinds) or EngineError in one line.
    """
    space = load_space(request.space)
    option, wanted = MEASURED_ON[space.task]
    given = {name: getattr(request, name) for name, _ in MEASURED_ON.values()}
    measured = given.pop(option)
    if any(given.values()) or (measured is None and space.task != "classification"):
        raise LibraryError(f"accuracy of {space.name} must come from {wanted}")
    if measured is None:
        load_predictor(space.name)  # refuses a space without one before any work
    elif request.weights is None:
        raise LibraryError(f"--{option} needs --weights: accuracy is measured with them")
    table_file = None if request.latency_table is None else load_latency_table(request.latency_table)
    table = None if table_file is None else _table(table_file, request.latency_table, space)
    board = _agreed("board", request.board, table_file.board if table_file else None, HERE)
    of_table = table_file.processor if table_file else None
    processor = _agreed("processor", request.processor, of_table, request.runs.processor)
    supernet = load_supernet(space.name, request.weights)
    if request.data is not None:
        supernet, accuracy = from_boxes(request, supernet, on_step)
    elif request.pairs is not None:
        accuracy = from_pairs(request, supernet, on_step)
    else:
        accuracy = predicted(space) if measured is None else from_images(request, supernet, on_step)
    usable = [size for size in accuracy.input_sizes if table is None or size in table.input_sizes]
    if not usable:
        raise LibraryError(f"{request.latency_table} has none of the input sizes that can be searched")
    if table is None and request.configs:
        latency = Source(lambda batch: np.zeros(len(batch.rows)), usable, live_note(request.runs, board))
    else:
        latency = table or _profiled(request, supernet, usable, on_step)
    if request.configs:
        front = _given(request, supernet.space, accuracy, latency)
    else:
        front = search(
            supernet.space,
            accuracy.objective,
            latency.objective,
            evaluations=request.evaluations,
            seed=request.seed,
            input_sizes=usable,
            max_latency_ms=request.max_latency_ms,
            on_batch=lambda total: None if measured else on_step("searching", total),
        )
    front = [c for c in front if c.accuracy >= request.min_accuracy]
    if not front:
        raise LibraryError(
            f"no sub-network was found with an accuracy of {request.min_accuracy:g} or more within "
            f"{request.max_latency_ms:g} ms: ask for less"
        )
    entries = _entries(request, supernet, front, on_step)
    library = Library(
        schema_version=1,
        space=space.name,
        weights_sha256=None if request.weights is None else supernet.weights.digest,
        board=board,
        processor=msgspec.convert(processor, Processor),
        reference_frequencies_hz={},
        notes=(accuracy.note, latency.note, SHARES, *_search_note(request)),
        entries=tuple(entries),
        accuracy_metric=accuracy.metric,
    )
    known = accuracy.objective.statistics if isinstance(accuracy.objective, MeasuredAccuracy) else {}
    statistics = {e.id: known[library.config(e)] for e in entries if library.config(e) in known}
    return Built(library, statistics)


def _agreed(what: str, asked: str | None, of_table: str | None, default: str) -> str:
    """What the table is of, unless the user says it where the table does not."""
    if asked and of_table and asked != of_table:
        raise LibraryError(f"--{what} {asked}: the latency table is of {what} {of_table}")
    return asked or of_table or default


def make_entry(
    supernet: Supernet,
    candidate: Candidate,
    accuracy_source: str,
    times_ms: np.ndarray | None = None,
    name: str = "",
    fixed_share: float | None = None,
) -> Entry:
    """An entry of a library; latency is the median of ``times_ms``, or predicted where there are none."""
    median = p95 = round(candidate.latency_ms, 4)
    if times_ms is not None:
        median, p95 = (round(float(v), 4) for v in np.percentile(times_ms, (50, 95)))
    plan, sizes = supernet.plan(candidate.config), supernet.space.sizes
    sized = {} if fixed_share is None or sizes is None else {"reference_size": float(sizes[1])}
    sized |= {} if fixed_share is None else {"fixed_share": fixed_share}
    return msgspec.convert(
        {
            "id": name,
            "config": candidate.config.to_dict(),
            "accuracy": round(candidate.accuracy, 5),
            "accuracy_source": accuracy_source,
            "latency_ms": Latency(median, p95),
            "latency_source": "predicted" if times_ms is None else "measured",
            "alpha_ms": round(median * (1 - BETA_SHARE), 5),
            "beta_ms": round(median * BETA_SHARE, 5),
            "macs": plan.macs,
            "params": plan.params,
            **sized,
        },
        Entry,
    )


def _table(table: LatencyTable, path: Path | None, space: SearchSpace) -> Source:
    assert path is not None
    table.check_space(space.name)
    note = TABLE_LATENCY.format(table=path.name)
    return Source(summed_latency(table.block_costs()), table.input_sizes, note)


def _profiled(request: Request, supernet: Supernet, input_sizes: Sequence[int], on_step: OnStep) -> Source:
    """A latency model of this machine."""
    runs = replace(
        request.runs,
        rounds=min(request.runs.rounds, FIT_ROUNDS),
        pause_s=min(request.runs.pause_s, FIT_PAUSE_S),
    )
    configs = spread_subnets(Genomes(supernet.space, input_sizes), FITTED_SUBNETS, request.seed)
    times = _measured(supernet, configs, runs, request.seed, on_step, "measuring this machine")
    model = fit_model([supernet.plan(config) for config in configs], np.stack(times))
    note = live_note(request.runs, request.board or HERE) + FITTED.format(
        fitted=len(configs),
        median=np.median(model.errors),
        most=np.quantile(model.errors, 0.9),
    )
    return Source(model.objective(supernet.space, input_sizes), input_sizes, note)


def live_note(runs: Runs, board: str) -> str:
    """What a library says of latencies that were measured here."""
    pause = 1e3 * runs.pause_s
    return LIVE_LATENCY.format(
        board=board, engine=runs.engine, threads=runs.threads, rounds=runs.rounds, pause=pause
    )


def _given(request: Request, space: SearchSpace, accuracy: Source, latency: Source) -> list[Candidate]:
    """The sub-networks of the request that no other one of a table's latency beats, fastest first."""
    configs, genomes = [space.imported(mapping) for mapping in request.configs], Genomes(space)
    batch, objective = Batch(genomes, genomes.encode(configs)), accuracy.objective
    if isinstance(objective, MeasuredAccuracy | MeasuredSentences):
        values = [objective.score(config) for config in configs]
    else:
        values = objective(batch).tolist()
    found = zip(configs, values, latency.objective(batch).tolist(), strict=True)
    return sorted((Candidate(*one) for one in found), key=lambda candidate: candidate.latency_ms)


def _entries(
    request: Request, supernet: Supernet, front: Sequence[Candidate], on_step: OnStep
) -> list[Entry]:
    """The points that are wanted, fastest first; without a table they are measured and compared anew."""
    source = "measured" if request.images or request.data or request.pairs else "predicted"
    live = request.latency_table is None
    number = round(SPARE * request.points) if live else request.points
    chosen = [front[i] for i in thin([c.latency_ms for c in front], number, [c.accuracy for c in front])]
    times: Sequence[np.ndarray | None] = [None] * len(chosen)
    shares: Sequence[float | None] = [None] * len(chosen)
    if live:
        configs = [c.config for c in chosen]
        times = _measured(supernet, configs, request.runs, request.seed, on_step, "measuring the front")
        jobs = {str(i): Job(config, request.runs.threads) for i, config in enumerate(configs)}
        shares = list(fixed_shares(supernet, jobs, request.runs, request.seed).values())
    measured = zip(chosen, times, shares, strict=True)
    entries = pareto_front([make_entry(supernet, c, source, t, fixed_share=s) for c, t, s in measured])
    kept = [entries[i] for i in thin([e.latency_ms.median for e in entries], request.points)]
    return named_entries(supernet.space, kept)


def named_entries(space: SearchSpace, entries: Sequence[Entry]) -> list[Entry]:
    """The entries with ids by their place."""
    labels = [space.label(space.from_mapping(e.config)) for e in entries]
    return [
        msgspec.structs.replace(e, id=f"s{i:02d}_{label}")
        for i, (e, label) in enumerate(zip(entries, labels, strict=True))
    ]


def _measured(
    supernet: Supernet, configs: Sequence[Any], runs: Runs, seed: int, on_step: OnStep, stage: str
) -> list[np.ndarray]:
    """Milliseconds per round of each sub-network, in their order."""
    jobs = {str(i): Job(config, runs.threads) for i, config in enumerate(configs)}
    times = measure_subnets(supernet, jobs, runs, seed, on_round=lambda total: on_step(stage, total))
    return [times[key] for key in jobs]


def _search_note(request: Request) -> tuple[str, ...]:
    if request.configs:
        return ()
    bounds = ""
    if request.min_accuracy > 0:
        bounds += f", accuracy of {request.min_accuracy:g} or more"
    if np.isfinite(request.max_latency_ms):
        bounds += f", at most {request.max_latency_ms:g} ms"
    return (f"search: dynofa library build, {request.evaluations} evaluations, seed {request.seed}{bounds}",)
