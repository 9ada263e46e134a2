"""HAT: equal to the official code in recorded answers, at once, token by token and with a beam."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import hat_reference as reference
import numpy as np
import pytest

from dynofa_ros.supernet import transformer_graphs
from dynofa_ros.supernet.decoding import Steps, generate
from dynofa_ros.supernet.families import hat
from dynofa_ros.supernet.families.hat import END, PAD, QKV, SPACES, HatConfig, HatSpace
from dynofa_ros.supernet.graphs import Arrays, Graph, GraphRunner, Runner
from dynofa_ros.supernet.registry import engine_names, load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import prepare_subnet
from dynofa_ros.supernet.transformer_graphs import hidden
from dynofa_ros.supernet.weights import WeightsError, load_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

from dynofa_ros.supernet.eager import EagerBuilder  # noqa: E402 - imports torch

BOUND = 1e-4  # of what another source changes
PER_ENGINE = 20  # every how manieth sub-network runs in every engine
WMT, IWSLT = SPACES


@pytest.fixture(scope="module", params=SPACES)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    return made(request.param)


def made(name: str) -> Supernet:
    space = reference.space(name)
    return Supernet(space, load_weights(space, reference.weights(space)))


def recorded(supernet: Supernet) -> list[dict[str, Any]]:
    """Configuration, parameters, what was found, and log-probabilities of every sub-network."""
    path = reference.FOLDER / supernet.space.name
    rows, arrays = json.loads(path.with_suffix(".json").read_text()), np.load(path.with_suffix(".npz"))
    for row, forced, incremental in zip(rows, arrays["forced"], arrays["incremental"], strict=True):
        row["config"] = supernet.space.from_mapping(row["config"])
        row |= {"forced": forced, "incremental": incremental}
    return rows


def share(error: float, row: dict[str, Any]) -> float:
    """An error of log-probabilities, as a share of what the other source changes in them."""
    return error / float(np.abs(row["forced"][0] - row["forced"][1]).max())


def forced(supernet: Supernet, config: HatConfig) -> np.ndarray:
    """Log-probabilities (2, T, words) by the masked forward on one batch, padded on the right."""
    weights = {name: torch.from_numpy(array) for name, array in supernet.weights.items()}
    plan, longest = supernet.plan(config), max(map(len, reference.SOURCES))
    source = torch.tensor([row + [PAD] * (longest - len(row)) for row in reference.SOURCES])
    target = torch.tensor([reference.TARGET] * 2)
    causal = torch.full((target.shape[1],) * 2, -1e9).triu(1)
    masks = torch.where(source == PAD, -1e9, 0.0)[:, None, None], causal
    with torch.inference_mode():
        cut = {n: torch.as_tensor(array) for n, array in plan.cut(weights).items()}
        states = hidden(EagerBuilder(), cut, plan.size, source, target, masks)
        return np.asarray((states @ cut["output"].T).log_softmax(-1))


def masked(supernet: Supernet, config: HatConfig) -> Runner:
    """Its graphs in torch, on slices of the shared weights: nothing is copied, nothing built."""
    weights = {name: torch.from_numpy(array) for name, array in supernet.weights.items()}
    plan = supernet.plan(config)
    found = transformer_graphs.graphs(plan.size, plan.cut(weights), config.beam)

    def runner(graph: Graph) -> GraphRunner:
        compute, names = graph.compute(torch.as_tensor), [value.name for value in graph.outputs]

        def run(inputs: Arrays) -> Arrays:
            with torch.inference_mode():
                outputs = compute([torch.from_numpy(inputs[value.name]) for value in graph.inputs])
            return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}

        return run

    runners = {name: runner(graph) for name, graph in found.items()}
    return Runner(runners, {name: graph.inputs for name, graph in found.items()})


def incremental_error(run: Runner, row: dict[str, Any]) -> float:
    """Largest error of the steps' likeliest continuations and of the end, as a share."""
    steps, errors = Steps(run, reference.SOURCES[0]), []
    for token, expected in zip(reference.TARGET, row["incremental"], strict=True):
        step = steps([token], [0])
        errors += [abs(step["end"][0, 0] - expected[END])]
        errors += np.abs(step["scores"][0] - expected[step["tokens"][0]]).tolist()
        likeliest = np.argsort(-np.where(np.arange(len(expected)) == PAD, -np.inf, expected))
        assert set(step["tokens"][0]) == set(likeliest[: 2 * row["config"].beam])
    return share(max(errors), row)


