"""Gemma 3n: nested sub-networks are equal to the public code in recorded answers, and greedy outputs are."""

from __future__ import annotations

import importlib.util
from typing import Any

import gemma3n_reference as reference
import numpy as np
import pytest

from dynofa_ros.supernet.decoding import Steps, generate
from dynofa_ros.supernet.families import gemma3n
from dynofa_ros.supernet.families.gemma3n import END, Dimensions, Gemma3nConfig, Writer
from dynofa_ros.supernet.registry import engine_names, load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights

BOUND = 2e-4  # of log-probabilities, that differ by some units
CONFIGS = reference.configurations()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(reference.SPACE, load_weights(reference.SPACE, reference.weights()))


@pytest.fixture(scope="module")
def recorded() -> Any:
    return np.load(reference.FILE)


def error(
    supernet: Supernet, config: Gemma3nConfig, expected: np.ndarray, engine: str = "onnxruntime"
) -> float:
    """Largest error of the log-probabilities of all words, token by token behind the prompt."""
    config = supernet.space.resized(config, beam=reference.WORDS // 2)
    steps = Steps(supernet.prepare(config, engine, threads=1, processor="cpu"), reference.PROMPT[:-1])
    errors = []
    for token, row in zip([reference.PROMPT[-1], *reference.TARGET], expected, strict=True):
        step = steps([token], [0])
        assert sorted(step["tokens"][0]) == list(range(reference.WORDS))
        errors += [
            np.abs(step["scores"][0] - row[step["tokens"][0]]).max(),
            abs(step["end"][0, 0] - row[END]),
        ]
    return float(max(errors))


def greedy(supernet: Supernet, config: Gemma3nConfig, engine: str) -> list[int]:
    run = supernet.prepare(config, engine, threads=1, processor="cpu")
    limits = {"end": END, "min_length": 1, "max_length": reference.GREEDY + 1}
    *_, found = generate(run, reference.PROMPT[:-1], reference.PROMPT[-1], **limits)
    return [*found.tokens, END][: reference.GREEDY]


def test_nested_sub_networks_answer_and_write_as_the_public_ones(supernet: Supernet, recorded: Any) -> None:
    """In torch, which has nothing to build."""
    errors, lengths = [], set()
    for config, forced, found in zip(CONFIGS, recorded["forced"], recorded["found"].tolist(), strict=True):
        errors.append(error(supernet, config, forced, "torch"))
        written = greedy(supernet, config, "torch")
        assert written == found[: len(written)], config
        lengths.add(len(written))
    nearest = min(np.abs(recorded["forced"][0] - other).max() for other in recorded["forced"][1:])
    print(
        f"worst error {max(errors):.1e}, another width differs by {nearest:.2g}; outputs of {sorted(lengths)}"
    )
    assert len(set(CONFIGS)) >= 20 and max(errors) <= BOUND < nearest / 100
    assert len(lengths) > 3 and max(lengths) == reference.GREEDY, "some end early"


@pytest.mark.parametrize("engine", engine_names())
def test_engines_answer_and_write_as_the_public_code(supernet: Supernet, recorded: Any, engine: str) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    assert error(supernet, CONFIGS[2], recorded["forced"][2], engine) <= BOUND
    written = greedy(supernet, CONFIGS[2], engine)
    assert written == recorded["found"][2, : len(written)].tolist()


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (gemma3n, "EPSILON", 1e-3),
        (gemma3n, "LOCAL", 1e3),
        (gemma3n, "SOFT_LIMIT", 20.0),
        (Dimensions, "windowed", lambda self, layer: False),
        (Dimensions, "keys_of", lambda self, layer: min(layer, self.own_layers - 1)),
        (Writer, "gelu", lambda self, x: self.node("Relu", x)),
    ],
)
def test_wrong_networks_are_caught(
    supernet: Supernet, recorded: Any, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrong: Any
) -> None:
    """The bound would be worth nothing if a wrong network stayed inside it."""
    monkeypatch.setattr(owner, name, wrong)
    assert error(supernet, CONFIGS[2], recorded["forced"][2]) > 10 * BOUND


def test_the_published_model_has_the_arrays_and_the_size_that_it_should() -> None:
    space = load_space("gemma3n_e4b")
    shapes = space.parameter_shapes(262_400)
    assert shapes["embed_tokens_per_layer.weight"] == (262_144, 35 * 256)
    assert "layers.19.self_attn.k_proj.weight" in shapes
    assert "layers.20.self_attn.k_proj.weight" not in shapes
    unused = 15 * (2 * 512 * 2048 + 256)  # keys and values of the last layers, which older files hold
    params = [space.plan(config, 262_400).params for config in (space.largest, space.smallest)]
    assert (params[0] + unused) / 1e9 == pytest.approx(6.87, abs=0.005)
    assert params[0] - params[1] == 35 * 3 * 8192 * 2048
    named = {space.label(space.config(ffn=8192)), space.describe(space.smallest)["ffn"][:9]}
    assert named == {"f8192", "8192,8192"}


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_names_may_have_the_prefix_of_the_whole_model(supernet: Supernet, prefix: str) -> None:
    named = {prefix + name: array for name, array in reference.weights().items()}
    assert load_weights(reference.SPACE, named).digest == supernet.weights.digest
