"""A library from a search: accuracy predicted or from images, latency from a table or measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dynofa_ros.datasets.boxes import read_boxes
from dynofa_ros.datasets.reader import readable
from dynofa_ros.library.accuracy import (
    CALIBRATION_SHARE,
    FileImages,
    MeasuredAccuracy,
    Statistics,
    labelled_files,
    load_predictor,
    rough,
    split,
)
from dynofa_ros.library.genomes import Batch, Genomes, Objective
from dynofa_ros.library.latency_model import fit_model, spread_subnets
from dynofa_ros.library.latency_table import LatencyTable, load_latency_table, summed_latency
from dynofa_ros.library.library import Entry, Latency, Library, LibraryError, Processor, pareto_front
from dynofa_ros.library.profiling import Job, Runs, fixed_shares, measure_subnets
from dynofa_ros.library.search import Candidate, search, thin
from dynofa_ros.library.sentences import MeasuredSentences, read_pairs
from dynofa_ros.supernet.families.detector import DetectorSpace
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.supernet import Supernet, load_supernet

BETA_SHARE = 0.9
HERE = "host"  # name of a board that nobody named
FITTED_SUBNETS = 64  # measured for the latency model, which only ranks: few rounds, short pauses
FIT_ROUNDS, FIT_PAUSE_S = 8, 0.005
SPARE = 1.25  # candidates measured per point that is wanted: some leave the front when they are measured
OnStep = Callable[[str, int], None]

PREDICTED_ACCURACY = (
    "accuracy: predicted; the predictor promises 4.5 to 6.9 points more than was measured on ImageNet, "
    "so it ranks sub-networks and is no accuracy to expect"
)
IMAGE_ACCURACY = (
    "accuracy: measured on {scored} images of {folder}, read and prepared as the perception node prepares a "
    "frame{statistics}; the scored images also chose the sub-networks"
)
BOX_ACCURACY = (
    "accuracy: mAP50:95 by pycocotools on {scored} images of {folder}, prepared as the perception node "
    "prepares a frame, with BN statistics from {calibration} others; the scored images also chose the "
    "sub-networks, and images that the weights were trained on would rate too high"
)
SENTENCE_ACCURACY = (
    "accuracy: measured, {metric} on {count} sentences of {file}, target {target}; the scored sentences also "
    "chose the sub-networks. Latency is that of a sentence of {size} tokens"
)
METRIC_NAMES = {"bleu": "BLEU / 100", "exact": "exact match"}
MEASURED_ON = {  # by task: the option, and what it must be
    "classification": ("images", "--images DIR"),
    "detection": ("data", "--data DIR, images with boxes"),
    "translation": ("pairs", "--pairs FILE, sentences with what should come out"),
}
BN_ACCURACY = " with BN statistics from {} others"
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
class Request:
    """What to build.

    images, data, pairs: what accuracy is measured on, by the task of the space; none = the predictor. images:
    an ImageFolder; data: images with boxes; pairs: sentences with their references, translated to ``target``
    and scored by ``metric``. ``count`` of them are used; skip_broken: without those that cannot be decoded;
    held_out: files that alone are scored, none = drawn.
    weights: a checkpoint; None = random ones, and a library that is bound to none. latency_table: None =
    measured here, as ``runs`` says. board, processor: None = those of the table, else this machine.
    max_latency_ms holds for the table or the fitted model. configs: sub-networks to measure, as other
    programs describe them (``SearchSpace.imported``); none = searched.
    """

    space: str
    evaluations: int
    board: str | None = None
    processor: Processor | None = None
    weights: Path | None = None
    images: Path | None = None
    data: Path | None = None
    pairs: Path | None = None
    target: str = ""
    metric: str = "bleu"
    count: int = 2000
    skip_broken: bool = False
    held_out: frozenset[Path] = frozenset()
    latency_table: Path | None = None
    runs: Runs = field(default_factory=Runs)
    points: int = 32
    seed: int = 0
    configs: tuple[Mapping[str, Any], ...] = ()
    min_accuracy: float = 0.0
    max_latency_ms: float = float("inf")


@dataclass(frozen=True)
class Built:
    """A library, and the BN statistics of its entries where images gave them."""

    library: Library
    statistics: dict[str, Statistics]


@dataclass(frozen=True)
class _Source:
    """An objective, the input sizes for which it holds, and what the library says about it."""

    objective: Objective
    input_sizes: Sequence[int]
    note: str
    metric: str = "top-1"


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
    if isinstance(space, DetectorSpace):
        supernet, accuracy = _from_boxes(request, space, supernet, on_step)
    elif request.pairs is not None:
        accuracy = _from_pairs(request, supernet, on_step)
    else:
        accuracy = _predicted(space) if measured is None else _from_images(request, supernet, on_step)
    usable = [size for size in accuracy.input_sizes if table is None or size in table.input_sizes]
    if not usable:
        raise LibraryError(f"{request.latency_table} has none of the input sizes that can be searched")
    if table is None and request.configs:
        latency = _Source(lambda batch: np.zeros(len(batch.rows)), usable, _live_note(request))
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


def _table(table: LatencyTable, path: Path | None, space: SearchSpace) -> _Source:
    assert path is not None
    table.check_space(space.name)
    note = TABLE_LATENCY.format(table=path.name)
    return _Source(summed_latency(table.block_costs()), table.input_sizes, note)


def _predicted(space: SearchSpace) -> _Source:
    predictor = load_predictor(space.name)
    return _Source(predictor.objective(), predictor.inputs.input_sizes, PREDICTED_ACCURACY)


def _from_pairs(request: Request, supernet: Supernet, on_step: OnStep) -> _Source:
    assert request.pairs is not None and supernet.space.sizes is not None
    pairs = read_pairs(request.pairs, request.count, request.seed)
    objective = MeasuredSentences(
        supernet,
        pairs,
        request.target,
        request.metric,
        on_subnet=lambda: on_step("measuring accuracy", request.evaluations),
    )
    note = SENTENCE_ACCURACY.format(
        metric=METRIC_NAMES[request.metric],
        count=len(pairs),
        file=request.pairs.name,
        target=request.target,
        size=supernet.space.sizes[1],
    )
    return _Source(objective, supernet.space.input_sizes, note, METRIC_NAMES[request.metric])


def _from_images(request: Request, supernet: Supernet, on_step: OnStep) -> _Source:
    assert request.images is not None
    space = supernet.space
    files, labels = labelled_files(request.images, supernet.weights)
    parts = _parts(files, request, space)
    drawn = [files[i] for part in parts for i in part]
    sound = set(readable(drawn, request.skip_broken, lambda: on_step("checking images", len(drawn)))[0])
    calibration, scored = (
        FileImages(space, [files[i] for i in kept], labels[kept])
        for kept in ([i for i in part if files[i] in sound] for part in parts)
    )
    objective = MeasuredAccuracy(
        supernet,
        calibration,
        scored,
        *_run_on(request),
        on_subnet=lambda: on_step("measuring accuracy", request.evaluations),
    )
    number = len(calibration.files)
    statistics = BN_ACCURACY.format(number) + rough(number) if space.batch_normalised else ""
    note = IMAGE_ACCURACY.format(scored=len(scored.files), folder=request.images.name, statistics=statistics)
    return _Source(objective, space.input_sizes, note)


def _parts(files: Sequence[Path], request: Request, space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """As ``split``; where images were held out of a training, these are scored and no others."""
    if not request.held_out:
        return split(len(files), request.count, request.seed, space.batch_normalised)
    out = np.array([file in request.held_out for file in files])
    drawn = np.random.default_rng(request.seed).permutation(np.flatnonzero(~out))
    number = round(request.count * CALIBRATION_SHARE) if space.batch_normalised else 0
    return drawn[:number], np.flatnonzero(out)


def _run_on(request: Request) -> tuple[str, str]:
    """Engine and processor that accuracy is measured on: those of the library, if it is of this machine."""
    return request.runs.engine, request.runs.processor if request.latency_table is None else "cpu"


def _from_boxes(
    request: Request, space: DetectorSpace, supernet: Supernet, on_step: OnStep
) -> tuple[Supernet, _Source]:
    """The supernet with inputs of the aspect of the images, and the accuracy of its sub-networks on them."""
    from dynofa_ros.library.precision import CALIBRATION, MeasuredPrecision

    assert request.data is not None
    data = read_boxes(request.data, request.skip_broken, lambda total: on_step("checking images", total))
    shaped = Supernet(space.with_aspect(data.aspect), supernet.weights)
    objective = MeasuredPrecision(
        shaped,
        data,
        _parts([image.path for image in data.images], request, space),
        *_run_on(request),
        on_subnet=lambda: on_step("measuring accuracy", request.evaluations),
    )
    calibration, scored = objective.numbers
    note = BOX_ACCURACY.format(
        scored=scored, folder=request.data.name, calibration=f"{calibration}{rough(calibration, CALIBRATION)}"
    )
    return shaped, _Source(objective, space.input_sizes, note, "mAP50:95")


def _profiled(request: Request, supernet: Supernet, input_sizes: Sequence[int], on_step: OnStep) -> _Source:
    """A latency model of this machine."""
    runs = replace(
        request.runs,
        rounds=min(request.runs.rounds, FIT_ROUNDS),
        pause_s=min(request.runs.pause_s, FIT_PAUSE_S),
    )
    configs = spread_subnets(Genomes(supernet.space, input_sizes), FITTED_SUBNETS, request.seed)
    times = _measured(supernet, configs, runs, request.seed, on_step, "measuring this machine")
    model = fit_model([supernet.plan(config) for config in configs], np.stack(times))
    note = _live_note(request) + FITTED.format(
        fitted=len(configs),
        median=np.median(model.errors),
        most=np.quantile(model.errors, 0.9),
    )
    return _Source(model.objective(supernet.space, input_sizes), input_sizes, note)


def _live_note(request: Request) -> str:
    runs, board = request.runs, request.board or HERE
    return live_note(runs, board)


def live_note(runs: Runs, board: str) -> str:
    """What a library says of latencies that were measured here."""
    pause = 1e3 * runs.pause_s
    return LIVE_LATENCY.format(
        board=board, engine=runs.engine, threads=runs.threads, rounds=runs.rounds, pause=pause
    )


def _given(request: Request, space: SearchSpace, accuracy: _Source, latency: _Source) -> list[Candidate]:
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