@pytest.mark.slow
def test_sub_networks_answer_as_the_official_ones_at_once(supernet: Supernet) -> None:
    rows = recorded(supernet)
    shares = [share(np.abs(forced(supernet, row["config"]) - row["forced"]).max(), row) for row in rows]
    print(f"{supernet.space.name}, at once: worst error {max(shares):.1e} of the difference of two sources")
    assert len({row["config"] for row in rows}) >= 40 and max(shares) <= BOUND


def beam_error(run: Runner, row: dict[str, Any], lengths: Counter[int]) -> float:
    """Largest error of a score; best outputs must be those of fairseq's generator."""
    errors = []
    limits = {"max_length": reference.MAX_LENGTH, "length_penalty": row["penalty"]}
    for source, expected in zip(reference.SOURCES, row["found"], strict=True):
        *_, found = generate(run, source, END, until_beam=True, **limits)
        assert [*found.tokens, END] == expected["tokens"], row["config"]
        errors.append(abs(found.score - expected["score"]))
        lengths[found.length] += 1
    return max(errors)


@pytest.mark.slow
def test_token_by_token_and_with_a_beam_as_the_official_ones(supernet: Supernet) -> None:
    """Beam, rules of the end, length penalty: outputs of all lengths."""
    rows, worst, scores, lengths = recorded(supernet), 0.0, 0.0, Counter[int]()
    for row in rows:
        run = masked(supernet, row["config"])
        worst = max(worst, incremental_error(run, row))
        scores = max(scores, beam_error(run, row, lengths))
    name, early = supernet.space.name, lengths.total() - lengths[reference.MAX_LENGTH]
    print(f"{name}, token by token: worst error {worst:.1e}, scores {scores:.1e}, {sorted(lengths.items())}")
    assert worst <= BOUND and scores <= 1e-4
    assert len(lengths) >= 6 and early >= 8
    assert {row["config"].beam for row in rows} == set(hat.BEAMS)


@pytest.mark.slow
@pytest.mark.parametrize("engine", engine_names())
def test_engines_answer_as_the_official_code(supernet: Supernet, engine: str) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    shares = []
    for row in recorded(supernet)[2::PER_ENGINE]:
        run = supernet.prepare(row["config"], engine, threads=1, processor="cpu")
        shares.append(incremental_error(run, row))
        assert beam_error(run, row, Counter()) <= 1e-4
    print(f"{supernet.space.name} {engine}: worst error {max(shares):.1e} of {len(shares)} sub-networks")
    assert max(shares) <= BOUND


def with_interleaved_bias(supernet: Supernet) -> Supernet:
    bias = {n: a.reshape(QKV, 3).T.reshape(-1) for n, a in supernet.weights.items() if "in_proj_bias" in n}
    return Supernet(supernet.space, load_weights(supernet.space, {**supernet.weights, **bias}))


