"""The translating family: every way to run it is the same network, and decoding finds what it should."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from dynofa_ros.demo.commands import commands, held_out
from dynofa_ros.supernet import Supernet, load_supernet
from dynofa_ros.supernet.decoding import Hypothesis, Steps, generate
from dynofa_ros.supernet.eager import EagerBuilder
from dynofa_ros.supernet.engines.onnx_graph import build_model
from dynofa_ros.supernet.families.seq2seq_demo import Seq2SeqConfig, Seq2SeqSpace
from dynofa_ros.supernet.graphs import Arrays, Runner, Value
from dynofa_ros.supernet.registry import EngineError, load_engine, load_space
from dynofa_ros.supernet.switching import prepare_subnet
from dynofa_ros.supernet.text import Tokenizer, load_tokenizer
from dynofa_ros.supernet.transformer_graphs import END, PAD, UNKNOWN, hidden, sinusoids
from dynofa_ros.supernet.weights import WeightsError, load_weights

WORDS, WIDTH, HEADS = 60, 192, 6
SPACE = load_space("seq2seq_demo")
SOURCE, TARGET, FIRST = [7, 12, 9, 30, 55, 21, END], [11, 8, 40, 41, 17, 5], 3
TOLERANCE = 2e-4  # of log-probabilities; those of the largest differ by some units
INTENTS = {  # of hri_actions_msgs/Intent
    "ENGAGE_WITH", "MOVE_TO", "GUIDE", "GRAB_OBJECT",
    "BRING_OBJECT", "PLACE_OBJECT", "GREET", "SAY",
    "PRESENT_CONTENT", "PERFORM_MOTION", "START_ACTIVITY", "STOP_ACTIVITY",
}  # fmt: skip
ROLES = ("object", "goal", "recipient")


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random biases and norms too: those of a fresh network are zero and one, which would hide errors."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in SPACE.parameter_shapes(WORDS).items():
        weights[name] = rng.normal(0, 0.1, shape).astype(np.float32) + name.endswith("norm.weight")
    return weights


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet("seq2seq_demo", random_weights())


def configs(number: int) -> list[Seq2SeqConfig]:
    rng = np.random.default_rng(1)
    return [SPACE.largest, SPACE.smallest, *(SPACE.random(rng) for _ in range(number - 2))]


def reference(weights: dict[str, np.ndarray], config: Seq2SeqConfig, mistake: str = "") -> np.ndarray:
    """Log-probabilities (T, words) of TARGET, written straight from the paper in float64, at once."""
    w = {name: array.astype(float) for name, array in weights.items()}

    def norm(x: np.ndarray, key: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[f"{key}.weight"] + w[f"{key}.bias"]

    def softmax(x: np.ndarray) -> np.ndarray:
        x = np.exp(x - x.max(-1, keepdims=True))
        return x / x.sum(-1, keepdims=True)

    def attention(x: np.ndarray, of: np.ndarray, key: str, mask: np.ndarray | float) -> np.ndarray:
        q, k, v = (y @ w[f"{key}.{p}.weight"].T for p, y in (("query", x), ("key", of), ("value", of)))
        e = WIDTH // HEADS
        scale = WIDTH**-0.5 if mistake == "scale" else e**-0.5
        parts = [slice(h * e, h * e + e) for h in range(HEADS)]
        found = [softmax(q[:, p] @ k[:, p].T * scale + mask) @ v[:, p] for p in parts]
        return np.concatenate(found, 1) @ w[f"{key}.out.weight"].T

    def feed_forward(x: np.ndarray, block: str, width: int) -> np.ndarray:
        part = slice(-width, None) if mistake == "suffix" else slice(width)
        y = np.maximum(x @ w[f"{block}.fc1.weight"][part].T + w[f"{block}.fc1.bias"][part], 0)
        return y @ w[f"{block}.fc2.weight"][:, part].T + w[f"{block}.fc2.bias"]

    def embedded(ids: Sequence[int]) -> np.ndarray:
        start = 1 if mistake == "position" else 0
        places = sinusoids(WIDTH)[start : start + len(ids)]
        return w["embedding.weight"][list(ids)] * WIDTH**0.5 + places

    x = embedded(SOURCE)
    for i in range(config.encoder_depth[0]):
        y = norm(x, f"encoder.{i}.self_norm")
        x = x + attention(y, y, f"encoder.{i}.self", 0.0)
        x = x + feed_forward(norm(x, f"encoder.{i}.ffn_norm"), f"encoder.{i}", config.encoder_ffn[0])
    memory = norm(x, "encoder.norm")
    x = embedded([FIRST, *TARGET])
    causal = np.triu(np.full((len(x),) * 2, -np.inf), 1)
    for i in range(config.decoder_depth[0]):
        y = norm(x, f"decoder.{i}.self_norm")
        x = x + attention(y, y, f"decoder.{i}.self", causal)
        x = x + attention(norm(x, f"decoder.{i}.cross_norm"), memory, f"decoder.{i}.cross", 0.0)
        x = x + feed_forward(norm(x, f"decoder.{i}.ffn_norm"), f"decoder.{i}", config.decoder_ffn[0])
    return log_probabilities(norm(x, "decoder.norm"), w["embedding.weight"])


def log_probabilities(states: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """Of what an output may hold: not padding, unknown or the first tokens."""
    logits = states @ embedding.T
    logits[:, [PAD, UNKNOWN, 3, 4]] = -1e9
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def incremental(network: Runner) -> list[Arrays]:
    """What every step says of TARGET."""
    steps = Steps(network, SOURCE)
    return [steps([token], [0]) for token in (FIRST, *TARGET)]


def worst(found: list[Arrays], expected: np.ndarray) -> float:
    """Largest error of the continuations' log-probabilities and of the end's."""
    steps = list(zip(found, expected, strict=True))
    errors = [np.abs(step["scores"][0] - row[step["tokens"][0]]).max() for step, row in steps]
    return float(max(*errors, *(abs(step["end"][0, 0] - row[END]) for step, row in steps)))


@pytest.mark.slow
def test_token_by_token_in_onnxruntime_is_the_network_of_the_paper(supernet: Supernet) -> None:
    weights = random_weights()
    for config in configs(40):
        expected = reference(weights, config)
        found = incremental(supernet.prepare(config, threads=1, processor="cpu"))
        assert worst(found, expected) < TOLERANCE, config
        for step, row in zip(found, expected, strict=True):
            assert sorted(step["tokens"][0]) == sorted(np.argsort(-row)[: 2 * config.beam])


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_every_engine_runs_the_same_network(supernet: Supernet, engine: str) -> None:
    pytest.importorskip(engine)
    for config in configs(4):
        network = supernet.prepare(config, engine, threads=1, processor="cpu")
        assert worst(incremental(network), reference(random_weights(), config)) < TOLERANCE


def test_the_masked_forward_is_the_materialised_network(supernet: Supernet) -> None:
    weights = {name: torch.tensor(array) for name, array in random_weights().items()}
    longer = [*SOURCE, 44, 45, 46]  # beside it the sentence has padding
    source = torch.tensor([SOURCE + [PAD] * 3, longer])
    target = torch.tensor([[FIRST, *TARGET]] * 2)
    masks = torch.where(source == PAD, -1e9, 0.0)[:, None, None], torch.full((7, 7), -1e9).triu(1)
    for config in configs(20):
        plan = supernet.plan(config)
        states = hidden(EagerBuilder(), plan.cut(weights), plan.size, source, target, masks)
        found = log_probabilities(states[0].numpy().astype(float), random_weights()["embedding.weight"])
        assert np.abs(np.exp(found) - np.exp(reference(random_weights(), config))).max() < 1e-5


def test_the_masked_forward_has_gradients_of_what_is_active(supernet: Supernet) -> None:
    weights = {n: torch.tensor(a).requires_grad_() for n, a in random_weights().items()}
    plan = supernet.plan(SPACE.smallest)
    source, target = torch.tensor([SOURCE]), torch.tensor([TARGET])
    states = hidden(EagerBuilder(), plan.cut(weights), plan.size, source, target, (None, None))
    states.square().sum().backward()
    stored = plan.stored()
    for name, weight in weights.items():
        if name not in stored:
            assert weight.grad is None, name
            continue
        active = torch.zeros(weight.shape, dtype=bool)
        active[tuple(map(slice, stored[name]))] = True
        assert not weight.grad[~active].any(), name
        assert weight.grad.any(), name


@pytest.mark.parametrize("mistake", ["scale", "position", "suffix"])
def test_a_network_with_a_usual_mistake_is_far_from_it(supernet: Supernet, mistake: str) -> None:
    config = SPACE.config(encoder_ffn=384, decoder_ffn=192, beam=1)
    found = incremental(supernet.prepare(config, threads=1, processor="cpu"))
    assert worst(found, reference(random_weights(), config, mistake)) > 100 * TOLERANCE


def test_params_and_bytes_are_those_of_the_cut(supernet: Supernet) -> None:
    for config in configs(6):
        subnet, plan = supernet.materialise(config), supernet.plan(config)
        extra = sinusoids(WIDTH).size + WORDS  # positions, and what an output never holds
        assert subnet.nbytes == 4 * (plan.params + extra)
        model = build_model(subnet.graphs["step"])
        assert onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert supernet.plan(SPACE.largest).macs > supernet.plan(SPACE.config(beam=1)).macs
    assert SPACE.plan(SPACE.largest, 4000).params == 4_912_896  # float16 with its tokenizer: below 10 MB


# --- decoding -----------------------------------------------------------------------------------------------


def table_network(seed: int, words: int, beam: int) -> tuple[Runner, Callable[[tuple[int, ...]], np.ndarray]]:
    """A network whose log-probabilities are drawn by all tokens so far: it keeps them as its past."""

    def probabilities(history: tuple[int, ...]) -> np.ndarray:
        drawn = np.exp(np.random.default_rng([seed, *history]).normal(0, 1.5, words))
        drawn[[PAD, UNKNOWN]] = 1e-12
        return np.log(drawn / drawn.sum())

    def encode(inputs: Arrays) -> Arrays:
        return {"cross_key.0": np.zeros((1, 1, 1, inputs["source"].shape[1]), np.float32)}

    def step(inputs: Arrays) -> Arrays:
        past = np.concatenate([inputs["past_key.0"], inputs["token"].reshape(-1, 1, 1, 1)], 3)
        assert inputs["position"] == past.shape[3] - 1
        rows = np.array([probabilities(tuple(map(int, row))) for row in past[:, 0, 0, 1:]])
        tokens = np.argsort(-rows, axis=1)[:, : 2 * beam]
        scores = np.take_along_axis(rows, tokens, 1)
        missing = ((0, 0), (0, 2 * beam - tokens.shape[1]))  # where the beam is wider than the vocabulary
        scores = np.pad(scores, missing, constant_values=-np.inf)
        tokens = np.pad(tokens, missing, constant_values=UNKNOWN)
        return {"scores": scores, "tokens": tokens, "end": rows[:, [END]], "own_key.0": past}

    past = Value("past_key.0", ("N", 1, 1, "T"))
    return Runner({"encode": encode, "step": step}, {"step": (past,)}), probabilities


def last(network: Runner, **limits: Any) -> Hypothesis:
    *unfinished, found = generate(network, SOURCE, FIRST, **limits)
    assert found.finished and not any(hypothesis.finished for hypothesis in unfinished)
    return found


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_the_best_of_all_outputs(seed: int, penalty: float) -> None:
    words, longest = 6, 4
    network, table = table_network(seed, words, beam=40)  # there are 3 + 9 + 27 outputs
    found = last(network, max_length=longest, length_penalty=penalty, early=False)

    def score(tokens: tuple[int, ...]) -> float:
        total = sum(table(tokens[:place])[token] for place, token in enumerate(tokens))
        return float(total) / len(tokens) ** penalty

    usable = [t for t in range(words) if t not in (PAD, UNKNOWN, END)]
    outputs = [(*o, END) for n in range(1, longest) for o in itertools.product(usable, repeat=n)]
    best = max(outputs, key=score)
    assert found.score == pytest.approx(score((*found.tokens, END)))
    assert (*found.tokens, END) == best


def test_unlikely_outputs_that_end_first_do_not_end_the_search() -> None:
    """One sentence is almost certain; beside it every step offers an end that is not."""
    sentence = (7, 8, 9, 10, 11, END)

    def step(inputs: Arrays) -> Arrays:
        past = np.concatenate([inputs["past_key.0"], inputs["token"].reshape(-1, 1, 1, 1)], 3)
        place = past.shape[3] - 1
        rows = np.full((len(past), 20), np.log(1e-4))
        rows[:, END] = np.log(0.04)
        on_way = (past[:, 0, 0, 1:] == sentence[:place]).all(1)
        rows[on_way, sentence[place]] = np.log(0.95)
        tokens = np.argsort(-rows, axis=1)[:, :4]
        scores = np.take_along_axis(rows, tokens, 1)
        return {"scores": scores, "tokens": tokens, "end": rows[:, [END]], "own_key.0": past}

    network, _ = table_network(0, 20, 2)
    assert last(replace(network, graphs={**network.graphs, "step": step})).tokens == sentence[:-1]


@pytest.mark.parametrize("seed", range(10))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    network, table = table_network(seed, 30, beam=1)
    found = last(network, max_length=12)
    tokens: tuple[int, ...] = ()
    while len(tokens) < 11:
        row = table(tokens)
        row[END] = -np.inf if not tokens else row[END]
        if (best := int(row.argmax())) == END:
            break
        tokens = (*tokens, best)
    assert found.tokens == tokens
    assert found.length == len(tokens) + 1


def test_limits_of_the_length_hold() -> None:
    for seed, beam in itertools.product(range(5), (1, 2, 4)):
        network, _ = table_network(seed, 12, beam)
        assert last(network, max_length=5).length <= 5
        assert last(network, max_length=7, min_length=7).length == 7
    steps = list(generate(network, SOURCE, FIRST, max_length=9, min_length=9))
    assert [hypothesis.length for hypothesis in steps] == list(range(1, 10))  # one after every step
    with pytest.raises(ValueError, match="no token"):
        next(generate(network, [], FIRST))


def test_keys_and_values_follow_their_hypotheses(supernet: Supernet) -> None:
    """The score that a beam gives its output is the score of that output alone: else caches were mixed up."""
    config = SPACE.config(beam=4, decoder_depth=2)
    found = last(supernet.prepare(config, threads=1, processor="cpu"), max_length=9, min_length=9)
    steps = Steps(supernet.prepare(SPACE.config(beam=4, decoder_depth=2), threads=1, processor="cpu"), SOURCE)
    plan = supernet.plan(config)
    weights = {name: torch.tensor(array) for name, array in random_weights().items()}
    target = torch.tensor([[FIRST, *found.tokens]])
    masks = None, torch.full((target.shape[1],) * 2, -1e9).triu(1)
    states = hidden(EagerBuilder(), plan.cut(weights), plan.size, torch.tensor([SOURCE]), target, masks)
    rows = log_probabilities(states[0].numpy().astype(float), random_weights()["embedding.weight"])
    total = sum(row[token] for row, token in zip(rows, (*found.tokens, END), strict=True))
    assert found.score == pytest.approx(total / 9, abs=1e-4)
    steps([FIRST], [0])
    straight = steps([5, 6], [0, 0])["scores"]
    assert not np.allclose(straight, steps([5, 6], [1, 0])["scores"])


def test_a_prepared_sub_network_is_warmed_up_without_an_image(supernet: Supernet) -> None:
    engine = load_engine("onnxruntime")
    prepared = prepare_subnet("s", supernet, SPACE.smallest, engine)
    assert last(prepared.run, max_length=6).length <= 6


# --- space, weights, text -----------------------------------------------------------------------------------


def test_the_space_counts_checks_and_describes() -> None:
    assert isinstance(SPACE, Seq2SeqSpace)
    config = SPACE.config(encoder_depth=3, decoder_depth=1, encoder_ffn=384, decoder_ffn=192, beam=2)
    assert SPACE.from_mapping(config.to_dict()) == config
    assert SPACE.decode(SPACE.encode([config])[0], 2) == config
    assert SPACE.describe(config) == {"encoder": "3 x 384", "decoder": "1 x 192", "beam": "2"}
    for entries, named in (({"beam": 3}, "one of 1, 2, 4"), ({"decoder_depth": 5}, "one of 1, 2, 3, 4")):
        with pytest.raises(ValueError, match=named):
            SPACE.config(**entries)


def tokenizer_json(words: int) -> str:
    vocabulary = {"<pad>": 0, "<end>": 1, "<unknown>": 2, "<de>": 3, "<intent>": 4, "▁": 5, "a": 6, "b": 7}
    vocabulary |= {f"w{i}": i for i in range(8, words)}
    special = [
        {"id": i, "content": c, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for c, i in list(vocabulary.items())[:5]
    ]  # fmt: skip
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "BPE", "unk_token": "<unknown>", "fuse_unk": True, "vocab": vocabulary, "merges": []}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": special,
            "pre_tokenizer": spaces,
            "decoder": spaces,
            "model": model,
        }
    )


@pytest.fixture(scope="module")
def tokenizer(supernet: Supernet) -> Tokenizer:
    return load_tokenizer(replace(supernet.weights, metadata={"tokenizer": tokenizer_json(WORDS)}))


def test_text_becomes_tokens_and_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.targets == {"de": 3, "intent": 4}
    assert tokenizer.encode("ab a") == [5, 6, 7, 5, 6, END]
    assert tokenizer.decode([5, 6, 7, 5, 6]) == "ab a"
    assert tokenizer.unknown("abя") == 1 and tokenizer.unknown("ab") == 0
    for text, named in (
        ("", "empty"),
        ("a" * 127, "128 tokens"),
        ("a" * 10_000, "10000 characters"),
    ):
        with pytest.raises(ValueError, match=named):
            tokenizer.encode(text)


def test_a_tokenizer_that_does_not_fit_is_named_in_one_line(supernet: Supernet) -> None:
    wrong = {
        "": "has no tokenizer",
        tokenizer_json(WORDS - 1): "59 words, the network 60",
        "{}": "cannot be read",
    }
    for text, named in wrong.items():
        weights = replace(supernet.weights, metadata={"tokenizer": text} if text else {})
        with pytest.raises(WeightsError, match=named) as error:
            load_tokenizer(weights)
        assert "\n" not in str(error.value)


def test_weights_of_another_shape_are_named() -> None:
    weights = random_weights()
    weights["decoder.3.fc1.weight"] = weights["decoder.3.fc1.weight"][:100]
    with pytest.raises(WeightsError, match=r"decoder.3.fc1.weight has shape \(100, 192\)"):
        load_weights(SPACE, weights)


def test_an_image_network_has_no_sentence_graphs(supernet: Supernet) -> None:
    with pytest.raises(KeyError):
        supernet.prepare(SPACE.smallest, threads=1)(np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(EngineError, match="unknown"):
        supernet.prepare(SPACE.smallest, "nothing")


def test_held_out_commands_are_never_drawn_for_training() -> None:
    train, test = (list(itertools.islice(commands(0, part), 3000)) for part in (False, True))
    assert not {held_out(sentence) for sentence, _ in train} - {False}
    assert all(held_out(sentence) for sentence, _ in test)
    words = {sentence.lower().strip(".?! ") for sentence, _ in train}
    assert not any(sentence.lower().strip(".?! ") in words for sentence, _ in test)
    assert train == list(itertools.islice(commands(0), 3000)) != list(itertools.islice(commands(1), 3000))
    for _, meaning in train:
        for intent in meaning.split("; "):
            name, *roles = intent.split(" ", 1)
            assert name in INTENTS
            assert not roles or roles[0].split("=")[0] in ROLES
    assert {meaning.split(" ")[0].rstrip(";") for _, meaning in train} == INTENTS