def test_wrong_networks_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound would be worth nothing if a wrong network stayed inside it."""
    right = made(IWSLT)
    row = recorded(right)[2]
    assert row["config"] == right.space.config(**reference.PUBLISHED[IWSLT])

    def error(supernet: Supernet) -> float:
        return share(np.abs(forced(supernet, row["config"]) - row["forced"]).max(), row)

    shares = {"right": error(right), "interleaved bias": error(with_interleaved_bias(right))}
    for place, name, wrong in (
        (transformer_graphs, "LAYER_NORM_EPSILON", 1e-6),
        (hat, "STORED_EMBED", 512),  # sinusoids of the width of the embedding
        (hat, "PAD", -1),  # positions that begin at zero
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, wrong)
            shares[name] = error(right)
    print({name: f"{value:.1e}" for name, value in shares.items()})
    assert shares.pop("right") <= BOUND < min(shares.values())


def test_parameters_are_counted_as_the_official_code_does(supernet: Supernet) -> None:
    """It leaves embeddings out."""
    tied = supernet.space.trained.source_words is None
    for row in recorded(supernet):
        config = row["config"]
        widths = config.encoder_embed[0], config.decoder_embed[0]
        outside = reference.WORDS * max(widths)
        if not tied:
            outside = (reference.WORDS + 8) * widths[0] + 2 * reference.WORDS * widths[1]
        assert supernet.plan(config).params - outside == row["params"]
    published = {WMT: 44.13, IWSLT: 23.13}  # millions, README
    found = recorded(supernet)[2]["params"] / 1e6
    assert found == pytest.approx(published[supernet.space.name], abs=0.01)


@pytest.mark.parametrize(("name", "arrays"), [(WMT, 186), (IWSLT, 187)])
def test_an_official_file_loads_and_a_foreign_one_is_refused(
    name: str, arrays: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fairseq 0.8 writes it: with meters, in torch's old format, and memory that was never written to."""
    space = reference.space(name)
    state = {key: torch.tensor(array) for key, array in reference.weights(space).items()}
    state["encoder.embed_positions._float_tensor"] = torch.tensor([float("nan")])
    assert len(state) == arrays
    fairseq, meters = types.ModuleType("fairseq"), types.ModuleType("fairseq.meters")
    meter = type("AverageMeter", (), {"__module__": "fairseq.meters"})
    meters.AverageMeter = meter  # type: ignore[attr-defined]
    path, made_meter = tmp_path / "super.pt", meter()
    made_meter.sum = torch.tensor(3.0)
    extra = {"train_meters": {"train_loss": made_meter}, "val_loss": 4.0}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fairseq", fairseq)
        patch.setitem(sys.modules, "fairseq.meters", meters)
        file = {"args": Namespace(arch="transformersuper"), "model": state, "extra_state": extra}
        torch.save(file, path, _use_new_zipfile_serialization=False)
    weights = load_weights(space, path)
    assert weights.classes == reference.WORDS and len(weights) == arrays - 4
    assert weights.digest == load_weights(space, reference.weights(space)).digest
    del state["decoder.layers.5.encoder_attn.in_proj_bias"]
    with pytest.raises(WeightsError, match=r"5.encoder_attn.in_proj_bias is missing: .* shape \(1536,\)"):
        load_weights(space, state)


def test_official_shapes_and_what_is_kept_once() -> None:
    shapes = load_space(IWSLT).parameter_shapes(6632)
    assert shapes["encoder.embed_tokens.weight"] == (8848, 640) and shapes["decoder.embed_out"] == (6632, 640)
    largest = {name: load_space(name).plan(load_space(name).largest, 1) for name in SPACES}
    assert {name: round(plan.params / 1e6, 1) for name, plan in largest.items()} == {WMT: 70.9, IWSLT: 60.8}
    supernet = made(WMT)
    for config in (supernet.space.largest, supernet.space.config(encoder_embed=512)):
        subnet, plan = supernet.materialise(config), supernet.plan(config)
        widths = {config.encoder_embed[0], config.decoder_embed[0]}
        extra = sum(transformer_graphs.LONGEST * width for width in widths) + 2 * reference.WORDS
        separate = reference.WORDS * 512 if len(widths) > 1 else 0  # a part of the tied embedding, cut
        assert subnet.nbytes == 4 * (plan.params + extra + separate)


def test_the_space_counts_checks_and_warms_up() -> None:
    space: HatSpace = reference.space(IWSLT)
    config = space.config(**reference.PUBLISHED[IWSLT])
    other = space.config(**{**reference.PUBLISHED[IWSLT], "spans": [3, 1, 1, 2, 3, 2]})
    genes = space.encode([config, other])
    assert np.array_equal(*space.canonical(genes)), "entries of skipped layers"
    assert space.decode(genes[0], 5) == config == space.from_mapping(config.to_dict())
    assert space.label(config) == "d3e512b5" and space.describe(config)["spans"] == "3,1,1"
    assert space.plan(config).macs < space.plan(space.largest).macs
    with pytest.raises(ValueError, match=r"decoder_heads = 8 is not allowed: it must be one of 2, 4"):
        space.config(decoder_heads=8)
    from dynofa_ros.supernet.registry import load_engine

    engine = load_engine("onnxruntime")
    assert prepare_subnet("s", made(IWSLT), space.smallest, engine).run
